/* All that leaves or enters a process: messages described once (wire.def), ZeroMQ sockets with
 * CURVE, keys, hashes, and the configuration file. */
#ifndef NET_NET_H
#define NET_NET_H

#include "common/common.h"

#include <math.h>

/* ---- limits ---------------------------------------------------------------------------------- */

enum {
    NET_WIRE_VERSION = 6,
    NET_CLIENT_VERSION = 5,
    NET_NAME_MAX = 64, /* bytes of a peer's name with its NUL */
    NET_ENDPOINT_MAX = 128,
    NET_HASH_BYTES = 32,
    NET_CHUNK_MAX = 262144, /* bytes of piece content in one message */
    NET_WORKERS_MAX = 16,
    NET_MESSAGE_MAX = 34 * 1024 * 1024, /* bytes of any message: ROWS is the longest */
    NET_CONTROL_MAX = 2 * 1024 * 1024   /* bytes on control and client connections */
};

/* ---- messages (net/wire.c) ------------------------------------------------------------------- */

/* The forms of a prompt, as SUBMIT numbers them. */
enum net_prompt { NET_PROMPT_TEXT, NET_PROMPT_SPECIAL, NET_PROMPT_CHAT };

enum net_dir {
    NET_TO_COORD,
    NET_TO_WORKER,
    NET_RING,
    NET_TEAM,
    NET_ASK_BULK,
    NET_BULK,
    NET_ASK_CLIENT,
    NET_CLIENT
};

#define MSG(N, code, dir, sentence) NET_MSG_##N = code,
enum net_code {
#include "net/wire.def"
};

/* Lists as they stand on the wire: n little-endian elements at ptr, unaligned; read by net_*_at.
 * For sending they point at encoded elements, too: build them with net_put_*. */
struct net_list {
    const uint8_t *ptr;
    uint32_t n;
};
static inline uint32_t net_u32_at(struct net_list l, uint32_t i);
static inline int32_t net_i32_at(struct net_list l, uint32_t i);
static inline uint64_t net_u64_at(struct net_list l, uint32_t i);
static inline double net_f64_at(struct net_list l, uint32_t i);
/* Store element i of a list under construction (the caller's bytes, 4 or 8 an element). */
static inline void net_put_u32(uint8_t *list, uint32_t i, uint32_t v);
static inline void net_put_u64(uint8_t *list, uint32_t i, uint64_t v);
static inline void net_put_f64(uint8_t *list, uint32_t i, double v);
/* A list for sending that borrows n numbers of the machine's own: all machines that Shoal builds
 * for are little-endian (asserted below). */
static inline struct net_list net_list_i32(const int32_t *v, uint32_t n);
static inline struct net_list net_list_f64(const double *v, uint32_t n);
/* Texts of a STRS list: the i-th one; strings are (u32 length, bytes) in a row, n of them. */
struct span net_str_at(struct net_list l, uint32_t i);
/* Append a text to the encoded form of a STRS list; the caller counts n. */
void net_put_str(struct base_buf *list, struct span s);

/* One struct a message: struct net_msg_HELLO, ... Text and bytes are spans, lists net_list, FIX a
 * pointer to n bytes; all borrowed from the bytes decoded, or from the sender until net_send
 * returns. */
#define MSG(N, code, dir, sentence) struct net_msg_##N {
#define U8(N, f, s)                 uint8_t f;
#define U32(N, f, s)                uint32_t f;
#define U64(N, f, s)                uint64_t f;
#define F64(N, f, s)                double f;
#define FIX(N, f, n, s)             const uint8_t *f;
#define STR(N, f, m, s)             struct span f;
#define BYTES(N, f, m, s)           struct span f;
#define U32S(N, f, m, s)            struct net_list f;
#define I32S(N, f, m, s)            struct net_list f;
#define U64S(N, f, m, s)            struct net_list f;
#define F64S(N, f, m, s)            struct net_list f;
#define STRS(N, f, m, e, s)         struct net_list f;
#define END(N)                                                                                     \
    }                                                                                              \
    ;
#include "net/wire.def"

/* A message: its code and the struct of that code, as m.u.HELLO, m.u.PLAN, ... */
struct net_msg {
    enum net_code code;
    union {
#define MSG(N, code, dir, sentence) struct net_msg_##N N;
#include "net/wire.def"
    } u;
};

const char *net_msg_name(enum net_code code); /* "HELLO"; NULL for a code that is none */
enum net_dir net_msg_dir(enum net_code code); /* no direction at all for a code that is none */
/* Encoded length without the envelope; 0 where the other side would refuse the message: a field
 * beyond its maximum, text that is not UTF-8 or has control characters, a number that is not
 * finite. */
