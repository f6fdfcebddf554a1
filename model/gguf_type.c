/* The facts of the GGUF format that reading and writing share: ggml's storage types with their
 * block sizes, and the rules for shapes and alignment.
 *
 * Types that can be computed with are stated in the kernels' own table, the others here, so that
 * `inspect` can name and size every published file and the reader can check that tensors do not
 * overlap, whatever their type. Numbers that ggml gave up (4, 5, 31 to 33, 36 to 38) are unknown.
 */
#include "model/gguf.h"

#include "kernels/kernels.h"

#include <string.h>

/* What no kernel computes with. */
static const struct gguf_type_info types[] = {
    [9] = {"Q8_1", 32, 36},      [10] = {"Q2_K", 256, 84},    [11] = {"Q3_K", 256, 110},
    [15] = {"Q8_K", 256, 292},   [16] = {"IQ2_XXS", 256, 66}, [17] = {"IQ2_XS", 256, 74},
    [18] = {"IQ3_XXS", 256, 98}, [19] = {"IQ1_S", 256, 50},   [21] = {"IQ3_S", 256, 110},
    [22] = {"IQ2_S", 256, 82},   [23] = {"IQ4_XS", 256, 136}, [24] = {"I8", 1, 1},
    [25] = {"I16", 1, 2},        [26] = {"I32", 1, 4},        [27] = {"I64", 1, 8},
    [28] = {"F64", 1, 8},        [29] = {"IQ1_M", 256, 56},   [34] = {"TQ1_0", 256, 54},
    [35] = {"TQ2_0", 256, 66},   [39] = {"MXFP4", 32, 17},    [40] = {"NVFP4", 64, 36},
    [41] = {"Q1_0", 128, 18},    [42] = {"Q2_0", 64, 18},
};

bool model_gguf_type_info(uint32_t ggml_type, struct gguf_type_info *out)
{
    enum kern_type type;
    if (kern_type_from_ggml(ggml_type, &type)) {
        const struct kern_type_info *info = kern_type_info(type);
        *out = (struct gguf_type_info){info->name, info->block_cols, info->block_bytes};
        return true;
    }
    if (ggml_type >= sizeof types / sizeof types[0] || types[ggml_type].name == NULL)
        return false;
    *out = types[ggml_type];
    return true;
}

const char *model_gguf_type_name(uint32_t ggml_type)
{
    struct gguf_type_info info;
    return model_gguf_type_info(ggml_type, &info) ? info.name : NULL;
}

int model_gguf_shape_bytes(uint32_t ggml_type, uint32_t n_dims, const uint64_t *dims,
                           uint64_t *bytes, struct err *e)
{
    if (n_dims < 1 || n_dims > GGUF_DIMS_MAX)
        return err_set(e, ERR_FORMAT, "it has %u dimensions, 1 to %d are possible", n_dims,
                       GGUF_DIMS_MAX);
    uint64_t n = 1;
    for (uint32_t d = 0; d < n_dims; d++) {
        if (dims[d] == 0)
            return err_set(e, ERR_FORMAT, "dimension %u is 0", d);
        if (__builtin_mul_overflow(n, dims[d], &n) || n > INT64_MAX)
            return err_set(e, ERR_FORMAT, "the product of its dimensions is past 2^63");
    }
    *bytes = 0;
    struct gguf_type_info info;
    if (!model_gguf_type_info(ggml_type, &info))
        return 0;
    if (dims[0] % info.block_cols != 0)
        return err_set(e, ERR_FORMAT, "its rows of %llu values are not whole %s blocks of %u",
                       (unsigned long long)dims[0], info.name, info.block_cols);
    if (__builtin_mul_overflow(n / info.block_cols, (uint64_t)info.block_bytes, bytes) ||
        *bytes > INT64_MAX)
        return err_set(e, ERR_FORMAT, "it would take more than 2^63 bytes");
    return 0;
}

bool model_gguf_alignment_ok(uint64_t alignment)
{
    return alignment >= GGUF_ALIGNMENT_MIN && alignment <= GGUF_ALIGNMENT_MAX &&
           (alignment & (alignment - 1)) == 0;
}

const char *model_gguf_printable(struct span s, char out[static GGUF_PRINTABLE_MAX])
{
    const size_t room = GGUF_PRINTABLE_MAX - 1;
    const size_t n = s.len <= room ? s.len : room - 3;
    for (size_t i = 0; i < n; i++)
        out[i] = s.ptr[i] >= 0x20 && s.ptr[i] < 0x7f ? (char)s.ptr[i] : '?';
    out[n] = '\0';
    if (n < s.len)
        strcpy(out + n, "...");
    return out;
}

size_t model_gguf_value_bytes(enum model_gguf_type type)
{
    static const uint8_t bytes[GGUF_N_TYPES] = {
        [GGUF_U8] = 1,  [GGUF_I8] = 1,  [GGUF_U16] = 2, [GGUF_I16] = 2,
        [GGUF_U32] = 4, [GGUF_I32] = 4, [GGUF_F32] = 4, [GGUF_BOOL] = 1,
        [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8,
    };
    return bytes[type];
}
