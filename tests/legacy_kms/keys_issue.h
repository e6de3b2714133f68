/*
 * The seam between what the legacy KMS says and how it comes by keys: true MIKEY-SAKKE keys under master secrets that
 * live as long as the process. Keys of the users asked for last are kept, so that a load test measures the gateway.
 */
#ifndef LEGACY_KMS_KEYS_ISSUE_H
#define LEGACY_KMS_KEYS_ISSUE_H

#include "mikey_issue.h"

enum { KEY_PERIOD = 2592000, KEY_OFFSET = 0 }; /* seconds: UserKeyPeriod and UserKeyOffset of the KMS certificate */
#define NTP_TO_UNIX INT64_C(2208988800)        /* NTP counts from 1900 */

struct user_keys {
    uint8_t user_id[ISSUE_UID]; /* UserID */
    struct mikey_keys keys;
};

/* False when the library fails. */
bool keys_startup(const char *kms_uri);
void keys_shutdown(void);
const uint8_t *keys_pub_enc(void);  /* ISSUE_SAKKE_POINT octets */
const uint8_t *keys_pub_auth(void); /* ISSUE_ECCSI_POINT octets */
/* The keys of a user for one key period, valid until the next call; NULL on a failure. */
const struct user_keys *keys_of(const char *user_uri, uint64_t period_number);

#endif
