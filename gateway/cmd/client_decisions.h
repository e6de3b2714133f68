/*
 * The decisions of a running gateway, from its admin address.
 */
#ifndef KMSGATE_CMD_CLIENT_DECISIONS_H
#define KMSGATE_CMD_CLIENT_DECISIONS_H

#include "base/config.h"
#include "base/str.h"

struct client_decisions {
    const char *url;                   /* of the admin address, without a path */
    const struct listen_config *own;   /* the address behind url: by TLS nobody but it is believed; NULL: by its name */
    const struct secret_source *token; /* NULL, or of kind SECRET_NONE: none is sent */
    const char *user, *reason, *verdict, *rule; /* globs; NULL: any */
    bool follow;                       /* what is decided from now on, until the gateway ends; else the newest */
    /* Takes one line, without its end; false ends it all. */
    bool (*take)(void *arg, struct str line);
    void *arg;
};
/* False where the gateway does not answer as it should, which is told; what `take` ended is no such failure. */
bool client_decisions(const struct client_decisions *what);

#endif
