#include "keys/keydb_postgres.h"

/* Text is compared octet by octet everywhere ("C"), as kmsgate does. The one row of meta is written in place. */
static const char TABLES[] =
    "CREATE TABLE kmsgate.keys (user_uri text COLLATE \"C\" NOT NULL, id text COLLATE \"C\" NOT NULL, "
    "type smallint NOT NULL, state smallint NOT NULL, not_after bigint NOT NULL, since bigint NOT NULL, "
    "origin smallint NOT NULL, due smallint NOT NULL, keep_old bigint NOT NULL, sent text COLLATE \"C\" NOT NULL, "
    "master bigint NOT NULL, seq bigint NOT NULL, sealed bytea NOT NULL, PRIMARY KEY (user_uri, id));"
    "CREATE UNIQUE INDEX keys_seq ON kmsgate.keys (seq);"
    "CREATE TABLE kmsgate.removed (seq bigint PRIMARY KEY, user_uri text COLLATE \"C\" NOT NULL, "
    "id text COLLATE \"C\" NOT NULL);"
    "CREATE TABLE kmsgate.meta (one boolean PRIMARY KEY DEFAULT true CHECK (one), version bigint NOT NULL, "
    "keys bigint NOT NULL, last_seq bigint NOT NULL, salt bytea NOT NULL, key_check bytea NOT NULL, "
    "sums bytea NOT NULL) WITH (fillfactor = 10);"
    "ALTER TABLE kmsgate.keys ALTER COLUMN sealed SET STORAGE PLAIN";

/* Who makes the tables has this lock; the others wait, and find them made. */
#define MAKERS "(19789, 1195656)"
#define MAKING "make the tables"
enum { MAKERS_WAIT_MS = 10000 };

static bool take_there(void *arg, const struct pg_value *v, struct detail *why)
{
    bool *there = arg;
    *there = v[0].n == 1 && *v[0].p;
    (void)why;
    return true;
}

/* In a transaction, which is begun and not yet committed. REFUSED: somebody else has made them. */
static enum keydb_result make_tables(struct keydb_postgres *db, const struct keydb_meta *meta, struct detail *why)
{
    bool schema = false, tables = false;
    const struct pg_ask asks[] = {
        {.sql = "SELECT to_regnamespace('kmsgate') IS NOT NULL", .doing = MAKING, .row = take_there,
         .columns = 1, .arg = &schema},
        {.sql = "SELECT to_regclass('kmsgate.meta') IS NOT NULL", .doing = MAKING, .row = take_there,
         .columns = 1, .arg = &tables}};
    enum keydb_result r = pg_run(db, "BEGIN; SELECT pg_advisory_xact_lock" MAKERS, MAKING, why);
    if (r == KEYDB_OK)
        r = pg_ask(db, &asks[0], why);
    if (r == KEYDB_OK && schema)
        r = pg_ask(db, &asks[1], why);
    if (r == KEYDB_OK && tables)
        return KEYDB_REFUSED;
    if (r == KEYDB_OK && !schema)
        r = pg_run(db, "CREATE SCHEMA kmsgate", "make the schema `kmsgate`", why);
    if (r == KEYDB_OK)
        r = pg_run(db, TABLES, MAKING, why);
    if (r == KEYDB_OK)
        r = pg_write_meta(db, meta, "INSERT INTO kmsgate.meta (version, keys, last_seq, salt, key_check, sums) VALUES "
                                    "($1, $2, $3, $4, $5, $6)", why);
    return r;
}

enum keydb_result postgres_create(const char *where, const struct keydb_meta *meta, struct detail *why)
{
    struct keydb *base = postgres_open(where, why);
    struct keydb_postgres *db = (struct keydb_postgres *)base;
    if (!base)
        return KEYDB_FAILED;
    enum keydb_result r = pg_connect(db, why);
    if (r == KEYDB_OK)
        r = db->made ? KEYDB_REFUSED : make_tables(db, meta, why);
    if (r == KEYDB_OK)
        r = pg_commit(db, why);
    postgres_close(base);
    return r;
}

/* As long as the connection lives; then what another one has made meanwhile is seen. */
static enum keydb_result lock_makers(struct keydb_postgres *db, struct detail *why)
{
    const struct pg_ask lock = {.sql = "SET lock_timeout = 10000; SELECT pg_advisory_lock" MAKERS
                                       "; SET lock_timeout = 0",
                                .doing = MAKING, .ms = PG_ANSWER_MS + MAKERS_WAIT_MS};
    const enum keydb_result r = pg_ask(db, &lock, why);
    return r == KEYDB_OK ? pg_look(db, why) : r;
}

struct keydb *postgres_draft(const char *where, const struct keydb_meta *meta, bool *there, struct detail *why)
{
    struct keydb *base = postgres_open(where, why);
    struct keydb_postgres *db = (struct keydb_postgres *)base;
    *there = false;
    if (!base)
        return NULL;
    enum keydb_result r = pg_connect(db, why);
    if (r == KEYDB_OK && !db->made)
        r = lock_makers(db, why);
    if (r != KEYDB_OK || db->made) {
        *there = r == KEYDB_OK;
        postgres_close(base);
        return NULL;
    }
    db->draft = true;
    db->readonly = false;
    db->first = *meta;
    return base;
}

bool postgres_is_draft(const struct keydb *base)
{
    return ((const struct keydb_postgres *)base)->draft;
}

enum keydb_result pg_draft_begin(struct keydb_postgres *db, bool write, struct detail *why)
{
    enum keydb_result r = KEYDB_OK;
    if (write && !db->conn) {
        detail_set(why, "the connection broke; nothing was written, run this again");
        return KEYDB_AWAY;
    }
    if (write)
        r = make_tables(db, &db->first, why);
    if (r == KEYDB_REFUSED)
        detail_set(why, "another process has made the tables meanwhile; nothing was written, run this again");
    if (r == KEYDB_OK && write && !(db->hand = pg_hand_new())) {
        detail_set(why, "out of memory");
        r = KEYDB_FAILED;
    }
    if (r != KEYDB_OK) {
        pg_drop(db);
        return r == KEYDB_REFUSED ? KEYDB_FAILED : r;
    }
    db->in = write ? PG_WRITES : PG_READS;
    db->meta = db->first;
    db->known = true;
    return KEYDB_OK;
}

void pg_draft_made(struct keydb_postgres *db)
{
    struct detail why;
    if (!db->draft)
        return;
    db->draft = false;
    db->made = true;
    (void)!pg_run(db, "SELECT pg_advisory_unlock" MAKERS, "end", &why); /* else it ends with the connection */
}
