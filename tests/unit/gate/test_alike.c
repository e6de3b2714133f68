/*
 * A wrong signature, a revoked or expired key, an unknown key and an unknown user are the same amount of work: one key
 * is opened, one HMAC made, whatever the user has. tests/bench/alike.c counts the instructions.
 */
#include "judging.h"


static unsigned opened;

/* The linker puts these in the places of the real ones. */
bool __real_keyring_open(const struct keyring *ring, const struct key *key, struct secret_key *out);
bool __wrap_keyring_open(const struct keyring *ring, const struct key *key, struct secret_key *out);

bool __wrap_keyring_open(const struct keyring *ring, const struct key *key, struct secret_key *out)
{
    opened++;
    return __real_keyring_open(ring, key, out);
}

static void test_one_key_is_opened(void **state)
{
    struct world *w = *state;
    const struct {
        const char *what;
        const char *user, *key_id;
        const struct secret_key *key;
        enum reason want;
    } CASES[] = {
        {"good", ALICE, "ink.1", &w->ink[WHO_ALICE], REASON_OK},
        {"wrong signature", ALICE, "ink.1", &w->stranger, REASON_SIGNATURE_INVALID},
        {"unknown key", ALICE, "ink.9", &w->ink[WHO_ALICE], REASON_KEY_UNKNOWN},
        {"revoked key", BOB, "ink.1", &w->ink[WHO_BOB], REASON_KEY_REVOKED},
        {"expired key", USERS[WHO_DAVE], "ink.1", &w->ink[WHO_DAVE], REASON_KEY_REVOKED},
        {"user without InK", USERS[WHO_CAROL], "ink.1", &w->stranger, REASON_KEY_UNKNOWN},
        {"unknown user", "sip:nobody@example.org", "ink.1", &w->stranger, REASON_KEY_UNKNOWN},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct ask a = ask_of(w);
        a.fields.user_uri = str_z(CASES[i].user);
        a.fields.signature_id = str_z(CASES[i].key_id);
        a.fields.trk_id = STR_MISSING;
        a.key_id = CASES[i].key_id;
        a.key = CASES[i].key;
        opened = 0;
        const enum reason r = judge_ask(w, &a);
        if (r != CASES[i].want || opened != 1)
            fail_msg("%s: %s, %u keys opened", CASES[i].what, reason_name(r), opened);
    }
}

/* All places of a ring are somebody's or nobody's, and nobody's are found by nothing. */
static void test_nobodys_keys(void **state)
{
    struct world *w = *state;
    struct keyring ring = {0};
    assert_int_equal(keystore_user(w->keys, STR(ALICE), &ring), KEYSTORE_OK);
    assert_int_equal(ring.n, 2);
    for (size_t i = ring.n; i < LIMIT_USER_KEYS; i++) {
        assert_false(key_usable(&ring.keys[i], NOW));
        assert_null(keyring_find(&ring, ring.keys[i].id));
    }
    assert_ptr_equal(keyring_find(&ring, STR("ink.1")), &ring.keys[ring.keys[0].type == KEY_INK ? 0 : 1]);
    keyring_clear(&ring);
    assert_null(keyring_find(&ring, STR("ink.1")));
    assert_int_equal(keystore_user(w->keys, STR("sip:nobody@example.org"), &ring), KEYSTORE_NOT_FOUND);
    assert_true(ring.n == 0 && !ring.user.p && !keyring_has_ink(&ring));
    assert_null(keyring_find(&ring, STR("ink.1")));
    assert_null(keyring_newest(&ring, KEY_TRK, NOW));
    keyring_clear(&ring);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup(test_one_key_is_opened, fresh),
                                       cmocka_unit_test_setup(test_nobodys_keys, fresh)};
    xml_startup();
    const int failed = cmocka_run_group_tests(tests, world_begin, world_end);
    xml_shutdown();
    return failed;
}
