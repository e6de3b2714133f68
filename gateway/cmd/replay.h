/*
 * `kmsgate replay`: counting and telling.
 */
#ifndef KMSGATE_CMD_REPLAY_H
#define KMSGATE_CMD_REPLAY_H

#include "cmd/screen.h"
#include "study/rejudge.h"

/* What becomes of a decision, the gravest first: each falls into one of them. */
#define CHANGE_LIST(X)                                                                                 \
    X(REFUSED, "newly_refused", "would be refused that were accepted")                                 \
    X(REPLY_LOST, "reply_lost", "would be accepted as before, and get no reply: no response rule fits")     \
    X(ACCEPTED, "newly_accepted", "would be accepted that were refused")                               \
    X(REPLAYS_APART, "accepted_if_no_replay", "would be accepted that were refused, if they are not replays") \
    X(OPEN, "open", "cannot be told from the log")                                                     \
    X(REASON, "other_reason", "stay refused, for another reason")                                      \
    X(SHADOW, "other_shadow", "fail other checks in shadow")                                           \
    X(SHADOW_OPEN, "open_shadow", "may fail another check in shadow: the log does not tell")            \
    X(REPLY, "other_reply", "get their replies by another response rule")                              \
    X(RULE, "other_rule", "are decided by another rule, with the same end")                            \
    X(NONE, "unchanged", "stay as they are")
enum change {
#define CHANGE_ENUM(e, name, says) CHANGE_##e,
    CHANGE_LIST(CHANGE_ENUM)
#undef CHANGE_ENUM
    CHANGE_COUNT
};
const char *change_name(enum change c);
const char *change_says(enum change c);
enum change change_of(const struct record *r, const struct rejudged *again);

/* How often each name met each change: rules, users. */
struct tally {
    struct tally_row {
        char *name;
        size_t counts[CHANGE_COUNT];
    } *rows;
    size_t n, cap; /* cap: a power of two; rows are found by hash */
};
/* False without memory. */
bool tally_add(struct tally *t, struct str name, enum change c);
/* The rows in the order of how many of their decisions change; the caller frees the array. *n of them. */
const struct tally_row **tally_sorted(const struct tally *t, size_t *n);
size_t tally_users(const struct tally *t, enum change c);
void tally_free(struct tally *t);

struct replay_screen {
    struct screen screen;
    bool headed;
};
struct replayed {
    size_t decisions, broken, counts[CHANGE_COUNT];
    int64_t first_us, last_us; /* TIME_NONE: none */
    struct tally rules, users;
};
/* "accept", "reject: time.stale", "open: …" and the like: what was, what would be. */
void replay_was(const struct record *r, struct buf *out);
void replay_becomes(const struct rejudged *again, struct buf *out);
/* One line; at a terminal a row of a table, with its heads above the first. */
void replay_print_change(struct replay_screen *s, const struct record *r, const struct rejudged *again, enum change c,
                         struct buf *out);
/* How the lines of the summary are shown. */
screen_look replay_look;
void replay_print_summary(const struct replayed *sum, struct buf *out);
void replay_json_change(const struct record *r, const struct rejudged *again, enum change c, struct buf *out);
void replay_json_summary(const struct replayed *sum, const char *rules_hash, struct buf *out);

#endif
