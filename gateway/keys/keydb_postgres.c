#include "keys/keydb_postgres.h"

#include <stdlib.h>
#include <string.h>

#include "base/secret.h"

#define META "SELECT version, keys, last_seq, salt, key_check, sums FROM kmsgate.meta WHERE one"
#define ROW "SELECT " PG_COLUMNS " FROM kmsgate.keys"
enum { META_COLUMNS = 6 };
static const Oid META_TYPES[META_COLUMNS] = {PG_INT8, PG_INT8, PG_INT8, PG_BYTEA, PG_BYTEA, PG_BYTEA};
static const Oid NUMBER[] = {PG_INT8}, TEXT_AND_NUMBER[] = {PG_TEXT, PG_INT8},
                 NAME_AND_NUMBER[] = {PG_TEXT, PG_TEXT, PG_INT8};

/* Every db of this kind is one of these. */
static struct keydb_postgres *postgres_own(struct keydb *db)
{
    return (struct keydb_postgres *)db;
}

/* A draft has no rows yet, and no tables. */
static bool unmade(const struct keydb_postgres *db)
{
    return db->draft && db->in != PG_WRITES;
}

void postgres_close(struct keydb *base)
{
    struct keydb_postgres *db = postgres_own(base);
    pg_drop(db);
    pg_target_free(db->target);
    free(db);
}

/* Nobody is asked yet: a database that is away now is one all the same. */
struct keydb *postgres_open(const char *where, struct detail *why)
{
    struct keydb_postgres *db = calloc(1, sizeof *db);
    detail_set(why, "out of memory");
    if (!db)
        return NULL;
    db->db.kind = &KEYDB_POSTGRES;
    db->patience_ms = PG_PATIENCE_MS;
    if ((db->target = pg_target_new(where, why)))
        return &db->db;
    postgres_close(&db->db);
    return NULL;
}

static bool postgres_is_current(const struct keydb *base, const char *where)
{
    (void)base, (void)where;
    return true; /* what became of it is told by its meta row */
}

static bool postgres_readonly(const struct keydb *base)
{
    return ((const struct keydb_postgres *)base)->readonly;
}

static void postgres_identity(const struct keydb *base, uint64_t out[2])
{
    memcpy(out, ((const struct keydb_postgres *)base)->meta.salt, 2 * sizeof *out);
}

static void postgres_patience(struct keydb *base, int ms)
{
    postgres_own(base)->patience_ms = ms > 0 ? ms : PG_PATIENCE_MS;
}

static bool take_meta(void *arg, const struct pg_value *v, struct detail *why)
{
    struct keydb_postgres *db = arg;
    struct keydb_meta *m = &db->meta;
    db->known = !db->known && pg_take_number(v[0], &m->version) && pg_take_number(v[1], &m->count) &&
                pg_take_number(v[2], &m->last_seq) && pg_take_bytes(v[3], m->salt, sizeof m->salt) &&
                pg_take_bytes(v[4], m->check, sizeof m->check) && pg_take_bytes(v[5], m->sums, sizeof m->sums);
    if (!db->known)
        detail_set(why, "tampered with: the meta row is not as kmsgate writes it");
    return db->known;
}

/* The row as the transaction sees it, or now. `wait_ms`: for who holds it. */
static enum keydb_result read_meta(struct keydb_postgres *db, const char *sql, int wait_ms, struct detail *why)
{
    const struct pg_ask ask = {.sql = sql, .doing = wait_ms ? "begin a change" : "read the meta row",
                               .row = take_meta, .columns = META_COLUMNS, .arg = db, .ms = PG_ANSWER_MS + wait_ms};
    db->known = false;
    const enum keydb_result r = pg_ask(db, &ask, why);
    if (r != KEYDB_OK || db->known)
        return r;
    detail_set(why, "tampered with: the meta row is gone");
    return KEYDB_REFUSED;
}

static enum keydb_result ready(struct keydb_postgres *db, struct detail *why)
{
    const enum keydb_result r = pg_connect(db, why);
    if (r != KEYDB_OK || db->made)
        return r;
    detail_set(why, PG_NO_TABLES);
    pg_drop(db); /* they may be there at the next look */
    return KEYDB_FAILED;
}

