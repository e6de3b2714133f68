#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/rand.h>

#include "keys/keystore_inside.h"

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

/* The meta row of a database without keys. */
static bool first_meta(const struct secret_key *master, struct keydb_meta *meta)
{
    const struct seal_sum none[2] = {{{0}}};
    *meta = (struct keydb_meta){.version = KEYDB_SCHEMA};
    if (RAND_bytes(meta->salt, sizeof meta->salt) != 1)
        return false;
    struct seal *seal = seal_new(master, meta->salt);
    const bool ok = seal && keystore_meta_seal(seal, meta, none);
    seal_free(seal);
    return ok;
}

struct keydb *keystore_open_db(struct keystore *ks, const struct keystore_place *at, enum keystore_opening how,
                               struct detail *why)
{
    struct keydb_meta meta;
    bool there = true;
    if (how == KEYSTORE_READ)
        return keydb_preview(ks->database, at->masters, at->n, &ks->earlier, why);
    if (how != KEYSTORE_CHANGE && !first_meta(&at->masters[0], &meta))
        return NULL;
    if (how == KEYSTORE_DRAFT || how == KEYSTORE_TRY) {
        struct keydb *db = keydb_draft(ks->database, &meta, &there, why);
        if (db || !there)
            return db;
        if (how == KEYSTORE_TRY)
            return keydb_preview(ks->database, at->masters, at->n, &ks->earlier, why);
    } else if (how == KEYSTORE_MAKE) {
        /* refused: there is one, perhaps since now: another process was faster */
        const enum keydb_result made = keydb_create(ks->database, &meta, why);
        if (made != KEYDB_OK && made != KEYDB_REFUSED)
            return NULL;
    }
    return keydb_takeover(ks->database, at->masters, at->n, why) == KEYDB_OK ? keydb_open(ks->database, why) : NULL;
}

/* One that is out of use; an exchange that began before may still look at it. */
struct keystore_past {
    struct keystore_past *next;
    struct seal *seal;
};

/* Where one more master key goes: to a new place, or to that of one which an earlier list left out and under which
 * nothing is sealed, so that there is no end of changes. False when there is none. */
static bool make_place(struct keystore *ks, const bool listed[TABLE_MASTERS], size_t *at)
{
    if ((*at = ks->seal_n) < TABLE_MASTERS) {
        ks->seal_n++;
        return true;
    }
    for (size_t i = 0; i < TABLE_MASTERS; i++) {
        if (listed[i] || ks->listed[i] || !ks->now.table || table_under(ks->now.table, (unsigned)i))
            continue;
        struct keystore_past *past = malloc(sizeof *past);
        if (!past)
            return false;
        *past = (struct keystore_past){ks->past, ks->seals[i]};
        ks->past = past;
        *at = i;
        return true;
    }
    return false;
}

bool keystore_take_masters(struct keystore *ks, const struct secret_key *masters, size_t n, struct detail *why)
{
    bool listed[TABLE_MASTERS] = {false};
    size_t first = 0;
    for (size_t i = 0; i < n; i++) {
        struct seal *seal = seal_new(&masters[i], ks->salt);
        size_t at = 0;
        while (seal && at < ks->seal_n && !secret_equal(seal_check(seal), seal_check(ks->seals[at]), SEAL_CHECK))
            at++;
        const bool known = seal && at < ks->seal_n;
        if (!seal || (!known && !make_place(ks, listed, &at))) {
            detail_set(why, seal ? "more than %d master keys in use at once" : "out of memory", TABLE_MASTERS);
            seal_free(seal);
            return false;
        }
        if (known)
            seal_free(seal);
        else
            ks->seals[at] = seal;
        listed[at] = true;
        first = i ? first : at;
    }
    for (size_t i = 0; i < ks->seal_n; i++)
        if (!listed[i] && ks->now.table && table_under(ks->now.table, (unsigned)i)) {
            detail_set(why, "%zu keys are still sealed under a master key that is not listed any more; list it behind "
                            "the new one until `kmsgate keys rekey` is done", table_under(ks->now.table, (unsigned)i));
            return false;
        }
    memcpy(ks->listed, listed, sizeof listed);
    ks->first = first;
    return true;
}

bool keystore_set_masters(struct keystore *ks, const struct secret_key *masters, size_t n, struct faults *faults)
{
    struct detail why = {{0}};
    pthread_mutex_lock(&ks->locks->db);
    const bool ok = n > 0 && keystore_take_masters(ks, masters, n, &why);
    pthread_mutex_unlock(&ks->locks->db);
    if (!ok)
        faults_add(faults, ks->where, 0, 0, "%s", why.text);
    return ok;
}

