/*
 * What the parts of the running gateway share. Inside http/ and cmd/serve.c only.
 *
 * A worker is a thread with an event base of its own; connections and exchanges belong to one worker and are touched by
 * no other. Shared between workers: the key store, the replay memory, the sink, and the atomics in struct server.
 */
#ifndef KMSGATE_HTTP_SERVER_H
#define KMSGATE_HTTP_SERVER_H

#include <event2/event.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>

#include "base/locked.h"
#include "gate/gate.h"
#include "http/conn.h"
#include "http/sessions.h"
#include "http/settings.h"
#include "http/shares.h"
#include "http/tls.h"
#include "http/upstream.h"
#include "http/watch.h"
#include "keys/keycopy.h"
#include "keys/keylife.h"

struct evhtp;
struct replay_site;

/* What a reload replaces: settings, the rules, the certificates of the upstream, of the admin address, then those of
 * each listener. */
enum { PART_CONFIG, PART_RULES, PART_UPSTREAM, PART_ADMIN, PART_LISTENERS };
struct part {
    struct watch watch;      /* main's alone; so is told_us */
    int64_t told_us;         /* monotonic: when the log last spoke of the expiry; 0: never */
    int64_t expiry_us;       /* of the certificate in use; TIME_NONE: there is none */
    int64_t trouble_us;      /* when the newest files were refused; 0: they are in force */
    char trouble[TLS_WHY];   /* why */
    int64_t again_us;        /* main's, monotonic: when to try again what failed for want of descriptors; 0: never */
};

struct server {
    struct config *config; /* as the gateway was started with: all that only a restart changes */
    struct config *now;    /* as it was read last: what a reload changes; main's alone to replace */
    struct keystore *keys;
    struct keycopy *copy;     /* of a shared store; NULL: none is kept */
    struct keykeeper *keeper; /* runs before the workers, and longer */
    bool keys_failed;         /* the keeper's own, like: when the log last said so (monotonic) */
    int64_t keys_told_us;
    struct replay *replay;
    struct replay_site *replay_site; /* its sockets, where many gateways share it; NULL: it is this process's own */
    struct sink *sink;
    struct captures *captures; /* NULL: none are kept */
    struct census *census; /* what the console tells of decisions; runs before the workers, and longer */
    char *admin_token; /* NULL: none */
    pthread_mutex_t lock; /* of what a reload replaces: now, rules, …tls, parts' expiry and trouble */
    atomic_uint edition;  /* one more with each change of these: whoever has seen the new is judged by the new */
    struct rules *rules;
    SSL_CTX **tls, *admin_tls; /* one a listener; NULL: plain */
    struct tickets *tickets; /* by which sessions are resumed, at all listeners */
    struct upstream_tls *upstream_tls;
    struct part *parts;
    size_t part_count;
    int *sockets;      /* one a listener, bound once */
    uint64_t *socket_files; /* which file a Unix socket has; 0: none */
    int admin_socket;
    struct admin *admin; /* NULL: it does not run */
    struct sessions *sessions; /* the admin thread's */
    uint64_t admin_file;
    struct worker *workers;
    unsigned worker_count;
    struct crowd *crowd;      /* of the connections */
    atomic_size_t held;       /* octets of requests and replies: hold.h */
    unsigned connections_max; /* by the configuration and by the descriptors that the process may have */
    struct upstream_site *upstream_site;
    struct shares *shares;  /* of in_flight */
    int64_t clock_apart_us; /* main's: wall clock minus monotonic clock, at the last tick */
    atomic_uint in_flight;
    _Atomic int64_t crowded_told_us; /* monotonic: when the log last said that a limit was reached */
    atomic_bool serving, draining, stopping, leaving;
};

struct listener {
    struct front *front;
    const struct listen_config *config; /* as started */
    struct evhtp *htp;
    size_t index;
    unsigned accepted; /* in this turn */
    int reached;       /* the largest descriptor that the loop has had */
    struct event again; /* when it accepts again */
};

struct worker {
    struct server *server;
    struct front front; /* its connections; settings: of the edition */
    struct locked_thread thread;
    bool started;
    struct event *wake;
    atomic_bool room_wanted; /* by others: hold.h */
    int wake_fd;
    unsigned edition; /* the server's that it has taken over */
    struct gate gate; /* rules: this worker's own reference; public_url: the settings' */
    struct keepings *keepings;
    struct upstream *upstream;
    struct listener *listeners;
    struct buf line;        /* of the decision that is being written */
    unsigned closing_turns; /* for so long the listeners have waited for what was connected already */
    bool stopped_listening;
};

/* The worker whose connections these are; not for the admin address's. */
static inline struct worker *worker_of(struct front *f)
{
    return (struct worker *)(void *)((char *)f - offsetof(struct worker, front));
}

/* listener.c: accepts on fd, which it takes over; tls NULL: plain. */
bool listener_open(struct listener *l, int fd, SSL_CTX *tls);
/* Who is accepted from now on gets this certificate; NULL is fine. */
void listener_use(struct listener *l, SSL_CTX *tls);
/* True when clients are connected whom nobody has accepted yet. */
bool listener_has_waiting(const struct listener *l);
void listener_close(struct listener *l);
/* At most once in ten seconds, whoever asks: true for the one who may speak in the log. */
bool server_may_tell(struct server *s);

