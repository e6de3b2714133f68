#include "http/resolver.h"

#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/timestamp.h"

struct resolver {
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t asked;
    unsigned refs;        /* the owner's and the thread's */
    char *host, *port;
    bool fixed, running, wanted, ended, doubted;
    struct addresses known;
    int64_t failed_us; /* monotonic: when it failed last; 0: the newest answer is good */
    char why[RESOLVER_WHY];
    int *watchers;
    size_t watcher_count;
};

/* Under the lock, which is given up. */
static void resolver_unref(struct resolver *r)
{
    const bool last = --r->refs == 0;
    pthread_mutex_unlock(&r->lock);
    if (!last)
        return;
    pthread_cond_destroy(&r->asked);
    pthread_mutex_destroy(&r->lock);
    free(r->watchers);
    free(r->host);
    free(r->port);
    free(r);
}

static int look_up(const char *host, const char *port, int flags, struct addresses *out)
{
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_NUMERICSERV | flags};
    struct addrinfo *list = NULL;
    const int code = getaddrinfo(host, port, &hints, &list);
    out->n = 0;
    for (const struct addrinfo *a = code == 0 ? list : NULL; a && out->n < RESOLVER_ADDRESSES; a = a->ai_next)
        if (a->ai_addrlen <= sizeof out->v[0].sa) {
            memcpy(&out->v[out->n].sa, a->ai_addr, a->ai_addrlen);
            out->v[out->n++].n = a->ai_addrlen;
        }
    if (code == 0)
        freeaddrinfo(list);
    return code == 0 && !out->n ? EAI_NONAME : code;
}

struct resolver *resolver_new(const char *host, const char *port)
{
    struct resolver *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->asked, NULL);
    r->refs = 1;
    r->host = strdup(host);
    r->port = strdup(port);
    if (!r->host || !r->port) {
        resolver_free(r);
        return NULL;
    }
    r->fixed = look_up(host, port, AI_NUMERICHOST, &r->known) == 0;
    return r;
}

void resolver_free(struct resolver *r)
{
    if (!r)
        return;
    pthread_mutex_lock(&r->lock);
    r->ended = true;
    r->watcher_count = 0;
    pthread_cond_signal(&r->asked);
    resolver_unref(r);
}

static void take_answer(struct resolver *r, const struct addresses *answer, int code, int os)
{
    const int64_t now = time_mono_us();
    if (code == 0) {
        const uint64_t edition = r->known.edition + 1;
        r->known = *answer;
        r->known.edition = edition;
        r->known.answered_us = now;
        r->failed_us = 0;
    } else {
        r->failed_us = now;
        if (r->doubted)
            r->known.n = 0;
        snprintf(r->why, sizeof r->why, "%.80s: %.70s", r->host,
                 code == EAI_SYSTEM ? strerrordesc_np(os) : gai_strerror(code));
    }
    r->wanted = r->doubted = false;
    static const uint64_t one = 1;
    for (size_t i = 0; i < r->watcher_count; i++)
        (void)!write(r->watchers[i], &one, sizeof one);
}

static void *resolver_run(void *arg)
{
    struct resolver *r = arg;
    pthread_mutex_lock(&r->lock);
    while (!r->ended) {
        if (!r->wanted) {
            pthread_cond_wait(&r->asked, &r->lock);
            continue;
        }
        struct addresses answer = {.n = 0};
        pthread_mutex_unlock(&r->lock);
        const int code = look_up(r->host, r->port, 0, &answer); /* may take a minute; host and port never change */
        const int os = errno;
        pthread_mutex_lock(&r->lock);
        take_answer(r, &answer, code, os);
    }
    resolver_unref(r);
    return NULL;
}

/* Under the lock. False: no thread can be had. */
static bool resolver_ask(struct resolver *r)
{
    r->wanted = true;
    if (r->running) {
        pthread_cond_signal(&r->asked);
        return true;
    }
    pthread_t thread;
    r->refs++;
    r->running = pthread_create(&thread, NULL, resolver_run, r) == 0;
    if (r->running)
        (void)pthread_detach(thread);
    else
        r->refs--;
    return r->running;
}

enum resolver_answer resolver_get(struct resolver *r, struct addresses *out, char why[RESOLVER_WHY])
{
    pthread_mutex_lock(&r->lock);
    const int64_t now = time_mono_us();
    const bool known = r->known.n && !r->doubted;
    const bool fresh = known && now - r->known.answered_us < RESOLVER_FRESH_S * US_PER_S;
    const bool failed = r->failed_us && now - r->failed_us < RESOLVER_AGAIN_S * US_PER_S;
    enum resolver_answer answer = known ? RESOLVER_KNOWN : failed ? RESOLVER_FAILED : RESOLVER_ASKED;
    if (!r->fixed && !fresh && !failed && !r->wanted && !resolver_ask(r) && !known) {
        answer = RESOLVER_FAILED;
        snprintf(r->why, sizeof r->why, "%.80s: no thread can be started to resolve it", r->host);
    }
    if (answer == RESOLVER_KNOWN)
        *out = r->known;
    else if (answer == RESOLVER_FAILED)
        snprintf(why, RESOLVER_WHY, "%s", r->why);
    pthread_mutex_unlock(&r->lock);
    return answer;
}

bool resolver_doubt(struct resolver *r, const struct addresses *answer)
{
    if (r->fixed)
        return false;
    pthread_mutex_lock(&r->lock);
    const bool stale = time_mono_us() - answer->answered_us > RESOLVER_AGAIN_S * US_PER_S;
    const bool newer = r->known.edition != answer->edition;
    if (stale && !newer)
        r->doubted = true;
    pthread_mutex_unlock(&r->lock);
    return stale || newer;
}

bool resolver_is_fixed(const struct resolver *r)
{
    return r->fixed; /* written once, by resolver_new() */
}

bool resolver_watch(struct resolver *r, int fd)
{
    pthread_mutex_lock(&r->lock);
    int *more = realloc(r->watchers, (r->watcher_count + 1) * sizeof *more);
    if (more) {
        r->watchers = more;
        r->watchers[r->watcher_count++] = fd;
    }
    pthread_mutex_unlock(&r->lock);
    return more != NULL;
}

void resolver_unwatch(struct resolver *r, int fd)
{
    pthread_mutex_lock(&r->lock);
    for (size_t i = 0; i < r->watcher_count; i++)
        if (r->watchers[i] == fd)
            r->watchers[i--] = r->watchers[--r->watcher_count];
    pthread_mutex_unlock(&r->lock);
}
