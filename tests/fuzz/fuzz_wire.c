/* Fuzz target: the decoder of every message. The first two bytes are the code, the rest is the
 * body. What decodes must encode to the same bytes, which also reads every field to its end. */
#include "net/net.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct net_msg m;
    enum net_code code;
    uint8_t *again;

    if (size < 2)
        return 0;
    code = (enum net_code)(data[0] | data[1] << 8);
    if (!net_msg_decode(code, (struct span){data + 2, size - 2}, &m))
        return 0;
    if (net_msg_name(code) == NULL || net_msg_bytes(&m) != size - 2)
        __builtin_trap();
    again = malloc(size);
    if (again == NULL)
        return 0;
    net_msg_encode(&m, again);
    if (memcmp(again, data + 2, size - 2) != 0)
        __builtin_trap();
    free(again);
    return 0;
}
