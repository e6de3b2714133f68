/* Offered, confirmed, retired, revoked; by one and by many; and a database of the first schema. */
#include "fixture.h"

#include <pthread.h>
#include <stdatomic.h>

#include "base/timestamp.h"
#include "keys/keylife.h"
#include "keys/table.h"

enum { DAY = 86400 };

static struct key_wish wish(enum key_deed deed, enum key_type type, const char *id, const char *trk)
{
    return (struct key_wish){.deed = deed, .type = type, .user = STR(ALICE), .id = str_z(id), .trk = str_z(trk),
                             .keep_old_us = 7 * DAY * US_PER_S};
}

static struct key_fate do_one(struct keystore *ks, struct key_wish w)
{
    struct key_fate f;
    keystore_do(ks, &w, 1, 0, &f);
    return f;
}

/* A key as it is in the ring; its texts are gone. */
static struct key key_in(const struct keystore *ks, const char *user, const char *id)
{
    struct keyring ring;
    struct key key = {.state = KEY_PRUNED};
    assert_int_equal(keystore_user(ks, str_z(user), &ring), KEYSTORE_OK);
    const struct key *k = keyring_find(&ring, str_z(id));
    if (k)
        key = *k;
    keyring_clear(&ring);
    return key;
}

static void offered_resent_confirmed(void **state)
{
    struct fixture *f = *state;
    fill_store(f);
    struct keystore *ks = open_store(f);
    struct keyring ring;
    struct key_fate a = do_one(ks, wish(KEY_OFFER, KEY_INK, "ink.1.alice", "trk.1.alice"));
    assert_int_equal(a.outcome, KEY_OFFERED_NEW);
    assert_true(str_eq_z(a.id, "ink.2.alice"));
    struct key_fate b = do_one(ks, wish(KEY_OFFER, KEY_INK, "ink.1.alice", "trk.1.alice"));
    assert_int_equal(b.outcome, KEY_RESENT);
    assert_true(str_eq(a.id, b.id) && secret_equal(a.key.b, b.key.b, sizeof a.key.b));
    assert_int_equal(keystore_user(ks, STR(ALICE), &ring), KEYSTORE_OK);
    const struct key *k = keyring_find(&ring, STR("ink.2.alice"));
    assert_true(k && k->state == KEY_OFFERED && k->origin == KEY_RENEWED && k->since == TIME_NONE);
    assert_true(str_eq_z(k->sent, "trk.1.alice\n") && key_usable(k, time_now_us()));
    assert_true(str_eq_z(keyring_newest(&ring, KEY_INK, time_now_us())->id, "ink.1.alice")); /* never by default */
    keyring_clear(&ring);
    key_fates_free(&a, 1);
    a = do_one(ks, wish(KEY_CONFIRM, KEY_INK, "ink.2.alice", NULL));
    assert_int_equal(a.outcome, KEY_CONFIRMED);
    key_fates_free(&a, 1);
    a = do_one(ks, wish(KEY_CONFIRM, KEY_INK, "ink.2.alice", NULL));
    assert_int_equal(a.outcome, KEY_NOTHING);
    const struct key old = key_in(ks, ALICE, "ink.1.alice");
    const int64_t left = old.not_after - time_now_us();
    assert_true(old.state == KEY_RETIRING && left > 6 * DAY * US_PER_S && left <= 7 * DAY * US_PER_S);
    assert_int_equal(key_in(ks, ALICE, "ink.2.alice").state, KEY_ACTIVE);
    key_fates_free(&b, 1);
    b = do_one(ks, wish(KEY_OFFER, KEY_INK, "ink.1.alice", "trk.1.alice")); /* who goes on using the old one */
    assert_int_equal(b.outcome, KEY_RESENT);
    assert_true(str_eq_z(b.id, "ink.2.alice"));
    key_fates_free(&b, 1);
    keystore_close(ks);
    keystore_close(open_store(f));
}

