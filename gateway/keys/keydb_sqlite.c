#include "keys/keydb_sqlite.h"

#include <string.h>

#define COLUMNS "user, id, type, state, not_after, since, origin, due, keep_old, sent, master, seq, sealed"
#define ROW "SELECT " COLUMNS " FROM keys"
static const char *const STATEMENTS[] = {
    [KEYDB_SQL_VERSION] = "PRAGMA data_version",
    [KEYDB_SQL_READ] = "BEGIN",
    [KEYDB_SQL_WRITE] = "BEGIN IMMEDIATE",
    [KEYDB_SQL_COMMIT] = "COMMIT",
    [KEYDB_SQL_ROLLBACK] = "ROLLBACK",
    [KEYDB_SQL_META] = "SELECT version, keys, last_seq, salt, key_check, sums FROM meta WHERE one = 1",
    [KEYDB_SQL_SET_META] = "INSERT OR REPLACE INTO meta (version, keys, last_seq, salt, key_check, sums, one) "
                           "VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1)",
    [KEYDB_SQL_ALL] = ROW,
    [KEYDB_SQL_SINCE] = ROW " WHERE seq > ?1 ORDER BY seq",
    [KEYDB_SQL_REMOVED] = "SELECT DISTINCT r.user, r.id FROM removed AS r WHERE r.seq > ?1 AND NOT EXISTS "
                          "(SELECT 1 FROM keys AS k WHERE k.user = r.user AND k.id = r.id)",
    [KEYDB_SQL_OF_USER] = ROW " WHERE user = ?1",
    [KEYDB_SQL_USERS] = "SELECT DISTINCT user FROM keys WHERE user > ?1 ORDER BY user LIMIT ?2",
    [KEYDB_SQL_PUT] = "INSERT INTO keys (" COLUMNS ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) "
                      "ON CONFLICT (user, id) DO UPDATE SET type = ?3, state = ?4, not_after = ?5, since = ?6, "
                      "origin = ?7, due = ?8, keep_old = ?9, sent = ?10, master = ?11, seq = ?12, sealed = ?13",
    [KEYDB_SQL_REMOVE] = "DELETE FROM keys WHERE user = ?1 AND id = ?2",
    [KEYDB_SQL_NOTE] = "INSERT INTO removed (user, id, seq) VALUES (?1, ?2, ?3)",
    [KEYDB_SQL_FORGET] = "DELETE FROM removed WHERE seq <= ?1",
};
_Static_assert(sizeof STATEMENTS / sizeof *STATEMENTS == KEYDB_SQL_COUNT, "a text for each statement");

/* Every db of this kind is one of these. */
static struct keydb_sqlite *sqlite_own(struct keydb *db)
{
    return (struct keydb_sqlite *)db;
}

enum keydb_result sqlite_fault(struct keydb_sqlite *db, int rc, const char *doing, struct detail *why)
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

enum keydb_result sqlite_prepare(struct keydb_sqlite *db, struct detail *why)
{
    for (size_t i = 0; i < KEYDB_SQL_COUNT; i++) {
        int rc = sqlite3_prepare_v3(db->sql, STATEMENTS[i], -1, SQLITE_PREPARE_PERSISTENT, &db->statement[i], NULL);
        if (rc != SQLITE_OK)
            return sqlite_fault(db, rc, "prepare a statement", why);
    }
    return KEYDB_OK;
}

/* Runs a statement that returns no row, and whose values are bound. */
static enum keydb_result sqlite_run(struct keydb_sqlite *db, sqlite3_stmt *st, const char *doing, struct detail *why)
{
    int rc = sqlite3_step(st);
    enum keydb_result r = rc == SQLITE_DONE ? KEYDB_OK : sqlite_fault(db, rc, doing, why);
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    return r;
}

static enum keydb_result simple(struct keydb_sqlite *db, enum keydb_sql which, const char *doing, struct detail *why)
{
    return sqlite_run(db, db->statement[which], doing, why);
}

static enum keydb_result sqlite_version(struct keydb *base, int64_t *version, struct detail *why)
{
    struct keydb_sqlite *db = sqlite_own(base);
    sqlite3_stmt *st = db->statement[KEYDB_SQL_VERSION];
    enum keydb_result r = KEYDB_OK;
    int rc = sqlite3_step(st);
    if (rc == SQLITE_ROW)
        *version = sqlite3_column_int64(st, 0);
    else
        r = sqlite_fault(db, rc, "look for changes", why);
    sqlite3_reset(st);
    return r;
}

static enum keydb_result sqlite_begin(struct keydb *base, bool write, struct detail *why)
{
    struct keydb_sqlite *db = sqlite_own(base);
    if (write && sqlite3_db_readonly(db->sql, "main") == 1) {
        detail_set(why, "is read-only here");
        return KEYDB_FAILED;
    }
    return simple(db, write ? KEYDB_SQL_WRITE : KEYDB_SQL_READ, write ? "begin a change" : "read", why);
}

