/* Normed rows as they travel: what the leader of a team sends to members that keep no residual
 * stream of their own (star).
 *
 * A row behind a norm travels in the form that its readers take. Where every matrix that reads it
 * is of an integer type that is [n_embd] int8, then [n_embd / 32] F32 scales, 36 bytes for 32
 * columns; the sums of the quants, which kernels want as well, follow from them exactly. Otherwise
 * it is [n_embd] F32, and whoever needs it quantised does that again, to the same bits.
 *
 * The invariant: a step on rows that have travelled gives the bits of the step on hidden rows. A
 * row that is out of range travels as NaN in the place of its first number that is a float, so the
 * receiver learns it without another word. Bytes from a stranger do no harm: any quants and any
 * finite scales are rows like others, and what they lead to meets the gates of docs/numerics.md. */
#include "model/model_private.h"

#include <assert.h>
#include <math.h>
#include <string.h>

size_t model_normed_bytes(const struct model *m, enum model_norm norm, uint32_t layer)
{
    size_t n = m->shape.n_embd;
    return model_norm_forms(m, norm, layer).all ? n + n / KERN_BLOCK * sizeof(float)
                                                : n * sizeof(float);
}

struct normed_job {
    struct model_exec *x;
    uint8_t *out;          /* [n, bytes] of a job that packs */
    const uint8_t *normed; /* [n, bytes] of one that takes */
    size_t bytes;
    struct model_forms forms;
    uint32_t *bad;
    uint32_t n, mark;
};

static struct normed_job job_of(struct model_exec *x, enum model_norm norm, uint32_t layer,
                                uint32_t n, uint32_t *bad)
{
    return (struct normed_job){.x = x,
                               .bytes = model_normed_bytes(x->model, norm, layer),
                               .forms = model_norm_forms(x->model, norm, layer),
                               .bad = bad,
                               .n = n,
                               .mark = 1 + layer};
}

/* ---- from an executor ------------------------------------------------------------------------ */

static void pack_part(void *arg, unsigned part, unsigned n_parts)
{
    const struct normed_job *j = arg;
    const struct model_act *from = &j->x->normed;
    size_t n = j->x->model->shape.n_embd, n_scales = n / KERN_BLOCK;
    uint32_t first, last;
    model_share(j->n, part, n_parts, &first, &last);
    for (uint32_t t = first; t < last; t++) {
        uint8_t *to = j->out + t * j->bytes, *floats = to;
        if (j->forms.all) {
            floats = to + n;
            memcpy(to, from->q + t * from->stride, n);
            memcpy(floats, from->a + t * from->stride / KERN_BLOCK, n_scales * sizeof(float));
        } else {
            memcpy(to, from->f + t * from->stride, n * sizeof(float));
        }
        if (j->bad[t] != 0)
            memcpy(floats, &(float){NAN}, sizeof(float));
    }
}

static const float *norm_weight(const struct model_exec *x, enum model_norm norm, uint32_t layer)
{
    if (norm == MODEL_NORM_OUTPUT)
        return x->final_norm;
    assert(layer >= x->slice.layer0 && layer < x->slice.layer1);
    const struct model_layer *l = &x->layers[layer - x->slice.layer0];
    return norm == MODEL_NORM_ATTENTION ? l->attn_norm : l->ffn_norm;
}

void model_exec_norm(struct model_exec *x, enum model_norm norm, uint32_t layer, uint32_t n,
                     const float *hidden, uint8_t *normed, uint32_t *bad)
{
    const float *weight = norm_weight(x, norm, layer);
    struct normed_job j = job_of(x, norm, layer, n, bad);
    assert(weight != NULL && n <= x->config.max_rows);
    kern_fp_init();
    for (uint32_t at = 0; at < n; at += MODEL_TILE_ROWS) {
        j.n = n - at < MODEL_TILE_ROWS ? n - at : MODEL_TILE_ROWS;
        j.bad = bad + at;
        j.out = normed + at * j.bytes;
        model_norm_rows(x, weight, j.forms.some, hidden + (size_t)at * x->model->shape.n_embd, NULL,
                        j.n, j.mark, j.bad);
        model_phase(x, pack_part, &j, j.n);
    }
}

/* ---- into an executor ------------------------------------------------------------------------ */

/* Scales and sums of row t from its quants, which have come; false where a scale is not finite. */
static bool take_scales(const struct model_act *to, uint32_t t, uint32_t n, const uint8_t *scales)
{
    const int8_t *q = to->q + t * to->stride;
    float *a = to->a + t * to->stride / KERN_BLOCK, *s = to->s + t * to->stride / KERN_BLOCK;
    int16_t *h = to->h + t * to->stride / 16;
    bool finite = true;
    memcpy(a, scales, n / KERN_BLOCK * sizeof *a);
    for (uint32_t b = 0; b < n / KERN_BLOCK; b++) {
        int sum[2] = {0, 0};
        for (uint32_t i = 0; i < KERN_BLOCK; i++)
            sum[i / 16] += q[b * KERN_BLOCK + i];
        h[2 * b] = (int16_t)sum[0];
        h[2 * b + 1] = (int16_t)sum[1];
        s[b] = a[b] * (float)(sum[0] + sum[1]);
        finite = finite && model_f32_finite(a[b]);
    }
    return finite;
}

static bool take_row(const struct normed_job *j, uint32_t t)
{
    const struct model_act *to = &j->x->normed;
    const uint8_t *from = j->normed + t * j->bytes;
    uint32_t n = j->x->model->shape.n_embd;
    float *f = to->f + t * to->stride;
    bool finite = true;
    if (j->forms.all) {
        memcpy(to->q + t * to->stride, from, n);
        return take_scales(to, t, n, from + n);
    }
    memcpy(f, from, n * sizeof *f);
    for (uint32_t i = 0; i < n; i++)
        finite = finite && model_f32_finite(f[i]);
    return finite && (!j->forms.some || model_act_quantise(j->x, to, t, 0, n));
}

static void take_part(void *arg, unsigned part, unsigned n_parts)
{
    const struct normed_job *j = arg;
    uint32_t first, last;
    model_share(j->n, part, n_parts, &first, &last);
    for (uint32_t t = first; t < last; t++) {
        if (j->bad[t] == 0 && take_row(j, t))
            continue;
        model_act_clear(&j->x->normed, t, 0, j->x->model->shape.n_embd);
        if (j->bad[t] == 0)
            j->bad[t] = j->mark;
    }
}

void model_take_normed(struct model_exec *x, enum model_norm norm, uint32_t layer, uint32_t n,
                       const uint8_t *normed, uint32_t *bad)
{
    struct normed_job j = job_of(x, norm, layer, n, bad);
    j.normed = normed;
    model_phase(x, take_part, &j, n);
}
