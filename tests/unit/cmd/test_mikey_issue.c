/*
 * How the legacy KMS issues keys, against the published vectors (RFC 6508 and RFC 6507, Appendix A), and the gateway's
 * client against what it issues: the two share no code.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "../../legacy_kms/mikey_issue.c" /* NOLINT(bugprone-suspicious-include): its master secrets are set here */

#include "base/buf.h"
#include "cmd/mikey_sakke.h"

static const char IDENTIFIER[] = "323031312d30320074656c3a2b34343737303039303031323300";
static const char SECRET_Z[] = "AFF429D35F84B110D094803B3595A6E2998BC99F";
static const char Z[] =
    "045958EF1B1679BF099B3A030DF255AA6A23C1D8F143D4D23F753E69BD27A832F38CB4AD53DDEF4260B0FE8BB45C4C1FF510EFFE300367A3"
    "7B61F701D914AEF09724825FA0707D61A6DFF4FBD7273566CDDE352A0B04B7C16A78309BE640697DE747613A5FC195E8B9F328852A579DB8"
    "F99B1D0034479EA9C5595F47C4B2F54FF21508D37514DCF7A8E143A6058C09A6BF2C9858CA37C258065AE6BF7532BC8B5B63383866E0753C"
    "5AC0E72709F8445F2E6178E065857E0EDA10F68206B63505ED87E534FB2831FF957FB7DC619DAE61301EEACC2FDA3680EA4999258A833CEA"
    "8FC67C6D19487FB449059F26CC8AAB655AB58B7CC796E24E9A394095754F5F8BAE";
static const char RSK[] =
    "0493AF67E5007BA6E6A80DA793DA300FA4B52D0A74E25E6E7B2B3D6EE9D18A9B5C5023597BD82D8062D34019563BA1D25C0DC56B7B979D74"
    "AA50F29FBF11CC2C93F5DFCA615E609279F6175CEADB00B58C6BEE1E7A2A47C4F0C456F05259A6FA94A634A40DAE1DF593D4FECF688D5FC6"
    "78BE7EFC6DF3D6835325B83B2C6E69036B155F0A27241094B04BFB0BDFAC6C670A65C325D39A069F03659D44CA27D3BE8DF311172B554160"
    "181CBE94A2A783320CED590BC42644702CF371271E496BF20F588B78A1BC01ECBB6559934BDD2FB65D2884318A33D1A42ADF5E33CC580028"
    "0B28356497F87135BAB9612A17260424409AC15FEE996B744C332151235DECB0F5";
static const char KPAK[] = "0450D4670BDE75244F28D2838A0D25558A7A72686D4522D4C8273FB6442AEBFA93"
                           "DBDD37551AFD263B5DFD617F3960C65A8C298850FF99F20366DCE7D4367217F4";
static const char PVT[] = "04758A142779BE89E829E71984CB40EF758CC4AD775FC5B9A3E1C8ED52F6FA36D9"
                          "A79D247692F4EDA3A6BDAB77D6AA6474A464AE4934663C5265BA7018BA091F79";
static const char HS[] = "490F3FEBBC1C902F6289723D7F8CBF79DB88930849D19F38F0295B5C276C14D1";
static const char SSK[] = "23F374AE1F4033F3E9DBDDAAEF20F4CF0B86BBD5A138A5AE9E7E006B34489A0D";

static uint8_t id[64];
static size_t id_n;

static void is_hex(const uint8_t *octets, size_t n, const char *hex)
{
    uint8_t wanted[300];
    size_t wanted_n;
    assert_true(hex_decode(str_z(hex), wanted, sizeof wanted, &wanted_n));
    assert_int_equal(n, wanted_n);
    assert_memory_equal(octets, wanted, n);
}