static void one_by_hand_keeps_its_end(void **state)
{
    struct fixture *f = *state;
    struct keystore *ks = open_store(f);
    struct key_entry e = entry(ALICE, KEY_TRK, "trk.1.alice", 1);
    e.not_after = time_now_us() + DAY * US_PER_S;
    assert_true(put(f, ks, e));
    struct key_fate a = do_one(ks, wish(KEY_OFFER, KEY_TRK, "trk.1.alice", "trk.1.alice"));
    assert_int_equal(a.outcome, KEY_OFFERED_NEW);
    key_fates_free(&a, 1);
    a = do_one(ks, wish(KEY_CONFIRM, KEY_TRK, "trk.2.alice", NULL));
    assert_int_equal(a.outcome, KEY_CONFIRMED);
    key_fates_free(&a, 1);
    assert_true(key_in(ks, ALICE, "trk.1.alice").not_after == e.not_after);
    keystore_close(ks);
}

static void ids(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *old, *next;
    } CASES[] = {{"ink.1.u", "ink.2.u"}, {"ink.9", "ink.10"}, {"ink.09.u", "ink.10.u"}, {"key", "key.2"},
                 {"key.2", "key.3"}, {"a.sip:4711@b", "a.sip:4711@b.2"}, {"7", "8"}, {"ink1", "ink1.2"}, {".", "..2"}};
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct keystore *ks = open_store(f);
        struct key_entry e[] = {entry(ALICE, KEY_INK, CASES[i].old, 1), entry(ALICE, KEY_TRK, "t", 2)};
        assert_true(keystore_put(ks, e, 2, false, f->counts, &f->at, &f->faults));
        struct key_fate a = do_one(ks, wish(KEY_OFFER, KEY_INK, CASES[i].old, "t"));
        assert_true(str_eq_z(a.id, CASES[i].next));
        key_fates_free(&a, 1);
        keystore_close(ks);
        unlink(f->path);
    }
    struct keystore *ks = open_store(f); /* taken: the next */
    assert_true(put(f, ks, entry(ALICE, KEY_TRK, "ink.2.u", 1)) && put(f, ks, entry(ALICE, KEY_TRK, "t", 3)));
    assert_true(put(f, ks, entry(ALICE, KEY_INK, "ink.1.u", 2)));
    struct key_fate a = do_one(ks, wish(KEY_OFFER, KEY_INK, "ink.1.u", "t"));
    assert_true(str_eq_z(a.id, "ink.3.u"));
    key_fates_free(&a, 1);
    keystore_close(ks);
}

/* A user without InK: the offer is none until he has used it, so he can go on by his TrK. */
static void a_first_ink(void **state)
{
    struct fixture *f = *state;
    struct keyring ring;
    struct keystore *ks = open_store(f);
    assert_true(put(f, ks, entry(ALICE, KEY_TRK, "t", 2)));
    struct key_fate a = do_one(ks, wish(KEY_OFFER, KEY_INK, NULL, "t"));
    assert_int_equal(a.outcome, KEY_OFFERED_NEW);
    for (int used = 0; used < 2; used++) {
        assert_int_equal(keystore_user(ks, STR(ALICE), &ring), KEYSTORE_OK);
        assert_int_equal(keyring_has_ink(&ring), used);
        keyring_clear(&ring);
        if (!used) {
            struct key_fate b = do_one(ks, wish(KEY_CONFIRM, KEY_INK, a.id.p, NULL));
            assert_int_equal(b.outcome, KEY_CONFIRMED);
            key_fates_free(&b, 1);
        }
    }
    key_fates_free(&a, 1);
    keystore_close(ks);
}

