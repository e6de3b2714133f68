#include "keys/keystore_inside.h"

#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <openssl/rand.h>

enum {
    REFRESH_PATIENCE_MS = 20, /* refreshing runs beside the event loops: a writer is waited for at the next turn */
    BUSY_TURNS = 20,          /* ten seconds of turns: then it is told */
    RELOAD_FROM = 4096,       /* changed keys from which loading all into a new table is cheaper than a list */
};

struct detail key_row_name(const struct key_row *row)
{
    struct detail d, user = {{0}}, id = {{0}};
    struct {
        struct str from;
        char *to;
    } texts[] = {{row->user, user.text}, {row->key.id, id.text}};
    for (size_t t = 0; t < 2; t++)
        for (size_t i = 0; i < texts[t].from.n && i < 100; i++) {
            char c = texts[t].from.p[i];
            texts[t].to[i] = c >= ' ' && c <= '~' ? c : '?';
        }
    detail_set(&d, "user %s, key %s", user.text, id.text);
    return d;
}

static void add_u64(uint8_t **at, uint64_t v)
{
    for (int shift = 56; shift >= 0; shift -= 8)
        *(*at)++ = (uint8_t)(v >> shift);
}

bool keystore_meta_mac(const struct seal *seal, const struct keydb_meta *meta, uint8_t mac[SEAL_MAC])
{
    uint8_t text[4 * 8 + SEAL_SALT + SEAL_CHECK], *at = text;
    add_u64(&at, meta->version);
    add_u64(&at, meta->totals.count);
    add_u64(&at, meta->totals.seq_sum);
    add_u64(&at, meta->totals.last_seq);
    memcpy(at, meta->salt, SEAL_SALT);
    memcpy(at + SEAL_SALT, meta->check, SEAL_CHECK);
    return seal_mac(seal, text, sizeof text, mac);
}

enum keydb_result keystore_meta(struct keydb *db, const struct seal *seal, struct keydb_meta *out, struct detail *why)
{
    uint8_t mac[SEAL_MAC];
    enum keydb_result r = keydb_meta(db, out, why);
    if (r == KEYDB_OK && !keystore_meta_mac(seal, out, mac)) {
        detail_set(why, "OpenSSL failed");
        r = KEYDB_FAILED;
    }
    if (r != KEYDB_OK)
        return r;
    if (out->version != KEYDB_VERSION)
        detail_set(why, "tampered with: the meta row speaks of version %llu", (unsigned long long)out->version);
    else if (!secret_equal(out->check, seal_check(seal), SEAL_CHECK))
        detail_set(why, "the master key is not the one that this database was made with");
    else if (!secret_equal(out->mac, mac, SEAL_MAC))
        detail_set(why, "tampered with: the meta row does not verify");
    else
        return KEYDB_OK;
    return KEYDB_REFUSED;
}

/* Rows of the state that the meta row vouches for, and no others. */
static enum keydb_result check_totals(struct key_totals found, struct key_totals want, struct detail *why)
{
    if (found.count != want.count)
        detail_set(why, "tampered with: %llu keys where there were %llu", (unsigned long long)found.count,
                   (unsigned long long)want.count);
    else if (found.seq_sum != want.seq_sum || found.last_seq != want.last_seq)
        detail_set(why, "tampered with: a key was put back to an earlier state");
    else
        return KEYDB_OK;
    return KEYDB_REFUSED;
}

struct loading {
    struct seal_opener *opener;
    struct table *table;
    struct secret_key clear;
    bool memory; /* was missing: says nothing of the database, and is tried again */
};

static bool verify(struct seal_opener *opener, const struct key_row *row, struct secret_key *clear, struct detail *why)
{
    if (seal_opener_open(opener, row->user, &row->key, clear))
        return true;
    detail_set(why, "tampered with: %s does not verify", key_row_name(row).text);
    return false;
}

static bool load_row(void *arg, const struct key_row *row, struct detail *why)
{
    struct loading *l = arg;
    if (!verify(l->opener, row, &l->clear, why))
        return false;
    if (table_seq(l->table, row->user, row->key.id)) {
        detail_set(why, "damaged: %s is there twice", key_row_name(row).text);
        return false;
    }
    if (!table_set(l->table, row)) {
        detail_set(why, "out of memory, or more than %d keys of one user: %s", LIMIT_USER_KEYS, key_row_name(row).text);
        l->memory = true;
        return false;
    }
    return true;
}

