#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "keys/keycopy.h"
#include "keys/keystore_inside.h"

enum { CLOCKS_S = 60 /* by so much the clock may have been put back since the stamp */ };

static bool copy_path(const char *folder, char out[PATH_MAX])
{
    const int n = folder ? snprintf(out, PATH_MAX, "%s/" KEYCOPY_FILE, folder) : 0;
    return n > 0 && n < PATH_MAX && access(out, F_OK) == 0;
}

/* The copy, whole and verified, of the database whose salt the store has; or, where it has none yet, of whatever it is
 * a copy of. False with the reason: it is of no use. */
static bool load_copy(struct keystore *ks, const struct secret_key *masters, size_t n, const char *path,
                      struct keystore_state *out, struct detail *why)
{
    static const uint8_t NONE[SEAL_SALT];
    struct keydb_meta meta;
    struct keydb *db = keydb_open(path, why);
    bool ok = db && keydb_begin(db, false, why) == KEYDB_OK && keydb_meta(db, &meta, why) == KEYDB_OK;
    if (ok && secret_equal(ks->salt, NONE, sizeof NONE)) {
        memcpy(ks->salt, meta.salt, sizeof ks->salt);
        ok = keystore_take_masters(ks, masters, n, why);
    }
    ok = ok && keystore_load(db, ks, out, why) == KEYDB_OK;
    if (db) {
        keydb_rollback(db);
        keydb_close(db);
    }
    return ok;
}

/* The database is away, or went away while it was read: nothing of that is kept. What was revoked since the stamp is
 * not known; so it must be young. */
static bool start_from_copy(struct keystore *ks, const struct keystore_place *at, const char *path, struct detail *why)
{
    const struct detail away = *why;
    struct detail d = {{0}};
    uint64_t seq = 0;
    int64_t us = 0;
    table_free(ks->now.table);
    ks->now = (struct keystore_state){0};
    if (!load_copy(ks, at->masters, at->n, path, &ks->now, &d)) {
        detail_set(why, "%.90s, and the sealed copy %s is of no use: %.100s", away.text, KEYCOPY_FILE, d.text);
        return false;
    }
    const bool stamped = keycopy_stamp(ks, at->folder, &seq, &us) && seq <= ks->now.last_seq;
    const int64_t age = time_now_us() - us;
    if (!stamped || age > at->max_age_us || age < -CLOCKS_S * US_PER_S) {
        if (stamped && age < 0)
            detail_set(why, "%.90s, and the sealed copy %s was made when this machine's clock was %lld s ahead",
                       away.text, KEYCOPY_FILE, (long long)(-age / US_PER_S));
        else if (stamped)
            detail_set(why, "%.90s, and the sealed copy %s is %lld s old: keys_max_age is %lld s", away.text,
                       KEYCOPY_FILE, (long long)(age / US_PER_S), (long long)(at->max_age_us / US_PER_S));
        else
            detail_set(why, "%.90s, and %s does not say how old the sealed copy is", away.text, KEYCOPY_STAMP);
        return false;
    }
    log_warn("keys", ks->where, "%s; the keys are those of the sealed copy, %lld s old", away.text,
             (long long)(age > 0 ? age / US_PER_S : 0));
    ks->behind = true;
    atomic_store(&ks->in_step_us, time_mono_us() - (age > 0 ? age : 0));
    return true;
}

/* In a transaction: all of it, and where there is a copy, held against that first, by the changes since: so a database
 * with another past than this gateway knows is found out, and so is a row that has not changed by our rules. */
static enum keydb_result load_shared(struct keystore *ks, const struct keystore_place *at, const char *path,
                                     struct detail *why)
{
    struct keydb_meta meta;
    struct detail unusable = {{0}}, refusal = {{0}};
    bool changed;
    enum keydb_result r = keydb_version(ks->db, &ks->seen, why);
    if (r == KEYDB_OK)
        r = keydb_meta(ks->db, &meta, why);
    if (r != KEYDB_OK)
        return r;
    memcpy(ks->salt, meta.salt, sizeof ks->salt);
    if (!keystore_take_masters(ks, at->masters, at->n, why))
        return KEYDB_FAILED;
    if (!path || !load_copy(ks, at->masters, at->n, path, &ks->now, &unusable)) {
        if (path)
            log_warn("keys", path, "the sealed copy is of no use: %s; all keys are read anew", unusable.text);
        return keystore_load(ks->db, ks, &ks->now, why);
    }
    r = keystore_absorb(ks, &changed, &refusal);
    if (r == KEYDB_REFUSED)
        detail_set(why, "held against the sealed copy %s: %.160s. To take the database as it is, remove that file",
                   KEYCOPY_FILE, refusal.text);
    else if (r != KEYDB_OK)
        *why = refusal;
    else
        r = keystore_reread(ks, why);
    return r;
}

bool keystore_open_shared(struct keystore *ks, const struct keystore_place *at, struct detail *why)
{
    char path[PATH_MAX];
    const bool copied = copy_path(at->folder, path);
    /* where there is a copy there was a database */
    if (!(ks->db = keystore_open_db(ks, at, copied ? KEYSTORE_CHANGE : at->how, why)))
        return false;
    enum keydb_result r = keydb_begin(ks->db, false, why);
    if (r == KEYDB_OK) {
        r = load_shared(ks, at, copied ? path : NULL, why);
        keydb_rollback(ks->db);
    }
    if (r == KEYDB_AWAY && copied)
        return start_from_copy(ks, at, path, why);
    atomic_store(&ks->in_step_us, time_mono_us());
    return r == KEYDB_OK;
}
