/* The page on the protocol, docs/protocol.md, written from the message list itself.
 *
 * Names, codes, directions, fields, maxima and the sentences about them come from wire.def; what
 * a list cannot say (who connects to whom, the envelope, the order in which messages are legal,
 * the deadlines) is written here, a passage a group of messages. The committed page is compared
 * with the output of this file by a test, so a change of the protocol is a change of the page.
 *
 * Left out: anything about the programs that is not seen on a connection. */
#include "net/net.h"

enum kind {
    IS_MESSAGE, /* a: code, b: direction */
    IS_NUMBER,  /* a: bytes */
    IS_FIXED,   /* a: bytes */
    IS_TEXT,    /* a: bytes at most */
    IS_BYTES,   /* a: bytes at most */
    IS_LIST,    /* a: numbers at most, b: bytes of each */
    IS_TEXTS,   /* a: texts at most, b: bytes of each at most */
    IS_END
};

struct row {
    enum kind kind;
    const char *name, *type;
    uint32_t a, b;
    const char *sentence;
};

#define MSG(N, code, dir, sentence) {IS_MESSAGE, #N, "", code, NET_##dir, sentence},
#define U8(N, f, s)                 {IS_NUMBER, #f, "u8", 1, 0, s},
#define U32(N, f, s)                {IS_NUMBER, #f, "u32", 4, 0, s},
#define U64(N, f, s)                {IS_NUMBER, #f, "u64", 8, 0, s},
#define F64(N, f, s)                {IS_NUMBER, #f, "f64", 8, 0, s},
#define FIX(N, f, n, s)             {IS_FIXED, #f, "", n, 0, s},
#define STR(N, f, m, s)             {IS_TEXT, #f, "text", m, 0, s},
#define BYTES(N, f, m, s)           {IS_BYTES, #f, "bytes", m, 0, s},
#define U32S(N, f, m, s)            {IS_LIST, #f, "u32 list", m, 4, s},
#define I32S(N, f, m, s)            {IS_LIST, #f, "i32 list", m, 4, s},
#define U64S(N, f, m, s)            {IS_LIST, #f, "u64 list", m, 8, s},
#define F64S(N, f, m, s)            {IS_LIST, #f, "f64 list", m, 8, s},
#define STRS(N, f, m, e, s)         {IS_TEXTS, #f, "text list", m, e, s},
#define END(N)                      {IS_END, #N, "", 0, 0, ""},
static const struct row rows[] = {
#include "net/wire.def"
};
enum { N_ROWS = sizeof rows / sizeof rows[0] };

static const char *const directions[] = {
    [NET_TO_COORD] = "Worker to coordinator", [NET_TO_WORKER] = "Coordinator to worker",
    [NET_RING] = "Worker to worker",          [NET_TEAM] = "Worker to worker, within a team",
    [NET_ASK_BULK] = "Worker to coordinator", [NET_BULK] = "Coordinator to worker",
    [NET_ASK_CLIENT] = "Client to coordinator", [NET_CLIENT] = "Coordinator to client"};

/* ---- what is not in the list ----------------------------------------------------------------- */

