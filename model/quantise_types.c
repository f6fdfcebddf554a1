/* What becomes of each tensor of a file that is quantised: one type for all matrices, or a list with a
 * type for each layer.
 *
 * Matrices become the type asked for; vectors (norms, biases, frequency factors) become F32, which
 * the executor wants; a router of experts stays as it is, since a little error there changes which
 * experts speak. The output matrix, or the embedding where that is the output matrix, is Q6_K in
 * files of 4 bits, as is usual: it costs little and its error goes straight into the logits.
 * "Q4_K_M" gives some more layers' attn_v and ffn_down 6 bits, the choice that published files
 * of that name have. Under a list both ends are Q8_0, whatever the layers are. Rows that are not
 * whole blocks of 256 become Q8_0, and where 32 does not divide them either, F16. */
#include "model/gguf.h"
#include "model/quantise.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_Q4_0 = 2, FILE_Q8_0 = 7, FILE_Q4_K_S = 14, FILE_Q4_K_M = 15, FILE_Q6_K = 18 };
enum { LIST_NAME_MAX = 16 };

struct target {
    const char *name;
    uint32_t ggml, file_type;
    bool good_output; /* the output matrix is Q6_K */
    bool mixed;       /* and some attn_v and ffn_down */
};

static const struct target targets[] = {
    {"Q8_0", Q8_0, FILE_Q8_0, false, false},  {"Q4_0", Q4_0, FILE_Q4_0, true, false},
    {"Q4_K", Q4_K, FILE_Q4_K_S, true, false}, {"Q4_K_M", Q4_K, FILE_Q4_K_M, true, true},
    {"Q6_K", Q6_K, FILE_Q6_K, false, false},
};
enum { N_TARGETS = sizeof targets / sizeof targets[0] };

/* What a list may say of a layer, the finest first. */
static const char *const choices[] = {"keep", "Q8_0", "Q6_K", "Q4_K", "Q4_0"};
enum { N_CHOICES = sizeof choices / sizeof choices[0] };
_Static_assert((int)N_CHOICES == (int)MODEL_QUANTISE_CHOICES, "choices");

const char *model_quantise_type(unsigned i)
{
    return i < N_TARGETS ? targets[i].name : NULL;
}

const char *model_quantise_choice(unsigned i)
{
    return i < N_CHOICES ? choices[i] : NULL;
}

static const struct target *find_target(const char *name)
{
    for (size_t i = 0; i < N_TARGETS; i++)
        if (strcmp(targets[i].name, name) == 0)
            return &targets[i];
    return NULL;
}

/* ---- a file's tensors ------------------------------------------------------------------------ */

static bool ends_with(struct span s, const char *end)
{
    const size_t n = strlen(end);
    return s.len >= n && memcmp(s.ptr + s.len - n, end, n) == 0;
}

bool model_quantise_is_matrix(const struct gguf_tensor *t)
{
    return t->n_dims >= 2 && ends_with(t->name, ".weight") && !ends_with(t->name, "_norm.weight") &&
           !ends_with(t->name, "ffn_gate_inp.weight");
}

uint32_t model_quantise_layer(const struct gguf_tensor *t)
{
    const struct span name = t->name;
    uint32_t n = 0;
    size_t i = 4;
    if (name.len < 6 || memcmp(name.ptr, "blk.", 4) != 0)
        return UINT32_MAX;
    for (; i < name.len && i < 8 && name.ptr[i] >= '0' && name.ptr[i] <= '9'; i++)
        n = 10 * n + (uint32_t)(name.ptr[i] - '0');
    return i > 4 && i < name.len && name.ptr[i] == '.' ? n : UINT32_MAX;
}

uint32_t model_quantise_layers(const struct gguf *g)
{
    uint32_t n = 0;
    for (size_t i = 0; i < model_gguf_n_tensors(g); i++) {
        const uint32_t layer = model_quantise_layer(model_gguf_tensor_at(g, i));
        if (layer != UINT32_MAX && layer >= n)
            n = layer + 1;
    }
    return n;
}

/* The first and the last eighth of the layers and every third between them. */
static bool gets_more_bits(uint32_t n_layers, const struct gguf_tensor *t)
{
    const uint32_t layer = model_quantise_layer(t), eighth = n_layers / 8;
    if (layer == UINT32_MAX ||
        !(ends_with(t->name, ".attn_v.weight") || ends_with(t->name, ".ffn_down.weight")))
        return false;
    return layer < eighth || layer >= 7 * n_layers / 8 || (layer - eighth) % 3 == 2;
}

static bool is_output(const struct gguf *g, const struct gguf_tensor *t)
{
    const bool tied = model_gguf_tensor(g, "output.weight") == NULL;
    return base_span_is(t->name, tied ? "token_embd.weight" : "output.weight");
}

/* Of a type that there is. */
static uint32_t block_cols(uint32_t type)
{
    struct gguf_type_info info = {0};
    (void)model_gguf_type_info(type, &info);
    return info.block_cols;
}

/* `target` NULL: the tensor keeps its type. */
static uint32_t new_type(const struct gguf *g, uint32_t n_layers, const struct target *target,
                         const struct gguf_tensor *t, uint32_t *n_others)
{
    if (t->n_dims == 1)
        return F32;
    if (!model_quantise_is_matrix(t) || target == NULL)
        return t->ggml_type;
    uint32_t type = target->ggml;
    if ((target->good_output && is_output(g, t)) || (target->mixed && gets_more_bits(n_layers, t)))
        type = Q6_K;
    if (t->dims[0] % block_cols(type) == 0)
        return type;
    ++*n_others;
    return t->dims[0] % block_cols(Q8_0) == 0 ? Q8_0 : F16;
}

