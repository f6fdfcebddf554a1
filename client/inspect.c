/* `shoal inspect`: what a GGUF file says of itself: metadata, tensors, types, sizes.
 *
 * The file may be of any architecture and hold any tensor types: nothing here asks whether Shoal
 * could run it, and no tensor data is touched. Long arrays are shortened to their first elements,
 * since a vocabulary has a hundred thousand. Names and texts are the file's, that is a stranger's:
 * to a terminal they go without control characters. */
#include "client/client.h"

#include <string.h>

enum { ARRAY_SHOWN = 8, TEXT_SHOWN = 200 };

static const char *const type_names[GGUF_N_TYPES] = {
    "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"};

/* ---- values ---------------------------------------------------------------------------------- */

static uint64_t little_endian(const uint8_t *p, size_t n)
{
    uint64_t v = 0;
    for (size_t i = n; i > 0; i--)
        v = v << 8 | p[i - 1];
    return v;
}

static double f32_of(uint64_t bits)
{
    const uint32_t word = (uint32_t)bits;
    float f;
    memcpy(&f, &word, sizeof f);
    return (double)f;
}

static double f64_of(uint64_t bits)
{
    double f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* Element of a scalar type at p as JSON, and its length in the file; NULL for what is no scalar. */
static json_t *element(enum model_gguf_type type, const uint8_t *p, size_t *bytes)
{
    static const uint8_t lengths[GGUF_N_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    const size_t n = lengths[type];
    const uint64_t u = little_endian(p, n);
    *bytes = n;
    switch (type) {
    case GGUF_I8:
        return json_integer((int8_t)u);
    case GGUF_I16:
        return json_integer((int16_t)u);
    case GGUF_I32:
        return json_integer((int32_t)u);
    case GGUF_F32:
        return cli_json_number(f32_of(u));
    case GGUF_F64:
        return cli_json_number(f64_of(u));
    case GGUF_BOOL:
        return json_boolean(u != 0);
    case GGUF_STRING:
    case GGUF_ARRAY:
    case GGUF_N_TYPES:
        return NULL;
    default: /* a u64 that JSON's integers cannot hold loses its last digits */
        return u > INT64_MAX ? json_real((double)u) : json_integer((json_int_t)u);
    }
}

/* The first elements of an array; arrays of arrays show none. */
static json_t *elements(const struct gguf_kv *kv)
{
    json_t *list = json_array();
    size_t cursor = 0;
    for (uint64_t i = 0; i < kv->n && i < ARRAY_SHOWN; i++) {
        struct span s;
        json_t *v = NULL;
        size_t bytes = 0;
        if (kv->elem_type == GGUF_STRING) {
            if (model_gguf_next_string(kv, &cursor, &s))
                v = cli_json_text(s);
        } else if (kv->elem_type != GGUF_ARRAY) {
            v = element(kv->elem_type, kv->bytes.ptr + cursor, &bytes);
            cursor += bytes;
        }
        if (v == NULL || json_array_append_new(list, v) != 0)
            break;
    }
    return list;
}

static json_t *value_json(const struct gguf_kv *kv, int *bad)
{
    json_t *o;
    size_t bytes;
    if (kv->type == GGUF_STRING)
        return cli_json_text(kv->bytes);
    if (kv->type != GGUF_ARRAY)
        return element(kv->type, kv->bytes.ptr, &bytes);
    if (kv->n <= ARRAY_SHOWN && kv->elem_type != GGUF_ARRAY)
        return elements(kv);
    o = json_object();
    *bad |= json_object_set_new(o, "array", json_string(type_names[kv->elem_type]));
    *bad |= json_object_set_new(o, "length", json_integer((json_int_t)kv->n));
    *bad |= json_object_set_new(o, "first", elements(kv));
    return o;
}

/* ---- tensors --------------------------------------------------------------------------------- */

static void type_text(uint32_t ggml_type, char out[static 24])
{
    const char *name = model_gguf_type_name(ggml_type);
    if (name != NULL)
        snprintf(out, 24, "%s", name);
    else
        snprintf(out, 24, "type %u", ggml_type);
}

static json_t *tensor_json(const struct gguf_tensor *t, int *bad)
{
    json_t *o = json_object(), *dims = json_array();
    char type[24];
    type_text(t->ggml_type, type);
    for (uint32_t i = 0; i < t->n_dims; i++)
        *bad |= json_array_append_new(dims, json_integer((json_int_t)t->dims[i]));
    *bad |= json_object_set_new(o, "name", cli_json_text(t->name));
    *bad |= json_object_set_new(o, "type", json_string(type));
    *bad |= json_object_set_new(o, "dims", dims);
    *bad |= json_object_set_new(o, "bytes",
                                t->bytes == 0 ? json_null() : json_integer((json_int_t)t->bytes));
    return o;
}

/* ---- text ------------------------------------------------------------------------------------ */

static int print_value(const struct gguf_kv *kv, struct err *e)
{
    int bad = 0;
    json_t *v = value_json(kv, &bad);
    char *text = v != NULL ? json_dumps(v, JSON_ENCODE_ANY | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(v);
    if (text == NULL)
        return err_set(e, ERR_NOMEM, "out of memory for a metadata value");
    cli_put_name(base_span_str(text), TEXT_SHOWN);
    base_free(text);
    return 0;
}

static void print_tensor(const struct gguf_tensor *t)
{
    char type[24], shape[100] = "", size[24] = "size not known";
    size_t used = 0;
    type_text(t->ggml_type, type);
    for (uint32_t i = 0; i < t->n_dims && used < sizeof shape; i++)
        used += (size_t)snprintf(shape + used, sizeof shape - used, "%s%llu", i == 0 ? "" : " x ",
                                 (unsigned long long)t->dims[i]);
    if (t->bytes != 0)
        base_bytes_text(t->bytes, size);
    printf("  %-8s %-24s %-14s ", type, shape, size);
    cli_put_name(t->name, TEXT_SHOWN);
    putchar('\n');
}

/* 0 where the product is no number: types that are not known are not checked. */
static uint64_t n_elements(const struct gguf_tensor *t)
{
    uint64_t n = 1;
    for (int i = 0; i < 4; i++)
        if (__builtin_mul_overflow(n, t->dims[i], &n))
            return 0;
    return n;
}

/* What the tensors of each type come to, types in the order in which they first appear. */
struct totals {
    uint32_t ggml_type;
    uint64_t n, parameters, bytes;
};
enum { TOTALS_MAX = 32 }; /* types; a file with more, which none has, counts the rest together */

static size_t count_types(const struct gguf *g, struct totals *out, struct totals *all)
{
    size_t n = 0;
    for (size_t i = 0; i < model_gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = model_gguf_tensor_at(g, i);
        size_t k = 0;
        while (k + 1 < TOTALS_MAX && k < n && out[k].ggml_type != t->ggml_type)
            k++;
        if (k == n)
            out[n++] = (struct totals){.ggml_type = t->ggml_type};
        for (int both = 0; both < 2; both++) {
            struct totals *to = both == 0 ? &out[k] : all;
            to->n++;
            to->parameters += n_elements(t);
            to->bytes += t->bytes;
        }
    }
    return n;
}

static void print_totals(const struct gguf *g)
{
    struct totals types[TOTALS_MAX], all = {0};
    const size_t n = count_types(g, types, &all);
    char type[24], size[24];
    for (size_t i = 0; i < n; i++) {
        type_text(types[i].ggml_type, type);
        printf("%s: %llu tensors, %llu parameters, %s\n", type, (unsigned long long)types[i].n,
               (unsigned long long)types[i].parameters, base_bytes_text(types[i].bytes, size));
    }
    printf("%llu parameters, %s of tensors\n", (unsigned long long)all.parameters,
           base_bytes_text(all.bytes, size));
}

static json_t *totals_json(const struct gguf *g, int *bad)
{
    struct totals types[TOTALS_MAX], all = {0};
    const size_t n = count_types(g, types, &all);
    json_t *o = json_object();
    for (size_t i = 0; i < n; i++) {
        json_t *one = json_object();
        char type[24];
        type_text(types[i].ggml_type, type);
        *bad |= json_object_set_new(one, "tensors", json_integer((json_int_t)types[i].n));
        *bad |=
            json_object_set_new(one, "parameters", json_integer((json_int_t)types[i].parameters));
        *bad |= json_object_set_new(one, "bytes", json_integer((json_int_t)types[i].bytes));
        *bad |= json_object_set_new(o, type, one);
    }
    return o;
}

/* ---- the two forms --------------------------------------------------------------------------- */

static int print_text(const struct gguf *g, struct err *e)
{
    int rc = 0;
    printf("GGUF version %u, %zu metadata entries, %zu tensors", model_gguf_version(g),
           model_gguf_n_kv(g), model_gguf_n_tensors(g));
    if (model_gguf_n_parts(g) > 1)
        printf(" in %zu files", model_gguf_n_parts(g));
    putchar('\n');
    for (size_t i = 0; i < model_gguf_n_kv(g) && rc == 0; i++) {
        const struct gguf_kv *kv = model_gguf_kv_at(g, i);
        printf("  %-7s ", type_names[kv->type]);
        cli_put_name(kv->key, TEXT_SHOWN);
        fputs(" = ", stdout);
        rc = print_value(kv, e);
        putchar('\n');
    }
    for (size_t i = 0; i < model_gguf_n_tensors(g); i++)
        print_tensor(model_gguf_tensor_at(g, i));
    print_totals(g);
    return rc;
}

static int print_json(const struct gguf *g, const char *path, struct err *e)
{
    json_t *o = json_object(), *metadata = json_object(), *tensors = json_array();
    int bad = json_object_set_new(o, "file", cli_json_text(base_span_str(path)));
    bad |= json_object_set_new(o, "version", json_integer(model_gguf_version(g)));
    bad |= json_object_set_new(o, "files", json_integer((json_int_t)model_gguf_n_parts(g)));
    for (size_t i = 0; i < model_gguf_n_kv(g); i++) {
        const struct gguf_kv *kv = model_gguf_kv_at(g, i);
        json_t *key = cli_json_text(kv->key);
        bad |= key == NULL
                   ? -1
                   : json_object_set_new(metadata, json_string_value(key), value_json(kv, &bad));
        json_decref(key);
    }
    for (size_t i = 0; i < model_gguf_n_tensors(g); i++)
        bad |= json_array_append_new(tensors, tensor_json(model_gguf_tensor_at(g, i), &bad));
    bad |= json_object_set_new(o, "metadata", metadata);
    bad |= json_object_set_new(o, "types", totals_json(g, &bad));
    bad |= json_object_set_new(o, "tensors", tensors);
    return cli_json_print(o, bad != 0, e);
}

int cli_inspect(const struct cli_options *o, struct err *e)
{
    struct gguf *g = NULL;
    int rc = model_gguf_open(o->args[0], GGUF_METADATA_ONLY, &g, e);
    if (rc == 0)
        rc = o->json ? print_json(g, o->args[0], e) : print_text(g, e);
    model_gguf_close(g);
    return rc;
}
