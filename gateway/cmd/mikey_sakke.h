/*
 * What a client can prove of the keys that a KMS issued for it (MIKEY-SAKKE: RFC 6507, 6508, 6509; TS 33.180 F.2.1):
 * that each is the right one for this user, this KMS and this key period. Only public mathematics: the KMS's public
 * keys come from its certificate. Needed by no gateway; it lives with the client.
 *
 *     uint8_t uid[MIKEY_UID];
 *     mikey_uid(&id, uid);
 *     if (mikey_rsk_check(uid, sizeof uid, pub_enc, rsk) == MIKEY_WRONG) ...
 */
#ifndef KMSGATE_CMD_MIKEY_SAKKE_H
#define KMSGATE_CMD_MIKEY_SAKKE_H

#include <stddef.h>
#include <stdint.h>

#include "base/reason.h"

enum {
    MIKEY_UID = 32,
    MIKEY_SAKKE_POINT = 257, /* 04, x, y: 128 octets each */
    MIKEY_ECCSI_POINT = 65,  /* 04, x, y: 32 octets each */
    MIKEY_SSK = 32,
};

/* Whom a key is for. */
struct mikey_identity {
    struct str user_uri, kms_uri;
    uint64_t period, offset; /* seconds: UserKeyPeriod, UserKeyOffset of the KMS certificate */
    uint64_t number;         /* KeyPeriodNo */
};
/* TS 33.180 F.2.1. False when out of memory or when a URI is longer than 65,535 octets. */
bool mikey_uid(const struct mikey_identity *who, uint8_t out[MIKEY_UID]) MUST_CHECK;
/* The number of the key period that holds `unix_seconds`. period is not 0. */
uint64_t mikey_period_number(int64_t unix_seconds, uint64_t period, uint64_t offset);

/* MIKEY_ERROR: the check could not be made (no memory); it says nothing about the key. */
enum mikey_verdict { MIKEY_RIGHT, MIKEY_WRONG, MIKEY_ERROR };
/* RFC 6508, 6.1.2 (receiver's check): <[a]P + Z, RSK> = g, with a the identifier as an integer, Z the KMS's public key.
 * Some 0.1 s of work: 1,022 steps of Miller's algorithm over 1,024 bits. */
enum mikey_verdict mikey_rsk_check(const uint8_t *identifier, size_t n, const uint8_t pub_enc[MIKEY_SAKKE_POINT],
                                   const uint8_t rsk[MIKEY_SAKKE_POINT]) MUST_CHECK;
/* RFC 6507, 5.1.2: [SSK]G = KPAK + [HS]PVT, HS = SHA-256(G || KPAK || ID || PVT). */
enum mikey_verdict mikey_ssk_check(const uint8_t *identifier, size_t n, const uint8_t pub_auth[MIKEY_ECCSI_POINT],
                                   const uint8_t pvt[MIKEY_ECCSI_POINT], const uint8_t ssk[MIKEY_SSK]) MUST_CHECK;

#endif
