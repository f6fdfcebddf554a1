/* The journal under test: what is written is read again, from any beginning of it and whatever has
 * happened to the rest; a core goes on with it, or refuses to; the file outlives its process, stays
 * short, and a disk that is full costs the journal and nothing else. */
#include "coordinator/journal.h"

#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { CONTEXT = 64, VOCABULARY = 50, MUTATIONS = 16000, CORE_EVERY = 8 };

/* ---- a journal to play with ---------------------------------------------------------------------- */

static uint8_t ids[3][16] = {{1}, {2}, {3}};
static const int32_t prompt[] = {4, 5, 6};

static struct net_msg_SUBMIT submission(uint32_t who)
{
    return (struct net_msg_SUBMIT){.version = NET_CLIENT_VERSION,
                                   .id = ids[who],
                                   .prompt = base_span_str("four five six"),
                                   .n = 10,
                                   .temperature = who == 0 ? 0 : 0.8,
                                   .top_p = 1,
                                   .repeat_penalty = 1,
                                   .seed = 100 + who,
                                   .logprobs = who == 1 ? 3 : 0};
}

static void add_token(struct base_buf *b, uint32_t who, uint32_t index)
{
    const int32_t best_ids[] = {7, (int32_t)index};
    const double best[] = {-0.5, -1.25 - index};
    struct coord_token t = {
        .index = index, .elapsed_ms = 100 + index, .token = 10 + (int32_t)index};
    if (who == 1) {
        t.logprobs = 3;
        t.chosen = -0.5 - index;
        t.ids = net_list_i32(best_ids, 2);
        t.best = net_list_f64(best, 2);
    }
    coord_record_token(b, ids[who], &t);
}

/* Three requests: one with five tokens, one with log-probabilities that has finished, one whose
 * prompt is not read; and one that is gone. */
static void make(struct base_buf *b)
{
    static uint8_t gone[16] = {9};
    struct net_msg_SUBMIT m = submission(0);
    m.id = gone;
    coord_record_request(b, &m);
    for (uint32_t who = 0; who < 3; who++) {
        m = submission(who);
        coord_record_request(b, &m);
        if (who < 2)
            coord_record_prompt(b, ids[who], net_list_i32(prompt, 3));
    }
    for (uint32_t i = 0; i < 5; i++)
        for (uint32_t who = 0; who < 2; who++)
            add_token(b, who, i);
    coord_record_done(b, ids[1], 5, 0, 1, 2, base_span_str(""));
    coord_record_gone(b, gone);
    assert_false(b->failed);
}

static struct span all_of(const struct base_buf *b)
{
    return (struct span){b->ptr, b->len};
}

static uint32_t n_tokens(const struct coord_kept *k)
{
    return (uint32_t)(k->tokens.len / sizeof(int32_t));
}

/* Tokens and what goes with them are those that were written. */
static void check_kept(const struct coord_kept *k)
{
    const uint32_t who = k->submit.id[0] - 1u, n = n_tokens(k);
    if (who > 2)
        return;
    assert_int_equal(k->submit.seed, 100 + who);
    if (k->read)
        assert_int_equal(net_i32_at(k->prompt, 2), 6);
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(net_i32_at((struct net_list){k->tokens.ptr, n}, i), 10 + i);
        if (who == 1)
            assert_true(net_f64_at((struct net_list){k->best.ptr, 2 * n}, 2 * i + 1) < -1.24 - i);
    }
    assert_int_equal(k->chosen.len, who == 1 ? n * sizeof(double) : 0);
}

/* Read, check, write what was read, and read that: it is the same. Returns how many records' bytes
 * were taken. */
static size_t read_twice(struct span bytes)
{
    struct coord_kept_list l = {0}, again = {0};
    struct base_buf b = {0}, third = {0};
    const size_t n = coord_records_read(bytes, &l);
    assert_true(n <= bytes.len);
    for (uint32_t i = 0; i < l.n; i++)
        check_kept(&l.list[i]);
    coord_records_write(&l, &b);
    assert_int_equal(coord_records_read(all_of(&b), &again), b.len);
    assert_int_equal(again.n, l.n);
    coord_records_write(&again, &third);
    assert_int_equal(third.len, b.len);
    assert_true(b.len == 0 || memcmp(third.ptr, b.ptr, b.len) == 0);
    coord_kept_deinit(&l);
    coord_kept_deinit(&again);
    base_buf_deinit(&b);
    base_buf_deinit(&third);
    return n;
}

