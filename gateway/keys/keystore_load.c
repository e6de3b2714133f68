#include <stdlib.h>
#include <string.h>

#include "keys/keystore_inside.h"

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

/* What the sums are bound to. */
enum { META_LABEL = 16, META_TEXT = META_LABEL + 3 * 8 + SEAL_SALT + SEAL_CHECK };

static void meta_text(const struct keydb_meta *meta, uint8_t out[META_TEXT])
{
    const uint64_t numbers[] = {meta->version, meta->count, meta->last_seq};
    static const uint8_t LABEL[META_LABEL] = "kmsgate meta 2";
    memcpy(out, LABEL, sizeof LABEL);
    uint8_t *at = out + META_LABEL;
    for (size_t i = 0; i < 3; i++)
        for (int shift = 56; shift >= 0; shift -= 8)
            *at++ = (uint8_t)(numbers[i] >> shift);
    memcpy(at, meta->salt, SEAL_SALT);
    memcpy(at + SEAL_SALT, meta->check, SEAL_CHECK);
}

bool keystore_meta_seal(const struct seal *seal, struct keydb_meta *meta, const struct seal_sum sums[2])
{
    uint8_t text[META_TEXT];
    memcpy(meta->check, seal_check(seal), sizeof meta->check);
    meta_text(meta, text);
    return seal_close_sums(seal, text, sizeof text, sums, meta->sums);
}

enum keydb_result keystore_meta(struct keydb *db, const struct keystore *ks, struct keydb_meta *out,
                                struct seal_sum sums[2], struct detail *why)
{
    uint8_t text[META_TEXT];
    const struct seal *seal = NULL;
    bool failed = false;
    enum keydb_result r = keydb_meta(db, out, why);
    if (r != KEYDB_OK)
        return r;
    for (size_t i = 0; i < ks->seal_n; i++)
        if (ks->listed[i] && secret_equal(out->check, seal_check(ks->seals[i]), SEAL_CHECK))
            seal = ks->seals[i];
    meta_text(out, text);
    if (out->version != KEYDB_SCHEMA)
        detail_set(why, "tampered with: the meta row speaks of version %llu", (unsigned long long)out->version);
    else if (!secret_equal(out->salt, ks->salt, SEAL_SALT))
        detail_set(why, "is another database than the one whose keys are in use; put that one back, or restart to take "
                        "this one");
    else if (!seal)
        detail_set(why, "the master key is not the one that this database was made with");
    else if (!seal_open_sums(seal, text, sizeof text, out->sums, sums, &failed))
        detail_set(why, failed ? "out of memory" : "tampered with: the meta row does not verify");
    else
        return KEYDB_OK;
    return failed ? KEYDB_FAILED : KEYDB_REFUSED;
}

void openers_free(struct openers *o)
{
    for (size_t i = 0; i < TABLE_MASTERS; i++)
        seal_opener_free(o->v[i]);
    secret_key_clear(&o->clear);
}

int keystore_seal_of(const struct keystore *ks, uint32_t name)
{
    for (size_t i = 0; i < ks->seal_n; i++)
        if (ks->listed[i] && seal_name(ks->seals[i]) == name)
            return (int)i;
    return -1;
}

static struct seal_opener *opener(struct openers *o, unsigned under)
{
    if (!o->v[under])
        o->v[under] = seal_opener_new(o->ks->seals[under]);
    return o->v[under];
}

enum keydb_result keystore_verify(struct openers *o, struct key_row *row, struct detail *why)
{
    const int under = keystore_seal_of(o->ks, row->master);
    if (under < 0) {
        detail_set(why, "tampered with, or sealed under a master key that is not listed: %s does not verify",
                   key_row_name(row).text);
        return KEYDB_REFUSED;
    }
    row->key.under = (uint8_t)under;
    if (!opener(o, (unsigned)under)) {
        detail_set(why, "out of memory");
        return KEYDB_FAILED;
    }
    if (seal_opener_open(o->v[under], row->user, &row->key, &o->clear))
        return KEYDB_OK;
    detail_set(why, "tampered with: %s does not verify", key_row_name(row).text);
    return KEYDB_REFUSED;
}

