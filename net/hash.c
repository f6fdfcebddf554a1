/* Hashes and entropy: libsodium behind a handful of names.
 *
 * BLAKE2b names pieces, cards and plans (32 bytes) and sums up logits (16 bytes). Nothing here is
 * keyed: the names are checksums that nobody can collide, not signatures; who may speak is
 * decided by the keys of the connection.
 *
 * The invariant of the incremental hasher: after net_hasher_new and after every net_hasher_end it
 * is empty, so that one hasher serves a whole run of pieces without further allocation.
 *
 * Left out: other lengths, keyed hashes, streams of random numbers that replay (common/rng.c has
 * those; net_random never repeats). */
#include "net/net.h"

#include <assert.h>
#include <sodium.h>
#include <string.h>

/* libsodium wants its state on a multiple of 64 bytes, which the heap does not promise. */
enum { STATE_ALIGN = 64 };
struct net_hasher {
    uint8_t room[sizeof(crypto_generichash_state) + STATE_ALIGN - 1];
};

static crypto_generichash_state *state_of(struct net_hasher *h)
{
    uintptr_t at = (uintptr_t)h->room;
    size_t skip = (STATE_ALIGN - at % STATE_ALIGN) % STATE_ALIGN;

    return (void *)(h->room + skip);
}

int net_init(struct err *e)
{
    if (sodium_init() < 0) {
        return err_set(e, ERR_IO, "the cryptographic library cannot be started: no entropy?");
    }
    return 0;
}

static void hash(struct span bytes, uint8_t *out, size_t out_bytes)
{
    int rc = crypto_generichash(out, out_bytes, bytes.ptr, bytes.len, NULL, 0);

    /* It fails only for lengths out of range, and ours are constants. */
    assert(rc == 0);
    (void)rc;
}

void net_hash(struct span bytes, uint8_t out[static NET_HASH_BYTES])
{
    hash(bytes, out, NET_HASH_BYTES);
}

void net_hash16(struct span bytes, uint8_t out[static 16])
{
    hash(bytes, out, 16);
}

static void hasher_begin(struct net_hasher *h)
{
    int rc = crypto_generichash_init(state_of(h), NULL, 0, NET_HASH_BYTES);

    assert(rc == 0);
    (void)rc;
}

struct net_hasher *net_hasher_new(void)
{
    struct net_hasher *h = base_alloc(sizeof *h);

    if (h != NULL) {
        hasher_begin(h);
    }
    return h;
}

void net_hasher_add(struct net_hasher *h, struct span bytes)
{
    if (bytes.len > 0) {
        (void)crypto_generichash_update(state_of(h), bytes.ptr, bytes.len);
    }
}

void net_hasher_end(struct net_hasher *h, uint8_t out[static NET_HASH_BYTES])
{
    int rc = crypto_generichash_final(state_of(h), out, NET_HASH_BYTES);

    assert(rc == 0);
    (void)rc;
    hasher_begin(h);
}

void net_hasher_free(struct net_hasher *h)
{
    base_free(h);
}

void net_hex(const uint8_t *bytes, size_t n, char *out)
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[bytes[i] >> 4];
        out[2 * i + 1] = digits[bytes[i] & 15];
    }
    out[2 * n] = '\0';
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

bool net_unhex(const char *text, uint8_t *out, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int high = hex_digit(text[2 * i]);
        /* A text that ends early has its NUL in the high place first. */
        int low = high < 0 ? -1 : hex_digit(text[2 * i + 1]);

        if (low < 0) {
            return false;
        }
        out[i] = (uint8_t)(high << 4 | low);
    }
    return text[2 * n] == '\0';
}

void net_random(void *out, size_t n)
{
    randombytes_buf(out, n);
}
