/*
 * Between keydb.c (statements) and keydb_file.c (making, opening and closing the file); nobody else includes it.
 */
#ifndef KMSGATE_KEYS_KEYDB_FILE_H
#define KMSGATE_KEYS_KEYDB_FILE_H

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
    KEYDB_SQL_TOTALS,
    KEYDB_SQL_ALL,
    KEYDB_SQL_SINCE,
    KEYDB_SQL_OF_USER,
    KEYDB_SQL_PUT,
    KEYDB_SQL_COUNT
};

struct keydb {
    sqlite3 *sql;
    sqlite3_stmt *statement[KEYDB_SQL_COUNT];
    dev_t device;
    ino_t inode;
};

/* Once the tables are there. */
enum keydb_result keydb_prepare(struct keydb *db, struct detail *why) MUST_CHECK;
/* What an SQLite result means, and its text. */
enum keydb_result keydb_fault(struct keydb *db, int rc, const char *doing, struct detail *why);

#endif
