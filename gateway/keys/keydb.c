#include "keys/keydb.h"

#include "base/uri.h"

/* The last one takes what no other takes. */
static const struct keydb_kind *const KINDS[] = {
#ifdef KMSGATE_FLEET
    &KEYDB_POSTGRES,
#endif
    &KEYDB_SQLITE};

static const struct keydb_kind *kind_of(const char *where)
{
    for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++) /* NOLINT(bugprone-sizeof-expression): pointers */
        if (!KINDS[i]->scheme || str_starts(str_z(where), str_z(KINDS[i]->scheme)))
            return KINDS[i];
    return &KEYDB_SQLITE;
}

char *keydb_shown(const char *where)
{
    enum { SHOWN_MAX = 64 << 10 };
    struct buf b BUF_CLEANUP = BUF_INIT(SHOWN_MAX);
    if (kind_of(where)->scheme)
        uri_mask(str_z(where), &b);
    else
        buf_z(&b, where);
    return b.failed || !b.p ? NULL : str_dup(buf_view(&b));
}

bool keydb_is_shared(const char *where)
{
    return kind_of(where)->shared;
}

void keydb_lint(const char *where, const char *shown, struct faults *faults)
{
    const struct keydb_kind *kind = kind_of(where);
    if (kind->lint)
        kind->lint(where, shown, faults);
}

enum keydb_result keydb_create(const char *where, const struct keydb_meta *meta, struct detail *why)
{
    return kind_of(where)->create(where, meta, why);
}

enum keydb_result keydb_takeover(const char *where, const struct secret_key *masters, size_t n, struct detail *why)
{
    const struct keydb_kind *kind = kind_of(where);
    return kind->takeover ? kind->takeover(where, masters, n, why) : KEYDB_OK;
}

struct keydb *keydb_draft(const char *where, const struct keydb_meta *meta, bool *there, struct detail *why)
{
    const struct keydb_kind *kind = kind_of(where);
    *there = true;
    if (kind->draft)
        return kind->draft(where, meta, there, why);
    const enum keydb_result made = kind->create(where, meta, why);
    *there = made == KEYDB_OK || made == KEYDB_REFUSED;
    return NULL;
}

bool keydb_is_draft(const struct keydb *db)
{
    return db->kind->is_draft && db->kind->is_draft(db);
}

struct keydb *keydb_preview(const char *where, const struct secret_key *masters, size_t n, bool *older,
                            struct detail *why)
{
    const struct keydb_kind *kind = kind_of(where);
    *older = false;
    return kind->preview ? kind->preview(where, masters, n, older, why) : kind->open(where, why);
}

struct keydb *keydb_open(const char *where, struct detail *why)
{
    return kind_of(where)->open(where, why);
}

void keydb_close(struct keydb *db)
{
    if (db)
        db->kind->close(db);
}

bool keydb_is_current(const struct keydb *db, const char *where)
{
    return db->kind->is_current(db, where);
}

bool keydb_readonly(const struct keydb *db)
{
    return db->kind->readonly(db);
}

bool keydb_is_file(const struct keydb *db)
{
    return !db->kind->scheme;
}

void keydb_identity(const struct keydb *db, uint64_t out[2])
{
    db->kind->identity(db, out);
}

uint64_t keydb_stamp(const struct keydb *db, const char *where)
{
    return db->kind->stamp ? db->kind->stamp(db, where) : 0;
}

void keydb_say(struct keydb *db, const char *word)
{
    if (db->kind->say)
        db->kind->say(db, word);
}

enum keydb_result keydb_words(struct keydb *db, keydb_each_word each, void *arg, struct detail *why)
{
    return db->kind->words ? db->kind->words(db, each, arg, why) : KEYDB_OK;
}

void keydb_patience(struct keydb *db, int ms)
{
    db->kind->patience(db, ms);
}

bool keydb_is_wanted(const struct keydb *db)
{
    return db->kind->is_wanted && db->kind->is_wanted(db);
}

enum keydb_result keydb_version(struct keydb *db, int64_t *version, struct detail *why)
{
    return db->kind->version(db, version, why);
}

enum keydb_result keydb_begin(struct keydb *db, bool write, struct detail *why)
{
    return db->kind->begin(db, write, why);
}

enum keydb_result keydb_commit(struct keydb *db, struct detail *why)
{
    return db->kind->commit(db, why);
}

void keydb_rollback(struct keydb *db)
{
    if (db)
        db->kind->rollback(db);
}

enum keydb_result keydb_meta(struct keydb *db, struct keydb_meta *out, struct detail *why)
{
    return db->kind->meta(db, out, why);
}

enum keydb_result keydb_set_meta(struct keydb *db, const struct keydb_meta *meta, struct detail *why)
{
    return db->kind->set_meta(db, meta, why);
}

enum keydb_result keydb_all(struct keydb *db, keydb_each each, void *arg, struct detail *why)
{
    return db->kind->all(db, each, arg, why);
}

enum keydb_result keydb_since(struct keydb *db, uint64_t seq, keydb_each each, void *arg, struct detail *why)
{
    return db->kind->since(db, seq, each, arg, why);
}

enum keydb_result keydb_removed(struct keydb *db, uint64_t seq, keydb_each_removed each, void *arg, struct detail *why)
{
    return db->kind->removed(db, seq, each, arg, why);
}

enum keydb_result keydb_of_user(struct keydb *db, struct str user, keydb_each each, void *arg, struct detail *why)
{
    return db->kind->of_user(db, user, each, arg, why);
}

enum keydb_result keydb_fetch(struct keydb *db, const struct str *users, size_t n, struct detail *why)
{
    return db->kind->fetch ? db->kind->fetch(db, users, n, why) : KEYDB_OK;
}

enum keydb_result keydb_users(struct keydb *db, struct str after, size_t limit, keydb_each_removed each, void *arg,
                              struct detail *why)
{
    return db->kind->users(db, after, limit, each, arg, why);
}

enum keydb_result keydb_put(struct keydb *db, const struct key_row *row, struct detail *why)
{
    return db->kind->put(db, row, why);
}

enum keydb_result keydb_remove(struct keydb *db, const struct key_row *row, struct detail *why)
{
    return db->kind->remove(db, row, why);
}
