#include <stdlib.h>
#include <string.h>

#include "base/config_internal.h"

#define SCHEMES "memory, redis://HOST:PORT, rediss://HOST:PORT or redis+sentinel://HOST:PORT,HOST:PORT,…/NAME"

static bool replay_expect(struct shown *expected, const char *text)
{
    snprintf(expected->z, sizeof expected->z, "%s", text);
    return false;
}

void config_clear_replay(struct replay_config *r)
{
    for (size_t i = 0; i < r->host_count; i++) {
        free(r->hosts[i].name);
        free(r->hosts[i].port);
    }
    free(r->master);
    r->master = NULL;
    r->host_count = 0;
}

/* "a", "a:6379", "[::1]:6379" */
static bool add_host(struct replay_config *r, struct str text, const char *port)
{
    if (!text.p)
        return false;
    const char *bracket = memrchr(text.p, ']', text.n);
    const char *colon = memrchr(text.p, ':', text.n);
    struct str host = text, given = str_z(port);
    uint16_t number;
    if (colon && (!bracket || colon > bracket)) {
        host.n = (size_t)(colon - text.p);
        given = (struct str){colon + 1, (size_t)(text.p + text.n - colon - 1)};
    }
    if (r->host_count == REPLAY_HOSTS || !config_is_host(host) || !config_port(given, &number) || !number)
        return false;
    if (bracket)
        host = (struct str){host.p + 1, host.n - 2};
    struct replay_host_name *h = &r->hosts[r->host_count++];
    h->name = str_dup(host);
    h->port = str_dup(given);
    return h->name && h->port;
}

static bool is_name(struct str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (!((s.p[i] >= 'a' && s.p[i] <= 'z') || (s.p[i] >= 'A' && s.p[i] <= 'Z') ||
              (s.p[i] >= '0' && s.p[i] <= '9') || s.p[i] == '-' || s.p[i] == '.' || s.p[i] == '_'))
            return false;
    return s.n > 0 && s.n <= 60;
}

static bool sentinels(struct replay_config *r, struct str rest)
{
    const char *slash = rest.p ? memchr(rest.p, '/', rest.n) : NULL;
    if (!slash)
        return false;
    const struct str name = {slash + 1, (size_t)(rest.p + rest.n - slash - 1)};
    for (const char *p = rest.p; p < slash;) {
        const char *comma = memchr(p, ',', (size_t)(slash - p));
        if (!add_host(r, (struct str){p, (size_t)((comma ? comma : slash) - p)}, "26379"))
            return false;
        p = comma ? comma + 1 : slash;
    }
    return r->host_count && slash[-1] != ',' && is_name(name) && (r->master = str_dup(name));
}

static bool read_url(struct replay_config *r, struct str url)
{
    static const struct str PLAIN = {"redis://", 8}, TLS = {"rediss://", 9}, SENTINEL = {"redis+sentinel://", 17};
    r->tls = str_starts(url, TLS);
    if (str_starts(url, SENTINEL))
        return sentinels(r, (struct str){url.p + SENTINEL.n, url.n - SENTINEL.n});
    const size_t skip = r->tls ? TLS.n : PLAIN.n;
    return (r->tls || str_starts(url, PLAIN)) && add_host(r, (struct str){url.p + skip, url.n - skip}, "6379");
}

bool read_replay(const struct option *o, const struct incoming *in, void *to, struct shown *expected)
{
    struct replay_config *r = (struct replay_config *)(void *)((char *)to - offsetof(struct replay_config, url));
    (void)o;
    config_clear_replay(r);
    free(r->url);
    r->url = NULL;
    const bool memory = str_eq_z(in->text, "memory");
#ifndef KMSGATE_FLEET
    if (!memory && str_starts(in->text, STR("redis")))
        return replay_expect(expected,
                             "memory: this kmsgate was built without KMSGATE_FLEET, and knows no shared memory");
#endif
    if (!memory && !read_url(r, in->text)) {
        config_clear_replay(r);
        return replay_expect(expected, SCHEMES);
    }
    return (r->url = str_dup(in->text)) || replay_expect(expected, "more memory");
}

bool read_text(const struct option *o, const struct incoming *in, void *to, struct shown *expected)
{
    (void)o;
    if (in->text.n > 128 || !str_is_utf8(in->text) || !is_name(in->text))
        return replay_expect(expected, "a name of letters, digits, `-`, `.` and `_`");
    char *text = str_dup(in->text);
    if (!text)
        return replay_expect(expected, "more memory");
    free(*(char **)to);
    *(char **)to = text;
    return true;
}

static bool is_near(const char *host)
{
    struct ip ip;
    struct cidr four, six;
    return str_eq_z(str_z(host), "localhost") ||
           (ip_parse(str_z(host), &ip) && cidr_parse(STR("127.0.0.0/8"), &four) && cidr_parse(STR("::1/128"), &six) &&
            (cidr_contains(&four, &ip) || cidr_contains(&six, &ip)));
}

static const char *url_path(const struct load *l)
{
    return l->held[config_option_of("replay.url")].given ? "replay.url" : "replay";
}

/* What is in effect unless it is said: `check --print` shows it. */
static void set_replicas(struct load *l)
{
    struct shown expected;
    const bool promoted = l->c->replay.master;
    option_set(l, config_option_of("replay.wait_replicas"),
               &(struct incoming){promoted ? STR("1") : STR("0"), ""}, &expected,
               promoted ? "default: with Sentinels" : "default");
}

static void check_shared(struct load *l)
{
    struct replay_config *r = &l->c->replay;
    bool near = true;
    for (size_t i = 0; i < r->host_count; i++)
        near = near && is_near(r->hosts[i].name);
    if (r->master && r->ca)
        r->tls = true;
    if (r->secret.kind == SECRET_NONE)
        config_fault_of(l, url_path(l), false,
                        "a shared replay memory needs `secret` (file: or env:, 64 hex digits, the same for all "
                        "gateways): it keys what is remembered");
    if (r->user && r->password.kind == SECRET_NONE)
        config_fault_of(l, "replay.user", false, "`user` needs `password`");
    if (r->ca && !r->tls)
        config_fault_of(l, "replay.ca", false,
                        "`ca` is given, but the URL is redis://: nothing would be verified; rediss:// is due");
    if (!r->tls && !near)
        config_fault_of(l, url_path(l), true,
                        "plain-redis: what is said to another host is neither secret nor protected: whoever is on the "
                        "way can let replays through; use rediss://, or `ca` with redis+sentinel://");
    if (!l->held[config_option_of("replay.wait_replicas")].given)
        set_replicas(l);
    else if (r->master && !r->wait_replicas)
        config_fault_of(l, "replay.wait_replicas", true,
                        "no-replicas: with 0, a request that was accepted before a failover can be accepted again "
                        "while the old primary lives");
}

void config_check_replay(struct load *l)
{
    static const char *const SHARED[] = {"replay.secret", "replay.user", "replay.password", "replay.ca",
                                         "replay.timeout", "replay.clock_difference", "replay.wait_replicas"};
    if (l->c->replay.host_count) {
        check_shared(l);
        return;
    }
    for (size_t i = 0; l->c->replay.url && i < sizeof SHARED / sizeof *SHARED; i++)
        if (l->held[config_option_of(SHARED[i])].given)
            config_fault_of(l, SHARED[i], false, "is for a shared replay memory, and `replay` is memory");
}
