#include "keys/keydb.h"

#include <string.h>

#include <sqlite3.h>

#include "keys/keydb_file.h"

#define ROW "SELECT user, id, type, state, not_after, seq, sealed FROM keys"
static const char *const STATEMENTS[] = {
    [KEYDB_SQL_VERSION] = "PRAGMA data_version",
    [KEYDB_SQL_READ] = "BEGIN",
    [KEYDB_SQL_WRITE] = "BEGIN IMMEDIATE",
    [KEYDB_SQL_COMMIT] = "COMMIT",
    [KEYDB_SQL_ROLLBACK] = "ROLLBACK",
    [KEYDB_SQL_META] = "SELECT version, keys, seq_sum, last_seq, salt, key_check, mac FROM meta WHERE one = 1",
    [KEYDB_SQL_SET_META] = "INSERT OR REPLACE INTO meta (version, keys, seq_sum, last_seq, salt, key_check, mac, one) "
                           "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 1)",
    [KEYDB_SQL_TOTALS] = "SELECT count(*), total(seq), max(seq) FROM keys INDEXED BY keys_seq",
    [KEYDB_SQL_ALL] = ROW,
    [KEYDB_SQL_SINCE] = ROW " WHERE seq > ?1 ORDER BY seq",
    [KEYDB_SQL_OF_USER] = ROW " WHERE user = ?1",
    [KEYDB_SQL_PUT] = "INSERT INTO keys (user, id, type, state, not_after, seq, sealed) "
                      "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (user, id) DO UPDATE SET type = ?3, state = ?4, "
                      "not_after = ?5, seq = ?6, sealed = ?7",
};
_Static_assert(sizeof STATEMENTS / sizeof *STATEMENTS == KEYDB_SQL_COUNT, "a text for each statement");

enum keydb_result keydb_fault(struct keydb *db, int rc, const char *doing, struct detail *why)
{
    int kind = rc & 0xff;
    if (kind == SQLITE_BUSY || kind == SQLITE_LOCKED) {
        detail_set(why, "cannot %s: another process is writing", doing);
        return rc == SQLITE_BUSY_RECOVERY ? KEYDB_FAILED : KEYDB_BUSY;
    }
    if (kind == SQLITE_CORRUPT || kind == SQLITE_NOTADB)
        detail_set(why, "damaged, or no SQLite database: %s", sqlite3_errstr(rc));
    else if (rc == SQLITE_READONLY_ROLLBACK)
        detail_set(why, "a writer died half way, and the file is read-only: any `kmsgate keys` command that may write "
                        "there completes the recovery");
    else
        detail_set(why, "cannot %s: %s", doing, sqlite3_errmsg(db->sql));
    return KEYDB_FAILED;
}

enum keydb_result keydb_prepare(struct keydb *db, struct detail *why)
{
    for (size_t i = 0; i < KEYDB_SQL_COUNT; i++) {
        int rc = sqlite3_prepare_v3(db->sql, STATEMENTS[i], -1, SQLITE_PREPARE_PERSISTENT, &db->statement[i], NULL);
        if (rc != SQLITE_OK)
            return keydb_fault(db, rc, "prepare a statement", why);
    }
    return KEYDB_OK;
}

/* Runs a statement that returns no row, and whose values are bound. */
static enum keydb_result run(struct keydb *db, sqlite3_stmt *st, const char *doing, struct detail *why)
{
    int rc = sqlite3_step(st);
    enum keydb_result r = rc == SQLITE_DONE ? KEYDB_OK : keydb_fault(db, rc, doing, why);
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    return r;
}

static enum keydb_result simple(struct keydb *db, enum keydb_sql which, const char *doing, struct detail *why)
{
    return run(db, db->statement[which], doing, why);
}

enum keydb_result keydb_version(struct keydb *db, int64_t *version, struct detail *why)
{
    sqlite3_stmt *st = db->statement[KEYDB_SQL_VERSION];
    enum keydb_result r = KEYDB_OK;
    int rc = sqlite3_step(st);
    if (rc == SQLITE_ROW)
        *version = sqlite3_column_int64(st, 0);
    else
        r = keydb_fault(db, rc, "look for changes", why);
    sqlite3_reset(st);
    return r;
}

