#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "keys/keystore_inside.h"

enum {
    REFRESH_PATIENCE_MS = 20, /* refreshing runs beside the event loops: a writer is waited for at the next turn */
    BUSY_TURNS = 20,          /* ten seconds of turns: then it is told */
    REOPEN_EACH_S = 5,        /* a file that something else than a database writes to is read so often, not more */
    CLOCKS_S = 60,            /* by so much the clock of who pruned may be ahead */
    APPLIED = 32,             /* changed rows that a look-up of a user may have to wait for */
    APPLIED_AT_ONCE = 1024,   /* so many without a pause between */
    APPLIED_PAUSE_NS = 50000, /* more than they take: who looks up a user rarely finds the table closed */
};

/* Changed and removed rows, verified, until all of them are known to be good. */
struct changes {
    const struct keystore *ks;
    struct openers openers;
    struct key_row *v; /* texts owned; of a removed one the seq is 0 */
    size_t n, cap, text, count;
    struct seal_sum sum; /* of the table with the changes, as count */
    enum keydb_result r;
};

static bool lacks_memory(struct changes *c, struct detail *why)
{
    c->r = KEYDB_FAILED;
    detail_set(why, "out of memory");
    return false;
}

static bool keystore_follow_keep(struct changes *c, const struct key_row *row, struct detail *why)
{
    if (c->n == c->cap) {
        size_t cap = c->cap ? c->cap * 2 : 16;
        struct key_row *v = realloc(c->v, cap * sizeof *v);
        if (!v)
            return lacks_memory(c, why);
        c->v = v;
        c->cap = cap;
    }
    struct key_row *copy = &c->v[c->n];
    const size_t text = row->user.n + row->key.id.n + row->key.sent.n;
    char *at = malloc(text + 1);
    if (!at)
        return lacks_memory(c, why);
    *copy = *row;
    struct str *texts[] = {&copy->user, &copy->key.id, &copy->key.sent};
    for (size_t i = 0; i < 3; i++) {
        if (texts[i]->n)
            memcpy(at, texts[i]->p, texts[i]->n);
        texts[i]->p = at;
        at += texts[i]->n;
    }
    c->n++;
    c->text += text;
    return true;
}

/* What the table has of that name goes out of the sum. */
static bool take_out(struct changes *c, const struct key *old, struct detail *why)
{
    struct seal_sum tag;
    if (!keystore_tag(&c->openers, old, &tag))
        return lacks_memory(c, why);
    seal_sum_take(&c->sum, &tag);
    c->count--;
    return true;
}

static bool undoes(const struct key_row *row, const struct key *old, struct detail *why)
{
    if (old->state != KEY_REVOKED || row->key.state == KEY_REVOKED || row->key.state == KEY_PRUNED)
        return false;
    detail_set(why, "%s was revoked and is not any more in this database; a revocation is never undone",
               key_row_name(row).text);
    return true;
}

static bool collect(void *arg, const struct key_row *claim, struct detail *why)
{
    struct changes *c = arg;
    struct key_row row = *claim;
    struct seal_sum tag;
    struct key old;
    if ((c->r = keystore_verify(&c->openers, &row, why)) != KEYDB_OK)
        return false;
    const bool known = table_find(c->ks->now.table, row.user, row.key.id, &old);
    if (known && undoes(&row, &old, why)) {
        c->r = KEYDB_REFUSED;
        return false;
    }
    if (known && !take_out(c, &old, why))
        return false;
    if (row.key.state == KEY_PRUNED) {
        row.key.seq = 0;
        return !known || keystore_follow_keep(c, &row, why);
    }
    if (!keystore_tag(&c->openers, &row.key, &tag))
        return lacks_memory(c, why);
    seal_sum_add(&c->sum, &tag);
    c->count++;
    return keystore_follow_keep(c, &row, why);
}

static bool collect_removed(void *arg, struct str user, struct str id, struct detail *why)
{
    struct changes *c = arg;
    struct key_row row = {.user = user, .key = {.id = id}};
    struct key old;
    if (!table_find(c->ks->now.table, user, id, &old))
        return true;
    if (undoes(&row, &old, why)) {
        c->r = KEYDB_REFUSED;
        return false;
    }
    return take_out(c, &old, why) && keystore_follow_keep(c, &row, why);
}

static void changes_free(struct changes *c)
{
    for (size_t i = 0; i < c->n; i++)
        free((char *)c->v[i].user.p);
    free(c->v);
    openers_free(&c->openers);
}

/* Those of one user in the order in which they were kept. */
static int by_user(const void *a, const void *b)
{
    const struct key_row *x = *(const struct key_row *const *)a, *y = *(const struct key_row *const *)b;
    const int order = key_text_order(x->user, y->user);
    return order ? order : (x > y) - (x < y);
}

