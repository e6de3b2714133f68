/*
 * One reading of gateway.yaml as a worker (or the admin address), its connections and the requests on them go by it. A
 * reload gives each worker new ones; a request that was begun under the old is finished under them.
 *
 *     s = settings_new(started, now)     a worker's, when there is a newer reading
 *     c->settings = settings_ref(s)      of a connection, from one request to the next
 *
 * The count is a plain one: settings belong to one thread.
 */
#ifndef KMSGATE_HTTP_SETTINGS_H
#define KMSGATE_HTTP_SETTINGS_H

#include "base/config.h"

enum { SETTINGS_ADMIN_CONNECTIONS = 48 };

struct settings {
    unsigned refs;
    struct limits_config limits;         /* of connections and of what is read on them */
    struct config *config;               /* a reference of its own: only what a reload may change is read from it */
    const struct listen_config **listen; /* one a listener, in the order of `started` */
};

/* A listener that the newer reading no longer has stays as it was started; `started` outlives the settings. NULL
 * without memory. */
struct settings *settings_new(const struct config *started, struct config *now);
/* Those of the admin address, which no reload changes. */
struct settings *settings_for_admin(struct config *started);
struct settings *settings_ref(struct settings *s);
void settings_unref(struct settings *s); /* NULL is fine */

#endif
