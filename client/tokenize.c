/* `shoal tokenize`: the ids of a text, on one line or as JSON.
 *
 * Only the vocabulary is read, so files of other architectures, and files without tensors, will do.
 * Text is text: control tokens written out in it are parsed only with --special, and BOS comes
 * where the file asks for it unless --no-bos is given. The ids are those that a prompt of the same
 * text has. */
#include "client/client.h"

static int print_json(struct span text, const int32_t *ids, uint32_t n, struct err *e)
{
    json_t *o = json_object(), *list = json_array();
    int bad = json_object_set_new(o, "text", cli_json_text(text));
    for (uint32_t i = 0; i < n; i++)
        bad |= json_array_append_new(list, json_integer(ids[i]));
    bad |= json_object_set_new(o, "ids", list);
    return cli_json_print(o, bad != 0, e);
}

int cli_tokenize(const struct cli_options *o, struct err *e)
{
    const unsigned flags =
        (o->no_bos ? 0u : MODEL_ENCODE_BOS) | (o->special ? MODEL_ENCODE_SPECIAL : 0u);
    const struct span text = base_span_str(o->args[0]);
    struct gguf *g = NULL;
    struct vocab *v = NULL;
    int32_t *ids = NULL;
    uint32_t n = 0;
    int rc = model_gguf_open(o->model, GGUF_VOCABULARY, &g, e);
    if (rc == 0)
        rc = model_vocab_open(g, &v, e);
    if (rc == 0)
        rc = cli_encode(v, text, flags, &ids, &n, e);
    if (rc == 0 && o->json) {
        rc = print_json(text, ids, n, e);
    } else if (rc == 0) {
        for (uint32_t i = 0; i < n; i++)
            printf("%s%d", i == 0 ? "" : " ", ids[i]);
        putchar('\n');
    }
    base_free(ids);
    model_vocab_close(v);
    model_gguf_close(g);
    return rc;
}
