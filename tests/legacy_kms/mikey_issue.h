/*
 * A KMS's side of MIKEY-SAKKE: master secrets, and the keys that they give a user for one key period.
 * RFC 6508 (SAKKE), RFC 6507 (ECCSI), by OpenSSL's BIGNUM and EC functions.
 */
#ifndef LEGACY_KMS_MIKEY_ISSUE_H
#define LEGACY_KMS_MIKEY_ISSUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ISSUE_UID = 32, ISSUE_SAKKE_POINT = 257, ISSUE_ECCSI_POINT = 65, ISSUE_SSK = 32 };

struct mikey_master;

/* Fresh master secrets z and KSAK; NULL when the library fails. */
struct mikey_master *mikey_master_new(void);
void mikey_master_free(struct mikey_master *m);
/* The public keys of the KMS certificate: Z = [z]P (PubEncKey), KPAK = [KSAK]G (PubAuthKey). */
const uint8_t *mikey_pub_enc(const struct mikey_master *m);
const uint8_t *mikey_pub_auth(const struct mikey_master *m);

struct mikey_keys {
    uint8_t rsk[ISSUE_SAKKE_POINT]; /* UserDecryptKey: [(a + z)^-1 mod q]P */
    uint8_t ssk[ISSUE_SSK];         /* UserSigningKeySSK: (KSAK + HS * v) mod order */
    uint8_t pvt[ISSUE_ECCSI_POINT]; /* UserPubTokenPVT: [v]G, v fresh each time */
};
/* Each key is checked against the rule that defines it before it is given out. */
bool mikey_issue(const struct mikey_master *m, const uint8_t *identifier, size_t n, struct mikey_keys *out);

/* The UserID of TS 33.180 F.2.1, for the numbers of a KMS certificate and a key period. */
bool mikey_user_id(const char *user_uri, const char *kms_uri, const uint64_t period_offset_number[3],
                   uint8_t out[ISSUE_UID]);

#endif
