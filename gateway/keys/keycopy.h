/*
 * A sealed copy of a shared key database, in the folder `state` of one gateway: the same rows under the same sums, in a
 * file, and beside it a stamp, which says until when the database was known to hold just that. A gateway that starts
 * while the database is away takes its keys from there, if the stamp is young enough; one that starts while it is there
 * takes them from there first, and what has changed since: by that a database that was put back to an earlier state, or
 * has another history, is known at the start. Then it reads every row, so that one that was tampered with is, too.
 *
 *     struct keycopy *copy = keycopy_start(store, folder);        a thread and a connection of its own
 *     keycopy_stop(copy);
 */
#ifndef KMSGATE_KEYS_KEYCOPY_H
#define KMSGATE_KEYS_KEYCOPY_H

#include "keys/keystore.h"

#define KEYCOPY_FILE "keys-copy.db"
#define KEYCOPY_STAMP "keys-copy.stamp"

struct keycopy;
/* NULL when there is no memory or no thread. */
struct keycopy *keycopy_start(struct keystore *ks, const char *folder);
/* NULL is fine. */
void keycopy_stop(struct keycopy *c);

#endif
