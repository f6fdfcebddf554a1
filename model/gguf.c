/* Reader of GGUF v2 and v3, the format of llama.cpp's models: magic, version, two counts, metadata
 * entries, tensor table, padding, tensor data; all little-endian.
 *
 * The file is mapped read-only and everything is checked here, once: after model_gguf_open every
 * span and data pointer lies inside the file, keys and tensor names are unique, shapes fit their
 * types and no two tensors share a byte. The cursor compares a length with what is left before it
 * moves, counts are compared with what the file could hold before anything is allocated, so memory
 * stays within a small multiple of the file's size. Names are found through sorted indices, never
 * by a scan.
 *
 * Left out: big-endian files and version 1 (refused by name), arrays of arrays (nobody writes
 * them), and any opinion on what the metadata means. */
#include "model/gguf.h"

#include <inttypes.h>
#include <string.h>

/* ---- cursor ---------------------------------------------------------------------------------- */

struct cursor {
    struct span all;
    size_t pos;
};

static size_t left(const struct cursor *c)
{
    return c->all.len - c->pos;
}

static bool take(struct cursor *c, uint64_t n_bytes, struct span *out)
{
    if (n_bytes > left(c))
        return false;
    *out = (struct span){c->all.ptr + c->pos, (size_t)n_bytes};
    c->pos += (size_t)n_bytes;
    return true;
}

static bool take_u32(struct cursor *c, uint32_t *out)
{
    struct span s;
    if (!take(c, 4, &s))
        return false;
    *out = (uint32_t)gguf_le(s.ptr, 4);
    return true;
}

static bool take_u64(struct cursor *c, uint64_t *out)
{
    struct span s;
    if (!take(c, 8, &s))
        return false;
    *out = gguf_le(s.ptr, 8);
    return true;
}

static bool take_string(struct cursor *c, struct span *out)
{
    uint64_t n_bytes;
    return take_u64(c, &n_bytes) && take(c, n_bytes, out);
}

static int too_short(const struct cursor *c, const char *what, struct err *e)
{
    return err_set(
        e, ERR_FORMAT,
        "%s at byte %zu does not fit into the file's %zu bytes: the file is truncated or "
        "damaged; download it again",
        what, c->pos, c->all.len);
}

/* ---- metadata -------------------------------------------------------------------------------- */

static const char *const value_names[GGUF_N_TYPES] = {
    "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64",
};

static void set_unsigned(struct gguf_kv *kv, uint64_t v)
{
    kv->u = v;
    kv->i = v <= INT64_MAX ? (int64_t)v : 0;
    kv->f = (double)v;
}

/* `raw`: the value's bits, already sign-extended. */
static void set_signed(struct gguf_kv *kv, uint64_t raw)
{
    memcpy(&kv->i, &raw, sizeof kv->i);
    kv->u = kv->i >= 0 ? raw : 0;
    kv->f = (double)kv->i;
}

static uint64_t sign_extend(uint64_t v, size_t n_bytes)
{
    const uint64_t sign = (uint64_t)1 << (8 * n_bytes - 1);
    return n_bytes == 8 ? v : ((v & (2 * sign - 1)) ^ sign) - sign;
}

static int read_scalar(struct cursor *c, struct gguf_kv *kv, struct err *e)
{
    const size_t n_bytes = model_gguf_value_bytes(kv->type);
    if (!take(c, n_bytes, &kv->bytes))
        return too_short(c, value_names[kv->type], e);
    const uint64_t v = gguf_le(kv->bytes.ptr, n_bytes);
    switch (kv->type) {
    case GGUF_I8:
    case GGUF_I16:
    case GGUF_I32:
    case GGUF_I64:
        set_signed(kv, sign_extend(v, n_bytes));
        return 0;
    case GGUF_F32:
        kv->f = (double)gguf_le_f32(kv->bytes.ptr);
        return 0;
    case GGUF_F64:
        memcpy(&kv->f, &v, sizeof kv->f);
        return 0;
    case GGUF_BOOL:
        if (v > 1)
            return err_set(e, ERR_FORMAT, "a bool at byte %zu is %u, neither 0 nor 1", c->pos - 1,
                           (unsigned)v);
        set_unsigned(kv, v);
        return 0;
    default:
        set_unsigned(kv, v);
        return 0;
    }
}