static enum keydb_result sqlite_commit(struct keydb *base, struct detail *why)
{
    struct keydb_sqlite *db = sqlite_own(base);
    const enum keydb_result r = simple(db, KEYDB_SQL_COMMIT, "write", why);
    return r == KEYDB_OK && db->draft ? sqlite_publish(db, why) : r;
}

static void sqlite_rollback(struct keydb *base)
{
    struct keydb_sqlite *db = sqlite_own(base);
    /* a failed statement may have ended the transaction already */
    if (!sqlite3_get_autocommit(db->sql) && simple(db, KEYDB_SQL_ROLLBACK, "roll back", NULL) != KEYDB_OK)
        sqlite3_exec(db->sql, "ROLLBACK", NULL, NULL, NULL);
}

bool sqlite_take_blob(sqlite3_stmt *st, int column, uint8_t *out, size_t n)
{
    const void *p = sqlite3_column_blob(st, column);
    if (sqlite3_column_type(st, column) != SQLITE_BLOB || (size_t)sqlite3_column_bytes(st, column) != n || !p)
        return false;
    memcpy(out, p, n);
    return true;
}

bool sqlite_take_number(sqlite3_stmt *st, int column, uint64_t *out)
{
    int64_t v = sqlite3_column_int64(st, column);
    *out = (uint64_t)v;
    return sqlite3_column_type(st, column) == SQLITE_INTEGER && v >= 0;
}

bool sqlite_take_text(sqlite3_stmt *st, int column, struct str *out)
{
    if (sqlite3_column_type(st, column) != SQLITE_TEXT)
        return false;
    out->p = (const char *)sqlite3_column_text(st, column);
    out->n = (size_t)sqlite3_column_bytes(st, column);
    return out->p && out->n > 0 && out->n <= KEY_TEXT_MAX;
}

/* A value of the wrong shape; or SQLite had no memory to hand it over, which says nothing of the database. */
static enum keydb_result misshapen(struct keydb_sqlite *db, const char *what, struct detail *why)
{
    if ((sqlite3_errcode(db->sql) & 0xff) == SQLITE_NOMEM)
        return sqlite_fault(db, SQLITE_NOMEM, "read", why);
    detail_set(why, "tampered with: %s is not as kmsgate writes it", what);
    return KEYDB_REFUSED;
}

static enum keydb_result sqlite_meta(struct keydb *base, struct keydb_meta *out, struct detail *why)
{
    struct keydb_sqlite *db = sqlite_own(base);
    sqlite3_stmt *st = db->statement[KEYDB_SQL_META];
    enum keydb_result r = KEYDB_OK;
    int rc = sqlite3_step(st);
    if (rc == SQLITE_DONE) {
        detail_set(why, "tampered with: the meta row is gone");
        r = KEYDB_REFUSED;
    } else if (rc != SQLITE_ROW) {
        r = sqlite_fault(db, rc, "read the meta row", why);
    } else if (!sqlite_take_number(st, 0, &out->version) || !sqlite_take_number(st, 1, &out->count) ||
               !sqlite_take_number(st, 2, &out->last_seq) || !sqlite_take_blob(st, 3, out->salt, sizeof out->salt) ||
               !sqlite_take_blob(st, 4, out->check, sizeof out->check) ||
               !sqlite_take_blob(st, 5, out->sums, sizeof out->sums)) {
        r = misshapen(db, "the meta row", why);
    }
    sqlite3_reset(st);
    return r;
}

static enum keydb_result sqlite_set_meta(struct keydb *base, const struct keydb_meta *m, struct detail *why)
{
    struct keydb_sqlite *db = sqlite_own(base);
    sqlite3_stmt *st = db->statement[KEYDB_SQL_SET_META];
    sqlite3_bind_int64(st, 1, (int64_t)m->version);
    sqlite3_bind_int64(st, 2, (int64_t)m->count);
    sqlite3_bind_int64(st, 3, (int64_t)m->last_seq);
    sqlite3_bind_blob(st, 4, m->salt, sizeof m->salt, SQLITE_STATIC);
    sqlite3_bind_blob(st, 5, m->check, sizeof m->check, SQLITE_STATIC);
    sqlite3_bind_blob(st, 6, m->sums, sizeof m->sums, SQLITE_STATIC);
    /* a column that was not bound is NULL, which the table refuses */
    return sqlite_run(db, st, "write the meta row", why);
}

/* Times may be TIME_NONE, the most negative number. */
static bool take_time(sqlite3_stmt *st, int column, int64_t *out)
{
    *out = sqlite3_column_int64(st, column);
    return sqlite3_column_type(st, column) == SQLITE_INTEGER && (*out >= 0 || *out == TIME_NONE);
}

