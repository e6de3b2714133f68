/*
 * The store of the keys: rows in a database, behind one table of functions a kind of database. It knows nothing of
 * keys' meaning and verifies nothing but the shape of what it reads; a row that it returns is a claim until seal.h has
 * opened it. Texts of a row live until the next call.
 *
 *     struct keydb *db = keydb_open(where, &why);
 *     if (keydb_begin(db, false, &why) != KEYDB_OK || keydb_meta(db, &meta, &why) != KEYDB_OK) ...
 *     keydb_rollback(db);
 *
 * One thread at a time. Every call may block: for a writer, for a disk, for a network; none is made in an event loop.
 */
#ifndef KMSGATE_KEYS_KEYDB_H
#define KMSGATE_KEYS_KEYDB_H

#include "base/faults.h"
#include "keys/seal.h"
#include "keys/table.h"

enum { KEYDB_SCHEMA = 2 };
/* So many of the latest removals are kept, for those who follow; whoever is further behind reads all. */
enum { KEYDB_REMOVALS = 65536 };

/* The one row that vouches for all others: no row can be removed, or put back to what it was, without its sums. */
struct keydb_meta {
    uint64_t version;  /* of the schema */
    uint64_t count;    /* of the keys that are no tombstones */
    uint64_t last_seq; /* of all changes ever made */
    uint8_t salt[SEAL_SALT];
    uint8_t check[SEAL_CHECK]; /* of the master key that the sums are sealed under */
    uint8_t sums[SEAL_SUMS];   /* of the keys' tags, and of the tombstones' */
};

/* BUSY: another process is writing; later it will work. AWAY: cannot be reached now. FAILED: cannot be read or
 * written, or is damaged. REFUSED: by a caller's `each`, or because what was read is not what kmsgate writes. */
enum keydb_result { KEYDB_OK, KEYDB_BUSY, KEYDB_AWAY, KEYDB_FAILED, KEYDB_REFUSED };

struct keydb;
/* `each` returns false, with the reason, to stop: KEYDB_REFUSED. */
typedef bool (*keydb_each)(void *arg, const struct key_row *row, struct detail *why);
typedef bool (*keydb_each_removed)(void *arg, struct str user, struct str id, struct detail *why);
typedef void (*keydb_each_word)(void *arg, long process, const char *word);
enum { KEYDB_WORD = 63 };

/* What a kind of database does; the functions below tell what is asked of it. `begin` with write holds the meta row
 * against all other writers until the end: SQLite's BEGIN IMMEDIATE, PostgreSQL's SELECT … FOR UPDATE. */
struct keydb_kind {
    const char *scheme; /* what `where` begins with; NULL: it is a path */
    bool shared;        /* several gateways have it, across a network: at times it is away */
    enum keydb_result (*create)(const char *where, const struct keydb_meta *meta, struct detail *why);
    struct keydb *(*draft)(const char *where, const struct keydb_meta *meta, bool *there, struct detail *why);
    bool (*is_draft)(const struct keydb *db);
    enum keydb_result (*takeover)(const char *where, const struct secret_key *masters, size_t n, struct detail *why);
    struct keydb *(*preview)(const char *where, const struct secret_key *masters, size_t n, bool *older,
                             struct detail *why);
    struct keydb *(*open)(const char *where, struct detail *why);
    void (*close)(struct keydb *db);
    void (*lint)(const char *where, const char *shown, struct faults *faults);
    bool (*is_current)(const struct keydb *db, const char *where);
    bool (*readonly)(const struct keydb *db);
    void (*identity)(const struct keydb *db, uint64_t out[2]);
    uint64_t (*stamp)(const struct keydb *db, const char *where);
    void (*patience)(struct keydb *db, int ms);
    bool (*is_wanted)(const struct keydb *db); /* NULL: who reads keeps no writer waiting */
    void (*say)(struct keydb *db, const char *word);
    enum keydb_result (*words)(struct keydb *db, keydb_each_word each, void *arg, struct detail *why);
    enum keydb_result (*version)(struct keydb *db, int64_t *version, struct detail *why);
    enum keydb_result (*begin)(struct keydb *db, bool write, struct detail *why);
    enum keydb_result (*commit)(struct keydb *db, struct detail *why);
    void (*rollback)(struct keydb *db);
    enum keydb_result (*meta)(struct keydb *db, struct keydb_meta *out, struct detail *why);
    enum keydb_result (*set_meta)(struct keydb *db, const struct keydb_meta *meta, struct detail *why);
    enum keydb_result (*all)(struct keydb *db, keydb_each each, void *arg, struct detail *why);
    enum keydb_result (*since)(struct keydb *db, uint64_t seq, keydb_each each, void *arg, struct detail *why);
    enum keydb_result (*removed)(struct keydb *db, uint64_t seq, keydb_each_removed each, void *arg,
                                 struct detail *why);
    enum keydb_result (*of_user)(struct keydb *db, struct str user, keydb_each each, void *arg, struct detail *why);
    enum keydb_result (*fetch)(struct keydb *db, const struct str *users, size_t n, struct detail *why);
    enum keydb_result (*users)(struct keydb *db, struct str after, size_t limit, keydb_each_removed each, void *arg,
                               struct detail *why);
    enum keydb_result (*put)(struct keydb *db, const struct key_row *row, struct detail *why);
    enum keydb_result (*remove)(struct keydb *db, const struct key_row *row, struct detail *why);
};
/* What every kind begins with. */
struct keydb {
    const struct keydb_kind *kind;
};
extern const struct keydb_kind KEYDB_SQLITE;
#ifdef KMSGATE_FLEET
extern const struct keydb_kind KEYDB_POSTGRES;
#endif