static bool open_and_load(struct keystore *ks, const struct keystore_place *at, struct detail *why)
{
    struct keydb_meta meta;
    if (!(ks->db = keystore_open_db(ks, at, at->how, why)))
        return false;
    if (keydb_version(ks->db, &ks->seen, why) != KEYDB_OK || keydb_begin(ks->db, false, why) != KEYDB_OK)
        return false;
    bool ok = keydb_meta(ks->db, &meta, why) == KEYDB_OK;
    if (ok) {
        memcpy(ks->salt, meta.salt, sizeof ks->salt);
        ok = keystore_take_masters(ks, at->masters, at->n, why) &&
             keystore_load(ks->db, ks, &ks->now, why) == KEYDB_OK;
    }
    ks->stamp = keydb_stamp(ks->db, ks->database); /* while no writer is at work */
    keydb_rollback(ks->db);
    atomic_store(&ks->in_step_us, time_mono_us());
    return ok;
}

struct keystore *keystore_open_at(const struct keystore_place *at, struct faults *faults)
{
    struct detail why = {"out of memory"};
    struct keystore *ks = calloc(1, sizeof *ks);
    bool ok = ks && at->n > 0 && (ks->where = keydb_shown(at->where)) && (ks->database = str_dup(str_z(at->where))) &&
              (ks->locks = keystore_locks_new());
    if (ok) {
        ks->refused = -1;
        ks->follower.fd = -1;
        ok = keystore_is_shared(ks) ? keystore_open_shared(ks, at, &why) : open_and_load(ks, at, &why);
        memcpy(ks->opened, ks->now.commit, sizeof ks->opened);
    }
    if (ok)
        return ks;
    faults_add(faults, ks && ks->where ? ks->where : "keys", 0, 0, "%s", why.text);
    keystore_close(ks);
    return NULL;
}

struct keystore *keystore_open_under(const char *where, const struct secret_key *masters, size_t n,
                                     enum keystore_opening how, struct faults *faults)
{
    const struct keystore_place at = {.where = where, .masters = masters, .n = n, .how = how};
    return keystore_open_at(&at, faults);
}

bool keystore_is_at(struct keystore *ks, int64_t version)
{
    pthread_mutex_lock(&ks->locks->db);
    const bool is = ks->seen == version && !ks->behind;
    pthread_mutex_unlock(&ks->locks->db);
    return is;
}

bool keystore_mac(const struct keystore *ks, const void *p, size_t n, uint8_t mac[32])
{
    pthread_mutex_lock(&ks->locks->db);
    const struct seal *seal = ks->seals[ks->first];
    pthread_mutex_unlock(&ks->locks->db);
    return seal_mac(seal, p, n, mac);
}

bool keystore_mac_holds(const struct keystore *ks, const void *p, size_t n, const uint8_t mac[32])
{
    uint8_t own[32];
    bool holds = false;
    pthread_mutex_lock(&ks->locks->db);
    for (size_t i = 0; i < ks->seal_n && !holds; i++)
        holds = ks->listed[i] && seal_mac(ks->seals[i], p, n, own) && secret_equal(own, mac, sizeof own);
    pthread_mutex_unlock(&ks->locks->db);
    return holds;
}

bool keystore_state_key(const struct keystore *ks, struct secret_key *out)
{
    return seal_state_key(ks->seals[ks->first], out);
}

struct keystore *keystore_open(const char *where, const struct secret_key *master, bool create, struct faults *faults)
{
    return keystore_open_under(where, master, 1, create ? KEYSTORE_MAKE : KEYSTORE_CHANGE, faults);
}

bool keystore_is_earlier(const struct keystore *ks)
{
    return ks->earlier;
}

const char *keystore_where(const struct keystore *ks)
{
    return ks->where;
}

void keystore_close(struct keystore *ks)
{
    if (!ks)
        return;
    if (ks->tells)
        followers_leave(&ks->follower);
    keydb_close(ks->db);
    table_free(ks->now.table);
    for (size_t i = 0; i < ks->seal_n; i++)
        seal_free(ks->seals[i]);
    while (ks->past) {
        struct keystore_past *past = ks->past;
        ks->past = past->next;
        seal_free(past->seal);
        free(past);
    }
    if (ks->locks) {
        pthread_rwlock_destroy(&ks->locks->table);
        pthread_mutex_destroy(&ks->locks->db);
    }
    free(ks->locks);
    free(ks->counter);
    if (ks->database)
        secret_wipe(ks->database, strlen(ks->database));
    free(ks->database);
    free(ks->where);
    free(ks);
}

void keystore_count(struct keystore *ks, int64_t now_us, size_t out[2][KEY_STATES])
{
    pthread_rwlock_rdlock(&ks->locks->table);
    table_count(ks->now.table, now_us, out);
    pthread_rwlock_unlock(&ks->locks->table);
}

uint64_t keystore_edition(const struct keystore *ks)
{
    return atomic_load(&ks->edition);
}

bool keystore_is_shared(const struct keystore *ks)
{
    return ks->database && keydb_is_shared(ks->database);
}

enum keystore_result keystore_user(const struct keystore *ks, struct str user, struct keyring *out)
{
    out->store = ks;
    out->user = STR_MISSING;
    out->text = NULL;
    out->n = 0;
    pthread_rwlock_rdlock(&ks->locks->table);
    enum keystore_result r = table_user(ks->now.table, user, out);
    pthread_rwlock_unlock(&ks->locks->table);
    return r;
}
