/* Fuzz target: records of the coordinator's journal. The input is records without their checks, which
 * are made here, since no mutation would get behind them: of each a length (2 bytes), a kind, a
 * request, and what follows. What is read must be written so that it reads the same, and a core must
 * go on with it, or refuse to, without losing its invariant; what it then adds is whole. */
#include "coordinator/coordinator.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { HEAD = 4, VOCABULARY = 50, CONTEXT = 64, INPUT_MAX = 100000 };

static void must(bool holds)
{
    if (!holds)
        abort();
}

/* coordinator/records.c describes a record. */
static void add_record(struct base_buf *b, uint8_t kind, uint8_t who, const uint8_t *body, size_t n)
{
    const size_t at = b->len;
    uint8_t head[8 + 4 + 1 + 16] = {0};
    net_put_u32(head + 8, 0, (uint32_t)n);
    head[12] = kind;
    head[13] = who;
    base_buf_add(b, head, sizeof head);
    base_buf_add(b, body, n);
    const size_t len = b->len - at - 8;
    uint64_t check = len;
    for (size_t i = 0; i < len; i += 8) {
        uint8_t word[8] = {0};
        memcpy(word, b->ptr + at + 8 + i, len - i < 8 ? len - i : 8);
        check = base_mix64(check + net_u64_at((struct net_list){word, 1}, 0));
    }
    net_put_u64(b->ptr + at, 0, check);
}

static struct span text_of(void *arg, int32_t token)
{
    (void)arg;
    must(token >= 0 && token < VOCABULARY);
    return base_span_str("ab");
}

static uint32_t no_pieces(void *arg, const struct coord_shard *s)
{
    (void)arg;
    (void)s;
    return 1;
}

static void step(struct coord_core *c, struct coord_event ev, struct base_buf *journal)
{
    static struct coord_actions out;
    coord_core_step(c, &ev, &out);
    base_buf_add(journal, out.journal.ptr, out.journal.len);
    for (uint32_t i = 0; i < out.n; i++)
        if (out.list[i].type == COORD_ACT_CLIENT)
            must(net_msg_bytes(&out.list[i].msg) > 0);
}

static void go_on(const struct coord_kept_list *l, const char *reason, struct base_buf *journal)
{
    static const struct net_config config = {
        .slots = 2,
        .queue = 1,
        .heartbeat_ms = 500,
        .dead_ms = 3000,
        .n_workers = 1,
        .workers = {{.name = "alpha"}}};
    static const struct coord_model m = {.n_layers = 1,
                                         .n_ff = 16,
                                         .n_vocab = VOCABULARY,
                                         .context = CONTEXT,
                                         .unit_heads = 1,
                                         .unit_cols = 16,
                                         .text = text_of,
                                         .n_pieces = no_pieces};
    struct coord_core *c;
    must(coord_core_new(&config, &m, 2, 7700, &c, NULL) == 0);
    step(c,
         (struct coord_event){.type = COORD_EV_KEPT, .now_ms = 1000, .kept = l, .reason = reason},
         journal);
    for (uint8_t who = 0; who < 4; who++) {
        const uint8_t id[16] = {who};
        const struct net_msg ask = {.code = NET_MSG_ASK, .u.ASK = {id, who, who}};
        step(
            c,
            (struct coord_event){.type = COORD_EV_CLIENT, .now_ms = 1100, .client = 5, .msg = &ask},
            journal);
    }
    step(c, (struct coord_event){.type = COORD_EV_TICK, .now_ms = 40000}, journal);
    must(coord_core_n_active(c) == 0);
    coord_core_free(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct base_buf b = {0}, again = {0}, twice = {0};
    struct coord_kept_list l = {0}, same = {0};
    if (size > INPUT_MAX)
        return 0;
    for (size_t at = 0; size - at >= HEAD;) {
        const size_t n = data[at] | (size_t)data[at + 1] << 8, left = size - at - HEAD;
        const size_t taken = n < left ? n : left;
        add_record(&b, data[at + 2], data[at + 3] % 4, data + at + HEAD, taken);
        at += HEAD + taken;
    }
    must(coord_records_read((struct span){b.ptr, b.len}, &l) <= b.len);
    coord_records_write(&l, &again);
    must(coord_records_read((struct span){again.ptr, again.len}, &same) == again.len);
    coord_records_write(&same, &twice);
    must(again.len == twice.len &&
         (again.len == 0 || memcmp(again.ptr, twice.ptr, twice.len) == 0));
    /* A core is much to set up. */
    if (size % 4 == 0)
        go_on(&l, size % 5 == 0 ? "other bits" : NULL, size % 5 == 0 ? &b : &twice);
    coord_kept_deinit(&same);
    coord_kept_deinit(&l);
    must(coord_records_read((struct span){twice.ptr, twice.len}, &l) == twice.len);
    coord_kept_deinit(&l);
    base_buf_deinit(&b);
    base_buf_deinit(&again);
    base_buf_deinit(&twice);
    return 0;
}
