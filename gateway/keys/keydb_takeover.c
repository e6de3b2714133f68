#include <stdlib.h>
#include <string.h>

#include "keys/keydb_sqlite.h"
#include "keys/keystore_inside.h"

/* The tables of version 1. */
static const char *const SCHEMA_V1[][2] = {
    {"meta", "CREATE TABLE meta (one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER NOT NULL, "
             "keys INTEGER NOT NULL, seq_sum INTEGER NOT NULL, last_seq INTEGER NOT NULL, salt BLOB NOT NULL, "
             "key_check BLOB NOT NULL, mac BLOB NOT NULL) STRICT"},
    {"keys", "CREATE TABLE keys (user TEXT NOT NULL, id TEXT NOT NULL, type INTEGER NOT NULL, state INTEGER NOT NULL, "
             "not_after INTEGER NOT NULL, seq INTEGER NOT NULL, sealed BLOB NOT NULL, PRIMARY KEY (user, id)) "
             "STRICT, WITHOUT ROWID"},
    {"keys_seq", "CREATE UNIQUE INDEX keys_seq ON keys (seq)"},
};

struct takeover {
    struct keydb_sqlite *db;
    struct seal *seal;
    struct seal_opener *opener;
    struct seal_v1_meta old;
    struct keydb_meta meta;
    struct seal_sum sums[2];
    int64_t now_us;
    uint64_t count, seq_sum, last_seq; /* as found in the rows */
    char user[KEY_TEXT_MAX];           /* of the row before, and its type; whether an active key of them was seen */
    size_t user_n;
    enum key_type type;
    bool active;
};

static enum keydb_result takeover_refuse(struct detail *why, const char *text)
{
    detail_set(why, "tampered with: %s", text);
    return KEYDB_REFUSED;
}

static enum keydb_result check_v1_schema(struct takeover *t, struct detail *why)
{
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(t->db->sql, "SELECT name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' "
                                            "ESCAPE '\\'", -1, &st, NULL);
    size_t found = 0, ours = 0;
    while (rc == SQLITE_OK && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        found++;
        for (size_t i = 0; i < 3; i++)
            ours += str_eq_z(str_z((const char *)sqlite3_column_text(st, 0)), SCHEMA_V1[i][0]) &&
                    str_eq_z(str_z((const char *)sqlite3_column_text(st, 1)), SCHEMA_V1[i][1]);
        rc = SQLITE_OK;
    }
    enum keydb_result r = rc == SQLITE_DONE ? KEYDB_OK : sqlite_fault(t->db, rc, "read the schema", why);
    sqlite3_finalize(st);
    if (r == KEYDB_OK && (found != 3 || ours != 3))
        return takeover_refuse(why, "its tables are not those of version 1");
    return r;
}

static enum keydb_result read_v1_meta(struct takeover *t, struct detail *why)
{
    sqlite3_stmt *st = NULL;
    struct seal_v1_meta *m = &t->old;
    int rc = sqlite3_prepare_v2(t->db->sql, "SELECT version, keys, seq_sum, last_seq, salt, key_check, mac FROM meta "
                                            "WHERE one = 1", -1, &st, NULL);
    enum keydb_result r = KEYDB_OK;
    if (rc == SQLITE_OK)
        rc = sqlite3_step(st);
    if (rc == SQLITE_DONE)
        r = takeover_refuse(why, "the meta row is gone");
    else if (rc != SQLITE_ROW)
        r = sqlite_fault(t->db, rc, "read the meta row", why);
    else if (!sqlite_take_number(st, 0, &m->version) || !sqlite_take_number(st, 1, &m->count) ||
             !sqlite_take_number(st, 2, &m->seq_sum) || !sqlite_take_number(st, 3, &m->last_seq) ||
             !sqlite_take_blob(st, 4, m->salt, sizeof m->salt) ||
             !sqlite_take_blob(st, 5, m->check, sizeof m->check) || !sqlite_take_blob(st, 6, m->mac, sizeof m->mac))
        r = takeover_refuse(why, "the meta row is not as kmsgate writes it");
    sqlite3_finalize(st);
    return r;
}

static enum keydb_result choose_seal(struct takeover *t, const struct secret_key *masters, size_t n,
                                     struct detail *why)
{
    for (size_t i = 0; i < n && !t->seal; i++) {
        if (!(t->seal = seal_new(&masters[i], t->old.salt))) {
            detail_set(why, "out of memory");
            return KEYDB_FAILED;
        }
        if (!secret_equal(t->old.check, seal_check(t->seal), SEAL_CHECK)) {
            seal_free(t->seal);
            t->seal = NULL;
        }
    }
    if (!t->seal) {
        detail_set(why, "the master key is not the one that this database was made with");
        return KEYDB_REFUSED;
    }
    if (!seal_v1_vouches(t->seal, &t->old) || t->old.version != 1)
        return takeover_refuse(why, "the meta row does not verify");
    if (!(t->opener = seal_opener_new(t->seal))) {
        detail_set(why, "out of memory");
        return KEYDB_FAILED;
    }
    return KEYDB_OK;
}

