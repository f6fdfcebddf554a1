/* A machine of files: /proc and /sys as a test wants them, below a temporary folder. */
#ifndef TESTS_UNIT_FAKE_ROOT_H
#define TESTS_UNIT_FAKE_ROOT_H

enum { FAKE_ROOT_BYTES = 512 };

/* Stands before every path of the machine. */
extern char fake_root[FAKE_ROOT_BYTES];

/* Around each test, as CMocka's functions; the end also checks that no memory was kept. */
int fake_root_set_up(void **state);
int fake_root_tear_down(void **state);
/* Make or replace a file of the machine. */
void fake_root_have(const char *path, const char *text);

#endif
