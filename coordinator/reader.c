/* Prompts into tokens, on a thread of their own: a megabyte takes half a second, and the thread
 * that polls has heartbeats to answer.
 *
 * A prompt is text, text in which control tokens are parsed, or a conversation, which the model's
 * own chat template puts into words. Jobs are done in the order in which they were posted. A job
 * owns a copy of its prompt, since a message is gone after its event; the vocabulary is immutable
 * and shared.
 *
 * The invariant: every job that was posted is collected once, or freed with the reader. How many
 * there may be is the core's decision (COORD_READING_MAX). */
#include "coordinator/shell.h"

#include <string.h>

struct coord_reader {
    struct base_jobs *jobs;
    const struct vocab *vocab;
    const struct model_chat *chat; /* NULL: see no_chat */
    struct err no_chat;            /* why conversations are refused */
    uint32_t context;
    struct coord_reading *first; /* posted and not collected */
};

int coord_reader_new(const struct model *m, const struct vocab *v, uint32_t context,
                     struct coord_reader **out, struct err *e)
{
    struct coord_reader *r = base_zalloc(1, sizeof *r);
    if (r == NULL)
        return err_set(e, ERR_NOMEM, "out of memory for reading prompts");
    r->vocab = v;
    r->context = context;
    if (model_chat_find(model_gguf(m), &r->chat, &r->no_chat) != 0)
        r->chat = NULL;
    const int rc = base_jobs_new("prompts", COORD_READING_MAX, &r->jobs, e);
    if (rc != 0) {
        coord_reader_free(r);
        return rc;
    }
    *out = r;
    return 0;
}

/* ---- on the thread --------------------------------------------------------------------------- */

static int read_chat(struct coord_reading *p, const struct coord_reader *r, struct span packed)
{
    struct model_message *list;
    size_t n = 0;
    int rc;
    if (r->chat == NULL)
        return err_set(&p->e, r->no_chat.code, "no conversations with this model: %.300s",
                       r->no_chat.text);
    list = base_zalloc(MODEL_MESSAGES_MAX, sizeof *list);
    if (list == NULL)
        return err_set(&p->e, ERR_NOMEM, "the coordinator is out of memory for the conversation");
    if (!model_messages_parse(packed, list, MODEL_MESSAGES_MAX, &n))
        rc = err_set(&p->e, ERR_FORMAT,
                     "the conversation is malformed, or has more than %d messages",
                     MODEL_MESSAGES_MAX);
    else
        rc = model_chat_encode(r->chat, r->vocab, list, n, p->ids, r->context, &p->n, &p->e);
    base_free(list);
    return rc;
}

static void read_job(void *arg)
{
    struct coord_reading *p = arg;
    const struct coord_reader *r = p->reader;
    const struct span text = {p->prompt.ptr, p->prompt.len};
    unsigned flags = MODEL_ENCODE_BOS;
    p->ids = base_alloc(r->context * sizeof *p->ids);
    if (p->ids == NULL)
        p->rc = err_set(&p->e, ERR_NOMEM, "the coordinator is out of memory for the prompt");
    else if (p->form == NET_PROMPT_CHAT)
        p->rc = read_chat(p, r, text);
    else if (p->form > NET_PROMPT_CHAT)
        p->rc = err_set(&p->e, ERR_UNSUPPORTED, "prompts of form %u are not known here", p->form);
    else {
        flags |= p->form == NET_PROMPT_SPECIAL ? MODEL_ENCODE_SPECIAL : 0u;
        p->rc = model_vocab_encode(r->vocab, text, flags, p->ids, r->context, &p->n, &p->e);
    }
    /* One that is too long for the context is the core's to refuse, which knows what to say. */
    if (p->rc == ERR_RANGE && p->n > r->context)
        p->rc = 0;
    /* What waits to be collected keeps no more than it needs. */
    int32_t *less = p->n < r->context ? base_realloc(p->ids, (p->n + 1) * sizeof *p->ids) : NULL;
    p->ids = less != NULL ? less : p->ids;
}

/* ---- on the poll loop's thread --------------------------------------------------------------- */

static void reading_free(struct coord_reading *p)
{
    base_buf_deinit(&p->prompt);
    base_free(p->ids);
    base_free(p);
}

int coord_reader_post(struct coord_reader *r, uint64_t serial, const struct net_msg_SUBMIT *m,
                      struct err *e)
{
    struct coord_reading *p = base_zalloc(1, sizeof *p);
    int rc = ERR_NOMEM;
    if (p != NULL) {
        p->reader = r;
        p->serial = serial;
        p->form = m->form;
        base_buf_add(&p->prompt, m->prompt.ptr, m->prompt.len);
        rc = p->prompt.failed ? ERR_NOMEM : base_jobs_post(r->jobs, read_job, p);
    }
    if (rc != 0) {
        if (p != NULL)
            reading_free(p);
        return err_set(e, rc, "the coordinator cannot read the prompt: %s", base_err_sentence(rc));
    }
    p->next = r->first;
    r->first = p;
    return 0;
}

int coord_reader_fd(const struct coord_reader *r)
{
    return base_jobs_fd(r->jobs);
}

struct coord_reading *coord_reader_reap(struct coord_reader *r)
{
    void *job;
    return base_jobs_reap(r->jobs, &job) ? job : NULL;
}

void coord_reader_done(struct coord_reading *p)
{
    struct coord_reading **at = &p->reader->first;
    while (*at != p)
        at = &(*at)->next;
    *at = p->next;
    reading_free(p);
}

void coord_reader_free(struct coord_reader *r)
{
    if (r == NULL)
        return;
    base_jobs_free(r->jobs);
    while (r->first != NULL)
        coord_reader_done(r->first);
    base_free(r);
}