static int read_array(struct cursor *c, struct gguf_kv *kv, struct err *e)
{
    uint32_t elem = 0;
    if (!take_u32(c, &elem) || !take_u64(c, &kv->n))
        return too_short(c, "an array's header", e);
    if (elem == GGUF_ARRAY)
        return err_set(e, ERR_UNSUPPORTED, "an array of arrays at byte %zu is not supported",
                       c->pos);
    if (elem >= GGUF_N_TYPES)
        return err_set(e, ERR_FORMAT,
                       "array element type %" PRIu32 " before byte %zu does not exist", elem,
                       c->pos);
    kv->elem_type = (enum model_gguf_type)elem;
    const size_t start = c->pos;
    if (elem == GGUF_STRING) {
        struct span s;
        for (uint64_t i = 0; i < kv->n; i++)
            if (!take_string(c, &s))
                return too_short(c, "an array's string", e);
        kv->bytes = (struct span){c->all.ptr + start, c->pos - start};
        return 0;
    }
    uint64_t n_bytes = 0;
    if (__builtin_mul_overflow(kv->n, (uint64_t)model_gguf_value_bytes(kv->elem_type), &n_bytes) ||
        !take(c, n_bytes, &kv->bytes))
        return err_set(e, ERR_FORMAT,
                       "an array of %" PRIu64
                       " %s at byte %zu does not fit into the file's %zu bytes: the "
                       "file is truncated or damaged; download it again",
                       kv->n, value_names[elem], start, c->all.len);
    return 0;
}

static int read_kv(struct cursor *c, struct gguf_kv *kv, struct err *e)
{
    const size_t start = c->pos;
    uint32_t type = 0;
    if (!take_string(c, &kv->key))
        return too_short(c, "a metadata key", e);
    if (kv->key.len == 0 || kv->key.len > GGUF_KEY_MAX)
        return err_set(e, ERR_FORMAT,
                       "the metadata key at byte %zu has %zu bytes, 1 to %d are possible", start,
                       kv->key.len, GGUF_KEY_MAX);
    char name[GGUF_PRINTABLE_MAX];
    model_gguf_printable(kv->key, name);
    int rc = 0;
    if (!take_u32(c, &type))
        rc = too_short(c, "its type", e);
    else if (type >= GGUF_N_TYPES)
        rc = err_set(e, ERR_FORMAT, "value type %" PRIu32 " before byte %zu does not exist", type,
                     c->pos);
    else {
        kv->type = (enum model_gguf_type)type;
        if (kv->type == GGUF_ARRAY)
            rc = read_array(c, kv, e);
        else if (kv->type != GGUF_STRING)
            rc = read_scalar(c, kv, e);
        else if (!take_string(c, &kv->bytes))
            rc = too_short(c, "its string", e);
    }
    return rc == 0 ? 0 : err_wrap(e, rc, "metadata '%s'", name);
}

static int read_metadata(struct cursor *c, struct gguf *g, struct err *e)
{
    g->kv = base_zalloc(g->n_kv > 0 ? g->n_kv : 1, sizeof *g->kv);
    if (g->kv == NULL)
        return err_set(e, ERR_NOMEM, "no memory for %zu metadata entries", g->n_kv);
    int rc = model_index_init(&g->kv_index, g->n_kv, e);
    for (size_t i = 0; rc == 0 && i < g->n_kv; i++) {
        rc = read_kv(c, &g->kv[i], e);
        if (rc == 0)
            model_index_add(&g->kv_index, g->kv[i].key, (uint32_t)i);
    }
    if (rc == 0)
        rc = model_index_seal(&g->kv_index, e);
    if (rc != 0)
        return rc;
    const struct model_index_entry *twice = model_index_duplicate(&g->kv_index);
    if (twice != NULL) {
        char name[GGUF_PRINTABLE_MAX];
        return err_set(e, ERR_FORMAT, "metadata '%s' is there twice",
                       model_gguf_printable(twice->key, name));
    }
    g->alignment = GGUF_ALIGNMENT_DEFAULT;
    const struct gguf_kv *kv = model_gguf_kv(g, "general.alignment");
    if (kv == NULL)
        return 0;
    if (kv->type != GGUF_U32 || !model_gguf_alignment_ok(kv->u))
        return err_set(e, ERR_FORMAT,
                       "metadata 'general.alignment' is %s %" PRIu64
                       "; it must be u32, a power of two, %d to %d",
                       value_names[kv->type], kv->u, GGUF_ALIGNMENT_MIN, GGUF_ALIGNMENT_MAX);
    g->alignment = kv->u;
    return 0;
}

