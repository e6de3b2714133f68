#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/config.h"
#include "base/net.h"
#include "http/sandbox.h"

/* A number in text; what is none, or too many, leaves the list as it is: such a port cannot be reached then. */
static void ports_add(struct sandbox_ports *to, struct str port)
{
    uint64_t number;
    if (to->n < SANDBOX_PORTS && str_to_u64(port, UINT16_MAX, &number))
        to->v[to->n++] = (uint16_t)number;
}

static struct str cut(struct str *rest, const char *ends)
{
    size_t n = 0;
    while (n < rest->n && !strchr(ends, rest->p[n]))
        n++;
    const struct str first = {rest->p, n};
    *rest = (struct str){rest->p + n, rest->n - n};
    return first;
}

/* "[user@]host[:port][,…]", and a parameter `port=` behind. libpq's own port is let through in any case. */
static void add_postgres(struct sandbox_ports *to, struct str uri)
{
    struct str rest = {uri.p + sizeof "postgresql://" - 1, uri.n - (sizeof "postgresql://" - 1)};
    struct str hosts = cut(&rest, "/?");
    const char *at = memrchr(hosts.p, '@', hosts.n);
    if (at)
        hosts = (struct str){at + 1, hosts.n - (size_t)(at + 1 - hosts.p)};
    ports_add(to, STR("5432"));
    while (hosts.n) {
        const struct str one = cut(&hosts, ",");
        const char *colon = memrchr(one.p, ':', one.n);
        if (colon)
            ports_add(to, (struct str){colon + 1, one.n - (size_t)(colon + 1 - one.p)});
        if (hosts.n)
            hosts = (struct str){hosts.p + 1, hosts.n - 1};
    }
    static const struct str PARAMETER = {"port=", 5};
    while (rest.n) {
        rest = (struct str){rest.p + 1, rest.n - 1};
        struct str one = cut(&rest, "?&");
        if (!str_starts(one, PARAMETER))
            continue;
        for (one = (struct str){one.p + PARAMETER.n, one.n - PARAMETER.n}; one.n;
             one = one.n ? (struct str){one.p + 1, one.n - 1} : one)
            ports_add(to, cut(&one, ","));
    }
}

bool sandbox_ports(const struct config *c, const char *upstream_port, struct sandbox_ports *out)
{
    struct str host, port;
    *out = (struct sandbox_ports){.n = 0};
    ports_add(out, str_z(upstream_port));
    ports_add(out, STR("53")); /* an answer of a name server that is too long for a datagram */
    for (size_t i = 0; i < c->replay.host_count; i++)
        ports_add(out, str_z(c->replay.hosts[i].port));
    if (str_starts(str_z(c->keys), STR("postgresql://")))
        add_postgres(out, str_z(c->keys));
    if (str_starts(str_z(c->decisions), STR("syslog+"))) {
        const char *behind = strstr(c->decisions, "://");
        if (behind && net_host_port(str_z(behind + 3), &host, &port))
            ports_add(out, port);
    }
    return !c->replay.host_count || !c->replay.master; /* Sentinels tell of servers at ports that nobody knows yet */
}
