/* `shoal config -c FILE`: the configuration as it was understood, for people who wonder and scripts
 * that need a value (deploy/cluster.sh). What is printed is such a file itself, one key a line, with
 * the defaults filled in; a key that has no value, such as `memory` where a board decides, is left
 * out. It asks nobody: the model and the keys need not be there. */
#include "client/client.h"

int cli_config(const struct cli_options *o, struct err *e)
{
    struct net_config *c = base_alloc(sizeof *c);
    int rc = c == NULL ? err_set(e, ERR_NOMEM, "out of memory") : net_config_read(o->config, c, e);
    if (rc == 0)
        net_config_print(c, stdout);
    base_free(c);
    return rc;
}
