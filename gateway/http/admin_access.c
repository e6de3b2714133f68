#include <stdio.h>
#include <string.h>

#include "http/admin.h"

/* The token's place and length leak nothing: both are padded into blocks of one size. */
bool admin_has_token(const struct server *s, const struct guard *g)
{
    if (!s->admin_token)
        return true;
    char due[ADMIN_TOKEN_MAX + 16] = {0}, got[ADMIN_TOKEN_MAX + 16] = {0};
    snprintf(due, sizeof due, "Bearer %s", s->admin_token);
    const struct str value = guard_header(g, "authorization");
    if (value.p && value.n < sizeof got)
        memcpy(got, value.p, value.n);
    const bool same = secret_equal(due, got, sizeof due);
    secret_wipe(due, sizeof due);
    secret_wipe(got, sizeof got);
    return same;
}

bool admin_host_holds(const struct server *s, const struct guard *g)
{
    struct ip ip;
    struct str host = guard_header(g, "host");
    if (s->admin_token)
        return true;
    if (!host.p)
        return false;
    if (host.n && *host.p == '[') {
        const char *close = memchr(host.p, ']', host.n);
        host = close ? (struct str){host.p + 1, (size_t)(close - host.p) - 1} : host;
    } else {
        const char *colon = memchr(host.p, ':', host.n);
        host.n = colon ? (size_t)(colon - host.p) : host.n;
    }
    return str_ieq_z(host, "localhost") || ip_parse(host, &ip);
}