/* What is told of a database's place: all but passwords. The caller frees it; NULL without memory. */
char *keydb_shown(const char *where);
/* True for a store of several gateways: there is nothing to look for in a folder. */
bool keydb_is_shared(const char *where);
/* Faults and lints of the place as it is written, `shown` in messages; nothing is opened. */
void keydb_lint(const char *where, const char *shown, struct faults *faults);

/* Makes a new database (a file: mode 0600), whole or not at all. KEYDB_REFUSED when there is one. */
enum keydb_result keydb_create(const char *where, const struct keydb_meta *meta, struct detail *why) MUST_CHECK;
/* The same, but nothing is to be seen of it before the first commit, which makes it with all that was written: who is
 * killed before leaves nothing behind. NULL with the reason, or where there is one (*there). Another process that wants
 * to make it meanwhile waits; was it made all the same, that commit is KEYDB_FAILED, and changes nothing. A kind that
 * cannot do this makes it empty at once. */
struct keydb *keydb_draft(const char *where, const struct keydb_meta *meta, bool *there, struct detail *why);
/* True until then. */
bool keydb_is_draft(const struct keydb *db);
/* A database of an earlier schema becomes one of this, in place, at once and whole, its keys' ages counted from now;
 * sealed under the one of the n master keys that it is under already. KEYDB_OK, too, where nothing is to be done. */
enum keydb_result keydb_takeover(const char *where, const struct secret_key *masters, size_t n,
                                 struct detail *why) MUST_CHECK;
/* Opens for reading alone; one of an earlier schema (*older) as a copy in memory that was taken over, itself is not
 * touched. */
struct keydb *keydb_preview(const char *where, const struct secret_key *masters, size_t n, bool *older,
                            struct detail *why);
/* Opens for reading and writing, or for reading where no more is allowed. Refused: a file that others may change or
 * that all may read, no database, another's database, an unknown version, tables other than ours. */
struct keydb *keydb_open(const char *where, struct detail *why);
void keydb_close(struct keydb *db);
/* False when `where` no longer names what is open (another file has taken the name). */
bool keydb_is_current(const struct keydb *db, const char *where);
bool keydb_readonly(const struct keydb *db);
/* True where it is a file, beside which others can stand. */
bool keydb_is_file(const struct keydb *db);
/* What is open, so that two processes can tell whether it is the same: a file's device and inode. */
void keydb_identity(const struct keydb *db, uint64_t out[2]);
/* Changes with whatever writes to the file, commits or not; read before the version, it tells whether something else
 * than a database has written there. The same for ever where there is no file. */
uint64_t keydb_stamp(const struct keydb *db, const char *where);
/* Where it is no file: "kmsgate …", printable ASCII and at most KEYDB_WORD octets, for whoever else has the database
 * open, for as long as this process has. It is for people: where it cannot be said nothing happens. Not inside a
 * transaction. */
void keydb_say(struct keydb *db, const char *word);
/* What other processes say, each with the server's number of it. KEYDB_OK without any where it is a file. */
enum keydb_result keydb_words(struct keydb *db, keydb_each_word each, void *arg, struct detail *why) MUST_CHECK;
/* How long to wait for other processes; 0: as long as is usual. */
void keydb_patience(struct keydb *db, int ms);
/* Whether another connection is about to write, which a transaction that reads keeps from it. */
bool keydb_is_wanted(const struct keydb *db);

/* A number that changes when another connection has committed. */
enum keydb_result keydb_version(struct keydb *db, int64_t *version, struct detail *why) MUST_CHECK;
enum keydb_result keydb_begin(struct keydb *db, bool write, struct detail *why) MUST_CHECK;
/* Durable when it returns KEYDB_OK. */
enum keydb_result keydb_commit(struct keydb *db, struct detail *why) MUST_CHECK;
/* Ends a transaction that was not committed; nothing happens where there is none. */
void keydb_rollback(struct keydb *db);

enum keydb_result keydb_meta(struct keydb *db, struct keydb_meta *out, struct detail *why) MUST_CHECK;
enum keydb_result keydb_set_meta(struct keydb *db, const struct keydb_meta *meta, struct detail *why) MUST_CHECK;
/* Rows, tombstones among them; `since`: those of a larger seq, in its order. */
enum keydb_result keydb_all(struct keydb *db, keydb_each each, void *arg, struct detail *why) MUST_CHECK;
enum keydb_result keydb_since(struct keydb *db, uint64_t seq, keydb_each each, void *arg,
                              struct detail *why) MUST_CHECK;
/* What was removed by changes of a larger seq, as far as that is kept, and is not there now: each name once. */
enum keydb_result keydb_removed(struct keydb *db, uint64_t seq, keydb_each_removed each, void *arg,
                                struct detail *why) MUST_CHECK;
enum keydb_result keydb_of_user(struct keydb *db, struct str user, keydb_each each, void *arg,
                                struct detail *why) MUST_CHECK;
/* Inside a writer's transaction: the rows of these users are going to be asked for, one user after the other. */
enum keydb_result keydb_fetch(struct keydb *db, const struct str *users, size_t n, struct detail *why) MUST_CHECK;
/* Up to `limit` users in the order of the database behind `after` (STR_MISSING: from the first); IDs are missing. */
enum keydb_result keydb_users(struct keydb *db, struct str after, size_t limit, keydb_each_removed each, void *arg,
                              struct detail *why) MUST_CHECK;
/* Inserts, or overwrites the row of that user and ID. */
enum keydb_result keydb_put(struct keydb *db, const struct key_row *row, struct detail *why) MUST_CHECK;
/* Removes the row and notes that under row->key.seq, the number of this change. */
enum keydb_result keydb_remove(struct keydb *db, const struct key_row *row, struct detail *why) MUST_CHECK;

#endif