/* ---- records ------------------------------------------------------------------------------------- */

static void what_is_written_is_read(void **state)
{
    struct base_buf b = {0};
    struct coord_kept_list l = {0};
    (void)state;
    make(&b);
    assert_int_equal(read_twice(all_of(&b)), b.len);
    coord_records_read(all_of(&b), &l);
    assert_int_equal(l.n, 3);
    assert_int_equal(n_tokens(&l.list[0]), 5);
    assert_int_equal(l.list[0].first_ms, 100);
    assert_int_equal(l.list[0].last_ms, 104);
    assert_false(l.list[0].done);
    assert_true(l.list[1].done);
    assert_int_equal(l.list[1].reused, 2);
    assert_false(l.list[2].read);
    assert_true(base_span_is(l.list[2].submit.prompt, "four five six"));
    coord_kept_deinit(&l);
    base_buf_deinit(&b);
}

static void any_beginning_will_do(void **state)
{
    struct base_buf b = {0};
    (void)state;
    make(&b);
    for (size_t n = 0; n < b.len; n++)
        assert_true(read_twice((struct span){b.ptr, n}) <= n);
    base_buf_deinit(&b);
}

static void a_flipped_bit_ends_it(void **state)
{
    struct base_buf b = {0};
    (void)state;
    make(&b);
    for (size_t at = 0; at < b.len; at++) {
        b.ptr[at] ^= (uint8_t)(1u << at % 8);
        assert_true(read_twice(all_of(&b)) <= at);
        b.ptr[at] ^= (uint8_t)(1u << at % 8);
    }
    base_buf_deinit(&b);
}

/* A disk that was full for a while leaves holes. */
static void records_may_be_missing(void **state)
{
    static uint8_t unknown[16] = {77};
    struct base_buf b = {0};
    struct coord_kept_list l = {0};
    const struct net_msg_SUBMIT m = submission(0);
    (void)state;
    coord_record_gone(&b, unknown);
    coord_record_done(&b, unknown, 0, 2, 0, 0, base_span_str("cancelled"));
    coord_record_request(&b, &m);
    coord_record_prompt(&b, ids[0], net_list_i32(prompt, 3));
    add_token(&b, 0, 0);
    add_token(&b, 0, 2);
    add_token(&b, 0, 3);
    coord_record_done(&b, ids[0], 4, 0, 0, 0, base_span_str(""));
    assert_int_equal(coord_records_read(all_of(&b), &l), b.len);
    assert_int_equal(l.n, 1);
    assert_int_equal(n_tokens(&l.list[0]), 1);
    assert_false(l.list[0].done);
    coord_kept_deinit(&l);
    base_buf_deinit(&b);
}

/* Names of drained workers, the last word on each counting. */
static void drains_are_read(void **state)
{
    char most[NET_NAME_MAX] = {0};
    struct base_buf b = {0}, again = {0};
    struct coord_kept_list l = {0};
    (void)state;
    memset(most, 'm', sizeof most - 1);
    coord_record_drain(&b, "alpha", true);
    coord_record_drain(&b, "beta", true);
    coord_record_drain(&b, most, true);
    make(&b);
    coord_record_drain(&b, "beta", true);
    coord_record_drain(&b, "alpha", false);
    coord_record_drain(&b, "gamma", false);
    assert_int_equal(read_twice(all_of(&b)), b.len);
    coord_records_read(all_of(&b), &l);
    assert_int_equal(l.n, 3);
    assert_int_equal(l.n_drained, 2);
    assert_string_equal(l.drained[0], "beta");
    assert_string_equal(l.drained[1], most);
    coord_records_write(&l, &again);
    coord_kept_deinit(&l);
    assert_int_equal(l.n_drained, 0);
    coord_records_read(all_of(&again), &l);
    assert_int_equal(l.n_drained, 2);
    coord_kept_deinit(&l);
    /* More than there can be are passed over. */
    b.len = 0;
    for (uint32_t i = 0; i < NET_WORKERS_MAX + 3; i++) {
        snprintf(most, sizeof most, "w%u", i);
        coord_record_drain(&b, most, true);
    }
    assert_int_equal(read_twice(all_of(&b)), b.len);
    coord_records_read(all_of(&b), &l);
    assert_int_equal(l.n_drained, NET_WORKERS_MAX);
    coord_kept_deinit(&l);
    base_buf_deinit(&again);
    base_buf_deinit(&b);
}

