/*
 * The thread's contexts compute what published vectors say, again and again, whatever was computed between, on each
 * thread; and nothing of a key is left in them.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <pthread.h>
#include <string.h>

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "base/buf.h"
#include "base/crypto.h"

static void octets(const char *hex, uint8_t *out, size_t n)
{
    size_t got = 0;
    assert_true(hex_decode(str_z(hex), out, n, &got));
    assert_int_equal(got, n);
}

static bool sha256_holds(const char *text, const char *hex)
{
    uint8_t out[HASH_BYTES], expected[HASH_BYTES];
    size_t n;
    return crypto_sha256(text, strlen(text), out) && hex_decode(str_z(hex), expected, sizeof expected, &n) &&
           memcmp(out, expected, sizeof out) == 0;
}

/* FIPS 180-4's examples. */
static bool all_hashes_hold(void)
{
    return sha256_holds("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855") &&
           sha256_holds("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad") &&
           sha256_holds("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

static void test_hash(void **state)
{
    uint8_t whole[HASH_BYTES], parts[HASH_BYTES];
    const struct crypto_part cut[] = {{"ab", 2}, {NULL, 0}, {"c", 1}};
    (void)state;
    for (int i = 0; i < 3; i++)
        assert_true(all_hashes_hold());
    assert_true(crypto_sha256("abc", 3, whole) && crypto_sha256_parts(cut, 3, parts));
    assert_memory_equal(whole, parts, sizeof whole);
    assert_false(crypto_sha256(NULL, 0, whole));
    for (size_t n = 0; n <= 2000; n += 50) { /* of any lengths */
        char text[2000];
        memset(text, 'x', sizeof text);
        const struct crypto_part two[] = {{text, n}, {text + n, sizeof text - n}};
        assert_true(crypto_sha256(text, sizeof text, whole) && crypto_sha256_parts(two, 2, parts));
        assert_memory_equal(whole, parts, sizeof whole);
    }
}

/* RFC 4231's test cases with keys that are no longer than ours: HMAC fills them up with zeros. */
static void test_hmac_vectors(void **state)
{
    static const struct {
        const char *key, *text, *hmac;
    } CASES[] = {
        {"0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b000000000000000000000000", "4869205468657265",
         "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"},
        {"4a65666500000000000000000000000000000000000000000000000000000000",
         "7768617420646f2079612077616e7420666f72206e6f7468696e673f",
         "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"},
        {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa000000000000000000000000",
         "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd",
         "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"},
        {"0102030405060708090a0b0c0d0e0f10111213141516171819000000000000",
         "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd",
         "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        uint8_t key[KEY_BYTES] = {0}, text[64], expected[HASH_BYTES], out[HASH_BYTES];
        size_t n = 0;
        assert_true(hex_decode(str_z(CASES[i].key), key, sizeof key, &n));
        octets(CASES[i].hmac, expected, sizeof expected);
        assert_true(hex_decode(str_z(CASES[i].text), text, sizeof text, &n));
        assert_true(crypto_hmac_sha256(key, text, n, out));
        assert_memory_equal(out, expected, sizeof out);
        struct crypto_keyed *keyed = crypto_keyed_new(key);
        assert_non_null(keyed);
        memset(out, 0, sizeof out);
        assert_true(crypto_keyed_hmac(keyed, text, n, out));
        assert_memory_equal(out, expected, sizeof out);
        crypto_keyed_free(keyed);
    }
}

static void test_hmac(void **state)
{
    uint8_t key[2][KEY_BYTES], out[HASH_BYTES], expected[HASH_BYTES];
    (void)state;
    for (unsigned i = 0; i < 1000; i++) { /* the same key again, another, longer texts than a block */
        char text[1000];
        unsigned n = 0;
        memset(key[i % 2], (int)(i % 7), KEY_BYTES);
        memset(text, (int)i, sizeof text);
        assert_true(crypto_hmac_sha256(key[i % 2], text, i, out));
        assert_non_null(HMAC(EVP_sha256(), key[i % 2], KEY_BYTES, (const uint8_t *)text, i, expected, &n));
        assert_memory_equal(out, expected, sizeof out);
    }
    assert_false(crypto_hmac_sha256(key[0], NULL, 0, out));
}

/* Two keys that stay, in turn, beside other hashes of the thread. */
static void test_keyed(void **state)
{
    uint8_t key[2][KEY_BYTES] = {{1}, {2}}, out[HASH_BYTES], expected[HASH_BYTES];
    struct crypto_keyed *keyed[2] = {crypto_keyed_new(key[0]), crypto_keyed_new(key[1])};
    (void)state;
    for (unsigned i = 0; i < 300; i++) {
        char text[300];
        memset(text, (int)i, sizeof text);
        assert_true(crypto_keyed_hmac(keyed[i % 2], text, i, out));
        assert_true(crypto_hmac_sha256(key[i % 2], text, i, expected));
        assert_memory_equal(out, expected, sizeof out);
    }
    crypto_keyed_free(keyed[0]);
    crypto_keyed_free(keyed[1]);
    crypto_keyed_free(NULL);
}

/* The test case of AES-256-GCM with associated data of the algorithm's first description (case 16). */
static void test_gcm(void **state)
{
    uint8_t key[KEY_BYTES], iv[GCM_IV_BYTES], aad[20], text[60], expected[60], tag[GCM_TAG_BYTES];
    uint8_t cipher[60], found[GCM_TAG_BYTES], clear[60];
    static const uint8_t ZEROS[60];
    (void)state;
    octets("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308", key, sizeof key);
    octets("cafebabefacedbaddecaf888", iv, sizeof iv);
    octets("feedfacedeadbeeffeedfacedeadbeefabaddad2", aad, sizeof aad);
    octets("d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5"
           "aa0de657ba637b39", text, sizeof text);
    octets("522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e63"
           "93ba7a0abcc9f662", expected, sizeof expected);
    octets("76fc6ece0f4e1768cddf8853bb2d551b", tag, sizeof tag);
    const struct crypto_gcm how = {key, iv, aad, sizeof aad}, bare = {key, iv, NULL, 0};
    for (int i = 0; i < 3; i++) {
        assert_true(crypto_gcm_seal(&bare, text, sizeof text, cipher, found));
        assert_memory_not_equal(found, tag, sizeof tag);
        assert_true(crypto_gcm_seal(&how, text, sizeof text, cipher, found));
        assert_memory_equal(cipher, expected, sizeof cipher);
        assert_memory_equal(found, tag, sizeof tag);
        assert_true(crypto_gcm_open(&how, cipher, sizeof cipher, tag, clear));
        assert_memory_equal(clear, text, sizeof clear);
        found[i] ^= 1;
        assert_false(crypto_gcm_open(&how, cipher, sizeof cipher, found, clear));
        assert_memory_equal(clear, ZEROS, sizeof clear);
        assert_false(crypto_gcm_open(&bare, cipher, sizeof cipher, tag, clear));
        uint8_t three[3][60];
        struct crypto_sealed some[3];
        const struct crypto_kept_key own = {key, 7};
        for (int k = 0; k < 3; k++)
            some[k] = (struct crypto_sealed){iv, aad, sizeof aad, cipher, sizeof cipher, tag, three[k]};
        assert_true(crypto_gcm_open_kept(&own, some, 3));
        for (int k = 0; k < 3; k++)
            assert_memory_equal(three[k], text, sizeof text);
        some[i].tag = found;
        assert_false(crypto_gcm_open_kept(&own, some, 3));
        for (int k = 0; k < 3; k++)
            assert_memory_equal(three[k], ZEROS, sizeof text);
    }
}

/* A key that is set up is taken by its number, whatever did not open under it; one that had to give way to others, or
 * is forgotten, is set up anew. */
static void test_kept(void **state)
{
    static const uint8_t ZEROS[KEY_BYTES];
    uint8_t keys[3][KEY_BYTES] = {"one", "another", "nobody's"}, iv[GCM_IV_BYTES] = "iv";
    uint8_t clear[KEY_BYTES] = "text", cipher[2][KEY_BYTES], tag[2][GCM_TAG_BYTES], out[KEY_BYTES];
    struct crypto_sealed v[2];
    (void)state;
    for (int k = 0; k < 2; k++) {
        const struct crypto_gcm how = {keys[k], iv, NULL, 0};
        assert_true(crypto_gcm_seal(&how, clear, sizeof clear, cipher[k], tag[k]));
        v[k] = (struct crypto_sealed){iv, NULL, 0, cipher[k], sizeof cipher[k], tag[k], out};
    }
    const struct crypto_kept_key first = {keys[0], 1}, other = {keys[1], 2}, not_looked_at = {keys[2], 1};
    for (int round = 0; round < 3; round++) {
        assert_true(crypto_gcm_open_kept(&first, &v[0], 1));
        assert_memory_equal(out, clear, sizeof out);
        assert_true(crypto_gcm_open_kept(&other, &v[1], 1));
        assert_true(crypto_gcm_open_kept(&not_looked_at, &v[0], 1)); /* its number says that it is there */
        for (uint64_t number = 11; number <= 20; number++)
            assert_true(crypto_gcm_open_kept(&(struct crypto_kept_key){keys[1], number}, &v[1], 1));
        assert_true(crypto_gcm_open_kept(&first, &v[0], 1));
        assert_false(crypto_gcm_open_kept(&first, &v[1], 1));
        assert_memory_equal(out, ZEROS, sizeof out);
        assert_true(crypto_gcm_open_kept(&not_looked_at, &v[0], 1));
        crypto_gcm_forget_kept(other.number); /* it is not there any more */
        assert_true(crypto_gcm_open_kept(&not_looked_at, &v[0], 1));
        crypto_gcm_forget_kept(first.number);
        assert_false(crypto_gcm_open_kept(&not_looked_at, &v[0], 1));
        crypto_gcm_forget_kept(not_looked_at.number);
    }
    assert_true(crypto_gcm_open_kept(&first, v, 0));
    assert_true(crypto_gcm_open_kept(&first, &v[0], 1));
    crypto_thread_end();
    crypto_gcm_forget_kept(first.number); /* a thread that has none */
    assert_true(crypto_gcm_open_kept(&first, &v[0], 1));
}

/* FIPS 197, C.3; more contexts at once than the thread keeps. */
static void test_blocks(void **state)
{
    enum { AT_ONCE = 5, BLOCK = 16 };
    uint8_t key[KEY_BYTES], text[BLOCK], expected[BLOCK], out[BLOCK];
    (void)state;
    octets("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", key, sizeof key);
    octets("00112233445566778899aabbccddeeff", text, sizeof text);
    octets("8ea2b7ca516745bfeafc49904b496089", expected, sizeof expected);
    for (int round = 0; round < 3; round++) {
        EVP_CIPHER_CTX *ctx[AT_ONCE];
        for (int i = 0; i < AT_ONCE; i++)
            assert_non_null(ctx[i] = crypto_blocks_take(key, i % 2 == 0));
        for (int i = 0; i < AT_ONCE; i++) {
            const bool encrypt = i % 2 == 0;
            assert_int_equal(EVP_Cipher(ctx[i], out, encrypt ? text : expected, BLOCK), BLOCK);
            assert_memory_equal(out, encrypt ? expected : text, BLOCK);
        }
        for (int i = 0; i < AT_ONCE; i++)
            crypto_blocks_give(ctx[i]);
    }
    crypto_blocks_give(NULL);
}

static void *on_a_thread(void *arg)
{
    bool *ok = arg;
    for (int i = 0; i < 100; i++)
        *ok = all_hashes_hold() && *ok;
    return NULL;
}

static void test_threads(void **state)
{
    enum { THREADS = 8 };
    pthread_t threads[THREADS];
    bool ok[THREADS];
    (void)state;
    for (int i = 0; i < THREADS; i++) {
        ok[i] = true;
        assert_int_equal(pthread_create(&threads[i], NULL, on_a_thread, &ok[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_true(ok[i]);
    }
    crypto_thread_end();
    crypto_thread_end();
    assert_true(all_hashes_hold());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hash), cmocka_unit_test(test_hmac_vectors), cmocka_unit_test(test_hmac),
        cmocka_unit_test(test_keyed), cmocka_unit_test(test_gcm), cmocka_unit_test(test_kept),
        cmocka_unit_test(test_blocks), cmocka_unit_test(test_threads),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    crypto_thread_end();
    return failed;
}
