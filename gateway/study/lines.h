/*
 * Decision lines out of files: several, one after the other, plain or compressed by gzip, or standard input (`-`), as
 * the log wrote them or as the journal gives them back: behind the prefix of `journalctl`, or as the MESSAGE of
 * `journalctl -o json`.
 *
 *     struct lines *l = lines_open(names, n);
 *     while ((result = lines_next(l, &record)) != LINES_END && result != LINES_FAILED)
 *         if (result == LINES_DECISION) ... the record's texts live until the next call
 *     lines_close(l);
 */
#ifndef KMSGATE_STUDY_LINES_H
#define KMSGATE_STUDY_LINES_H

#include "study/record.h"

/* LINES_BROKEN: a line that is no decision, told on stderr as FILE:LINE: message (the first few of a file; how many
 * more, at its end). LINES_FAILED: a file cannot be read or memory is short, told on stderr, too. */
enum lines_result { LINES_DECISION, LINES_BROKEN, LINES_END, LINES_FAILED };
struct lines;
/* `names` must outlive it. NULL without memory. */
struct lines *lines_open(char *const *names, size_t n);
enum lines_result lines_next(struct lines *l, struct record *out) MUST_CHECK;
/* The line that the last decision was read from, as it stands in the log: without what the journal put before it. */
struct str lines_text(const struct lines *l);
void lines_close(struct lines *l); /* NULL is fine */

/* All decisions of these files. `take` gets each, with its line; false from it ends all. LINES_UNREADABLE was told, as
 * LINES_FAILED is; LINES_STOPPED is the caller's to tell: by `take`, or there was no memory to begin. */
enum lines_end { LINES_ALL, LINES_STOPPED, LINES_UNREADABLE };
struct lines_count {
    size_t decisions, broken; /* lines; all that were read, taken or not */
};
typedef bool lines_taker(void *arg, const struct record *r, struct str line);
enum lines_end lines_each(char *const *names, size_t n, lines_taker *take, void *arg, struct lines_count *count)
    MUST_CHECK;

#endif