static void no_offer(void **state)
{
    struct fixture *f = *state;
    char id[32];
    fill_store(f);
    struct keystore *ks = open_store(f);
    struct key_fate a = do_one(ks, wish(KEY_OFFER, KEY_INK, "ink.1.alice", "trk.9"));
    assert_int_equal(a.outcome, KEY_NOTHING); /* there is no such TrK to send it under */
    for (int i = 2; i <= 1 + KEY_RETIRING_MAX; i++) {
        snprintf(id, sizeof id, "ink.%d.alice", i);
        assert_true(put(f, ks, entry(ALICE, KEY_INK, id, (uint8_t)(i + 20))));
    }
    a = do_one(ks, wish(KEY_OFFER, KEY_INK, id, "trk.1.alice"));
    assert_int_equal(a.outcome, KEY_NOTHING); /* eight retire */
    assert_true(keystore_set_state(ks, STR(ALICE), STR("ink.1.alice"), KEY_REVOKED, &f->faults));
    a = do_one(ks, wish(KEY_OFFER, KEY_INK, id, "trk.1.alice"));
    assert_int_equal(a.outcome, KEY_OFFERED_NEW);
    key_fates_free(&a, 1);
    keystore_close(ks);
}

static void seventy_renewals(void **state)
{
    struct fixture *f = *state;
    struct keyring ring;
    char id[32] = "ink.1.alice";
    fill_store(f);
    struct keystore *ks = open_store(f);
    for (int i = 0; i < 70; i++) {
        struct key_wish w = wish(KEY_OFFER, KEY_INK, id, "trk.1.alice");
        w.keep_old_us = 0;
        struct key_fate a = do_one(ks, w);
        assert_int_equal(a.outcome, KEY_OFFERED_NEW);
        snprintf(id, sizeof id, "%.*s", STR_FMT(a.id));
        key_fates_free(&a, 1);
        a = do_one(ks, wish(KEY_CONFIRM, KEY_INK, id, NULL));
        assert_int_equal(a.outcome, KEY_CONFIRMED);
        key_fates_free(&a, 1);
    }
    assert_string_equal(id, "ink.71.alice");
    keystore_close(ks);
    ks = open_store(f);
    assert_int_equal(keystore_user(ks, STR(ALICE), &ring), KEYSTORE_OK);
    assert_true(ring.n <= 6);
    keyring_clear(&ring);
    keystore_close(ks);
}

static size_t table_rows(struct keystore *ks)
{
    size_t counts[2][KEY_STATES], n = 0;
    keystore_count(ks, time_now_us(), counts);
    for (size_t i = 0; i < 2 * KEY_STATES; i++)
        n += counts[i / KEY_STATES][i % KEY_STATES];
    return n;
}

static void learnt(void **state)
{
    struct fixture *f = *state;
    fill_store(f);
    struct keystore *ks = open_store(f);
    struct key_wish w = wish(KEY_LEARN, KEY_INK, "theirs", "trk.1.alice");
    static const struct {
        uint8_t byte;
        const char *id;
        enum key_outcome outcome;
    } CASES[] = {
        {0, "zero", KEY_REFUSED}, {2, "as the TrK", KEY_REFUSED}, {50, "ink.1.alice", KEY_REFUSED},
        {50, "theirs", KEY_TAKEN_UP}, {50, "theirs", KEY_RESENT}, {51, "theirs", KEY_REFUSED},
        {50, NULL, KEY_RESENT}, {52, NULL, KEY_TAKEN_UP}, {53, "new\x01", KEY_REFUSED},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        w.key = key_of(CASES[i].byte);
        w.id = str_z(CASES[i].id);
        struct key_fate a = do_one(ks, w);
        assert_int_equal(a.outcome, CASES[i].outcome);
        assert_true(a.outcome != KEY_REFUSED || a.why.text[0]);
        key_fates_free(&a, 1);
    }
    /* the second offer made the first retire; it is active when it is used after all */
    assert_int_equal(key_in(ks, ALICE, "theirs").state, KEY_RETIRING);
    assert_int_equal(key_in(ks, ALICE, "ink.2.alice").state, KEY_OFFERED);
    struct key_fate a = do_one(ks, wish(KEY_CONFIRM, KEY_INK, "theirs", NULL));
    assert_int_equal(a.outcome, KEY_CONFIRMED);
    key_fates_free(&a, 1);
    assert_int_equal(key_in(ks, ALICE, "theirs").state, KEY_ACTIVE);
    assert_int_equal(key_in(ks, ALICE, "ink.1.alice").state, KEY_RETIRING);
    assert_true(keystore_set_state(ks, STR(ALICE), STR("theirs"), KEY_REVOKED, &f->faults));
    w.key = key_of(50);
    w.id = STR("again");
    a = do_one(ks, w);
    assert_int_equal(a.outcome, KEY_REFUSED);
    /* under a TrK that was revoked since the request was judged: who has it would read the new key */
    assert_true(keystore_set_state(ks, STR(ALICE), STR("trk.1.alice"), KEY_REVOKED, &f->faults));
    for (int i = 0; i < 2; i++) {
        w.key = key_of(i ? 60 : 52);
        w.id = i ? STR("late") : STR("ink.2.alice");
        a = do_one(ks, w);
        assert_int_equal(a.outcome, KEY_DEFERRED);
        assert_non_null(strstr(a.why.text, "revoked meanwhile"));
        key_fates_free(&a, 1);
        assert_int_equal(key_in(ks, ALICE, "late").state, KEY_PRUNED);
    }
    keystore_close(ks);
}