/* In two parts: ISO C promises room for 4095 characters in a literal. */
static const char introduction[] =
    "# The protocol\n"
    "\n"
    "What Shoal's programs say to each other. The tables are made from `net/wire.def`, from\n"
    "which the encoder and the decoder are made, too; this page is generated, edit\n"
    "`net/document.c` instead.\n"
    "\n"
    "## Connections\n"
    "\n"
    "All traffic is ZeroMQ over TCP. A listener is a ROUTER, whoever connects is a DEALER, and\n"
    "every connection is of one of five kinds, each with its own listener, limits and messages:\n"
    "\n"
    "| kind | who connects | to whom | what it carries |\n"
    "|---|---|---|---|\n"
    "| control | worker | coordinator, `control:` | meeting, heartbeats, measuring, plans, "
    "requests |\n"
    "| bulk | worker | coordinator, port from WELCOME | the model's card and pieces, bandwidth "
    "tests |\n"
    "| ring | worker | worker, `data:` | hidden states and tokens, link tests |\n"
    "| team | worker | worker of the same team nearer its leader, port from PLAN | rows and "
    "partial sums |\n"
    "| client | `shoal` | coordinator, `client:` | requests, answers, status |\n"
    "\n"
    "A message of a kind or direction other than the connection's ends the connection.\n"
    "\n"
    "## Who speaks\n"
    "\n"
    "Every connection is encrypted and authenticated with CURVE. Each peer has a key pair, and\n"
    "the listener's keys folder has a `NAME.pub` for everybody who may connect; anyone else is\n"
    "refused in the handshake. The connecting side knows the listener's public key beforehand\n"
    "and so knows whom it reached. The name of the authenticated key says who speaks, never a\n"
    "message: `coordinator` is the coordinator, the name of a `[worker NAME]` of the\n"
    "configuration is that worker, any other name is a client. Workers reach control and bulk\n"
    "and each other's ring and team; everybody with a key reaches client.\n"
    "\n"
    "## The envelope\n"
    "\n"
    "A message is one frame (a ROUTER sees its routing frame before it): an envelope of 18\n"
    "bytes, then the body.\n"
    "\n"
    "| bytes | type | meaning |\n"
    "|---|---|---|\n"
    "| 0-7 | u64 | connection number: drawn at random by the sender for each life of a connection, "
    "not 0 |\n"
    "| 8-15 | u64 | sequence: 0 for the first message of that number, one more for each further "
    "one |\n"
    "| 16-17 | u16 | code of the message |\n"
    "\n"
    "ZeroMQ reconnects without a word and forgets what was queued. The two numbers make that\n"
    "visible: a sequence that is not the next one, or another connection number, means that\n"
    "messages may be lost, and both sides treat the connection as ended and begun anew. Each\n"
    "direction is numbered by its sender. Code 0 is no message of the tables: a listener sends\n"
    "it, with one byte of reason, to tell the other side that it has ended this life of the\n"
    "connection.\n";

static const char rules[] =
    "\n"
    "## Bodies\n"
    "\n"
    "A body is its fields in the order of the table, without padding. Numbers are little-endian;\n"
    "f64 is the bits of an IEEE-754 double. `text` and `bytes` are a u32 length and so many\n"
    "bytes, lists a u32 count and so many elements. There is one encoding of a message, and a\n"
    "receiver refuses everything else: a length or count above its maximum, bytes missing or\n"
    "left over, an f64 that is not finite, text that is not UTF-8 or has control characters\n"
    "other than newline and tab. What was refused ends the connection; it is counted and logged\n"
    "under the peer's name.\n"
    "\n"
    "A message carries ids of an agreed plan and bounded payloads; it never carries types,\n"
    "shapes, addresses or code. An index inside its maximum may still be none of the plan's:\n"
    "then the receiver drops the message.\n"
    "\n"
    "## Epochs\n"
    "\n"
    "Every plan has an epoch: in its high half the coordinator's incarnation, which is kept on\n"
    "disk and raised at each start, in its low half a count. What belongs to an older epoch than\n"
    "the one in force is dropped without an answer. A request's number is never used again, a\n"
    "slot is, so rows of a request that is over are told from those of the next one in its slot.\n"
    "\n"
    "## Deadlines\n"
    "\n"
    "No wait is without end, and no two machines' clocks are compared.\n"
    "\n"
    "- A worker sends BEAT every `heartbeat_ms` and the coordinator answers with BEAT_BACK.\n"
    "  After `dead_ms` without any message each side takes the other for dead: the coordinator\n"
    "  plans without the worker, the worker begins its connection anew.\n"
    "- BEAT comes from the worker's network thread and tells how many passes its compute thread\n"
    "  has finished, so a hung worker and a dead one are both seen.\n"
    "- Measuring, preparing a plan and a request's next token have deadlines at the coordinator.\n"
    "  One that passes costs the worker or the plan, never the cluster.\n"
    "- A client asks again within a second or two; one that does not is gone, and its slot is\n"
    "  free. A coordinator that was restarted gives the clients of requests in flight half a\n"
    "  minute to come back; a client looks for a coordinator that it has lost for a minute.\n"
    "- A TCP connection that does not finish the handshake is closed.\n"
    "\n"
    "## Versions\n"
    "\n"
    "HELLO carries the wire version between nodes and the hash of the bits that this worker's\n"
    "kernels give on fixed vectors; where either differs from the coordinator's, REFUSE names\n"
    "both values. Client messages have a version of their own in SUBMIT and ASK_STATUS. WELCOME\n"
    "names the model's card by its hash, and pieces are named by theirs, so two sides cannot\n"
    "mean different models.\n";

