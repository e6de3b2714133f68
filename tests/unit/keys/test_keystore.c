/* Opening, finding, choosing a key, following what other processes change. */
#include "fixture.h"

#include "keys/keydb.h"

static void nobody(void **state)
{
    struct fixture *f = *state;
    fill_store(f);
    struct keystore *ks = open_store(f);
    struct keyring ring;
    const struct str names[] = {STR("sip:carol@example.org"), STR(""), STR("sip:alice@example.or"), STR_MISSING,
                                STR("sip:alice@example.org "), STR("sip:alice@example.org\0")};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        assert_int_equal(keystore_user(ks, names[i], &ring), KEYSTORE_NOT_FOUND);
        assert_int_equal(ring.n, 0);
        assert_null(keyring_find(&ring, STR("ink.1.alice")));
        assert_false(keyring_has_ink(&ring));
        keyring_clear(&ring);
    }
    assert_int_equal(keystore_user(ks, STR(ALICE), &ring), KEYSTORE_OK);
    assert_int_equal(ring.n, 2);
    assert_null(keyring_find(&ring, STR("ink.1.bob")));
    assert_null(keyring_find(&ring, STR_MISSING));
    assert_non_null(keyring_find(&ring, STR("ink.1.alice")));
    keyring_clear(&ring);
    keystore_close(ks);
}

/* A ring is a copy: later changes do not touch it; and it opens nothing but what it was given. */
static void ring_is_a_copy(void **state)
{
    struct fixture *f = *state;
    fill_store(f);
    struct keystore *ks = open_store(f);
    struct keyring ring;
    struct secret_key clear = {{0}}, want = key_of(1), none = {{0}};
    assert_int_equal(keystore_user(ks, STR(ALICE), &ring), KEYSTORE_OK);
    assert_true(replace(f, ks, entry(ALICE, KEY_INK, "ink.1.alice", 77)));
    struct key key = *keyring_find(&ring, STR("ink.1.alice"));
    assert_true(keyring_open(&ring, &key, &clear) && secret_equal(clear.b, want.b, sizeof want.b));
    struct key bad[6] = {key, key, key, key, key, key};
    bad[0].type = KEY_TRK;
    bad[1].state = KEY_RETIRING;
    bad[2].not_after = 1;
    bad[3].seq++;
    bad[4].id = STR("ink.2.alice");
    bad[5].sealed[20] ^= 1;
    for (size_t i = 0; i < 6; i++) {
        clear = key_of(5);
        assert_false(keyring_open(&ring, &bad[i], &clear));
        assert_true(secret_equal(clear.b, none.b, sizeof none.b));
    }
    ring.user = STR(BOB);
    assert_false(keyring_open(&ring, &key, &clear));
    keyring_clear(&ring);
    assert_true(has_key(ks, ALICE, "ink.1.alice", 77));
    keystore_close(ks);
}

/* Two at once are what each is alone, in either order; with one that does not open, neither is there. */
static void two_at_once(void **state)
{
    struct fixture *f = *state;
    fill_store(f);
    struct keystore *ks = open_store(f);
    struct keyring ring;
    struct secret_key alone[2], both[2], none = {{0}};
    assert_int_equal(keystore_user(ks, STR(ALICE), &ring), KEYSTORE_OK);
    assert_int_equal(ring.n, 2);
    for (size_t first = 0; first < 2; first++) {
        const struct key *keys[2] = {&ring.keys[first], &ring.keys[1 - first]};
        struct key bad = *keys[1];
        bad.sealed[20] ^= 1;
        for (size_t i = 0; i < 2; i++)
            assert_true(keyring_open(&ring, keys[i], &alone[i]));
        assert_true(keyring_open_two(&ring, keys, both));
        assert_true(secret_equal(both, alone, sizeof both));
        assert_true(keyring_open_two(&ring, (const struct key *[]){keys[0], keys[0]}, both)); /* the TrK signs */
        assert_true(secret_equal(&both[0], &alone[0], sizeof *both) && secret_equal(&both[1], &alone[0], sizeof *both));
        for (size_t i = 0; i < 2; i++) {
            both[0] = both[1] = key_of(5);
            assert_false(keyring_open_two(&ring, (const struct key *[]){i ? &bad : keys[0], i ? keys[0] : &bad}, both));
            assert_true(secret_equal(&both[0], &none, sizeof none) && secret_equal(&both[1], &none, sizeof none));
        }
    }
    keyring_clear(&ring);
    keystore_close(ks);
}

