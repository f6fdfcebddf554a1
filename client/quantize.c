/* `shoal quantize`: a model file in a smaller type (model/quantise.c does it). */
#include "client/client.h"

#include <string.h>

static int unknown_type(const char *name, struct err *e)
{
    char list[100] = "";
    for (unsigned i = 0; model_quantise_type(i) != NULL; i++) {
        const size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i == 0 ? "" : ", ",
                 model_quantise_type(i));
    }
    return err_set(e, ERR_USAGE, "\"%.40s\" is no type to quantise to; there are %s", name, list);
}

int cli_quantize(const struct cli_options *o, struct err *e)
{
    const struct model_quantise c = {
        .type = o->args[2], .n_threads = cli_threads(o), .stop = cli_interrupted};
    struct model_quantised done;
    char before[24], after[24];
    const int rc = model_quantise_file(o->args[0], o->args[1], &c, &done, e);
    if (rc == ERR_USAGE)
        return unknown_type(c.type, e);
    if (rc != 0 || o->quiet)
        return rc;
    cli_say("%s: %s of tensors became %s", o->args[1], base_bytes_text(done.bytes_before, before),
            base_bytes_text(done.bytes_after, after));
    if (done.n_others > 0)
        cli_say("%u of %u matrices have rows that are not whole blocks of %s; they are Q8_0 or F16",
                done.n_others, done.n_matrices, c.type);
    return 0;
}
