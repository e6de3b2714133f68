#include "http/settings.h"

#include <stdlib.h>

struct settings *settings_new(const struct config *started, struct config *now)
{
    struct settings *s = calloc(1, sizeof *s);
    /* NOLINTNEXTLINE(bugprone-sizeof-expression): pointers */
    const struct listen_config **listen = calloc(started->listen_count, sizeof *listen);
    if (!s || !listen) {
        free(s);
        free(listen);
        return NULL;
    }
    for (size_t i = 0; i < started->listen_count; i++) {
        listen[i] = config_listener(now, started->listen[i].address);
        if (!listen[i])
            listen[i] = &started->listen[i];
    }
    *s = (struct settings){.refs = 1, .config = config_ref(now), .listen = listen};
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