/* ---- a core -------------------------------------------------------------------------------------- */

static struct span text_of(void *arg, int32_t token)
{
    (void)arg;
    (void)token;
    return base_span_str("ab");
}

static uint32_t no_pieces(void *arg, const struct coord_shard *s)
{
    (void)arg;
    (void)s;
    return 1;
}

static struct coord_core *new_core(void)
{
    static struct net_config config = {
        .slots = 2,
        .queue = 1,
        .heartbeat_ms = 500,
        .dead_ms = 3000,
        .n_workers = 2,
        .workers = {{.name = "alpha"}, {.name = "beta"}}};
    static const struct coord_model m = {.n_layers = 1,
                                         .n_ff = 16,
                                         .n_vocab = VOCABULARY,
                                         .context = CONTEXT,
                                         .unit_heads = 1,
                                         .unit_cols = 16,
                                         .n_ends = 1,
                                         .ends = {0},
                                         .text = text_of,
                                         .n_pieces = no_pieces};
    struct coord_core *c;
    assert_int_equal(coord_core_new(&config, &m, 2, 7700, &c, NULL), 0);
    return c;
}

static struct coord_actions actions;

static void take_up(struct coord_core *c, struct span bytes, const char *reason)
{
    struct coord_kept_list l = {0};
    coord_records_read(bytes, &l);
    coord_core_step(
        c,
        &(struct coord_event){.type = COORD_EV_KEPT, .now_ms = 1000, .kept = &l, .reason = reason},
        &actions);
    assert_null(coord_core_invariant(c));
    coord_kept_deinit(&l);
}

/* The answer to ASK, or NULL. */
static const struct net_msg *ask(struct coord_core *c, uint32_t who, uint32_t from, uint32_t text,
                                 int64_t now_ms)
{
    const struct net_msg m = {.code = NET_MSG_ASK, .u.ASK = {ids[who], from, text}};
    coord_core_step(
        c, &(struct coord_event){.type = COORD_EV_CLIENT, .now_ms = now_ms, .client = 5, .msg = &m},
        &actions);
    for (uint32_t i = 0; i < actions.n; i++)
        if (actions.list[i].type == COORD_ACT_CLIENT)
            return &actions.list[i].msg;
    return NULL;
}

static void tick(struct coord_core *c, int64_t now_ms)
{
    coord_core_step(c, &(struct coord_event){.type = COORD_EV_TICK, .now_ms = now_ms}, &actions);
    assert_null(coord_core_invariant(c));
}

static void a_core_goes_on(void **state)
{
    struct base_buf b = {0};
    struct coord_core *c = new_core();
    (void)state;
    make(&b);
    take_up(c, all_of(&b), NULL);
    base_buf_deinit(&b);
    assert_int_equal(coord_core_n_reading(c), 1);
    const struct net_msg *m = ask(c, 0, 2, 0, 1100);
    assert_int_equal(m->code, NET_MSG_ANSWER);
    assert_int_equal(m->u.ANSWER.tokens.n, 3);
    assert_int_equal(net_i32_at(m->u.ANSWER.tokens, 0), 12);
    assert_int_equal(m->u.ANSWER.text.len, 10);
    m = ask(c, 1, 4, 10, 1100);
    assert_int_equal(m->code, NET_MSG_ANSWER);
    assert_int_equal(net_i32_at(m->u.ANSWER.best_ids, 1), 4);
    m = ask(c, 1, 5, 10, 1100);
    assert_int_equal(m->code, NET_MSG_DONE);
    assert_int_equal(m->u.DONE.replays, 1);
    assert_int_equal(m->u.DONE.reused_tokens, 2);
    assert_int_equal(m->u.DONE.prompt_tokens, 3);
    assert_true(m->u.DONE.ttft_ms > 99 && m->u.DONE.ttft_ms < 101);
    coord_core_free(c);
}