static bool apply_row(struct table *t, const struct key_row *row)
{
    if (row->key.seq)
        return table_set(t, row);
    table_remove(t, row->user, row->key.id);
    return true;
}

/* Some, and whatever else there is of the last one's user: nobody's keys are seen half changed. Returns the next. */
static size_t apply_some(struct keystore *ks, const struct key_row *const *v, size_t i, size_t n, bool *ok)
{
    pthread_rwlock_wrlock(&ks->locks->table);
    for (const size_t from = i; *ok && i < n && (i - from < APPLIED || str_eq(v[i]->user, v[i - 1]->user)); i++)
        *ok = apply_row(ks->now.table, v[i]);
    pthread_rwlock_unlock(&ks->locks->table);
    return i;
}

/* Requests are judged meanwhile, and wait for a few rows at most, however many there are. */
static bool keystore_apply(struct keystore *ks, const struct changes *c)
{
    const struct key_row **v = calloc(c->n + 1, sizeof *v); /* NOLINT(bugprone-sizeof-expression): pointers */
    bool ok = v != NULL;
    for (size_t i = 0; ok && i < c->n; i++)
        v[i] = &c->v[i];
    if (ok)
        qsort(v, c->n, sizeof *v, by_user); /* NOLINT(bugprone-sizeof-expression): pointers */
    ok = ok && table_prepare(ks->now.table, c->n);
    pthread_rwlock_wrlock(&ks->locks->table);
    ok = ok && table_reserve(ks->now.table, c->n, c->text);
    pthread_rwlock_unlock(&ks->locks->table);
    table_settle(ks->now.table);
    for (size_t i = 0; ok && i < c->n;) {
        i = apply_some(ks, v, i, c->n, &ok);
        if (i > APPLIED_AT_ONCE && atomic_load(&ks->gives_way))
            (void)nanosleep(&(struct timespec){.tv_nsec = APPLIED_PAUSE_NS}, NULL);
    }
    atomic_fetch_add(&ks->edition, 1);
    free(v);
    return ok;
}

/* Rows of the state that the meta row vouches for, and no others. */
static enum keydb_result check_state(size_t count, const struct seal_sum *sum, const struct keydb_meta *meta,
                                     const struct seal_sum *want, struct detail *why)
{
    if (count != meta->count)
        detail_set(why, "tampered with: %zu keys where there were %llu", count, (unsigned long long)meta->count);
    else if (!seal_sum_equal(sum, want))
        detail_set(why, "tampered with, or another history than the one in use: a key was put back to an earlier "
                        "state");
    else
        return KEYDB_OK;
    return KEYDB_REFUSED;
}

static enum keydb_result take_changes(struct keystore *ks, const struct keydb_meta *meta, const struct seal_sum *want,
                                      struct detail *why)
{
    struct changes c = {.ks = ks, .openers = {.ks = ks}, .count = table_size(ks->now.table), .sum = ks->now.sum,
                        .r = KEYDB_OK};
    enum keydb_result r = keydb_since(ks->db, ks->now.last_seq, collect, &c, why);
    if (r == KEYDB_OK)
        r = keydb_removed(ks->db, ks->now.last_seq, collect_removed, &c, why);
    if (r == KEYDB_REFUSED && c.r == KEYDB_FAILED)
        r = KEYDB_FAILED;
    if (r == KEYDB_OK)
        r = check_state(c.count, &c.sum, meta, want, why);
    if (r == KEYDB_OK && !keystore_apply(ks, &c)) {
        detail_set(why, "out of memory");
        r = KEYDB_FAILED;
    }
    if (r == KEYDB_OK) {
        ks->now.sum = c.sum;
        ks->now.last_seq = meta->last_seq;
    }
    changes_free(&c);
    return r;
}

static void swap_state(struct keystore *ks, const struct keystore_state *state)
{
    pthread_rwlock_wrlock(&ks->locks->table);
    struct table *old = ks->now.table;
    ks->now = *state;
    atomic_fetch_add(&ks->edition, 1);
    pthread_rwlock_unlock(&ks->locks->table);
    table_free(old);
}

/* Whether a whole database comes after what is in use, by nothing but changes. */
struct succession {
    const struct keystore_state *mine, *next;
    struct keydb *db;
    int64_t now_us;
    struct detail *why;
    struct pace pace;
    bool pruned;
};

static bool is_same(const struct key *a, const struct key *b)
{
    return a->seq == b->seq && a->under == b->under && secret_equal(a->sealed, b->sealed, sizeof a->sealed);
}