static bool take_sent(sqlite3_stmt *st, int column, struct str *out)
{
    if (sqlite3_column_type(st, column) != SQLITE_TEXT)
        return false;
    out->p = (const char *)sqlite3_column_text(st, column);
    out->n = (size_t)sqlite3_column_bytes(st, column);
    return out->p && out->n <= KEY_SENT_MAX;
}

static bool take_row(sqlite3_stmt *st, struct key_row *row)
{
    struct key *k = &row->key;
    uint64_t type, state, origin, due, master;
    *row = (struct key_row){0};
    if (!sqlite_take_text(st, 0, &row->user) || !sqlite_take_text(st, 1, &k->id) ||
        !sqlite_take_number(st, 2, &type) || !sqlite_take_number(st, 3, &state) ||
        sqlite3_column_type(st, 4) != SQLITE_INTEGER || !take_time(st, 5, &k->since) ||
        !sqlite_take_number(st, 6, &origin) || !sqlite_take_number(st, 7, &due) || !take_time(st, 8, &k->keep_old) ||
        !take_sent(st, 9, &k->sent) || !sqlite_take_number(st, 10, &master) || !sqlite_take_number(st, 11, &k->seq) ||
        !sqlite_take_blob(st, 12, k->sealed, sizeof k->sealed))
        return false;
    k->type = (enum key_type)type;
    k->state = (enum key_state)state;
    k->origin = (enum key_origin)origin;
    k->due = due != 0;
    k->not_after = sqlite3_column_int64(st, 4);
    row->master = (uint32_t)master;
    return type <= KEY_TRK && state <= KEY_PRUNED && origin <= KEY_LEARNT && due <= 1 && master <= UINT32_MAX &&
           k->seq > 0;
}

static enum keydb_result each_row(struct keydb_sqlite *db, sqlite3_stmt *st, keydb_each each, void *arg,
                                  struct detail *why)
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
        r = sqlite_fault(db, rc, "read the keys", why);
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    return r;
}

static enum keydb_result sqlite_all(struct keydb *base, keydb_each each, void *arg, struct detail *why)
{
    struct keydb_sqlite *db = sqlite_own(base);
    return each_row(db, db->statement[KEYDB_SQL_ALL], each, arg, why);
}

static enum keydb_result sqlite_since(struct keydb *base, uint64_t seq, keydb_each each, void *arg, struct detail *why)
{
    struct keydb_sqlite *db = sqlite_own(base);
    sqlite3_stmt *st = db->statement[KEYDB_SQL_SINCE];
    sqlite3_bind_int64(st, 1, (int64_t)seq);
    return each_row(db, st, each, arg, why);
}

static enum keydb_result sqlite_of_user(struct keydb *base, struct str user, keydb_each each, void *arg,
                                        struct detail *why)
{
    struct keydb_sqlite *db = sqlite_own(base);
    sqlite3_stmt *st = db->statement[KEYDB_SQL_OF_USER];
    sqlite3_bind_text(st, 1, user.p, (int)user.n, SQLITE_STATIC);
    return each_row(db, st, each, arg, why);
}

static enum keydb_result each_name(struct keydb_sqlite *db, sqlite3_stmt *st, keydb_each_removed each, void *arg,
                                   struct detail *why)
{
    enum keydb_result r = KEYDB_OK;
    int rc;
    while ((rc = sqlite3_step(st)) == SQLITE_ROW && r == KEYDB_OK) {
        struct str user, id = STR_MISSING;
        if (!sqlite_take_text(st, 0, &user) || (sqlite3_column_count(st) > 1 && !sqlite_take_text(st, 1, &id)))
            r = misshapen(db, "a row", why);
        else if (!each(arg, user, id, why))
            r = KEYDB_REFUSED;
    }
    if (r == KEYDB_OK && rc != SQLITE_DONE)
        r = sqlite_fault(db, rc, "read the keys", why);
    sqlite3_reset(st);
    sqlite3_clear_bindings(st);
    return r;
}

static enum keydb_result sqlite_removed(struct keydb *base, uint64_t seq, keydb_each_removed each, void *arg,
                                        struct detail *why)
{
    sqlite3_stmt *st = sqlite_own(base)->statement[KEYDB_SQL_REMOVED];
    sqlite3_bind_int64(st, 1, (int64_t)seq);
    return each_name(sqlite_own(base), st, each, arg, why);
}

static enum keydb_result sqlite_users(struct keydb *base, struct str after, size_t limit, keydb_each_removed each,
                                      void *arg, struct detail *why)
{
    sqlite3_stmt *st = sqlite_own(base)->statement[KEYDB_SQL_USERS];
    sqlite3_bind_text(st, 1, after.p ? after.p : "", (int)after.n, SQLITE_STATIC);
    sqlite3_bind_int64(st, 2, (int64_t)limit);
    return each_name(sqlite_own(base), st, each, arg, why);
}

