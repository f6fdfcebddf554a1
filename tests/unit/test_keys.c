/* Keys, hashes and entropy under test.
 *
 * Hashes are compared with published values of BLAKE2b (RFC 7693 has the algorithm), so that pieces
 * keep their names for ever; the incremental hasher with the one-shot one over every cut. Keys must
 * be what CURVE takes, readable by their owner only, and never overwritten, whichever of the two
 * files is there. */
#include "net/net.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include <cmocka.h>

/* ---- helpers --------------------------------------------------------------------------------- */

static char scratch_dir[256];

static int begin(void **state)
{
    const char *tmp = getenv("TMPDIR");

    (void)state;
    (void)snprintf(scratch_dir, sizeof scratch_dir, "%s/shoal-keys-XXXXXX",
                   tmp != NULL ? tmp : "/tmp");
    return mkdtemp(scratch_dir) == NULL || net_init(NULL) != 0;
}

static int end(void **state)
{
    char command[300];

    (void)state;
    (void)snprintf(command, sizeof command, "rm -rf '%s'", scratch_dir);
    return system(command);
}

static const char *scratch(const char *name)
{
    static char path[4][400];
    static unsigned next;
    char *out = path[next++ % 4];

    (void)snprintf(out, sizeof path[0], "%s/%s", scratch_dir, name);
    return out;
}

static unsigned mode_of(const char *path)
{
    struct stat st;

    assert_int_equal(stat(path, &st), 0);
    return (unsigned)st.st_mode & 07777;
}

static char *text_of(const char *path)
{
    uint8_t *text;
    size_t n;

    assert_int_equal(base_file_read(path, 1000, &text, &n, NULL), 0);
    return (char *)text;
}

static void put_text(const char *path, const char *text)
{
    assert_int_equal(base_file_replace(path, text, strlen(text), 0600, NULL), 0);
}

static void hex_of(struct span bytes, char out[static 65])
{
    uint8_t hash[NET_HASH_BYTES];

    net_hash(bytes, hash);
    net_hex(hash, sizeof hash, out);
}

/* ---- hashes ---------------------------------------------------------------------------------- */

static void hashes_are_blake2b(void **state)
{
    uint8_t many[1024], short_hash[16];
    char hex[65];

    (void)state;
    for (size_t i = 0; i < sizeof many; i++) {
        many[i] = (uint8_t)i;
    }
    hex_of((struct span){NULL, 0}, hex);
    assert_string_equal(hex, "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8");
    hex_of(base_span_str("abc"), hex);
    assert_string_equal(hex, "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319");
    hex_of((struct span){many, sizeof many}, hex);
    assert_string_equal(hex, "f1551feeb252c7e60bb362205bd1ac2f70b145260a91d41e8c5d0a187549a5f2");
    net_hash16(base_span_str("abc"), short_hash);
    net_hex(short_hash, sizeof short_hash, hex);
    assert_string_equal(hex, "cf4ab791c62b8d2b2109c90275287816");
}

static void a_hash_does_not_depend_on_the_cuts(void **state)
{
    uint8_t bytes[700], whole[NET_HASH_BYTES], parts[NET_HASH_BYTES];
    struct net_hasher *h = net_hasher_new();
    uint64_t rng = 3;

    (void)state;
    assert_non_null(h);
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (uint8_t)base_rng_next(&rng);
    }
    net_hash((struct span){bytes, sizeof bytes}, whole);
    for (size_t cut = 0; cut <= sizeof bytes; cut++) {
        const size_t cut2 = cut + (sizeof bytes - cut) / 3;

        net_hasher_add(h, (struct span){bytes, cut});
        net_hasher_add(h, (struct span){NULL, 0});
        net_hasher_add(h, (struct span){bytes + cut, cut2 - cut});
        net_hasher_add(h, (struct span){bytes + cut2, sizeof bytes - cut2});
        net_hasher_end(h, parts);
        assert_memory_equal(parts, whole, sizeof whole);
    }
    net_hasher_free(h);
    net_hasher_free(NULL);
}