enum keydb_result keydb_begin(struct keydb *db, bool write, struct detail *why)
{
    if (write && keydb_readonly(db)) {
        detail_set(why, "is read-only here");
        return KEYDB_FAILED;
    }
    return simple(db, write ? KEYDB_SQL_WRITE : KEYDB_SQL_READ, write ? "begin a change" : "read", why);
}

enum keydb_result keydb_commit(struct keydb *db, struct detail *why)
{
    return simple(db, KEYDB_SQL_COMMIT, "write", why);
}

void keydb_rollback(struct keydb *db)
{
    /* a failed statement may have ended the transaction already */
    if (!sqlite3_get_autocommit(db->sql) && simple(db, KEYDB_SQL_ROLLBACK, "roll back", NULL) != KEYDB_OK)
        sqlite3_exec(db->sql, "ROLLBACK", NULL, NULL, NULL);
}

static bool take_blob(sqlite3_stmt *st, int column, uint8_t *out, size_t n)
{
    const void *p = sqlite3_column_blob(st, column);
    if (sqlite3_column_type(st, column) != SQLITE_BLOB || (size_t)sqlite3_column_bytes(st, column) != n || !p)
        return false;
    memcpy(out, p, n);
    return true;
}

static bool take_number(sqlite3_stmt *st, int column, uint64_t *out)
{
    int64_t v = sqlite3_column_int64(st, column);
    *out = (uint64_t)v;
    return sqlite3_column_type(st, column) == SQLITE_INTEGER && v >= 0;
}

static bool take_text(sqlite3_stmt *st, int column, struct str *out)
{
    if (sqlite3_column_type(st, column) != SQLITE_TEXT)
        return false;
    out->p = (const char *)sqlite3_column_text(st, column);
    out->n = (size_t)sqlite3_column_bytes(st, column);
    return out->p && out->n > 0 && out->n <= KEY_TEXT_MAX;
}

/* A value of the wrong shape; or SQLite had no memory to hand it over, which says nothing of the database. */
static enum keydb_result misshapen(struct keydb *db, const char *what, struct detail *why)
{
    if ((sqlite3_errcode(db->sql) & 0xff) == SQLITE_NOMEM)
        return keydb_fault(db, SQLITE_NOMEM, "read", why);
    detail_set(why, "tampered with: %s is not as kmsgate writes it", what);
    return KEYDB_REFUSED;
}

enum keydb_result keydb_meta(struct keydb *db, struct keydb_meta *out, struct detail *why)
{
    sqlite3_stmt *st = db->statement[KEYDB_SQL_META];
    enum keydb_result r = KEYDB_OK;
    int rc = sqlite3_step(st);
    if (rc == SQLITE_DONE) {
        detail_set(why, "tampered with: the meta row is gone");
        r = KEYDB_REFUSED;
    } else if (rc != SQLITE_ROW) {
        r = keydb_fault(db, rc, "read the meta row", why);
    } else if (!take_number(st, 0, &out->version) || !take_number(st, 1, &out->totals.count) ||
               !take_number(st, 2, &out->totals.seq_sum) || !take_number(st, 3, &out->totals.last_seq) ||
               !take_blob(st, 4, out->salt, sizeof out->salt) || !take_blob(st, 5, out->check, sizeof out->check) ||
               !take_blob(st, 6, out->mac, sizeof out->mac)) {
        r = misshapen(db, "the meta row", why);
    }
    sqlite3_reset(st);
    return r;
}

enum keydb_result keydb_set_meta(struct keydb *db, const struct keydb_meta *m, struct detail *why)
{
    sqlite3_stmt *st = db->statement[KEYDB_SQL_SET_META];
    sqlite3_bind_int64(st, 1, (int64_t)m->version);
    sqlite3_bind_int64(st, 2, (int64_t)m->totals.count);
    sqlite3_bind_int64(st, 3, (int64_t)m->totals.seq_sum);
    sqlite3_bind_int64(st, 4, (int64_t)m->totals.last_seq);
    sqlite3_bind_blob(st, 5, m->salt, sizeof m->salt, SQLITE_STATIC);
    sqlite3_bind_blob(st, 6, m->check, sizeof m->check, SQLITE_STATIC);
    sqlite3_bind_blob(st, 7, m->mac, sizeof m->mac, SQLITE_STATIC);
    return run(db, st, "write the meta row", why); /* a column that was not bound is NULL, which the table refuses */
}

