/* The list of a model's pieces and what it remembers: a file, or any part of a model in several,
 * that has another size, time or inode is hashed anew; otherwise the kept list serves. */
#include "coordinator/shell.h"
#include "tests/tools/make_model.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[] = "/tmp/test-manifest-XXXXXX";

static const char *in_dir(const char *name)
{
    static char path[2][128];
    static unsigned turn;
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/%s", dir, name);
    return path[turn];
}

static int setup(void **state)
{
    const struct make_model parts = {.shape = "llama", .type = "F16", .seed = 2, .n_parts = 3};
    const struct make_model whole = {.shape = "llama", .type = "F16", .seed = 2};
    (void)state;
    return mkdtemp(dir) == NULL || make_model_write(&parts, in_dir("m"), NULL) != 0 ||
           make_model_write(&whole, in_dir("whole.gguf"), NULL) != 0;
}

static int teardown(void **state)
{
    char command[128];
    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

/* The manifest of a model, with the state folder in `dir`; the model is closed again. */
static struct coord_manifest manifest_of(const char *name)
{
    struct model *m = NULL;
    struct coord_manifest f;
    struct err e = {0};
    char path[128];
    snprintf(path, sizeof path, "%s", in_dir(name));
    if (model_open(path, &m, &e) != 0 || coord_manifest_new(m, path, dir, &f, &e) != 0)
        fail_msg("%s", e.text);
    model_close(m);
    f.model = NULL;
    return f;
}

static bool same(const struct coord_manifest *a, const struct coord_manifest *b)
{
    assert_int_equal(a->n_pieces, b->n_pieces);
    return memcmp(a->hashes, b->hashes, (size_t)a->n_pieces * NET_HASH_BYTES) == 0;
}

/* Change one byte of weights in place; with `quietly` the file looks as it did. */
static void change(const char *name, bool quietly)
{
    struct stat s;
    uint8_t byte = 0;
    const int fd = open(in_dir(name), O_RDWR);
    assert_true(fd >= 0 && fstat(fd, &s) == 0);
    assert_int_equal(pread(fd, &byte, 1, s.st_size - 4096), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, s.st_size - 4096), 1);
    /* Whole seconds apart, for file systems that keep no more. */
    struct timespec times[2] = {s.st_atim, s.st_mtim};
    times[1].tv_sec += quietly ? 0 : 5;
    assert_int_equal(futimens(fd, times), 0);
    close(fd);
}

static void check_memory(const char *first, const char *changed)
{
    struct coord_manifest before = manifest_of(first);
    change(changed, true);
    struct coord_manifest kept = manifest_of(first);
    assert_true(same(&before, &kept)); /* believed, though wrong: nothing was hashed */
    change(changed, true);
    change(changed, false);
    struct coord_manifest anew = manifest_of(first);
    assert_false(same(&before, &anew));
    coord_manifest_deinit(&before);
    coord_manifest_deinit(&kept);
    coord_manifest_deinit(&anew);
}

static void test_one_file(void **state)
{
    (void)state;
    check_memory("whole.gguf", "whole.gguf");
}

static void test_parts(void **state)
{
    (void)state;
    check_memory("m-00001-of-00003.gguf", "m-00001-of-00003.gguf");
    check_memory("m-00001-of-00003.gguf", "m-00002-of-00003.gguf");
    check_memory("m-00001-of-00003.gguf", "m-00003-of-00003.gguf");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_file),
        cmocka_unit_test(test_parts),
    };
    return cmocka_run_group_tests_name("manifest", tests, setup, teardown);
}
