/* A small network in one process for the tests of net: sides that are pumped in turn and keep their
 * events, key folders, and a ZeroMQ socket without manners. */
#ifndef TESTS_NET_LAB_H
#define TESTS_NET_LAB_H

#include "net/net.h"

enum { LAB_SIDES_MAX = 4, LAB_LOG_MAX = 16384 };

/* An event as it is kept: of a message its code and, where it has one, its nonce. */
struct lab_event {
    enum net_event_type type;
    net_peer peer;
    enum net_kind kind;
    enum net_code code;
    uint64_t nonce;
    int fd;
    char name[NET_NAME_MAX];
    char why[128];
};

struct lab_side {
    struct net *n;
    struct lab_event *log; /* [LAB_LOG_MAX] */
    unsigned n_log, seen;
    bool deaf; /* is not pumped */
    bool echo; /* answers BEAT, PING and BULK_PING */
};

struct lab {
    char keys[256];
    struct lab_side sides[LAB_SIDES_MAX];
    bool (*allow)(void *arg, enum net_kind kind,
                  const char *name); /* of sides opened from now on */
};

/* A folder of keys for these names (space between them). */
void lab_keys_make(char dir[static 256], const char *names);
void lab_keys_remove(const char *dir);
void lab_key_copy(const char *from, const char *to, const char *name); /* the public one */
void lab_key_text(const char *dir, const char *file, char text[static 41]);

void lab_open(struct lab *lab, const char *names);
void lab_close(struct lab *lab);
struct lab_side *lab_side(struct lab *lab, unsigned i, const char *keys, const char *self);
void lab_side_close(struct lab_side *s);
unsigned lab_listen(struct lab_side *s, enum net_kind kind, unsigned port);
net_peer lab_connect(struct lab_side *s, enum net_kind kind, const char *name, unsigned port);

/* Give every side that is not deaf a turn. */
void lab_pump(struct lab *lab);
/* The side's next event, after pumping as long as it takes. */
struct lab_event lab_next(struct lab *lab, struct lab_side *s);
struct lab_event lab_expect(struct lab *lab, struct lab_side *s, enum net_event_type type);
/* A message of this nonce went from `from` to `to` and was the next event there. */
void lab_deliver(struct lab *lab, struct lab_side *from, net_peer p, struct lab_side *to,
                 enum net_code code, uint64_t nonce);
int lab_send(struct lab_side *s, net_peer p, enum net_code code, uint64_t nonce);
struct net_msg lab_message(enum net_code code, uint64_t nonce);

/* A DEALER with the key of `self` that sends whatever it is told to; the lab is pumped until it
 * can. */
struct lab_raw {
    struct lab *lab;
    void *context, *socket;
    uint8_t route[5];     /* of a listener */
    bool listens, within; /* within: the message begun has more frames to come */
};
void lab_raw_open(struct lab_raw *r, struct lab *lab, const char *self, const char *server,
                  unsigned port, const char *routing_id);
/* The same of a listener: a ROUTER with the key of `self` that lets everybody in. Sends to
 * whoever was heard last; hear returns the connection number of a message. */
unsigned lab_raw_listen(struct lab_raw *r, struct lab *lab, const char *self);
uint64_t lab_raw_hear(struct lab_raw *r);
void lab_raw_close(struct lab_raw *r);
void lab_raw_bytes(struct lab_raw *r, const void *bytes, size_t n, bool more);
void lab_raw_message(struct lab_raw *r, uint64_t number, uint64_t sequence,
                     const struct net_msg *m);

int lab_open_fds(void);
/* Of a group of tests: nothing allocated and no descriptor may be left at its end. */
int lab_group_begin(void **state);
int lab_group_end(void **state);

#endif