/* Contract, "Which key". Letters: a active, r retiring, v revoked; e: active but expired. */
static void which_key(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *states;
        int newest; /* index, -1: none */
        const char *usable;
        bool has;
    } rows[] = {
        {"", -1, "", false},     {"a", 0, "y", true},     {"r", -1, "y", true},      {"v", -1, "n", true},
        {"e", -1, "n", true},    {"vv", -1, "nn", true},  {"ve", -1, "nn", true},    {"ra", 1, "yy", true},
        {"ar", 0, "yy", true},   {"va", 1, "ny", true},   {"ae", 0, "yn", true},     {"rave", 1, "yynn", true},
        {"rrra", 3, "yyyy", true}, {"rr", -1, "yy", true}, {"rrv", -1, "yyn", true},
    };
    struct keystore *ks = open_store(f);
    const int64_t now = time_now_us();
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (enum key_type type = KEY_INK; type <= KEY_TRK; type++) {
            char user[64], id[32];
            struct keyring ring;
            snprintf(user, sizeof user, "sip:%zu.%d@example.org", i, (int)type);
            for (size_t k = 0; rows[i].states[k]; k++) {
                snprintf(id, sizeof id, "k%zu", k);
                struct key_entry e = entry(user, type, id, (uint8_t)(k + 1));
                const char c = rows[i].states[k];
                e.state = c == 'r' ? KEY_RETIRING : c == 'v' ? KEY_REVOKED : KEY_ACTIVE;
                e.not_after = c == 'e' ? now - 1 : c == 'a' && k % 2 ? now + 60 * US_PER_S : TIME_NONE;
                assert_true(put(f, ks, e));
            }
            enum keystore_result r = keystore_user(ks, str_z(user), &ring);
            assert_int_equal(r, rows[i].states[0] ? KEYSTORE_OK : KEYSTORE_NOT_FOUND);
            assert_int_equal(keyring_has_ink(&ring), rows[i].has && type == KEY_INK);
            assert_null(keyring_newest(&ring, type == KEY_INK ? KEY_TRK : KEY_INK, now));
            const struct key *newest = keyring_newest(&ring, type, now);
            /* the newest TrK that retires encrypts where none is active; an InK that retires does not sign by itself */
            const char *retiring = strrchr(rows[i].states, 'r');
            const int wanted = rows[i].newest < 0 && type == KEY_TRK && retiring ? (int)(retiring - rows[i].states)
                                                                                 : rows[i].newest;
            snprintf(id, sizeof id, "k%d", wanted);
            assert_true(wanted < 0 ? newest == NULL : newest && str_eq_z(newest->id, id));
            for (size_t k = 0; rows[i].states[k]; k++) {
                snprintf(id, sizeof id, "k%zu", k);
                assert_int_equal(key_usable(keyring_find(&ring, str_z(id)), now), rows[i].usable[k] == 'y');
            }
            keyring_clear(&ring);
        }
    keystore_close(ks);
}

static void the_last_moment(void **state)
{
    (void)state;
    struct key key = {.state = KEY_ACTIVE, .not_after = 1000};
    assert_true(key_usable(&key, 999) && key_usable(&key, 1000));
    assert_false(key_usable(&key, 1001));
    key.state = KEY_REVOKED;
    assert_false(key_usable(&key, 999));
}