/* A key without a name of its own is counted on from the active one's ID, past every number that the user has had. */
static void learnt_without_a_name(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *active, *other, *id;
    } CASES[] = {{"key", "key.7.b", "key.2"}, {"key", "key.2", "key.3"}, {"ink.1.u", "ink.7.u", "ink.8.u"},
                 {"ink.1.u", "ink.7.v", "ink.2.u"}};
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct keystore *ks = open_store(f);
        struct key_entry e[] = {entry(ALICE, KEY_INK, CASES[i].active, 1), entry(ALICE, KEY_TRK, CASES[i].other, 2)};
        assert_true(keystore_put(ks, e, 2, false, f->counts, &f->at, &f->faults));
        struct key_wish w = wish(KEY_LEARN, KEY_INK, NULL, CASES[i].other);
        w.key = key_of(50);
        struct key_fate a = do_one(ks, w);
        assert_int_equal(a.outcome, KEY_TAKEN_UP);
        assert_string_equal(a.id.p, CASES[i].id);
        key_fates_free(&a, 1);
        keystore_close(ks);
        unlink(f->path);
    }
}

/* Of two keys that came in one reply both are learnt, or neither, whichever is at fault. */
static void learnt_together(void **state)
{
    struct fixture *f = *state;
    static const struct {
        uint8_t trk, ink;
        const char *trk_id, *ink_id;
        bool good;
    } CASES[] = {{50, 0, NULL, NULL, false}, {0, 50, NULL, NULL, false}, {50, 50, NULL, NULL, false},
                 {50, 51, "new", "new", false}, {50, 51, NULL, "trk.1.alice", false}, {1, 51, NULL, NULL, false},
                 {50, 51, "ink.1.alice", NULL, false}, {2, 50, NULL, "spaced ", false}, {2, 1, NULL, NULL, true},
                 {50, 51, NULL, "trk.2.alice", true}, {50, 52, NULL, NULL, true}};
    fill_store(f);
    struct keystore *ks = open_store(f);
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++)
        for (int turned = 0; turned < 2; turned++) {
            struct key_wish w[2] = {wish(KEY_LEARN, KEY_TRK, CASES[i].trk_id, "trk.1.alice"),
                                    wish(KEY_LEARN, KEY_INK, CASES[i].ink_id, "trk.1.alice")};
            struct key_fate v[2];
            w[0].key = key_of(CASES[i].trk);
            w[1].key = key_of(CASES[i].ink);
            const struct key_wish first = w[turned];
            w[1] = w[!turned];
            w[0] = first;
            w[0].with_next = true;
            const size_t before = table_rows(ks);
            keystore_do(ks, w, 2, 0, v);
            for (int k = 0; k < 2; k++)
                assert_true((v[k].outcome == KEY_TAKEN_UP || v[k].outcome == KEY_RESENT) == CASES[i].good &&
                            (v[k].outcome == KEY_REFUSED) != CASES[i].good);
            assert_true(CASES[i].good || table_rows(ks) == before);
            key_fates_free(v, 2);
        }
    keystore_close(ks);
}