static void bind_name(sqlite3_stmt *st, const struct key_row *row)
{
    sqlite3_bind_text(st, 1, row->user.p, (int)row->user.n, SQLITE_STATIC);
    sqlite3_bind_text(st, 2, row->key.id.p, (int)row->key.id.n, SQLITE_STATIC);
}

static enum keydb_result sqlite_put(struct keydb *base, const struct key_row *row, struct detail *why)
{
    sqlite3_stmt *st = sqlite_own(base)->statement[KEYDB_SQL_PUT];
    const struct key *k = &row->key;
    bind_name(st, row);
    sqlite3_bind_int64(st, 3, k->type);
    sqlite3_bind_int64(st, 4, k->state);
    sqlite3_bind_int64(st, 5, k->not_after);
    sqlite3_bind_int64(st, 6, k->since);
    sqlite3_bind_int64(st, 7, k->origin);
    sqlite3_bind_int64(st, 8, k->due);
    sqlite3_bind_int64(st, 9, k->keep_old);
    sqlite3_bind_text(st, 10, k->sent.n ? k->sent.p : "", (int)k->sent.n, SQLITE_STATIC);
    sqlite3_bind_int64(st, 11, row->master);
    sqlite3_bind_int64(st, 12, (int64_t)k->seq);
    sqlite3_bind_blob(st, 13, k->sealed, sizeof k->sealed, SQLITE_STATIC);
    /* a column that was not bound is NULL, which the table refuses */
    return sqlite_run(sqlite_own(base), st, "write a key", why);
}

static enum keydb_result sqlite_remove(struct keydb *base, const struct key_row *row, struct detail *why)
{
    struct keydb_sqlite *db = sqlite_own(base);
    sqlite3_stmt *note = db->statement[KEYDB_SQL_NOTE], *forget = db->statement[KEYDB_SQL_FORGET];
    bind_name(db->statement[KEYDB_SQL_REMOVE], row);
    enum keydb_result r = sqlite_run(db, db->statement[KEYDB_SQL_REMOVE], "remove a key", why);
    if (r != KEYDB_OK)
        return r;
    bind_name(note, row);
    sqlite3_bind_int64(note, 3, (int64_t)row->key.seq);
    if ((r = sqlite_run(db, note, "remove a key", why)) != KEYDB_OK || row->key.seq <= KEYDB_REMOVALS)
        return r;
    sqlite3_bind_int64(forget, 1, (int64_t)(row->key.seq - KEYDB_REMOVALS));
    return sqlite_run(db, forget, "remove a key", why);
}

static bool sqlite_readonly(const struct keydb *base)
{
    return sqlite3_db_readonly(((const struct keydb_sqlite *)base)->sql, "main") == 1;
}

static void sqlite_identity(const struct keydb *base, uint64_t out[2])
{
    out[0] = ((const struct keydb_sqlite *)base)->device;
    out[1] = ((const struct keydb_sqlite *)base)->inode;
}

static void sqlite_patience(struct keydb *base, int ms)
{
    enum { USUAL_MS = 10000 };
    sqlite3_busy_timeout(sqlite_own(base)->sql, ms > 0 ? ms : USUAL_MS);
}

/* A writer holds the file's RESERVED lock from its begin on, and cannot commit while anybody reads. */
static bool sqlite_is_wanted(const struct keydb *base)
{
    sqlite3 *const sql = ((const struct keydb_sqlite *)base)->sql;
    sqlite3_file *file = NULL;
    int wanted = 0;
    return sqlite3_file_control(sql, "main", SQLITE_FCNTL_FILE_POINTER, &file) == SQLITE_OK && file && file->pMethods &&
           file->pMethods->xCheckReservedLock(file, &wanted) == SQLITE_OK && wanted;
}

const struct keydb_kind KEYDB_SQLITE = {
    .create = sqlite_create,
    .draft = sqlite_draft,
    .is_draft = sqlite_is_draft,
    .takeover = sqlite_takeover,
    .preview = sqlite_preview,
    .open = sqlite_open,
    .close = sqlite_close,
    .is_current = sqlite_is_current,
    .readonly = sqlite_readonly,
    .identity = sqlite_identity,
    .stamp = sqlite_stamp,
    .patience = sqlite_patience,
    .is_wanted = sqlite_is_wanted,
    .version = sqlite_version,
    .begin = sqlite_begin,
    .commit = sqlite_commit,
    .rollback = sqlite_rollback,
    .meta = sqlite_meta,
    .set_meta = sqlite_set_meta,
    .all = sqlite_all,
    .since = sqlite_since,
    .removed = sqlite_removed,
    .of_user = sqlite_of_user,
    .users = sqlite_users,
    .put = sqlite_put,
    .remove = sqlite_remove,
};