static void newest_by_coming(void **state)
{
    struct fixture *f = *state;
    struct keystore *ks = open_store(f);
    struct keyring ring;
    assert_true(put(f, ks, entry(ALICE, KEY_TRK, "trk.b", 1)));
    assert_true(put(f, ks, entry(ALICE, KEY_TRK, "trk.a", 2)));
    assert_true(put(f, ks, entry(ALICE, KEY_TRK, "trk.c", 3)));
    /* a later change of an old one */
    assert_true(keystore_set_state(ks, STR(ALICE), STR("trk.b"), KEY_REVOKED, &f->faults));
    assert_int_equal(keystore_user(ks, STR(ALICE), &ring), KEYSTORE_OK);
    assert_true(str_eq_z(keyring_newest(&ring, KEY_TRK, time_now_us())->id, "trk.c"));
    keyring_clear(&ring);
    keystore_close(ks);
}

static void counts(void **state)
{
    struct fixture *f = *state;
    size_t n[2][KEY_STATES];
    fill_store(f);
    struct keystore *ks = open_store(f);
    struct key_entry e = entry(BOB, KEY_TRK, "trk.2.bob", 9);
    e.state = KEY_RETIRING;
    e.not_after = 5000;
    assert_true(put(f, ks, e));
    assert_true(keystore_set_state(ks, STR(BOB), STR("ink.1.bob"), KEY_REVOKED, &f->faults));
    keystore_count(ks, 5000, n);
    assert_true(n[KEY_INK][KEY_ACTIVE] == 1 && n[KEY_INK][KEY_RETIRING] == 0 && n[KEY_INK][KEY_REVOKED] == 1);
    assert_true(n[KEY_TRK][KEY_ACTIVE] == 2 && n[KEY_TRK][KEY_RETIRING] == 1 && n[KEY_TRK][KEY_REVOKED] == 0);
    keystore_count(ks, 5001, n);
    assert_true(n[KEY_TRK][KEY_ACTIVE] == 2 && n[KEY_TRK][KEY_RETIRING] == 0 && n[KEY_TRK][KEY_REVOKED] == 1);
    keystore_close(ks);
}

struct walked {
    char text[256];
    size_t stop_after, n;
};

static bool walk_one(void *arg, const struct keyring *ring, const struct key *key)
{
    struct walked *w = arg;
    size_t used = strlen(w->text);
    snprintf(w->text + used, sizeof w->text - used, "%.*s/%.*s ", STR_FMT(ring->user), STR_FMT(key->id));
    return ++w->n != w->stop_after;
}

static void walk_in_order(void **state)
{
    struct fixture *f = *state;
    struct walked w = {{0}, 0, 0}, two = {{0}, 2, 0};
    struct keystore *ks = open_store(f);
    assert_true(put(f, ks, entry("b:", KEY_INK, "2", 1)) && put(f, ks, entry("a:b", KEY_INK, "1", 1)));
    assert_true(put(f, ks, entry("b:", KEY_INK, "1", 2)) && put(f, ks, entry("a:", KEY_INK, "1", 1)));
    assert_true(keystore_walk(ks, walk_one, &w));
    assert_string_equal(w.text, "a:/1 a:b/1 b:/1 b:/2 ");
    assert_true(keystore_walk(ks, walk_one, &two));
    assert_string_equal(two.text, "a:/1 a:b/1 ");
    keystore_close(ks);
}