bool keystore_tag(struct openers *o, const struct key *key, struct seal_sum *tag)
{
    struct seal_opener *v = opener(o, key->under);
    return v && seal_opener_tag(v, key, tag);
}

static bool may_rest(const void *arg)
{
    const struct keystore *ks = arg;
    return atomic_load(&ks->gives_way) && !keydb_is_wanted(ks->rests_on);
}

struct pace keystore_pace(const struct keystore *ks)
{
    return (struct pace){.rests = ks->rests_on != NULL, .may = may_rest, .arg = ks};
}

struct loading {
    struct openers openers;
    struct keystore_state *out;
    struct seal_sum tombs;
    struct pace pace;
    enum keydb_result r; /* FAILED: says nothing of the database, and is tried again */
};

static bool load_fails(struct loading *l, enum keydb_result r, const struct key_row *row, struct detail *why)
{
    l->r = r;
    if (r == KEYDB_REFUSED)
        detail_set(why, "damaged: %s is there twice", key_row_name(row).text);
    else
        detail_set(why, "out of memory, or more than %d keys of one user: %s", LIMIT_USER_KEYS, key_row_name(row).text);
    return false;
}

/* Of each of millions: no word is made before it is due. */
static bool load_row(void *arg, const struct key_row *claim, struct detail *why)
{
    struct loading *l = arg;
    struct key_row row = *claim;
    struct seal_sum tag;
    struct key there;
    pace_step(&l->pace);
    if ((l->r = keystore_verify(&l->openers, &row, why)) != KEYDB_OK)
        return false;
    if (!keystore_tag(&l->openers, &row.key, &tag))
        return load_fails(l, KEYDB_FAILED, &row, why);
    if (row.key.seq > l->out->last_seq)
        l->out->last_seq = row.key.seq;
    if (row.key.state == KEY_PRUNED) {
        seal_sum_add(&l->tombs, &tag);
        return true;
    }
    const size_t before = table_size(l->out->table);
    const bool set = table_set(l->out->table, &row), grew = table_size(l->out->table) > before;
    if (set && grew) {
        seal_sum_add(&l->out->sum, &tag);
        return true;
    }
    const bool twice = !grew && (set || table_find(l->out->table, row.user, row.key.id, &there));
    return load_fails(l, twice ? KEYDB_REFUSED : KEYDB_FAILED, &row, why);
}

enum keydb_result keystore_load(struct keydb *db, const struct keystore *ks, struct keystore_state *out,
                                struct detail *why)
{
    struct keydb_meta meta;
    struct seal_sum sums[2];
    enum keydb_result r = keystore_meta(db, ks, &meta, sums, why);
    if (r != KEYDB_OK)
        return r;
    struct loading l = {.openers = {.ks = ks}, .out = out, .pace = keystore_pace(ks), .r = KEYDB_OK};
    *out = (struct keystore_state){.table = table_new(meta.count / 2)}; /* most have a key of each type */
    if (!out->table) {
        detail_set(why, "out of memory");
        return KEYDB_FAILED;
    }
    r = keydb_all(db, load_row, &l, why);
    openers_free(&l.openers);
    if (r == KEYDB_REFUSED && l.r == KEYDB_FAILED)
        r = KEYDB_FAILED;
    if (r == KEYDB_OK) {
        r = KEYDB_REFUSED;
        if (table_size(out->table) != meta.count)
            detail_set(why, "tampered with: %zu keys where there were %llu", table_size(out->table),
                       (unsigned long long)meta.count);
        else if (!seal_sum_equal(&out->sum, &sums[0]) || out->last_seq > meta.last_seq)
            detail_set(why, "tampered with: a key was put back to an earlier state");
        else if (!seal_sum_equal(&l.tombs, &sums[1]))
            detail_set(why, "tampered with: what is kept of revoked keys was changed");
        else
            r = KEYDB_OK;
    }
    out->last_seq = meta.last_seq;
    memcpy(out->commit, meta.sums, sizeof out->commit);
    if (r != KEYDB_OK) {
        table_free(out->table);
        out->table = NULL;
    }
    return r;
}
