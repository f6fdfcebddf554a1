/* Models: what is opened and what is refused, cards and pieces. Files
 * come from tests/unit/tiny_model.c, each broken in one way; a refusal must be one sentence that
 * names the key or tensor, and must give back what it had taken. */
#include "tests/unit/tiny_model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static struct model *must_open(const struct tiny_model *c)
{
    struct model *m = NULL;
    struct err e = {0};
    if (tiny_model_open(c, &m, &e) != 0)
        fail_msg("%s", e.text);
    return m;
}

/* ---- opening --------------------------------------------------------------------------------- */

static void test_shape(void **state)
{
    (void)state;
    struct tiny_model c = tiny_model_default(KERN_Q8_0);
    c.head_dim = 80;
    struct model *m = must_open(&c);
    const struct model_shape *s = model_shape(m);
    assert_string_equal(s->arch, "llama");
    assert_int_equal(s->n_layers, 2);
    assert_int_equal(s->n_embd, 64);
    assert_int_equal(s->n_heads, 4);
    assert_int_equal(s->n_kv_heads, 2);
    assert_int_equal(s->head_dim, 80);
    assert_int_equal(s->n_ff, 160);
    assert_int_equal(s->n_vocab, 320);
    assert_int_equal(s->context, 64);
    assert_int_equal(s->rope, MODEL_ROPE_NORM);
    assert_int_equal(s->rope_dims, 80);
    assert_true(s->rope_base == 10000.0f && s->norm_eps == 1e-5f);
    assert_false(s->tied);
    assert_false(s->rope_factors);
    assert_int_equal(s->unit_heads, 2);
    assert_int_equal(s->n_head_units, 2);
    assert_int_equal(s->unit_cols, 64);
    assert_int_equal(s->n_ff_units, 3);
    assert_int_equal(s->vocab_run, 320);
    assert_int_equal(s->n_vocab_runs, 1);
    model_close(m);
}

/* What the architectures other than llama make of their keys. */
static void test_shapes_of_architectures(void **state)
{
    (void)state;
    struct tiny_model c = tiny_model_default(KERN_Q8_0);
    for (unsigned i = 0; i < TINY_N_ARCHS; i++) {
        tiny_model_set_arch(&c, tiny_archs[i]);
        c.head_dim = 48;
        struct model *m = must_open(&c);
        const struct model_shape *s = model_shape(m);
        bool llama = i == 0, gemma = strcmp(c.arch, "gemma3") == 0;
        assert_string_equal(s->arch, tiny_archs[i]);
        assert_int_equal(s->rope, llama ? MODEL_ROPE_NORM : MODEL_ROPE_NEOX);
        assert_int_equal(s->gate, gemma ? MODEL_GATE_GELU : MODEL_GATE_SILU);
        assert_true(s->rope_base == (llama ? 10000.0f : 1e6f));
        assert_true(s->embed_scale == (gemma ? 8.0f : 1.0f));
        assert_true(s->attention_scale == 1.0f / sqrtf(48.0f));
        assert_int_equal(model_shape_windowed(s, 0), gemma);
        assert_false(model_shape_windowed(s, 1));
        assert_int_equal(s->tied, gemma);
        assert_true(!gemma || (s->window == 7 && s->rope_base_window == 10000.0f));
        model_close(m);
    }
    c.window_pattern = 0;
    c.n_layers = 7;
    struct model *m = must_open(&c);
    for (uint32_t i = 0; i < 7; i++)
        assert_int_equal(model_shape_windowed(model_shape(m), i), i != 5);
    model_close(m);
    c.n_layers = 62; /* no key tells the 27B from the others */
    m = must_open(&c);
    assert_true(model_shape(m)->attention_scale == 0.25f);
    model_close(m);
}