/* Inside a transaction: the whole database as a new table. */
static enum keydb_result load(struct keydb *db, const struct seal *seal, struct table **out, struct detail *why)
{
    struct keydb_meta meta;
    enum keydb_result r = keystore_meta(db, seal, &meta, why);
    if (r != KEYDB_OK)
        return r;
    struct loading l = {.opener = seal_opener_new(seal), .table = table_new()};
    if (l.opener && l.table) {
        r = keydb_all(db, load_row, &l, why);
    } else {
        detail_set(why, "out of memory");
        r = KEYDB_FAILED;
    }
    if (r == KEYDB_OK)
        r = check_totals(table_totals(l.table), meta.totals, why);
    if (l.memory)
        r = KEYDB_FAILED;
    secret_key_clear(&l.clear);
    seal_opener_free(l.opener);
    if (r == KEYDB_OK)
        *out = l.table;
    else
        table_free(l.table);
    return r;
}

static void swap_table(struct keystore *ks, struct table *table)
{
    pthread_rwlock_wrlock(&ks->locks->table);
    struct table *old = ks->table;
    ks->table = table;
    pthread_rwlock_unlock(&ks->locks->table);
    table_free(old);
    malloc_trim(0); /* hundreds of megabytes may have become free */
}

/* Changed rows, verified, until all of them are known to be good. */
struct changes {
    const struct keystore *ks;
    struct seal_opener *opener;
    struct secret_key clear;
    struct key_row *v;
    size_t n, cap, text;
    struct key_totals totals; /* of the table with the changes */
    bool memory;              /* was missing */
};

static bool collect(void *arg, const struct key_row *row, struct detail *why)
{
    struct changes *c = arg;
    if (!verify(c->opener, row, &c->clear, why))
        return false;
    if (c->n == c->cap) {
        size_t cap = c->cap ? c->cap * 2 : 16;
        struct key_row *v = realloc(c->v, cap * sizeof *v);
        if (!v)
            goto memory;
        c->v = v;
        c->cap = cap;
    }
    struct key_row *copy = &c->v[c->n];
    *copy = *row;
    copy->user.p = malloc(row->user.n + row->key.id.n);
    if (!copy->user.p)
        goto memory;
    copy->key.id.p = copy->user.p + row->user.n;
    memcpy((char *)copy->user.p, row->user.p, row->user.n);
    memcpy((char *)copy->key.id.p, row->key.id.p, row->key.id.n);
    c->n++;
    c->text += row->user.n + row->key.id.n;
    uint64_t old = table_seq(c->ks->table, row->user, row->key.id);
    c->totals.count += old == 0;
    c->totals.seq_sum += row->key.seq - old;
    if (row->key.seq > c->totals.last_seq)
        c->totals.last_seq = row->key.seq;
    return true;
memory:
    c->memory = true;
    detail_set(why, "out of memory");
    return false;
}

static void changes_free(struct changes *c)
{
    for (size_t i = 0; i < c->n; i++)
        free((char *)c->v[i].user.p);
    free(c->v);
    secret_key_clear(&c->clear);
    seal_opener_free(c->opener);
}

static bool apply(struct keystore *ks, const struct changes *c)
{
    pthread_rwlock_wrlock(&ks->locks->table);
    bool ok = table_reserve(ks->table, c->n, c->text);
    for (size_t i = 0; ok && i < c->n; i++)
        ok = table_set(ks->table, &c->v[i]);
    pthread_rwlock_unlock(&ks->locks->table);
    return ok;
}

static enum keydb_result take_changes(struct keystore *ks, const struct keydb_meta *meta, struct detail *why)
{
    struct changes c = {.ks = ks, .opener = seal_opener_new(ks->seal), .totals = table_totals(ks->table)};
    enum keydb_result r = KEYDB_FAILED;
    if (c.opener)
        r = keydb_since(ks->db, c.totals.last_seq, collect, &c, why);
    else
        detail_set(why, "out of memory");
    if (r == KEYDB_OK)
        r = check_totals(c.totals, meta->totals, why);
    if (c.memory)
        r = KEYDB_FAILED;
    if (r == KEYDB_OK && !apply(ks, &c)) {
        detail_set(why, "out of memory");
        r = KEYDB_FAILED;
    }
    changes_free(&c);
    return r;
}

