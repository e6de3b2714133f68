/*
 * A key store in memory alone: what goes in comes out, and nothing else.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <string.h>

#include <cmocka.h>

#include "keys/keystore.h"

static const struct key_entry KEYS[] = {
    {STR("sip:alice@example.org"), STR("ink.1"), KEY_INK, KEY_ACTIVE, TIME_NONE, {{1}}},
    {STR("sip:alice@example.org"), STR("trk.1"), KEY_TRK, KEY_RETIRING, 1000, {{2}}},
    {STR("sip:bob@example.org"), STR("ink.1"), KEY_INK, KEY_REVOKED, TIME_NONE, {{3}}},
};

static void test_what_goes_in_comes_out(void **state)
{
    struct keystore *ks = keystore_scratch(KEYS, 3);
    struct keyring ring;
    (void)state;
    assert_non_null(ks);
    for (size_t i = 0; i < 3; i++) {
        struct secret_key clear;
        assert_int_equal(keystore_user(ks, KEYS[i].user, &ring), KEYSTORE_OK);
        const struct key *k = keyring_find(&ring, KEYS[i].id);
        assert_non_null(k);
        assert_int_equal(k->type, KEYS[i].type);
        assert_int_equal(k->state, KEYS[i].state);
        assert_true(k->not_after == KEYS[i].not_after);
        assert_true(keyring_open(&ring, k, &clear));
        assert_memory_equal(clear.b, KEYS[i].key.b, KEY_BYTES);
        keyring_clear(&ring);
    }
    assert_int_equal(keystore_user(ks, STR("sip:carol@example.org"), &ring), KEYSTORE_NOT_FOUND);
    keyring_clear(&ring);
    keystore_close(ks);
}

static void test_empty_and_full(void **state)
{
    static char ids[LIMIT_USER_KEYS + 1][4];
    struct key_entry many[LIMIT_USER_KEYS + 1];
    struct keyring ring;
    (void)state;
    struct keystore *ks = keystore_scratch(NULL, 0);
    assert_non_null(ks);
    assert_int_equal(keystore_user(ks, KEYS[0].user, &ring), KEYSTORE_NOT_FOUND);
    keyring_clear(&ring);
    keystore_close(ks);
    for (size_t i = 0; i <= LIMIT_USER_KEYS; i++) {
        ids[i][0] = (char)('a' + i / 26);
        ids[i][1] = (char)('a' + i % 26);
        many[i] = KEYS[0];
        many[i].id = str_z(ids[i]);
    }
    ks = keystore_scratch(many, LIMIT_USER_KEYS);
    assert_non_null(ks);
    keystore_close(ks);
    assert_null(keystore_scratch(many, LIMIT_USER_KEYS + 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_what_goes_in_comes_out),
                                       cmocka_unit_test(test_empty_and_full)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