static void test_unit_heads(void **state)
{
    (void)state;
    static const struct {
        uint32_t head_dim, unit_heads;
    } list[] = {{32, 1},  {64, 1}, {96, 1}, {128, 1}, {80, 2},
                {100, 8}, {16, 2}, {8, 4},  {2, 16},  {48, 2}};
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        struct tiny_model c = tiny_model_default(KERN_Q8_0);
        c.n_heads = c.n_kv_heads = 16;
        c.head_dim = list[i].head_dim;
        c.n_layers = 1;
        struct model *m = must_open(&c);
        assert_int_equal(model_shape(m)->unit_heads, list[i].unit_heads);
        model_close(m);
    }
}

static void test_vocabulary_runs(void **state)
{
    (void)state;
    struct tiny_model c = tiny_model_default(KERN_Q8_0);
    c.n_embd = 256;
    c.n_layers = 1;
    c.n_vocab = 2500;
    struct model *m = must_open(&c);
    const struct model_shape *s = model_shape(m);
    assert_int_equal(s->vocab_run % 16, 0);
    size_t bytes = model_piece_bytes(m, (struct model_piece){MODEL_PIECE_EMBED, 0, 0});
    assert_in_range(bytes, 240 * 1024, 256 * 1024);
    assert_int_equal(s->n_vocab_runs, (2500 + s->vocab_run - 1) / s->vocab_run);
    model_close(m);
}

static void odd_architecture(struct gguf_writer *w, void *arg)
{
    (void)arg;
    model_gguf_put_string(w, "general.architecture", base_span_str("mamba"));
}

struct odd_key {
    const char *key, *text; /* text NULL: a number */
    float number;
    bool is_float;
};

static void odd_key(struct gguf_writer *w, void *arg)
{
    const struct odd_key *k = arg;
    if (k->text != NULL)
        model_gguf_put_string(w, k->key, base_span_str(k->text));
    else if (k->is_float)
        model_gguf_put_f32(w, k->key, k->number);
    else
        model_gguf_put_u32(w, k->key, (uint32_t)k->number);
}

/* The file is refused with `code` and one sentence that names `named`; nothing leaks. */
static void refused(const struct tiny_model *c, int code, const char *named)
{
    struct model *m = NULL;
    struct err e = {0};
    int64_t live = base_alloc_live();
    int rc = tiny_model_open(c, &m, &e);
    if (rc != code || strstr(e.text, named) == NULL)
        fail_msg("\"%s\": %d \"%s\" instead of %d", named, rc, e.text, code);
    assert_null(m);
    assert_null(strchr(e.text, '\n'));
    assert_int_equal(base_alloc_live(), live);
}

static void test_refuses_keys(void **state)
{
    (void)state;
    static const struct {
        struct odd_key key;
        int code;
    } list[] = {
        {{"llama.expert_count", NULL, 8, false}, ERR_UNSUPPORTED},
        {{"llama.logit_scale", NULL, 0.5f, true}, ERR_UNSUPPORTED},
        {{"llama.attention.sliding_window", NULL, 4096, false}, ERR_UNSUPPORTED},
        {{"llama.rope.scaling.type", "yarn", 0, false}, ERR_UNSUPPORTED},
        {{"llama.rope.scaling.factor", NULL, 1e-6f, true}, ERR_RANGE},
        {{"llama.rope.freq_base", NULL, 0.5f, true}, ERR_RANGE},
        {{"llama.rope.freq_base", NULL, (float)NAN, true}, ERR_RANGE},
        {{"llama.attention.key_length", NULL, 33, false}, ERR_UNSUPPORTED},
        {{"llama.attention.value_length", NULL, 64, false}, ERR_UNSUPPORTED},
        {{"split.count", NULL, 3, false}, ERR_FORMAT},
    };
    static const char *const named[] = {"expert_count", "logit_scale", "sliding_window", "yarn",
                                        "scaling",      "freq_base",   "freq_base",      "33",
                                        "64",           "part 1 of 3"};
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        struct tiny_model c = tiny_model_default(KERN_F32);
        struct odd_key key = list[i].key;
        c.n_embd = 128; /* no head widths written by default */
        c.keys = odd_key;
        c.arg = &key;
        refused(&c, list[i].code, named[i]);
    }
    struct tiny_model gemma = tiny_model_default(KERN_F32);
    struct odd_key capped = {"gemma3.final_logit_softcapping", NULL, 30.0f, true};
    tiny_model_set_arch(&gemma, "gemma3");
    gemma.keys = odd_key;
    gemma.arg = &capped;
    refused(&gemma, ERR_UNSUPPORTED, "final_logit_softcapping");
    gemma.keys = NULL;
    gemma.window_pattern = 1000;
    refused(&gemma, ERR_RANGE, "sliding_window_pattern");
    /* Values that change nothing are taken. */
    struct tiny_model c = tiny_model_default(KERN_F32);
    struct odd_key key = {"llama.expert_count", NULL, 0, false};
    c.keys = odd_key;
    c.arg = &key;
    model_close(must_open(&c));
    key = (struct odd_key){"llama.rope.scaling.type", "none", 0, false};
    model_close(must_open(&c));
}

