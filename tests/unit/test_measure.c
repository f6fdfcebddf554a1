/* A worker measures itself on a tiny model: every figure is a time, a half is no shorter than its
 * fixed part, layers of one kind have one figure, and a quota that the machine does not have changes
 * nothing but what is said of it. How long things take is nobody's assertion. */
#include "tests/tools/make_model.h"
#include "worker/engine.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[] = "/tmp/test-measure-XXXXXX";
static struct model *model;
static struct worker_profile p; /* too large for a stack */

static int run(const char *command_of_dir)
{
    char command[512];
    snprintf(command, sizeof command, command_of_dir, dir, dir, dir);
    return system(command);
}

static int setup(void **state)
{
    const struct make_model whole = {.shape = "llama", .type = "Q8_0", .seed = 2};
    char path[128];
    (void)state;
    if (mkdtemp(dir) == NULL)
        return 1;
    snprintf(path, sizeof path, "%s/m.gguf", dir);
    return make_model_write(&whole, path, NULL) != 0 || model_open(path, &model, NULL) != 0;
}

static int teardown(void **state)
{
    (void)state;
    model_close(model);
    return run("rm -rf %s");
}

static void is_time(double s)
{
    assert_true(isfinite(s) && s > 0 && s < 10);
}

static void measure(const char *root)
{
    const struct model_exec_config c = {.n_slots = 4,
                                        .context = 40,
                                        .max_rows = WORKER_PROMPT_ROWS,
                                        .kv = KERN_KV_F16,
                                        .n_threads = 2,
                                        .kernels = kern_table_select(NULL)};
    const int64_t live = base_alloc_live();
    const uint32_t n_layers = model_shape(model)->n_layers;
    struct err e = {0};
    memset(&p, 0, sizeof p);
    p.rows[0] = 1;
    p.rows[1] = 4;
    p.rows[2] = WORKER_PROMPT_ROWS;
    if (worker_profile_run(model, &c, root, &p, &e) != 0)
        fail_msg("%s", e.text);
    assert_int_equal(base_alloc_live(), live);
    for (int i = 0; i < WORKER_BATCHES; i++) {
        const struct worker_batch *b = &p.batches[i];
        for (uint32_t l = 0; l < n_layers; l++) {
            is_time(b->attention[l]);
            is_time(b->ffn[l]);
            assert_memory_equal(&b->ffn[l], &b->ffn[0], sizeof b->ffn[0]);
        }
        assert_true(b->attention_fixed >= 0 && b->ffn_fixed >= 0);
        is_time(b->embed);
        is_time(b->output);
    }
    is_time(p.sample);
    is_time(p.codec);
    assert_true(p.wake >= 0 && p.wake < 1);
}

static void test_without_a_quota(void **state)
{
    (void)state;
    measure("/nowhere");
    assert_true(p.throttle >= 1 && p.throttle <= 1);
}

static void test_under_a_quota(void **state)
{
    (void)state;
    assert_int_equal(run("mkdir -p %s/proc/self %s/cg && printf '0::/\\n' >%s/proc/self/cgroup"),
                     0);
    assert_int_equal(run("printf '31 23 0:28 / /cg rw - cgroup2 cgroup2 rw\\n' "
                         ">%s/proc/self/mountinfo && printf '2500 5000\\n' >%s/cg/cpu.max"),
                     0);
    measure(dir);
    /* Half a core for two threads. */
    assert_true(p.throttle > 0.2499 && p.throttle < 0.2501);
}

/* A figure is processor time by the quota's cores, however the process really ran: of a hundredth of
 * a core, in whatever way two threads share the work, a hundred times as much or more. */
static void test_a_quota_is_in_the_figures(void **state)
{
    (void)state;
    measure("/nowhere");
    const double free_s = p.batches[2].ffn[0];
    assert_int_equal(run("printf '1000 100000\\n' >%s/cg/cpu.max"), 0);
    measure(dir);
    assert_true(p.batches[2].ffn[0] > 4 * free_s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_a_quota),
        cmocka_unit_test(test_under_a_quota),
        cmocka_unit_test(test_a_quota_is_in_the_figures),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
