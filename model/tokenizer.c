/* Vocabularies: what all tokenizers have in common. A vocabulary is read from a file's metadata,
 * checked whole, and copied, so that the file can be closed; afterwards it is immutable and shared.
 *
 * Text is cut at special tokens first (tokenizer_special.c). What is left between them goes to the
 * tokenizer's own algorithm, found by name in a table: a further kind of tokenizer is one more row.
 *
 * Invariant: every id in a vocab (bos, byte tokens, index, specials) is -1 or below n, every span
 * lies in texts or plains, no score is NaN. Left out: per-model rules that
 * strip blanks beside special tokens. */
#include "model/tokenizer.h"

#include <inttypes.h>
#include <string.h>

static const struct vocab_kind *const kinds[] = {&model_vocab_spm, &model_vocab_bpe};

enum {
    TEXT_BYTES_MAX = 1 << 28 /* longest text encoded, so that positions fit 32 bits escaped */
};

/* ---- opening --------------------------------------------------------------------------------- */

static int choose_kind(const struct gguf *g, struct vocab *v, struct err *e)
{
    struct span name;
    const int rc = model_gguf_string(g, "tokenizer.ggml.model", &name, e);
    if (rc != 0)
        return err_wrap(e, rc, "the file has no vocabulary");
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (base_span_is(name, kinds[i]->name)) {
            v->kind = kinds[i];
            return 0;
        }
    }
    char text[GGUF_PRINTABLE_MAX];
    return err_set(e, ERR_UNSUPPORTED, "tokenizer '%s' is not supported",
                   model_gguf_printable(name, text));
}

/* An array of the vocabulary's length and one of two element types; *kv is NULL where it is absent.
 */
static int find_array(const struct gguf *g, const char *key, enum model_gguf_type a,
                      enum model_gguf_type b, uint64_t n, const struct gguf_kv **kv, struct err *e)
{
    *kv = model_gguf_kv(g, key);
    if (*kv == NULL)
        return 0;
    if ((*kv)->type != GGUF_ARRAY || ((*kv)->elem_type != a && (*kv)->elem_type != b))
        return err_set(e, ERR_FORMAT, "metadata '%s' is not an array of the right type", key);
    if ((*kv)->n != n)
        return err_set(e, ERR_FORMAT,
                       "metadata '%s' has %" PRIu64 " elements for %" PRIu64 " tokens", key,
                       (*kv)->n, n);
    return 0;
}

static int read_texts(const struct gguf *g, struct vocab *v, struct err *e)
{
    const struct gguf_kv *kv = model_gguf_kv(g, "tokenizer.ggml.tokens");
    if (kv == NULL || kv->type != GGUF_ARRAY || kv->elem_type != GGUF_STRING)
        return err_set(e, ERR_FORMAT,
                       "metadata 'tokenizer.ggml.tokens' is missing or not an array of strings");
    if (kv->n == 0 || kv->n > MODEL_VOCAB_MAX)
        return err_set(e, ERR_FORMAT, "the vocabulary has %" PRIu64 " tokens, 1 to %d are possible",
                       kv->n, MODEL_VOCAB_MAX);
    v->n = (uint32_t)kv->n;
    v->tokens = base_zalloc(v->n, sizeof *v->tokens);
    v->texts = base_alloc(kv->bytes.len); /* more than the texts take: the lengths are in it too */
    v->plains = base_alloc(kv->bytes.len);
    if (v->tokens == NULL || v->texts == NULL || v->plains == NULL)
        return err_set(e, ERR_NOMEM, "no memory for a vocabulary of %u tokens", v->n);
    size_t cursor = 0, at = 0;
    struct span s;
    for (uint32_t id = 0; id < v->n && model_gguf_next_string(kv, &cursor, &s); id++) {
        if (s.len > 0)
            memcpy(v->texts + at, s.ptr, s.len);
        v->tokens[id].text = (struct span){v->texts + at, s.len};
        v->tokens[id].type = TOKEN_NORMAL;
        at += s.len;
        if (s.len > v->text_bytes_max)
            v->text_bytes_max = s.len;
    }
    return 0;
}

static int read_scores(const struct gguf *g, struct vocab *v, struct err *e)
{
    const struct gguf_kv *kv;
    const int rc = find_array(g, "tokenizer.ggml.scores", GGUF_F32, GGUF_F32, v->n, &kv, e);
    if (rc != 0 || kv == NULL)
        return rc;
    for (uint32_t id = 0; id < v->n; id++) {
        v->tokens[id].score = gguf_le_f32(kv->bytes.ptr + 4 * (size_t)id);
        if (v->tokens[id].score != v->tokens[id].score)
            return err_set(e, ERR_FORMAT, "the score of token %u is not a number", id);
    }
    return 0;
}

