/* The published vectors: RFC 6508 and RFC 6507, Appendix A; TS 33.180 F.2.1. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <string.h>

#include "base/buf.h"
#include "cmd/mikey_sakke.h"

static const char IDENTIFIER[] = "323031312d30320074656c3a2b34343737303039303031323300";
static const char Z[] =
    "045958EF1B1679BF099B3A030DF255AA6A23C1D8F143D4D23F753E69BD27A832"
    "F38CB4AD53DDEF4260B0FE8BB45C4C1FF510EFFE300367A37B61F701D914AEF0"
    "9724825FA0707D61A6DFF4FBD7273566CDDE352A0B04B7C16A78309BE640697D"
    "E747613A5FC195E8B9F328852A579DB8F99B1D0034479EA9C5595F47C4B2F54F"
    "F21508D37514DCF7A8E143A6058C09A6BF2C9858CA37C258065AE6BF7532BC8B"
    "5B63383866E0753C5AC0E72709F8445F2E6178E065857E0EDA10F68206B63505"
    "ED87E534FB2831FF957FB7DC619DAE61301EEACC2FDA3680EA4999258A833CEA"
    "8FC67C6D19487FB449059F26CC8AAB655AB58B7CC796E24E9A394095754F5F8B"
    "AE";
static const char RSK[] =
    "0493AF67E5007BA6E6A80DA793DA300FA4B52D0A74E25E6E7B2B3D6EE9D18A9B"
    "5C5023597BD82D8062D34019563BA1D25C0DC56B7B979D74AA50F29FBF11CC2C"
    "93F5DFCA615E609279F6175CEADB00B58C6BEE1E7A2A47C4F0C456F05259A6FA"
    "94A634A40DAE1DF593D4FECF688D5FC678BE7EFC6DF3D6835325B83B2C6E6903"
    "6B155F0A27241094B04BFB0BDFAC6C670A65C325D39A069F03659D44CA27D3BE"
    "8DF311172B554160181CBE94A2A783320CED590BC42644702CF371271E496BF2"
    "0F588B78A1BC01ECBB6559934BDD2FB65D2884318A33D1A42ADF5E33CC580028"
    "0B28356497F87135BAB9612A17260424409AC15FEE996B744C332151235DECB0"
    "F5";
static const char KPAK[] = "0450D4670BDE75244F28D2838A0D25558A7A72686D4522D4C8273FB6442AEBFA93"
                           "DBDD37551AFD263B5DFD617F3960C65A8C298850FF99F20366DCE7D4367217F4";
static const char PVT[] = "04758A142779BE89E829E71984CB40EF758CC4AD775FC5B9A3E1C8ED52F6FA36D9"
                          "A79D247692F4EDA3A6BDAB77D6AA6474A464AE4934663C5265BA7018BA091F79";
static const char SSK[] = "23F374AE1F4033F3E9DBDDAAEF20F4CF0B86BBD5A138A5AE9E7E006B34489A0D";

static uint8_t id[64], z[MIKEY_SAKKE_POINT], rsk[MIKEY_SAKKE_POINT];
static uint8_t kpak[MIKEY_ECCSI_POINT], pvt[MIKEY_ECCSI_POINT], ssk[MIKEY_SSK];
static size_t id_n;

static void octets(const char *hex, uint8_t *out, size_t cap)
{
    size_t n;
    assert_true(hex_decode(str_z(hex), out, cap, &n) && n == cap);
}

static int setup(void **state)
{
    (void)state;
    assert_true(hex_decode(str_z(IDENTIFIER), id, sizeof id, &id_n));
    octets(Z, z, sizeof z);
    octets(RSK, rsk, sizeof rsk);
    octets(KPAK, kpak, sizeof kpak);
    octets(PVT, pvt, sizeof pvt);
    octets(SSK, ssk, sizeof ssk);
    return 0;
}

static void test_rsk(void **state)
{
    (void)state;
    assert_int_equal(mikey_rsk_check(id, id_n, z, rsk), MIKEY_RIGHT);
}

/* Each differs from the right one by one thing. */
static void test_rsk_wrong(void **state)
{
    (void)state;
    id[3] ^= 1; /* another user */
    assert_int_equal(mikey_rsk_check(id, id_n, z, rsk), MIKEY_WRONG);
    id[3] ^= 1;
    rsk[200] ^= 1; /* not on the curve */
    assert_int_equal(mikey_rsk_check(id, id_n, z, rsk), MIKEY_WRONG);
    rsk[200] ^= 1;
    rsk[0] = 2; /* not uncompressed */
    assert_int_equal(mikey_rsk_check(id, id_n, z, rsk), MIKEY_WRONG);
    rsk[0] = 4;
    assert_int_equal(mikey_rsk_check(id, id_n, z, z), MIKEY_WRONG);   /* a point of the curve, another one */
    assert_int_equal(mikey_rsk_check(id, id_n, rsk, rsk), MIKEY_WRONG); /* another KMS */
    uint8_t zero[MIKEY_SAKKE_POINT] = {4}; /* (0, 0) is on the curve and has order 2 */
    assert_int_equal(mikey_rsk_check(id, id_n, z, zero), MIKEY_WRONG);
    assert_int_equal(mikey_rsk_check(id, id_n, z, rsk), MIKEY_RIGHT);
}

static void test_ssk(void **state)
{
    (void)state;
    assert_int_equal(mikey_ssk_check(id, id_n, kpak, pvt, ssk), MIKEY_RIGHT);
    id[0] ^= 1;
    assert_int_equal(mikey_ssk_check(id, id_n, kpak, pvt, ssk), MIKEY_WRONG);
    id[0] ^= 1;
    ssk[31] ^= 1;
    assert_int_equal(mikey_ssk_check(id, id_n, kpak, pvt, ssk), MIKEY_WRONG);
    ssk[31] ^= 1;
    pvt[40] ^= 1;
    assert_int_equal(mikey_ssk_check(id, id_n, kpak, pvt, ssk), MIKEY_WRONG);
    pvt[40] ^= 1;
    assert_int_equal(mikey_ssk_check(id, id_n, pvt, pvt, ssk), MIKEY_WRONG);
    const uint8_t none[MIKEY_SSK] = {0};
    assert_int_equal(mikey_ssk_check(id, id_n, kpak, pvt, none), MIKEY_WRONG);
    assert_int_equal(mikey_ssk_check(id, id_n, kpak, pvt, ssk), MIKEY_RIGHT);
}

static void test_uid(void **state)
{
    (void)state;
    const int64_t at = 3599719634 - INT64_C(2208988800); /* 2014-01-26T10:07:14Z */
    struct mikey_identity who = {STR("sip:user@example.org"), STR("kms.example.org"), 2592000, 0,
                                 mikey_period_number(at, 2592000, 0)};
    uint8_t uid[MIKEY_UID], want[MIKEY_UID];
    size_t n;
    assert_int_equal(who.number, 1388);
    assert_true(base64_decode(STR("OoH7FMOx0P5DycV3EE1VptgXiL/S8JdDxFV3RqWgNTs="), want, sizeof want, &n));
    assert_true(mikey_uid(&who, uid));
    assert_memory_equal(uid, want, sizeof uid);
    who.number++;
    assert_true(mikey_uid(&who, uid));
    assert_memory_not_equal(uid, want, sizeof uid);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_rsk, setup),
        cmocka_unit_test_setup(test_rsk_wrong, setup),
        cmocka_unit_test_setup(test_ssk, setup),
        cmocka_unit_test(test_uid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
