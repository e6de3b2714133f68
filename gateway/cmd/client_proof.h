/*
 * Proof that the keys in a reply are the right ones, set by set: for this user, this KMS, this key period. What RFC
 * 6507, 6508 and TS 33.180 F.2.1 demand, by mikey_sakke.h; the KMS's public keys come from the certificate in a
 * KmsInit, which the response's signature vouches for.
 *
 *     struct proof p;
 *     proof_begin(&p, &want);
 *     proof_key(&p, content, &lines);   for each key content; the third of a set brings its judgement
 *     proof_end(&p);
 */
#ifndef KMSGATE_CMD_CLIENT_PROOF_H
#define KMSGATE_CMD_CLIENT_PROOF_H

#include "cmd/mikey_sakke.h"
#include "message/kms_response.h"

/* A KMS as its certificate tells it. */
struct proof_kms {
    bool known;
    char *uri;
    uint64_t period, offset; /* seconds */
    uint8_t pub_enc[KMS_PUB_ENC], pub_auth[KMS_PUB_AUTH];
    char why[160]; /* not known: why it cannot prove anything */
};
/* The caller frees it by proof_kms_free() whatever comes of it. One that is out of date, revoked or of another kind of
 * UserID is not known. */
void proof_kms_take(struct proof_kms *kms, const struct kms_certificate *certificate, int64_t now_us);
void proof_kms_free(struct proof_kms *kms);

struct proof_want {
    const struct proof_kms *kms; /* NULL or not known: nothing is proven, `why_not` is told */
    const char *why_not;
    struct str user;    /* whose keys may come */
    struct str also;    /* the {UserUri} of the path, decoded; may be missing */
    int64_t at_us;      /* the moment whose period is due: the reply's Time, or the {time} of the path */
};
struct proof {
    const struct proof_want *want;
    const void *set; /* the KmsKeySet whose keys are coming in */
    unsigned have;
    uint8_t rsk[MIKEY_SAKKE_POINT], ssk[MIKEY_SSK], pvt[MIKEY_ECCSI_POINT];
    unsigned sets, right, wrong;
};
void proof_begin(struct proof *p, const struct proof_want *want);
/* When a set is complete a line about it is appended to `out`; what is wrong is complained about. */
void proof_key(struct proof *p, const struct kms_key_content *key, struct buf *out);
void proof_end(struct proof *p); /* wipes */

#endif
