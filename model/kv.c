/* KV rows out of an executor's cache and into another one's, for heads and layers that move between
 * workers.
 *
 * A row is the same bytes in every cache of the model and KV type, whoever computed it, on whatever
 * machine (docs/numerics.md); so moving it is copying it. The invariant is the callers': no pass
 * writes these rows meanwhile. */
#include "model/model_private.h"

#include <assert.h>
#include <string.h>

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

size_t model_kv_bytes(const struct model_exec *x, const struct model_kv_rows *r)
{
    const struct model_exec_config *c = &x->config;
    if (r->layer < x->slice.layer0 || r->layer >= x->slice.layer1 ||
        !has_heads(x, r->head0, r->head1) || r->slot >= c->n_slots || r->rows == 0 ||
        r->first >= c->context || r->rows > c->context - r->first)
        return 0;
    return model_kv_row_bytes(x->model, c) * r->rows * (r->head1 - r->head0);
}

size_t model_kv_row_bytes(const struct model *m, const struct model_exec_config *c)
{
    return 2 * kern_kv_row_bytes(c->kv, m->shape.head_dim);
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
    for (uint32_t kv = r->head0; kv < r->head1; kv++) {
        const uint8_t *k = k_rows(x, r, kv);
        memcpy(out, k, half);
        memcpy(out + half, k + x->kv_half_bytes, half);
        out += 2 * half;
    }
}

void model_kv_write(struct model_exec *x, const struct model_kv_rows *r, const uint8_t *in)
{
    assert(model_kv_bytes(x, r) > 0);
    const size_t half = model_kv_bytes(x, r) / (r->head1 - r->head0) / 2;
    for (uint32_t kv = r->head0; kv < r->head1; kv++) {
        uint8_t *k = k_rows(x, r, kv);
        memcpy(k, in, half);
        memcpy(k + x->kv_half_bytes, in + half, half);
        in += 2 * half;
    }
}