/* True when whoever connects from there speaks for others. */
bool proxy_trusts(const struct listen_config *l, const struct ip *peer);
/* proxy.c: an exchange is one request and its reply. */
/* The head is there, or the guard refused (reason). False: it was refused and answered. */
bool proxy_head(struct conn *c, enum reason reason, int status);
/* The request is complete: conn_reply() will answer it, perhaps before this returns. */
void proxy_complete(struct conn *c);
/* The client is gone. */
void proxy_vanished(struct conn *c);

/* keeping.c: what an exchange asks the keeper of the keys, and how the answer finds back into the worker's thread. */
struct keeping;
struct keepings *keepings_new(struct worker *w);
/* `done` is called in the worker's thread, from keepings_turn(), unless it is cancelled. NULL: it cannot be asked. */
struct keeping *keeping_ask(struct worker *w, const struct key_wish *wishes, size_t n,
                            void (*done)(void *arg, const struct key_fate *v, size_t n), void *arg) MUST_CHECK;
/* The same for a look for changes of the keys; `done` gets no fates. */
struct keeping *keeping_look(struct worker *w, void (*done)(void *arg, const struct key_fate *v, size_t n),
                             void *arg) MUST_CHECK;
void keeping_cancel(struct keeping *k);
/* The keys that a request was the first to use become active; nobody waits for that. */
void keeping_confirm(struct worker *w, const struct judgement *j);
void keepings_turn(struct keepings *all);
/* At the end of the worker's thread: what is answered from now on is dropped. */
void keepings_close(struct keepings *all);
/* When the keeper has ended. NULL is fine. */
void keepings_free(struct keepings *all);

/* worker.c */
bool worker_start(struct worker *w);
void worker_wake(struct worker *w);
/* In its own thread, before a request is read and judged: by what is in force now, even if the wake is still on its
 * way. */
void worker_follow(struct worker *w);
/* Ends what still runs, and waits for the thread. */
void worker_stop(struct worker *w);

/* reload.c */
/* Loads rules and certificates for the first time; false with the faults told. */
bool reload_start(struct server *s, struct faults *faults);
/* By signal: everything is read again. What is at fault leaves the old in force, in the log, the metrics, /readyz. */
void reload_all(struct server *s);
/* To be called every WATCH_TICK_MS: reads what has changed, and warns of certificates that expire. */
void reload_tick(struct server *s);
/* What is not in force as it stands in its file, a line each; `why` names files and what they hold. */
void reload_write_troubles(struct server *s, bool why, struct buf *out);
void reload_measure(struct server *s); /* the gauges */
void reload_end(struct server *s);
/* The newest files of this part are in force, or `why` not. Returns whether they were not before. */
bool reload_trouble(struct server *s, size_t part, const char *why);
/* Tells a reload that was refused: its faults but for lints, then `outcome`. Returns the text of the first that is for
 * want of memory or descriptors, else of the first. */
const char *reload_tell_faults(const char *object, const char *file, const struct faults *faults, const char *outcome);

struct reload_state {
    const char *kind, *file; /* file NULL: there is none */
    int64_t trouble_us;      /* when the newest files were refused; 0: they are in force */
    char trouble[TLS_WHY];   /* why */
    int64_t expiry_us;       /* of the certificate in use; TIME_NONE: there is none */
};
/* How a part stands, 0 to part_count - 1. Any thread. */
void reload_state(struct server *s, size_t part, struct reload_state *out);

/* reload_config.c */
/* Reads gateway.yaml again: takes over what can be, names what needs a restart. */
void reload_config(struct server *s);

/* drain.c */
/* Ends serving: nothing new is accepted, what was begun is finished. A second signal cuts it short. */
void drain(struct server *s, const sigset_t *signals);

/* descriptors.c */
/* The gauges that Prometheus' libraries have of any process; the first once, at the start. */
void process_begins(void);
void process_measure(void);
/* How many connections the process can hold, with the soft limit raised as far as it goes. `c`: as it was started. */
unsigned descriptors_prepare(const struct config *c, const struct limits_config *limits);

/* admin_serve.c: the admin address, in a thread of its own. Its pages: admin.h. */
struct admin;
bool admin_start(struct server *s);
/* There is something to take over. */
void admin_wake(struct server *s);
/* Ends streams with what waits, and waits for the thread. Not before `draining`. */
void admin_stop(struct server *s);

/* sockets.c */
/* A bound, non-blocking socket; -1 with the reason logged. *file: which one a Unix socket made, else 0. */
int socket_bind(const struct listen_config *l, uint64_t *file);
/* From now on clients are taken; false with the reason logged. */
bool socket_listen(const struct listen_config *l, int fd);
/* Removes the file of a Unix socket, unless another process has put its own there since. */
void socket_remove(const struct listen_config *l, uint64_t file);

/* clock.c */
/* To be called every WATCH_TICK_MS by main: tells and counts steps of the wall clock. */
void clock_tick(struct server *s);

#endif