static bool follows_mine(void *arg, const struct key_row *row)
{
    struct succession *s = arg;
    struct key mine;
    pace_step(&s->pace);
    const bool known = table_find(s->mine->table, row->user, row->key.id, &mine);
    if (known && undoes(row, &mine, s->why))
        return false;
    if (row->key.seq > s->mine->last_seq || (known && is_same(&row->key, &mine)))
        return true;
    detail_set(s->why, "has another history than the one in use: %s is not as it was", key_row_name(row).text);
    return false;
}

static bool is_tomb(void *arg, const struct key_row *row, struct detail *why)
{
    struct succession *s = arg;
    (void)why;
    s->pruned = s->pruned || row->key.state == KEY_PRUNED;
    return true;
}

/* A key that is missing was pruned: it had expired; or it was revoked, and a tombstone says so. */
static bool is_there_or_pruned(void *arg, const struct key_row *row)
{
    struct succession *s = arg;
    struct key next;
    struct detail why;
    pace_step(&s->pace);
    if (table_find(s->next->table, row->user, row->key.id, &next) ||
        (row->key.state != KEY_REVOKED && !key_usable(&row->key, s->now_us + CLOCKS_S * US_PER_S)))
        return true;
    s->pruned = false;
    if (row->key.state == KEY_REVOKED && keydb_of_user(s->db, row->user, is_tomb, s, &why) == KEYDB_OK && s->pruned)
        return true;
    detail_set(s->why, "%s is missing; the keys in use stay", key_row_name(row).text);
    return false;
}

static enum keydb_result keystore_older(const struct keystore *ks, struct detail *why, uint64_t there)
{
    detail_set(why, "is older than what is in use (change %llu, in use %llu); the keys in use stay. Restart%s to take "
                    "the old ones", (unsigned long long)there, (unsigned long long)ks->now.last_seq,
               keystore_is_shared(ks) ? " without the sealed copy" : "");
    return KEYDB_REFUSED;
}

/* `db` in a transaction in which `next` was read. */
static enum keydb_result check_succession(const struct keystore *ks, struct keydb *db,
                                          const struct keystore_state *next, struct detail *why)
{
    struct succession s = {.mine = &ks->now, .next = next, .db = db, .now_us = time_now_us(), .why = why,
                           .pace = keystore_pace(ks)};
    if (next->last_seq < ks->now.last_seq)
        return keystore_older(ks, why, next->last_seq);
    if (table_each(next->table, follows_mine, &s) && table_each(ks->now.table, is_there_or_pruned, &s))
        return KEYDB_OK;
    return KEYDB_REFUSED;
}

static enum keydb_result reload(struct keystore *ks, struct keydb *db, struct detail *why)
{
    struct keystore_state next;
    enum keydb_result r = keystore_load(db, ks, &next, why);
    if (r != KEYDB_OK)
        return r;
    r = check_succession(ks, db, &next, why);
    if (r == KEYDB_OK)
        swap_state(ks, &next);
    else
        table_free(next.table);
    return r;
}

enum keydb_result keystore_reread(struct keystore *ks, struct detail *why)
{
    return reload(ks, ks->db, why);
}

static enum keydb_result absorb(struct keystore *ks, bool touched, bool *changed, struct detail *why)
{
    struct keydb_meta meta;
    struct seal_sum sums[2];
    enum keydb_result r = keystore_meta(ks->db, ks, &meta, sums, why);
    if (r != KEYDB_OK)
        return r;
    const uint64_t have = ks->now.last_seq;
    if (meta.last_seq < have)
        return keystore_older(ks, why, meta.last_seq);
    if (meta.last_seq == have) {
        r = check_state(table_size(ks->now.table), &ks->now.sum, &meta, &sums[0], why);
        return r == KEYDB_OK && touched ? reload(ks, ks->db, why) : r; /* no change of ours leaves the number alone */
    }
    *changed = true;
    if (meta.last_seq - have >= KEYDB_REMOVALS || table_is_loose(ks->now.table))
        return reload(ks, ks->db, why);
    r = take_changes(ks, &meta, &sums[0], why);
    if (r == KEYDB_OK)
        memcpy(ks->now.commit, meta.sums, sizeof ks->now.commit);
    return r;
}

enum keydb_result keystore_absorb(struct keystore *ks, bool *changed, struct detail *why)
{
    int64_t version = 0;
    enum keydb_result r = keydb_version(ks->db, &version, why);
    if (r == KEYDB_OK)
        r = absorb(ks, version != ks->seen, changed, why);
    if (r == KEYDB_OK)
        ks->seen = version;
    return r;
}

/* Another file has taken the name, a restored copy, say; or something else than a database wrote to it. It is taken
 * over if it is the same database and comes after what is in use. */