/* ---- tensor table ---------------------------------------------------------------------------- */

static int read_tensor(struct cursor *c, const struct gguf *g, struct gguf_tensor *t, struct err *e)
{
    const size_t start = c->pos;
    if (!take_string(c, &t->name))
        return too_short(c, "a tensor's name", e);
    if (t->name.len == 0 || t->name.len > GGUF_NAME_MAX)
        return err_set(e, ERR_FORMAT,
                       "the tensor name at byte %zu has %zu bytes, 1 to %d are possible", start,
                       t->name.len, GGUF_NAME_MAX);
    char name[GGUF_PRINTABLE_MAX];
    model_gguf_printable(t->name, name);
    for (size_t d = 0; d < GGUF_DIMS_MAX; d++)
        t->dims[d] = 1;
    bool whole = take_u32(c, &t->n_dims);
    for (uint32_t d = 0; whole && d < t->n_dims && d < GGUF_DIMS_MAX; d++)
        whole = take_u64(c, &t->dims[d]);
    /* With too many dimensions the rest of the entry is not where it should be; the shape check
     * below reports the count before anything is made of what was read. */
    if (whole && t->n_dims <= GGUF_DIMS_MAX)
        whole = take_u32(c, &t->ggml_type) && take_u64(c, &t->offset);
    if (!whole) {
        const int rc = too_short(c, "its table entry", e);
        return err_wrap(e, rc, "tensor '%s'", name);
    }
    const int rc = model_gguf_shape_bytes(t->ggml_type, t->n_dims, t->dims, &t->bytes, e);
    if (rc != 0)
        return err_wrap(e, rc, "tensor '%s'", name);
    if (t->offset % g->alignment != 0)
        return err_set(e, ERR_FORMAT,
                       "tensor '%s': its offset %" PRIu64
                       " is not a multiple of the alignment %" PRIu64,
                       name, t->offset, g->alignment);
    if (t->offset > INT64_MAX || t->bytes > INT64_MAX - t->offset)
        return err_set(e, ERR_FORMAT, "tensor '%s': its offset %" PRIu64 " is past 2^63", name,
                       t->offset);
    return 0;
}

/* Merge sort of tensor numbers by (offset, number). */
static void sort_by_offset(const struct gguf_tensor *t, uint32_t *order, uint32_t *spare, size_t n)
{
    if (n < 2)
        return;
    const size_t half = n / 2;
    sort_by_offset(t, order, spare, half);
    sort_by_offset(t, order + half, spare, n - half);
    memcpy(spare, order, n * sizeof *order);
    for (size_t k = 0, a = 0, b = half; k < n; k++) {
        const bool from_a = a < half && (b == n || t[spare[a]].offset <= t[spare[b]].offset);
        order[k] = from_a ? spare[a++] : spare[b++];
    }
}

static int check_overlap(const struct gguf *g, struct err *e)
{
    uint32_t *order = base_zalloc(2 * g->n_tensors + 1, sizeof *order);
    if (order == NULL)
        return err_set(e, ERR_NOMEM, "no memory to order %zu tensors", g->n_tensors);
    for (size_t i = 0; i < g->n_tensors; i++)
        order[i] = (uint32_t)i;
    sort_by_offset(g->tensors, order, order + g->n_tensors, g->n_tensors);
    int rc = 0;
    const struct gguf_tensor *before = NULL; /* the last one of known size */
    for (size_t i = 0; rc == 0 && i < g->n_tensors; i++) {
        const struct gguf_tensor *t = &g->tensors[order[i]];
        if (before != NULL && t->offset < before->offset + before->bytes) {
            char a[GGUF_PRINTABLE_MAX], b[GGUF_PRINTABLE_MAX];
            rc = err_set(e, ERR_FORMAT, "tensors '%s' and '%s' overlap at data offset %" PRIu64,
                         model_gguf_printable(before->name, a), model_gguf_printable(t->name, b),
                         t->offset);
        }
        if (t->bytes > 0)
            before = t;
    }
    base_free(order);
    return rc;
}

