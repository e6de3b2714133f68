/*
 * Namespace declarations of a canonical text's first tag, which stand between its name and its attributes, sorted by
 * prefix: what a sender or a proxy before him declared more or less, for `kmsgate explain`. Texts alone, no tree.
 *
 *     for (unsigned set = 0; declarations_next(declarations_count(text), 3, &set);)
 *         if (declarations_drop(text, set, &out)) ...               the same without those
 */
#ifndef KMSGATE_MESSAGE_DECLARATIONS_H
#define KMSGATE_MESSAGE_DECLARATIONS_H

#include "base/buf.h"
#include "base/reason.h"

enum { DECLARATIONS_NAMES = 96 }; /* room for the prefixes of a few, as text */

/* All of them, as they stand there; empty where there are none. A view into the text. */
struct str declarations_of(struct str text);
/* How many there are that have a prefix. */
size_t declarations_count(struct str text);

/* The next set of at most `most` of n, those of fewer members first; *set is 0 to begin with. False behind the last. */
bool declarations_next(size_t n, unsigned most, unsigned *set);

/* The text without those of its declarations (by their place among those that have a prefix). False without memory. */
bool declarations_drop(struct str text, unsigned set, struct buf *out) MUST_CHECK;

/* How many are known that senders, and the proxies before them, declare on an envelope. */
size_t declarations_known(void);
/* The text with a set of the known ones declared, too. False where one of them is already, or without memory. */
bool declarations_add(struct str text, unsigned set, struct buf *out) MUST_CHECK;
/* Their prefixes, "a, b". */
void declarations_known_names(unsigned set, char out[DECLARATIONS_NAMES]);
/* The prefixes that `text` declares in its first tag, and `other` does not; empty: none. */
void declarations_more(struct str text, struct str other, char out[DECLARATIONS_NAMES]);

#endif