/* What `shoal drain` and `undrain` say goes into the journal, and a core that takes that up has the
 * workers drained, as their states say; one that the configuration does not name is forgotten. */
static void drained_workers_stay_so(void **state)
{
    struct base_buf b = {0};
    struct coord_kept_list l = {0};
    struct coord_core *c = new_core();
    static const char *const names[] = {"alpha", "beta", "alpha", "alpha"};
    static const uint32_t on[] = {1, 1, 0, 0};
    (void)state;
    coord_record_drain(&b, "gone", true);
    take_up(c, all_of(&b), NULL);
    base_buf_add(&b, actions.journal.ptr, actions.journal.len);
    for (uint32_t i = 0; i < 4; i++) {
        const struct net_msg m = {
            .code = NET_MSG_DRAIN,
            .u.DRAIN = {NET_CLIENT_VERSION, base_span_str(names[i]), on[i]}};
        coord_core_step(
            c,
            &(struct coord_event){.type = COORD_EV_CLIENT, .now_ms = 1100, .client = 5, .msg = &m},
            &actions);
        base_buf_add(&b, actions.journal.ptr, actions.journal.len);
    }
    coord_core_free(c);
    coord_records_read(all_of(&b), &l);
    assert_int_equal(l.n_drained, 1);
    assert_string_equal(l.drained[0], "beta");
    coord_kept_deinit(&l);
    for (uint32_t refused = 0; refused < 2; refused++) {
        const struct net_msg up = {.code = NET_MSG_ASK_STATUS,
                                   .u.ASK_STATUS = {NET_CLIENT_VERSION}};
        uint32_t n = 0;
        c = new_core();
        take_up(c, all_of(&b), refused != 0 ? "another model" : NULL);
        for (uint32_t i = 0; i < 2; i++)
            coord_core_step(
                c, &(struct coord_event){.type = COORD_EV_NODE_UP, .now_ms = 1000, .node = i},
                &actions);
        coord_core_step(
            c, &(struct coord_event){.type = COORD_EV_CLIENT, .now_ms = 1100, .msg = &up}, &actions);
        for (uint32_t i = 0; i < actions.n; i++)
            if (actions.list[i].msg.code == NET_MSG_STATUS_NODE) {
                const struct net_msg_STATUS_NODE *m = &actions.list[i].msg.u.STATUS_NODE;
                assert_int_equal(base_span_is(m->state, "drained"), base_span_is(m->name, "beta"));
                n++;
            }
        assert_int_equal(n, 2);
        coord_core_free(c);
    }
    base_buf_deinit(&b);
}

/* Who is not asked for is dropped, in the journal, too. */
static void nobody_waits_for_ever(void **state)
{
    struct base_buf b = {0};
    struct coord_kept_list l = {0};
    struct coord_core *c = new_core();
    (void)state;
    make(&b);
    take_up(c, all_of(&b), NULL);
    tick(c, 1000 + COORD_KEPT_MS);
    assert_int_equal(actions.journal.len, 0);
    tick(c, 1000 + COORD_KEPT_MS + 1);
    base_buf_add(&b, actions.journal.ptr, actions.journal.len);
    tick(c, 1000 + COORD_KEPT_MS + 1 + COORD_KEEP_DONE_MS + 1);
    base_buf_add(&b, actions.journal.ptr, actions.journal.len);
    coord_records_read(all_of(&b), &l);
    assert_int_equal(l.n, 0);
    assert_int_equal(ask(c, 0, 0, 0, 100000)->code, NET_MSG_NO);
    coord_kept_deinit(&l);
    base_buf_deinit(&b);
    coord_core_free(c);
}