static void test_refuses_what_is_missing(void **state)
{
    (void)state;
    static const char *const list[] = {"general.architecture",
                                       "llama.block_count",
                                       "llama.embedding_length",
                                       "llama.feed_forward_length",
                                       "llama.context_length",
                                       "llama.attention.head_count",
                                       "llama.attention.layer_norm_rms_epsilon",
                                       "token_embd.weight",
                                       "output_norm.weight",
                                       "blk.0.attn_norm.weight",
                                       "blk.1.attn_k.weight",
                                       "blk.1.ffn_down.weight"};
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        struct tiny_model c = tiny_model_default(KERN_F32);
        c.omit = list[i];
        refused(&c, ERR_FORMAT, list[i]);
    }
    static const struct {
        const char *arch, *named;
    } needed[] = {
        {"qwen2", "blk.0.attn_q.bias"},           {"qwen2", "blk.1.attn_v.bias"},
        {"qwen3", "blk.1.attn_q_norm.weight"},    {"qwen3", "qwen3.block_count"},
        {"gemma3", "blk.0.attn_k_norm.weight"},   {"gemma3", "blk.0.post_attention_norm.weight"},
        {"gemma3", "blk.1.post_ffw_norm.weight"}, {"gemma3", "gemma3.attention.sliding_window"},
    };
    for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++) {
        struct tiny_model c = tiny_model_default(KERN_F32);
        tiny_model_set_arch(&c, needed[i].arch);
        c.omit = needed[i].named;
        refused(&c, ERR_FORMAT, needed[i].named);
    }
    /* Absent output means tied, absent biases and KV count have their defaults. */
    struct tiny_model c = tiny_model_default(KERN_F32);
    c.omit = "output.weight";
    struct model *m = must_open(&c);
    assert_true(model_shape(m)->tied);
    model_close(m);
    c.n_kv_heads = c.n_heads;
    c.omit = "llama.attention.head_count_kv";
    m = must_open(&c);
    assert_int_equal(model_shape(m)->n_kv_heads, 4);
    model_close(m);
}

static void test_refuses_tensors(void **state)
{
    (void)state;
    static const struct {
        const char *tensor;
        uint32_t type;
        uint64_t cols, rows;
        int code;
    } list[] = {
        {"blk.0.attn_q.weight", 0, 64, 64, ERR_FORMAT},
        {"blk.0.attn_k.weight", 0, 128, 64, ERR_FORMAT},
        {"blk.1.ffn_down.weight", 0, 64, 160, ERR_FORMAT},
        {"blk.1.ffn_norm.weight", 0, 65, 1, ERR_FORMAT},
        {"blk.1.ffn_norm.weight", 1, 64, 1, ERR_UNSUPPORTED},
        {"output.weight", 0, 64, 319, ERR_FORMAT},
        {"token_embd.weight", 0, 64, 319, ERR_FORMAT},         /* against the vocabulary */
        {"blk.0.ffn_up.weight", 9, 64, 160, ERR_UNSUPPORTED},  /* Q8_1 */
        {"blk.0.ffn_up.weight", 26, 64, 160, ERR_UNSUPPORTED}, /* I32 */
    };
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        struct tiny_model c = tiny_model_default(KERN_F32);
        c.odd_tensor = list[i].tensor;
        c.odd_type = list[i].type;
        c.odd_dims[0] = list[i].cols;
        c.odd_dims[1] = list[i].rows;
        refused(&c, list[i].code, list[i].tensor);
    }
    static const char *const extra[] = {"blk.0.ffn_gate.bias",
                                        "blk.0.attn_q_norm.weight",
                                        "blk.2.attn_norm.weight",
                                        "blk.00.attn_q.bias",
                                        "blk.0.",
                                        "rope_factors_long.weight",
                                        "blk.99999999999.x",
                                        "attn_norm.weight",
                                        "blk.0.token_embd.weight"};
    for (size_t i = 0; i < sizeof extra / sizeof extra[0]; i++) {
        struct tiny_model c = tiny_model_default(KERN_F32);
        c.extra_tensor = extra[i];
        refused(&c, ERR_UNSUPPORTED, extra[i]);
    }
}

