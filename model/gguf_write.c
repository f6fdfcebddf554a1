/* Writer of GGUF v3 files that other engines open: header, metadata in the order put, tensor table,
 * then the tensors' data in the same order, each at a multiple of the alignment and padded to one.
 *
 * Metadata is encoded as it is put, the tensor data is only borrowed and goes out piece by piece,
 * or is asked for piece by piece from a source while the file is written, so a file of any size
 * takes little memory. The first failure is remembered and everything after it is ignored; finish
 * reports it and writes nothing. What the reader refuses the writer refuses as well: bad names and
 * shapes, and a key or a name put twice.
 *
 * A writer without a source whose tensors all came without data writes a file that ends after the
 * tensor table, for readers of metadata. Left out: v2, big-endian, arrays other than those with a put function. */
#include "model/gguf.h"
#include "model/index.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

struct out_tensor {
    char name[GGUF_NAME_MAX + 1];
    uint32_t ggml_type, n_dims;
    uint64_t dims[GGUF_DIMS_MAX];
    uint64_t offset, bytes; /* in the data section */
    const void *data;       /* borrowed; NULL: from the source, or header only */
};

struct out_key {
    size_t at, len; /* in the metadata's bytes */
};

struct gguf_writer {
    struct err failure; /* code 0: none so far */
    uint64_t alignment; /* bytes */
    struct base_buf kv; /* encoded metadata */
    struct out_key *keys;
    size_t n_keys, cap_keys;
    struct out_tensor *tensors;
    size_t n_tensors, cap_tensors;
    model_gguf_source *source; /* NULL: none */
    void *source_arg;
};

static const uint8_t zeros[4096];

struct gguf_writer *model_gguf_writer_new(void)
{
    struct gguf_writer *w = base_zalloc(1, sizeof *w);
    if (w != NULL)
        w->alignment = GGUF_ALIGNMENT_DEFAULT;
    return w;
}

void model_gguf_writer_free(struct gguf_writer *w)
{
    if (w == NULL)
        return;
    base_buf_deinit(&w->kv);
    base_free(w->keys);
    base_free(w->tensors);
    base_free(w);
}

/* A writer that could not be made takes puts as well; its finish says why nothing came of them. */
static bool usable(const struct gguf_writer *w)
{
    return w != NULL && w->failure.code == 0;
}

/* Room for one more element of an array; NULL (and the failure set) where there is no memory. */
static void *grown(struct gguf_writer *w, void *array, size_t n, size_t *cap, size_t elem_bytes)
{
    if (n < *cap)
        return array;
    const size_t wanted = *cap == 0 ? 16 : 2 * *cap;
    size_t bytes = 0;
    void *p = base_mul(wanted, elem_bytes, &bytes) ? base_realloc(array, bytes) : NULL;
    if (p == NULL)
        err_set(&w->failure, ERR_NOMEM, "no memory for a GGUF file's table");
    else
        *cap = wanted;
    return p;
}

/* ---- metadata -------------------------------------------------------------------------------- */

static void add_le(struct base_buf *b, uint64_t v, size_t n_bytes)
{
    uint8_t raw[8];
    for (size_t i = 0; i < n_bytes; i++)
        raw[i] = (uint8_t)(v >> (8 * i));
    base_buf_add(b, raw, n_bytes);
}

static void add_string(struct base_buf *b, struct span s)
{
    add_le(b, s.len, 8);
    if (s.len > 0)
        base_buf_add(b, s.ptr, s.len);
}

static uint64_t f32_bits(float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits;
}

/* Begin an entry: key and type. False where the writer has failed. */
static bool begin_kv(struct gguf_writer *w, struct span key, enum model_gguf_type type)
{
    if (!usable(w))
        return false;
    if (key.len == 0 || key.len > GGUF_KEY_MAX || w->n_keys == GGUF_KV_MAX) {
        err_set(&w->failure, ERR_RANGE,
                "metadata entry %zu: a key has 1 to %d bytes, a file %d of them", w->n_keys,
                GGUF_KEY_MAX, GGUF_KV_MAX);
        return false;
    }
    struct out_key *keys = grown(w, w->keys, w->n_keys, &w->cap_keys, sizeof *keys);
    if (keys == NULL)
        return false;
    w->keys = keys;
    w->keys[w->n_keys++] = (struct out_key){.at = w->kv.len + 8, .len = key.len};
    add_string(&w->kv, key);
    add_le(&w->kv, (uint64_t)type, 4);
    return true;
}