size_t net_msg_bytes(const struct net_msg *m);
/* Write exactly net_msg_bytes(m) bytes. */
void net_msg_encode(const struct net_msg *m, uint8_t *out);
/* False where the bytes are not exactly one well-formed message of this code: a field beyond its
 * maximum, bytes missing or left over, text that is not UTF-8, a number that is not finite. *m is
 * then not read. */
bool net_msg_decode(enum net_code code, struct span bytes, struct net_msg *m);
/* Make our own sentence fit for a STR field: bytes that the other side would refuse become '?',
 * what is longer than max_bytes is cut at a character. Changes `text`, of which it returns a view.
 */
struct span net_text_fit(char *text, size_t max_bytes);
/* Write docs/protocol.md. */
void net_wire_document(FILE *out);

/* ---- hashes and entropy (net/hash.c) --------------------------------------------------------- */

int net_init(struct err *e); /* once a process, before anything else of net */
void net_hash(struct span bytes, uint8_t out[static NET_HASH_BYTES]); /* BLAKE2b-256 */
void net_hash16(struct span bytes, uint8_t out[static 16]);           /* BLAKE2b-128 */
struct net_hasher;                                                    /* incremental BLAKE2b-256 */
struct net_hasher *net_hasher_new(void);
void net_hasher_add(struct net_hasher *h, struct span bytes);
void net_hasher_end(struct net_hasher *h, uint8_t out[static NET_HASH_BYTES]); /* and start anew */
void net_hasher_free(struct net_hasher *h);
void net_hex(const uint8_t *bytes, size_t n, char *out); /* 2n + 1 chars */
bool net_unhex(const char *text, uint8_t *out, size_t n);
void net_random(void *out, size_t n);

/* ---- keys (net/keys.c) ----------------------------------------------------------------------- */

/* Make dir/name.pub and dir/name.secret (0600), Z85 text; an existing pair is left alone and
 * ERR_REFUSED returned. ERR_IO; ERR_RANGE for a name that is no name ([a-z0-9-]+, at most 63). */
int net_keygen(const char *dir, const char *name, struct err *e);
bool net_name_ok(const char *name);

/* ---- sockets (net/socket.c, net/zap.c) ------------------------------------------------------- */

/* A struct net is used by one thread only. It owns a ZeroMQ context, its listeners and connections,
 * and answers the ZAP requests of its own sockets. Peers are public keys in the keys folder; the
 * name of the key is the peer's name, whatever its messages say. Messages on a connection are
 * numbered: a number that is missing, or a connection begun anew, makes the old one end
 * (NET_EV_DOWN). Nothing blocks. */
struct net;

enum net_kind {
    NET_KIND_CONTROL,
    NET_KIND_CLIENT,
    NET_KIND_RING,
    NET_KIND_TEAM,
    NET_KIND_BULK,
    NET_N_KINDS
};

struct net_options {
    const char *keys;    /* folder */
    const char *self;    /* own key's name; NAME.pub and NAME.secret must be there */
    unsigned io_threads; /* bulk sockets use the last one, all others the first */
    /* May a peer of this name connect to our listener of this kind? NULL: any known key. */
    bool (*allow)(void *arg, enum net_kind kind, const char *name);
    void *arg;
};
int net_new(const struct net_options *o, struct net **out, struct err *e);
void net_free(struct net *n);

/* Bind; port 0 or "*" in the endpoint picks one. *port (may be NULL) receives the port bound.
 * ERR_IO names the endpoint and the reason. */
int net_listen(struct net *n, enum net_kind kind, const char *endpoint, unsigned *port,
               struct err *e);

/* A peer is one connection: from a listener, one life of one remote socket; from net_connect, ours.
 * 0 is none. */
typedef uint64_t net_peer;

/* Begin a connection to the peer that owns key `name`. Reconnects by itself; each new life is
 * announced by NET_EV_DOWN, with the same handle going on. ERR_NOTFOUND where there is no NAME.pub.
 */
int net_connect(struct net *n, enum net_kind kind, const char *name, const char *endpoint,
                net_peer *out, struct err *e);
void net_disconnect(struct net *n, net_peer p); /* listener's peers, too: forgets it */
const char *net_peer_name(const struct net *n,
                          net_peer p); /* authenticated; borrowed; "" for none */
/* Queue a message. ERR_PEER: no such connection; ERR_FULL: its queue is at the high-water mark;
 * ERR_RANGE: a field beyond its maximum. */
int net_send(struct net *n, net_peer p, const struct net_msg *m, struct err *e);

