#include <stdlib.h>
#include <string.h>

#include "keys/keydb_postgres.h"

enum {
    SLOTS = 1024,
    USERS_MAX = 2048, /* at hand, beside those that are fetched together */
    ROWS_MAX = 16384,
    FLUSH_AT = 1000,  /* rows that are not written yet */
    USER_ROWS = 100000,
    WIRE_MAX = 64 << 20
};

struct pg_kept {
    struct pg_kept *next;
    struct key_row row;
    bool unwritten;
    char text[];
};
struct pg_user {
    struct pg_user *next;
    struct pg_kept *rows;
    size_t name_n, n;
    char name[];
};
/* Whatever fails in the server's hands gives the connection up, and this with it. */
struct pg_hand {
    struct pg_user *slots[SLOTS];
    size_t users, rows, unwritten;
};

struct pg_hand *pg_hand_new(void)
{
    return calloc(1, sizeof(struct pg_hand));
}

static void clear(struct pg_hand *h)
{
    for (size_t i = 0; i < SLOTS; i++)
        for (struct pg_user *u = h->slots[i], *next; u; u = next) {
            next = u->next;
            for (struct pg_kept *k = u->rows, *after; k; k = after) {
                after = k->next;
                free(k);
            }
            free(u);
        }
    *h = (struct pg_hand){.users = 0};
}

void pg_hand_free(struct pg_hand *h)
{
    if (h)
        clear(h);
    free(h);
}

static struct pg_user **slot_of(struct pg_hand *h, struct str name)
{
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (size_t i = 0; i < name.n; i++)
        hash = (hash ^ (unsigned char)name.p[i]) * 16777619u;
    return &h->slots[(hash ^ hash >> 16) % SLOTS];
}

static struct pg_user *hand_find(struct pg_hand *h, struct str name)
{
    struct pg_user *u = *slot_of(h, name);
    while (u && !str_eq((struct str){u->name, u->name_n}, name))
        u = u->next;
    return u;
}

static struct pg_user *add_user(struct pg_hand *h, struct str name)
{
    struct pg_user *u = calloc(1, sizeof *u + name.n + 1), **slot = slot_of(h, name);
    if (!u)
        return NULL;
    u->name_n = name.n;
    memcpy(u->name, name.p, name.n);
    u->next = *slot;
    *slot = u;
    h->users++;
    return u;
}

/* Over the row of that ID, if there is one. */
static struct pg_kept *hand_keep(struct pg_hand *h, struct pg_user *u, const struct key_row *row)
{
    struct pg_kept *k = calloc(1, sizeof *k + row->key.id.n + row->key.sent.n + 1), **at = &u->rows;
    if (!k)
        return NULL;
    k->row = *row;
    k->row.user = (struct str){u->name, u->name_n};
    k->row.key.id = (struct str){k->text, row->key.id.n};
    k->row.key.sent = (struct str){k->text + row->key.id.n, row->key.sent.n};
    memcpy(k->text, row->key.id.p, row->key.id.n);
    if (row->key.sent.n)
        memcpy(k->text + row->key.id.n, row->key.sent.p, row->key.sent.n);
    while (*at && !str_eq((*at)->row.key.id, row->key.id))
        at = &(*at)->next;
    struct pg_kept *old = *at;
    k->next = old ? old->next : NULL;
    *at = k;
    h->unwritten -= old && old->unwritten;
    h->rows += !old;
    u->n += !old;
    free(old);
    return k;
}

static bool lacks_memory(struct detail *why)
{
    detail_set(why, "out of memory");
    return false;
}

static bool take_fetched(void *arg, const struct pg_value *v, struct detail *why)
{
    struct pg_hand *h = arg;
    struct key_row row;
    struct pg_user *u = pg_take_row(v, &row) ? hand_find(h, row.user) : NULL;
    if (!u || u->n == USER_ROWS)
        return pg_row_wrong(&row, why);
    return hand_keep(h, u, &row) || lacks_memory(why);
}

/* Users that are not at hand yet become so, without rows; their names as a list for the server. */
static bool note_users(struct pg_hand *h, const struct str *users, size_t n, size_t *noted, struct buf *list)
{
    struct key_row *rows = calloc(n, sizeof *rows);
    const struct key_row **v = calloc(n, sizeof(void *));
    bool ok = rows && v;
    *noted = 0;
    for (size_t i = 0; ok && i < n; i++) {
        if (hand_find(h, users[i]))
            continue;
        ok = add_user(h, users[i]) != NULL;
        rows[*noted].user = users[i];
        v[*noted] = &rows[*noted];
        ++*noted;
    }
    if (ok)
        pg_put_list(v, *noted, 0, list);
    free(rows);
    free(v);
    return ok && !list->failed;
}

