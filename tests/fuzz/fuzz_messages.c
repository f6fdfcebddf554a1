/* Fuzz target: conversations as the wire carries them. What is taken must be whole and lie inside the
 * input, and packed again it is the input, since a conversation has one form only. */
#include "model/model.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MESSAGES_MAX = 64 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct model_message list[MESSAGES_MAX];
    struct base_buf again = {0};
    size_t n = 0;
    if (!model_messages_parse((struct span){data, size}, list, MESSAGES_MAX, &n))
        return 0;
    if (n > MESSAGES_MAX || model_messages_pack(list, n, &again) != 0 || again.len != size ||
        (size > 0 && memcmp(again.ptr, data, size) != 0))
        __builtin_trap();
    base_buf_deinit(&again);
    return 0;
}
