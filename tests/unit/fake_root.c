/* A machine of files in a temporary folder (fake_root.h). */
#include "tests/unit/fake_root.h"
#include "common/common.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { PATH_BYTES = FAKE_ROOT_BYTES, FILES_MAX = 128 };

char fake_root[PATH_BYTES];
static char made[FILES_MAX][PATH_BYTES];
static size_t n_made;
static int64_t live_before;

int fake_root_set_up(void **state)
{
    const char *tmp = getenv("TMPDIR");

    (void)state;
    (void)snprintf(fake_root, sizeof fake_root, "%s/shoal-root-XXXXXX", tmp != NULL ? tmp : "/tmp");
    assert_non_null(mkdtemp(fake_root));
    n_made = 0;
    live_before = base_alloc_live();
    return 0;
}

/* Remove every file that was made, and its folders as they become empty. */
int fake_root_tear_down(void **state)
{
    (void)state;
    base_alloc_fail_nth(0);
    while (n_made > 0) {
        char *path = made[--n_made];

        (void)unlink(path);
        while (strlen(path) > strlen(fake_root)) {
            *strrchr(path, '/') = '\0';
            if (rmdir(path) != 0) {
                break;
            }
        }
    }
    (void)rmdir(fake_root);
    assert_int_equal(base_alloc_live(), live_before);
    return 0;
}

/* Make or replace a file of the machine. */
void fake_root_have(const char *path, const char *text)
{
    char full[PATH_BYTES];
    char *parent;
    FILE *f;

    (void)snprintf(full, sizeof full, "%s%s", fake_root, path);
    parent = base_path_beside(full, ".");
    assert_non_null(parent);
    assert_int_equal(base_dir_make(parent, NULL), 0);
    base_free(parent);
    f = fopen(full, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, strlen(text), f), strlen(text));
    assert_int_equal(fclose(f), 0);
    for (size_t i = 0; i < n_made; i++) {
        if (strcmp(made[i], full) == 0) {
            return;
        }
    }
    assert_true(n_made < FILES_MAX);
    memcpy(made[n_made++], full, sizeof full);
}
