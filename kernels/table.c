/* The tables: one per kernel set, each begun as a copy of a poorer one and overwritten with the
 * lines of kernels.def for its own set, so that a slot is never empty and what a set does not
 * improve is the definition itself. Two gates stand before a kernel runs: its folder was compiled
 * in (SHOAL_WITH_*, from the build), and this CPU has the instructions. Both are asked here and
 * nowhere else. Which table a process uses is decided once, by kern_table_select.
 *
 * A new set is a line of sets.def, its WITH_ macro and its line in cpu_has. */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif
#include "kernels/internal.h"

#include <pthread.h>

#if defined(SHOAL_WITH_SSE4) || defined(SHOAL_WITH_AVX2) || defined(SHOAL_WITH_AVX512)
#include <cpuid.h>
#endif
#if defined(SHOAL_WITH_NEON)
#include <sys/auxv.h>
#endif

enum set {
#define SET(id, name, base) SET_##id,
#include "kernels/sets.def"
    N_SETS
};

/* WITH_<set>(tokens): the tokens where the set is compiled in, else nothing, so that nothing refers
 * to an archive that was not built. */
#define WITH_generic(tokens) tokens
#if defined(SHOAL_WITH_SSE4)
#define WITH_sse4(tokens) tokens
#else
#define WITH_sse4(tokens)
#endif
#if defined(SHOAL_WITH_AVX2)
#define WITH_avx2(tokens) tokens
#else
#define WITH_avx2(tokens)
#endif
#if defined(SHOAL_WITH_AVX512)
#define WITH_avx512(tokens) tokens
#else
#define WITH_avx512(tokens)
#endif
#if defined(SHOAL_WITH_NEON)
#define WITH_neon(tokens) tokens
#else
#define WITH_neon(tokens)
#endif
#if defined(SHOAL_WITH_NEONDOT)
#define WITH_neon_dotprod(tokens) tokens
#else
#define WITH_neon_dotprod(tokens)
#endif
#if defined(SHOAL_WITH_NEONI8MM)
#define WITH_neon_i8mm(tokens) tokens
#else
#define WITH_neon_i8mm(tokens)
#endif

static const struct {
    const char *name;
    enum set base;
    bool built;
} sets[N_SETS] = {
#define SET(id, name, base) [SET_##id] = {name, SET_##base, WITH_##id(true ||) false},
#include "kernels/sets.def"
};

/* Where the lines of kernels.def go. */
#define SLOT_matmul(type)     matmul[KERN_##type]
#define SLOT_matmul_sum(type) matmul_sum[KERN_##type]
#define SLOT_quantise(type)   quantise
#define SLOT_unit_close(type) unit_close
#define SLOT_rms_norm(type)   rms_norm
#define SLOT_silu_mul(type)   silu_mul
#define SLOT_gelu_mul(type)   gelu_mul
#define SLOT_kv_store(type)   kv_store[KERN_##type]
#define SLOT_attend(type)     attend[KERN_##type]

/* Overwrite in t what set s improves. */
static void fill(struct kern_table *t, enum set s)
{
#define KERNEL(op, type, isa, function, tile)                                                      \
    WITH_##isa(if (s == SET_##isa) t->SLOT_##op(type) = function;)
#include "kernels/kernels.def"
    t->name = sets[s].name;
}

/* Whether this CPU has what set s adds to its base. The compiler's check for x86 includes that the
 * system saves the wide registers; F16C has a flag of its own. */
static bool cpu_has(enum set s)
{
#if defined(SHOAL_WITH_SSE4) || defined(SHOAL_WITH_AVX2) || defined(SHOAL_WITH_AVX512)
    unsigned eax, ebx, ecx, edx;
    if (s == SET_sse4)
        return __builtin_cpu_supports("sse4.1") && __builtin_cpu_supports("ssse3");
    if (s == SET_avx2)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
               __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
    if (s == SET_avx512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vnni");
#endif
#if defined(SHOAL_WITH_NEON)
    if (s == SET_neon)
        return (getauxval(AT_HWCAP) & (1u << 1)) != 0; /* HWCAP_ASIMD */
    if (s == SET_neon_dotprod)
        return (getauxval(AT_HWCAP) & (1u << 20)) != 0; /* HWCAP_ASIMDDP */
    if (s == SET_neon_i8mm)
        return (getauxval(AT_HWCAP2) & (1u << 13)) != 0; /* HWCAP2_I8MM */
#endif
    return s == SET_generic;
}

static bool set_runs(enum set s)
{
    for (; s != SET_generic; s = sets[s].base)
        if (!cpu_has(s))
            return false;
    return true;
}

static struct kern_table tables[N_SETS];
static pthread_once_t tables_once = PTHREAD_ONCE_INIT;

static void fill_tables(void)
{
    for (unsigned s = 0; s < N_SETS; s++) {
        tables[s] = tables[sets[s].base];
        fill(&tables[s], (enum set)s);
    }
}

const struct kern_table *kern_table_at(unsigned i)
{
    pthread_once(&tables_once, fill_tables);
    for (unsigned s = 0; s < N_SETS; s++)
        if (sets[s].built && i-- == 0)
            return &tables[s];
    return NULL;
}

bool kern_table_runs(const struct kern_table *t)
{
    for (unsigned s = 0; s < N_SETS; s++)
        if (t == &tables[s])
            return sets[s].built && set_runs((enum set)s);
    return false;
}

const struct kern_table *kern_table_select(const char *name)
{
    pthread_once(&tables_once, fill_tables);
    for (unsigned s = N_SETS; s-- > 0;) {
        const struct kern_table *t = &tables[s];
        if ((name == NULL || strcmp(name, t->name) == 0) && kern_table_runs(t))
            return t;
    }
    return NULL;
}