static enum keydb_result keystore_reopen(struct keystore *ks, bool *changed, struct detail *why)
{
    struct keydb *db = keydb_open(ks->database, why);
    int64_t version = 0;
    if (!db)
        return KEYDB_FAILED;
    keydb_patience(db, REFRESH_PATIENCE_MS);
    ks->rests_on = db;
    enum keydb_result r = keydb_version(db, &version, why);
    if (r == KEYDB_OK)
        r = keydb_begin(db, false, why);
    if (r == KEYDB_OK)
        r = reload(ks, db, why);
    const uint64_t stamp = keydb_stamp(db, ks->database); /* while no writer is at work */
    keydb_rollback(db);
    if (r != KEYDB_OK) {
        keydb_close(db);
        return r;
    }
    keydb_close(ks->db);
    ks->db = db;
    ks->seen = version;
    ks->stamp = stamp;
    ks->refused = -1;
    ks->refused_stamp = 0;
    *changed = true;
    return KEYDB_OK;
}

static enum keydb_result keystore_follow_follow(struct keystore *ks, bool *changed, struct detail *why)
{
    const uint64_t stamp = keydb_stamp(ks->db, ks->database);
    if (stamp && stamp == ks->refused_stamp) { /* told again, without reading it again */
        *why = ks->refusal;
        return KEYDB_REFUSED;
    }
    enum keydb_result r = keystore_reopen(ks, changed, why);
    ks->reopened_us = time_mono_us();
    if (r == KEYDB_REFUSED) {
        ks->refused_stamp = stamp;
        ks->refusal = *why;
    }
    return r;
}

static bool may_reopen(const struct keystore *ks)
{
    return time_mono_us() - ks->reopened_us >= REOPEN_EACH_S * US_PER_S;
}

static enum keydb_result refresh(struct keystore *ks, bool *changed, struct detail *why)
{
    if (!keydb_is_current(ks->db, ks->database))
        return keystore_follow_follow(ks, changed, why);
    const uint64_t stamp = keydb_stamp(ks->db, ks->database);
    int64_t version;
    enum keydb_result r = keydb_version(ks->db, &version, why);
    if (r != KEYDB_OK)
        return r;
    if (version == ks->seen && !ks->behind) {
        if (stamp == ks->stamp)
            return KEYDB_OK;
        if (ks->refused_stamp != stamp && !may_reopen(ks))
            return KEYDB_BUSY;
        return keystore_follow_follow(ks, changed, why);
    }
    if (version == ks->refused) {
        /* SQLite counts commits: one copy written over another that has as many is the same version to it. */
        if (stamp != ks->refused_stamp && may_reopen(ks))
            return keystore_follow_follow(ks, changed, why);
        *why = ks->refusal;
        return KEYDB_REFUSED;
    }
    r = keydb_begin(ks->db, false, why);
    if (r == KEYDB_OK)
        r = keystore_absorb(ks, changed, why);
    if (r == KEYDB_OK) /* no writer is at work now; before, one may have been, and wrote on */
        ks->stamp = keydb_stamp(ks->db, ks->database);
    keydb_rollback(ks->db);
    if (r == KEYDB_OK) {
        ks->behind = false;
    } else if (r == KEYDB_REFUSED) {
        ks->refused = version;
        ks->refused_stamp = stamp;
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
    ks->rests_on = ks->db;
    enum keydb_result r = refresh(ks, changed, &d);
    if (r == KEYDB_FAILED && keydb_is_file(ks->db) && may_reopen(ks)) /* it may hold on to what stood there before */
        r = keystore_follow_follow(ks, changed, &d);
    ks->rests_on = NULL;
    if (r == KEYDB_OK && !keystore_count_up(ks, &d))
        r = KEYDB_FAILED;
    ks->busy = r == KEYDB_BUSY ? ks->busy + 1 : 0;
    ks->away = r == KEYDB_AWAY;
    if (r == KEYDB_OK)
        atomic_store(&ks->in_step_us, time_mono_us());
    if (r == KEYDB_BUSY && ks->busy <= BUSY_TURNS)
        r = KEYDB_OK; /* a change is being written: what is in the table is right until it is done */
    keystore_tell(ks, r == KEYDB_OK);
    pthread_mutex_unlock(&ks->locks->db);
    if (r == KEYDB_OK)
        return true;
    *changed = false;
    if (why_size)
        snprintf(why, why_size, "%s", d.text);
    return false;
}

bool keystore_is_away(const struct keystore *ks)
{
    return ks->away;
}

void keystore_give_way(struct keystore *ks, bool others_serve)
{
    atomic_store(&ks->gives_way, others_serve);
}

int64_t keystore_age_us(const struct keystore *ks)
{
    return time_mono_us() - atomic_load(&ks->in_step_us);
}
