#include "base/provided.h"

#include <stdlib.h>

#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/provider.h>

#include "base/str.h"

struct provided_hash {
    OSSL_FUNC_digest_newctx_fn *make;
    OSSL_FUNC_digest_init_fn *begin;
    OSSL_FUNC_digest_update_fn *add;
    OSSL_FUNC_digest_final_fn *end;
    OSSL_FUNC_digest_freectx_fn *free;
    void *ctx;
};

struct provided_gcm {
    OSSL_FUNC_cipher_newctx_fn *make;
    OSSL_FUNC_cipher_decrypt_init_fn *begin;
    OSSL_FUNC_cipher_update_fn *add;
    OSSL_FUNC_cipher_final_fn *end;
    OSSL_FUNC_cipher_freectx_fn *free;
    void *ctx;
};

/* Of a provider's algorithms, each with all of its names ("SHA2-256:SHA-256"), the one whose first name it is: that is
 * what EVP calls a method that it fetched. NULL: there is none. */
static const OSSL_DISPATCH *provided_find(const OSSL_ALGORITHM *all, const char *name)
{
    for (; all && all->algorithm_names; all++) {
        const struct str names = str_z(all->algorithm_names), first = str_z(name);
        if (str_starts(names, first) && (names.n == first.n || names.p[first.n] == ':'))
            return all->implementation;
    }
    return NULL;
}

static void provided_hash_take(struct provided_hash *h, const OSSL_DISPATCH *f)
{
    for (; f && f->function_id; f++)
        switch (f->function_id) {
        case OSSL_FUNC_DIGEST_NEWCTX:
            h->make = OSSL_FUNC_digest_newctx(f);
            break;
        case OSSL_FUNC_DIGEST_INIT:
            h->begin = OSSL_FUNC_digest_init(f);
            break;
        case OSSL_FUNC_DIGEST_UPDATE:
            h->add = OSSL_FUNC_digest_update(f);
            break;
        case OSSL_FUNC_DIGEST_FINAL:
            h->end = OSSL_FUNC_digest_final(f);
            break;
        case OSSL_FUNC_DIGEST_FREECTX:
            h->free = OSSL_FUNC_digest_freectx(f);
            break;
        default:
            break;
        }
}

struct provided_hash *provided_hash_new(const EVP_MD *md)
{
    struct provided_hash *h = EVP_MD_get_size(md) == HASH_BYTES ? calloc(1, sizeof *h) : NULL;
    const OSSL_PROVIDER *from = h ? EVP_MD_get0_provider(md) : NULL;
    int passing = 0; /* the table may be; functions stay */
    const OSSL_ALGORITHM *all = from ? OSSL_PROVIDER_query_operation(from, OSSL_OP_DIGEST, &passing) : NULL;
    if (all) {
        provided_hash_take(h, provided_find(all, EVP_MD_get0_name(md)));
        OSSL_PROVIDER_unquery_operation(from, OSSL_OP_DIGEST, all);
    }
    if (h && h->make && h->begin && h->add && h->end && h->free)
        h->ctx = h->make(OSSL_PROVIDER_get0_provider_ctx(from));
    if (h && h->ctx)
        return h;
    free(h);
    return NULL;
}

bool provided_hash_begin(struct provided_hash *h)
{
    return h->begin(h->ctx, NULL) == 1;
}

bool provided_hash_add(struct provided_hash *h, const void *p, size_t n)
{
    return n == 0 || h->add(h->ctx, p, n) == 1;
}

bool provided_hash_end(struct provided_hash *h, uint8_t out[HASH_BYTES])
{
    size_t got = 0;
    return h->end(h->ctx, out, &got, HASH_BYTES) == 1 && got == HASH_BYTES;
}

void provided_hash_free(struct provided_hash *h)
{
    if (!h)
        return;
    h->free(h->ctx);
    free(h);
}

static void provided_gcm_take(struct provided_gcm *g, const OSSL_DISPATCH *f)
{
    for (; f && f->function_id; f++)
        switch (f->function_id) {
        case OSSL_FUNC_CIPHER_NEWCTX:
            g->make = OSSL_FUNC_cipher_newctx(f);
            break;
        case OSSL_FUNC_CIPHER_DECRYPT_INIT:
            g->begin = OSSL_FUNC_cipher_decrypt_init(f);
            break;
        case OSSL_FUNC_CIPHER_UPDATE:
            g->add = OSSL_FUNC_cipher_update(f);
            break;
        case OSSL_FUNC_CIPHER_FINAL:
            g->end = OSSL_FUNC_cipher_final(f);
            break;
        case OSSL_FUNC_CIPHER_FREECTX:
            g->free = OSSL_FUNC_cipher_freectx(f);
            break;
        default:
            break;
        }
}

static bool provided_gcm_is(const EVP_CIPHER *gcm)
{
    return EVP_CIPHER_get_mode(gcm) == EVP_CIPH_GCM_MODE && EVP_CIPHER_get_key_length(gcm) == KEY_BYTES &&
           EVP_CIPHER_get_iv_length(gcm) == GCM_IV_BYTES;
}

struct provided_gcm *provided_gcm_new(const EVP_CIPHER *gcm)
{
    struct provided_gcm *g = provided_gcm_is(gcm) ? calloc(1, sizeof *g) : NULL;
    const OSSL_PROVIDER *from = g ? EVP_CIPHER_get0_provider(gcm) : NULL;
    int passing = 0;
    const OSSL_ALGORITHM *all = from ? OSSL_PROVIDER_query_operation(from, OSSL_OP_CIPHER, &passing) : NULL;
    if (all) {
        provided_gcm_take(g, provided_find(all, EVP_CIPHER_get0_name(gcm)));
        OSSL_PROVIDER_unquery_operation(from, OSSL_OP_CIPHER, all);
    }
    if (g && g->make && g->begin && g->add && g->end && g->free)
        g->ctx = g->make(OSSL_PROVIDER_get0_provider_ctx(from));
    if (g && g->ctx)
        return g;
    free(g);
    return NULL;
}

bool provided_gcm_key(struct provided_gcm *g, const uint8_t key[KEY_BYTES])
{
    return g->begin(g->ctx, key, KEY_BYTES, NULL, 0, NULL) == 1;
}

bool provided_gcm_open(struct provided_gcm *g, const struct crypto_sealed *v)
{
    uint8_t none[GCM_TAG_BYTES];
    size_t as = 0, text = 0, rest = 0;
    const OSSL_PARAM tag[] = {OSSL_PARAM_octet_string(OSSL_CIPHER_PARAM_AEAD_TAG, (void *)v->tag, GCM_TAG_BYTES),
                              OSSL_PARAM_END};
    return g->begin(g->ctx, NULL, 0, v->iv, GCM_IV_BYTES, tag) == 1 &&
           (!v->aad_n || g->add(g->ctx, NULL, &as, v->aad_n, v->aad, v->aad_n) == 1) &&
           g->add(g->ctx, v->text, &text, v->n, v->cipher, v->n) == 1 && text == v->n &&
           g->end(g->ctx, none, &rest, 0) == 1 && rest == 0;
}

void provided_gcm_free(struct provided_gcm *g)
{
    if (!g)
        return;
    g->free(g->ctx);
    free(g);
}
