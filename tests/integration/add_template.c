/* Copies a GGUF file and gives it a chat template, since the bundled model has none:
 *
 *   add_template IN OUT TEMPLATE
 *
 * Metadata and tensors are copied as they are. Left out: anything else that a file might need. */
#include "model/model.h"

#include <string.h>

static int copy(const char *in, const char *out, const char *template, struct err *e)
{
    struct gguf *g = NULL;
    struct gguf_writer *w = NULL;
    int rc = model_gguf_open(in, GGUF_WITH_DATA, &g, e);
    if (rc != 0)
        goto out;
    w = model_gguf_writer_new();
    if (w == NULL) {
        rc = err_set(e, ERR_NOMEM, "out of memory");
        goto out;
    }
    for (size_t i = 0; i < model_gguf_n_kv(g); i++)
        if (!base_span_is(model_gguf_kv_at(g, i)->key, "tokenizer.chat_template"))
            model_gguf_put_kv(w, model_gguf_kv_at(g, i));
    model_gguf_put_string(w, "tokenizer.chat_template", base_span_str(template));
    for (size_t i = 0; i < model_gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = model_gguf_tensor_at(g, i);
        char name[256] = "";
        memcpy(name, t->name.ptr, t->name.len < sizeof name ? t->name.len : sizeof name - 1);
        model_gguf_put_tensor(w, name, t->ggml_type, t->n_dims, t->dims, t->data);
    }
    rc = model_gguf_writer_finish(w, out, e);
out:
    model_gguf_writer_free(w);
    model_gguf_close(g);
    return rc;
}

int main(int argc, char **argv)
{
    struct err e = {0};
    if (argc != 4) {
        fprintf(stderr, "usage: add_template IN OUT TEMPLATE\n");
        return 2;
    }
    if (copy(argv[1], argv[2], argv[3], &e) == 0)
        return 0;
    fprintf(stderr, "add_template: %s\n", e.text);
    return 1;
}
