/* Records of requests in flight and drained workers, as the journal has them, and what a row of
 * records amounts to.
 *
 *     record   check  u64   coord_record_check of the rest
 *              length u32   of what follows the id
 *              kind   u8
 *              id     16 bytes
 *     REQUEST  a SUBMIT as on the wire, at its acceptance; later without its prompt, which was read
 *              or is not wanted any more
 *     PROMPT   count u32, ids i32: the prompt was made into tokens
 *     TOKEN    index u32, elapsed_ms u32, token i32, logprobs u32; where logprobs is 1 + k, chosen
 *              f64, k ids i32, k best f64
 *     DONE     n_tokens u32, finish u32, replays u32, reused u32, error (the rest)
 *     GONE     nothing: nobody wants to know of the request any more
 *     DRAIN    on u8, name (the rest): the worker is drained, or with 0 not any more; the id is zeros
 *
 * Numbers are little-endian. The invariant that makes this simple: any beginning of a journal, with
 * any of its records left out, is a good journal. Tokens follow from model, prompt and seed
 * (docs/numerics.md), so what is missing is computed again and comes out the same. Hence a torn end
 * is no matter; a TOKEN that does not follow on the last one and a record of an unknown request are
 * passed over; a DONE with more tokens than there are is none; and nothing needs to be flushed. A
 * DRAIN that is missing costs a person the asking again.
 *
 * Not kept: logits, which are computed again; which slot a request had, and which KV rows. */
#include "coordinator/journal.h"

#include <string.h>

enum { CHECK_BYTES = 8, HEAD_BYTES = CHECK_BYTES + 4 + 1 + 16, NUMBERS_MAX = 4 };
enum { RECORD_REQUEST = 1, RECORD_PROMPT, RECORD_TOKEN, RECORD_DONE, RECORD_GONE, RECORD_DRAIN };

/* ---- writing ------------------------------------------------------------------------------------- */

static void add_numbers(struct base_buf *b, const uint32_t *numbers, uint32_t n)
{
    uint8_t bytes[NUMBERS_MAX * 4];
    for (uint32_t i = 0; i < n; i++)
        net_put_u32(bytes, i, numbers[i]);
    base_buf_add(b, bytes, n * sizeof *numbers);
}

/* Returns where the record begins. */
static size_t begin(struct base_buf *b, uint8_t kind, const uint8_t *id)
{
    const size_t at = b->len;
    uint8_t head[HEAD_BYTES] = {0};
    head[CHECK_BYTES + 4] = kind;
    memcpy(head + CHECK_BYTES + 5, id, 16);
    base_buf_add(b, head, sizeof head);
    return at;
}

uint64_t coord_record_check(struct span bytes)
{
    uint64_t h = bytes.len;
    for (size_t at = 0; at < bytes.len; at += 8) {
        uint8_t word[8] = {0};
        memcpy(word, bytes.ptr + at, bytes.len - at < 8 ? bytes.len - at : 8);
        h = base_mix64(h + net_u64_at((struct net_list){word, 1}, 0));
    }
    return h;
}

static uint64_t check_of(const uint8_t *record, size_t n)
{
    return coord_record_check((struct span){record + CHECK_BYTES, n - CHECK_BYTES});
}

static void end(struct base_buf *b, size_t at)
{
    if (b->failed)
        return;
    uint8_t *head = b->ptr + at;
    net_put_u32(head + CHECK_BYTES, 0, (uint32_t)(b->len - at - HEAD_BYTES));
    net_put_u64(head, 0, check_of(head, b->len - at));
}

void coord_record_request(struct base_buf *b, const struct net_msg_SUBMIT *m)
{
    const struct net_msg msg = {.code = NET_MSG_SUBMIT, .u.SUBMIT = *m};
    const size_t n = net_msg_bytes(&msg);
    uint8_t *bytes = n > 0 ? base_alloc(n) : NULL;
    if (bytes == NULL) {
        b->failed = true;
        return;
    }
    net_msg_encode(&msg, bytes);
    const size_t at = begin(b, RECORD_REQUEST, m->id);
    base_buf_add(b, bytes, n);
    end(b, at);
    base_free(bytes);
}

void coord_record_prompt(struct base_buf *b, const uint8_t *id, struct net_list ids)
{
    const size_t at = begin(b, RECORD_PROMPT, id);
    add_numbers(b, &ids.n, 1);
    base_buf_add(b, ids.ptr, ids.n * sizeof(int32_t));
    end(b, at);
}