/* Give every tensor its data, whose section begins at the next aligned byte. */
static int place_data(struct gguf *g, const struct cursor *c, struct err *e)
{
    const uint64_t file_bytes = c->all.len;
    const uint64_t start = ((uint64_t)c->pos + g->alignment - 1) & ~(g->alignment - 1);
    for (size_t i = 0; i < g->n_tensors; i++) {
        struct gguf_tensor *t = &g->tensors[i];
        const uint64_t end = t->offset + t->bytes; /* at most 2^63, see read_tensor */
        if (start > file_bytes || end > file_bytes - start) {
            char name[GGUF_PRINTABLE_MAX];
            return err_set(e, ERR_FORMAT,
                           "tensor '%s': its data ends at byte %" PRIu64 ", the file has %" PRIu64
                           ": the file is truncated; download it again",
                           model_gguf_printable(t->name, name), start + end, file_bytes);
        }
        if (t->bytes > 0)
            t->data = c->all.ptr + (size_t)start + (size_t)t->offset;
    }
    return 0;
}

int model_gguf_index_tensors(struct gguf *g, struct err *e)
{
    int rc = model_index_init(&g->tensor_index, g->n_tensors, e);
    for (size_t i = 0; rc == 0 && i < g->n_tensors; i++)
        model_index_add(&g->tensor_index, g->tensors[i].name, (uint32_t)i);
    if (rc == 0)
        rc = model_index_seal(&g->tensor_index, e);
    if (rc != 0)
        return rc;
    const struct model_index_entry *twice = model_index_duplicate(&g->tensor_index);
    char name[GGUF_PRINTABLE_MAX];
    return twice == NULL ? 0
                         : err_set(e, ERR_FORMAT, "tensor '%s' is there twice",
                                   model_gguf_printable(twice->key, name));
}

static int read_tensors(struct cursor *c, struct gguf *g, struct err *e)
{
    g->tensors = base_zalloc(g->n_tensors > 0 ? g->n_tensors : 1, sizeof *g->tensors);
    if (g->tensors == NULL)
        return err_set(e, ERR_NOMEM, "no memory for a table of %zu tensors", g->n_tensors);
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < g->n_tensors; i++)
        rc = read_tensor(c, g, &g->tensors[i], e);
    if (rc == 0)
        rc = model_gguf_index_tensors(g, e);
    return rc != 0 ? rc : check_overlap(g, e);
}

/* ---- opening --------------------------------------------------------------------------------- */

/* The count of something that takes at least min_bytes in the rest of the file. */
static int read_count(struct cursor *c, const char *what, uint64_t max, uint64_t min_bytes,
                      size_t *out, struct err *e)
{
    const size_t at = c->pos;
    uint64_t n = 0;
    if (!take_u64(c, &n))
        return too_short(c, "the header", e);
    if (n > max)
        return err_set(e, ERR_FORMAT,
                       "the header at byte %zu claims %" PRIu64 " %s, at most %" PRIu64
                       " are taken",
                       at, n, what, max);
    if (n > left(c) / min_bytes)
        return err_set(e, ERR_FORMAT,
                       "the header at byte %zu claims %" PRIu64
                       " %s, which the file's %zu bytes cannot hold: the "
                       "file is truncated or damaged; download it again",
                       at, n, what, c->all.len);
    *out = (size_t)n;
    return 0;
}