static int read_types(const struct gguf *g, struct vocab *v, struct err *e)
{
    const struct gguf_kv *kv;
    const int rc = find_array(g, "tokenizer.ggml.token_type", GGUF_I32, GGUF_U32, v->n, &kv, e);
    if (rc != 0 || kv == NULL)
        return rc;
    v->typed = true;
    for (uint32_t id = 0; id < v->n; id++) {
        const uint64_t type = gguf_le(kv->bytes.ptr + 4 * (size_t)id, 4);
        if (type >= TOKEN_N_TYPES)
            return err_set(e, ERR_FORMAT, "token %u has type %" PRIu64 ", which does not exist", id,
                           type);
        v->tokens[id].type = (enum token_type)type;
    }
    return 0;
}

/* The id that `key` names, or `otherwise` where the key is absent and there is such a token. All
 * bits set is how some writers say "none". */
static int read_id(const struct gguf *g, const struct vocab *v, const char *key, int32_t otherwise,
                   int32_t *out, struct err *e)
{
    uint32_t id = 0;
    const struct gguf_kv *kv = model_gguf_kv(g, key);
    *out = kv == NULL && otherwise < (int32_t)v->n ? otherwise : -1;
    if (kv == NULL || (kv->type == GGUF_I32 && kv->i == -1))
        return 0;
    const int rc = model_gguf_u32(g, key, &id, e);
    if (rc != 0 || id == UINT32_MAX)
        return rc;
    if (id >= v->n)
        return err_set(e, ERR_FORMAT, "metadata '%s' is %u, the vocabulary has %u tokens", key, id,
                       v->n);
    *out = (int32_t)id;
    return 0;
}

static int read_flag(const struct gguf *g, const char *key, bool otherwise, bool *out,
                     struct err *e)
{
    *out = otherwise;
    return model_gguf_kv(g, key) == NULL ? 0 : model_gguf_bool(g, key, out, e);
}

static int read_settings(const struct gguf *g, struct vocab *v, struct err *e)
{
    const struct vocab_kind *k = v->kind;
    int32_t eos = -1, eot = -1, eom = -1;
    int rc = read_id(g, v, "tokenizer.ggml.bos_token_id", k->bos, &v->bos, e);
    if (rc == 0)
        rc = read_id(g, v, "tokenizer.ggml.eos_token_id", k->eos, &eos, e);
    if (rc == 0)
        rc = read_id(g, v, "tokenizer.ggml.unknown_token_id", k->unknown, &v->unknown, e);
    if (rc == 0)
        rc = read_id(g, v, "tokenizer.ggml.eot_token_id", -1, &eot, e);
    if (rc == 0)
        rc = read_id(g, v, "tokenizer.ggml.eom_token_id", -1, &eom, e);
    if (rc == 0)
        rc = read_flag(g, "tokenizer.ggml.add_bos_token",
                       v->pre != NULL ? v->pre->add_bos : k->add_bos, &v->add_bos, e);
    if (rc == 0)
        rc = read_flag(g, "tokenizer.ggml.add_eos_token", k->add_eos, &v->add_eos, e);
    if (rc == 0)
        rc = read_flag(g, "tokenizer.ggml.add_space_prefix", k->space_prefix, &v->space_prefix, e);
    if (rc != 0)
        return rc;
    v->space_prefix = v->space_prefix && k->space_prefix;
    v->eos = eos;
    const int32_t ends[] = {eos, eot, eom};
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++)
        if (ends[i] >= 0)
            v->tokens[ends[i]].end = true;
    return 0;
}

/* Files written before types were: the ids say which tokens are not text. */
static void guess_types(struct vocab *v)
{
    if (v->typed)
        return;
    if (v->unknown >= 0)
        v->tokens[v->unknown].type = TOKEN_UNKNOWN;
    for (uint32_t id = 0; id < v->n; id++)
        if (v->tokens[id].end || (int32_t)id == v->bos)
            v->tokens[id].type = TOKEN_CONTROL;
}

