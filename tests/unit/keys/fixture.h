/* A folder, a master key and a database of its own for each test; and SQL behind the keystore's back. */
#ifndef KMSGATE_TESTS_KEYS_FIXTURE_H
#define KMSGATE_TESTS_KEYS_FIXTURE_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/rand.h>
#include <sqlite3.h>

#include "base/buf.h"
#include "keys/keystore.h"

#define ALICE "sip:alice@example.org"
#define BOB "sip:bob@example.org"
#define UNUSED __attribute__((unused))

struct fixture {
    char folder[64], path[96], copy[96];
    struct secret_key master;
    struct faults faults;
    size_t counts[3], at;
};

static int set_up(void **state) UNUSED;
static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    if (!f || RAND_bytes(f->master.b, sizeof f->master.b) != 1)
        return -1;
    snprintf(f->folder, sizeof f->folder, "/tmp/kmsgate-keys-XXXXXX");
    if (!mkdtemp(f->folder))
        return -1;
    snprintf(f->path, sizeof f->path, "%s/k.db", f->folder);
    snprintf(f->copy, sizeof f->copy, "%s/copy.db", f->folder);
    *state = f;
    return 0;
}

static int tear_down(void **state) UNUSED;
static int tear_down(void **state)
{
    struct fixture *f = *state;
    chmod(f->folder, 0700);
    unlink(f->path);
    unlink(f->copy);
    int left = rmdir(f->folder); /* fails when something was left behind, a journal or half a database */
    faults_free(&f->faults);
    free(f);
    return left;
}

static void forget_faults(struct fixture *f) UNUSED;
static void forget_faults(struct fixture *f)
{
    faults_free(&f->faults);
    f->faults = (struct faults){0};
}

/* The key whose bytes are all b. */
static struct secret_key key_of(uint8_t b) UNUSED;
static struct secret_key key_of(uint8_t b)
{
    struct secret_key k;
    memset(k.b, b, sizeof k.b);
    return k;
}

static struct key_entry entry(const char *user, enum key_type type, const char *id, uint8_t b) UNUSED;
static struct key_entry entry(const char *user, enum key_type type, const char *id, uint8_t b)
{
    return (struct key_entry){.user = str_z(user), .id = str_z(id), .type = type, .state = KEY_ACTIVE,
                              .not_after = TIME_NONE, .key = key_of(b)};
}

static bool put(struct fixture *f, struct keystore *ks, struct key_entry e) UNUSED;
static bool put(struct fixture *f, struct keystore *ks, struct key_entry e)
{
    return keystore_put(ks, &e, 1, false, f->counts, &f->at, &f->faults);
}

static bool replace(struct fixture *f, struct keystore *ks, struct key_entry e) UNUSED;
static bool replace(struct fixture *f, struct keystore *ks, struct key_entry e)
{
    return keystore_put(ks, &e, 1, true, f->counts, &f->at, &f->faults);
}

static struct keystore *open_store(struct fixture *f) UNUSED;
static struct keystore *open_store(struct fixture *f)
{
    struct keystore *ks = keystore_open(f->path, &f->master, true, &f->faults);
    if (!ks)
        faults_print(&f->faults, stderr);
    assert_non_null(ks);
    return ks;
}

/* A database with a pair of keys for each of two users. */
static void fill_store(struct fixture *f) UNUSED;
static void fill_store(struct fixture *f)
{
    struct key_entry v[] = {entry(ALICE, KEY_INK, "ink.1.alice", 1), entry(ALICE, KEY_TRK, "trk.1.alice", 2),
                            entry(BOB, KEY_INK, "ink.1.bob", 3), entry(BOB, KEY_TRK, "trk.1.bob", 4)};
    struct keystore *ks = open_store(f);
    assert_true(keystore_put(ks, v, 4, false, f->counts, &f->at, &f->faults));
    keystore_close(ks);
}

/* Some fault of the fixture holds the text. */
static bool told(const struct fixture *f, const char *text) UNUSED;
static bool told(const struct fixture *f, const char *text)
{
    for (size_t i = 0; i < f->faults.n; i++)
        if (strstr(f->faults.v[i].text, text))
            return true;
    faults_print(&f->faults, stderr);
    return false;
}

static void sql(const struct fixture *f, const char *text) UNUSED;
static void sql(const struct fixture *f, const char *text)
{
    sqlite3 *db = NULL;
    char *why = NULL;
    assert_int_equal(sqlite3_open(f->path, &db), SQLITE_OK);
    sqlite3_busy_timeout(db, 10000);
    if (sqlite3_exec(db, text, NULL, NULL, &why) != SQLITE_OK)
        fail_msg("%s: %s", text, why);
    assert_true(sqlite3_total_changes(db) > 0 || strstr(text, "CREATE") || strstr(text, "PRAGMA") ||
                strstr(text, "DROP"));
    sqlite3_close(db);
}

static void copy_file(const char *from, const char *to) UNUSED;
static void copy_file(const char *from, const char *to)
{
    char block[65536];
    int in = open(from, O_RDONLY), out = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(in >= 0 && out >= 0);
    for (ssize_t n; (n = read(in, block, sizeof block)) > 0;)
        assert_int_equal(write(out, block, (size_t)n), n);
    close(in);
    close(out);
}

/* The clear key that the store gives for an ID begins with b; the user and the key are there. */
static bool has_key(const struct keystore *ks, const char *user, const char *id, uint8_t b) UNUSED;
static bool has_key(const struct keystore *ks, const char *user, const char *id, uint8_t b)
{
    struct keyring ring;
    struct secret_key clear = {{0}}, want = key_of(b);
    bool ok = keystore_user(ks, str_z(user), &ring) == KEYSTORE_OK;
    const struct key *key = ok ? keyring_find(&ring, str_z(id)) : NULL;
    ok = key && keyring_open(&ring, key, &clear) && secret_equal(clear.b, want.b, sizeof want.b);
    keyring_clear(&ring);
    return ok;
}

/* -1 when there is no such key. */
static int state_of(const struct keystore *ks, const char *user, const char *id) UNUSED;
static int state_of(const struct keystore *ks, const char *user, const char *id)
{
    struct keyring ring;
    bool ok = keystore_user(ks, str_z(user), &ring) == KEYSTORE_OK;
    const struct key *key = ok ? keyring_find(&ring, str_z(id)) : NULL;
    int state = key ? (int)key->state : -1;
    keyring_clear(&ring);
    return state;
}

#endif
