/* KV rows out of an executor's cache and into another one's, for heads and layers that move between
 * workers; and copies of them, for the case that a worker is lost.
 *
 * A row is the same bytes in every cache of the model and KV type, whoever computed it, on whatever
 * machine (docs/numerics.md); so moving it is copying it. The invariant is the callers': no pass
 * writes these rows meanwhile. */
#include "model/model_private.h"

#include <assert.h>
#include <string.h>
#include <sys/mman.h>

static bool has_heads(const struct model_exec *x, uint32_t head0, uint32_t head1)
{
    const struct model_slice_heads *h = &x->heads;
    if (head0 >= head1 || head1 > x->model->shape.n_kv_heads)
        return false;
    for (uint32_t kv = head0; kv < head1; kv++)
        if (h->kv_at[kv] >= h->n_kv || h->kv_id[h->kv_at[kv]] != kv)
            return false;
    return true;
}

static bool has_positions(uint32_t n_slots, uint32_t context, const struct model_kv_rows *r)
{
    return r->slot < n_slots && r->rows > 0 && r->first < context && r->rows <= context - r->first;
}

size_t model_kv_row_bytes(const struct model *m, const struct model_exec_config *c)
{
    return 2 * kern_kv_row_bytes(c->kv, m->shape.head_dim);
}

/* Rows of one KV head, from the cache in the order in which they travel, and back; the V rows lie
 * v_at further than the K rows. */
static void read_head(const uint8_t *k, size_t v_at, size_t half, uint8_t *out)
{
    memcpy(out, k, half);
    memcpy(out + half, k + v_at, half);
}

static void write_head(uint8_t *k, size_t v_at, size_t half, const uint8_t *in)
{
    memcpy(k, in, half);
    memcpy(k + v_at, in + half, half);
}

/* ---- an executor's cache --------------------------------------------------------------------- */

size_t model_kv_bytes(const struct model_exec *x, const struct model_kv_rows *r)
{
    const struct model_exec_config *c = &x->config;
    if (r->layer < x->slice.layer0 || r->layer >= x->slice.layer1 ||
        !has_heads(x, r->head0, r->head1) || !has_positions(c->n_slots, c->context, r))
        return 0;
    return model_kv_row_bytes(x->model, c) * r->rows * (r->head1 - r->head0);
}

/* Where the K rows of one KV head lie in the cache; its V rows are kv_half_bytes further. */
static uint8_t *k_rows(const struct model_exec *x, const struct model_kv_rows *r, uint32_t kv)
{
    const size_t row = kern_kv_row_bytes(x->config.kv, x->model->shape.head_dim);
    return x->layers[r->layer - x->slice.layer0].kv_rows[x->heads.kv_at[kv]] +
           ((size_t)r->slot * x->config.context + r->first) * row;
}

void model_kv_read(const struct model_exec *x, const struct model_kv_rows *r, uint8_t *out)
{
    assert(model_kv_bytes(x, r) > 0);
    const size_t half = model_kv_bytes(x, r) / (r->head1 - r->head0) / 2;
    for (uint32_t kv = r->head0; kv < r->head1; kv++, out += 2 * half)
        read_head(k_rows(x, r, kv), x->kv_half_bytes, half, out);
}

void model_kv_write(struct model_exec *x, const struct model_kv_rows *r, const uint8_t *in)
{
    assert(model_kv_bytes(x, r) > 0);
    const size_t half = model_kv_bytes(x, r) / (r->head1 - r->head0) / 2;
    for (uint32_t kv = r->head0; kv < r->head1; kv++, in += 2 * half)
        write_head(k_rows(x, r, kv), x->kv_half_bytes, half, in);
}

/* ---- a copy ---------------------------------------------------------------------------------- */

struct model_kv_copy {
    uint32_t layer0, layer1, head0, head1, n_slots, context;
    size_t row_bytes, half_bytes; /* of a K row; of all K rows of a layer's head */
    size_t map_bytes;
    uint8_t *rows; /* mapped: [layer][head] K [slot][position], then V */
};

int model_kv_copy_new(const struct model *m, const struct model_exec_config *c, uint32_t layer0,
                      uint32_t layer1, uint32_t head0, uint32_t head1, struct model_kv_copy **out,
                      struct err *e)
{
    const size_t row = kern_kv_row_bytes(c->kv, m->shape.head_dim);
    const uint64_t half = (uint64_t)row * c->n_slots * c->context,
                   all = 2 * half * (head1 - head0) * (layer1 - layer0);
    if (layer0 >= layer1 || layer1 > m->shape.n_layers || head0 >= head1 ||
        head1 > m->shape.n_kv_heads || row == 0)
        return err_set(e, ERR_RANGE, "the model has no KV heads %u-%u in layers %u-%u", head0,
                       head1 - 1, layer0, layer1 - 1);
    struct model_kv_copy *k = base_zalloc(1, sizeof *k);
    if (k == NULL)
        return err_set(e, ERR_NOMEM, "out of memory for a copy of KV rows");
    void *p = MAP_FAILED;
    if (all <= SIZE_MAX)
        p = mmap(NULL, (size_t)all, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        base_free(k);
        return err_set(e, ERR_NOMEM, "no memory for a copy of %llu bytes of KV rows",
                       (unsigned long long)all);
    }
    *k = (struct model_kv_copy){layer0,     layer1, head0,        head1,       c->n_slots,
                                c->context, row,    (size_t)half, (size_t)all, p};
    *out = k;
    return 0;
}

void model_kv_copy_free(struct model_kv_copy *k)
{
    if (k == NULL)
        return;
    munmap(k->rows, k->map_bytes);
    base_free(k);
}

size_t model_kv_copy_bytes(const struct model_kv_copy *k, const struct model_kv_rows *r)
{
    if (r->layer < k->layer0 || r->layer >= k->layer1 || r->head0 < k->head0 ||
        r->head0 >= r->head1 || r->head1 > k->head1 || !has_positions(k->n_slots, k->context, r))
        return 0;
    return 2 * k->row_bytes * r->rows * (r->head1 - r->head0);
}

static uint8_t *copied_k_rows(const struct model_kv_copy *k, const struct model_kv_rows *r, uint32_t kv)
{
    const size_t head = (size_t)(r->layer - k->layer0) * (k->head1 - k->head0) + (kv - k->head0);
    return k->rows + 2 * head * k->half_bytes +
           ((size_t)r->slot * k->context + r->first) * k->row_bytes;
}

void model_kv_copy_read(const struct model_kv_copy *k, const struct model_kv_rows *r, uint8_t *out)
{
    const size_t half = k->row_bytes * r->rows;
    assert(model_kv_copy_bytes(k, r) > 0);
    for (uint32_t kv = r->head0; kv < r->head1; kv++, out += 2 * half)
        read_head(copied_k_rows(k, r, kv), k->half_bytes, half, out);
}

void model_kv_copy_write(struct model_kv_copy *k, const struct model_kv_rows *r, const uint8_t *in)
{
    const size_t half = k->row_bytes * r->rows;
    assert(model_kv_copy_bytes(k, r) > 0);
    for (uint32_t kv = r->head0; kv < r->head1; kv++, in += 2 * half)
        write_head(copied_k_rows(k, r, kv), k->half_bytes, half, in);
}
