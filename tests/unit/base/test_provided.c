/*
 * The provider's own functions do what EVP does by them, whatever was begun and left before; what is no SHA-256 and no
 * AES-256-GCM is refused; and once a thread has its contexts, hashing and opening ask OpenSSL for no memory, so that
 * nothing of a key gets out of that which was locked for them.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>

#include "base/provided.h"

static unsigned long asked; /* for memory, by OpenSSL */

static void *take(size_t n, const char *file, int line)
{
    (void)file, (void)line;
    asked++;
    return malloc(n);
}

static void *move(void *p, size_t n, const char *file, int line)
{
    (void)file, (void)line;
    asked++;
    return realloc(p, n);
}

static void give(void *p, const char *file, int line)
{
    (void)file, (void)line;
    free(p);
}

static void hash(void **state)
{
    uint8_t text[300], out[HASH_BYTES], expected[HASH_BYTES];
    EVP_MD *sha = EVP_MD_fetch(NULL, "SHA256", NULL);
    struct provided_hash *h = provided_hash_new(sha);
    (void)state;
    assert_non_null(h);
    for (size_t n = 0; n < sizeof text; n++) {
        memset(text, (int)n, sizeof text);
        assert_true(provided_hash_begin(h) && provided_hash_add(h, text, n / 2)); /* and leaves it */
        assert_true(provided_hash_begin(h) && provided_hash_add(h, text, n / 2) && provided_hash_add(h, NULL, 0) &&
                    provided_hash_add(h, text + n / 2, n - n / 2) && provided_hash_end(h, out));
        assert_int_equal(EVP_Digest(text, n, expected, NULL, sha, NULL), 1);
        assert_memory_equal(out, expected, sizeof out);
    }
    provided_hash_free(h);
    provided_hash_free(NULL);
    EVP_MD_free(sha);
}

/* Of 32 octets, too, is SHA-512/256: which hash it is, the caller says. */
static void hash_that_is_none(void **state)
{
    static const char *const NAMES[] = {"SHA224", "SHA512", "MD5"};
    (void)state;
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        EVP_MD *md = EVP_MD_fetch(NULL, NAMES[i], NULL);
        assert_non_null(md);
        assert_null(provided_hash_new(md));
        EVP_MD_free(md);
    }
}

enum { LONGEST = 200 };
struct text {
    uint8_t iv[GCM_IV_BYTES], aad[LONGEST], clear[LONGEST], cipher[LONGEST], tag[GCM_TAG_BYTES], out[LONGEST];
    size_t aad_n, n;
};

static void seal(const EVP_CIPHER *gcm, const uint8_t key[KEY_BYTES], struct text *t)
{
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    int done = 0;
    assert_int_equal(EVP_EncryptInit_ex2(ctx, gcm, key, t->iv, NULL), 1);
    assert_int_equal(EVP_EncryptUpdate(ctx, NULL, &done, t->aad, (int)t->aad_n), 1);
    assert_int_equal(EVP_EncryptUpdate(ctx, t->cipher, &done, t->clear, (int)t->n), 1);
    assert_int_equal(EVP_EncryptFinal_ex(ctx, t->out, &done), 1);
    assert_int_equal(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, GCM_TAG_BYTES, t->tag), 1);
    EVP_CIPHER_CTX_free(ctx);
}

static bool opens(struct provided_gcm *g, struct text *t)
{
    return provided_gcm_open(g, &(struct crypto_sealed){.iv = t->iv, .aad = t->aad, .aad_n = t->aad_n,
                                                        .cipher = t->cipher, .n = t->n, .tag = t->tag,
                                                        .text = t->out});
}

/* The same with one bit of `p` turned is refused, and then opened as it was. */
static void turned(struct provided_gcm *g, struct text *t, uint8_t *p)
{
    *p ^= 0x10;
    assert_false(opens(g, t));
    *p ^= 0x10;
    memset(t->out, 0, sizeof t->out);
    assert_true(opens(g, t));
    assert_memory_equal(t->out, t->clear, t->n);
}

static void gcm(void **state)
{
    static const uint8_t KEYS[2][KEY_BYTES] = {{1}, {2}};
    EVP_CIPHER *cipher = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
    struct provided_gcm *g = provided_gcm_new(cipher);
    struct text t = {.n = 0};
    (void)state;
    assert_non_null(g);
    assert_false(opens(g, &t)); /* no key */
    for (size_t n = 1; n <= LONGEST; n++) {
        const uint8_t *key = KEYS[n % 2];
        memset(t.clear, (int)n, sizeof t.clear);
        memset(t.aad, (int)n + 1, sizeof t.aad);
        t.n = n;
        t.aad_n = LONGEST - n;
        t.iv[n % GCM_IV_BYTES]++;
        seal(cipher, key, &t);
        assert_true(provided_gcm_key(g, KEYS[(n + 1) % 2]));
        assert_false(opens(g, &t)); /* another key */
        assert_true(provided_gcm_key(g, key));
        turned(g, &t, &t.iv[n % GCM_IV_BYTES]);
        turned(g, &t, &t.cipher[n / 2]);
        turned(g, &t, &t.tag[n % GCM_TAG_BYTES]);
        if (t.aad_n)
            turned(g, &t, &t.aad[t.aad_n - 1]);
    }
    assert_int_equal(ERR_peek_error(), 0);
    provided_gcm_free(g);
    provided_gcm_free(NULL);
    EVP_CIPHER_free(cipher);
}

static void gcm_that_is_none(void **state)
{
    static const char *const NAMES[] = {"AES-128-GCM", "AES-256-CBC", "AES-256-CCM", "ChaCha20-Poly1305"};
    (void)state;
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        EVP_CIPHER *cipher = EVP_CIPHER_fetch(NULL, NAMES[i], NULL);
        assert_non_null(cipher);
        assert_null(provided_gcm_new(cipher));
        EVP_CIPHER_free(cipher);
    }
}

static void no_memory_asked_for(void **state)
{
    const uint8_t key[KEY_BYTES] = {1};
    uint8_t out[HASH_BYTES];
    EVP_CIPHER *cipher = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
    struct text t = {.n = KEY_BYTES, .aad_n = 100};
    struct crypto_sealed v = {t.iv, t.aad, t.aad_n, t.cipher, t.n, t.tag, t.out};
    (void)state;
    seal(cipher, key, &t);
    EVP_CIPHER_free(cipher);
    assert_true(crypto_sha256("", 0, out));
    const unsigned long before = asked;
    assert_true(before > 0);
    for (int i = 0; i < 10; i++) {
        assert_true(crypto_sha256("text", 4, out) && crypto_hmac_sha256(key, "text", 4, out));
        assert_true(crypto_gcm_open_kept(&(struct crypto_kept_key){key, 1}, &v, 1));
        t.tag[0] ^= 1;
        assert_false(crypto_gcm_open_kept(&(struct crypto_kept_key){key, 1}, &v, 1));
        t.tag[0] ^= 1;
    }
    assert_int_equal(asked, before);
    crypto_thread_end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hash), cmocka_unit_test(hash_that_is_none), cmocka_unit_test(gcm),
        cmocka_unit_test(gcm_that_is_none), cmocka_unit_test(no_memory_asked_for),
    };
    if (CRYPTO_set_mem_functions(take, move, give) != 1)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