static void a_hasher_survives_lack_of_memory(void **state)
{
    const int64_t live = base_alloc_live();

    (void)state;
    base_alloc_fail_nth(1);
    assert_null(net_hasher_new());
    base_alloc_fail_nth(0);
    assert_int_equal(base_alloc_live(), live);
}

static void hex_goes_both_ways(void **state)
{
    const uint8_t bytes[] = {0x00, 0x9f, 0xa0, 0xff};
    uint8_t back[4];
    char hex[9];

    (void)state;
    net_hex(bytes, 4, hex);
    assert_string_equal(hex, "009fa0ff");
    assert_true(net_unhex(hex, back, 4));
    assert_memory_equal(back, bytes, 4);
    assert_true(net_unhex("009FA0fF", back, 4));
    assert_memory_equal(back, bytes, 4);
    assert_true(net_unhex("", back, 0));
    assert_false(net_unhex("009fa0f", back, 4));
    assert_false(net_unhex("009fa0", back, 4));
    assert_false(net_unhex("009fa0ff0", back, 4));
    assert_false(net_unhex("009fa0fg", back, 4));
    assert_false(net_unhex("0x9fa0ff", back, 4));
    assert_false(net_unhex("", back, 1));
}

static void random_bytes_differ(void **state)
{
    uint8_t a[32] = {0}, b[32] = {0};

    (void)state;
    net_random(a, sizeof a);
    net_random(b, sizeof b);
    assert_memory_not_equal(a, b, sizeof a);
}

/* ---- keys ------------------------------------------------------------------------------------ */

static void names_are_plain(void **state)
{
    char longest[NET_NAME_MAX + 1];

    (void)state;
    assert_true(net_name_ok("coordinator"));
    assert_true(net_name_ok("pi-5"));
    assert_true(net_name_ok("7"));
    assert_false(net_name_ok(""));
    assert_false(net_name_ok("Alpha"));
    assert_false(net_name_ok("a b"));
    assert_false(net_name_ok("a/b"));
    assert_false(net_name_ok(".."));
    assert_false(net_name_ok("a_b"));
    assert_false(net_name_ok("a\n"));
    assert_false(net_name_ok("caf\xc3\xa9"));
    memset(longest, 'a', sizeof longest);
    longest[63] = '\0';
    assert_true(net_name_ok(longest));
    longest[63] = 'a';
    longest[64] = '\0';
    assert_false(net_name_ok(longest));
}

static void a_pair_is_one_that_curve_takes(void **state)
{
    char *public_text, *secret_text, derived[41];
    uint8_t raw[32];

    (void)state;
    assert_int_equal(net_keygen(scratch("new/keys/"), "alpha", NULL), 0);
    assert_int_equal(mode_of(scratch("new/keys")), 0700);
    assert_int_equal(mode_of(scratch("new/keys/alpha.secret")), 0600);
    public_text = text_of(scratch("new/keys/alpha.pub"));
    secret_text = text_of(scratch("new/keys/alpha.secret"));
    assert_int_equal(strlen(public_text), 41);
    assert_int_equal(strlen(secret_text), 41);
    assert_int_equal(public_text[40], '\n');
    assert_int_equal(secret_text[40], '\n');
    public_text[40] = secret_text[40] = '\0';
    assert_non_null(zmq_z85_decode(raw, public_text));
    assert_int_equal(zmq_curve_public(derived, secret_text), 0);
    assert_string_equal(derived, public_text);
    base_free(public_text);
    base_free(secret_text);
}

static void pairs_differ(void **state)
{
    char *a, *b;

    (void)state;
    assert_int_equal(net_keygen(scratch("two"), "alpha", NULL), 0);
    assert_int_equal(net_keygen(scratch("two"), "beta", NULL), 0);
    a = text_of(scratch("two/alpha.secret"));
    b = text_of(scratch("two/beta.secret"));
    assert_string_not_equal(a, b);
    base_free(a);
    base_free(b);
}

static void a_mask_does_not_open_the_secret(void **state)
{
    const mode_t was = umask(0);

    (void)state;
    assert_int_equal(net_keygen(scratch("mask"), "alpha", NULL), 0);
    (void)umask(was);
    assert_int_equal(mode_of(scratch("mask")), 0700);
    assert_int_equal(mode_of(scratch("mask/alpha.secret")), 0600);
    assert_int_equal(mode_of(scratch("mask/alpha.pub")), 0644);
}