static int read_header(struct cursor *c, struct gguf *g, struct err *e)
{
    struct span magic;
    if (!take(c, 4, &magic) || memcmp(magic.ptr, "GGUF", 4) != 0)
        return err_set(e, ERR_FORMAT, "not a GGUF file: it does not begin with \"GGUF\"");
    if (!take_u32(c, &g->version))
        return too_short(c, "the version", e);
    if (g->version > 0 && g->version <= UINT16_MAX && g->version != 2 && g->version != 3)
        return err_set(e, ERR_UNSUPPORTED,
                       "GGUF version %" PRIu32 " is not supported, versions 2 and 3 are",
                       g->version);
    if (g->version != 2 && g->version != 3)
        return err_set(e, ERR_UNSUPPORTED,
                       "GGUF version 0x%08" PRIx32
                       " is not supported: a big-endian file, or damaged",
                       g->version);
    /* A tensor's entry takes at least a name of 1, one dimension, type and offset; an entry of the
     * metadata a key of 1, a type and a value of 1. */
    const int rc =
        read_count(c, "tensors", GGUF_TENSORS_MAX, 8 + 1 + 4 + 8 + 4 + 8, &g->n_tensors, e);
    return rc != 0 ? rc
                   : read_count(c, "metadata entries", GGUF_KV_MAX, 8 + 1 + 4 + 1, &g->n_kv, e);
}

static int read_all(struct gguf *g, struct span bytes, int mode, struct err *e)
{
    struct cursor c = {.all = bytes};
    int rc = read_header(&c, g, e);
    if (rc == 0)
        rc = read_metadata(&c, g, e);
    if (rc == 0)
        rc = read_tensors(&c, g, e);
    if (rc == 0 && mode == GGUF_WITH_DATA)
        rc = place_data(g, &c, e);
    return rc;
}

int model_gguf_open_bytes(struct span bytes, int mode, struct gguf **out, struct err *e)
{
    *out = NULL;
    struct gguf *g = base_zalloc(1, sizeof *g);
    if (g == NULL)
        return err_set(e, ERR_NOMEM, "no memory for a GGUF reader");
    const int rc = read_all(g, bytes, mode, e);
    if (rc == 0)
        *out = g;
    else
        model_gguf_close(g);
    return rc;
}

int model_gguf_open_file(const char *path, int mode, struct gguf **out, struct err *e)
{
    *out = NULL;
    struct base_map map;
    int rc = base_map_open(path, &map, e);
    if (rc != 0)
        return rc;
    rc = model_gguf_open_bytes((struct span){map.ptr, map.len}, mode, out, e);
    if (rc != 0) {
        base_map_close(&map);
        return err_wrap(e, rc, "%s", path);
    }
    (*out)->map = map;
    (*out)->mapped = true;
    return 0;
}

int model_gguf_open(const char *path, int mode, struct gguf **out, struct err *e)
{
    int rc = model_gguf_open_file(path, mode, out, e);
    if (rc == 0 && mode != GGUF_VOCABULARY)
        rc = model_gguf_join(*out, path, mode, e);
    if (rc != 0) {
        model_gguf_close(*out);
        *out = NULL;
    }
    return rc;
}

void model_gguf_close(struct gguf *g)
{
    if (g == NULL)
        return;
    for (size_t i = 0; i < g->n_others; i++)
        model_gguf_close(g->others[i]);
    base_free(g->others);
    model_index_deinit(&g->tensor_index);
    model_index_deinit(&g->kv_index);
    base_free(g->tensors);
    base_free(g->kv);
    if (g->mapped)
        base_map_close(&g->map);
    base_free(g);
}

/* ---- reading --------------------------------------------------------------------------------- */

uint32_t model_gguf_version(const struct gguf *g)
{
    return g->version;
}

size_t model_gguf_n_parts(const struct gguf *g)
{
    return 1 + g->n_others;
}

const struct base_map *model_gguf_map(const struct gguf *g, size_t part)
{
    const struct gguf *of = part == 0 || part > g->n_others ? g : g->others[part - 1];
    return of->mapped && part <= g->n_others ? &of->map : NULL;
}

void model_gguf_forget(const struct gguf *g)
{
    for (size_t i = 0; i < model_gguf_n_parts(g) && model_gguf_map(g, i) != NULL; i++)
        base_map_forget(model_gguf_map(g, i));
}

