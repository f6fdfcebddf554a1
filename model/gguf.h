/* Private to model/: what the GGUF reader and writer both know about the format. */
#ifndef MODEL_GGUF_H
#define MODEL_GGUF_H

#include "model/index.h"
#include "model/model.h"

enum {
    GGUF_HEADER_BYTES = 24, /* magic, version, tensor count, metadata count */
    GGUF_VERSION_WRITTEN = 3,
    GGUF_DIMS_MAX = 4,
    GGUF_NAME_MAX = 64,         /* bytes of a tensor's name */
    GGUF_KEY_MAX = 65535,       /* bytes of a metadata key */
    GGUF_KV_MAX = 1 << 16,      /* metadata entries */
    GGUF_TENSORS_MAX = 1 << 18, /* of all parts */
    GGUF_PARTS_MAX = 1024,
    GGUF_ALIGNMENT_DEFAULT = 32, /* bytes, where general.alignment is absent */
    GGUF_ALIGNMENT_MIN = 8,
    GGUF_ALIGNMENT_MAX = 1 << 20,
    GGUF_PRINTABLE_MAX = 72 /* bytes of a name as it goes into an error, NUL included */
};

/* An open file; of a model in several, the first part. Its tensors are then those of all parts, and
 * `others` keeps the rest open for what the table borrows. */
struct gguf {
    struct base_map map;
    bool mapped;
    uint32_t version;
    uint64_t alignment; /* bytes */
    struct gguf_kv *kv; /* [n_kv] */
    size_t n_kv;
    struct gguf_tensor *tensors; /* [n_tensors] */
    size_t n_tensors;
    struct model_index kv_index, tensor_index;
    struct gguf **others; /* [n_others] parts 2, 3, ... */
    size_t n_others;
};

/* One file by itself, whatever it says of other parts. Codes of model_gguf_open. */
int model_gguf_open_file(const char *path, int mode, struct gguf **out, struct err *e);
/* Open the other parts of a model whose first part `g` is, found beside `path`, and take their
 * tensors. Nothing to do for a file that is all of its model. (model/gguf_parts.c) */
int model_gguf_join(struct gguf *g, const char *path, int mode, struct err *e);
/* Make the index of g's tensors. ERR_FORMAT where two have one name, ERR_NOMEM. */
int model_gguf_index_tensors(struct gguf *g, struct err *e);

/* How a ggml type lies in a file: rows are whole blocks of block_cols values in block_bytes bytes.
 */
struct gguf_type_info {
    const char *name;
    uint32_t block_cols, block_bytes;
};
bool model_gguf_type_info(uint32_t ggml_type, struct gguf_type_info *out); /* false: not known */

/* Bytes of a tensor of a known type. ERR_FORMAT with the reason where the shape cannot be: no
 * dimension or more than GGUF_DIMS_MAX, one that is 0, rows that are not whole blocks, a size past
 * 2^63. Of an unknown type *bytes is 0 and only the shape is checked. */
int model_gguf_shape_bytes(uint32_t ggml_type, uint32_t n_dims, const uint64_t *dims,
                           uint64_t *bytes, struct err *e);
/* Whether `alignment` is one that a file may ask for. */
bool model_gguf_alignment_ok(uint64_t alignment);
/* A name from a file as text that is safe on a terminal, cut where it is long. */
const char *model_gguf_printable(struct span s, char out[static GGUF_PRINTABLE_MAX]);
/* Bytes of one value of a scalar type; 0 for strings and arrays. */
size_t model_gguf_value_bytes(enum model_gguf_type type);

static inline uint64_t gguf_le(const uint8_t *p, size_t n_bytes)
{
    uint64_t v = 0;
    for (size_t i = 0; i < n_bytes; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

static inline float gguf_le_f32(const uint8_t *p)
{
    const uint32_t bits = (uint32_t)gguf_le(p, 4);
    float f;
    __builtin_memcpy(&f, &bits, sizeof f);
    return f;
}

#endif
