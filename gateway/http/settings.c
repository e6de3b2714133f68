#include "http/settings.h"

#include <stdlib.h>

#include "base/timestamp.h"

static struct settings *settings_made(struct config *config, const struct limits_config *limits, size_t listeners)
{
    struct settings *s = calloc(1, sizeof *s);
    /* NOLINTNEXTLINE(bugprone-sizeof-expression): pointers */
    const struct listen_config **listen = calloc(listeners, sizeof *listen);
    if (!s || !listen) {
        free(s);
        free(listen);
        return NULL;
    }
    *s = (struct settings){.refs = 1, .limits = *limits, .config = config_ref(config), .listen = listen};
    return s;
}

struct settings *settings_new(const struct config *started, struct config *now)
{
    struct settings *s = settings_made(now, &now->limits, started->listen_count);
    for (size_t i = 0; s && i < started->listen_count; i++) {
        s->listen[i] = config_listener(now, started->listen[i].address);
        if (!s->listen[i])
            s->listen[i] = &started->listen[i];
    }
    return s;
}

/* Small ones: people, probes and collectors come here, and whoever is slow has no business. */
static const struct limits_config ADMIN_LIMITS = {
    .body = 4 << 10, .target = 8 << 10, .header = 8 << 10, .headers = 8 << 10, .header_count = 64,
    .connections = SETTINGS_ADMIN_CONNECTIONS, .memory = 32 << 20,
    .header_timeout_us = 2 * US_PER_S, .body_timeout_us = 2 * US_PER_S, .idle_timeout_us = 10 * US_PER_S,
};

struct settings *settings_for_admin(struct config *started)
{
    struct settings *s = settings_made(started, &ADMIN_LIMITS, 1);
    if (s)
        s->listen[0] = &started->admin;
    return s;
}

struct settings *settings_ref(struct settings *s)
{
    s->refs++;
    return s;
}

void settings_unref(struct settings *s)
{
    if (!s || --s->refs)
        return;
    config_free(s->config);
    free(s->listen);
    free(s);
}