enum net_event_type {
    NET_EV_NONE, /* the timeout passed */
    NET_EV_UP,   /* a listener has a new peer (its first good message follows), or a connection of
                    ours was made */
    NET_EV_MESSAGE, /* msg, borrowed until the next net_next */
    NET_EV_DOWN, /* the connection ended; `why`. A listener's peer is gone; ours is being made again
                  */
    NET_EV_FD    /* a watched descriptor is readable */
};
struct net_event {
    enum net_event_type type;
    net_peer peer;
    enum net_kind kind;
    struct net_msg msg;
    size_t wire_bytes; /* of the message as received */
    int fd;
    const char *why;
};
int net_watch(struct net *n, int fd, struct err *e); /* report NET_EV_FD while it is readable */
/* Next event within timeout_ms (-1: none). Malformed messages, wrong directions and strangers are
 * dropped, counted and logged with their peer's name; the connection they came on ends. Returns
 * false on NET_EV_NONE. */
bool net_next(struct net *n, int timeout_ms, struct net_event *ev);
/* Forget keys removed from the folder and learn new ones: also done by itself when an unknown key
 * knocks. */
void net_keys_reload(struct net *n);

/* ---- the configuration (net/ini.c, net/config.c) --------------------------------------------- */

enum { NET_LINE_MAX = 4096, NET_PATH_MAX = 1024 };

/* Walk an ini file: [section] or [section NAME] lines and "key: value" (or "key = value") lines,
 * indented as one likes; '#' begins a comment at a line's start or after a space. `entry` is called
 * for each pair and, with key NULL, for each section's start; a nonzero return ends the walk with
 * that code. Errors (ERR_FORMAT, ERR_IO) carry file and line; so do those of `entry`, which the
 * walker wraps. */
struct net_ini_entry {
    const char *section, *name, *key, *value; /* NUL-terminated, borrowed for the call */
    unsigned line;
};
int net_ini_read(const char *path,
                 int (*entry)(void *arg, const struct net_ini_entry *x, struct err *e), void *arg,
                 struct err *e);
int net_ini_read_bytes(const char *file, struct span text,
                       int (*entry)(void *arg, const struct net_ini_entry *x, struct err *e),
                       void *arg, struct err *e);

enum net_granularity { NET_LAYERS, NET_HEADS, NET_AUTO };
enum net_exchange { NET_ANY_SHAPE, NET_STAR, NET_MESH };
enum net_algorithm {
    NET_PROGRAM,
    NET_EVEN,
    NET_MEMORY,
    NET_EDGESHARD,
    NET_EDGESHARD_THROUGHPUT,
    NET_MYOPIC_HEADS,
    NET_LINGUALINKED,
    NET_HYPERION
};
enum net_policy { NET_BY_PROGRAM, NET_MYOPIC, NET_STATIC };
/* How partial sums travel within a team. */
enum net_sums { NET_SUMS_EXACT, NET_SUMS_F16, NET_SUMS_Q8 };

struct net_config_worker {
    char name[NET_NAME_MAX];
    char data[NET_ENDPOINT_MAX];
    char bind[NET_ENDPOINT_MAX]; /* default: data */
    char ssh[256];
    char store[NET_PATH_MAX]; /* default: user's cache directory, then CLUSTER/NAME */
    char kernels[32];         /* "": the best */
    uint32_t threads;         /* 0: as many as cores */
    uint64_t memory_bytes;    /* 0: what the system has free */
    uint64_t disk_bytes;      /* default 8 GiB */
    int layer0, layer1;       /* "layers: 0-3" gives 0 and 4; -1: free */
    uint32_t heads, columns;  /* query heads and feed-forward columns of each of its layers; 0: free */
    bool leader;              /* of its team */
    bool exclude;
};