void coord_record_token(struct base_buf *b, const uint8_t *id, const struct coord_token *t)
{
    const size_t at = begin(b, RECORD_TOKEN, id);
    add_numbers(b, (const uint32_t[]){t->index, t->elapsed_ms, (uint32_t)t->token, t->logprobs}, 4);
    if (t->logprobs > 0) {
        uint8_t chosen[8];
        net_put_f64(chosen, 0, t->chosen);
        base_buf_add(b, chosen, sizeof chosen);
        base_buf_add(b, t->ids.ptr, (t->logprobs - 1) * sizeof(int32_t));
        base_buf_add(b, t->best.ptr, (t->logprobs - 1) * sizeof(double));
    }
    end(b, at);
}

void coord_record_done(struct base_buf *b, const uint8_t *id, uint32_t n_tokens, uint32_t finish,
                       uint32_t replays, uint32_t reused, struct span error)
{
    const size_t at = begin(b, RECORD_DONE, id);
    add_numbers(b, (const uint32_t[]){n_tokens, finish, replays, reused}, 4);
    base_buf_add(b, error.ptr, error.len);
    end(b, at);
}

void coord_record_gone(struct base_buf *b, const uint8_t *id)
{
    end(b, begin(b, RECORD_GONE, id));
}

void coord_record_drain(struct base_buf *b, const char *name, bool on)
{
    static const uint8_t nobody[16];
    const uint8_t flag = on ? 1 : 0;
    const size_t at = begin(b, RECORD_DRAIN, nobody);
    base_buf_add(b, &flag, sizeof flag);
    base_buf_add(b, name, strlen(name));
    end(b, at);
}

/* ---- reading ------------------------------------------------------------------------------------- */

static struct coord_kept *find(struct coord_kept_list *l, const uint8_t *id)
{
    for (uint32_t i = 0; i < l->n; i++)
        if (memcmp(l->list[i].submit.id, id, 16) == 0)
            return &l->list[i];
    return NULL;
}

static void kept_deinit(struct coord_kept *k)
{
    base_buf_deinit(&k->tokens);
    base_buf_deinit(&k->chosen);
    base_buf_deinit(&k->ids);
    base_buf_deinit(&k->best);
}

void coord_kept_deinit(struct coord_kept_list *l)
{
    for (uint32_t i = 0; i < l->n; i++)
        kept_deinit(&l->list[i]);
    base_free(l->list);
    *l = (struct coord_kept_list){0};
}

static void drop(struct coord_kept_list *l, struct coord_kept *k)
{
    kept_deinit(k);
    const size_t after = (size_t)(l->list + l->n - (k + 1));
    memmove(k, k + 1, after * sizeof *k);
    l->n--;
}

static bool on_request(struct coord_kept_list *l, const uint8_t *id, struct span body)
{
    struct net_msg m;
    if (!net_msg_decode(NET_MSG_SUBMIT, body, &m) || memcmp(m.u.SUBMIT.id, id, 16) != 0)
        return false;
    struct coord_kept *k = find(l, id);
    if (k != NULL)
        drop(l, k);
    if (l->list == NULL)
        l->list = base_zalloc(COORD_REQUESTS_MAX, sizeof *l->list);
    if (l->list == NULL || l->n == COORD_REQUESTS_MAX)
        return false;
    l->list[l->n++] = (struct coord_kept){.submit = m.u.SUBMIT};
    return true;
}

static bool on_prompt(struct coord_kept *k, struct span body)
{
    const struct net_list count = {body.ptr, 1};
    if (body.len < 4 || (body.len - 4) % 4 != 0 || net_u32_at(count, 0) != (body.len - 4) / 4)
        return false;
    k->read = true;
    k->prompt = (struct net_list){body.ptr + 4, net_u32_at(count, 0)};
    return true;
}

static bool on_token(struct coord_kept *k, struct span body)
{
    const struct net_list numbers = {body.ptr, 4};
    if (body.len < 16)
        return false;
    const uint32_t logprobs = net_u32_at(numbers, 3);
    const size_t n_best = logprobs > 0 ? logprobs - 1 : 0,
                 more = logprobs > 0 ? 8 + n_best * (sizeof(int32_t) + sizeof(double)) : 0;
    if (logprobs > MODEL_LOGPROBS_MAX + 1 || body.len != 16 + more)
        return false;
    const size_t n = k->tokens.len / sizeof(int32_t);
    if (net_u32_at(numbers, 0) != n || k->done || (n > 0 && k->logprobs != logprobs))
        return true;
    k->logprobs = logprobs;
    k->last_ms = net_u32_at(numbers, 1);
    k->first_ms = n == 0 ? k->last_ms : k->first_ms;
    base_buf_add(&k->tokens, body.ptr + 8, sizeof(int32_t));
    if (logprobs > 0) {
        base_buf_add(&k->chosen, body.ptr + 16, sizeof(double));
        base_buf_add(&k->ids, body.ptr + 24, n_best * sizeof(int32_t));
        base_buf_add(&k->best, body.ptr + 24 + n_best * sizeof(int32_t), n_best * sizeof(double));
    }
    return !(k->tokens.failed || k->chosen.failed || k->ids.failed || k->best.failed);
}

