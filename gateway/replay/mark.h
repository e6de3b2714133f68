/*
 * The mark: a small file by which the next start knows how far ahead this run has accepted. Bound to the users' keys by
 * a MAC: what is damaged, or was made under other keys, says nothing.
 *
 *     enum mark_found found = mark_read(folder, &key, &mark, &why);
 *     if (!mark_write(folder, &key, &mark, &why)) ...            true: it is on the disk, and stays there
 */
#ifndef KMSGATE_REPLAY_MARK_H
#define KMSGATE_REPLAY_MARK_H

#include "base/reason.h"
#include "base/secret.h"
#include "replay/floor.h"

#define MARK_FILE "replay.mark"

/* NONE: no such file. FOREIGN: damaged, of other keys, or it cannot be read; `why` tells. */
enum mark_found { MARK_NONE, MARK_FOREIGN, MARK_FOUND };

/* key: keystore_state_key(). *out is filled in when it was found. */
enum mark_found mark_read(const char *folder, const struct secret_key *key, struct mark *out, struct detail *why);
/* Durably and whole: a new file is written and synced, takes the old one's name, and the folder is synced. The folder
 * has to be there. Blocks for as long as the disk does. False with the reason: the old one is still there. */
bool mark_write(const char *folder, const struct secret_key *key, const struct mark *m,
                struct detail *why) MUST_CHECK;

#endif