size_t model_gguf_n_kv(const struct gguf *g)
{
    return g->n_kv;
}

const struct gguf_kv *model_gguf_kv_at(const struct gguf *g, size_t i)
{
    return i < g->n_kv ? &g->kv[i] : NULL;
}

const struct gguf_kv *model_gguf_kv(const struct gguf *g, const char *key)
{
    const struct model_index_entry *entry = model_index_find(&g->kv_index, base_span_str(key));
    return entry == NULL ? NULL : &g->kv[entry->id];
}

size_t model_gguf_n_tensors(const struct gguf *g)
{
    return g->n_tensors;
}

const struct gguf_tensor *model_gguf_tensor_at(const struct gguf *g, size_t i)
{
    return i < g->n_tensors ? &g->tensors[i] : NULL;
}

const struct gguf_tensor *model_gguf_tensor(const struct gguf *g, const char *name)
{
    const struct model_index_entry *entry = model_index_find(&g->tensor_index, base_span_str(name));
    return entry == NULL ? NULL : &g->tensors[entry->id];
}

static int find(const struct gguf *g, const char *key, const struct gguf_kv **kv, struct err *e)
{
    *kv = model_gguf_kv(g, key);
    return *kv != NULL ? 0 : err_set(e, ERR_NOTFOUND, "metadata '%s' is missing", key);
}

static int wrong_type(const struct gguf_kv *kv, const char *key, const char *wanted, struct err *e)
{
    return err_set(e, ERR_FORMAT, "metadata '%s' is of type %s where %s is expected", key,
                   value_names[kv->type], wanted);
}

/* Writers differ in which integer type they give a count, so any that fits is taken. */
int model_gguf_u32(const struct gguf *g, const char *key, uint32_t *out, struct err *e)
{
    const struct gguf_kv *kv;
    const int rc = find(g, key, &kv, e);
    if (rc != 0)
        return rc;
    if (kv->type == GGUF_F32 || kv->type == GGUF_F64 || kv->type == GGUF_BOOL ||
        kv->type == GGUF_STRING || kv->type == GGUF_ARRAY)
        return wrong_type(kv, key, "an integer", e);
    if (kv->i < 0)
        return err_set(e, ERR_FORMAT, "metadata '%s' is %" PRId64 ", it cannot be negative", key,
                       kv->i);
    if (kv->u > UINT32_MAX)
        return err_set(e, ERR_FORMAT, "metadata '%s' is %" PRIu64 ", more than 32 bits hold", key,
                       kv->u);
    *out = (uint32_t)kv->u;
    return 0;
}

int model_gguf_f32(const struct gguf *g, const char *key, float *out, struct err *e)
{
    const struct gguf_kv *kv;
    const int rc = find(g, key, &kv, e);
    if (rc != 0)
        return rc;
    if (kv->type != GGUF_F32 && kv->type != GGUF_F64)
        return wrong_type(kv, key, "f32", e);
    *out = (float)kv->f;
    return 0;
}

int model_gguf_bool(const struct gguf *g, const char *key, bool *out, struct err *e)
{
    const struct gguf_kv *kv;
    const int rc = find(g, key, &kv, e);
    if (rc != 0)
        return rc;
    if (kv->type != GGUF_BOOL)
        return wrong_type(kv, key, "bool", e);
    *out = kv->u != 0;
    return 0;
}

int model_gguf_string(const struct gguf *g, const char *key, struct span *out, struct err *e)
{
    const struct gguf_kv *kv;
    const int rc = find(g, key, &kv, e);
    if (rc != 0)
        return rc;
    if (kv->type != GGUF_STRING)
        return wrong_type(kv, key, "a string", e);
    *out = kv->bytes;
    return 0;
}

bool model_gguf_next_string(const struct gguf_kv *array, size_t *cursor, struct span *out)
{
    struct cursor c = {.all = array->bytes, .pos = *cursor};
    if (array->type != GGUF_ARRAY || array->elem_type != GGUF_STRING || c.pos > c.all.len ||
        !take_string(&c, out))
        return false;
    *cursor = c.pos;
    return true;
}