struct heard {
    char text[400];
};

static void hear(void *arg, struct str id, enum key_type type, bool revoked)
{
    struct heard *h = arg;
    const size_t n = strlen(h->text);
    (void)type;
    snprintf(h->text + n, sizeof h->text - n, "%s%.*s ", revoked ? "-" : "?", STR_FMT(id));
}

static void cascade(void **state)
{
    struct fixture *f = *state;
    for (int how = 0; how < 3; how++) {
        fill_store(f);
        struct keystore *ks = open_store(f);
        struct heard h = {""};
        struct key_fate a = do_one(ks, wish(KEY_OFFER, KEY_INK, "ink.1.alice", "trk.1.alice"));
        key_fates_free(&a, 1);
        if (how) {
            a = do_one(ks, wish(KEY_CONFIRM, KEY_INK, "ink.2.alice", NULL));
            key_fates_free(&a, 1);
        }
        assert_true(keystore_revoke(ks, STR(ALICE), STR("trk.1.alice"), how == 2, hear, &h, &f->faults));
        assert_string_equal(h.text, how == 1 ? "-trk.1.alice ?ink.2.alice " : "-trk.1.alice -ink.2.alice ");
        assert_int_equal(key_in(ks, ALICE, "ink.2.alice").state, how == 1 ? KEY_ACTIVE : KEY_REVOKED);
        h.text[0] = 0;
        assert_true(keystore_revoke(ks, STR(ALICE), STR_MISSING, false, hear, &h, &f->faults));
        assert_int_equal(key_in(ks, ALICE, "ink.1.alice").state, KEY_REVOKED);
        assert_int_equal(key_in(ks, BOB, "ink.1.bob").state, KEY_ACTIVE);
        keystore_close(ks);
        unlink(f->path);
    }
}

/* Who was told of what is left, and takes the advice; also when the TrK itself is no longer there. */
static void cascade_afterwards(void **state)
{
    struct fixture *f = *state;
    for (int pruned = 0; pruned < 2; pruned++) {
        fill_store(f);
        struct keystore *ks = open_store(f);
        struct heard h = {""};
        for (enum key_type type = KEY_INK; type <= KEY_TRK; type++) {
            struct key_fate a = do_one(ks, wish(KEY_OFFER, type, type ? "trk.1.alice" : "ink.1.alice", "trk.1.alice"));
            key_fates_free(&a, 1);
            a = do_one(ks, wish(KEY_CONFIRM, type, type ? "trk.2.alice" : "ink.2.alice", NULL));
            key_fates_free(&a, 1);
        }
        struct key_fate deeper = do_one(ks, wish(KEY_OFFER, KEY_INK, "ink.2.alice", "trk.2.alice"));
        key_fates_free(&deeper, 1);
        for (int again = 0; again < 2; again++) { /* what is left is told of each time */
            h.text[0] = 0;
            assert_true(keystore_revoke(ks, STR(ALICE), STR("trk.1.alice"), false, hear, &h, &f->faults));
            assert_string_equal(h.text + (again ? 0 : strlen("-trk.1.alice ")), "?ink.2.alice ?trk.2.alice ");
        }
        if (pruned) {
            for (uint8_t i = 0; i < 2; i++) {
                struct key_entry e = entry(ALICE, KEY_TRK, i ? "y" : "x", 7 + i);
                e.state = KEY_REVOKED;
                assert_true(put(f, ks, e));
            }
            assert_int_equal(state_of(ks, ALICE, "trk.1.alice"), -1);
        }
        h.text[0] = 0;
        assert_true(keystore_revoke(ks, STR(ALICE), STR("trk.1.alice"), true, hear, &h, &f->faults));
        assert_string_equal(h.text, "-ink.2.alice -trk.2.alice -ink.3.alice ");
        h.text[0] = 0;
        assert_true(keystore_revoke(ks, STR(ALICE), STR("trk.1.alice"), true, hear, &h, &f->faults));
        assert_string_equal(h.text, "");
        assert_false(keystore_revoke(ks, STR(ALICE), STR("trk.0.alice"), true, hear, &h, &f->faults));
        keystore_close(ks);
        unlink(f->path);
    }
}