static bool begin_array(struct gguf_writer *w, const char *key, enum model_gguf_type elem_type,
                        size_t n)
{
    if (!begin_kv(w, base_span_str(key), GGUF_ARRAY))
        return false;
    add_le(&w->kv, (uint64_t)elem_type, 4);
    add_le(&w->kv, n, 8);
    return true;
}

/* The tensors are laid out by the alignment that the file itself names. */
static void note_alignment(struct gguf_writer *w, struct span key, uint64_t v)
{
    if (!usable(w) || !base_span_is(key, "general.alignment"))
        return;
    if (w->n_tensors > 0 || !model_gguf_alignment_ok(v))
        err_set(&w->failure, ERR_RANGE,
                "general.alignment %" PRIu64 " is not possible, or comes after a tensor", v);
    else
        w->alignment = v;
}

void model_gguf_put_u32(struct gguf_writer *w, const char *key, uint32_t v)
{
    if (begin_kv(w, base_span_str(key), GGUF_U32))
        add_le(&w->kv, v, 4);
    note_alignment(w, base_span_str(key), v);
}

void model_gguf_put_f32(struct gguf_writer *w, const char *key, float v)
{
    if (begin_kv(w, base_span_str(key), GGUF_F32))
        add_le(&w->kv, f32_bits(v), 4);
}

void model_gguf_put_bool(struct gguf_writer *w, const char *key, bool v)
{
    if (begin_kv(w, base_span_str(key), GGUF_BOOL))
        add_le(&w->kv, v ? 1 : 0, 1);
}

void model_gguf_put_string(struct gguf_writer *w, const char *key, struct span v)
{
    if (begin_kv(w, base_span_str(key), GGUF_STRING))
        add_string(&w->kv, v);
}

void model_gguf_put_kv(struct gguf_writer *w, const struct gguf_kv *kv)
{
    if (!begin_kv(w, kv->key, kv->type))
        return;
    if (kv->type == GGUF_STRING)
        add_le(&w->kv, kv->bytes.len, 8);
    if (kv->type == GGUF_ARRAY) {
        add_le(&w->kv, (uint64_t)kv->elem_type, 4);
        add_le(&w->kv, kv->n, 8);
    }
    if (kv->bytes.len > 0)
        base_buf_add(&w->kv, kv->bytes.ptr, kv->bytes.len);
    note_alignment(w, kv->key, kv->u);
}

void model_gguf_put_strings(struct gguf_writer *w, const char *key, const struct span *v, size_t n)
{
    if (!begin_array(w, key, GGUF_STRING, n))
        return;
    for (size_t i = 0; i < n; i++)
        add_string(&w->kv, v[i]);
}

void model_gguf_put_f32s(struct gguf_writer *w, const char *key, const float *v, size_t n)
{
    if (!begin_array(w, key, GGUF_F32, n))
        return;
    for (size_t i = 0; i < n; i++)
        add_le(&w->kv, f32_bits(v[i]), 4);
}

void model_gguf_put_i32s(struct gguf_writer *w, const char *key, const int32_t *v, size_t n)
{
    if (!begin_array(w, key, GGUF_I32, n))
        return;
    for (size_t i = 0; i < n; i++)
        add_le(&w->kv, (uint32_t)v[i], 4);
}

/* ---- tensors --------------------------------------------------------------------------------- */

/* Bytes from `n` to the next multiple of the alignment. */
static uint64_t padding(const struct gguf_writer *w, uint64_t n)
{
    return (w->alignment - n % w->alignment) % w->alignment;
}

void model_gguf_writer_source(struct gguf_writer *w, model_gguf_source *source, void *arg)
{
    if (!usable(w))
        return;
    w->source = source;
    w->source_arg = arg;
}

/* Whether a data section follows the tensor table. */
static bool has_data(const struct gguf_writer *w)
{
    return w->n_tensors > 0 && (w->source != NULL || w->tensors[0].data != NULL);
}

