/*
 * A key store in memory alone: what goes in comes out, and nothing else.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "keys/keystore.h"
#include "keys/table.h"

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

/* Four users' IDs leave less than a kilobyte of a chunk of 256, the fifth's go over its end in small steps. */
enum { LONG_USERS = 4, TEXT_USERS = 6, ALL_KEYS = TEXT_USERS * LIMIT_USER_KEYS };

static size_t id_length(size_t user, size_t i)
{
    return user < LONG_USERS ? KEY_TEXT_MAX - 4 : user == LONG_USERS ? 20 : i + 2; /* the last one has each length */
}

/* IDs are whole and each its own, however long, and wherever the table has them. */
static void test_ids_of_all_lengths(void **state)
{
    static char ids[ALL_KEYS][KEY_TEXT_MAX + 1], users[TEXT_USERS][24];
    static struct key_entry v[ALL_KEYS];
    (void)state;
    for (size_t i = 0; i < ALL_KEYS; i++) {
        const size_t user = i / LIMIT_USER_KEYS, nth = i % LIMIT_USER_KEYS;
        snprintf(users[user], sizeof users[user], "sip:%zu@example.org", user);
        memset(ids[i], 'a' + (int)(i % 26), KEY_TEXT_MAX);
        snprintf(ids[i], 3, "%02u", (unsigned)nth & 63);
        ids[i][2] = 'x'; /* was its end */
        ids[i][id_length(user, nth)] = '\0';
        v[i] = (struct key_entry){str_z(users[user]), str_z(ids[i]), KEY_INK, KEY_RETIRING, TIME_NONE,
                                  {{(uint8_t)(i >> 8), (uint8_t)i, 1}}};
    }
    struct keystore *ks = keystore_scratch(v, ALL_KEYS);
    assert_non_null(ks);
    for (size_t i = 0; i < ALL_KEYS; i++) {
        struct keyring ring;
        struct secret_key clear;
        assert_int_equal(keystore_user(ks, v[i].user, &ring), KEYSTORE_OK);
        assert_true(ring.n == LIMIT_USER_KEYS && str_eq(ring.user, v[i].user));
        const struct key *k = keyring_find(&ring, v[i].id);
        assert_true(k && k->id.n == v[i].id.n && keyring_open(&ring, k, &clear));
        assert_memory_equal(clear.b, v[i].key.b, KEY_BYTES);
        assert_null(keyring_find(&ring, STR("")));
        keyring_clear(&ring);
    }
    keystore_close(ks);
}

enum { IDS = 400000, ID_ROOM = 16 }; /* some twenty pairs of them have one hash of 32 bits */

struct hashed {
    uint32_t hash;
    unsigned number;
};

static int by_hash(const void *a, const void *b)
{
    const uint32_t x = ((const struct hashed *)a)->hash, y = ((const struct hashed *)b)->hash;
    return (x > y) - (x < y);
}

/* A key is found by its ID; the hash only makes looking cheap. */
static void test_two_ids_of_one_hash(void **state)
{
    struct hashed *v = calloc(IDS, sizeof *v);
    char one[ID_ROOM], other[ID_ROOM];
    size_t pairs = 0;
    (void)state;
    assert_non_null(v);
    for (unsigned i = 0; i < IDS; i++) {
        snprintf(one, sizeof one, "ink.%u", i);
        v[i] = (struct hashed){key_id_hash(str_z(one)), i};
    }
    qsort(v, IDS, sizeof *v, by_hash);
    for (size_t i = 1; i < IDS; i++) {
        if (v[i].hash != v[i - 1].hash)
            continue;
        snprintf(one, sizeof one, "ink.%u", v[i - 1].number);
        snprintf(other, sizeof other, "ink.%u", v[i].number);
        struct key_entry e = KEYS[0];
        struct keyring ring;
        e.id = str_z(one);
        struct keystore *ks = keystore_scratch(&e, 1);
        assert_non_null(ks);
        assert_int_equal(keystore_user(ks, e.user, &ring), KEYSTORE_OK);
        assert_non_null(keyring_find(&ring, str_z(one)));
        assert_null(keyring_find(&ring, str_z(other)));
        keyring_clear(&ring);
        keystore_close(ks);
        pairs++;
    }
    free(v);
    assert_true(pairs > 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_what_goes_in_comes_out),
                                       cmocka_unit_test(test_empty_and_full),
                                       cmocka_unit_test(test_ids_of_all_lengths),
                                       cmocka_unit_test(test_two_ids_of_one_hash)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