/* A tensor that one architecture has is refused in another. */
static void test_refuses_strangers(void **state)
{
    (void)state;
    static const struct {
        const char *arch, *tensor;
    } list[] = {
        {"qwen2", "blk.0.attn_output.bias"},   {"qwen2", "rope_freqs.weight"},
        {"qwen2", "blk.0.attn_q_norm.weight"}, {"qwen3", "blk.0.attn_q.bias"},
        {"gemma3", "blk.1.ffn_down.bias"},     {"llama", "blk.0.post_ffw_norm.weight"},
    };
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        struct tiny_model c = tiny_model_default(KERN_F32);
        tiny_model_set_arch(&c, list[i].arch);
        c.extra_tensor = list[i].tensor;
        refused(&c, ERR_UNSUPPORTED, list[i].tensor);
    }
}

static void test_refuses_shapes(void **state)
{
    (void)state;
    struct tiny_model c = tiny_model_default(KERN_F32);
    c.keys = odd_architecture;
    c.omit = "general.architecture";
    refused(&c, ERR_UNSUPPORTED, "mamba");
    c = tiny_model_default(KERN_F32);
    c.n_kv_heads = 3;
    refused(&c, ERR_UNSUPPORTED, "3 KV heads");
    c = tiny_model_default(KERN_F32);
    c.head_dim = 20; /* eight heads make 32-column blocks; there are four */
    refused(&c, ERR_UNSUPPORTED, "32-column");
    c = tiny_model_default(KERN_F32);
    c.n_layers = 0;
    refused(&c, ERR_RANGE, "block_count");
    c = tiny_model_default(KERN_F32);
    c.head_dim = 1024;
    refused(&c, ERR_RANGE, "key_length");
    c = tiny_model_default(KERN_F32);
    c.n_heads = 512;
    c.n_kv_heads = 1;
    refused(&c, ERR_RANGE, "head_count");
}

/* ---- cards and pieces ------------------------------------------------------------------------ */

