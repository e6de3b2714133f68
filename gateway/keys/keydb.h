/*
 * The SQLite file: the only SQL of the program. It knows nothing of keys' meaning and verifies nothing but the shape
 * of the file; a row that it returns is a claim until seal.h has opened it. Texts of a row live until the next step.
 *
 *     struct keydb *db = keydb_open(path, &why);
 *     if (keydb_begin(db, false, &why) != KEYDB_OK || keydb_meta(db, &meta, &why) != KEYDB_OK) ...
 *     keydb_end(db, false);
 *
 * One thread at a time.
 */
#ifndef KMSGATE_KEYS_KEYDB_H
#define KMSGATE_KEYS_KEYDB_H

#include "keys/seal.h"
#include "keys/table.h"

enum { KEYDB_VERSION = 1 };

/* The one row that vouches for all others: no row can be removed, or put back to what it was, without its mac. */
struct keydb_meta {
    uint64_t version;
    struct key_totals totals;
    uint8_t salt[SEAL_SALT];
    uint8_t check[SEAL_CHECK];
    uint8_t mac[SEAL_MAC];
};

/* BUSY: another process is writing; later it will work. FAILED: the file cannot be read or written, or is damaged.
 * REFUSED: by a caller's `each`, or because what was read is not what kmsgate writes. */
enum keydb_result { KEYDB_OK, KEYDB_BUSY, KEYDB_FAILED, KEYDB_REFUSED };

struct keydb;
/* Makes a new file (mode 0600), whole or not at all. KEYDB_REFUSED when there is one. */
enum keydb_result keydb_create(const char *path, const struct keydb_meta *meta, struct detail *why) MUST_CHECK;
/* Opens for reading and writing, or for reading where the file allows no more. Refused: a file that others may change
 * or that all may read, no database, another's database, an unknown version, tables other than ours. */
struct keydb *keydb_open(const char *path, struct detail *why);
void keydb_close(struct keydb *db);
/* False when `path` no longer names the file that is open. */
bool keydb_is_current(const struct keydb *db, const char *path);
bool keydb_readonly(const struct keydb *db);
/* How long to wait for other processes. */
void keydb_patience(struct keydb *db, int ms);

/* Changes when another connection has committed. */
enum keydb_result keydb_version(struct keydb *db, int64_t *version, struct detail *why) MUST_CHECK;
enum keydb_result keydb_begin(struct keydb *db, bool write, struct detail *why) MUST_CHECK;
enum keydb_result keydb_commit(struct keydb *db, struct detail *why) MUST_CHECK;
void keydb_rollback(struct keydb *db);

enum keydb_result keydb_meta(struct keydb *db, struct keydb_meta *out, struct detail *why) MUST_CHECK;
enum keydb_result keydb_set_meta(struct keydb *db, const struct keydb_meta *meta, struct detail *why) MUST_CHECK;
/* As counted in the rows themselves. */
enum keydb_result keydb_totals(struct keydb *db, struct key_totals *out, struct detail *why) MUST_CHECK;
/* `each` returns false, with the reason, to stop: KEYDB_REFUSED. */
typedef bool (*keydb_each)(void *arg, const struct key_row *row, struct detail *why);
enum keydb_result keydb_all(struct keydb *db, keydb_each each, void *arg, struct detail *why) MUST_CHECK;
enum keydb_result keydb_since(struct keydb *db, uint64_t seq, keydb_each each, void *arg,
                              struct detail *why) MUST_CHECK;
enum keydb_result keydb_of_user(struct keydb *db, struct str user, keydb_each each, void *arg,
                                struct detail *why) MUST_CHECK;
/* Inserts, or overwrites the row of that user and ID. */
enum keydb_result keydb_put(struct keydb *db, const struct key_row *row, struct detail *why) MUST_CHECK;

#endif
