/* What comes in: all or nothing, and each refusal with a twin that differs by one thing and is taken. */
#include "fixture.h"

static void added_then_same(void **state)
{
    struct fixture *f = *state;
    struct key_entry v[] = {entry(ALICE, KEY_INK, "ink.1", 1), entry(ALICE, KEY_TRK, "trk.1", 2)};
    struct keystore *ks = open_store(f);
    assert_true(keystore_put(ks, v, 2, false, f->counts, &f->at, &f->faults));
    assert_int_equal(f->counts[KEY_ADDED], 2);
    assert_true(keystore_put(ks, v, 2, false, f->counts, &f->at, &f->faults));
    assert_int_equal(f->counts[KEY_ADDED], 0);
    assert_int_equal(f->counts[KEY_SAME], 2);
    assert_true(keystore_put(ks, v, 2, true, f->counts, &f->at, &f->faults));
    assert_int_equal(f->counts[KEY_SAME], 2);
    assert_true(keystore_put(ks, v, 0, false, f->counts, &f->at, &f->faults));
    keystore_close(ks);
    ks = open_store(f);
    assert_true(has_key(ks, ALICE, "ink.1", 1) && has_key(ks, ALICE, "trk.1", 2));
    keystore_close(ks);
}

static void other_bytes(void **state)
{
    struct fixture *f = *state;
    struct keystore *ks = open_store(f);
    assert_true(put(f, ks, entry(ALICE, KEY_INK, "ink.1", 1)));
    assert_false(put(f, ks, entry(ALICE, KEY_INK, "ink.1", 9)));
    assert_true(told(f, "--replace") && told(f, "key ink.1"));
    assert_true(has_key(ks, ALICE, "ink.1", 1));
    assert_true(put(f, ks, entry(ALICE, KEY_INK, "ink.2", 9)));
    assert_true(put(f, ks, entry(BOB, KEY_INK, "ink.1", 9)));
    assert_true(replace(f, ks, entry(ALICE, KEY_INK, "ink.1", 8)));
    assert_int_equal(f->counts[KEY_REPLACED], 1);
    assert_true(has_key(ks, ALICE, "ink.1", 8) && has_key(ks, BOB, "ink.1", 9));
    keystore_close(ks);
}

static void another_type(void **state)
{
    struct fixture *f = *state;
    struct keystore *ks = open_store(f);
    assert_true(put(f, ks, entry(ALICE, KEY_INK, "k.1", 1)));
    assert_false(put(f, ks, entry(ALICE, KEY_TRK, "k.1", 1)));
    assert_false(replace(f, ks, entry(ALICE, KEY_TRK, "k.1", 2)));
    assert_true(told(f, "other type, InK"));
    assert_true(replace(f, ks, entry(ALICE, KEY_INK, "k.1", 2)));
    keystore_close(ks);
}

static void zero_key(void **state)
{
    struct fixture *f = *state;
    struct keystore *ks = open_store(f);
    struct key_entry e = entry(ALICE, KEY_INK, "ink.1", 0);
    assert_false(put(f, ks, e));
    assert_true(told(f, "all-zero"));
    e.key.b[31] = 1;
    assert_true(put(f, ks, e));
    keystore_close(ks);
}

static void ink_equal_to_trk(void **state)
{
    struct fixture *f = *state;
    struct key_entry both[] = {entry(ALICE, KEY_INK, "ink.1", 1), entry(ALICE, KEY_TRK, "trk.1", 1)};
    struct keystore *ks = open_store(f);
    assert_false(keystore_put(ks, both, 2, false, f->counts, &f->at, &f->faults)); /* in one file */
    assert_int_equal(f->at, 1);
    assert_true(told(f, "equals the user's InK ink.1"));
    both[1].user = str_z(BOB); /* two users may */
    assert_true(keystore_put(ks, both, 2, false, f->counts, &f->at, &f->faults));
    assert_false(put(f, ks, entry(ALICE, KEY_TRK, "trk.1", 1))); /* against what is stored */
    assert_true(put(f, ks, entry(ALICE, KEY_TRK, "trk.1", 2)));
    assert_false(replace(f, ks, entry(ALICE, KEY_TRK, "trk.1", 1)));
    assert_true(replace(f, ks, entry(ALICE, KEY_TRK, "trk.1", 3)));
    assert_true(keystore_set_state(ks, STR(ALICE), STR("ink.1"), KEY_REVOKED, &f->faults)); /* revoked ones, too */
    assert_false(put(f, ks, entry(ALICE, KEY_TRK, "trk.2", 1)));
    keystore_close(ks);
}