static void check_card(const struct tiny_model *c)
{
    struct model *m = must_open(c), *from_card = NULL;
    struct base_buf card = {0}, again = {0};
    struct err e = {0};
    assert_int_equal(model_card_write(m, &card, &e), 0);
    assert_in_range(card.len, 500, 8 * 1024);
    if (model_open_card((struct span){card.ptr, card.len}, &from_card, &e) != 0)
        fail_msg("%s", e.text);
    const struct model_shape *a = model_shape(m), *b = model_shape(from_card);
    assert_ptr_equal(a->arch, b->arch);
    assert_int_equal(a->n_vocab, b->n_vocab);
    assert_int_equal(a->vocab_run, b->vocab_run);
    assert_int_equal(a->head_dim, b->head_dim);
    assert_int_equal(a->n_ff_units, b->n_ff_units);
    assert_int_equal(a->rope_factors, b->rope_factors);
    assert_int_equal(a->window, b->window);
    assert_true(a->attention_scale == b->attention_scale && a->embed_scale == b->embed_scale);
    assert_int_equal(model_n_pieces(m), model_n_pieces(from_card));
    for (uint32_t i = 0; i < model_n_pieces(m); i++)
        assert_int_equal(model_piece_bytes(m, model_piece_at(m, i)),
                         model_piece_bytes(from_card, model_piece_at(from_card, i)));
    assert_int_equal(model_card_write(from_card, &again, &e), 0);
    assert_int_equal(card.len, again.len);
    assert_memory_equal(card.ptr, again.ptr, card.len);
    /* A cut-off card is an error, whatever the length; the card is copied, so it may go. */
    for (size_t len = 0; len < card.len; len += 7) {
        struct model *none = NULL;
        uint8_t *part = malloc(len + 1);
        assert_non_null(part);
        memcpy(part, card.ptr, len);
        if (model_open_card((struct span){part, len}, &none, &e) == 0)
            fail_msg("a card of %zu bytes out of %zu was taken", len, card.len);
        free(part);
    }
    base_buf_deinit(&card);
    assert_int_equal(model_gguf_n_tensors(model_gguf(from_card)),
                     model_gguf_n_tensors(model_gguf(m)));
    base_buf_deinit(&again);
    model_close(from_card);
    model_close(m);
}

static void test_card(void **state)
{
    (void)state;
    struct tiny_model c = tiny_model_default(KERN_Q8_0);
    c.n_vocab = 3000;
    for (unsigned i = 0; i < TINY_N_ARCHS; i++) {
        tiny_model_set_arch(&c, tiny_archs[i]);
        c.biases = c.rope_factors = i == 0;
        check_card(&c);
    }
}

static void test_piece_numbers(void **state)
{
    (void)state;
    struct tiny_model c = tiny_model_default(KERN_Q8_0);
    for (unsigned factors = 0; factors < 2; factors++) {
        c.rope_factors = factors != 0;
        struct model *m = must_open(&c);
        const struct model_shape *s = model_shape(m);
        uint32_t n = model_n_pieces(m), all[256];
        for (uint32_t i = 0; i < n; i++) {
            struct model_piece p = model_piece_at(m, i);
            assert_int_equal(model_piece_number(m, p), i);
            assert_int_not_equal(model_piece_bytes(m, p), 0);
            assert_int_equal(model_piece_bytes(m, p) % KERN_ALIGN, 0);
        }
        struct model_slice whole = model_slice_layers(m, 0, s->n_layers);
        assert_int_equal(model_slice_pieces(m, &whole, all, 256), n);
        for (uint32_t i = 0; i < n; i++)
            assert_int_equal(all[i], i);
        const struct model_piece none[] = {{MODEL_PIECE_HEAD, 0, s->n_head_units},
                                           {MODEL_PIECE_HEAD, s->n_layers, 0},
                                           {MODEL_PIECE_KV, 0, s->n_kv_heads},
                                           {MODEL_PIECE_FFN, 1, s->n_ff_units},
                                           {MODEL_PIECE_COMMON, 0, 1},
                                           {MODEL_PIECE_EMBED, 1, 0},
                                           {MODEL_PIECE_EMBED, 0, s->n_vocab_runs},
                                           {MODEL_N_PIECE_KINDS, 0, 0}};
        for (size_t i = 0; i < sizeof none / sizeof none[0]; i++)
            assert_int_equal(model_piece_bytes(m, none[i]), 0);
        assert_int_equal(model_piece_bytes(m, (struct model_piece){MODEL_PIECE_GLOBAL, 0, 0}) != 0,
                         factors);
        model_close(m);
    }
}

