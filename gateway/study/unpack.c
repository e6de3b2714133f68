#include "study/unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>
#include <zlib.h>

#include "base/str.h"

enum { CHUNK = 64 << 10, GZIP_ALONE = 16 + MAX_WBITS };
static const unsigned char GZIP_MAGIC[2] = {0x1f, 0x8b};

/* LOOK: neither is known yet; BETWEEN: a gzip member has ended, another may follow. */
enum unpack_state { UNPACK_LOOK, UNPACK_PLAIN, UNPACK_GZIP, UNPACK_BETWEEN, UNPACK_OVER };
struct unpack {
    int fd;
    enum unpack_state state;
    const char *why;           /* what failed; NULL: nothing has */
    z_stream z;                /* begun from GZIP on: next_in stands in `in` */
    bool z_begun;
    const unsigned char *next; /* what is given out next, in `in` or `out` */
    size_t left;
    unsigned char in[CHUNK], out[CHUNK];
};

struct unpack *unpack_open(const char *name, const char **why)
{
    struct unpack *u = calloc(1, sizeof *u);
    if (!u) {
        *why = "out of memory";
        return NULL;
    }
    u->fd = str_eq_z(str_z(name), "-") ? dup(STDIN_FILENO) : open(name, O_RDONLY | O_CLOEXEC);
    if (u->fd >= 0)
        return u;
    *why = strerror(errno);
    free(u);
    return NULL;
}

static int unpack_fail(struct unpack *u, const char *why)
{
    u->why = why;
    return UNPACK_FAILED;
}

/* What is there now, behind the `kept` octets at the front of `in`. 0: no more comes. */
static ssize_t unpack_read(struct unpack *u, size_t kept)
{
    ssize_t n;
    do
        n = read(u->fd, u->in + kept, sizeof u->in - kept);
    while (n < 0 && errno == EINTR);
    return n;
}

/* Compressed or not: two octets tell, and a pipe may bring one at a time. */
static int unpack_look(struct unpack *u)
{
    size_t have = 0;
    while (have < sizeof GZIP_MAGIC && (!have || u->in[0] == GZIP_MAGIC[0])) {
        const ssize_t n = unpack_read(u, have);
        if (n < 0)
            return unpack_fail(u, strerror(errno));
        if (n == 0)
            break;
        have += (size_t)n;
    }
    u->state = UNPACK_PLAIN;
    u->next = u->in;
    u->left = have;
    if (have < sizeof GZIP_MAGIC || u->in[0] != GZIP_MAGIC[0] || u->in[1] != GZIP_MAGIC[1])
        return 0;
    if (inflateInit2(&u->z, GZIP_ALONE) != Z_OK)
        return unpack_fail(u, "out of memory");
    u->z_begun = true;
    u->z.next_in = u->in;
    u->z.avail_in = (uInt)have;
    u->state = UNPACK_GZIP;
    u->left = 0;
    return 0;
}

static int unpack_plain(struct unpack *u)
{
    const ssize_t n = unpack_read(u, 0);
    if (n < 0)
        return unpack_fail(u, strerror(errno));
    u->next = u->in;
    u->left = (size_t)n;
    if (n == 0)
        u->state = UNPACK_OVER;
    return 0;
}

/* Behind a member: another (`cat 1.gz 2.gz`), or what gzip itself passes over, such as a tape's zeros. */
static int unpack_between(struct unpack *u)
{
    if (u->z.avail_in && u->z.next_in[0] == GZIP_MAGIC[0] && inflateReset(&u->z) == Z_OK)
        u->state = UNPACK_GZIP;
    else
        u->state = UNPACK_OVER;
    return 0;
}

static int unpack_gzip(struct unpack *u)
{
    if (!u->z.avail_in) {
        const ssize_t n = unpack_read(u, 0);
        if (n < 0)
            return unpack_fail(u, strerror(errno));
        if (n == 0 && u->state == UNPACK_GZIP)
            return unpack_fail(u, "the compressed data ends too early");
        u->z.next_in = u->in;
        u->z.avail_in = (uInt)n;
    }
    if (u->state == UNPACK_BETWEEN)
        return unpack_between(u);
    u->z.next_out = u->out;
    u->z.avail_out = sizeof u->out;
    const int code = inflate(&u->z, Z_NO_FLUSH);
    if (code == Z_MEM_ERROR)
        return unpack_fail(u, "out of memory");
    if (code != Z_OK && code != Z_STREAM_END && code != Z_BUF_ERROR)
        return unpack_fail(u, u->z.msg ? u->z.msg : "the compressed data is damaged");
    u->next = u->out;
    u->left = sizeof u->out - u->z.avail_out;
    if (code == Z_STREAM_END)
        u->state = UNPACK_BETWEEN;
    return 0;
}

int unpack_octet(struct unpack *u)
{
    while (!u->left) {
        int got = 0;
        if (u->why)
            return UNPACK_FAILED;
        if (u->state == UNPACK_OVER)
            return UNPACK_END;
        if (u->state == UNPACK_LOOK)
            got = unpack_look(u);
        else if (u->state == UNPACK_PLAIN)
            got = unpack_plain(u);
        else
            got = unpack_gzip(u);
        if (got < 0)
            return got;
    }
    u->left--;
    return *u->next++;
}

const char *unpack_why(const struct unpack *u)
{
    return u->why;
}

void unpack_close(struct unpack *u)
{
    if (!u)
        return;
    if (u->z_begun)
        (void)inflateEnd(&u->z);
    close(u->fd);
    free(u);
}