/* However often it changes while a gateway runs: the new one behind, in front, all sealed anew, the old one out. */
static void master_keys_without_end(void **state)
{
    struct fixture *f = *state;
    fill_store(f);
    struct keystore *ks = open_store(f);
    struct secret_key old = f->master;
    for (int i = 0; i < 3 * TABLE_MASTERS; i++) {
        struct secret_key list[3];
        size_t n;
        assert_int_equal(RAND_bytes(list[0].b, sizeof list[0].b), 1);
        list[1] = old;
        list[2] = list[0];
        assert_true(keystore_set_masters(ks, &list[1], 2, &f->faults));
        assert_true(keystore_set_masters(ks, list, 2, &f->faults));
        assert_false(keystore_set_masters(ks, list, 1, &f->faults)); /* too early: the keys are under the old one */
        assert_true(keystore_rekey(ks, NULL, &n, &f->faults));
        assert_int_equal(n, 4);
        assert_true(keystore_set_masters(ks, list, 1, &f->faults));
        assert_true(has_key(ks, ALICE, "ink.1.alice", 1) && has_key(ks, BOB, "trk.1.bob", 4));
        old = list[0];
    }
    keystore_close(ks);
    assert_null(keystore_open(f->path, &f->master, false, &f->faults)); /* the first opens nothing any more */
    f->master = old;
    ks = open_store(f);
    assert_true(has_key(ks, ALICE, "trk.1.alice", 2));
    keystore_close(ks);
}

static void due(void **state)
{
    struct fixture *f = *state;
    size_t n;
    fill_store(f);
    struct keystore *ks = open_store(f);
    assert_true(keystore_make_due(ks, STR(ALICE), &n, &f->faults));
    assert_int_equal(n, 2);
    assert_true(key_in(ks, ALICE, "ink.1.alice").due && key_in(ks, ALICE, "trk.1.alice").due);
    assert_false(key_in(ks, BOB, "ink.1.bob").due);
    assert_false(keystore_make_due(ks, STR("sip:nobody@example.org"), &n, &f->faults));
    keystore_close(ks);
}

struct asked {
    atomic_int done, outcomes[KEY_DEFERRED + 1];
    struct secret_key key;
    atomic_bool other;
};

static void take(void *arg, const struct key_fate *v, size_t n)
{
    struct asked *a = arg;
    for (size_t i = 0; i < n; i++) {
        atomic_fetch_add(&a->outcomes[v[i].outcome], 1);
        if (v[i].outcome == KEY_OFFERED_NEW)
            a->key = v[i].key; /* the first: all callbacks come in one thread */
        if (v[i].outcome == KEY_RESENT && !secret_equal(v[i].key.b, a->key.b, sizeof a->key.b))
            atomic_store(&a->other, true);
    }
    atomic_fetch_add(&a->done, 1);
}

static void turn(void *arg, bool ok, bool changed, const char *why)
{
    (void)changed, (void)why;
    if (!ok)
        atomic_fetch_add((atomic_int *)arg, 1);
}