static void second_active_key(void **state)
{
    struct fixture *f = *state;
    struct keystore *ks = open_store(f);
    struct key_entry expired = entry(ALICE, KEY_INK, "ink.4", 4), retiring = entry(ALICE, KEY_INK, "ink.5", 5);
    assert_true(put(f, ks, entry(ALICE, KEY_INK, "ink.1", 1)));
    assert_true(put(f, ks, entry(ALICE, KEY_TRK, "trk.1", 2)));
    assert_true(put(f, ks, entry(BOB, KEY_INK, "ink.1", 1)));
    assert_true(put(f, ks, entry(ALICE, KEY_INK, "ink.2", 3)));
    assert_int_equal(state_of(ks, ALICE, "ink.1"), KEY_RETIRING);
    assert_int_equal(state_of(ks, ALICE, "ink.2"), KEY_ACTIVE);
    assert_int_equal(state_of(ks, ALICE, "trk.1"), KEY_ACTIVE);
    assert_int_equal(state_of(ks, BOB, "ink.1"), KEY_ACTIVE);
    expired.not_after = time_now_us() - US_PER_S; /* counts as revoked: takes nothing over */
    retiring.state = KEY_RETIRING;
    assert_true(put(f, ks, expired) && put(f, ks, retiring));
    assert_int_equal(state_of(ks, ALICE, "ink.2"), KEY_ACTIVE);
    assert_true(put(f, ks, entry(ALICE, KEY_INK, "ink.1", 1))); /* known: it does not become active again */
    assert_int_equal(f->counts[KEY_SAME], 1);
    assert_int_equal(state_of(ks, ALICE, "ink.1"), KEY_RETIRING);
    keystore_close(ks);
    ks = open_store(f);
    assert_int_equal(state_of(ks, ALICE, "ink.1"), KEY_RETIRING);
    assert_true(has_key(ks, ALICE, "ink.1", 1) && has_key(ks, ALICE, "ink.2", 3));
    keystore_close(ks);
}

static void two_active_keys_in_one_file(void **state)
{
    struct fixture *f = *state;
    struct key_entry v[] = {entry(ALICE, KEY_INK, "ink.1", 1), entry(ALICE, KEY_INK, "ink.2", 2)};
    struct keystore *ks = open_store(f);
    for (int turn = 0; turn < 2; turn++) {
        assert_true(keystore_put(ks, v, 2, false, f->counts, &f->at, &f->faults));
        assert_int_equal(f->counts[turn ? KEY_SAME : KEY_ADDED], 2);
        assert_int_equal(state_of(ks, ALICE, "ink.1"), KEY_RETIRING);
        assert_int_equal(state_of(ks, ALICE, "ink.2"), KEY_ACTIVE);
    }
    keystore_close(ks);
}

static void more_said_of_a_known_key(void **state)
{
    struct fixture *f = *state;
    struct key_entry e = entry(ALICE, KEY_INK, "ink.1", 1);
    struct keystore *ks = open_store(f);
    assert_true(put(f, ks, e));
    e.state = KEY_REVOKED; /* not silently: the operator may think that it was done */
    assert_false(put(f, ks, e));
    assert_true(told(f, "another state"));
    assert_int_equal(state_of(ks, ALICE, "ink.1"), KEY_ACTIVE);
    assert_true(replace(f, ks, e));
    assert_int_equal(state_of(ks, ALICE, "ink.1"), KEY_REVOKED);
    e.state = KEY_ACTIVE; /* the same key does not come back */
    assert_true(replace(f, ks, e));
    assert_int_equal(f->counts[KEY_SAME], 1);
    assert_int_equal(state_of(ks, ALICE, "ink.1"), KEY_REVOKED);
    e.not_after = time_now_us();
    assert_false(put(f, ks, e));
    assert_true(told(f, "another not_after"));
    assert_true(replace(f, ks, e) && put(f, ks, e));
    assert_int_equal(f->counts[KEY_SAME], 1);
    assert_true(has_key(ks, ALICE, "ink.1", 1));
    keystore_close(ks);
}

static void all_or_nothing(void **state)
{
    struct fixture *f = *state;
    struct key_entry v[] = {entry(ALICE, KEY_INK, "ink.1", 1), entry(BOB, KEY_INK, "ink.1", 0),
                            entry(BOB, KEY_TRK, "trk.1", 3)};
    struct keystore *ks = open_store(f);
    assert_false(keystore_put(ks, v, 3, false, f->counts, &f->at, &f->faults));
    assert_int_equal(f->at, 1);
    assert_int_equal(state_of(ks, ALICE, "ink.1"), -1);
    keystore_close(ks);
    ks = open_store(f);
    assert_int_equal(state_of(ks, ALICE, "ink.1"), -1);
    v[1].key = key_of(2);
    assert_true(keystore_put(ks, v, 3, false, f->counts, &f->at, &f->faults));
    assert_true(has_key(ks, ALICE, "ink.1", 1) && has_key(ks, BOB, "ink.1", 2) && has_key(ks, BOB, "trk.1", 3));
    keystore_close(ks);
}