enum keydb_result keystore_absorb(struct keystore *ks, bool *changed, struct detail *why)
{
    struct keydb_meta meta;
    struct key_totals rows, have = table_totals(ks->table);
    enum keydb_result r = keystore_meta(ks->db, ks->seal, &meta, why);
    if (r == KEYDB_OK)
        r = keydb_totals(ks->db, &rows, why);
    if (r == KEYDB_OK)
        r = check_totals(rows, meta.totals, why);
    if (r != KEYDB_OK)
        return r;
    if (meta.totals.last_seq < have.last_seq) {
        detail_set(why, "tampered with: the database is older than what is in use");
        return KEYDB_REFUSED;
    }
    if (meta.totals.last_seq == have.last_seq)
        return check_totals(have, meta.totals, why);
    *changed = true;
    if (meta.totals.last_seq - have.last_seq < RELOAD_FROM)
        return take_changes(ks, &meta, why);
    struct table *table;
    r = load(ks->db, ks->seal, &table, why);
    if (r == KEYDB_OK)
        swap_table(ks, table);
    return r;
}

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
           a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

/* Another file has taken the name: a restored copy, say. It is taken over if it is the same database, not older. */
static enum keydb_result reopen(struct keystore *ks, bool *changed, struct detail *why)
{
    struct keydb *db = keydb_open(ks->path, why);
    struct table *table = NULL;
    int64_t version = 0;
    if (!db)
        return KEYDB_FAILED;
    keydb_patience(db, REFRESH_PATIENCE_MS);
    enum keydb_result r = keydb_version(db, &version, why);
    if (r == KEYDB_OK)
        r = keydb_begin(db, false, why);
    if (r == KEYDB_OK)
        r = load(db, ks->seal, &table, why);
    keydb_rollback(db);
    if (r == KEYDB_OK && table_totals(table).last_seq < table_totals(ks->table).last_seq) {
        detail_set(why, "the file was replaced by an older one; the keys in use stay. Restart to take the old ones");
        table_free(table);
        r = KEYDB_REFUSED;
    }
    if (r != KEYDB_OK) {
        keydb_close(db);
        return r;
    }
    keydb_close(ks->db);
    ks->db = db;
    ks->seen = version;
    ks->refused = -1;
    swap_table(ks, table);
    *changed = true;
    return KEYDB_OK;
}

static enum keydb_result follow(struct keystore *ks, bool *changed, struct detail *why)
{
    struct stat now = {0};
    if (stat(ks->path, &now) == 0 && same_file(&now, &ks->refused_file)) { /* told again, without reading it again */
        *why = ks->refusal;
        return KEYDB_REFUSED;
    }
    enum keydb_result r = reopen(ks, changed, why);
    if (r == KEYDB_REFUSED) {
        ks->refused_file = now;
        ks->refusal = *why;
    }
    return r;
}

static enum keydb_result refresh(struct keystore *ks, bool *changed, struct detail *why)
{
    if (!keydb_is_current(ks->db, ks->path))
        return follow(ks, changed, why);
    int64_t version;
    enum keydb_result r = keydb_version(ks->db, &version, why);
    if (r != KEYDB_OK || (version == ks->seen && !ks->behind))
        return r;
    if (version == ks->refused) {
        *why = ks->refusal;
        return KEYDB_REFUSED;
    }
    r = keydb_begin(ks->db, false, why);
    if (r == KEYDB_OK)
        r = keystore_absorb(ks, changed, why);
    keydb_rollback(ks->db);
    if (r == KEYDB_OK) {
        ks->seen = version;
        ks->behind = false;
    } else if (r == KEYDB_REFUSED) {
        ks->refused = version;
        ks->refusal = *why;
    }
    return r;
}

bool keystore_refresh(struct keystore *ks, bool *changed, char *why, size_t why_size)
{
    struct detail d = {{0}};
    *changed = false;
    pthread_mutex_lock(&ks->locks->db);
    keydb_patience(ks->db, REFRESH_PATIENCE_MS);
    enum keydb_result r = refresh(ks, changed, &d);
    ks->busy = r == KEYDB_BUSY ? ks->busy + 1 : 0;
    if (r == KEYDB_BUSY && ks->busy <= BUSY_TURNS)
        r = KEYDB_OK; /* a change is being written: what is in the table is right until it is done */
    pthread_mutex_unlock(&ks->locks->db);
    if (r == KEYDB_OK)
        return true;
    *changed = false;
    if (why_size)
        snprintf(why, why_size, "%s", d.text);
    return false;
}