/* Fifty at once, at two gateways: one new key, the same for all. */
static void fifty_at_once(void **state)
{
    struct fixture *f = *state;
    struct asked a = {0};
    atomic_int failed = 0;
    int asked = 0;
    fill_store(f);
    struct keystore *ks[2] = {open_store(f), open_store(f)};
    struct keykeeper *k[2] = {keykeeper_start(ks[0], turn, &failed), keykeeper_start(ks[1], turn, &failed)};
    const struct key_wish w = wish(KEY_OFFER, KEY_TRK, "trk.1.alice", "trk.1.alice");
    for (int i = 0; i < 50; i++)
        asked += keykeeper_ask(k[i % 2], &w, 1, take, &a);
    while (atomic_load(&a.done) < asked)
        usleep(1000);
    keykeeper_stop(k[0]);
    keykeeper_stop(k[1]);
    assert_int_equal(atomic_load(&failed), 0);
    assert_int_equal(atomic_load(&a.outcomes[KEY_OFFERED_NEW]), 1);
    assert_int_equal(atomic_load(&a.outcomes[KEY_RESENT]) + atomic_load(&a.outcomes[KEY_DEFERRED]), asked - 1);
    keystore_close(ks[0]);
    keystore_close(ks[1]);
    ks[0] = open_store(f);
    assert_true(has_key(ks[0], ALICE, "trk.2.alice", a.key.b[0]) || key_in(ks[0], ALICE, "trk.2.alice").state ==
                KEY_OFFERED);
    assert_int_equal(key_in(ks[0], ALICE, "trk.3.alice").state, KEY_PRUNED);
    keystore_close(ks[0]);
}

/* Another process holds the database: what is asked is deferred, soon; more than have room, at once. */
static void store_is_away(void **state)
{
    struct fixture *f = *state;
    struct asked a = {0};
    atomic_int failed = 0;
    sqlite3 *db = NULL;
    fill_store(f);
    struct keystore *ks = open_store(f);
    assert_int_equal(sqlite3_open(f->path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "BEGIN EXCLUSIVE", NULL, NULL, NULL), SQLITE_OK);
    struct keykeeper *k = keykeeper_start(ks, turn, &failed);
    const struct key_wish w = wish(KEY_OFFER, KEY_TRK, "trk.1.alice", "trk.1.alice");
    int asked = 0, refused = 0;
    for (int i = 0; i < 3 * KEYKEEPER_WAITING_MAX; i++)
        keykeeper_ask(k, &w, 1, take, &a) ? asked++ : refused++;
    assert_true(asked >= KEYKEEPER_WAITING_MAX && refused > 0);
    while (atomic_load(&a.done) < asked)
        usleep(1000);
    assert_int_equal(atomic_load(&a.outcomes[KEY_DEFERRED]), asked);
    assert_int_equal(sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    assert_true(keykeeper_ask(k, &w, 1, take, &a));
    keykeeper_stop(k); /* done or deferred, but told */
    assert_int_equal(atomic_load(&a.done), asked + 1);
    keystore_close(ks);
}

static void version_1(struct fixture *f)
{
    memset(f->master.b, 0x5a, sizeof f->master.b);
    copy_file(TEST_ROOT "/cases/keys/version-1.db", f->path);
}

/* Made by a kmsgate of that time: taken over once, its ages counted from now; bob had two active TrKs, one expired. */
static void taken_over(void **state)
{
    struct fixture *f = *state;
    version_1(f);
    const int64_t before = time_now_us() / US_PER_S * US_PER_S;
    for (int again = 0; again < 2; again++) {
        struct keystore *ks = open_store(f);
        assert_true(has_key(ks, ALICE, "ink.2.alice", 0x21) && has_key(ks, BOB, "trk.2.bob", 0x24));
        assert_true(has_key(ks, ALICE, "trk.1.alice", 2) && has_key(ks, BOB, "ink.1.bob", 3));
        assert_int_equal(key_in(ks, ALICE, "ink.1.alice").state, KEY_RETIRING);
        assert_int_equal(key_in(ks, BOB, "ink.1.bob").state, KEY_REVOKED);
        assert_int_equal(key_in(ks, BOB, "trk.1.bob").state, KEY_ACTIVE);
        assert_int_equal(key_in(ks, BOB, "trk.2.bob").state, KEY_RETIRING);
        const struct key k = key_in(ks, ALICE, "ink.2.alice");
        assert_true(k.state == KEY_ACTIVE && k.since >= before && k.since <= time_now_us() && !k.due);
        if (again)
            assert_true(put(f, ks, entry(ALICE, KEY_INK, "ink.3.alice", 9)));
        keystore_close(ks);
    }
}

static size_t read_whole(const char *path, unsigned char *out, size_t max)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    const size_t n = fread(out, 1, max, f);
    fclose(f);
    assert_true(n > 0 && n < max);
    return n;
}

