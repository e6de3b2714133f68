#include <string.h>

#include "http/admin.h"

/* Both are padded into blocks of one size, so that neither place nor length of a difference tells anything. */
bool admin_token_is(const struct server *s, struct str given)
{
    char due[ADMIN_TOKEN_MAX + 1] = {0}, got[ADMIN_TOKEN_MAX + 1] = {0};
    if (!s->admin_token)
        return false;
    snprintf(due, sizeof due, "%s", s->admin_token);
    if (given.p && given.n < sizeof got)
        memcpy(got, given.p, given.n);
    const bool same = secret_equal(due, got, sizeof due);
    secret_wipe(due, sizeof due);
    secret_wipe(got, sizeof got);
    return same;
}

bool admin_has_token(const struct server *s, const struct guard *g)
{
    static const struct str SCHEME = STR("Bearer ");
    const struct str value = guard_header(g, "authorization");
    const bool bearer = value.p && str_starts(value, SCHEME);
    return !s->admin_token ||
           admin_token_is(s, bearer ? (struct str){value.p + SCHEME.n, value.n - SCHEME.n} : STR_MISSING);
}

struct str admin_host(const struct guard *g)
{
    struct str host = guard_header(g, "host");
    if (!host.p)
        return STR("");
    if (host.n && *host.p == '[') {
        const char *close = memchr(host.p, ']', host.n);
        return close ? (struct str){host.p + 1, (size_t)(close - host.p) - 1} : host;
    }
    const char *colon = memchr(host.p, ':', host.n);
    return (struct str){host.p, colon ? (size_t)(colon - host.p) : host.n};
}

bool admin_host_is_local(const struct guard *g)
{
    struct ip ip;
    const struct str host = admin_host(g);
    return str_ieq_z(host, "localhost") || ip_parse(host, &ip);
}

bool admin_host_holds(const struct server *s, const struct guard *g)
{
    return s->admin_token || admin_host_is_local(g);
}
