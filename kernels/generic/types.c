/* What Shoal knows about storage types, and views of activations and KV rows. A type is a row of
 * types.def; everything that depends on block sizes asks here, so that a new type is one row there,
 * its cases in pack.c and product.h, and one line per kernel. The number of a type in GGUF files is
 * a column, because files have more types than there are kernels. */
#include "kernels/internal.h"

#include <assert.h>

static const struct kern_type_info type_info[KERN_N_TYPES] = {
#define TYPE(id, name, ggml, cols, bytes, integer, super, head, scales, quants)                    \
    [KERN_##id] = {name, ggml, cols, bytes, integer, super, head, scales, quants},
#include "kernels/types.def"
};

/* Blocks of quants are whole lines, so every segment and every group of an integer type starts on
 * one. */
#define TYPE(id, name, ggml, cols, bytes, integer, super, head, scales, quants)                    \
    _Static_assert((quants) % KERN_ALIGN == 0 || !(integer), "quants of " name);                   \
    _Static_assert((cols) == ((super)     ? KERN_SEGMENT                                           \
                              : (integer) ? KERN_BLOCK                                             \
                                          : 1),                                                    \
                   "columns of " name);
#include "kernels/types.def"

const int8_t kern_iq4nl[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                               1,    13,   25,  38,  53,  69,  89,  113};

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

uint32_t kern_type_cut(enum kern_type type)
{
    return kern_type_info(type)->integer ? KERN_BLOCK : 1;
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
    if (x.s != NULL)
        x.s += col / KERN_BLOCK;
    if (x.h != NULL)
        x.h += col / 16;
    return x;
}

size_t kern_kv_row_bytes(enum kern_kv_type type, uint32_t head_dim)
{
    assert((unsigned)type < KERN_N_KV_TYPES);
    if (type == KERN_KV_Q8_0)
        return head_dim % KERN_BLOCK == 0 ? (size_t)head_dim + head_dim / KERN_BLOCK * 2 : 0;
    return (size_t)head_dim * (type == KERN_KV_F16 ? 2 : 4);
}