static void others_bits_are_refused(void **state)
{
    struct base_buf b = {0}, anew = {0};
    struct coord_kept_list l = {0};
    struct coord_core *c = new_core();
    (void)state;
    make(&b);
    take_up(c, all_of(&b), "another model");
    base_buf_add(&anew, actions.journal.ptr, actions.journal.len);
    const struct net_msg *m = ask(c, 0, 3, 6, 1100);
    assert_int_equal(m->code, NET_MSG_DONE);
    assert_int_equal(m->u.DONE.finish, 2);
    assert_true(base_span_is(m->u.DONE.error, "another model"));
    coord_core_free(c);
    /* Restarted once more it still knows. */
    c = new_core();
    take_up(c, all_of(&anew), NULL);
    m = ask(c, 0, 3, 6, 1100);
    assert_int_equal(m->code, NET_MSG_DONE);
    assert_true(base_span_is(m->u.DONE.error, "another model"));
    coord_core_free(c);
    coord_kept_deinit(&l);
    base_buf_deinit(&b);
    base_buf_deinit(&anew);
}

/* Bytes are changed and the checks made good again, so that what is behind them is reached. */
static void mend_checks(struct base_buf *b)
{
    for (size_t at = 0; at + 29 <= b->len;) {
        const size_t n = 29 + net_u32_at((struct net_list){b->ptr + at + 8, 1}, 0);
        if (n > b->len - at)
            return;
        net_put_u64(b->ptr + at, 0, coord_record_check((struct span){b->ptr + at + 8, n - 8}));
        at += n;
    }
}

static void hostile_records_do_no_harm(void **state)
{
    const int64_t live = base_alloc_live();
    uint64_t rng = 1, taken = 0;
    (void)state;
    for (uint32_t round = 0; round < MUTATIONS; round++) {
        struct base_buf b = {0};
        make(&b);
        for (uint64_t k = 1 + base_rng_next(&rng) % 4; k > 0; k--) {
            const uint64_t dice = base_rng_next(&rng);
            uint8_t *p = b.ptr + base_rng_next(&rng) % b.len;
            const uint8_t any = (uint8_t)(dice >> 8), bit = (uint8_t)(1u << any % 8);
            *p = dice % 3 == 0 ? any : dice % 3 == 1 ? *p ^ bit : (uint8_t)(*p + 1);
        }
        mend_checks(&b);
        if (round % CORE_EVERY != 0) {
            struct coord_kept_list l = {0};
            (void)coord_records_read(all_of(&b), &l);
            coord_kept_deinit(&l);
            base_buf_deinit(&b);
            continue;
        }
        struct coord_core *c = new_core();
        take_up(c, all_of(&b), round % (7 * CORE_EVERY) == 0 ? "other bits" : NULL);
        for (uint32_t who = 0; who < 3; who++)
            (void)ask(c, who, round % 6, 0, 1100);
        tick(c, 60000);
        taken += coord_core_n_reading(c);
        coord_core_free(c);
        base_buf_deinit(&b);
    }
    assert_true(taken > MUTATIONS / CORE_EVERY / 2); /* otherwise nothing gets behind the checks */
    assert_int_equal(base_alloc_live(), live);
}

/* ---- the file ------------------------------------------------------------------------------------ */

static char dir[] = "/tmp/test-journal-XXXXXX";
static char path[64];
static const struct coord_identity own = {.model = {1}, .numerics = 5, .context = CONTEXT};

static int setup(void **state)
{
    (void)state;
    if (net_init(NULL) != 0 || mkdtemp(dir) == NULL)
        return -1;
    snprintf(path, sizeof path, "%s/journal", dir);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    (void)unlink(path);
    return rmdir(dir);
}

static struct coord_journal *open_journal(const struct coord_identity *id)
{
    struct coord_journal *j;
    assert_int_equal(coord_journal_open(dir, id, &j, NULL), 0);
    return j;
}

static void settle(struct coord_journal *j)
{
    struct pollfd p = {.fd = coord_journal_fd(j), .events = POLLIN};
    assert_int_equal(poll(&p, 1, 20000), 1);
    coord_journal_reap(j);
}

static void write_file(const void *bytes, size_t n)
{
    assert_int_equal(base_file_replace(path, bytes, n, 0600, NULL), 0);
}

static size_t file_bytes(void)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    return (size_t)st.st_size;
}

