/* What Shoal knows about storage types, and views of activations and KV rows. A type is a row of
 * the table below; everything that depends on block sizes asks it, so that a new type is one row
 * here, one case in pack.c and one line per kernel. The order is that of enum kern_type; the number
 * of a type in GGUF files is a column, because files have more types than there are kernels. */
#include "kernels/internal.h"

#include <assert.h>

static const struct kern_type_info type_info[KERN_N_TYPES] = {
    [KERN_F32] = {"F32", 0, 1, 4, false},
    [KERN_F16] = {"F16", 1, 1, 2, false},
    [KERN_BF16] = {"BF16", 30, 1, 2, false},
    [KERN_Q8_0] = {"Q8_0", 8, KERN_BLOCK, 34, true}, /* F16 scale, 32 int8 */
    [KERN_Q4_0] = {"Q4_0", 2, KERN_BLOCK, 18, true}, /* F16 scale, 16 bytes of nibbles */
};

const struct kern_type_info *kern_type_info(enum kern_type type)
{
    assert((unsigned)type < KERN_N_TYPES);
    return &type_info[type];
}

bool kern_type_from_ggml(uint32_t ggml, enum kern_type *out)
{
    for (unsigned i = 0; i < KERN_N_TYPES; i++) {
        if (type_info[i].ggml == ggml) {
            *out = (enum kern_type)i;
            return true;
        }
    }
    return false;
}

struct kern_act kern_act_columns(struct kern_act x, uint32_t col)
{
    assert(col % KERN_BLOCK == 0);
    if (x.f != NULL)
        x.f += col;
    if (x.q != NULL)
        x.q += col;
    if (x.a != NULL)
        x.a += col / KERN_BLOCK;
    if (x.h != NULL)
        x.h += col / 16;
    return x;
}

size_t kern_kv_row_bytes(enum kern_kv_type type, uint32_t head_dim)
{
    assert((unsigned)type < KERN_N_KV_TYPES);
    return (size_t)head_dim * (type == KERN_KV_F16 ? 2 : 4);
}