/* A passage before the first message whose code is at least `first`. */
struct group {
    uint32_t first;
    const char *text;
};

static const struct group groups[] = {
    {1, "## Meeting (control)\n"
        "\n"
        "    worker       HELLO                READY        BEAT           BEAT ...\n"
        "    coordinator         WELCOME                         BEAT_BACK      BEAT_BACK ...\n"
        "                        or REFUSE\n"
        "\n"
        "HELLO is the first message of a control connection and comes once. Between WELCOME and\n"
        "READY the worker fetches the card over bulk, unless it has it. Everything further on\n"
        "control needs READY. REFUSE may come at any time; the worker then stops.\n"},
    {10, "## Measuring (control)\n"
         "\n"
         "    coordinator  PROFILE            TEST_LINK               TEST_LINK ...\n"
         "    worker                PROFILED             LINK_TESTED\n"
         "\n"
         "One worker measures at a time, so that no measurement disturbs another. PROFILED\n"
         "answers PROFILE and LINK_TESTED answers TEST_LINK, with `error` set where it failed. A\n"
         "link to a worker is tested over ring with PING and PROBE, the one to the coordinator\n"
         "over bulk.\n"},
    {20, "## Plans (control)\n"
         "\n"
         "    coordinator  PLAN MANIFEST ...                          COMMIT\n"
         "    worker                         PREPARED ... PREPARED(1)\n"
         "\n"
         "A plan is prepared while the one before still serves. MANIFEST messages follow PLAN\n"
         "with ascending `first`, until there are `n_pieces` hashes. The worker fetches what its\n"
         "store lacks and reports how far it is; when every worker of the plan has said that it\n"
         "is ready, each gets COMMIT. A later PLAN replaces one that is being prepared. A ring\n"
         "message of the new epoch may overtake COMMIT and then stands for it.\n"
         "\n"
         "INHERIT and CHECKPOINT have a worker take KV rows from others, by KV_ASK and KV_ROWS over\n"
         "ring: for the plan that is ready, or into a copy beside the plan in force. A copy goes with\n"
         "the plan; when that has broken, INHERIT may name it in the place of a worker that is lost.\n"
         "CHECKPOINTED answers CHECKPOINT, but where an INHERIT has come between.\n"},
    {30, "## Requests (control)\n"
         "\n"
         "    coordinator  OPEN                                        CLOSE\n"
         "    workers             TOKENS TOKENS ... or LOGITS ... or FAILED\n"
         "\n"
         "OPEN and CLOSE go to the first stage; TOKENS and LOGITS come from the stage that has the\n"
         "output matrix, FAILED and LINK_LOST from any. A slot is free again with CLOSE. After a change of plan a request\n"
         "is opened again under a new number with all its tokens so far.\n"},
    {40, "## The ring (ring)\n"
         "\n"
         "    stage k to stage k + 1   RING_OPEN ROWS ... RING_CLOSE\n"
         "    last stage to first      RING_TOKENS ... or ROWS ...\n"
         "    each stage to first      STARTED ...\n"
         "\n"
         "A worker connects to each worker it sends to. The three messages of a request go round\n"
         "in order, so a stage knows of a request before its first row. The first stage turns\n"
         "RING_TOKENS into the next decode rows, and holds prompt chunks back until STARTED says\n"
         "that they were taken up. Where the plan puts the output matrix on the first stage, the\n"
         "last one sends it the rows that logits are wanted of, in ROWS of kind 2, and no\n"
         "RING_TOKENS; the first holds prompt chunks of logits requests back until it has room for\n"
         "those rows, too. PING, PONG, PROBE and PROBED measure a link and may come at\n"
         "any time.\n"},
    {60, "## Bulk (bulk)\n"
         "\n"
         "    worker       FETCH        BULK_PING           BULK_SEND ...           BULK_WANT\n"
         "    coordinator         PIECE           BULK_PONG               BULK_SENT           "
         "BULK_BURST ...\n"
         "\n"
         "Every FETCH is answered by one PIECE; a worker keeps a few of them unanswered at once.\n"
         "The card is fetched in the same way, by its hash. A receiver checks the hash of what\n"
         "it has put together.\n"},
    {80, "## Clients (client)\n"
         "\n"
         "    client       SUBMIT  ASK          ASK           ASK          CANCEL\n"
         "    coordinator              WAITING      ANSWER        DONE\n"
         "\n"
         "A client names its request by a random id and asks for what is new from a position on;\n"
         "each ASK is answered by ANSWER, ANSWER_LOGITS, WAITING or DONE, or by NO where there\n"
         "is no such request. After a cut it connects again and sends the same SUBMIT and ASK; so\n"
         "it does after a restart of the coordinator, which goes on with what its journal has\n"
         "(docs/restart.md). A slow reader costs the coordinator only the tokens that it keeps\n"
         "anyway. ASK_STATUS is answered by STATUS_NODE and LEFT_OUT for each node and then STATUS.\n"},
};
enum { N_GROUPS = sizeof groups / sizeof groups[0] };

