/*
 * Between the parts of the SQLite store: keydb_sqlite.c (statements), keydb_sqlite_file.c (opening and closing the
 * file), keydb_sqlite_make.c (a new file), keydb_takeover.c (a file of version 1); nobody else includes it.
 */
#ifndef KMSGATE_KEYS_KEYDB_SQLITE_H
#define KMSGATE_KEYS_KEYDB_SQLITE_H

#include <sys/types.h>

#include <sqlite3.h>

#include "keys/keydb.h"

enum keydb_sql {
    KEYDB_SQL_VERSION,
    KEYDB_SQL_READ,
    KEYDB_SQL_WRITE,
    KEYDB_SQL_COMMIT,
    KEYDB_SQL_ROLLBACK,
    KEYDB_SQL_META,
    KEYDB_SQL_SET_META,
    KEYDB_SQL_ALL,
    KEYDB_SQL_SINCE,
    KEYDB_SQL_REMOVED,
    KEYDB_SQL_OF_USER,
    KEYDB_SQL_USERS,
    KEYDB_SQL_PUT,
    KEYDB_SQL_REMOVE,
    KEYDB_SQL_NOTE,
    KEYDB_SQL_FORGET,
    KEYDB_SQL_COUNT
};

struct keydb_sqlite {
    struct keydb db;
    sqlite3 *sql;
    sqlite3_stmt *statement[KEYDB_SQL_COUNT];
    dev_t device;
    ino_t inode;
    char *draft; /* in memory, until the first commit makes this file of it; NULL: it is the file */
    int folder;  /* a draft's, locked; -1: none */
};

/* keydb_sqlite.c */
/* Once the tables are there. */
enum keydb_result sqlite_prepare(struct keydb_sqlite *db, struct detail *why) MUST_CHECK;
/* What an SQLite result means, and its text. */
enum keydb_result sqlite_fault(struct keydb_sqlite *db, int rc, const char *doing, struct detail *why);
bool sqlite_take_blob(sqlite3_stmt *st, int column, uint8_t *out, size_t n);
/* Not negative. */
bool sqlite_take_number(sqlite3_stmt *st, int column, uint64_t *out);
bool sqlite_take_text(sqlite3_stmt *st, int column, struct str *out);

/* keydb_sqlite_file.c */
/* The version of the schema, of those that are known; else 0 with the reason. */
int sqlite_schema_of(struct keydb_sqlite *db, struct detail *why);
/* Opens the file without looking at its schema. */
struct keydb_sqlite *sqlite_attach(const char *path, struct detail *why);
struct keydb_sqlite *sqlite_attach_name(const char *name, struct detail *why);
/* How much SQLite trusts the file, and how it writes. */
enum keydb_result sqlite_settle(struct keydb_sqlite *db, struct detail *why) MUST_CHECK;
void sqlite_close(struct keydb *base);
enum keydb_result sqlite_execute(struct keydb_sqlite *db, const char *sql, const char *doing,
                                 struct detail *why) MUST_CHECK;
/* Makes the tables of the present schema and its version, inside a transaction. */
enum keydb_result sqlite_make_tables(struct keydb_sqlite *db, struct detail *why) MUST_CHECK;
struct keydb *sqlite_open(const char *path, struct detail *why);
bool sqlite_is_current(const struct keydb *db, const char *path);
uint64_t sqlite_stamp(const struct keydb *base, const char *path);

/* keydb_sqlite_make.c */
/* Makes the file, mode 0600; made by root, it belongs to the owner of its folder. REFUSED: there is one already. */
enum keydb_result sqlite_create(const char *path, const struct keydb_meta *meta, struct detail *why);
struct keydb *sqlite_draft(const char *path, const struct keydb_meta *meta, bool *there, struct detail *why);
bool sqlite_is_draft(const struct keydb *db);
/* What is committed in memory becomes the file, which then is what is open. */
enum keydb_result sqlite_publish(struct keydb_sqlite *db, struct detail *why) MUST_CHECK;

/* keydb_takeover.c */
enum keydb_result sqlite_takeover(const char *path, const struct secret_key *masters, size_t n, struct detail *why);
struct keydb *sqlite_preview(const char *path, const struct secret_key *masters, size_t n, bool *older,
                             struct detail *why);

#endif
