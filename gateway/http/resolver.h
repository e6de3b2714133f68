/*
 * The addresses of one host, asked for off the event loops: getaddrinfo() blocks for as long as a name server is mute.
 * One thread a resolver, begun when a name has to be asked for, and never waited for: it outlives the resolver where it
 * must. An answer is good for RESOLVER_FRESH_S; an older one is still handed out while it is asked for again, unless
 * its addresses are in doubt. A host that is written as an address is known from the start and for good.
 */
#ifndef KMSGATE_HTTP_RESOLVER_H
#define KMSGATE_HTTP_RESOLVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

enum {
    RESOLVER_FRESH_S = 5,    /* what comes back in a container has another address */
    RESOLVER_AGAIN_S = 1,    /* a failure is not asked about again before */
    RESOLVER_ADDRESSES = 8,  /* the first ones of an answer */
    RESOLVER_WHY = 160,
};

struct addresses {
    struct address {
        struct sockaddr_storage sa;
        socklen_t n;
    } v[RESOLVER_ADDRESSES];
    size_t n;
    uint64_t edition;    /* of the answer */
    int64_t answered_us; /* monotonic */
};

struct resolver;

/* host: a name, an IPv4 address, or an IPv6 address without brackets; port: digits. NULL without memory. */
struct resolver *resolver_new(const char *host, const char *port);
/* NULL is fine. Nobody is woken from then on. */
void resolver_free(struct resolver *r);

/* KNOWN: *out is filled. ASKED: every watcher is woken when the answer is there. FAILED: why. */
enum resolver_answer { RESOLVER_KNOWN, RESOLVER_ASKED, RESOLVER_FAILED };
enum resolver_answer resolver_get(struct resolver *r, struct addresses *out, char why[RESOLVER_WHY]);
/* None of that answer's addresses could be reached: it is not handed out again. False: there is no other. */
bool resolver_doubt(struct resolver *r, const struct addresses *answer);

/* fd, an eventfd, is written to after each answer until resolver_unwatch(). False without memory. Never needed, and a
 * success without effect, for an address. */
bool resolver_is_fixed(const struct resolver *r);
bool resolver_watch(struct resolver *r, int fd);
void resolver_unwatch(struct resolver *r, int fd);

#endif