/* Ends of turn that files name by text only. An ordinary token of that text is just text. */
static void mark_ends(struct vocab *v)
{
    static const char *const texts[] = {
        "<|im_end|>",    "<|eot_id|>", "<|eom_id|>", "<end_of_turn>",   "<|end|>",
        "<|endoftext|>", "<|return|>", "<|EOT|>",    "<|end_of_text|>",
    };
    for (uint32_t id = 0; id < v->n; id++) {
        struct vocab_token *t = &v->tokens[id];
        for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
            if ((t->type == TOKEN_CONTROL || t->type == TOKEN_USER_DEFINED) &&
                base_span_is(t->text, texts[i]))
                t->end = true;
    }
}

static int index_texts(struct vocab *v, struct err *e)
{
    const int rc = model_index_init(&v->index, v->n, e);
    if (rc != 0)
        return rc;
    for (uint32_t id = 0; id < v->n; id++) {
        const struct vocab_token *t = &v->tokens[id];
        if (t->text.len > 0 && (v->kind->joins >> t->type & 1) != 0)
            model_index_add(&v->index, t->text, id);
    }
    return model_index_seal(&v->index, e);
}

static bool is_special(const struct vocab_token *t)
{
    return t->text.len > 0 &&
           (t->type == TOKEN_CONTROL || t->type == TOKEN_UNKNOWN || t->type == TOKEN_USER_DEFINED);
}

static bool special_before(const struct vocab *v, int32_t a, int32_t b)
{
    const size_t la = v->tokens[a].text.len, lb = v->tokens[b].text.len;
    return la > lb || (la == lb && a < b);
}

/* Merge sort of ids[n] by special_before; `spare` has n places. */
static void sort_specials(const struct vocab *v, int32_t *ids, int32_t *spare, size_t n)
{
    if (n < 2)
        return;
    const size_t half = n / 2;
    sort_specials(v, ids, spare, half);
    sort_specials(v, ids + half, spare, n - half);
    memcpy(spare, ids, n * sizeof *ids);
    for (size_t k = 0, a = 0, b = half; k < n; k++) {
        const bool from_a = a < half && (b == n || special_before(v, spare[a], spare[b]));
        ids[k] = from_a ? spare[a++] : spare[b++];
    }
}

static int list_specials(struct vocab *v, struct err *e)
{
    size_t n = 0;
    for (uint32_t id = 0; id < v->n; id++)
        n += is_special(&v->tokens[id]);
    v->specials = base_zalloc(2 * n + 1, sizeof *v->specials); /* the second half is for sorting */
    if (v->specials == NULL)
        return err_set(e, ERR_NOMEM, "no memory for %zu special tokens", n);
    for (uint32_t id = 0; id < v->n; id++)
        if (is_special(&v->tokens[id]))
            v->specials[v->n_specials++] = (int32_t)id;
    sort_specials(v, v->specials, v->specials + n, n);
    return model_vocab_specials_open(v, e);
}

static void make_plains(struct vocab *v)
{
    size_t at = 0;
    for (uint32_t id = 0; id < v->n; id++) {
        struct vocab_token *t = &v->tokens[id];
        const bool silent =
            t->type != TOKEN_NORMAL && t->type != TOKEN_USER_DEFINED && t->type != TOKEN_BYTE;
        t->plain.ptr = v->plains + at;
        t->plain.len = silent ? 0 : v->kind->plain(v, (int32_t)id, v->plains + at);
        at += t->plain.len;
    }
}

static int read_vocab(const struct gguf *g, struct vocab *v, struct err *e)
{
    int rc = choose_kind(g, v, e);
    if (rc == 0 && v->kind->begin != NULL)
        rc = v->kind->begin(g, v, e);
    if (rc == 0)
        rc = read_texts(g, v, e);
    if (rc == 0)
        rc = read_scores(g, v, e);
    if (rc == 0)
        rc = read_types(g, v, e);
    if (rc == 0)
        rc = read_settings(g, v, e);
    if (rc != 0)
        return rc;
    guess_types(v);
    mark_ends(v);
    if (v->kind->prepare != NULL)
        rc = v->kind->prepare(v, e);
    if (rc == 0)
        rc = index_texts(v, e);
    if (rc == 0 && v->kind->finish != NULL)
        rc = v->kind->finish(g, v, e);
    if (rc == 0)
        rc = list_specials(v, e);
    if (rc == 0)
        rc = model_chat_read_system(g, &v->chat_system, e);
    if (rc == 0)
        make_plains(v);
    return rc;
}

