/* The `shoal` command: one table of options, one file a subcommand, and what the subcommands share.
 * This is the one folder that prints, and the one that speaks JSON (with jansson). */
#ifndef CLIENT_CLIENT_H
#define CLIENT_CLIENT_H

#include "common/common.h"
#include "model/model.h"
#include "net/net.h"

#include <jansson.h>

/* ---- limits ---------------------------------------------------------------------------------- */

enum {
    CLI_STOPS_MAX = 16,             /* stop strings of a request */
    CLI_STOP_BYTES_MAX = 256,       /* bytes of one */
    CLI_PROMPT_BYTES_MAX = 1048576, /* bytes of a prompt */
    CLI_TEXT_BYTES_MAX = 67108864,  /* bytes of a file of prompts or of text to score */
    CLI_LOCAL_SLOTS = 8,            /* requests that `local` decodes together */
    CLI_CONTEXT_MAX = 4096,         /* default context: the model's own, at most this */
    CLI_CHUNK = 128,                /* default prompt rows of a pass */
    CLI_SILENCE_MS = 10000,         /* a coordinator that says nothing for so long is not there */
    CLI_LOST_MS = 60000, /* one that has requests of ours has so long to come back: a restart */
    CLI_THEN_MAX = 64    /* points of a history */
};

/* ---- options (client/options.c) -------------------------------------------------------------- */

/* Every option of every command, once; a command lists those it takes. */
enum cli_opt {
#define OPTION(id, letter, name, arg, kind, member, low, high, help) CLI_OPT_##id,
#include "client/options.def"
    CLI_N_OPTS
};
_Static_assert(CLI_N_OPTS <= 64, "options of a command are bits of a word");
/* A bias that forbids a token, as it is written. */
#define CLI_BANNED  "banned"
#define CLI_BIT(id) (UINT64_C(1) << CLI_OPT_##id)

struct cli_options {
    uint64_t given; /* CLI_BIT of each option that was on the command line */
    const char *config, *model, *prompt, *system, *prompts, *file, *key, *profile, *svg;
    const struct kern_table *kernels; /* NULL: the best */
    enum kern_kv_type kv;
    bool fast;        /* numerics: fast */
    uint32_t n;       /* tokens; UINT32_MAX: to the end of the context */
    uint32_t threads; /* 0: as many as cores */
    float precision;  /* percent */
    uint32_t chunk, context, bench_prompt, bench_tokens, bench_runs;
    struct model_sampling sampling;
    struct span stops[CLI_STOPS_MAX];
    uint32_t n_stops;
    bool json, special, no_bos, verbose, quiet, help, version;
    char *const *args; /* what is left: positional arguments */
    int n_args;
};

struct cli_command {
    const char *name;
    const char *usage;     /* what follows the name on a command line */
    const char *summary;   /* one sentence */
    uint64_t takes, needs; /* options */
    int min_args, max_args;
    /* 0, ERR_USAGE or another failure; with an empty text where all has been said already. */
    int (*run)(const struct cli_options *o, struct err *e);
};

/* argv[0] is the command's name; texts of *out are borrowed from argv. ERR_USAGE,
 * ERR_UNSUPPORTED. */
int cli_options_parse(const struct cli_command *c, int argc, char **argv, struct cli_options *out,
                      struct err *e);
void cli_options_help(const struct cli_command *c, FILE *out);
/* A whole or decimal number with nothing before or behind it; false outside [low, high]. */
bool cli_parse_u64(const char *text, uint64_t low, uint64_t high, uint64_t *out);
bool cli_parse_f64(const char *text, double low, double high, double *out);
/* One more bias; false: `id` is no token's id, or there are too many. */
bool cli_bias_add(struct model_sampling *s, const char *id, double bias);

int cli_generate(const struct cli_options *o, struct err *e);
int cli_local(const struct cli_options *o, struct err *e);
int cli_chat(const struct cli_options *o, struct err *e);
int cli_status(const struct cli_options *o, struct err *e);
int cli_top(const struct cli_options *o, struct err *e);
int cli_drain(const struct cli_options *o, struct err *e);
int cli_undrain(const struct cli_options *o, struct err *e);
int cli_plan(const struct cli_options *o, struct err *e);
int cli_config(const struct cli_options *o, struct err *e);
int cli_keygen(const struct cli_options *o, struct err *e);
int cli_tokenize(const struct cli_options *o, struct err *e);
int cli_inspect(const struct cli_options *o, struct err *e);
int cli_quantize(const struct cli_options *o, struct err *e);
int cli_logits(const struct cli_options *o, struct err *e);
int cli_perplexity(const struct cli_options *o, struct err *e);
int cli_bench(const struct cli_options *o, struct err *e);