/* What the file is: there or not, whose, how it may be used. */
static void opening(void **state)
{
    struct fixture *f = *state;
    assert_null(keystore_open(f->path, &f->master, false, &f->faults));
    assert_true(told(f, "no such file"));
    assert_int_equal(access(f->path, F_OK), -1);
    forget_faults(f);
    char deep[160];
    snprintf(deep, sizeof deep, "%s/no/k.db", f->folder);
    assert_null(keystore_open(deep, &f->master, true, &f->faults));
    assert_true(told(f, "No such file or directory"));
    forget_faults(f);
    assert_null(keystore_open(f->folder, &f->master, true, &f->faults));
    assert_true(told(f, "is not a file"));
    mode_t before = umask(0);
    fill_store(f);
    umask(before);
    struct stat st;
    assert_int_equal(stat(f->path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    static const struct {
        mode_t mode;
        bool ok;
    } modes[] = {{0600, true}, {0640, true}, {0644, false}, {0660, true}, {0602, false}, {0620, true}, {0601, false}};
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        forget_faults(f);
        chmod(f->path, modes[i].mode);
        struct keystore *ks = keystore_open(f->path, &f->master, false, &f->faults);
        assert_int_equal(ks != NULL, modes[i].ok);
        assert_true(ks || told(f, "chmod 600"));
        keystore_close(ks);
    }
}

static void read_only(void **state)
{
    struct fixture *f = *state;
    fill_store(f);
    chmod(f->path, 0400);
    chmod(f->folder, 0500);
    if (geteuid() == 0 && seteuid(65534) != 0) /* root may write everywhere */
        skip();
    if (geteuid() == 65534) {
        assert_int_equal(seteuid(0), 0);
        assert_int_equal(chown(f->path, 65534, 65534) | chown(f->folder, 65534, 65534), 0);
        assert_int_equal(seteuid(65534), 0);
    }
    struct keystore *ks = keystore_open(f->path, &f->master, true, &f->faults);
    bool wrote = ks && put(f, ks, entry(ALICE, KEY_INK, "ink.2.alice", 9)), changed = true;
    char why[200] = "";
    bool found = ks && has_key(ks, ALICE, "ink.1.alice", 1) && keystore_refresh(ks, &changed, why, sizeof why);
    if (geteuid() == 65534)
        assert_int_equal(seteuid(0), 0);
    keystore_close(ks);
    assert_non_null(ks);
    assert_true(found);
    assert_false(wrote || changed);
    assert_true(told(f, "read-only"));
}

static bool refresh(struct keystore *ks, bool *changed, char why[200])
{
    why[0] = 0;
    return keystore_refresh(ks, changed, why, 200);
}

static void follows_another_process(void **state)
{
    struct fixture *f = *state;
    char why[200];
    bool changed;
    fill_store(f);
    struct keystore *mine = open_store(f), *other = open_store(f);
    assert_true(refresh(mine, &changed, why) && !changed);
    assert_true(keystore_set_state(other, STR(ALICE), STR("ink.1.alice"), KEY_REVOKED, &f->faults));
    assert_true(put(f, other, entry("sip:new@example.org", KEY_INK, "ink.1.new", 40)));
    assert_int_equal(state_of(mine, ALICE, "ink.1.alice"), KEY_ACTIVE);
    assert_true(refresh(mine, &changed, why) && changed);
    assert_int_equal(state_of(mine, ALICE, "ink.1.alice"), KEY_REVOKED);
    assert_true(has_key(mine, "sip:new@example.org", "ink.1.new", 40));
    assert_true(refresh(mine, &changed, why) && !changed);
    assert_true(replace(f, mine, entry(BOB, KEY_INK, "ink.1.bob", 50))); /* mine writes on top of it */
    assert_true(has_key(mine, BOB, "ink.1.bob", 50));
    assert_true(refresh(mine, &changed, why) && !changed);
    assert_true(put(f, other, entry(BOB, KEY_INK, "ink.2.bob", 51))); /* without a refresh between: it reads first */
    assert_true(has_key(other, BOB, "ink.1.bob", 50));
    assert_true(refresh(mine, &changed, why) && changed);
    assert_int_equal(state_of(mine, BOB, "ink.1.bob"), KEY_RETIRING);
    keystore_close(mine);
    keystore_close(other);
    keystore_close(open_store(f));
}

static void many_changes_at_once(void **state)
{
    struct fixture *f = *state;
    char why[200], (*names)[40] = calloc(6000, sizeof *names);
    bool changed;
    struct key_entry *v = calloc(6000, sizeof *v);
    assert_non_null(v);
    fill_store(f);
    struct keystore *mine = open_store(f), *other = open_store(f);
    for (int n = 3000; n <= 6000; n += 3000) { /* as a list of changes, then by loading all */
        for (int i = 0; i < n; i++) {
            snprintf(names[i], sizeof *names, "sip:%d.%d@example.org", n, i);
            v[i] = entry(names[i], KEY_TRK, "trk", (uint8_t)(i % 255 + 1));
        }
        assert_true(keystore_put(other, v, (size_t)n, false, f->counts, &f->at, &f->faults));
        assert_true(refresh(mine, &changed, why) && changed);
        for (int i = 0; i < n; i++)
            assert_true(state_of(mine, names[i], "trk") == KEY_ACTIVE);
        assert_true(has_key(mine, names[n - 1], "trk", (uint8_t)((n - 1) % 255 + 1)));
    }
    size_t counted[2][KEY_STATES];
    keystore_count(mine, 0, counted);
    assert_int_equal(counted[KEY_TRK][KEY_ACTIVE], 9002);
    keystore_close(mine);
    keystore_close(other);
    free(v);
    free(names);
}

static void tampering_keeps_the_old(void **state)
{
    static const struct {
        const char *change, *reason, *repair;
    } cases[] = {
        {"UPDATE keys SET state = 0, seq = 9 WHERE id = 'ink.1.bob'", "tampered", NULL},
        {"DELETE FROM keys WHERE id = 'ink.1.bob'", "3 keys where there were 4", NULL},
        {"UPDATE meta SET last_seq = 99", "meta row does not verify", "UPDATE meta SET last_seq = 4"},
        {"UPDATE meta SET keys = 5", "meta row does not verify", "UPDATE meta SET keys = 4"},
        {"DELETE FROM meta", "meta row is gone", NULL},
    };
    struct fixture *f = *state;
    char why[200];
    bool changed;
    fill_store(f);
    copy_file(f->path, f->copy);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        copy_file(f->copy, f->path);
        struct keystore *ks = open_store(f);
        sql(f, cases[i].change);
        for (int turn = 0; turn < 3; turn++) { /* told as long as it lasts */
            assert_false(refresh(ks, &changed, why));
            assert_false(changed);
            assert_non_null(strstr(why, cases[i].reason));
        }
        assert_true(has_key(ks, BOB, "ink.1.bob", 3) && has_key(ks, ALICE, "ink.1.alice", 1));
        assert_false(put(f, ks, entry(ALICE, KEY_INK, "ink.2", 9))); /* nothing is written on top of it */
        if (cases[i].repair) {
            sql(f, cases[i].repair);
            assert_true(refresh(ks, &changed, why));
        }
        keystore_close(ks);
    }
}

