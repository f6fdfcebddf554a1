/* The tables: one per instruction set, each begun as a copy of a poorer one and overwritten with
 * the lines of kernels.def for its own set, so that a slot is never empty and what a set does not
 * improve is the definition itself. Two gates stand before a kernel runs: its folder was compiled
 * in (SHOAL_WITH_*, from the build), and this CPU has the instructions. Both are asked here and
 * nowhere else. Which table a process uses is decided once, by kern_table_select.
 *
 * On x86 without FMA the definition serves: slow there, but the same bits. */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif
#include "kernels/internal.h"

#include <pthread.h>

#if defined(SHOAL_WITH_AVX2)
#include <cpuid.h>
#endif
#if defined(SHOAL_WITH_NEON)
#include <sys/auxv.h>
#endif

/* Where the lines of kernels.def go. */
#define SLOT_matmul(type)        matmul[KERN_##type]
#define SLOT_quantise(type)      quantise
#define SLOT_unit_add(type)      unit_add
#define SLOT_unit_close(type)    unit_close
#define SLOT_rms_norm(type)      rms_norm
#define SLOT_silu_mul(type)      silu_mul
#define SLOT_kv_store(type)      kv_store[KERN_##type]
#define SLOT_attend(type)        attend[KERN_##type]
#define FILL(op, type, function) t->SLOT_##op(type) = function;
#define SKIP(op, type, function)

static void fill_generic(struct kern_table *t)
{
    t->name = "generic";
#define FILL_generic                          FILL
#define FILL_avx2                             SKIP
#define FILL_neon                             SKIP
#define FILL_neon_dotprod                     SKIP
#define KERNEL(op, type, isa, function, tile) FILL_##isa(op, type, function)
#include "kernels/kernels.def"
#undef FILL_generic
#define FILL_generic SKIP
}

#if defined(SHOAL_WITH_AVX2)
static void fill_avx2(struct kern_table *t)
{
    fill_generic(t);
    t->name = "avx2";
#undef FILL_avx2
#define FILL_avx2                             FILL
#define KERNEL(op, type, isa, function, tile) FILL_##isa(op, type, function)
#include "kernels/kernels.def"
#undef FILL_avx2
#define FILL_avx2 SKIP
}

/* The compiler's check includes that the system saves the wide registers. F16C has a flag of its
 * own. */
static bool runs_avx2(void)
{
    unsigned eax, ebx, ecx, edx;
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return false;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
#endif

#if defined(SHOAL_WITH_NEON)
static void fill_neon(struct kern_table *t)
{
    fill_generic(t);
    t->name = "neon";
#undef FILL_neon
#define FILL_neon                             FILL
#define KERNEL(op, type, isa, function, tile) FILL_##isa(op, type, function)
#include "kernels/kernels.def"
#undef FILL_neon
#define FILL_neon SKIP
}

static bool runs_neon(void)
{
    return (getauxval(AT_HWCAP) & (1u << 1)) != 0; /* HWCAP_ASIMD */
}

#endif

#if defined(SHOAL_WITH_NEONDOT)
static void fill_neon_dotprod(struct kern_table *t)
{
    fill_neon(t);
    t->name = "neon-dotprod";
#undef FILL_neon_dotprod
#define FILL_neon_dotprod                     FILL
#define KERNEL(op, type, isa, function, tile) FILL_##isa(op, type, function)
#include "kernels/kernels.def"
}

static bool runs_neon_dotprod(void)
{
    return runs_neon() && (getauxval(AT_HWCAP) & (1u << 20)) != 0; /* HWCAP_ASIMDDP */
}
#endif

static bool runs_generic(void)
{
    return true;
}

/* From poorest to best. */
static const struct {
    void (*fill)(struct kern_table *t);
    bool (*runs)(void);
} sets[] = {
    {fill_generic, runs_generic},
#if defined(SHOAL_WITH_AVX2)
    {fill_avx2, runs_avx2},
#endif
#if defined(SHOAL_WITH_NEON)
    {fill_neon, runs_neon},
#endif
#if defined(SHOAL_WITH_NEONDOT)
    {fill_neon_dotprod, runs_neon_dotprod},
#endif
};
enum { N_SETS = sizeof sets / sizeof sets[0] };

static struct kern_table tables[N_SETS];
static pthread_once_t tables_once = PTHREAD_ONCE_INIT;

static void fill_tables(void)
{
    for (unsigned i = 0; i < N_SETS; i++)
        sets[i].fill(&tables[i]);
}

const struct kern_table *kern_table_at(unsigned i)
{
    pthread_once(&tables_once, fill_tables);
    return i < N_SETS ? &tables[i] : NULL;
}

bool kern_table_runs(const struct kern_table *t)
{
    for (unsigned i = 0; i < N_SETS; i++)
        if (t == &tables[i])
            return sets[i].runs();
    return false;
}

const struct kern_table *kern_table_select(const char *name)
{
    for (unsigned i = N_SETS; i-- > 0;) {
        const struct kern_table *t = kern_table_at(i);
        if ((name == NULL || strcmp(name, t->name) == 0) && kern_table_runs(t))
            return t;
    }
    return NULL;
}