struct keystore_locks *keystore_locks_new(void)
{
    struct keystore_locks *l = calloc(1, sizeof *l);
    pthread_rwlockattr_t attr;
    if (!l || pthread_rwlockattr_init(&attr) != 0) {
        free(l);
        return NULL;
    }
    /* a stream of readers must not keep a revocation out */
    pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    bool ok = pthread_rwlock_init(&l->table, &attr) == 0;
    pthread_rwlockattr_destroy(&attr);
    if (ok && pthread_mutex_init(&l->db, NULL) == 0)
        return l;
    if (ok)
        pthread_rwlock_destroy(&l->table);
    free(l);
    return NULL;
}

static bool make(const char *path, const struct secret_key *master, struct detail *why)
{
    struct keydb_meta meta = {.version = KEYDB_VERSION};
    if (RAND_bytes(meta.salt, sizeof meta.salt) != 1)
        return false;
    struct seal *seal = seal_new(master, meta.salt);
    if (!seal)
        return false;
    memcpy(meta.check, seal_check(seal), sizeof meta.check);
    bool ok = keystore_meta_mac(seal, &meta, meta.mac);
    seal_free(seal);
    if (!ok)
        return false;
    enum keydb_result r = keydb_create(path, &meta, why);
    return r == KEYDB_OK || r == KEYDB_REFUSED; /* refused: another process was faster; its file is opened next */
}

static bool open_and_load(struct keystore *ks, const struct secret_key *master, struct detail *why)
{
    struct keydb_meta meta;
    ks->db = keydb_open(ks->path, why);
    if (!ks->db || keydb_version(ks->db, &ks->seen, why) != KEYDB_OK || keydb_begin(ks->db, false, why) != KEYDB_OK)
        return false;
    bool ok = keydb_meta(ks->db, &meta, why) == KEYDB_OK && (ks->seal = seal_new(master, meta.salt)) &&
              load(ks->db, ks->seal, &ks->table, why) == KEYDB_OK;
    keydb_rollback(ks->db);
    return ok;
}

struct keystore *keystore_open(const char *path, const struct secret_key *master, bool create, struct faults *faults)
{
    struct detail why = {"out of memory"};
    struct keystore *ks = calloc(1, sizeof *ks);
    bool ok = ks && (ks->path = str_dup(str_z(path))) && (ks->locks = keystore_locks_new());
    if (ok) {
        ks->refused = -1;
        if (create && access(path, F_OK) != 0 && errno == ENOENT)
            ok = make(path, master, &why);
        ok = ok && open_and_load(ks, master, &why);
    }
    if (ok)
        return ks;
    faults_add(faults, path, 0, 0, "%s", why.text);
    keystore_close(ks);
    return NULL;
}

bool keystore_state_key(const struct keystore *ks, struct secret_key *out)
{
    return seal_state_key(ks->seal, out);
}

const char *keystore_path(const struct keystore *ks)
{
    return ks->path;
}

void keystore_close(struct keystore *ks)
{
    if (!ks)
        return;
    keydb_close(ks->db);
    table_free(ks->table);
    seal_free(ks->seal);
    if (ks->locks) {
        pthread_rwlock_destroy(&ks->locks->table);
        pthread_mutex_destroy(&ks->locks->db);
    }
    free(ks->locks);
    free(ks->path);
    free(ks);
}

void keystore_count(struct keystore *ks, int64_t now_us, size_t out[2][3])
{
    pthread_rwlock_rdlock(&ks->locks->table);
    table_count(ks->table, now_us, out);
    pthread_rwlock_unlock(&ks->locks->table);
}

enum keystore_result keystore_user(const struct keystore *ks, struct str user, struct keyring *out)
{
    out->store = ks;
    out->user = STR_MISSING;
    out->text = NULL;
    out->n = 0;
    pthread_rwlock_rdlock(&ks->locks->table);
    enum keystore_result r = table_user(ks->table, user, out);
    pthread_rwlock_unlock(&ks->locks->table);
    return r;
}