static void the_file_is_replaced(void **state)
{
    struct fixture *f = *state;
    char why[200];
    bool changed;
    fill_store(f);
    copy_file(f->path, f->copy);
    struct keystore *mine = open_store(f);
    struct keystore *other = keystore_open(f->copy, &f->master, false, &f->faults);
    assert_true(put(f, other, entry(ALICE, KEY_INK, "ink.2.alice", 22)));
    keystore_close(other);
    char old[110];
    snprintf(old, sizeof old, "%s.old", f->path);
    assert_int_equal(rename(f->path, old), 0);
    assert_false(refresh(mine, &changed, why)); /* there is none for a moment */
    assert_non_null(strstr(why, "no such file"));
    assert_true(has_key(mine, ALICE, "ink.1.alice", 1));
    assert_int_equal(rename(f->copy, f->path), 0);
    assert_true(refresh(mine, &changed, why) && changed);
    assert_true(has_key(mine, ALICE, "ink.2.alice", 22));
    assert_true(refresh(mine, &changed, why) && !changed);
    assert_int_equal(rename(old, f->path), 0);
    for (int turn = 0; turn < 2; turn++) {
        assert_false(refresh(mine, &changed, why)); /* going back is a roll-back */
        assert_non_null(strstr(why, "older"));
    }
    assert_true(has_key(mine, ALICE, "ink.2.alice", 22));
    keystore_close(mine);
}