/* Every byte is written, the same ones each time; tied output pieces are the embedding's. */
static void check_piece_bytes(const struct tiny_model *c)
{
    struct model *m = must_open(c);
    uint32_t n = model_n_pieces(m);
    for (uint32_t i = 0; i < n; i++) {
        struct model_piece p = model_piece_at(m, i);
        size_t bytes = model_piece_bytes(m, p);
        uint8_t *a = aligned_alloc(KERN_ALIGN, bytes), *b = aligned_alloc(KERN_ALIGN, bytes);
        assert_true(a != NULL && b != NULL);
        memset(a, 0xaa, bytes);
        memset(b, 0x55, bytes);
        model_piece_pack(m, p, a);
        model_piece_pack(m, p, b);
        assert_memory_equal(a, b, bytes);
        if (p.kind == MODEL_PIECE_OUTPUT) {
            model_piece_pack(m, (struct model_piece){MODEL_PIECE_EMBED, 0, p.index}, b);
            assert_memory_equal(a, b, bytes);
        }
        free(a);
        free(b);
    }
    model_close(m);
}

static void test_piece_bytes(void **state)
{
    (void)state;
    struct tiny_model c = tiny_model_default(KERN_Q4_0);
    c.biases = c.rope_factors = c.tied = true;
    c.n_embd = 96;
    c.n_vocab = 333;
    c.head_dim = 40; /* biases that do not fill their last 64 bytes */
    check_piece_bytes(&c);
    c.biases = c.rope_factors = false;
    for (unsigned i = 1; i < TINY_N_ARCHS; i++) {
        tiny_model_set_arch(&c, tiny_archs[i]);
        c.tied = true;
        check_piece_bytes(&c);
    }
}

/* Norms of heads and of outputs stand behind those that every model has. */
static void test_common_piece_content(void **state)
{
    (void)state;
    static const char *const parts[] = {"attn_norm",           "ffn_norm",
                                        "attn_q_norm",         "attn_k_norm",
                                        "post_attention_norm", "post_ffw_norm"};
    struct tiny_model c = tiny_model_default(KERN_Q8_0);
    tiny_model_set_arch(&c, "gemma3");
    struct model *m = must_open(&c);
    struct model_piece p = {MODEL_PIECE_COMMON, 1, 0};
    uint8_t *bytes = aligned_alloc(KERN_ALIGN, model_piece_bytes(m, p)), *at = bytes;
    assert_non_null(bytes);
    model_piece_pack(m, p, bytes);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        char name[64];
        snprintf(name, sizeof name, "blk.1.%s.weight", parts[i]);
        const struct gguf_tensor *t = model_gguf_tensor(model_gguf(m), name);
        assert_non_null(t);
        assert_memory_equal(at, t->data, t->bytes);
        at += base_round_up(t->bytes, KERN_ALIGN);
    }
    assert_int_equal(at - bytes, model_piece_bytes(m, p));
    free(bytes);
    model_close(m);
}

/* Columns of attn_output cut out of the middle of super-blocks: heads of 96 begin at 0, 96, 192. */
static void test_cut_super_blocks(void **state)
{
    (void)state;
    struct tiny_model c = tiny_model_default(KERN_Q4_K);
    c.type[TINY_ATTN_OUT] = KERN_Q6_K;
    c.head_dim = 96;
    c.n_heads = 8;
    struct model *m = must_open(&c);
    double row[768];
    float got[96];
    for (uint32_t u = 0; u < 8; u++) {
        struct model_piece p = {MODEL_PIECE_HEAD, 0, u};
        uint8_t *bytes = aligned_alloc(KERN_ALIGN, model_piece_bytes(m, p));
        assert_non_null(bytes);
        model_piece_pack(m, p, bytes);
        struct kern_matrix w;
        uint32_t skip = kern_column_skip(KERN_Q6_K, 96 * u);
        size_t at = kern_packed_bytes(KERN_Q4_K, 96, 256, 0);
        assert_int_equal(skip, 96 * u % 256);
        kern_matrix_bind(&w, KERN_Q6_K, 256, 96, skip, bytes + at);
        for (uint32_t r = 0; r < 256; r++) {
            kern_matrix_row(&w, r, got);
            tiny_tensor_row(model_gguf_tensor(model_gguf(m), "blk.0.attn_output.weight"), r, row);
            for (uint32_t i = 0; i < 96; i++)
                assert_true(fabs((double)got[i] - row[96 * u + i]) <= 1e-6 * fabs(row[96 * u + i]));
        }
        assert_int_equal(model_piece_bytes(m, p), at + kern_packed_bytes(KERN_Q6_K, 256, 96, skip));
        free(bytes);
    }
    model_close(m);
}