struct net_config {
    char path[NET_PATH_MAX];
    char name[NET_NAME_MAX];
    char model[NET_PATH_MAX]; /* absolute or seen from the current folder */
    uint32_t context;         /* 0: the model's own, at most 4096 */
    uint32_t slots;
    char control[NET_ENDPOINT_MAX], client[NET_ENDPOINT_MAX];
    char bulk[NET_ENDPOINT_MAX]; /* default: control's address, a port the system picks */
    char keys[NET_PATH_MAX], state[NET_PATH_MAX];
    uint32_t kv;    /* 0 f16, 1 f32, 2 q8_0 */
    bool fast;      /* numerics: fast */
    uint32_t queue; /* requests that may wait */
    uint32_t chunk; /* prompt rows a pass; 0: set from measured times */
    uint32_t heartbeat_ms, dead_ms, report_ms;
    enum net_sums wire;
    uint32_t remeasure_ms; /* between two links in the background; 0: never */
    double objective;      /* weight of throughput: 0 latency only, 1 throughput only */
    enum net_granularity granularity;
    enum net_exchange exchange;
    enum net_algorithm algorithm;
    enum net_policy policy;
    bool prefetch;
    uint32_t checkpoint; /* positions between copies of KV rows; 0: there are none */
    uint32_t dwell_ms; /* between plans that the policy asks for */
    uint32_t horizon_ms;  /* within which a move is to pay */
    uint64_t move_budget; /* bytes an hour of moves that nothing forces; 0: no limit */
    uint32_t ttft_ms, prompt; /* limit (0: none) for a prompt of so many tokens */
    bool use_all;
    double solve_s;
    uint32_t n_workers;
    struct net_config_worker workers[NET_WORKERS_MAX];
};

/* Read and check a cluster's file; every mistake is ERR_FORMAT or ERR_RANGE with "FILE:LINE:
 * reason". */
int net_config_read(const char *path, struct net_config *out, struct err *e);
/* The same over text that is here already; `path` names it and is where relative paths start. */
int net_config_read_bytes(const char *path, struct span text, struct net_config *out,
                          struct err *e);
const struct net_config_worker *net_config_worker(const struct net_config *c,
                                                  const char *name); /* NULL */
/* Write it as a file that reads back as the same configuration, with the defaults filled in; one
 * "key: value" a line. Relative paths are as *c has them, seen from the current folder. */
void net_config_print(const struct net_config *c, FILE *out);
/* Write docs/configuration.md from the reader's own table (key, unit, default, range, sentence). */
void net_config_document(FILE *out);
/* "512 MiB" -> bytes (rounded down), "500 ms" -> milliseconds. ERR_FORMAT; ERR_RANGE when too
 * large. */
int net_parse_bytes(const char *text, uint64_t *out, struct err *e);
int net_parse_ms(const char *text, uint32_t *out, struct err *e);
/* Host part and port of tcp://HOST:PORT. An IPv6 address keeps its brackets, so that tcp://%s:%u
 * gives the endpoint back; host * is any address, port * is 0. host may be NULL. ERR_FORMAT,
 * ERR_RANGE. */
int net_endpoint_split(const char *endpoint, char *host, size_t host_max, unsigned *port,
                       struct err *e);

/* ---- inline readers -------------------------------------------------------------------------- */

/* Numbers on the wire are finite. Where one may be unknown this stands for it, a NAN in memory. */
#define NET_UNKNOWN (-1e9)
static inline double net_to_wire(double v)
{
    return isnan(v) ? NET_UNKNOWN : v;
}
static inline double net_from_wire(double v)
{
    return v > NET_UNKNOWN ? v : NAN;
}

static inline uint32_t net_u32_at(struct net_list l, uint32_t i)
{
    const uint8_t *p = l.ptr + 4 * (size_t)i;
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static inline int32_t net_i32_at(struct net_list l, uint32_t i)
{
    return (int32_t)net_u32_at(l, i);
}
static inline uint64_t net_u64_at(struct net_list l, uint32_t i)
{
    const struct net_list words = {l.ptr + 8 * (size_t)i, 2};
    return (uint64_t)net_u32_at(words, 0) | (uint64_t)net_u32_at(words, 1) << 32;
}
static inline double net_f64_at(struct net_list l, uint32_t i)
{
    union {
        uint64_t u;
        double f;
    } x = {.u = net_u64_at(l, i)};
    return x.f;
}
static inline void net_put_u32(uint8_t *list, uint32_t i, uint32_t v)
{
    uint8_t *p = list + 4 * (size_t)i;
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
    p[2] = (uint8_t)(v >> 16);
    p[3] = (uint8_t)(v >> 24);
}
static inline void net_put_u64(uint8_t *list, uint32_t i, uint64_t v)
{
    net_put_u32(list, 2 * i, (uint32_t)v);
    net_put_u32(list, 2 * i + 1, (uint32_t)(v >> 32));
}
static inline void net_put_f64(uint8_t *list, uint32_t i, double v)
{
    union {
        double f;
        uint64_t u;
    } x = {.f = v};
    net_put_u64(list, i, x.u);
}
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "lists borrow native numbers");
static inline struct net_list net_list_i32(const int32_t *v, uint32_t n)
{
    return (struct net_list){(const uint8_t *)v, n};
}
static inline struct net_list net_list_f64(const double *v, uint32_t n)
{
    return (struct net_list){(const uint8_t *)v, n};
}

#endif