/* Rows come by user and type, the active key that goes on being one first. */
static void settle_state(struct takeover *t, struct key_row *row)
{
    if (!t->user_n || t->type != row->key.type || !str_eq((struct str){t->user, t->user_n}, row->user)) {
        memcpy(t->user, row->user.p, row->user.n);
        t->user_n = row->user.n;
        t->type = row->key.type;
        t->active = false;
    }
    if (row->key.state != KEY_ACTIVE)
        return;
    if (t->active)
        row->key.state = KEY_RETIRING;
    t->active = true;
}

static enum keydb_result take_over_row(struct takeover *t, struct key_row *row, struct detail *why)
{
    struct secret_key clear SECRET_CLEANUP = {{0}};
    struct seal_sum tag;
    if (!seal_v1_open(t->seal, row->user, &row->key, &clear)) {
        detail_set(why, "tampered with: %s does not verify", key_row_name(row).text);
        return KEYDB_REFUSED;
    }
    t->count++;
    t->seq_sum += row->key.seq;
    if (row->key.seq > t->last_seq)
        t->last_seq = row->key.seq;
    settle_state(t, row);
    row->key.since = t->now_us;
    row->key.origin = KEY_IMPORTED;
    row->key.keep_old = TIME_NONE;
    row->master = seal_name(t->seal);
    if (!seal_close(t->seal, row->user, &row->key, &clear) || !seal_opener_tag(t->opener, &row->key, &tag)) {
        detail_set(why, "OpenSSL failed");
        return KEYDB_FAILED;
    }
    seal_sum_add(&t->sums[0], &tag);
    return keydb_put(&t->db->db, row, why);
}

static bool take_v1_row(sqlite3_stmt *st, struct key_row *row)
{
    struct key *k = &row->key;
    uint64_t type, state;
    *row = (struct key_row){0};
    if (!sqlite_take_text(st, 0, &row->user) || !sqlite_take_text(st, 1, &k->id) ||
        !sqlite_take_number(st, 2, &type) || !sqlite_take_number(st, 3, &state) ||
        sqlite3_column_type(st, 4) != SQLITE_INTEGER || !sqlite_take_number(st, 5, &k->seq) ||
        !sqlite_take_blob(st, 6, k->sealed, sizeof k->sealed))
        return false;
    k->type = (enum key_type)type;
    k->state = (enum key_state)state;
    k->not_after = sqlite3_column_int64(st, 4);
    return type <= KEY_TRK && state <= KEY_REVOKED && k->seq > 0;
}

static enum keydb_result take_over_rows(struct takeover *t, struct detail *why)
{
    static const char SQL[] = "SELECT user, id, type, state, not_after, seq, sealed FROM keys_1 ORDER BY user, type, "
                              "state <> 0 OR (not_after >= 0 AND not_after < ?1), seq DESC";
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(t->db->sql, SQL, -1, &st, NULL);
    enum keydb_result r = KEYDB_OK;
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_int64(st, 1, t->now_us);
    while (rc == SQLITE_OK && r == KEYDB_OK && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        struct key_row row;
        rc = SQLITE_OK;
        r = take_v1_row(st, &row) ? take_over_row(t, &row, why)
                                  : takeover_refuse(why, "a row is not as kmsgate writes it");
    }
    if (r == KEYDB_OK && rc != SQLITE_DONE)
        r = sqlite_fault(t->db, rc, "read the keys", why);
    sqlite3_finalize(st);
    if (r == KEYDB_OK && (t->count != t->old.count || t->seq_sum != t->old.seq_sum || t->last_seq > t->old.last_seq))
        return takeover_refuse(why, "keys are missing, or were put back to an earlier state");
    return r;
}