/* ---- what is asked for ----------------------------------------------------------------------- */

/* "NAME*N," at *text; false: it is none. */
static bool next_run(const char **text, char name[static LIST_NAME_MAX], unsigned long *n)
{
    const size_t len = strcspn(*text, "*,");
    char *end;
    if (len == 0 || len >= LIST_NAME_MAX || (*text)[len] != '*' || (*text)[len + 1] < '1' ||
        (*text)[len + 1] > '9')
        return false;
    memcpy(name, *text, len);
    name[len] = '\0';
    *n = strtoul(*text + len + 1, &end, 10);
    if (*end != ',' && *end != '\0')
        return false;
    *text = end + (*end == ',' && end[1] != '\0');
    return *end == '\0' || **text != ',';
}

static bool is_choice(const char *name)
{
    for (size_t i = 0; i < N_CHOICES; i++)
        if (strcmp(choices[i], name) == 0)
            return true;
    return false;
}

/* of_layer[n_layers] by a list such as "Q8_0*4,Q4_K*18". */
static int read_list(const char *text, uint32_t n_layers, const struct target **of_layer,
                     struct err *e)
{
    unsigned long at = 0, n;
    char name[LIST_NAME_MAX];
    while (*text != '\0') {
        const char *const run = text;
        if (!next_run(&text, name, &n) || !is_choice(name))
            return err_set(e, ERR_USAGE,
                           "\"%.40s\" does not begin with TYPE*LAYERS of the types keep, Q8_0, "
                           "Q6_K, Q4_K and Q4_0",
                           run);
        if (n > n_layers - at)
            return err_set(e, ERR_USAGE, "\"%.40s\" goes past the model's %u layers", run,
                           n_layers);
        while (n-- > 0)
            of_layer[at++] = find_target(name);
    }
    return at == n_layers
               ? 0
               : err_set(e, ERR_USAGE, "the list has types for %lu of %u layers", at, n_layers);
}

static int unknown_type(const char *name, struct err *e)
{
    char list[100] = "";
    for (unsigned i = 0; i < N_TARGETS; i++) {
        const size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i == 0 ? "" : ", ", targets[i].name);
    }
    return err_set(e, ERR_USAGE, "\"%.40s\" is no type to quantise to; there are %s", name, list);
}

static int check_source(const struct gguf *g, struct err *e)
{
    for (size_t i = 0; i < model_gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = model_gguf_tensor_at(g, i);
        char text[GGUF_PRINTABLE_MAX];
        const char *name = model_gguf_type_name(t->ggml_type);
        if (t->ggml_type != F32 && t->ggml_type != F16 && t->ggml_type != BF16)
            return err_set(e, ERR_UNSUPPORTED,
                           "the tensor %s is of type %s; only F32, F16 and BF16 files are "
                           "quantised, begin with one of those",
                           model_gguf_printable(t->name, text), name != NULL ? name : "unknown");
    }
    return 0;
}

/* The type that most layers have says what the file is called; a file that keeps its types mostly
 * keeps its name. */
static uint32_t file_type_of(const struct gguf *g, const struct target *const *of_layer, uint32_t n)
{
    uint32_t most = 0, type = UINT32_MAX, old = UINT32_MAX;
    (void)model_gguf_u32(g, "general.file_type", &old, NULL);
    for (uint32_t l = 0; l < n; l++) {
        uint32_t same = 0;
        for (uint32_t k = 0; k < n; k++)
            same += of_layer[k] == of_layer[l];
        if (same > most) {
            most = same;
            type = of_layer[l] != NULL ? of_layer[l]->file_type : old;
        }
    }
    return type;
}

int model_quantise_types(const struct gguf *g, const char *type, struct quantise_types *out,
                         struct err *e)
{
    const uint32_t n_layers = model_quantise_layers(g);
    const bool list = strpbrk(type, "*,") != NULL;
    const struct target *all = list ? find_target("Q8_0") : find_target(type);
    const struct target **of_layer = base_zalloc(n_layers + 1, sizeof *of_layer);
    int rc = of_layer == NULL ? err_set(e, ERR_NOMEM, "out of memory for %u layers", n_layers) : 0;
    for (uint32_t l = 0; rc == 0 && l < n_layers; l++)
        of_layer[l] = all;
    if (rc == 0 && all == NULL)
        rc = unknown_type(type, e);
    if (rc == 0 && list)
        rc = read_list(type, n_layers, of_layer, e);
    if (rc == 0)
        rc = check_source(g, e);
    out->n_matrices = out->n_others = 0;
    for (size_t i = 0; rc == 0 && i < model_gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = model_gguf_tensor_at(g, i);
        const uint32_t layer = model_quantise_layer(t);
        out->types[i] =
            new_type(g, n_layers, layer < n_layers ? of_layer[layer] : all, t, &out->n_others);
        out->n_matrices += model_quantise_is_matrix(t);
    }
    if (rc == 0)
        out->file_type = list ? file_type_of(g, of_layer, n_layers) : all->file_type;
    base_free(of_layer);
    return rc;
}
