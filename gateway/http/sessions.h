/*
 * Who has signed in at the console, and who tries to.
 *
 *     wait = sessions_try(s, &source, now);     0: compare the token now; else so many seconds first
 *     sessions_begin(s, now, name)              it held: `name` goes into the cookie
 *     sessions_use(s, name, now, true)          with each request; 0: sign in again
 *
 * A session ends after 15 minutes in which nobody used it, and after 12 hours in any case. What a page that is left
 * open asks by itself says so, and does not keep it: else a desk that somebody has left would stay signed in all day.
 * Of a name only its hash is kept. Memory is bounded: beyond SESSIONS_MOST the one that was unused for longest ends.
 * Times are monotonic, in microseconds. Of one thread.
 */
#ifndef KMSGATE_HTTP_SESSIONS_H
#define KMSGATE_HTTP_SESSIONS_H

#include "base/net.h"
#include "base/reason.h"

enum {
    SESSIONS_MOST = 64,
    SESSIONS_NAME = 64 + 1,       /* hex digits of 256 random bits */
    SESSIONS_IDLE_S = 15 * 60, SESSIONS_WHOLE_S = 12 * 3600,
    SESSIONS_TRIES = 5,           /* a minute and source: an IPv4 address, or an IPv6 /64 */
    SESSIONS_TRIES_OF_ALL = 60,
};

struct sessions;
struct sessions *sessions_new(void); /* NULL without memory */
void sessions_free(struct sessions *s); /* NULL is fine */
/* 0: it may try, and has. Else the seconds after which it may: then it has not. */
unsigned sessions_try(struct sessions *s, const struct ip *source, int64_t now_us);
/* False where there is no randomness. */
bool sessions_begin(struct sessions *s, int64_t now_us, char name[SESSIONS_NAME]) MUST_CHECK;
/* The number of the session of that name, never used twice; 0: there is none. It counts as used if somebody attends. */
uint64_t sessions_use(struct sessions *s, struct str name, int64_t now_us, bool attended);
bool sessions_alive(const struct sessions *s, uint64_t number, int64_t now_us);
/* Signed out. */
void sessions_end(struct sessions *s, struct str name);

#endif