/* A file that holds what make() makes. */
static void keep_made(void)
{
    struct base_buf b = {0};
    (void)unlink(path);
    struct coord_journal *j = open_journal(&own);
    assert_int_equal(coord_journal_kept(j)->n, 0);
    make(&b);
    coord_journal_add(j, (struct span){b.ptr, 100}); /* the rest waits for its end */
    coord_journal_add(j, (struct span){b.ptr + 100, b.len - 100});
    coord_journal_close(j);
    base_buf_deinit(&b);
}

static void the_file_outlives_its_process(void **state)
{
    (void)state;
    keep_made();
    const size_t n = file_bytes();
    for (int i = 0; i < 3; i++) { /* and is no longer with each start */
        struct coord_journal *j = open_journal(&own);
        assert_null(coord_journal_refuses(j));
        assert_int_equal(coord_journal_kept(j)->n, 3);
        assert_int_equal(n_tokens(&coord_journal_kept(j)->list[0]), 5);
        assert_true(file_bytes() < n);
        coord_journal_close(j);
    }
}

static void another_journal_is_refused(void **state)
{
    struct coord_identity other[6] = {own, own, own, own, own, own};
    static const char *const words[] = {"model", "kernels", "kv", "numerics", "wire", "context"};
    (void)state;
    other[0].model[31] = 1;
    other[1].numerics++;
    other[2].kv++;
    other[3].fast++;
    other[4].wire++;
    other[5].context++;
    for (int i = 0; i < 6; i++) {
        struct base_buf b = {0};
        keep_made();
        struct coord_journal *j = open_journal(&own);
        coord_record_drain(&b, "beta", true);
        coord_journal_add(j, all_of(&b));
        coord_journal_close(j);
        base_buf_deinit(&b);
        j = open_journal(&other[i]);
        assert_non_null(coord_journal_refuses(j));
        assert_non_null(strstr(coord_journal_refuses(j), words[i]));
        assert_int_equal(coord_journal_kept(j)->n, 3);
        coord_journal_close(j);
        j = open_journal(&other[i]); /* which has begun anew, as this one's */
        assert_null(coord_journal_refuses(j));
        assert_int_equal(coord_journal_kept(j)->n, 0);
        assert_int_equal(coord_journal_kept(j)->n_drained, 1); /* drained is drained */
        coord_journal_close(j);
    }
}

static void damaged_files_are_begun_anew(void **state)
{
    uint8_t *whole;
    size_t n;
    uint64_t rng = 3;
    (void)state;
    keep_made();
    assert_int_equal(base_file_read(path, 100000, &whole, &n, NULL), 0);
    for (size_t round = 0; round < 300; round++) {
        if (round < 100) {
            write_file(whole, round < 90 ? round : (size_t)(base_rng_next(&rng) % n));
        } else {
            uint8_t *p = whole + base_rng_next(&rng) % n;
            *p ^= 0x10;
            write_file(whole, n);
            *p ^= 0x10;
        }
        struct coord_journal *j = open_journal(&own);
        assert_null(coord_journal_refuses(j));
        for (uint32_t i = 0; i < coord_journal_kept(j)->n; i++)
            check_kept(&coord_journal_kept(j)->list[i]);
        coord_journal_close(j);
        assert_int_equal(read_twice((struct span){whole + 72, n - 72}), n - 72);
    }
    base_free(whole);
    /* No file at all, but something else of that name. */
    (void)unlink(path);
    assert_int_equal(mkdir(path, 0700), 0);
    struct coord_journal *j = open_journal(&own);
    assert_int_equal(coord_journal_kept(j)->n, 0);
    coord_journal_add(j, (struct span){(const uint8_t *)"x", 1});
    settle(j);
    coord_journal_close(j);
    assert_int_equal(rmdir(path), 0);
}

/* Lines with a word among what was logged, which goes to a file meanwhile. */
static int log_fd = -1, stderr_fd;

static void hear(void)
{
    char name[] = "/tmp/test-journal-log-XXXXXX";
    log_fd = mkstemp(name);
    assert_true(log_fd >= 0);
    (void)unlink(name);
    (void)fflush(stderr);
    stderr_fd = dup(STDERR_FILENO);
    (void)dup2(log_fd, STDERR_FILENO);
}