/* Opened for reading: the keys are as they will be, and not a byte of the file changes. */
static void read_as_taken_over(void **state)
{
    struct fixture *f = *state;
    enum { MOST = 1 << 20 };
    unsigned char *before = malloc(MOST), *after = malloc(MOST);
    assert_true(before && after);
    for (int i = 0; i < 2; i++) {
        version_1(f);
        if (i == 1)
            sql(f, "UPDATE keys SET state = 0 WHERE id = 'ink.1.bob'");
        const size_t n = read_whole(f->path, before, MOST);
        struct keystore *ks = keystore_open_under(f->path, &f->master, 1, KEYSTORE_READ, &f->faults);
        assert_int_equal(ks != NULL, i == 0);
        if (ks) {
            assert_true(keystore_is_earlier(ks) && has_key(ks, ALICE, "ink.2.alice", 0x21));
            assert_int_equal(key_in(ks, ALICE, "ink.1.alice").state, KEY_RETIRING);
            keystore_close(ks);
        } else {
            assert_true(told(f, "tampered"));
        }
        assert_int_equal(read_whole(f->path, after, MOST), n);
        assert_memory_equal(before, after, n);
        unlink(f->path);
    }
    version_1(f);
    keystore_close(open_store(f));
    struct keystore *ks = keystore_open_under(f->path, &f->master, 1, KEYSTORE_READ, &f->faults); /* the twin */
    assert_true(ks && !keystore_is_earlier(ks));
    keystore_close(ks);
    free(before);
    free(after);
}

/* All or nothing: what does not verify, or cannot be written, stays as it is. */
static void not_taken_over(void **state)
{
    struct fixture *f = *state;
    static const char *const CHANGES[] = {
        "UPDATE keys SET state = 0 WHERE id = 'ink.1.bob'", "DELETE FROM keys WHERE id = 'ink.1.bob'",
        "UPDATE meta SET last_seq = 99", "UPDATE meta SET mac = zeroblob(32)", "DELETE FROM meta",
        "CREATE TABLE more (a)", "UPDATE keys SET user = 'sip:carol@example.org' WHERE id = 'trk.1.bob'",
    };
    for (size_t i = 0; i <= sizeof CHANGES / sizeof *CHANGES; i++) {
        version_1(f);
        if (i < sizeof CHANGES / sizeof *CHANGES)
            sql(f, CHANGES[i]);
        else
            f->master.b[0] ^= 1;
        assert_null(keystore_open(f->path, &f->master, true, &f->faults));
        assert_true(told(f, i < sizeof CHANGES / sizeof *CHANGES ? "tampered" : "master key is not the one"));
        forget_faults(f);
        sqlite3 *db = NULL;
        assert_int_equal(sqlite3_open(f->path, &db), SQLITE_OK);
        assert_int_equal(sqlite3_exec(db, "SELECT seq_sum FROM meta", NULL, NULL, NULL), SQLITE_OK); /* as it was */
        sqlite3_close(db);
        unlink(f->path);
    }
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(offered_resent_confirmed), T(one_by_hand_keeps_its_end), T(ids), T(a_first_ink), T(no_offer),
        T(seventy_renewals), T(learnt), T(learnt_without_a_name), T(learnt_together),
        T(cascade), T(cascade_afterwards), T(due),
        T(master_keys_without_end), T(fifty_at_once), T(store_is_away), T(taken_over), T(read_as_taken_over),
        T(not_taken_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
