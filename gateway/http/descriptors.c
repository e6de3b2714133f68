#include <sys/resource.h>

#include "base/log.h"
#include "http/server.h"

enum { OWN = 32 + SETTINGS_ADMIN_CONNECTIONS }; /* 32: the key store, logs, files that are read */

/* Without this, a gateway at its limit of descriptors could neither reach the upstream nor answer its health check. */
unsigned descriptors_prepare(const struct config *c, const struct limits_config *limits)
{
    struct rlimit r;
    const rlim_t own = OWN + (rlim_t)c->workers * (8 + 2 * c->listen_count);
    const rlim_t upstream = c->upstream.connections ? c->upstream.connections : limits->in_flight;
    const rlim_t wanted = own + upstream + limits->connections;
    if (getrlimit(RLIMIT_NOFILE, &r) != 0)
        return limits->connections;
    if (r.rlim_cur < wanted && r.rlim_cur < r.rlim_max) {
        const rlim_t before = r.rlim_cur;
        r.rlim_cur = r.rlim_max < wanted ? r.rlim_max : wanted;
        if (setrlimit(RLIMIT_NOFILE, &r) != 0)
            r.rlim_cur = before;
    }
    if (r.rlim_cur >= wanted)
        return limits->connections;
    const rlim_t free = r.rlim_cur > own ? r.rlim_cur - own : 2;
    const rlim_t most = free > 2 * upstream ? free - upstream : (free + 1) / 2;
    log_warn("gateway", NULL, "only %llu descriptors are allowed (RLIMIT_NOFILE), and limits.connections asks for "
             "%llu: at most %llu connections are served at once", (unsigned long long)r.rlim_cur,
             (unsigned long long)wanted, (unsigned long long)most);
    return (unsigned)most;
}
