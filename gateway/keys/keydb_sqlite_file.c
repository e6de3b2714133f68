#include "keys/keydb_sqlite.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"

enum { APPLICATION_ID = 0x4b4d5347, /* "KMSG" */ PATIENCE_MS = 10000, PATH_LIMIT = 4096, SMALLEST = 512 /* a page */ };

/* STRICT: SQLite itself keeps the types. Users are found in the order of the primary key, changes by seq. */
static const char *const SCHEMA[][2] = {
    {"meta", "CREATE TABLE meta (one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER NOT NULL, "
             "keys INTEGER NOT NULL, last_seq INTEGER NOT NULL, salt BLOB NOT NULL, key_check BLOB NOT NULL, "
             "sums BLOB NOT NULL) STRICT"},
    {"keys", "CREATE TABLE keys (user TEXT NOT NULL, id TEXT NOT NULL, type INTEGER NOT NULL, state INTEGER NOT NULL, "
             "not_after INTEGER NOT NULL, since INTEGER NOT NULL, origin INTEGER NOT NULL, due INTEGER NOT NULL, "
             "keep_old INTEGER NOT NULL, sent TEXT NOT NULL, master INTEGER NOT NULL, seq INTEGER NOT NULL, "
             "sealed BLOB NOT NULL, PRIMARY KEY (user, id)) STRICT, WITHOUT ROWID"},
    {"keys_seq", "CREATE UNIQUE INDEX keys_seq ON keys (seq)"},
    {"removed", "CREATE TABLE removed (seq INTEGER PRIMARY KEY, user TEXT NOT NULL, id TEXT NOT NULL) STRICT"},
};
enum { SCHEMA_COUNT = sizeof SCHEMA / sizeof *SCHEMA };

/* SQLite gives names such as ":memory:" and "file:…" meanings of their own; none of them begins with a dot or slash. */
static bool plain_path(const char *path, struct buf *out)
{
    if (path[0] != '/')
        buf_z(out, "./");
    buf_z(out, path);
    return !out->failed;
}