static int check_tensor(const struct gguf_writer *w, size_t name_len, const struct out_tensor *t,
                        struct err *e)
{
    if (name_len == 0 || name_len > GGUF_NAME_MAX)
        return err_set(e, ERR_RANGE, "a name has 1 to %d bytes", GGUF_NAME_MAX);
    if (w->n_tensors == GGUF_TENSORS_MAX)
        return err_set(e, ERR_RANGE, "a file has at most %d tensors", GGUF_TENSORS_MAX);
    if (model_gguf_type_name(t->ggml_type) == NULL)
        return err_set(e, ERR_UNSUPPORTED, "ggml type number %" PRIu32 " is unknown", t->ggml_type);
    if (w->n_tensors > 0 && (w->tensors[0].data == NULL) != (t->data == NULL))
        return err_set(e, ERR_USAGE, "either all tensors of a file have data or none");
    return 0;
}

void model_gguf_put_tensor(struct gguf_writer *w, const char *name, uint32_t ggml_type,
                           uint32_t n_dims, const uint64_t *dims, const void *data)
{
    if (!usable(w))
        return;
    struct out_tensor t = {.ggml_type = ggml_type, .n_dims = n_dims, .data = data};
    const size_t name_len = strlen(name);
    int rc = check_tensor(w, name_len, &t, &w->failure);
    if (rc == 0)
        rc = model_gguf_shape_bytes(ggml_type, n_dims, dims, &t.bytes, &w->failure);
    if (rc == 0 && w->n_tensors > 0) {
        const struct out_tensor *last = &w->tensors[w->n_tensors - 1];
        const uint64_t end = last->offset + last->bytes; /* below 2^63, kept so by this check */
        t.offset = end + padding(w, end);
        if (t.offset > INT64_MAX - t.bytes)
            rc = err_set(&w->failure, ERR_RANGE, "the data would pass 2^63 bytes");
    }
    if (rc != 0) {
        err_wrap(&w->failure, rc, "tensor '%s'", name);
        return;
    }
    struct out_tensor *tensors =
        grown(w, w->tensors, w->n_tensors, &w->cap_tensors, sizeof *tensors);
    if (tensors == NULL)
        return;
    w->tensors = tensors;
    memcpy(t.name, name, name_len);
    memcpy(t.dims, dims, n_dims * sizeof *dims);
    w->tensors[w->n_tensors++] = t;
}

/* ---- finish ---------------------------------------------------------------------------------- */

static int check_unique(const struct gguf_writer *w, bool tensors, struct err *e)
{
    const size_t n = tensors ? w->n_tensors : w->n_keys;
    struct model_index index;
    int rc = model_index_init(&index, n, e);
    if (rc != 0)
        return rc;
    for (size_t i = 0; i < n; i++)
        model_index_add(&index,
                        tensors ? base_span_str(w->tensors[i].name)
                                : (struct span){w->kv.ptr + w->keys[i].at, w->keys[i].len},
                        (uint32_t)i);
    rc = model_index_seal(&index, e);
    const struct model_index_entry *twice = rc == 0 ? model_index_duplicate(&index) : NULL;
    if (twice != NULL) {
        char name[GGUF_PRINTABLE_MAX];
        rc = err_set(e, ERR_REFUSED, "%s '%s' was put twice", tensors ? "tensor" : "metadata",
                     model_gguf_printable(twice->key, name));
    }
    model_index_deinit(&index);
    return rc;
}

/* Everything before the data: header, metadata, tensor table, and padding where data follows. */
static int write_head(const struct gguf_writer *w, struct base_buf *out, struct err *e)
{
    const size_t start = out->len;
    base_buf_add(out, "GGUF", 4);
    add_le(out, GGUF_VERSION_WRITTEN, 4);
    add_le(out, w->n_tensors, 8);
    add_le(out, w->n_keys, 8);
    if (w->kv.len > 0)
        base_buf_add(out, w->kv.ptr, w->kv.len);
    for (size_t i = 0; i < w->n_tensors; i++) {
        const struct out_tensor *t = &w->tensors[i];
        add_string(out, base_span_str(t->name));
        add_le(out, t->n_dims, 4);
        for (uint32_t d = 0; d < t->n_dims; d++)
            add_le(out, t->dims[d], 8);
        add_le(out, t->ggml_type, 4);
        add_le(out, t->offset, 8);
    }
    if (has_data(w))
        for (uint64_t n = padding(w, out->len - start); n > 0; n--)
            add_le(out, 0, 1);
    return out->failed ? err_set(e, ERR_NOMEM, "no memory for a GGUF file's header") : 0;
}

/* Where a file's bytes go: a file or memory. `why` is errno of the first failure. */
struct sink {
    FILE *file;
    struct base_buf *buf;
    bool failed;
    int why;
};

