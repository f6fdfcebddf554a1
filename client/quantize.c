/* `shoal quantize`: a model file in a smaller type (model/quantise.c does it). */
#include "client/client.h"

int cli_quantize(const struct cli_options *o, struct err *e)
{
    const struct model_quantise c = {
        .type = o->args[2], .n_threads = cli_threads(o), .stop = cli_interrupted};
    struct model_quantised done;
    char before[24], after[24];
    const int rc = model_quantise_file(o->args[0], o->args[1], &c, &done, e);
    if (rc != 0 || o->quiet)
        return rc;
    cli_say("%s: %s of tensors became %s, the layers' weights are %.2f %% off", o->args[1],
            base_bytes_text(done.bytes_before, before), base_bytes_text(done.bytes_after, after),
            100 * done.loss);
    if (done.n_others > 0)
        cli_say(
            "%u of %u matrices have rows that are not whole blocks of their type; they are Q8_0 "
            "or F16",
            done.n_others, done.n_matrices);
    return 0;
}