static void doubles_in_one_file(void **state)
{
    struct fixture *f = *state;
    struct key_entry v[] = {entry(ALICE, KEY_INK, "ink.1", 1), entry(BOB, KEY_INK, "ink.1", 2),
                            entry(ALICE, KEY_INK, "ink.1", 3)};
    struct keystore *ks = open_store(f);
    for (int with_replace = 0; with_replace < 2; with_replace++) {
        assert_false(keystore_put(ks, v, 3, with_replace, f->counts, &f->at, &f->faults));
        assert_int_equal(f->at, 2);
        assert_true(told(f, "given twice"));
        forget_faults(f);
    }
    v[2].key = key_of(1);
    assert_true(keystore_put(ks, v, 3, false, f->counts, &f->at, &f->faults));
    assert_int_equal(f->counts[KEY_ADDED], 2);
    assert_int_equal(f->counts[KEY_SAME], 1);
    keystore_close(ks);
}

struct seen {
    size_t n, at[8];
};

static void note(void *arg, size_t at, const char *text)
{
    struct seen *s = arg;
    assert_true(strlen(text) > 0 && s->n < 8);
    s->at[s->n++] = at;
}

static void every_fault_is_told(void **state)
{
    struct fixture *f = *state;
    struct key_entry v[] = {entry(ALICE, KEY_INK, "ink.1", 0), entry(ALICE, KEY_INK, "ink.2", 2),
                            entry(ALICE, KEY_TRK, "trk.1", 2), entry("no uri", KEY_TRK, "trk.1", 3)};
    struct seen seen = {0};
    struct keystore *ks = open_store(f);
    assert_false(keystore_import(ks, v, 4, 0, f->counts, &(struct key_telling){.fault = note, .arg = &seen}));
    assert_int_equal(seen.n, 3);
    assert_true(seen.at[0] == 0 && seen.at[1] == 2 && seen.at[2] == 3);
    keystore_close(ks);
}

static void texts(void **state)
{
    struct fixture *f = *state;
    static char big[KEY_TEXT_MAX + 2];
    memset(big, 'x', sizeof big - 1);
    memcpy(big, "sip:", 4);
    const char *const bad_users[] = {"", "sip:a b", "sip:a\n", "sip:<a>", big};
    const char *const bad_ids[] = {"", " k", "k ", "a\tb", big};
    struct keystore *ks = open_store(f);
    for (size_t i = 0; i < 5; i++) {
        assert_false(put(f, ks, entry(bad_users[i], KEY_INK, "ink.1", 1)));
        assert_false(put(f, ks, entry(ALICE, KEY_INK, bad_ids[i], 1)));
    }
    struct key_entry e = entry(ALICE, KEY_INK, "ink.1", 1);
    e.user = STR_MISSING;
    assert_false(put(f, ks, e));
    big[KEY_TEXT_MAX] = 0;
    assert_true(put(f, ks, entry(big, KEY_INK, big, 1)));
    assert_true(put(f, ks, entry("tel:+4711", KEY_INK, "an ID with 'quotes\" and spaces", 1)));
    assert_true(put(f, ks, entry("sip:\xc3\xa4@example.org", KEY_INK, "\xc3\xa4", 1)));
    keystore_close(ks);
    ks = open_store(f);
    assert_true(has_key(ks, big, big, 1));
    assert_true(has_key(ks, "tel:+4711", "an ID with 'quotes\" and spaces", 1));
    assert_true(has_key(ks, "sip:\xc3\xa4@example.org", "\xc3\xa4", 1));
    assert_false(has_key(ks, "TEL:+4711", "an ID with 'quotes\" and spaces", 1));
    keystore_close(ks);
}

/* No number of changes fills a user's places: of what retires the newest eight go on, of what is dead the newest two
 * stay; and one InK always does. */
