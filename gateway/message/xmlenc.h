/*
 * XML Encryption under a TrK (protocol.md, "Encryption profile"). RFC 3394 and RFC 5649 through OpenSSL's
 * CRYPTO_128_wrap(_pad) over one AES-256-ECB context; AES-256-GCM through EVP. Algorithm follows the key and the rule.
 */
#ifndef KMSGATE_MESSAGE_XMLENC_H
#define KMSGATE_MESSAGE_XMLENC_H

#include "base/buf.h"
#include "base/secret.h"
#include "message/xml.h"

/* NAMED: auto's octets, all under the name kw-aes256, as some KMSs and their clients have it. */
enum key_wrap { KEY_WRAP_AUTO, KEY_WRAP_KW, KEY_WRAP_KWP, KEY_WRAP_GCM, KEY_WRAP_NAMED };

/* One per reply: the cipher context keyed by the TrK. */
struct xmlenc;
struct xmlenc *xmlenc_new(const struct secret_key *trk, struct str trk_id);
void xmlenc_free(struct xmlenc *e); /* wipes; NULL is fine */

/* Appends one canonical <xenc:EncryptedKey xmlns:xenc=…> that carries the octets. auto: RFC 3394 where n is a
 * multiple of 8 and at least 16, else RFC 5649. False when the algorithm cannot take n octets, or on a library's
 * failure. */
bool xmlenc_key(struct xmlenc *e, enum key_wrap wrap, const uint8_t *octets, size_t n, struct buf *out) MUST_CHECK;
/* Several at once, side by side through the cipher: a key's blocks wait for one another, those of several do not. The
 * cipher texts are xmlenc_key()'s, but for what is random in AES-GCM. `octets` and `cipher` of each are the caller's.
 * False as xmlenc_key()'s. */
enum { XMLENC_SEVERAL = 8, XMLENC_MORE = 32 };
struct xmlenc_wrapped {
    const uint8_t *octets;
    size_t n;
    uint8_t *cipher; /* has room for n + XMLENC_MORE octets */
    size_t cipher_n;
    const char *algorithm;
};
bool xmlenc_wrap(struct xmlenc *e, enum key_wrap wrap, struct xmlenc_wrapped *v, size_t count) MUST_CHECK;
/* … and one of them written, as xmlenc_key() does it. */
bool xmlenc_put(const struct xmlenc *e, const struct xmlenc_wrapped *w, struct buf *out) MUST_CHECK;
/* The same of a new InK or TrK, by kw-aes256; `carried`: its ID, for CarriedKeyName; missing: it is not said. */
bool xmlenc_new_key(struct xmlenc *e, const struct secret_key *key, struct str carried, struct buf *out) MUST_CHECK;
/* Appends one <xenc:EncryptedData Type="…#Content"> around text: aes256-gcm under a fresh key, itself
 * kw-aes256-wrapped. */
bool xmlenc_content(struct xmlenc *e, struct str text, struct buf *out) MUST_CHECK;

/* (What is padded and bears the name of kw-aes256 is opened, too: the two have different integrity checks.)
 * The inverse of both, for clients and for keys that an upstream already encrypted. algorithm is the URI. False unless
 * the integrity check holds. */
bool xmlenc_open_key(struct xmlenc *e, struct str algorithm, const uint8_t *cipher, size_t n, uint8_t *out, size_t cap,
                     size_t *out_n) MUST_CHECK;
/* aes256-gcm as XML Encryption lays it out (IV 12, ciphertext, tag 16) under a content key. */
bool xmlenc_open_gcm(const uint8_t key[KEY_BYTES], const uint8_t *cipher, size_t n, struct buf *out) MUST_CHECK;

#endif
