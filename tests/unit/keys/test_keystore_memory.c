/*
 * Memory ends at the n-th allocation of SQLite and OpenSSL, for every n: what is done is done whole or not at all, a
 * failure is told as one and never as tampering, and when there is memory again, all goes on.
 */
#include "fixture.h"

#include "../ending_memory.h"

#include <limits.h>

#include "base/crypto.h"
#include "keys/keylife.h"

#include <openssl/crypto.h>

enum { ALLOCATIONS_MAX = 20000 };
#define PLENTY LONG_MIN
static long left = PLENTY; /* allocations until memory ends */
static long failing = ALLOCATIONS_MAX; /* how many fail then */
static unsigned offered_in_want;
static bool ended;
static sqlite3_mem_methods plain;

static bool denied(void)
{
    if (left == PLENTY)
        return false;
    if (left-- > 0)
        return false;
    ended = true;
    if (-left < failing)
        return true;
    left = PLENTY;
    return true;
}

static void *sqlite_takes(int n)
{
    return denied() ? NULL : plain.xMalloc(n);
}

static void *sqlite_moves(void *p, int n)
{
    return denied() ? NULL : plain.xRealloc(p, n);
}

enum deed { OPEN, PUT, REFRESH, FIND };

static bool try_it(struct fixture *f, struct keystore **ks, enum deed deed, char why[200])
{
    struct keyring ring;
    struct secret_key clear SECRET_CLEANUP = {{0}};
    bool changed, ok = false;
    switch (deed) {
    case OPEN:
        *ks = keystore_open(f->path, &f->master, false, &f->faults);
        return *ks != NULL;
    case PUT:
        return put(f, *ks, entry(ALICE, KEY_INK, "ink.2.alice", 22));
    case REFRESH:
        return keystore_refresh(*ks, &changed, why, 200);
    case FIND:
        ok = keystore_user(*ks, STR(ALICE), &ring) == KEYSTORE_OK && keyring_open(&ring, &ring.keys[0], &clear);
        keyring_clear(&ring);
    }
    return ok;
}

/* Of an offer: it is in the table at once, with what is told to its user; or it is told to nobody. `row`: so many
 * allocations in a row fail. */
static bool offer_ends_at(struct fixture *f, long n, long row)
{
    const struct key_wish wish = {.deed = KEY_OFFER, .type = KEY_INK, .user = STR(ALICE), .id = STR("ink.1.alice"),
                                  .trk = STR("trk.1.alice")};
    struct key_fate fate;
    copy_file(f->copy, f->path);
    struct keystore *ks = open_store(f);
    ended = false;
    left = n;
    failing = row;
    keystore_do(ks, &wish, 1, 0, &fate);
    left = PLENTY;
    assert_true(fate.outcome == KEY_OFFERED_NEW || fate.outcome == KEY_DEFERRED);
    assert_true(fate.outcome == KEY_OFFERED_NEW || ended);
    if (fate.outcome == KEY_OFFERED_NEW) {
        assert_int_equal(state_of(ks, ALICE, "ink.2.alice"), KEY_OFFERED);
        offered_in_want += ended;
    }
    key_fates_free(&fate, 1);
    keystore_do(ks, &wish, 1, 0, &fate);
    assert_true(fate.outcome == KEY_OFFERED_NEW || fate.outcome == KEY_RESENT);
    assert_int_equal(state_of(ks, ALICE, "ink.2.alice"), KEY_OFFERED);
    key_fates_free(&fate, 1);
    keystore_close(ks);
    return ended;
}

static void while_offering(void **state)
{
    static const long ROWS[] = {1, 20, ALLOCATIONS_MAX};
    struct fixture *f = *state;
    fill_store(f);
    copy_file(f->path, f->copy);
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++) {
        long n = 0;
        while (n < ALLOCATIONS_MAX && offer_ends_at(f, n, ROWS[i]))
            n++;
        print_message("%ld allocations\n", n);
        assert_true(n > 0 && n < ALLOCATIONS_MAX);
    }
    failing = ALLOCATIONS_MAX;
    assert_true(offered_in_want > 0);
}

/* True while memory ended in it. */
static bool ends_at(struct fixture *f, enum deed deed, long n)
{
    struct keystore *ks = NULL;
    char why[200] = "";
    bool changed;
    copy_file(f->copy, f->path);
    if (deed != OPEN)
        ks = open_store(f);
    if (deed == REFRESH) {
        struct keystore *other = open_store(f);
        assert_true(put(f, other, entry(ALICE, KEY_INK, "ink.2.alice", 22)));
        keystore_close(other);
    }
    if (deed == FIND)
        crypto_thread_end(); /* whose contexts are made by the first who opens a key, and then kept */
    ended = false;
    left = n;
    bool ok = try_it(f, &ks, deed, why);
    left = PLENTY;
    assert_true(ok || ended);
    assert_true(ok || deed == FIND || deed == REFRESH ? f->faults.n == 0 : f->faults.n > 0);
    assert_true(ok || deed != REFRESH || why[0]);
    for (size_t i = 0; i < f->faults.n; i++)
        assert_null(strstr(f->faults.v[i].text, "tampered"));
    assert_null(strstr(why, "tampered"));
    forget_faults(f);
    if (ks) {
        assert_true(keystore_refresh(ks, &changed, why, sizeof why));
        assert_int_equal(has_key(ks, ALICE, "ink.2.alice", 22), deed == REFRESH || (deed == PUT && ok));
        assert_true(has_key(ks, BOB, "ink.1.bob", 3));
        keystore_close(ks);
    }
    ks = open_store(f); /* and on disk, for another process */
    assert_int_equal(has_key(ks, ALICE, "ink.2.alice", 22), deed == REFRESH || (deed == PUT && ok));
    assert_int_equal(state_of(ks, ALICE, "ink.1.alice"),
                     deed == REFRESH || (deed == PUT && ok) ? KEY_RETIRING : KEY_ACTIVE);
    keystore_close(ks);
    return ended;
}

static void memory_ends(void **state, enum deed deed)
{
    struct fixture *f = *state;
    long n = 0;
    fill_store(f);
    copy_file(f->path, f->copy);
    while (n < ALLOCATIONS_MAX && ends_at(f, deed, n))
        n++;
    print_message("%ld allocations\n", n);
    assert_true(n > 0 && n < ALLOCATIONS_MAX);
}

static void while_opening(void **state)
{
    memory_ends(state, OPEN);
}

static void while_writing(void **state)
{
    memory_ends(state, PUT);
}

static void while_following(void **state)
{
    memory_ends(state, REFRESH);
}

static void while_finding(void **state)
{
    memory_ends(state, FIND);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {T(while_opening), T(while_writing), T(while_following), T(while_finding),
                                       T(while_offering)};
    if (CRYPTO_set_mem_functions(crypto_malloc, crypto_realloc, crypto_free) != 1 ||
        sqlite3_config(SQLITE_CONFIG_GETMALLOC, &plain) != SQLITE_OK)
        return 1;
    sqlite3_mem_methods limited = plain;
    limited.xMalloc = sqlite_takes;
    limited.xRealloc = sqlite_moves;
    if (sqlite3_config(SQLITE_CONFIG_MALLOC, &limited) != SQLITE_OK)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
