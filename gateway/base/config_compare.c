#include <string.h>

#include "base/config_internal.h"

/* Whom to tell, and what. */
struct comparison {
    config_change_fn *tell;
    void *arg;
};

static bool same_text(const char *a, const char *b)
{
    return !a || !b ? a == b : strcmp(a, b) == 0;
}

static void differ(const struct comparison *c, const char *key, bool live)
{
    c->tell(c->arg, &(struct config_change){.key = key, .live = live});
}

const struct listen_config *config_listener(const struct config *c, const char *address)
{
    for (size_t i = 0; i < c->listen_count; i++)
        if (same_text(c->listen[i].address, address))
            return &c->listen[i];
    return NULL;
}

static bool same_proxies(const struct listen_config *a, const struct listen_config *b)
{
    bool same = a->trusted_proxy_count == b->trusted_proxy_count;
    for (size_t i = 0; same && i < a->trusted_proxy_count; i++)
        same = a->trusted_proxies[i].bits == b->trusted_proxies[i].bits &&
               memcmp(a->trusted_proxies[i].base.b, b->trusted_proxies[i].base.b, sizeof (struct ip){0}.b) == 0;
    return same;
}

static void compare_listener(const struct comparison *c, const struct listen_config *a, const struct listen_config *b,
                             size_t i)
{
    const struct {
        const char *key;
        bool same, live;
    } PARTS[] = {{"tls.certificate", same_text(a->certificate, b->certificate), false},
                 {"tls.key", same_text(a->key, b->key), false},
                 {"tls.client_ca", same_text(a->client_ca, b->client_ca), false},
                 {"tls.client_auth", a->client_auth == b->client_auth, false},
                 {"trusted_proxies", same_proxies(a, b), true}};
    for (size_t k = 0; k < sizeof PARTS / sizeof *PARTS; k++) {
        struct buf key BUF_CLEANUP = BUF_INIT(OPTION_PATH);
        buf_printf(&key, "listen[%zu].%s", i, PARTS[k].key);
        if (!PARTS[k].same)
            differ(c, key.failed ? "listen" : key.p, PARTS[k].live);
    }
}

static void compare_listeners(const struct comparison *c, const struct config *before, const struct config *after)
{
    bool others = before->listen_count != after->listen_count;
    for (size_t i = 0; i < after->listen_count; i++) {
        const struct listen_config *was = config_listener(before, after->listen[i].address);
        if (was)
            compare_listener(c, was, &after->listen[i], i);
        others = others || !was;
    }
    if (others)
        differ(c, "listen", false);
}

void config_compare(const struct config *before, const struct config *after, config_change_fn *tell, void *arg)
{
    const struct comparison c = {tell, arg};
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        const char *a = before->values.v[i], *b = after->values.v[i];
        if (same_text(a, b))
            continue;
        const bool shown = OPTIONS[i].live && !OPTIONS[i].secret;
        tell(arg, &(struct config_change){OPTIONS[i].path, shown ? a : NULL, shown ? b : NULL, OPTIONS[i].live});
    }
    compare_listeners(&c, before, after);
}