static enum keydb_result postgres_version(struct keydb *base, int64_t *version, struct detail *why)
{
    struct keydb_postgres *db = postgres_own(base);
    uint64_t hash = UINT64_C(14695981039346656037); /* FNV-1a: two states of the row differ in almost all of it */
    enum keydb_result r = db->in == PG_IDLE && !db->draft ? ready(db, why) : KEYDB_OK;
    if (unmade(db))
        db->meta = db->first;
    else if (r == KEYDB_OK && (db->in == PG_IDLE || !db->known))
        r = read_meta(db, META, 0, why);
    const struct keydb_meta *m = &db->meta;
    const struct str parts[] = {{(const char *)&m->version, sizeof m->version},
                                {(const char *)&m->count, sizeof m->count},
                                {(const char *)&m->last_seq, sizeof m->last_seq},
                                {(const char *)m->salt, sizeof m->salt}, {(const char *)m->check, sizeof m->check},
                                {(const char *)m->sums, sizeof m->sums}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        for (size_t k = 0; k < parts[i].n; k++)
            hash = (hash ^ (unsigned char)parts[i].p[k]) * UINT64_C(1099511628211);
    *version = (int64_t)(hash >> 1);
    return r;
}

static enum keydb_result postgres_begin(struct keydb *base, bool write, struct detail *why)
{
    struct keydb_postgres *db = postgres_own(base);
    char lock[160];
    enum keydb_result r = db->draft ? pg_draft_begin(db, write, why) : ready(db, why);
    if (r != KEYDB_OK || db->draft)
        return r;
    if (write && db->readonly) {
        detail_set(why, "cannot be written to: this role may only read, or the server is a standby");
        pg_drop(db); /* it may be another server at the next look */
        return KEYDB_FAILED;
    }
    snprintf(lock, sizeof lock, "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL lock_timeout = %d",
             db->patience_ms);
    r = pg_run(db, write ? lock : "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", "begin", why);
    if (r != KEYDB_OK)
        return r;
    db->in = write ? PG_WRITES : PG_READS;
    r = write ? read_meta(db, META " FOR UPDATE", db->patience_ms, why) : read_meta(db, META, 0, why);
    if (r == KEYDB_OK && write && !(db->hand = pg_hand_new())) {
        detail_set(why, "out of memory");
        r = KEYDB_FAILED;
    }
    return r;
}

static void postgres_end(struct keydb_postgres *db)
{
    db->in = PG_IDLE;
    db->known = false;
    pg_hand_free(db->hand);
    db->hand = NULL;
}

static enum keydb_result postgres_commit(struct keydb *base, struct detail *why)
{
    struct keydb_postgres *db = postgres_own(base);
    enum keydb_result r = unmade(db) ? KEYDB_OK : pg_hand_flush(db, why);
    if (r == KEYDB_OK && !unmade(db))
        r = pg_commit(db, why);
    if (r == KEYDB_OK && db->in == PG_WRITES)
        pg_draft_made(db);
    if (r == KEYDB_OK)
        postgres_end(db);
    else
        pg_drop(db);
    return r;
}

static void postgres_rollback(struct keydb *base)
{
    struct keydb_postgres *db = postgres_own(base);
    struct detail why;
    if (db->in == PG_IDLE)
        return;
    if (db->conn && !unmade(db) && pg_run(db, "ROLLBACK", "roll back", &why) != KEYDB_OK && db->conn)
        pg_drop(db);
    postgres_end(db);
}

static enum keydb_result postgres_meta(struct keydb *base, struct keydb_meta *out, struct detail *why)
{
    struct keydb_postgres *db = postgres_own(base);
    const bool there = unmade(db) || (db->known && db->in != PG_IDLE);
    const enum keydb_result r = there ? KEYDB_OK : read_meta(db, META, 0, why);
    *out = unmade(db) ? db->first : db->meta;
    return r;
}

enum keydb_result pg_write_meta(struct keydb_postgres *db, const struct keydb_meta *m, const char *sql,
                                struct detail *why)
{
    char numbers[3][8];
    pg_put_number(m->version, numbers[0]);
    pg_put_number(m->count, numbers[1]);
    pg_put_number(m->last_seq, numbers[2]);
    const struct pg_ask ask = {.sql = sql, .doing = "write the meta row", .n = META_COLUMNS, .types = META_TYPES,
                               .values = {{numbers[0], 8}, {numbers[1], 8}, {numbers[2], 8},
                                          {(const char *)m->salt, sizeof m->salt},
                                          {(const char *)m->check, sizeof m->check},
                                          {(const char *)m->sums, sizeof m->sums}}};
    db->known = false;
    return pg_ask(db, &ask, why);
}

static enum keydb_result postgres_set_meta(struct keydb *base, const struct keydb_meta *meta, struct detail *why)
{
    return pg_write_meta(postgres_own(base), meta,
                         "UPDATE kmsgate.meta SET version = $1, keys = $2, last_seq = $3, salt = $4, "
                         "key_check = $5, sums = $6 WHERE one", why);
}

static enum keydb_result postgres_all(struct keydb *base, keydb_each each, void *arg, struct detail *why)
{
    struct keydb_postgres *db = postgres_own(base);
    if (unmade(db))
        return KEYDB_OK;
    const enum keydb_result r = pg_hand_flush(db, why);
    return r == KEYDB_OK ? pg_copy_out(db, "COPY kmsgate.keys (" PG_COLUMNS ") TO STDOUT (FORMAT binary)", each, arg,
                                       why) : r;
}

/* Rows in the order of their seq, each once: so many as there are changes, whatever the server sends. */
struct row_taker {
    keydb_each each;
    void *arg;
    uint64_t seq;
};

static bool take_row(void *arg, const struct pg_value *v, struct detail *why)
{
    struct row_taker *t = arg;
    struct key_row row;
    if (!pg_take_row(v, &row) || row.key.seq <= t->seq)
        return pg_row_wrong(&row, why);
    t->seq = row.key.seq;
    return t->each(t->arg, &row, why);
}

static enum keydb_result postgres_since(struct keydb *base, uint64_t seq, keydb_each each, void *arg,
                                        struct detail *why)
{
    struct row_taker t = {each, arg, seq};
    char number[8];
    pg_put_number(seq, number);
    const struct pg_ask ask = {.sql = ROW " WHERE seq > $1 ORDER BY seq", .doing = "read the keys", .n = 1,
                               .types = NUMBER, .values = {{number, 8}}, .row = take_row,
                               .columns = PG_COLUMN_COUNT, .arg = &t, .ms = PG_STALL_MS};
    return unmade(postgres_own(base)) ? KEYDB_OK : pg_ask(postgres_own(base), &ask, why);
}

struct name_taker {
    keydb_each_removed each;
    void *arg;
    size_t left;
    bool ids;
};

static bool take_name(void *arg, const struct pg_value *v, struct detail *why)
{
    struct name_taker *t = arg;
    struct str user, id = STR_MISSING;
    if (!t->left-- || !pg_take_text(v[0], &user) || (t->ids && !pg_take_text(v[1], &id))) {
        detail_set(why, "tampered with: a name is not as kmsgate writes it");
        return false;
    }
    return t->each(t->arg, user, id, why);
}

static enum keydb_result postgres_removed(struct keydb *base, uint64_t seq, keydb_each_removed each, void *arg,
                                          struct detail *why)
{
    struct name_taker t = {each, arg, KEYDB_REMOVALS, true};
    char number[8];
    pg_put_number(seq, number);
    const struct pg_ask ask = {.sql = "SELECT DISTINCT r.user_uri, r.id FROM kmsgate.removed AS r WHERE r.seq > $1 AND "
                                      "NOT EXISTS (SELECT 1 FROM kmsgate.keys AS k WHERE k.user_uri = r.user_uri AND "
                                      "k.id = r.id)",
                               .doing = "read the keys", .n = 1, .types = NUMBER, .values = {{number, 8}},
                               .row = take_name, .columns = 2, .arg = &t, .ms = PG_STALL_MS};
    return unmade(postgres_own(base)) ? KEYDB_OK : pg_ask(postgres_own(base), &ask, why);
}

/* Outside a writer's transaction nothing is kept at hand. */
static enum keydb_result postgres_of_user(struct keydb *base, struct str user, keydb_each each, void *arg,
                                          struct detail *why)
{
    struct keydb_postgres *db = postgres_own(base);
    struct detail d;
    const bool reads = db->in == PG_READS;
    if (unmade(db))
        return KEYDB_OK;
    if (reads && !(db->hand = pg_hand_new())) {
        detail_set(why, "out of memory");
        return KEYDB_FAILED;
    }
    if (!db->hand) {
        *why = db->away;
        return KEYDB_AWAY;
    }
    const enum keydb_result r = pg_hand_of_user(db, user, each, arg, why ? why : &d);
    if (reads) {
        pg_hand_free(db->hand);
        db->hand = NULL;
    }
    return r;
}

static enum keydb_result postgres_fetch(struct keydb *base, const struct str *users, size_t n, struct detail *why)
{
    return postgres_own(base)->hand ? pg_hand_fetch(postgres_own(base), users, n, why) : KEYDB_OK;
}

static enum keydb_result postgres_users(struct keydb *base, struct str after, size_t limit, keydb_each_removed each,
                                        void *arg, struct detail *why)
{
    struct keydb_postgres *db = postgres_own(base);
    struct name_taker t = {each, arg, limit, false};
    char number[8];
    pg_put_number(limit, number);
    const struct pg_ask ask = {.sql = "SELECT DISTINCT user_uri FROM kmsgate.keys WHERE user_uri > $1 "
                                      "ORDER BY user_uri LIMIT $2",
                               .doing = "read the keys", .n = 2, .types = TEXT_AND_NUMBER,
                               .values = {{after.p ? after.p : "", (int)after.n}, {number, 8}}, .row = take_name,
                               .columns = 1, .arg = &t};
    if (unmade(db))
        return KEYDB_OK;
    const enum keydb_result r = pg_hand_flush(db, why);
    return r == KEYDB_OK ? pg_ask(db, &ask, why) : r;
}

static enum keydb_result postgres_put(struct keydb *base, const struct key_row *row, struct detail *why)
{
    return postgres_own(base)->hand ? pg_hand_put(postgres_own(base), row, why) : KEYDB_AWAY;
}

static enum keydb_result postgres_remove(struct keydb *base, const struct key_row *row, struct detail *why)
{
    struct keydb_postgres *db = postgres_own(base);
    const uint64_t seq = row->key.seq;
    char number[8];
    pg_put_number(seq, number);
    const struct pg_value user = {row->user.p, (int)row->user.n}, id = {row->key.id.p, (int)row->key.id.n};
    const struct pg_ask asks[] = {
        {.sql = "DELETE FROM kmsgate.keys WHERE user_uri = $1 AND id = $2", .doing = "remove a key", .n = 2,
         .types = NAME_AND_NUMBER, .values = {user, id}},
        {.sql = "INSERT INTO kmsgate.removed (user_uri, id, seq) VALUES ($1, $2, $3)", .doing = "remove a key", .n = 3,
         .types = NAME_AND_NUMBER, .values = {user, id, {number, 8}}}};
    enum keydb_result r = pg_hand_remove(db, row, why);
    for (size_t i = 0; i < 2 && r == KEYDB_OK; i++)
        r = pg_ask(db, &asks[i], why);
    if (r != KEYDB_OK || seq <= KEYDB_REMOVALS)
        return r;
    pg_put_number(seq - KEYDB_REMOVALS, number);
    const struct pg_ask forget = {.sql = "DELETE FROM kmsgate.removed WHERE seq <= $1", .doing = "remove a key",
                                  .n = 1, .types = NUMBER, .values = {{number, 8}}};
    return pg_ask(db, &forget, why);
}

const struct keydb_kind KEYDB_POSTGRES = {
    .scheme = "postgresql://",
    .shared = true,
    .create = postgres_create,
    .draft = postgres_draft,
    .is_draft = postgres_is_draft,
    .open = postgres_open,
    .close = postgres_close,
    .lint = keydb_postgres_lint,
    .is_current = postgres_is_current,
    .readonly = postgres_readonly,
    .identity = postgres_identity,
    .patience = postgres_patience,
    .say = postgres_say,
    .words = postgres_words,
    .version = postgres_version,
    .begin = postgres_begin,
    .commit = postgres_commit,
    .rollback = postgres_rollback,
    .meta = postgres_meta,
    .set_meta = postgres_set_meta,
    .all = postgres_all,
    .since = postgres_since,
    .removed = postgres_removed,
    .of_user = postgres_of_user,
    .fetch = postgres_fetch,
    .users = postgres_users,
    .put = postgres_put,
    .remove = postgres_remove,
};