enum keydb_result pg_hand_fetch(struct keydb_postgres *db, const struct str *users, size_t n, struct detail *why)
{
    static const Oid TYPES[] = {PG_TEXT_LIST};
    struct buf list BUF_CLEANUP = BUF_INIT(WIRE_MAX);
    struct pg_hand *h = db->hand;
    size_t noted;
    if (h->unwritten >= FLUSH_AT || h->users >= USERS_MAX || h->rows >= ROWS_MAX) {
        const enum keydb_result r = pg_hand_flush(db, why);
        if (r != KEYDB_OK)
            return r;
        if (h->users >= USERS_MAX || h->rows >= ROWS_MAX)
            clear(h);
    }
    if (!note_users(h, users, n, &noted, &list)) {
        lacks_memory(why);
        pg_drop(db); /* users are at hand whose rows are not */
        return KEYDB_FAILED;
    }
    if (!noted)
        return KEYDB_OK;
    const struct pg_ask ask = {.sql = "SELECT " PG_COLUMNS " FROM kmsgate.keys WHERE user_uri = ANY($1)",
                               .doing = "read the keys", .n = 1, .types = TYPES,
                               .values = {{list.p, (int)list.n}}, .row = take_fetched, .columns = PG_COLUMN_COUNT,
                               .arg = h};
    const enum keydb_result r = pg_ask(db, &ask, why);
    if (r != KEYDB_OK)
        pg_drop(db);
    return r;
}

enum keydb_result pg_hand_of_user(struct keydb_postgres *db, struct str user, keydb_each each, void *arg,
                                  struct detail *why)
{
    const enum keydb_result r = hand_find(db->hand, user) ? KEYDB_OK : pg_hand_fetch(db, &user, 1, why);
    if (r != KEYDB_OK)
        return r;
    for (const struct pg_kept *k = hand_find(db->hand, user)->rows; k; k = k->next)
        if (!each(arg, &k->row, why))
            return KEYDB_REFUSED;
    return KEYDB_OK;
}

enum keydb_result pg_hand_put(struct keydb_postgres *db, const struct key_row *row, struct detail *why)
{
    const enum keydb_result r = hand_find(db->hand, row->user) ? KEYDB_OK : pg_hand_fetch(db, &row->user, 1, why);
    if (r != KEYDB_OK)
        return r;
    struct pg_kept *k = hand_keep(db->hand, hand_find(db->hand, row->user), row);
    if (!k) {
        lacks_memory(why);
        return KEYDB_FAILED;
    }
    k->unwritten = true;
    db->hand->unwritten++;
    return KEYDB_OK;
}

/* All that is not written yet, in no order. */
static size_t gather(struct pg_hand *h, const struct key_row **v)
{
    size_t n = 0;
    for (size_t i = 0; i < SLOTS; i++)
        for (struct pg_user *u = h->slots[i]; u; u = u->next)
            for (struct pg_kept *k = u->rows; k; k = k->next)
                if (k->unwritten) {
                    k->unwritten = false; /* or the connection is given up */
                    v[n++] = &k->row;
                }
    h->unwritten = 0;
    return n;
}

static enum keydb_result write_rows(struct keydb_postgres *db, const struct key_row *const *v, size_t n,
                                    struct detail *why)
{
    static const char SQL[] =
        "INSERT INTO kmsgate.keys (" PG_COLUMNS ") SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, "
        "$12, $13) ON CONFLICT (user_uri, id) DO UPDATE SET type = EXCLUDED.type, state = EXCLUDED.state, "
        "not_after = EXCLUDED.not_after, since = EXCLUDED.since, origin = EXCLUDED.origin, due = EXCLUDED.due, "
        "keep_old = EXCLUDED.keep_old, sent = EXCLUDED.sent, master = EXCLUDED.master, seq = EXCLUDED.seq, "
        "sealed = EXCLUDED.sealed";
    Oid types[PG_COLUMN_COUNT];
    size_t from[PG_COLUMN_COUNT + 1] = {0};
    struct buf wire BUF_CLEANUP = BUF_INIT(WIRE_MAX);
    struct pg_ask ask = {.sql = SQL, .doing = "write keys", .n = PG_COLUMN_COUNT, .types = types, .ms = PG_STALL_MS};
    for (unsigned i = 0; i < PG_COLUMN_COUNT; i++) {
        types[i] = pg_put_list(v, n, i, &wire);
        from[i + 1] = wire.n;
    }
    if (wire.failed) {
        lacks_memory(why);
        pg_drop(db);
        return KEYDB_FAILED;
    }
    for (unsigned i = 0; i < PG_COLUMN_COUNT; i++)
        ask.values[i] = (struct pg_value){wire.p + from[i], (int)(from[i + 1] - from[i])};
    return pg_ask(db, &ask, why);
}

enum keydb_result pg_hand_flush(struct keydb_postgres *db, struct detail *why)
{
    struct pg_hand *h = db->hand;
    if (!h || !h->unwritten)
        return KEYDB_OK;
    const struct key_row **v = calloc(h->unwritten, sizeof(void *));
    if (!v) {
        lacks_memory(why);
        return KEYDB_FAILED;
    }
    const size_t n = gather(h, v);
    const enum keydb_result r = write_rows(db, v, n, why);
    free(v);
    if (r != KEYDB_OK)
        pg_drop(db);
    return r;
}

enum keydb_result pg_hand_remove(struct keydb_postgres *db, const struct key_row *row, struct detail *why)
{
    const enum keydb_result r = pg_hand_flush(db, why);
    struct pg_user *u = r == KEYDB_OK ? hand_find(db->hand, row->user) : NULL;
    for (struct pg_kept **at = u ? &u->rows : NULL; at && *at; at = &(*at)->next)
        if (str_eq((*at)->row.key.id, row->key.id)) {
            struct pg_kept *gone = *at;
            *at = gone->next;
            free(gone);
            u->n--;
            db->hand->rows--;
            break;
        }
    return r;
}