/* ---- the tables ------------------------------------------------------------------------------ */

/* Bytes of a field at least and at most. */
static void field_bytes(const struct row *f, uint64_t *least, uint64_t *most)
{
    switch (f->kind) {
    case IS_NUMBER:
    case IS_FIXED:
        *least += f->a;
        *most += f->a;
        break;
    case IS_TEXT:
    case IS_BYTES:
        *least += 4;
        *most += 4 + (uint64_t)f->a;
        break;
    case IS_LIST:
        *least += 4;
        *most += 4 + (uint64_t)f->a * f->b;
        break;
    case IS_TEXTS:
        *least += 4;
        *most += 4 + (uint64_t)f->a * (4 + (uint64_t)f->b);
        break;
    case IS_MESSAGE:
    case IS_END:
        break;
    }
}

static void write_field(FILE *out, const struct row *f)
{
    fprintf(out, "| `%s` | ", f->name);
    switch (f->kind) {
    case IS_FIXED:
        fprintf(out, "%u bytes |", f->a);
        break;
    case IS_TEXT:
    case IS_BYTES:
        fprintf(out, "%s | %u bytes", f->type, f->a);
        break;
    case IS_LIST:
        fprintf(out, "%s | %u", f->type, f->a);
        break;
    case IS_TEXTS:
        fprintf(out, "%s | %u of %u bytes", f->type, f->a, f->b);
        break;
    case IS_NUMBER:
    case IS_MESSAGE:
    case IS_END:
        fprintf(out, "%s |", f->type);
        break;
    }
    fprintf(out, " | %s |\n", f->sentence);
}

/* Write the message that begins at row `at`; returns the row behind its end. */
static size_t write_message(FILE *out, size_t at)
{
    const struct row *m = &rows[at++];
    uint64_t least = 0, most = 0;
    size_t end = at;

    for (; rows[end].kind != IS_END; end++) {
        field_bytes(&rows[end], &least, &most);
    }
    fprintf(out, "\n### %s (%u)\n\n%s. %s Body: ", m->name, m->a, directions[m->b], m->sentence);
    if (least == most) {
        fprintf(out, "%llu bytes.\n", (unsigned long long)most);
    } else {
        fprintf(out, "%llu to %llu bytes.\n", (unsigned long long)least, (unsigned long long)most);
    }
    fprintf(out, "\n| field | type | at most | meaning |\n|---|---|---|---|\n");
    for (; at < end; at++) {
        write_field(out, &rows[at]);
    }
    return end + 1;
}

void net_wire_document(FILE *out)
{
    size_t group = 0;

    fputs(introduction, out);
    fputs(rules, out);
    fprintf(out, "\nThis page describes wire version %d and client version %d.\n", NET_WIRE_VERSION,
            NET_CLIENT_VERSION);
    for (size_t at = 0; at < N_ROWS;) {
        for (; group < N_GROUPS && rows[at].a >= groups[group].first; group++) {
            fprintf(out, "\n%s", groups[group].text);
        }
        at = write_message(out, at);
    }
}