int model_vocab_open(const struct gguf *g, struct vocab **out, struct err *e)
{
    *out = NULL;
    struct vocab *v = base_zalloc(1, sizeof *v);
    if (v == NULL)
        return err_set(e, ERR_NOMEM, "no memory for a vocabulary");
    for (size_t b = 0; b < sizeof v->byte_ids / sizeof v->byte_ids[0]; b++)
        v->byte_ids[b] = -1;
    const int rc = read_vocab(g, v, e);
    if (rc == 0)
        *out = v;
    else
        model_vocab_close(v);
    return rc;
}

void model_vocab_close(struct vocab *v)
{
    if (v == NULL)
        return;
    if (v->kind != NULL && v->kind->close != NULL)
        v->kind->close(v);
    model_vocab_specials_close(v);
    base_free(v->specials);
    base_buf_deinit(&v->chat_system);
    model_index_deinit(&v->index);
    base_free(v->plains);
    base_free(v->texts);
    base_free(v->tokens);
    base_free(v);
}

/* ---- encoding -------------------------------------------------------------------------------- */

void model_vocab_emit(struct vocab_sink *out, int32_t id)
{
    if (out->n < out->max)
        out->ids[out->n] = id;
    out->n++;
}

int model_vocab_encode_text(const struct vocab *v, struct span text, bool control,
                            struct vocab_sink *out, struct err *e)
{
    struct vocab_places p = {0};
    size_t at = 0;
    int rc = model_vocab_find_specials(v, text, control, &p, e);
    for (size_t i = 0; i <= p.n && rc == 0; i++) {
        const size_t end = i < p.n ? p.list[i].at : text.len;
        /* Each part begins the text or follows a special token. */
        if (end > at)
            rc = v->kind->encode(v, (struct span){text.ptr + at, end - at}, out, e);
        if (i == p.n || rc != 0)
            break;
        model_vocab_emit(out, v->specials[p.list[i].rank]);
        at = end + v->tokens[v->specials[p.list[i].rank]].text.len;
    }
    base_free(p.list);
    return rc;
}

int32_t model_vocab_special_at(const struct vocab *v, struct span text, size_t *len)
{
    for (size_t i = 0; i < v->n_specials; i++) {
        const struct span s = v->tokens[v->specials[i]].text;
        if (s.len <= text.len && memcmp(s.ptr, text.ptr, s.len) == 0) {
            *len = s.len;
            return v->specials[i];
        }
    }
    return -1;
}

int model_vocab_encode(const struct vocab *v, struct span text, unsigned flags, int32_t *ids,
                       size_t max, size_t *n, struct err *e)
{
    *n = text.len;
    if (text.len > TEXT_BYTES_MAX)
        return err_set(e, ERR_RANGE, "a text of %zu bytes is too long, at most %d are taken",
                       text.len, TEXT_BYTES_MAX);
    struct vocab_sink out = {.ids = ids, .max = max};
    const bool bos = (flags & MODEL_ENCODE_BOS) != 0;
    if (bos && v->add_bos && v->bos >= 0)
        model_vocab_emit(&out, v->bos);
    if (text.len > 0) {
        const int rc =
            model_vocab_encode_text(v, text, (flags & MODEL_ENCODE_SPECIAL) != 0, &out, e);
        if (rc != 0)
            return rc;
    }
    if (bos && v->add_eos && v->eos >= 0)
        model_vocab_emit(&out, v->eos);
    *n = out.n;
    if (out.n > max)
        return err_set(e, ERR_RANGE, "the text takes %zu tokens, there is room for %zu", out.n,
                       max);
    return 0;
}

/* ---- tokens ---------------------------------------------------------------------------------- */

uint32_t model_vocab_size(const struct vocab *v)
{
    return v->n;
}

struct span model_vocab_text(const struct vocab *v, int32_t id)
{
    if (id < 0 || (uint32_t)id >= v->n)
        return (struct span){NULL, 0};
    return v->tokens[id].plain;
}

bool model_vocab_space_prefix(const struct vocab *v)
{
    return v->space_prefix;
}

bool model_vocab_is_end(const struct vocab *v, int32_t id)
{
    return id >= 0 && (uint32_t)id < v->n && v->tokens[id].end;
}

int32_t model_vocab_bos(const struct vocab *v)
{
    return v->bos;
}

size_t model_vocab_ends(const struct vocab *v, int32_t *ids, size_t max)
{
    size_t n = 0;
    for (uint32_t id = 0; id < v->n && n < max; id++)
        if (v->tokens[id].end)
            ids[n++] = (int32_t)id;
    return n;
}