static void put(struct sink *s, const void *bytes, size_t n)
{
    if (s->failed || n == 0)
        return;
    if (s->file == NULL)
        base_buf_add(s->buf, bytes, n);
    s->failed = s->file != NULL ? fwrite(bytes, 1, n, s->file) != n : s->buf->failed;
    s->why = errno;
}

static void put_zeros(struct sink *s, uint64_t n)
{
    while (n > 0 && !s->failed) {
        const size_t step = n < sizeof zeros ? (size_t)n : sizeof zeros;
        put(s, zeros, step);
        n -= step;
    }
}

/* One tensor's bytes as its source gives them. */
static int put_from_source(const struct gguf_writer *w, size_t i, struct sink *s, struct err *e)
{
    for (uint64_t at = 0; at < w->tensors[i].bytes && !s->failed;) {
        struct span piece = {NULL, 0};
        const int rc = w->source(w->source_arg, i, at, &piece, e);
        if (rc != 0)
            return rc;
        assert(piece.len > 0 && piece.len <= w->tensors[i].bytes - at);
        put(s, piece.ptr, piece.len);
        at += piece.len;
    }
    return 0;
}

/* Only a source's failure is returned; the sink remembers its own. */
static int put_data(const struct gguf_writer *w, struct sink *s, struct err *e)
{
    int rc = 0;
    for (size_t i = 0; has_data(w) && i < w->n_tensors && rc == 0 && !s->failed; i++) {
        const struct out_tensor *t = &w->tensors[i];
        if (t->data != NULL)
            put(s, t->data, (size_t)t->bytes);
        else
            rc = put_from_source(w, i, s, e);
        put_zeros(s, padding(w, t->bytes));
    }
    return rc;
}

/* The checks that need everything put, then the head. */
static int prepare(const struct gguf_writer *w, struct base_buf *head, struct err *e)
{
    if (w == NULL || w->kv.failed)
        return err_set(e, ERR_NOMEM, "no memory for a GGUF file's metadata");
    if (w->failure.code != 0)
        return err_set(e, w->failure.code, "%s", w->failure.text);
    int rc = check_unique(w, false, e);
    if (rc == 0)
        rc = check_unique(w, true, e);
    return rc != 0 ? rc : write_head(w, head, e);
}

int model_gguf_writer_bytes(struct gguf_writer *w, struct base_buf *out, struct err *e)
{
    struct sink s = {.buf = out};
    int rc = prepare(w, out, e);
    if (rc == 0)
        rc = put_data(w, &s, e);
    return rc == 0 && s.failed ? err_set(e, ERR_NOMEM, "no memory for a GGUF file's data") : rc;
}

/* Write to `path` itself; the caller renames it. */
static int write_file(const struct gguf_writer *w, const struct base_buf *head, const char *path,
                      struct err *e)
{
    FILE *f = fopen(path, "wb");
    if (f == NULL)
        return err_set(e, ERR_IO, "%s: cannot be written: %s", path, strerror(errno));
    struct sink s = {.file = f};
    put(&s, head->ptr, head->len);
    const int rc = put_data(w, &s, e);
    if (rc == 0 && !s.failed && (fflush(f) != 0 || fsync(fileno(f)) != 0)) {
        s.failed = true;
        s.why = errno;
    }
    if (fclose(f) != 0 && !s.failed) {
        s.failed = true;
        s.why = errno;
    }
    if (rc != 0)
        return rc;
    return s.failed ? err_set(e, ERR_IO, "%s: writing failed: %s", path, strerror(s.why)) : 0;
}

int model_gguf_writer_finish(struct gguf_writer *w, const char *path, struct err *e)
{
    struct base_buf head = {0}, neighbour = {0};
    int rc = prepare(w, &head, e);
    if (rc != 0)
        goto out;
    base_buf_printf(&neighbour, "%s.tmp", path);
    base_buf_add(&neighbour, "", 1);
    if (neighbour.failed) {
        rc = err_set(e, ERR_NOMEM, "%s: no memory for its name", path);
        goto out;
    }
    const char *tmp = (const char *)neighbour.ptr;
    rc = write_file(w, &head, tmp, e);
    if (rc == 0 && rename(tmp, path) != 0)
        rc = err_set(e, ERR_IO, "%s: cannot be put into place: %s", path, strerror(errno));
    if (rc != 0)
        unlink(tmp);
out:
    base_buf_deinit(&neighbour);
    base_buf_deinit(&head);
    return rc;
}
