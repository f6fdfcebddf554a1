/* Fuzz target: the GGUF reader and the vocabulary over arbitrary bytes. Whatever opens is walked
 * whole, and every tensor's data is read, so that a span that reaches outside the file is seen by
 * the address sanitizer. A vocabulary that opens must encode and decode without losing bytes'
 * tokens, and a chat template that is recognised must write a conversation in it. */
#include "model/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint64_t touched; /* keeps the reads from being optimised away */

static void touch(const uint8_t *p, size_t n)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += p[i];
    touched += sum;
}

static void walk(const struct gguf *g)
{
    for (size_t i = 0; i < model_gguf_n_kv(g); i++) {
        const struct gguf_kv *kv = model_gguf_kv_at(g, i);
        struct span s;
        size_t cursor = 0;
        touch(kv->key.ptr, kv->key.len);
        touch(kv->bytes.ptr, kv->bytes.len);
        while (model_gguf_next_string(kv, &cursor, &s))
            touch(s.ptr, s.len);
    }
    for (size_t i = 0; i < model_gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = model_gguf_tensor_at(g, i);
        touch(t->name.ptr, t->name.len);
        if (t->data != NULL)
            touch(t->data, (size_t)t->bytes);
    }
}

/* Whatever the template is, what it writes are tokens of the vocabulary. */
static void talk(const struct gguf *g, const struct vocab *v)
{
    static const uint8_t text[] = " a</s>\n";
    const struct model_message list[] = {{MODEL_ROLE_USER, {text, sizeof text - 1}},
                                         {MODEL_ROLE_ASSISTANT, {text, sizeof text - 1}},
                                         {MODEL_ROLE_USER, {text, 0}}};
    const struct model_chat *c;
    struct err e;
    int32_t ids[1024];
    size_t n = 0;
    if (model_chat_find(g, &c, &e) != 0 || model_chat_encode(c, v, list, 3, ids, 1024, &n, &e) != 0)
        return;
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= model_vocab_size(v))
            __builtin_trap();
}

static void speak(const struct gguf *g)
{
    static const char text[] =
        "In the  beginning\n\xe2\x96\x81<s></s> caf\xc3\xa9 \xf0\x9f\xa6\x99 \xff\xe2";
    struct vocab *v;
    struct err e;
    int32_t ids[256];
    size_t n = 0;
    if (model_vocab_open(g, &v, &e) != 0)
        return;
    for (unsigned flags = 0; flags < 4; flags++) {
        const int rc = model_vocab_encode(v, (struct span){(const uint8_t *)text, sizeof text - 1},
                                          flags, ids, sizeof ids / sizeof ids[0], &n, &e);
        for (size_t i = 0; rc == 0 && i < n; i++) {
            const struct span s = model_vocab_text(v, ids[i]);
            if (ids[i] < 0 || (uint32_t)ids[i] >= model_vocab_size(v))
                __builtin_trap();
            touch(s.ptr, s.len);
        }
    }
    for (uint32_t id = 0; id < model_vocab_size(v); id++) {
        const struct span s = model_vocab_text(v, (int32_t)id);
        touch(s.ptr, s.len);
    }
    talk(g, v);
    model_vocab_close(v);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const int modes[] = {GGUF_WITH_DATA, GGUF_METADATA_ONLY};
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        struct gguf *g;
        struct err e;
        if (model_gguf_open_bytes((struct span){data, size}, modes[i], &g, &e) != 0)
            continue;
        walk(g);
        speak(g);
        model_gguf_close(g);
    }
    return 0;
}