/* A writer in the middle of his transaction: nothing is seen of it, and nobody fails. */
static void a_writer_at_work(void **state)
{
    struct fixture *f = *state;
    char why[200];
    bool changed;
    sqlite3 *db = NULL;
    fill_store(f);
    struct keystore *ks = open_store(f);
    assert_int_equal(sqlite3_open(f->path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "BEGIN EXCLUSIVE; DELETE FROM keys", NULL, NULL, NULL), SQLITE_OK);
    for (int i = 0; i < 20; i++)
        assert_true(refresh(ks, &changed, why) && !changed);
    assert_false(refresh(ks, &changed, why)); /* ten seconds of turns */
    assert_non_null(strstr(why, "another process is writing"));
    assert_int_equal(sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
    assert_true(refresh(ks, &changed, why) && !changed);
    sqlite3_close(db);
    keystore_close(ks);
}

static void names_that_sqlite_knows(void **state)
{
    struct fixture *f = *state;
    char before[512];
    assert_non_null(getcwd(before, sizeof before));
    assert_int_equal(chdir(f->folder), 0);
    const char *const names[] = {":memory:", "file:x?mode=memory", "a%20b?c#d"};
    for (size_t i = 0; i < 3; i++) {
        struct keystore *ks = keystore_open(names[i], &f->master, true, &f->faults);
        assert_non_null(ks);
        assert_true(put(f, ks, entry(ALICE, KEY_INK, "ink.1", 1)));
        keystore_close(ks);
        ks = keystore_open(names[i], &f->master, false, &f->faults);
        assert_true(has_key(ks, ALICE, "ink.1", 1));
        keystore_close(ks);
        assert_int_equal(unlink(names[i]), 0);
    }
    assert_int_equal(chdir(before), 0);
}

/* No key in clear, in hex or in raw bytes, in the file. */
static void nothing_in_clear(void **state)
{
    struct fixture *f = *state;
    struct secret_key key;
    struct key_entry e = entry(ALICE, KEY_INK, "ink.canary", 1);
    char block[1 << 17];
    assert_int_equal(RAND_bytes(key.b, sizeof key.b), 1);
    e.key = key;
    struct keystore *ks = open_store(f);
    assert_true(put(f, ks, e));
    keystore_close(ks);
    FILE *in = fopen(f->path, "rb");
    size_t n = fread(block, 1, sizeof block, in);
    fclose(in);
    assert_non_null(memmem(block, n, "ink.canary", 10)); /* the search finds what is there */
    assert_null(memmem(block, n, key.b, 8));
    assert_null(memmem(block, n, f->master.b, 8));
    struct buf hex = BUF_INIT(100);
    buf_hex(&hex, key.b, sizeof key.b, false);
    assert_null(memmem(block, n, hex.p, 16));
    buf_free(&hex);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

/* Who reads keeps a writer from committing, and can see that one is there. */
static void a_writer_waits(void **state)
{
    struct fixture *f = *state;
    struct detail why;
    keystore_close(open_store(f));
    struct keydb *reader = keydb_open(f->path, &why), *writer = keydb_open(f->path, &why);
    assert_true(reader && writer && keydb_begin(reader, false, &why) == KEYDB_OK);
    assert_false(keydb_is_wanted(reader));
    assert_int_equal(keydb_begin(writer, true, &why), KEYDB_OK);
    assert_true(keydb_is_wanted(reader));
    keydb_rollback(writer);
    assert_false(keydb_is_wanted(reader));
    keydb_close(writer);
    keydb_close(reader);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(nobody), T(ring_is_a_copy), T(two_at_once), T(which_key), T(the_last_moment), T(newest_by_coming), T(counts),
        T(walk_in_order), T(opening), T(read_only), T(follows_another_process), T(many_changes_at_once),
        T(tampering_keeps_the_old), T(the_file_is_replaced), T(a_writer_at_work), T(names_that_sqlite_knows),
        T(nothing_in_clear), T(a_writer_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
