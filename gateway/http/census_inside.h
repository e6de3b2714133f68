/*
 * Inside census*.c.
 */
#ifndef KMSGATE_HTTP_CENSUS_INSIDE_H
#define KMSGATE_HTTP_CENSUS_INSIDE_H

#include <pthread.h>
#include <stdatomic.h>

#include "http/census.h"

/* What one decision leaves: the fixed part, then the texts one behind the other. */
struct note {
    int64_t time_us, skew_us, past_us, future_us; /* skew_us TIME_NONE: no Time was read */
    int64_t old_until_us[2];                      /* by type: not_after of the old key; TIME_NONE: none */
    uint16_t shadow;                              /* a bit each of SHADOW_COUNT */
    uint8_t accepted, reason, proven, exception;
    uint8_t used[2], old[2];                      /* by type: it was used; enum old_key */
    uint16_t rule_n, user_n, key_n[2], renewed_n[2];
};
enum { NOTE_RULE_MAX = 64, NOTE_KEY_MAX = 64 };
enum { NOTE_MAX = sizeof(struct note) + NOTE_RULE_MAX + LIMIT_DECISION_TEXT + 4 * NOTE_KEY_MAX };
/* NOT_OLD; it retires; it is active, and a newer one was offered that the user has not taken up. */
enum old_key { KEY_NOT_OLD, KEY_OLD_RETIRING, KEY_OLD_OFFERED };

/* The same, taken out: texts are views into `bytes`. */
struct noted {
    struct note n;
    struct str rule, user, key[2], renewed[2];
    char bytes[NOTE_MAX];
};

/* When something happened: the last 24 hours and 31 days, by the clock's own hours and days (UTC). */
enum { SPAN_HOURS = 24, SPAN_DAYS = 31 };
struct span {
    int64_t hour, day; /* the newest that was counted */
    uint32_t hours[SPAN_HOURS], days[SPAN_DAYS];
    uint64_t total;
    int64_t first_us, last_us;
};

/* What lets somebody pass: a rule, or of a rule one check in shadow, or shadow_accept (SHADOW_FORM). */
enum { PASS_RULE = SHADOW_COUNT, PASS_KINDS, PASSES = 512 };
struct pass {
    char rule[NOTE_RULE_MAX + 1];
    uint8_t what, exception;
    uint32_t number; /* by which its users are found */
    uint64_t rejected;
    struct span span;
};

/* A table that forgets: a place is looked for among WAYS, and the one of least weight gives way. */
enum { CELL_WAYS = 8, PASS_CELLS = 8192, CLOCK_CELLS = 4096, KEY_CELLS = 4096 };
struct cell {
    uint64_t hash;   /* 0: free */
    uint64_t weight; /* the caller's */
    uint32_t of;     /* a pass's number; 1 or 0: the clock of a proven user or of one only claimed; a key's type */
    uint16_t user_n, more_n;
    char user[LIMIT_DECISION_TEXT], more[NOTE_KEY_MAX];
    int64_t first_us, last_us;
    uint64_t count;
    int64_t v[5];
};
/* v of a clock: milliseconds; of a key. */
enum { CLOCK_FIRST, CLOCK_LAST, CLOCK_WORST, CLOCK_MEAN, CLOCK_LIMIT };
enum { KEY_WHY, KEY_UNTIL_US };
struct cells {
    struct cell *v;
    size_t n;
    uint64_t dropped; /* those that gave way */
};

enum { FINE_S = 5, FINE_BINS = 121, COARSE_S = 600, COARSE_BINS = 145 }; /* the newest is not over yet */
struct bin {
    int64_t number; /* of the step since 1970 */
    uint32_t n[2][REASON_COUNT]; /* rejected, accepted */
};

enum { RENEWED = 64 };
struct renewed {
    int64_t time_us;
    char user[LIMIT_DECISION_TEXT], id[2][NOTE_KEY_MAX];
    uint16_t user_n, id_n[2];
};

enum { RING = 256 << 10 };
struct ring {
    _Alignas(64) atomic_size_t head; /* the worker's: all octets ever written */
    _Alignas(64) atomic_size_t tail; /* the census's: all that were taken out */
    _Atomic uint64_t lost;
    char *bytes;
};

struct census {
    struct ring *rings;
    unsigned ring_count;
    int64_t since_us;
    int64_t watched_us;  /* since when it is known how rules were used: over restarts */
    const char *folder;  /* where that is kept; NULL: nowhere */
    uint64_t kept;       /* the thread's own: `counted` when it was written last */
    bool keep_failed;
    pthread_t thread;
    bool started;
    atomic_bool ending;
    pthread_mutex_t lock; /* of all below, and of the rings' tails */
    uint64_t counted;     /* notes, ever */
    uint64_t seed;        /* so that nobody can choose who gives way */
    struct bin fine[FINE_BINS], coarse[COARSE_BINS];
    uint64_t pass_hash[PASSES]; /* 0: free */
    struct pass pass[PASSES];
    uint32_t pass_next;
    struct cells passing, clocks, keys;
    struct renewed renewed[RENEWED];
    uint64_t renewed_n; /* ever */
};

/* census_count.c, under the lock */
void census_count(struct census *t, const struct noted *n);
struct pass *census_pass(struct census *t, struct str rule, unsigned what); /* NULL: there is none */
/* Made where there is none; the one that was not used for longest gives way. */
struct pass *census_pass_of(struct census *t, struct str rule, unsigned what);
void span_read(const struct span *s, int64_t now_us, uint32_t hours[SPAN_HOURS], uint32_t days[SPAN_DAYS]);
/* census_keep.c: writes how rules were used, if anything was counted since, and reads it at the start; what cannot be
 * read is told in the log and left. */
void census_keep(struct census *t, int64_t now_us);
void census_recall(struct census *t, int64_t now_us);
/* census.c: takes out what the rings hold; under the lock. */
void census_take(struct census *t);

#endif