/* The RFCs' KMS: z, KSAK = 12345. */
static struct mikey_master *published(void)
{
    struct mikey_master *m = mikey_master_new();
    assert_non_null(m);
    assert_true(hex_decode(str_z(IDENTIFIER), id, sizeof id, &id_n));
    assert_true(BN_hex2bn(&m->z, SECRET_Z) && BN_hex2bn(&m->ksak, "12345"));
    assert_true(multiple(m->sakke, m->base, m->z, m->pub_enc, sizeof m->pub_enc));
    assert_true(multiple(m->eccsi, NULL, m->ksak, m->pub_auth, sizeof m->pub_auth));
    return m;
}

static void the_published_kms(void **state)
{
    (void)state;
    struct mikey_master *m = published();
    uint8_t rsk[ISSUE_SAKKE_POINT];
    is_hex(mikey_pub_enc(m), ISSUE_SAKKE_POINT, Z);
    is_hex(mikey_pub_auth(m), ISSUE_ECCSI_POINT, KPAK);
    assert_true(issue_rsk(m, id, id_n, rsk));
    is_hex(rsk, sizeof rsk, RSK);
    id[0] ^= 1; /* another identifier has another key */
    uint8_t other[ISSUE_SAKKE_POINT];
    assert_true(issue_rsk(m, id, id_n, other));
    assert_memory_not_equal(other, rsk, sizeof rsk);
    mikey_master_free(m);
}

/* With the v of the RFC: PVT = [v]G, HS, SSK = KSAK + HS * v. */
static void the_published_signing_key(void **state)
{
    (void)state;
    struct mikey_master *m = published();
    const BIGNUM *order = EC_GROUP_get0_order(m->eccsi);
    BN_CTX *ctx = BN_CTX_new();
    BIGNUM *v = NULL, *hs = BN_new(), *ssk = BN_new();
    uint8_t pvt[ISSUE_ECCSI_POINT], octets[32];
    assert_true(BN_hex2bn(&v, "23456"));
    assert_true(multiple(m->eccsi, NULL, v, pvt, sizeof pvt));
    is_hex(pvt, sizeof pvt, PVT);
    assert_true(eccsi_hs(m, id, id_n, pvt, hs));
    assert_int_equal(BN_bn2binpad(hs, octets, sizeof octets), 32);
    is_hex(octets, sizeof octets, HS);
    assert_true(BN_mod_mul(ssk, hs, v, order, ctx) && BN_mod_add(ssk, ssk, m->ksak, order, ctx));
    assert_int_equal(BN_bn2binpad(ssk, octets, sizeof octets), 32);
    is_hex(octets, sizeof octets, SSK);
    BN_free(v);
    BN_free(hs);
    BN_free(ssk);
    BN_CTX_free(ctx);
    mikey_master_free(m);
}

/* What it issues, the client finds right; for another user, period or KMS, wrong. v is fresh each time. */
static void issued_is_right(void **state)
{
    (void)state;
    struct mikey_master *m = mikey_master_new(), *other = mikey_master_new();
    static struct mikey_keys keys, again;
    uint8_t uid[ISSUE_UID], next[ISSUE_UID];
    assert_non_null(m);
    assert_non_null(other);
    assert_true(mikey_user_id("sip:a@example.org", "kms.example.org", (const uint64_t[]){2592000, 0, 1514}, uid));
    assert_true(mikey_user_id("sip:a@example.org", "kms.example.org", (const uint64_t[]){2592000, 0, 1515}, next));
    assert_memory_not_equal(uid, next, sizeof uid);
    assert_true(mikey_issue(m, uid, sizeof uid, &keys) && mikey_issue(m, uid, sizeof uid, &again));
    assert_int_equal(mikey_rsk_check(uid, sizeof uid, mikey_pub_enc(m), keys.rsk), MIKEY_RIGHT);
    assert_int_equal(mikey_rsk_check(next, sizeof next, mikey_pub_enc(m), keys.rsk), MIKEY_WRONG);
    assert_int_equal(mikey_rsk_check(uid, sizeof uid, mikey_pub_enc(other), keys.rsk), MIKEY_WRONG);
    assert_int_equal(mikey_ssk_check(uid, sizeof uid, mikey_pub_auth(m), keys.pvt, keys.ssk), MIKEY_RIGHT);
    assert_int_equal(mikey_ssk_check(next, sizeof next, mikey_pub_auth(m), keys.pvt, keys.ssk), MIKEY_WRONG);
    assert_int_equal(mikey_ssk_check(uid, sizeof uid, mikey_pub_auth(other), keys.pvt, keys.ssk), MIKEY_WRONG);
    assert_memory_equal(keys.rsk, again.rsk, sizeof keys.rsk);
    assert_memory_not_equal(keys.pvt, again.pvt, sizeof keys.pvt);
    assert_int_equal(mikey_ssk_check(uid, sizeof uid, mikey_pub_auth(m), again.pvt, keys.ssk), MIKEY_WRONG);
    mikey_master_free(m);
    mikey_master_free(other);
}