static bool on_done(struct coord_kept *k, struct span body)
{
    const struct net_list numbers = {body.ptr, 4};
    if (body.len < 16)
        return false;
    if (net_u32_at(numbers, 0) != k->tokens.len / sizeof(int32_t))
        return true;
    k->done = true;
    k->finish = net_u32_at(numbers, 1);
    k->replays = net_u32_at(numbers, 2);
    k->reused = net_u32_at(numbers, 3);
    k->error = (struct span){body.ptr + 16, body.len - 16};
    return true;
}

static bool on_drain(struct coord_kept_list *l, struct span body)
{
    if (body.len < 2 || body.len > NET_NAME_MAX || memchr(body.ptr + 1, 0, body.len - 1) != NULL)
        return false;
    const struct span name = {body.ptr + 1, body.len - 1};
    uint32_t i = 0;
    while (i < l->n_drained && !base_span_is(name, l->drained[i]))
        i++;
    if (body.ptr[0] != 0 && i == l->n_drained && i < NET_WORKERS_MAX) {
        snprintf(l->drained[i], NET_NAME_MAX, "%.*s", (int)name.len, (const char *)name.ptr);
        l->n_drained++;
    } else if (body.ptr[0] == 0 && i < l->n_drained) {
        l->n_drained--;
        memmove(l->drained[i], l->drained[i + 1], (l->n_drained - i) * sizeof l->drained[i]);
    }
    return true;
}

static bool take(struct coord_kept_list *l, uint8_t kind, const uint8_t *id, struct span body)
{
    if (kind == RECORD_REQUEST)
        return on_request(l, id, body);
    if (kind == RECORD_DRAIN)
        return on_drain(l, body);
    struct coord_kept *k = find(l, id);
    if (k == NULL)
        return kind > RECORD_REQUEST && kind <= RECORD_GONE;
    switch (kind) {
    case RECORD_PROMPT:
        return on_prompt(k, body);
    case RECORD_TOKEN:
        return on_token(k, body);
    case RECORD_DONE:
        return on_done(k, body);
    case RECORD_GONE:
        drop(l, k);
        return body.len == 0;
    default:
        return false;
    }
}

size_t coord_records_read(struct span bytes, struct coord_kept_list *l)
{
    size_t at = 0;
    while (bytes.len - at >= HEAD_BYTES) {
        const uint8_t *head = bytes.ptr + at;
        const size_t n = net_u32_at((struct net_list){head + CHECK_BYTES, 1}, 0);
        if (n > bytes.len - at - HEAD_BYTES ||
            check_of(head, HEAD_BYTES + n) != net_u64_at((struct net_list){head, 1}, 0) ||
            !take(l, head[CHECK_BYTES + 4], head + CHECK_BYTES + 5,
                  (struct span){head + HEAD_BYTES, n}))
            break;
        at += HEAD_BYTES + n;
    }
    return at;
}

/* ---- writing what was read ----------------------------------------------------------------------- */

static void write_tokens(const struct coord_kept *k, struct base_buf *b)
{
    const uint32_t n = (uint32_t)(k->tokens.len / sizeof(int32_t)),
                   n_best = k->logprobs > 0 ? k->logprobs - 1 : 0;
    for (uint32_t i = 0; i < n; i++) {
        struct coord_token t = {.index = i,
                                .elapsed_ms = i == 0 ? k->first_ms : k->last_ms,
                                .token = net_i32_at((struct net_list){k->tokens.ptr, n}, i),
                                .logprobs = k->logprobs};
        if (k->logprobs > 0)
            t.chosen = net_f64_at((struct net_list){k->chosen.ptr, n}, i);
        if (n_best > 0) {
            const size_t first = (size_t)i * n_best;
            t.ids = (struct net_list){k->ids.ptr + first * sizeof(int32_t), n_best};
            t.best = (struct net_list){k->best.ptr + first * sizeof(double), n_best};
        }
        coord_record_token(b, k->submit.id, &t);
    }
}

void coord_records_write(const struct coord_kept_list *l, struct base_buf *b)
{
    for (uint32_t i = 0; i < l->n_drained; i++)
        coord_record_drain(b, l->drained[i], true);
    for (uint32_t i = 0; i < l->n; i++) {
        const struct coord_kept *k = &l->list[i];
        struct net_msg_SUBMIT m = k->submit;
        if (k->read || k->done)
            m.prompt = (struct span){NULL, 0};
        coord_record_request(b, &m);
        if (k->read)
            coord_record_prompt(b, m.id, k->prompt);
        write_tokens(k, b);
        if (k->done)
            coord_record_done(b, m.id, (uint32_t)(k->tokens.len / sizeof(int32_t)), k->finish,
                              k->replays, k->reused, k->error);
    }
}