static enum keydb_result write_all(struct takeover *t, struct detail *why)
{
    enum keydb_result r = sqlite_execute(t->db, "DROP INDEX keys_seq; ALTER TABLE keys RENAME TO keys_1; "
                                                "DROP TABLE meta", "take over the tables", why);
    if (r == KEYDB_OK)
        r = sqlite_make_tables(t->db, why);
    if (r == KEYDB_OK)
        r = sqlite_prepare(t->db, why);
    if (r == KEYDB_OK)
        r = take_over_rows(t, why);
    if (r == KEYDB_OK)
        r = sqlite_execute(t->db, "DROP TABLE keys_1", "take over the tables", why);
    if (r != KEYDB_OK)
        return r;
    t->meta = (struct keydb_meta){.version = KEYDB_SCHEMA, .count = t->count, .last_seq = t->old.last_seq};
    memcpy(t->meta.salt, t->old.salt, sizeof t->meta.salt);
    if (!keystore_meta_seal(t->seal, &t->meta, t->sums)) {
        detail_set(why, "OpenSSL failed");
        return KEYDB_FAILED;
    }
    return keydb_set_meta(&t->db->db, &t->meta, why);
}

/* One transaction: another process sees the old database or the new one, and so does who comes after a crash. */
static enum keydb_result take_over(struct takeover *t, const struct secret_key *masters, size_t n, struct detail *why)
{
    if (sqlite3_db_readonly(t->db->sql, "main") == 1) {
        detail_set(why, "has schema version 1 and is read-only here: any `kmsgate keys` command that may write there "
                        "takes it over");
        return KEYDB_FAILED;
    }
    enum keydb_result r = sqlite_execute(t->db, "PRAGMA cache_spill = ON; BEGIN IMMEDIATE", "begin a change", why);
    if (r != KEYDB_OK)
        return r;
    const int version = sqlite_schema_of(t->db, why); /* another process may have been faster */
    if (version == KEYDB_SCHEMA)
        return KEYDB_OK;
    if (version != 1)
        return KEYDB_REFUSED;
    if ((r = check_v1_schema(t, why)) == KEYDB_OK && (r = read_v1_meta(t, why)) == KEYDB_OK &&
        (r = choose_seal(t, masters, n, why)) == KEYDB_OK && (r = write_all(t, why)) == KEYDB_OK)
        r = keydb_commit(&t->db->db, why);
    return r;
}

static enum keydb_result take_over_in(struct keydb_sqlite *db, const struct secret_key *masters, size_t n,
                                      struct detail *why)
{
    struct takeover *t = calloc(1, sizeof *t);
    if (!t) {
        detail_set(why, "out of memory");
        return KEYDB_FAILED;
    }
    t->now_us = time_now_us() / US_PER_S * US_PER_S;
    t->db = db;
    const enum keydb_result r = take_over(t, masters, n, why);
    seal_opener_free(t->opener);
    seal_free(t->seal);
    free(t);
    return r;
}

enum keydb_result sqlite_takeover(const char *path, const struct secret_key *masters, size_t n, struct detail *why)
{
    struct keydb_sqlite *db = sqlite_attach(path, why);
    const int version = db ? sqlite_schema_of(db, why) : 0;
    enum keydb_result r = version == KEYDB_SCHEMA ? KEYDB_OK : KEYDB_FAILED;
    if (version && version != KEYDB_SCHEMA)
        r = take_over_in(db, masters, n, why);
    if (db)
        sqlite_close(&db->db); /* which rolls back what was not committed */
    return r;
}

static struct keydb_sqlite *copy_to_memory(struct keydb_sqlite *from, struct detail *why)
{
    struct keydb_sqlite *to = sqlite_attach_name(":memory:", why);
    if (!to)
        return NULL;
    int rc = SQLITE_NOMEM;
    sqlite3_backup *copy = sqlite3_backup_init(to->sql, "main", from->sql, "main");
    if (copy) {
        rc = sqlite3_backup_step(copy, -1);
        sqlite3_backup_finish(copy);
    }
    to->device = from->device;
    to->inode = from->inode;
    if (rc == SQLITE_DONE && sqlite_settle(to, why) == KEYDB_OK)
        return to;
    if (rc != SQLITE_DONE)
        (void)!sqlite_fault(from, rc, "read", why);
    sqlite_close(&to->db);
    return NULL;
}

struct keydb *sqlite_preview(const char *path, const struct secret_key *masters, size_t n, bool *older,
                             struct detail *why)
{
    struct keydb_sqlite *file = sqlite_attach(path, why), *copy = NULL;
    const int version = file ? sqlite_schema_of(file, why) : 0;
    *older = version && version != KEYDB_SCHEMA;
    if (*older)
        copy = copy_to_memory(file, why);
    if (file)
        sqlite_close(&file->db);
    if (version == KEYDB_SCHEMA)
        return sqlite_open(path, why);
    if (!copy || take_over_in(copy, masters, n, why) == KEYDB_OK)
        return copy ? &copy->db : NULL;
    sqlite_close(&copy->db);
    return NULL;
}