struct keydb_sqlite *sqlite_attach_name(const char *name, struct detail *why)
{
    struct keydb_sqlite *db = calloc(1, sizeof *db);
    if (!db) {
        detail_set(why, "out of memory");
        return NULL;
    }
    db->db.kind = &KEYDB_SQLITE;
    db->folder = -1;
    int rc = sqlite3_open_v2(name, &db->sql, SQLITE_OPEN_READWRITE | SQLITE_OPEN_EXRESCODE, NULL);
    if (rc != SQLITE_OK) {
        detail_set(why, "cannot open: %s", db->sql ? sqlite3_errmsg(db->sql) : sqlite3_errstr(rc));
        sqlite_close(&db->db);
        return NULL;
    }
    sqlite3_busy_timeout(db->sql, PATIENCE_MS);
    /* The file may have been made by an attacker: nothing in it may act. */
    sqlite3_db_config(db->sql, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    sqlite3_db_config(db->sql, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    sqlite3_db_config(db->sql, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, NULL);
    sqlite3_db_config(db->sql, SQLITE_DBCONFIG_ENABLE_VIEW, 0, NULL);
    return db;
}

static struct keydb_sqlite *attach_file(const char *path, struct detail *why)
{
    struct buf name BUF_CLEANUP = BUF_INIT(PATH_LIMIT);
    if (plain_path(path, &name))
        return sqlite_attach_name(name.p, why);
    detail_set(why, "out of memory, or a path of more than %d bytes", PATH_LIMIT);
    return NULL;
}

enum keydb_result sqlite_execute(struct keydb_sqlite *db, const char *sql, const char *doing, struct detail *why)
{
    int rc = sqlite3_exec(db->sql, sql, NULL, NULL, NULL);
    return rc == SQLITE_OK ? KEYDB_OK : sqlite_fault(db, rc, doing, why);
}

/* cache_spill off: a large import locks readers out only while it commits. */
enum keydb_result sqlite_settle(struct keydb_sqlite *db, struct detail *why)
{
    return sqlite_execute(db, "PRAGMA cell_size_check = ON; PRAGMA synchronous = EXTRA; PRAGMA secure_delete = ON; "
                       "PRAGMA cache_spill = OFF; PRAGMA temp_store = MEMORY; PRAGMA mmap_size = 0", "open", why);
}

static enum keydb_result number(struct keydb_sqlite *db, const char *pragma, int64_t *out, struct detail *why)
{
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(db->sql, pragma, -1, &st, NULL);
    if (rc == SQLITE_OK && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        *out = sqlite3_column_int64(st, 0);
        rc = SQLITE_OK;
    }
    enum keydb_result r = rc == SQLITE_OK ? KEYDB_OK : sqlite_fault(db, rc, "read", why);
    sqlite3_finalize(st);
    return r;
}

/* Each table and index must be ours, word by word; one of another shape could answer with something else than rows. */
static bool is_ours(const char *name, const char *sql)
{
    if (!name)
        return false;
    for (size_t i = 0; i < SCHEMA_COUNT; i++)
        if (str_eq_z(str_z(name), SCHEMA[i][0]))
            return str_eq_z(str_z(sql), SCHEMA[i][1]);
    return str_starts(str_z(name), STR("sqlite_stat")); /* of ANALYZE; harmless */
}

static enum keydb_result check_schema(struct keydb_sqlite *db, struct detail *why)
{
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(db->sql, "SELECT name, sql FROM sqlite_schema", -1, &st, NULL), found = 0;
    enum keydb_result r = KEYDB_OK;
    while (rc == SQLITE_OK && r == KEYDB_OK && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        const char *name = (const char *)sqlite3_column_text(st, 0);
        if (!is_ours(name, (const char *)sqlite3_column_text(st, 1))) {
            detail_set(why, "tampered with: `%.60s` in it is not kmsgate's", name ? name : "");
            r = KEYDB_REFUSED;
        }
        found += !str_starts(str_z(name), STR("sqlite_"));
        rc = SQLITE_OK;
    }
    if (r == KEYDB_OK && rc != SQLITE_DONE)
        r = sqlite_fault(db, rc, "read the schema", why);
    if (r == KEYDB_OK && found != SCHEMA_COUNT) {
        detail_set(why, "tampered with: tables are missing");
        r = KEYDB_REFUSED;
    }
    sqlite3_finalize(st);
    return r;
}

int sqlite_schema_of(struct keydb_sqlite *db, struct detail *why)
{
    int64_t application = 0, version = 0;
    if (number(db, "PRAGMA application_id", &application, why) != KEYDB_OK ||
        number(db, "PRAGMA user_version", &version, why) != KEYDB_OK)
        return 0;
    if (application != APPLICATION_ID) {
        detail_set(why, "is an SQLite database, but not a key database of kmsgate");
        return 0;
    }
    if (version < 1 || version > KEYDB_SCHEMA) {
        detail_set(why, "has schema version %lld; this kmsgate knows version %d: it was made by a newer one",
                   (long long)version, KEYDB_SCHEMA);
        return 0;
    }
    return (int)version;
}

static bool check_kind(struct keydb_sqlite *db, struct detail *why)
{
    const int version = sqlite_schema_of(db, why);
    if (version && version != KEYDB_SCHEMA)
        detail_set(why, "has schema version %d; it is taken over at the next start or `kmsgate keys` command", version);
    return version == KEYDB_SCHEMA && check_schema(db, why) == KEYDB_OK;
}

/* SQLite reads what is missing of the last page as zeros, which may look like nothing was lost. */
static bool check_size(struct keydb_sqlite *db, const char *path, struct detail *why)
{
    int64_t page = 0, pages = 0;
    struct stat st;
    if (number(db, "PRAGMA page_size", &page, why) != KEYDB_OK ||
        number(db, "PRAGMA page_count", &pages, why) != KEYDB_OK)
        return false;
    if (stat(path, &st) == 0 && st.st_size >= page * pages)
        return true;
    detail_set(why, "damaged: the file was truncated");
    return false;
}

static bool has_group(gid_t group)
{
    enum { GROUPS_MAX = 256 };
    gid_t v[GROUPS_MAX];
    const int n = getgroups(GROUPS_MAX, v);
    for (int i = 0; i < n; i++)
        if (v[i] == group)
            return true;
    return false;
}

/* Its owner and its group are this process's; root is everybody. */
static bool is_own(const struct stat *st)
{
    if (geteuid() == 0)
        return true;
    return st->st_uid == geteuid() && (st->st_gid == getegid() || has_group(st->st_gid));
}

static bool check_file(const char *path, struct stat *st, struct detail *why)
{
    if (stat(path, st) != 0) {
        if (errno == ENOENT)
            detail_set(why, "there is no such file; `kmsgate keys import` makes it");
        else
            detail_set(why, "cannot open: %s", strerror(errno));
        return false;
    }
    if (!S_ISREG(st->st_mode)) {
        detail_set(why, "is not a file");
        return false;
    }
    if (st->st_mode & S_IRWXO) {
        detail_set(why, "all users of this machine may %s it (mode %04o); `chmod 600` it (640 or 660 for a group)",
                   st->st_mode & S_IWOTH ? "change" : "read", (unsigned)st->st_mode & 07777u);
        return false;
    }
    if ((st->st_mode & S_IWGRP) && !is_own(st)) {
        detail_set(why, "others may change it (mode %04o, owner %u, group %u, this process has %u and %u); `chmod 600` "
                        "it, or give it to this process's user and group",
                   (unsigned)st->st_mode & 07777u, (unsigned)st->st_uid, (unsigned)st->st_gid, (unsigned)geteuid(),
                   (unsigned)getegid());
        return false;
    }
    if (st->st_size < SMALLEST) { /* SQLite takes it for a database that nothing was written to yet */
        detail_set(why, "damaged, or no database: the file has %lld bytes", (long long)st->st_size);
        return false;
    }
    return true;
}

struct keydb_sqlite *sqlite_attach(const char *path, struct detail *why)
{
    struct stat st;
    struct keydb_sqlite *db = check_file(path, &st, why) ? attach_file(path, why) : NULL;
    if (!db)
        return NULL;
    db->device = st.st_dev;
    db->inode = st.st_ino;
    if (sqlite_settle(db, why) == KEYDB_OK)
        return db;
    sqlite_close(&db->db);
    return NULL;
}

struct keydb *sqlite_open(const char *path, struct detail *why)
{
    struct keydb_sqlite *db = sqlite_attach(path, why);
    if (!db)
        return NULL;
    if (check_kind(db, why) && check_size(db, path, why) && sqlite_prepare(db, why) == KEYDB_OK)
        return &db->db;
    sqlite_close(&db->db);
    return NULL;
}

void sqlite_close(struct keydb *base)
{
    struct keydb_sqlite *db = (struct keydb_sqlite *)base;
    for (size_t i = 0; i < KEYDB_SQL_COUNT; i++)
        sqlite3_finalize(db->statement[i]);
    sqlite3_close(db->sql);
    if (db->folder >= 0)
        close(db->folder); /* and with it the lock of a draft */
    free(db->draft);
    free(db);
}

bool sqlite_is_current(const struct keydb *base, const char *path)
{
    const struct keydb_sqlite *db = (const struct keydb_sqlite *)base;
    struct stat st;
    return stat(path, &st) == 0 && st.st_dev == db->device && st.st_ino == db->inode;
}

uint64_t sqlite_stamp(const struct keydb *base, const char *path)
{
    struct stat st;
    (void)base;
    if (stat(path, &st) != 0)
        return 0;
    return (uint64_t)st.st_mtim.tv_sec * 1000000007u + (uint64_t)st.st_mtim.tv_nsec * 31u + (uint64_t)st.st_size;
}

enum keydb_result sqlite_make_tables(struct keydb_sqlite *db, struct detail *why)
{
    struct buf sql BUF_CLEANUP = BUF_INIT(PATH_LIMIT);
    buf_printf(&sql, "PRAGMA application_id = %d; PRAGMA user_version = %d; ", APPLICATION_ID, KEYDB_SCHEMA);
    for (size_t i = 0; i < SCHEMA_COUNT; i++)
        buf_printf(&sql, "%s; ", SCHEMA[i][1]);
    return sql.failed ? KEYDB_FAILED : sqlite_execute(db, sql.p, "make the tables", why);
}