static unsigned heard(const char *word)
{
    static char text[65536];
    unsigned n = 0;
    (void)fflush(stderr);
    const ssize_t got = pread(log_fd, text, sizeof text - 1, 0);
    text[got > 0 ? got : 0] = 0;
    for (const char *p = text; (p = strstr(p, word)) != NULL; p++)
        n++;
    return n;
}

static void hear_no_more(void)
{
    (void)dup2(stderr_fd, STDERR_FILENO);
    (void)close(stderr_fd);
    (void)close(log_fd);
}

/* A file that may not grow takes part of a record, as a full disk does. */
static void a_full_disk_is_said_once(void **state)
{
    struct rlimit old, tight;
    struct base_buf b = {0};
    (void)state;
    keep_made();
    struct coord_journal *j = open_journal(&own);
    const size_t before = file_bytes();
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    (void)signal(SIGXFSZ, SIG_IGN);
    hear();
    tight = (struct rlimit){before + 20, old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0);
    for (uint32_t i = 5; i < 8; i++) {
        b.len = 0;
        add_token(&b, 0, i);
        coord_journal_add(j, all_of(&b));
        settle(j);
    }
    const size_t full = file_bytes();
    const unsigned errors = heard("error=");
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    b.len = 0;
    coord_record_done(&b, ids[0], 8, 0, 0, 0, base_span_str("")); /* more than the file has */
    coord_record_gone(&b, ids[1]);
    coord_journal_add(j, all_of(&b));
    settle(j);
    const unsigned good = heard("works again");
    hear_no_more();
    coord_journal_close(j);
    assert_int_equal(full, before);
    assert_int_equal(errors, 1);
    assert_int_equal(good, 1);
    j = open_journal(&own);
    assert_int_equal(coord_journal_kept(j)->n, 2);
    assert_int_equal(n_tokens(&coord_journal_kept(j)->list[0]), 5);
    assert_false(coord_journal_kept(j)->list[0].done);
    coord_journal_close(j);
    base_buf_deinit(&b);
}

/* Requests come and go for as long as one likes: the file is cut short now and then, and those that
 * are still there stay. */
static void the_file_stays_short(void **state)
{
    struct base_buf b = {0};
    size_t most = 0, total = 0;
    (void)state;
    keep_made();
    struct coord_journal *j = open_journal(&own);
    for (uint32_t i = 0; i < 40; i++) {
        uint8_t id[16] = {200, (uint8_t)i};
        struct net_msg_SUBMIT m = submission(0);
        b.len = 0;
        m.id = id;
        coord_record_request(&b, &m);
        for (uint32_t k = 0; k < 2000; k++)
            add_token(&b, 0, 9);
        coord_record_gone(&b, id);
        total += b.len;
        coord_journal_add(j, all_of(&b));
        settle(j);
        most = file_bytes() > most ? file_bytes() : most;
    }
    coord_journal_close(j);
    assert_true(total > 3 * COORD_JOURNAL_SLACK);
    assert_true(most < COORD_JOURNAL_SLACK + 200000);
    j = open_journal(&own);
    assert_int_equal(coord_journal_kept(j)->n, 3);
    coord_journal_close(j);
    base_buf_deinit(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(any_beginning_will_do),
        cmocka_unit_test(a_flipped_bit_ends_it),
        cmocka_unit_test(records_may_be_missing),
        cmocka_unit_test(drains_are_read),
        cmocka_unit_test(a_core_goes_on),
        cmocka_unit_test(drained_workers_stay_so),
        cmocka_unit_test(nobody_waits_for_ever),
        cmocka_unit_test(others_bits_are_refused),
        cmocka_unit_test(hostile_records_do_no_harm),
        cmocka_unit_test(the_file_outlives_its_process),
        cmocka_unit_test(another_journal_is_refused),
        cmocka_unit_test(damaged_files_are_begun_anew),
        cmocka_unit_test(a_full_disk_is_said_once),
        cmocka_unit_test(the_file_stays_short),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
