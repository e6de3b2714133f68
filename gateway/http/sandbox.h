/*
 * What the process gives up before it serves, in layers that each hold by themselves: root (user), system calls
 * (seccomp), files and ports (landlock). What a layer lets through is a table with a reason a line: sandbox_calls.c
 * and sandbox_files.c. What is built later, and needs a call or a file after the start, extends them.
 *
 *     struct identity who;
 *     if (!identity_find(c->user, allow_root, &who)) return false;     before anything is opened
 *     ... bind the listeners ...
 *     if (!identity_take(&who)) return false;                          then open everything else
 *     ... open files, one thread still ...
 *     sandbox_enter(c, "9000");
 */
#ifndef KMSGATE_HTTP_SANDBOX_H
#define KMSGATE_HTTP_SANDBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct config;

/* Whom the process becomes. */
struct identity {
    bool change; /* false: it stays who it is */
    uid_t uid;
    gid_t gid;
    const char *name; /* the configuration's */
    char login[64];   /* by which other groups are found; "": it has none */
};
/* A name, or a number that needs no line in /etc/passwd. False with why not: nobody, or root. */
bool identity_look_up(const char *user, struct identity *out, const char **why);
/* `user`: NULL: none. False, and told in the log: root without
 * a user to become and without `allow_root`, a user that does not exist, or one that is root. */
bool identity_find(const char *user, bool allow_root, struct identity *out);
/* Groups, IDs and capabilities are given up for good; false, and told in the log, where the system refuses that. Who
 * stays root keeps what opens files and locks memory, and nothing else. */
bool identity_take(const struct identity *who);

/* To be called by the only thread there is: Landlock holds for a thread and those that it starts. `upstream_port`: the
 * number to which connections are made. A layer that cannot be had is a warning and a metric: a gateway that does not
 * start on an old kernel protects nobody. */
void sandbox_enter(const struct config *c, const char *upstream_port);
/* To be called every WATCH_TICK_MS: tells of a file of the system's that was replaced by one that this process may not
 * open, and of keys in clear that the system does not lock. */
void sandbox_tick(void);
/* `sandbox: off`: the same warning and metric. */
void sandbox_forgo(const struct config *c);
/* Bytes that are to be locked at least (locked.h): RLIMIT_MEMLOCK. */
size_t sandbox_memory(const struct config *c);

/* sandbox_ports.c: to which ports connections are made. False: any. */
enum { SANDBOX_PORTS = 64 };
struct sandbox_ports {
    uint16_t v[SANDBOX_PORTS];
    size_t n;
};
bool sandbox_ports(const struct config *c, const char *upstream_port, struct sandbox_ports *out);

/* sandbox_calls.c: false with the reason. */
bool sandbox_calls(char *why, size_t why_size);
/* sandbox_files.c */
bool sandbox_files(const struct config *c, const char *upstream_port, char *why, size_t why_size);

#endif