/* A head piece, part by part, against the file: rows of Q, their bias, columns of the output. */
static void test_head_piece_content(void **state)
{
    (void)state;
    struct tiny_model c = tiny_model_default(KERN_Q8_0);
    c.biases = true;
    c.head_dim = 80;
    struct model *m = must_open(&c);
    const struct gguf *g = model_gguf(m);
    struct model_piece p = {MODEL_PIECE_HEAD, 1,
                            1}; /* heads 2 and 3: rows and columns from 160 on */
    uint8_t *bytes = aligned_alloc(KERN_ALIGN, model_piece_bytes(m, p));
    double row[320];
    float got[320];
    struct kern_matrix w;
    assert_non_null(bytes);
    model_piece_pack(m, p, bytes);
    kern_matrix_bind(&w, KERN_Q8_0, 160, 64, 0, bytes);
    for (uint32_t r = 0; r < 160; r++) {
        kern_matrix_row(&w, r, got);
        tiny_tensor_row(model_gguf_tensor(g, "blk.1.attn_q.weight"), 160 + r, row);
        for (uint32_t i = 0; i < 64; i++)
            assert_true(got[i] == (float)row[i]);
    }
    size_t at = kern_packed_bytes(KERN_Q8_0, 160, 64, 0);
    tiny_tensor_row(model_gguf_tensor(g, "blk.1.attn_q.bias"), 0, row);
    memcpy(got, bytes + at, 160 * sizeof *got);
    for (uint32_t i = 0; i < 160; i++)
        assert_true(got[i] == (float)row[160 + i]);
    at += 640;
    kern_matrix_bind(&w, KERN_Q8_0, 64, 160, 0, bytes + at);
    for (uint32_t r = 0; r < 64; r++) {
        kern_matrix_row(&w, r, got);
        tiny_tensor_row(model_gguf_tensor(g, "blk.1.attn_output.weight"), r, row);
        for (uint32_t i = 0; i < 160; i++)
            assert_true(got[i] == (float)row[160 + i]);
    }
    assert_int_equal(model_piece_bytes(m, p), at + kern_packed_bytes(KERN_Q8_0, 64, 160, 0));
    free(bytes);
    model_close(m);
}

static void test_open_out_of_memory(void **state)
{
    (void)state;
    struct tiny_model c = tiny_model_default(KERN_Q8_0);
    char path[] = "/tmp/shoal-model-XXXXXX";
    struct err e = {0};
    struct model *m = NULL;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    assert_true(tiny_model_write(&c, path, &e));
    int64_t live = base_alloc_live();
    int rc = ERR_NOMEM;
    for (uint64_t n = 1; rc != 0; n++) {
        assert_true(n < 1000);
        base_alloc_fail_nth(n);
        rc = model_open(path, &m, &e);
        base_alloc_fail_nth(0);
        assert_true(rc == 0 || rc == ERR_NOMEM);
        assert_true(rc == 0 || base_alloc_live() == live);
    }
    unlink(path);
    model_close(m);
    assert_int_equal(base_alloc_live(), live);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shape),
        cmocka_unit_test(test_shapes_of_architectures),
        cmocka_unit_test(test_unit_heads),
        cmocka_unit_test(test_vocabulary_runs),
        cmocka_unit_test(test_refuses_keys),
        cmocka_unit_test(test_refuses_what_is_missing),
        cmocka_unit_test(test_refuses_tensors),
        cmocka_unit_test(test_refuses_strangers),
        cmocka_unit_test(test_refuses_shapes),
        cmocka_unit_test(test_card),
        cmocka_unit_test(test_piece_numbers),
        cmocka_unit_test(test_piece_bytes),
        cmocka_unit_test(test_head_piece_content),
        cmocka_unit_test(test_common_piece_content),
        cmocka_unit_test(test_cut_super_blocks),
        cmocka_unit_test(test_open_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
