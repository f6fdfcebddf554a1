/* The model's pieces by content: each is packed once and hashed, and the list of hashes is kept in
 * the state folder, named by the model's path. It is believed as long as the file has the size,
 * time and inode it had, or each of its parts has, which spares hashing gigabytes at each start. A kept list that is damaged,
 * of another layout or another file is made anew. */
#include "coordinator/shell.h"

#include <stdlib.h>
#include <string.h>

enum { LAYOUT_VERSION = 1 }; /* raised when the packed form of any piece changes */

/* What a kept list begins with; then the hashes, then a hash of all that. */
struct header {
    char magic[8];
    uint64_t layout, n_pieces;
    uint8_t files[NET_HASH_BYTES]; /* of what is known of the model's files, all parts */
};

static int header_of(const struct model *m, struct header *out)
{
    const struct gguf *g = model_gguf(m);
    struct base_buf known = {0};
    *out = (struct header){"shoalmf", LAYOUT_VERSION, model_n_pieces(m), {0}};
    for (size_t i = 0; i < model_gguf_n_parts(g); i++) {
        const struct base_map *map = model_gguf_map(g, i);
        if (map != NULL) {
            const uint64_t file[] = {map->len, map->mtime_ns, map->inode, map->device};
            base_buf_add(&known, file, sizeof file);
        }
    }
    const int rc = known.failed ? ERR_NOMEM : 0;
    if (rc == 0)
        net_hash((struct span){known.ptr, known.len}, out->files);
    base_buf_deinit(&known);
    return rc;
}

static int kept_path(const char *path, const char *state, char *out, size_t max)
{
    uint8_t hash[16];
    char hex[33];
    net_hash16(base_span_str(path), hash);
    net_hex(hash, sizeof hash, hex);
    return snprintf(out, max, "%s/manifest-%s", state, hex) < (int)max ? 0 : ERR_RANGE;
}

/* Whether the kept list served. */
static bool read_kept(struct coord_manifest *f, const char *path)
{
    struct header want;
    const size_t body = sizeof want + (size_t)f->n_pieces * NET_HASH_BYTES;
    uint8_t *bytes = NULL, check[NET_HASH_BYTES];
    size_t len = 0;
    bool ok = false;
    if (header_of(f->model, &want) != 0 ||
        base_file_read(path, body + NET_HASH_BYTES, &bytes, &len, NULL) != 0)
        return false;
    if (len == body + NET_HASH_BYTES && memcmp(bytes, &want, sizeof want) == 0) {
        net_hash((struct span){bytes, body}, check);
        ok = memcmp(check, bytes + body, NET_HASH_BYTES) == 0;
    }
    if (ok)
        memcpy(f->hashes, bytes + sizeof want, (size_t)f->n_pieces * NET_HASH_BYTES);
    base_free(bytes);
    return ok;
}

static int keep(const struct coord_manifest *f, const char *path, struct err *e)
{
    struct header h;
    uint8_t check[NET_HASH_BYTES];
    struct base_buf b = {0};
    if (header_of(f->model, &h) != 0)
        return err_set(e, ERR_NOMEM, "out of memory for the list of pieces");
    base_buf_add(&b, &h, sizeof h);
    base_buf_add(&b, f->hashes, (size_t)f->n_pieces * NET_HASH_BYTES);
    if (!b.failed)
        net_hash((struct span){b.ptr, b.len}, check);
    base_buf_add(&b, check, sizeof check);
    const int rc = b.failed ? err_set(e, ERR_NOMEM, "out of memory for the list of pieces")
                            : base_file_replace(path, b.ptr, b.len, 0600, e);
    base_buf_deinit(&b);
    return rc;
}

static int compute(struct coord_manifest *f, struct err *e)
{
    struct base_progress progress;
    uint64_t total = 0, done = 0;
    size_t longest = 0;
    for (uint32_t i = 0; i < f->n_pieces; i++) {
        const size_t n = model_piece_bytes(f->model, model_piece_at(f->model, i));
        longest = n > longest ? n : longest;
        total += n;
    }
    uint8_t *piece = base_alloc(longest);
    if (piece == NULL)
        return err_set(e, ERR_NOMEM, "out of memory for hashing the model");
    base_progress_begin(&progress, "hashing the model", total);
    for (uint32_t i = 0; i < f->n_pieces; i++) {
        const struct model_piece p = model_piece_at(f->model, i);
        const size_t n = model_piece_bytes(f->model, p);
        model_piece_pack(f->model, p, piece);
        net_hash((struct span){piece, n}, f->hashes + (size_t)i * NET_HASH_BYTES);
        base_progress_step(&progress, done += n);
    }
    base_progress_end(&progress);
    base_free(piece);
    return 0;
}

/* qsort has no context argument; the list is sorted once, at the start, by one thread. */
static const uint8_t *sorting;

static int by_hash(const void *a, const void *b)
{
    return memcmp(sorting + (size_t) * (const uint32_t *)a * NET_HASH_BYTES,
                  sorting + (size_t) * (const uint32_t *)b * NET_HASH_BYTES, NET_HASH_BYTES);
}

int coord_manifest_new(const struct model *m, const char *path, const char *state,
                       struct coord_manifest *out, struct err *e)
{
    char kept[NET_PATH_MAX + 64];
    memset(out, 0, sizeof *out);
    out->model = m;
    out->n_pieces = model_n_pieces(m);
    out->hashes = base_zalloc(out->n_pieces, NET_HASH_BYTES);
    out->by_hash = base_zalloc(out->n_pieces, sizeof *out->by_hash);
    int rc = ERR_NOMEM;
    if (out->hashes == NULL || out->by_hash == NULL) {
        err_set(e, rc, "out of memory for the list of pieces");
        goto out;
    }
    const bool named = kept_path(path, state, kept, sizeof kept) == 0;
    if (!named || !read_kept(out, kept)) {
        if ((rc = compute(out, e)) != 0)
            goto out;
        struct err why = {0};
        if (named && keep(out, kept, &why) != 0)
            base_log(BASE_LOG_WARN, "manifest", "not_kept=\"%s\"", why.text);
    }
    for (uint32_t i = 0; i < out->n_pieces; i++)
        out->by_hash[i] = i;
    sorting = out->hashes;
    qsort(out->by_hash, out->n_pieces, sizeof *out->by_hash, by_hash);
    if ((rc = model_card_write(m, &out->card, e)) != 0)
        goto out;
    net_hash((struct span){out->card.ptr, out->card.len}, out->card_hash);
out:
    if (rc != 0)
        coord_manifest_deinit(out);
    return rc;
}

void coord_manifest_deinit(struct coord_manifest *f)
{
    base_free(f->hashes);
    base_free(f->by_hash);
    base_buf_deinit(&f->card);
    memset(f, 0, sizeof *f);
}

bool coord_manifest_find(const struct coord_manifest *f, const uint8_t *hash, uint32_t *number)
{
    uint32_t a = 0, b = f->n_pieces;
    while (a < b) {
        const uint32_t mid = a + (b - a) / 2;
        const int c =
            memcmp(f->hashes + (size_t)f->by_hash[mid] * NET_HASH_BYTES, hash, NET_HASH_BYTES);
        if (c == 0) {
            *number = f->by_hash[mid];
            return true;
        }
        if (c < 0)
            a = mid + 1;
        else
            b = mid;
    }
    return false;
}