static void what_is_there_is_left_alone(void **state)
{
    struct err e;
    char *before, *after;

    (void)state;
    assert_int_equal(net_keygen(scratch("old"), "alpha", NULL), 0);
    before = text_of(scratch("old/alpha.secret"));
    assert_int_equal(net_keygen(scratch("old"), "alpha", &e), ERR_REFUSED);
    assert_non_null(strstr(e.text, "alpha.secret is there already"));
    after = text_of(scratch("old/alpha.secret"));
    assert_string_equal(before, after);
    base_free(after);

    /* Half a pair is refused, too, and the other half is not made. */
    assert_int_equal(unlink(scratch("old/alpha.pub")), 0);
    assert_int_equal(net_keygen(scratch("old"), "alpha", &e), ERR_REFUSED);
    assert_int_not_equal(access(scratch("old/alpha.pub"), F_OK), 0);
    after = text_of(scratch("old/alpha.secret"));
    assert_string_equal(before, after);
    base_free(after);
    base_free(before);

    put_text(scratch("old/beta.pub"), "somebody else's\n");
    assert_int_equal(net_keygen(scratch("old"), "beta", &e), ERR_REFUSED);
    assert_non_null(strstr(e.text, "beta.pub is there already"));
    assert_int_not_equal(access(scratch("old/beta.secret"), F_OK), 0);
    after = text_of(scratch("old/beta.pub"));
    assert_string_equal(after, "somebody else's\n");
    base_free(after);

    /* A dangling link is not followed to where it points. */
    assert_int_equal(symlink(scratch("old/elsewhere"), scratch("old/gamma.secret")), 0);
    assert_int_equal(net_keygen(scratch("old"), "gamma", &e), ERR_REFUSED);
    assert_int_not_equal(access(scratch("old/elsewhere"), F_OK), 0);
}

static void bad_places_and_names_are_refused(void **state)
{
    struct err e;

    (void)state;
    assert_int_equal(net_keygen(scratch("none"), "../alpha", &e), ERR_RANGE);
    assert_string_equal(e.text, "\"../alpha\" is no name: a name is 1 to 63 of a-z, 0-9 and -");
    assert_int_not_equal(access(scratch("none"), F_OK), 0);
    put_text(scratch("file"), "");
    assert_int_equal(net_keygen(scratch("file"), "alpha", &e), ERR_IO);
    assert_int_equal(net_keygen(scratch("file/below"), "alpha", &e), ERR_IO);
}

static void keygen_survives_lack_of_memory(void **state)
{
    const int64_t live = base_alloc_live();
    int rc = ERR_NOMEM;
    uint64_t n;

    (void)state;
    for (n = 1; rc == ERR_NOMEM && n < 50; n++) {
        base_alloc_fail_nth(n);
        rc = net_keygen(scratch("memory"), "alpha", NULL);
        base_alloc_fail_nth(0);
        assert_int_equal(base_alloc_live(), live);
        assert_int_equal(access(scratch("memory/alpha.secret"), F_OK) == 0, rc == 0);
        assert_int_equal(access(scratch("memory/alpha.pub"), F_OK) == 0, rc == 0);
    }
    assert_int_equal(rc, 0);
    assert_true(n > 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hashes_are_blake2b),
        cmocka_unit_test(a_hash_does_not_depend_on_the_cuts),
        cmocka_unit_test(a_hasher_survives_lack_of_memory),
        cmocka_unit_test(hex_goes_both_ways),
        cmocka_unit_test(random_bytes_differ),
        cmocka_unit_test(names_are_plain),
        cmocka_unit_test(a_pair_is_one_that_curve_takes),
        cmocka_unit_test(pairs_differ),
        cmocka_unit_test(a_mask_does_not_open_the_secret),
        cmocka_unit_test(what_is_there_is_left_alone),
        cmocka_unit_test(bad_places_and_names_are_refused),
        cmocka_unit_test(keygen_survives_lack_of_memory),
    };

    return cmocka_run_group_tests_name("keys", tests, begin, end);
}
