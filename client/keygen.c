/* `shoal keygen DIR NAME...`: CURVE key pairs, NAME.pub and NAME.secret, in a folder that is made
 * where it is missing.
 *
 * The invariant: a key that exists is never replaced, since whoever has the old public key would be
 * cut off by a new one. Such a pair is named and left alone, the other pairs are made all the same,
 * and the command has failed. Names are checked before the first pair is made. Left out: taking
 * keys away; that is removing two files. */
#include "client/client.h"

int cli_keygen(const struct cli_options *o, struct err *e)
{
    int rc = 0;
    for (int i = 1; i < o->n_args; i++)
        if (!net_name_ok(o->args[i]))
            return err_set(e, ERR_USAGE,
                           "\"%.80s\" is no name: a name is 1 to %d of a-z, 0-9 and -", o->args[i],
                           NET_NAME_MAX - 1);
    for (int i = 1; i < o->n_args; i++) {
        struct err one = {0};
        const int made = net_keygen(o->args[0], o->args[i], &one);
        if (made == 0) {
            if (!o->quiet)
                cli_say("made %s/%s.pub and %s.secret", o->args[0], o->args[i], o->args[i]);
            continue;
        }
        cli_say("shoal keygen: %s", one.text);
        rc = made;
    }
    return rc == 0 ? 0 : err_set(e, rc, "%s", "");
}