static void old_ones_give_way(void **state)
{
    struct fixture *f = *state;
    struct keystore *ks = open_store(f);
    struct keyring ring;
    size_t usable = 0, dead = 0;
    char id[16];
    for (int i = 1; i <= 200; i++) {
        snprintf(id, sizeof id, "ink.%d", i);
        assert_true(put(f, ks, entry(ALICE, KEY_INK, id, (uint8_t)i)));
    }
    keystore_close(ks);
    ks = open_store(f);
    assert_int_equal(keystore_user(ks, STR(ALICE), &ring), KEYSTORE_OK);
    for (size_t i = 0; i < ring.n; i++)
        key_usable(&ring.keys[i], time_now_us()) ? usable++ : dead++;
    keyring_clear(&ring);
    assert_int_equal(usable, 1 + KEY_RETIRING_MAX);
    assert_int_equal(dead, 2);
    assert_int_equal(state_of(ks, ALICE, "ink.200"), KEY_ACTIVE);
    assert_int_equal(state_of(ks, ALICE, "ink.192"), KEY_RETIRING);
    assert_int_equal(state_of(ks, ALICE, "ink.189"), -1);
    keystore_close(ks);
}

static bool force(struct fixture *f, struct keystore *ks, struct key_entry e)
{
    return keystore_import(ks, &e, 1, KEY_PUT_FORCE | KEY_PUT_REPLACE, f->counts, &(struct key_telling){0});
}

/* What was revoked does not come back: under its ID never, under another by force; when it has gone, by its
 * tombstone. */
static void revoked_bytes(void **state)
{
    struct fixture *f = *state;
    struct keystore *ks = open_store(f);
    char id[16];
    for (int round = 0; round < 2; round++) {
        for (int i = 1; i <= 4; i++) {
            snprintf(id, sizeof id, "trk.%d", i);
            if (!round) {
                assert_true(put(f, ks, entry(ALICE, KEY_TRK, id, (uint8_t)i)));
                assert_true(keystore_set_state(ks, STR(ALICE), str_z(id), KEY_REVOKED, &f->faults));
            }
            assert_true(put(f, ks, entry(ALICE, KEY_TRK, id, (uint8_t)i))); /* no change */
            assert_int_equal(f->counts[KEY_SAME], 1);
            assert_false(put(f, ks, entry(ALICE, KEY_TRK, "other", (uint8_t)i)));
            assert_false(replace(f, ks, entry(ALICE, KEY_INK, "other", (uint8_t)i)));
            assert_false(force(f, ks, entry(ALICE, KEY_TRK, id, 99)));
            assert_true(told(f, "revoked"));
            forget_faults(f);
        }
        assert_true(put(f, ks, entry(BOB, KEY_TRK, "other", 1))); /* another user's are another matter */
        keystore_close(ks);
        ks = open_store(f);
    }
    assert_int_equal(state_of(ks, ALICE, "trk.1"), -1); /* a tombstone */
    assert_int_equal(state_of(ks, ALICE, "trk.4"), KEY_REVOKED);
    assert_true(force(f, ks, entry(ALICE, KEY_TRK, "other", 1)));
    assert_int_equal(state_of(ks, ALICE, "other"), KEY_ACTIVE);
    keystore_close(ks);
}

static void states(void **state)
{
    struct fixture *f = *state;
    fill_store(f);
    struct keystore *ks = open_store(f);
    const struct str user = STR(ALICE), id = STR("ink.1.alice");
    assert_false(keystore_set_state(ks, user, STR("ink.9.alice"), KEY_REVOKED, &f->faults));
    assert_true(told(f, "no such key"));
    assert_false(keystore_set_state(ks, STR("sip:carol@example.org"), id, KEY_REVOKED, &f->faults));
    assert_true(keystore_set_state(ks, user, id, KEY_ACTIVE, &f->faults)); /* it is */
    assert_true(keystore_set_state(ks, user, id, KEY_RETIRING, &f->faults));
    assert_int_equal(state_of(ks, ALICE, "ink.1.alice"), KEY_RETIRING);
    assert_false(keystore_set_state(ks, user, id, KEY_ACTIVE, &f->faults));
    assert_true(keystore_set_state(ks, user, id, KEY_REVOKED, &f->faults));
    assert_true(keystore_set_state(ks, user, id, KEY_REVOKED, &f->faults));
    forget_faults(f);
    assert_false(keystore_set_state(ks, user, id, KEY_RETIRING, &f->faults));
    assert_true(told(f, "for good"));
    keystore_close(ks);
    ks = open_store(f);
    assert_int_equal(state_of(ks, ALICE, "ink.1.alice"), KEY_REVOKED);
    assert_int_equal(state_of(ks, ALICE, "trk.1.alice"), KEY_ACTIVE);
    assert_true(has_key(ks, ALICE, "ink.1.alice", 1));
    keystore_close(ks);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(added_then_same), T(other_bytes), T(another_type), T(zero_key), T(ink_equal_to_trk), T(second_active_key),
        T(two_active_keys_in_one_file), T(more_said_of_a_known_key), T(all_or_nothing), T(doubles_in_one_file),
        T(every_fault_is_told), T(texts), T(old_ones_give_way), T(revoked_bytes), T(states),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