/* ---- the terminal (client/terminal.c) -------------------------------------------------------- */

/* SIGINT and SIGTERM from now on only set a flag, once; the second one ends the process. */
void cli_interrupt_begin(void);
bool cli_interrupted(void);
/* Was it SIGINT? Then it is forgotten, and the next one sets the flag again. */
bool cli_interrupt_take(void);
/* One line on stderr, whatever the text contains. */
void cli_say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* A line on stderr that the next one replaces; only on a terminal, not under -q. "" removes it. */
void cli_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Text of a model or of a file to stdout: as it is, but to a terminal without what steers one. */
void cli_put_text(struct span text);
/* The same with line breaks and tabs taken out, too, and at most max_bytes of it. */
void cli_put_name(struct span text, size_t max_bytes);
/* Has everything been written to stdout? ERR_IO. */
int cli_out_check(struct err *e);

/* ---- JSON (client/json.c) -------------------------------------------------------------------- */

bool cli_utf8_ok(struct span s);
/* Bytes of the well-formed character that s, which is not empty, begins with; 0: none. */
size_t cli_utf8_length(struct span s);
/* A JSON string; bytes that are not UTF-8 become U+FFFD. NULL: out of memory. */
json_t *cli_json_text(struct span s);
json_t *cli_json_number(double v); /* null where it is not finite */
/* Print on one line and let go of it. `object` NULL, or anything that went wrong, is ERR_NOMEM. */
int cli_json_print(json_t *object, bool failed, struct err *e);

/* ---- requests and answers (client/request.c, client/answer.c) -------------------------------- */

struct cli_request {
    struct span prompt;   /* borrowed from the command line, the file, `object` or the caller */
    enum net_prompt form; /* of the prompt; NET_PROMPT_CHAT: packed by model_messages_pack */
    uint32_t n;           /* tokens; UINT32_MAX: to the end of the context */
    struct model_sampling sampling;
    struct span stops[CLI_STOPS_MAX];
    uint32_t n_stops;
    json_t *object;  /* a JSON line, which keeps the texts */
    char error[200]; /* why the line is no request; "": it is one */
};
struct cli_requests {
    struct cli_request *list;
    uint32_t n;
    uint8_t *file;   /* its bytes */
    uint64_t seed;   /* of requests that do not name one */
    bool seed_drawn; /* at random */
};
/* One line of a file of prompts; what it does not say is taken from `defaults`. A line that is no
 * request leaves out->error. */
void cli_request_line(const struct cli_request *defaults, struct span line,
                      struct cli_request *out);
/* The requests of -p or --prompts. Draws a seed where none was given. ERR_USAGE, ERR_NOTFOUND,
 * ERR_IO, ERR_FORMAT, ERR_RANGE, ERR_NOMEM. */
int cli_requests_open(const struct cli_options *o, struct cli_requests *out, struct err *e);
void cli_requests_close(struct cli_requests *r);

enum cli_finish { CLI_STOP, CLI_LENGTH, CLI_ERROR };

