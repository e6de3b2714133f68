#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "http/server.h"

/* A Unix socket that nobody listens on any more is in the way. */
static void remove_stale(const struct listen_config *l)
{
    const char *path = ((const struct sockaddr_un *)&l->sa)->sun_path;
    struct stat st;
    if (lstat(path, &st) != 0 || !S_ISSOCK(st.st_mode))
        return;
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)&l->sa, l->sa_len) != 0 && errno == ECONNREFUSED)
        unlink(path);
    if (fd >= 0)
        close(fd);
}

/* Which file it is: the number alone would not do, since it is given to the next one at once. */
static uint64_t file_of(const struct listen_config *l)
{
    struct stat st;
    if (lstat(((const struct sockaddr_un *)&l->sa)->sun_path, &st) != 0 || !S_ISSOCK(st.st_mode))
        return 0;
    return (uint64_t)st.st_ino + (uint64_t)st.st_ctim.tv_sec * 1000000000u + (uint64_t)st.st_ctim.tv_nsec;
}

static void sockets_tell(const struct listen_config *l)
{
    log_error("listener", l->address, "cannot listen: %s", strerror(errno));
}

int socket_bind(const struct listen_config *l, uint64_t *file)
{
    *file = 0;
    const int one = 1;
    const bool local = l->sa.ss_family == AF_UNIX;
    if (local)
        remove_stale(l);
    const int fd = socket(l->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool ok = fd >= 0;
    if (ok && !local) /* TCP_NODELAY passes on to what is accepted */
        ok = setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0 &&
             setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) == 0;
    if (ok && l->sa.ss_family == AF_INET6) {
        /* All addresses are all of IPv4, too, whatever the system's default is. */
        const struct in6_addr *at = &((const struct sockaddr_in6 *)(const void *)&l->sa)->sin6_addr;
        const int six = !IN6_IS_ADDR_UNSPECIFIED(at);
        ok = setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &six, sizeof six) == 0;
    }
    const mode_t mask = umask(0117); /* 0660 */
    ok = ok && bind(fd, (const struct sockaddr *)&l->sa, l->sa_len) == 0;
    umask(mask);
    if (ok && local)
        *file = file_of(l);
    if (ok)
        return fd;
    sockets_tell(l);
    if (fd >= 0)
        close(fd);
    return -1;
}

bool socket_listen(const struct listen_config *l, int fd)
{
    if (listen(fd, 1024) == 0)
        return true;
    sockets_tell(l);
    return false;
}

void socket_remove(const struct listen_config *l, uint64_t file)
{
    if (file && l->sa.ss_family == AF_UNIX && file_of(l) == file)
        unlink(((const struct sockaddr_un *)&l->sa)->sun_path);
}