/* TS 33.180 F.2.1: the same UserID by both, for numbers of one octet to eight. */
static void user_ids_agree(void **state)
{
    static const uint64_t NUMBERS[] = {0, 1, 255, 256, 65535, 65536, 2592000, UINT32_MAX, UINT64_C(1) << 40,
                                       UINT64_MAX};
    static const char *const USERS[] = {"", "a", "sip:user@example.org", "sip:\xc3\xa4@example.org"};
    (void)state;
    for (size_t u = 0; u < sizeof USERS / sizeof *USERS; u++)
        for (size_t p = 0; p < sizeof NUMBERS / sizeof *NUMBERS; p++)
            for (size_t n = 0; n < sizeof NUMBERS / sizeof *NUMBERS; n++) {
                uint8_t theirs[ISSUE_UID], ours[MIKEY_UID];
                const struct mikey_identity who = {str_z(USERS[u]), STR("kms.example.org"), NUMBERS[p],
                                                   NUMBERS[(p + n) % 10], NUMBERS[n]};
                assert_true(mikey_user_id(USERS[u], "kms.example.org",
                                          (const uint64_t[]){who.period, who.offset, who.number}, theirs));
                assert_true(mikey_uid(&who, ours));
                assert_memory_equal(theirs, ours, sizeof ours);
            }
}

/* The number changes at the boundary and nowhere else. */
static void periods_roll_over(void **state)
{
    static const uint64_t PERIODS[] = {1, 7, 3600, 2592000};
    static const uint64_t OFFSETS[] = {0, 1, 3599, 2591999};
    const int64_t ntp = INT64_C(2208988800); /* of 1970 */
    (void)state;
    for (size_t p = 0; p < sizeof PERIODS / sizeof *PERIODS; p++)
        for (size_t o = 0; o < sizeof OFFSETS / sizeof *OFFSETS; o++)
            for (uint64_t number = 1388; number < 1400; number++) {
                const int64_t begins = (int64_t)(number * PERIODS[p] + OFFSETS[o]) - ntp;
                assert_int_equal(mikey_period_number(begins, PERIODS[p], OFFSETS[o]), number);
                assert_int_equal(mikey_period_number(begins - 1, PERIODS[p], OFFSETS[o]), number - 1);
                assert_int_equal(mikey_period_number(begins + (int64_t)PERIODS[p] - 1, PERIODS[p], OFFSETS[o]), number);
                assert_int_equal(mikey_period_number(begins + (int64_t)PERIODS[p], PERIODS[p], OFFSETS[o]), number + 1);
            }
    assert_int_equal(mikey_period_number(-ntp, 2592000, 10), 0); /* before the first one begins */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_published_kms), cmocka_unit_test(the_published_signing_key),
        cmocka_unit_test(issued_is_right),   cmocka_unit_test(user_ids_agree),
        cmocka_unit_test(periods_roll_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