struct cli_answer {
    bool done;
    struct base_buf tokens;   /* int32_t each */
    struct base_buf logprobs; /* struct model_logprobs each, of the tokens; where asked for */
    struct base_buf text;     /* only what is certain */
    enum cli_finish finish;
    char error[ERR_TEXT_MAX];
    uint32_t prompt_tokens;
    uint32_t reused_tokens; /* of the prompt: the slot held their KV rows already */
    double ttft_ms, tokens_per_s;
    double prefill_per_s; /* of the others; 0: not known */
};
void cli_answer_fail(struct cli_answer *a, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
void cli_answers_free(struct cli_answer *list, uint32_t n);
json_t *cli_answer_json(const struct cli_request *r, const struct cli_answer *a);

/* Prints answers in the order of the requests, each as far as it is certain. */
struct cli_printer {
    const struct cli_requests *requests;
    struct cli_answer *answers; /* [requests->n] */
    bool json, quiet;
    bool seed_said;
    uint32_t next; /* first that is not printed whole */
    size_t shown;  /* bytes of its text that are */
    uint32_t failed;
    int rc; /* of the first failed write */
};
void cli_printer_step(struct cli_printer *p);
/* What the command returns: rc, after ending the line where an answer was cut off, or whether one
 * failed. */
int cli_printer_end(struct cli_printer *p, int rc, struct err *e);

/* One position of `shoal logits`. */
struct cli_position {
    int32_t token;
    struct model_logits_summary s;
    uint8_t hash[16];
};

/* ---- a model in this process (client/load.c, client/weights.c, client/batch.c) --------------------------------- */

struct cli_model {
    struct model *model;
    struct vocab *vocab;
    const struct model_shape *shape;
    struct base_arena *weights;
    const void **pieces; /* by number */
    struct model_exec_config config;
    struct model_exec *exec;
    float *hidden; /* [max_rows, n_embd] */
    float *logits; /* [n_logits, n_vocab] */
    uint32_t n_logits;
    uint32_t chunk; /* prompt rows of a pass */
};
/* Compute threads: as the options say, otherwise one a core. */
unsigned cli_threads(const struct cli_options *o);
/* Shapes and vocabulary; then, with cli_model_load, weights and executor. */
int cli_model_open(const char *path, struct cli_model **out, struct err *e);
/* Positions: as the options say, otherwise the model's own, at most `most`. ERR_RANGE beyond its
 * own. */
int cli_model_context(const struct cli_model *m, const struct cli_options *o, uint32_t most,
                      uint32_t *out, struct err *e);
/* n_slots slots of `context` positions, room for the logits of n_logits rows. Kernels, KV type,
 * threads and chunk as in the options. */
int cli_model_load(struct cli_model *m, const struct cli_options *o, uint32_t n_slots,
                   uint32_t context, uint32_t n_logits, struct err *e);
void cli_model_close(struct cli_model *m);
/* Pack all pieces into m->weights with m->config's threads; m->pieces[number] are then views of it.
 * ERR_NOMEM with the size, ERR_CANCELLED. */
int cli_weights_pack(struct cli_model *m, struct err *e);
const void *cli_weights_piece(void *model, uint32_t number); /* a model_piece_source */
/* The ids of a text; *ids is base_free'd. Flags as in model_vocab_encode. */
int cli_encode(const struct vocab *v, struct span text, unsigned flags, int32_t **ids, uint32_t *n,
               struct err *e);
/* One sentence for a row's `bad` (model_exec_run). */
void cli_bad_text(const struct cli_model *m, uint32_t bad, uint32_t position, char *out,
                  size_t max);
/* Run ids [0, n) through slot 0 and call `each` with the logits [n_vocab] of every position from
 * `first` on, in order. `each` may end it with an error. ERR_RANGE, ERR_CANCELLED. */
int cli_model_score(struct cli_model *m, const int32_t *ids, uint32_t n, uint32_t first,
                    int (*each)(void *arg, uint32_t position, const float *logits, struct err *e),
                    void *arg, struct err *e);
/* The ids of a packed conversation, by the model's own chat template. ERR_NOTFOUND,
 * ERR_UNSUPPORTED: it has none that is known. ERR_FORMAT, ERR_NOMEM. */
int cli_encode_chat(const struct cli_model *m, struct span packed, int32_t **ids, uint32_t *n,
                    struct err *e);

/* The slots of a loaded model, at most CLI_LOCAL_SLOTS of them. They keep what their KV cache holds
 * from run to run. */
struct cli_batch;
int cli_batch_new(struct cli_model *m, struct cli_batch **out, struct err *e); /* ERR_NOMEM */
void cli_batch_free(struct cli_batch *b);
/* Answer all requests, up to n_slots at a time, calling the printer as text becomes certain.
 * ERR_CANCELLED after SIGINT. */
int cli_batch_run(struct cli_batch *b, struct cli_printer *p, struct err *e);

/* ---- the coordinator (client/cluster.c, client/remote.c, client/ask_status.c) ---------------- */

struct cli_cluster {
    struct net_config config;
    struct net *net;
    net_peer coordinator;
    const char *key;
    bool up, was_up;
    bool waits;       /* it has requests of ours and may come back to them: CLI_LOST_MS */
    int64_t heard_ms; /* since when it has been silent */
    char why[160];    /* of the last refusal or cut */
};
/* Read the configuration and begin to connect. */
int cli_cluster_open(const struct cli_options *o, struct cli_cluster **out, struct err *e);
void cli_cluster_close(struct cli_cluster *c);
/* Next event within timeout_ms, NET_EV_NONE where there is none. ERR_TIMEOUT when the coordinator
 * has been silent too long, ERR_CANCELLED after SIGINT. */
int cli_cluster_next(struct cli_cluster *c, int timeout_ms, struct net_event *ev, struct err *e);

/* A request at the coordinator. */
struct cli_ask {
    const struct cli_request *request;
    struct cli_answer *answer;
    struct base_buf *positions; /* of struct cli_position; NULL: text is generated */
    uint8_t id[16];
    enum { CLI_ASK_NEW, CLI_ASK_LIVE, CLI_ASK_LATER, CLI_ASK_DONE } state;
    uint32_t refusals;  /* that the queue was full, in a row */
    uint32_t forgotten; /* times that the coordinator did not know it any more */
    bool stray;         /* a NO for an ASK behind a refused SUBMIT is still to come */
    int64_t again_ms;   /* when to submit (LATER) or to ask (LIVE) again */
};
/* Submit all and wait until all are done; `news` is called when something has changed. On an error
 * of the connection, or SIGINT, what is still alive is cancelled. */
int cli_remote_run(struct cli_cluster *c, struct cli_ask *asks, uint32_t n, void (*news)(void *arg),
                   void *arg, struct err *e);

struct cli_node {
    char name[NET_NAME_MAX], state[32], kernels[33], last_error[301], left_out[301];
    uint32_t stage; /* UINT32_MAX: none */
    uint32_t member, members; /* place in the stage's team, 0 leads; its size */
    bool mesh;                /* how a team exchanges sums; otherwise as a star */
    uint32_t layer0, layer1, heads, columns;
    uint32_t head0, column0, kv0, kv1, row0, row1; /* first head, first column; KV heads and output
                                                      rows that it holds; `plan` only */
    uint64_t memory_bytes, memory_planned, memory_used;
    uint64_t kv_bytes, scratch_bytes; /* of memory_planned; `plan` only */
    double ms_predicted, ms, busy;
    double ratio;      /* of its passes of decoding to what the plan predicts; 0: none yet */
    uint64_t error_ms; /* how long ago last_error was */
    bool lost;         /* it is why the worker was lost */
    /* As the board last said; NAN, and UINT64_MAX of memory_free, where it does not. */
    uint64_t memory_free;
    double memory_slope; /* bytes a second */
    char keeper[NET_NAME_MAX]; /* who has a copy of its KV rows; "": nobody */
    uint32_t copied;           /* rows of it */
    double memory_pressure, cpu_pressure, temperature, clock, battery, power, round_trip_ms;
    uint32_t flags, waiting; /* flags as in REPORT */
    uint32_t n_then;         /* reports in the lists, oldest first */
    double busy_then[CLI_THEN_MAX], memory_then[CLI_THEN_MAX], ms_then[CLI_THEN_MAX];
    double ms_exchange, ms_hop; /* of ms_predicted, a team's exchanges; to the next stage; `plan`
                                   only */
};
struct cli_cluster_status {
    uint64_t epoch, shipped_bytes;
    char cluster[NET_NAME_MAX], model[256], state[301], stays[301];
    uint32_t slots, active, queued, n_nodes;
    double ms_predicted, ms, tok_s_predicted, ttft_predicted, gap;
    double tok_s; /* measured, of all requests */
    uint32_t prompt; /* tokens that ttft_predicted is for */
    uint32_t n_then; /* seconds in tok_s_then, oldest first */
    double tok_s_then[CLI_THEN_MAX];
    struct cli_node nodes[NET_WORKERS_MAX];
};
/* Send ASK_STATUS, or DRAIN, which is answered alike, and wait for the whole answer. */
int cli_cluster_status(struct cli_cluster *c, const struct net_msg *ask,
                       struct cli_cluster_status *out, struct err *e);
int cli_ask_status(const struct cli_options *o, struct cli_cluster_status *out, struct err *e);
/* The same, a step at a time: send the question; take what came. *done: *out is one whole answer.
 * ERR_REFUSED. */
int cli_status_send(struct cli_cluster *c, struct err *e);
int cli_status_take(struct cli_cluster_status *out, const struct net_event *ev, bool *done,
                    struct err *e);
enum { CLI_BOARD_BYTES = 64, CLI_ERROR_BYTES = 400 };
/* What is to be said of the board itself, "61 C throttled"; "-": nothing. */
const char *cli_board_text(const struct cli_node *n, char out[static CLI_BOARD_BYTES]);
/* Its last error with when it was; "-": none. */
const char *cli_error_text(const struct cli_node *n, char out[static CLI_ERROR_BYTES]);
json_t *cli_node_json(const struct cli_node *n);
const char *cli_team_text(const struct cli_node *n); /* "star" or "mesh"; "-" where it is alone */

#endif
