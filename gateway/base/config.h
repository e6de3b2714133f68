/*
 * gateway.yaml: how the gateway is deployed. Read from the file, then from the environment (KMSGATE_UPSTREAM_URL, …),
 * which wins; a secret also from the file of its name in $CREDENTIALS_DIRECTORY. Immutable once loaded, and counted.
 * Paths are already resolved (those in the file against the file's folder).
 */
#ifndef KMSGATE_BASE_CONFIG_H
#define KMSGATE_BASE_CONFIG_H

#include <stdatomic.h>

#include "base/faults.h"
#include "base/log.h"
#include "base/net.h"
#include "base/secret.h"

struct strings {
    char **v;
    size_t n;
};

/* Where a secret comes from; the value itself is read late, used and wiped. */
struct secret_source {
    enum { SECRET_NONE, SECRET_FILE, SECRET_ENV } kind;
    char *name; /* the path, or the variable */
};

enum { MASTER_KEYS_MAX = 8 };

enum client_auth { CLIENT_AUTH_NONE, CLIENT_AUTH_OPTIONAL, CLIENT_AUTH_REQUIRED };

struct listen_config {
    char *address;               /* as written: "0.0.0.0:8443", "[::1]:8443", "unix:/run/kmsgate.sock" */
    struct sockaddr_storage sa;  /* the same, ready to bind; AF_UNIX too */
    socklen_t sa_len;
    char *certificate, *key;     /* both or none (plain HTTP) */
    char *client_ca;
    enum client_auth client_auth;
    struct cidr *trusted_proxies;
    size_t trusted_proxy_count;
};

struct limits_config {
    size_t body, target, header, headers; /* bytes */
    size_t memory;                        /* of requests not yet judged and replies not yet written, all together */
    unsigned header_count, connections, in_flight, replay_entries;
    int64_t header_timeout_us, body_timeout_us, idle_timeout_us;
};

struct upstream_config {
    char *url;
    int64_t timeout_us;
    char *ca, *certificate, *key;
    unsigned connections; /* calls at a time, all workers together */
    size_t max_reply;     /* bytes */
    int64_t idle_timeout_us, lifetime_us; /* of a kept connection */
    unsigned breaker_failures;            /* so many calls in a row without an answer open it */
    int64_t breaker_probe_us;             /* then one call in each such time goes through */
};

enum { REPLAY_HOSTS = 8 };

/* Where it is remembered what was accepted. */
struct replay_config {
    char *url; /* as written */
    struct replay_host_name {
        char *name, *port; /* an IPv6 address without its brackets */
    } hosts[REPLAY_HOSTS];
    size_t host_count; /* 0: in the process itself, and all below is not looked at */
    char *master;      /* what the hosts, which are Sentinels then, call the primary; NULL: the host is the server */
    bool tls;
    struct secret_source secret, password;
    char *user, *ca;
    int64_t timeout_us, clock_difference_us;
    unsigned wait_replicas;
};

struct config {
    char *file;
    struct listen_config *listen;
    size_t listen_count;
    struct listen_config admin; /* without trusted_proxies */
    struct secret_source admin_token;
    struct secret_source tickets; /* what gateways of a fleet make their TLS tickets from; NONE: each its own */
    struct strings public_url; /* at least one; without a trailing slash */
    struct upstream_config upstream;
    char *rules;               /* path */
    char *keys;                /* path of the SQLite file, or postgresql://…, which may hold a password */
    struct replay_config replay;
    char *state;               /* folder of what one run leaves to the next: the replay memory's mark, a copy of keys */
    struct secret_source master_key;                     /* the first of the list: what is written is sealed under it */
    struct secret_source master_more[MASTER_KEYS_MAX - 1]; /* the others: what is sealed under them opens */
    size_t master_more_n;
    char *keys_counter;        /* path of the count of changes; NULL: none is kept */
    int64_t keys_max_age_us;   /* not ready when the keys have not been in step for so long */
    char *decisions;           /* "stdout", "none", a path, or a syslog server as sink_open() takes it */
    enum decisions_format { DECISIONS_JSON, DECISIONS_ECS } decisions_format;
    char *captures;            /* path of the folder of refused bodies; NULL: none are kept */
    size_t captures_max;       /* octets in it */
    unsigned workers;
    struct limits_config limits;
    enum log_level log_level;
    enum log_format log_format;
    int64_t drain_delay_us, drain_timeout_us;
    bool sandbox;
    char *user; /* whom a gateway that was started as root becomes; NULL: nobody */
    char *text; /* `check --print`: every setting in effect with its origin, secrets masked */
    struct strings values; /* config_compare.c's */
    atomic_uint refs;
};

/* Reads and validates. NULL with every fault found added to `faults`; else the caller owns it: config_free(). Files
 * that it names (certificates, master key) are not opened here. */
struct config *config_load(const char *path, struct faults *faults);
struct config *config_ref(struct config *c);
/* Gives a reference up; the last one frees. NULL is fine. */
void config_free(struct config *c);
/* As set; else one a core. */
unsigned config_workers(const struct config *c);

/* Each file that is read at the start and again by SIGHUP: itself, the rules, certificates and their keys, authorities,
 * master keys. */
void config_each_reread(const struct config *c, void (*each)(void *arg, const char *path), void *arg);

/* A setting that differs between two readings. */
struct config_change {
    const char *key;            /* "limits.body", "listen[1].trusted_proxies" */
    const char *before, *after; /* NULL: not given, or nothing that is shown */
    bool live;                  /* a running gateway can take it over */
};
typedef void config_change_fn(void *arg, const struct config_change *change);
/* Tells each difference. Listeners are the same where their addresses are. */
void config_compare(const struct config *before, const struct config *after, config_change_fn *tell, void *arg);
/* Only this machine reaches the address, by TCP. */
bool config_is_loopback(const struct listen_config *a);
/* The listener of that address; NULL: there is none. */
const struct listen_config *config_listener(const struct config *c, const char *address);
/* Reads 64 hex digits (one trailing newline allowed) from the source. A file that others may read is refused. The
 * message in faults never holds what was read. */
bool config_read_master_key(const struct secret_source *from, struct secret_key *out, struct faults *faults);
/* The same of another key; `what` names it in faults. */
bool config_read_key(const struct secret_source *from, const char *what, struct secret_key *out, struct faults *faults);
/* The key of `tickets`, which is given. */
bool config_read_tickets(const struct config *c, struct secret_key *out, struct faults *faults);
struct master_keys {
    struct secret_key v[MASTER_KEYS_MAX];
    size_t n;
};
void master_keys_clear(struct master_keys *m);
#define MASTERS_CLEANUP __attribute__((cleanup(master_keys_clear)))
/* The whole list of `master_key`; the caller wipes it. False with every fault. */
bool config_read_master_keys(const struct config *c, struct master_keys *out, struct faults *faults);
/* Reads a token (trailing newline cut) into a malloc'ed string; the caller wipes and frees it. NULL with a fault. */
char *config_read_token(const struct secret_source *from, struct faults *faults);

#endif