enum keydb_result keydb_totals(struct keydb *db, struct key_totals *out, struct detail *why)
{
    sqlite3_stmt *st = db->statement[KEYDB_SQL_TOTALS];
    enum keydb_result r = KEYDB_OK;
    int rc = sqlite3_step(st);
    if (rc == SQLITE_ROW) {
        out->count = (uint64_t)sqlite3_column_int64(st, 0);
        /* total() is a double and never fails; sum() would raise an error on an overflow that tampering makes */
        double sum = sqlite3_column_double(st, 1);
        out->seq_sum = sum >= 0 && sum < 9e15 ? (uint64_t)sum : UINT64_MAX;
        out->last_seq = (uint64_t)sqlite3_column_int64(st, 2);
    } else {
        r = keydb_fault(db, rc, "count the keys", why);
    }
    sqlite3_reset(st);
    return r;
}

static bool take_row(sqlite3_stmt *st, struct key_row *row)
{
    uint64_t type, state;
    if (!take_text(st, 0, &row->user) || !take_text(st, 1, &row->key.id) || !take_number(st, 2, &type) ||
        !take_number(st, 3, &state) || sqlite3_column_type(st, 4) != SQLITE_INTEGER ||
        !take_number(st, 5, &row->key.seq) || !take_blob(st, 6, row->key.sealed, sizeof row->key.sealed))
        return false;
    row->key.type = (enum key_type)type;
    row->key.state = (enum key_state)state;
    row->key.not_after = sqlite3_column_int64(st, 4);
    return type <= KEY_TRK && state <= KEY_REVOKED && row->key.seq > 0;
}

static enum keydb_result each_row(struct keydb *db, sqlite3_stmt *st, keydb_each each, void *arg, struct detail *why)
{
    enum keydb_result r = KEYDB_OK;
    struct key_row row;
    int rc;
    while ((rc = sqlite3_step(st)) == SQLITE_ROW && r == KEYDB_OK) {
        if (!take_row(st, &row)) {
            r = misshapen(db, "a row", why);
        } else if (!each(arg, &row, why)) {
            r = KEYDB_REFUSED;
        }
    }
    if (r == KEYDB_OK && rc != SQLITE_DONE)
        r = keydb_fault(db, rc, "read the keys", why);
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    return r;
}

enum keydb_result keydb_all(struct keydb *db, keydb_each each, void *arg, struct detail *why)
{
    return each_row(db, db->statement[KEYDB_SQL_ALL], each, arg, why);
}

enum keydb_result keydb_since(struct keydb *db, uint64_t seq, keydb_each each, void *arg, struct detail *why)
{
    sqlite3_stmt *st = db->statement[KEYDB_SQL_SINCE];
    sqlite3_bind_int64(st, 1, (int64_t)seq);
    return each_row(db, st, each, arg, why);
}

enum keydb_result keydb_of_user(struct keydb *db, struct str user, keydb_each each, void *arg, struct detail *why)
{
    sqlite3_stmt *st = db->statement[KEYDB_SQL_OF_USER];
    sqlite3_bind_text(st, 1, user.p, (int)user.n, SQLITE_STATIC);
    return each_row(db, st, each, arg, why);
}

enum keydb_result keydb_put(struct keydb *db, const struct key_row *row, struct detail *why)
{
    sqlite3_stmt *st = db->statement[KEYDB_SQL_PUT];
    sqlite3_bind_text(st, 1, row->user.p, (int)row->user.n, SQLITE_STATIC);
    sqlite3_bind_text(st, 2, row->key.id.p, (int)row->key.id.n, SQLITE_STATIC);
    sqlite3_bind_int64(st, 3, row->key.type);
    sqlite3_bind_int64(st, 4, row->key.state);
    sqlite3_bind_int64(st, 5, row->key.not_after);
    sqlite3_bind_int64(st, 6, (int64_t)row->key.seq);
    sqlite3_bind_blob(st, 7, row->key.sealed, sizeof row->key.sealed, SQLITE_STATIC);
    return run(db, st, "write a key", why);
}
