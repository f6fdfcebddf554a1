/* The generated pages are the committed ones: whoever changes a message or a configuration key
 * sees here that the page must change with it.
 *
 * With SHOAL_WRITE_DOCS=1 in the environment this program writes the pages instead of comparing
 * them:
 *   SHOAL_WRITE_DOCS=1 SHOAL_SRCDIR=. tests/unit/test_document */
#include "net/net.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { PAGE_BYTES_MAX = 1 << 20 };

static const char *page_path(const char *page)
{
    static char path[1024];
    const char *root = getenv("SHOAL_SRCDIR");

    (void)snprintf(path, sizeof path, "%s/docs/%s", root != NULL ? root : ".", page);
    return path;
}

static char *generated(void (*document)(FILE *out), size_t *n)
{
    FILE *f = tmpfile();
    char *text;
    long bytes;

    assert_non_null(f);
    document(f);
    bytes = ftell(f);
    assert_true(bytes > 0 && bytes < PAGE_BYTES_MAX);
    rewind(f);
    *n = (size_t)bytes;
    text = malloc(*n + 1);
    assert_non_null(text);
    assert_int_equal(fread(text, 1, *n, f), *n);
    text[*n] = '\0';
    (void)fclose(f);
    return text;
}

static void page_is_generated(const char *page, void (*document)(FILE *out))
{
    const char *path = page_path(page), *write = getenv("SHOAL_WRITE_DOCS");
    uint8_t *committed = NULL;
    size_t n, n_committed = 0, at = 0, line = 1;
    char *text = generated(document, &n);
    struct err e;

    if (write != NULL && strcmp(write, "1") == 0) {
        assert_int_equal(base_file_replace(path, text, n, 0644, &e), 0);
    }
    assert_int_equal(base_file_read(path, PAGE_BYTES_MAX, &committed, &n_committed, &e), 0);
    for (; at < n && at < n_committed && text[at] == (char)committed[at]; at++) {
        line += text[at] == '\n';
    }
    if (at != n || at != n_committed) {
        print_message("%s differs from the generated page at line %zu; write it anew with "
                      "SHOAL_WRITE_DOCS=1 tests/unit/test_document\n",
                      path, line);
        fail();
    }
    base_free(committed);
    free(text);
}

static void the_protocol_page_is_generated(void **state)
{
    (void)state;
    page_is_generated("protocol.md", net_wire_document);
}

static void the_configuration_page_is_generated(void **state)
{
    (void)state;
    page_is_generated("configuration.md", net_config_document);
}

/* What the lists hold is on the pages. */
static void every_message_and_every_key_is_there(void **state)
{
    static const char *const messages[] = {
#define MSG(N, code, dir, sentence) "### " #N " (",
#include "net/wire.def"
    };
    static const char *const keys[] = {
#define SECTION(S, word, named, sentence)            "## [" word,
#define KEY(S, word, member, type, absent, sentence) "| `" word "` |",
#include "net/config.def"
    };
    size_t n;
    char *protocol = generated(net_wire_document, &n),
         *configuration = generated(net_config_document, &n);

    (void)state;
    for (size_t i = 0; i < sizeof messages / sizeof messages[0]; i++) {
        assert_non_null(strstr(protocol, messages[i]));
    }
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        assert_non_null(strstr(configuration, keys[i]));
    }
    free(protocol);
    free(configuration);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_protocol_page_is_generated),
        cmocka_unit_test(the_configuration_page_is_generated),
        cmocka_unit_test(every_message_and_every_key_is_there),
    };

    return cmocka_run_group_tests_name("document", tests, NULL, NULL);
}
