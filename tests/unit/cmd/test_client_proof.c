/* The judgement of a key set, by keys that the legacy KMS's own issuer makes; each wrong one beside the right one. */
#include "client_fixture.h"

#include "../../legacy_kms/mikey_issue.c" /* shares no code with what is tested */

#include "base/timestamp.h"

enum { PERIOD = 2592000, NUMBER = 1545 };
#define KMS "kms.example.org"
#define NTP_ZERO INT64_C(2208988800)

static struct mikey_master *master;
static struct mikey_keys hers, theirs; /* of Alice, of Bob */
static uint8_t her_uid[32], their_uid[32];
static struct proof_kms kms;

static int issue(void **state)
{
    const uint64_t numbers[3] = {PERIOD, 0, NUMBER};
    (void)state;
    master = mikey_master_new();
    assert_non_null(master);
    assert_true(mikey_user_id(ALICE, KMS, numbers, her_uid) && mikey_issue(master, her_uid, 32, &hers));
    assert_true(mikey_user_id(BOB, KMS, numbers, their_uid) && mikey_issue(master, their_uid, 32, &theirs));
    kms = (struct proof_kms){.known = true, .uri = strdup(KMS), .period = PERIOD};
    memcpy(kms.pub_enc, mikey_pub_enc(master), KMS_PUB_ENC);
    memcpy(kms.pub_auth, mikey_pub_auth(master), KMS_PUB_AUTH);
    return 0;
}

static int clear(void **state)
{
    (void)state;
    proof_kms_free(&kms);
    mikey_master_free(master);
    return 0;
}

/* A set, what of it differs, and the judgement. */
struct set {
    const char *user_uri, *kms_uri, *period_no;
    struct str user_id;
    const struct mikey_keys *rsk, *ssk, *pvt;
};
enum verdict { RIGHT, WRONG, UNPROVEN };

static enum verdict judged(const struct set *s, const struct proof_want *want, struct buf *out)
{
    static const char *const ELEMENTS[] = {"UserPubTokenPVT", "UserDecryptKey", "UserSigningKeySSK"}; /* any order */
    struct proof p;
    int set = 0;
    struct kms_key_content key = {.set = &set, .kms_uri = str_z(s->kms_uri), .user_uri = str_z(s->user_uri),
                                  .user_id = s->user_id, .period_no = str_z(s->period_no)};
    proof_begin(&p, want);
    for (int i = 0; i < 3; i++) {
        const uint8_t *octets[] = {s->pvt->pvt, s->rsk->rsk, s->ssk->ssk};
        const size_t n[] = {sizeof s->pvt->pvt, sizeof s->rsk->rsk, sizeof s->ssk->ssk};
        key.element = str_z(ELEMENTS[i]);
        key.octets = octets[i];
        key.n = n[i];
        proof_key(&p, &key, out);
    }
    key.set = NULL; /* a new TrK is of no set */
    key.element = STR("NewTransportKey");
    proof_key(&p, &key, out);
    proof_end(&p);
    assert_int_equal(p.sets, 1);
    assert_true(p.right + p.wrong <= 1);
    return p.right ? RIGHT : p.wrong ? WRONG : UNPROVEN;
}

static struct str hex(const uint8_t *octets, size_t n, struct buf *b)
{
    *b = BUF_INIT(256);
    buf_hex(b, octets, n, true);
    return buf_view(b);
}

static void sets(void **state)
{
    struct files f = {.told = -1};
    struct buf uid, other, lower = BUF_INIT(256), b64 = BUF_INIT(256);
    const struct str id = hex(her_uid, 32, &uid), id2 = hex(their_uid, 32, &other);
    (void)state;
    buf_hex(&lower, her_uid, 32, false);
    buf_base64(&b64, her_uid, 32);
    const struct {
        struct set s;
        enum verdict want;
        const char *told;
    } cases[] = {
        {{ALICE, KMS, "1545", id, &hers, &hers, &hers}, RIGHT, ""},
        {{ALICE, KMS, "1545", buf_view(&lower), &hers, &hers, &hers}, RIGHT, ""},
        {{ALICE, KMS, "1545", buf_view(&b64), &hers, &hers, &hers}, RIGHT, ""},
        {{ALICE, KMS, "1545", id, &theirs, &hers, &hers}, WRONG, "wrong key: UserDecryptKey: expected the RSK"},
        {{ALICE, KMS, "1545", id, &hers, &theirs, &hers}, WRONG, "wrong key: UserSigningKeySSK, UserPubTokenPVT"},
        {{ALICE, KMS, "1545", id, &hers, &hers, &theirs}, WRONG, "wrong key: UserSigningKeySSK, UserPubTokenPVT"},
        {{ALICE, KMS, "1545", id2, &theirs, &theirs, &theirs}, WRONG, "its UserID is `"},
        {{BOB, KMS, "1545", id2, &theirs, &theirs, &theirs}, WRONG, "its UserUri is `" BOB "`, expected `" ALICE "`"},
        {{ALICE, "kms.example.net", "1545", id, &hers, &hers, &hers}, WRONG, "its KmsUri is `kms.example.net`"},
        {{ALICE, KMS, "1546", id, &hers, &hers, &hers}, WRONG, "its UserID is `"},
        {{ALICE, KMS, "-1545", id, &hers, &hers, &hers}, WRONG, "its KeyPeriodNo is `-1545`"},
        {{ALICE, KMS, "99999999999999999999", id, &hers, &hers, &hers}, WRONG, "its KeyPeriodNo is `"},
        {{ALICE, KMS, "1545", STR("00"), &hers, &hers, &hers}, WRONG, "its UserID is `00`"},
        {{ALICE, KMS, "1545", STR(""), &hers, &hers, &hers}, WRONG, "its UserID is ``"},
    };
    const struct proof_want want = {.kms = &kms, .why_not = "", .user = STR(ALICE)};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf out BUF_CLEANUP = BUF_INIT(1 << 16);
        hush(&f);
        const enum verdict v = judged(&cases[i].s, &want, &out);
        assert_true(told(&f, cases[i].told));
        assert_int_equal(v, cases[i].want);
        assert_non_null(strstr(out.p, v == RIGHT ? "  proven: " : "  WRONG: "));
    }
    buf_free(&uid);
    buf_free(&other);
    buf_free(&lower);
    buf_free(&b64);
}

static void of_others(void **state)
{
    struct files f = {.told = -1};
    struct buf other;
    const struct set set = {BOB, KMS, "1545", hex(their_uid, 32, &other), &theirs, &theirs, &theirs};
    struct buf out BUF_CLEANUP = BUF_INIT(1 << 16);
    (void)state;
    hush(&f);
    assert_int_equal(judged(&set, &(struct proof_want){.kms = &kms, .user = STR(ALICE), .also = STR(BOB)}, &out),
                     RIGHT);
    /* whose they are is held against who asked even where nothing can be proven */
    const struct proof_want no_kms = {.why_not = "no", .user = STR(ALICE)}, bobs = {.why_not = "no", .user = STR(BOB)};
    assert_int_equal(judged(&set, &no_kms, &out), WRONG);
    assert_int_equal(judged(&set, &bobs, &out), UNPROVEN);
    assert_true(told(&f, "its UserUri"));
    assert_non_null(strstr(out.p, "  not proven: no\n"));
    buf_free(&other);
}

static void periods(void **state)
{
    static const struct {
        uint64_t due;
        const char *says;
    } CASES[] = {{NUMBER, "1545, the one that is due (it begins on 2026-11-26)"},
                 {NUMBER - 1, "1545, the next (it begins"},
                 {NUMBER + 1, "1545, the one before that which is due"},
                     {NUMBER + 2, "far from the one that is due, 1547"},
                 {NUMBER - 2, "far from the one that is due, 1543"}, {0, "far from the one that is due, 0"}};
    struct buf uid;
    const struct set set = {ALICE, KMS, "1545", hex(her_uid, 32, &uid), &hers, &hers, &hers};
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct buf out BUF_CLEANUP = BUF_INIT(1 << 16);
        const int64_t at = (int64_t)CASES[i].due * PERIOD - NTP_ZERO;
        for (int end = 0; end < 2; end++) {
            const struct proof_want want = {.kms = &kms, .user = STR(ALICE),
                                            .at_us = (at + (PERIOD - 1) * end) * US_PER_S};
            buf_reset(&out);
            assert_int_equal(judged(&set, &want, &out), RIGHT);
            assert_non_null(strstr(out.p, CASES[i].says));
        }
    }
    buf_free(&uid);
}

static void certificates(void **state)
{
    const struct kms_certificate good = {.kms_uri = STR(KMS), .user_id_format = STR("2"), .period = PERIOD,
                                         .valid_from = STR("2026-01-01T00:00:00Z"),
                                             .valid_to = STR("2026-12-31T00:00:00Z")};
    struct kms_certificate c[] = {good, good, good, good, good, good};
    const char *const why[] = {NULL, NULL, "is revoked", "is not in force now", "UserIdFormat is `1`", "UserKeyPeriod"};
    struct proof_kms k = {.known = false};
    int64_t now;
    (void)state;
    assert_true(date_parse(STR("2026-07-01"), &now));
    c[1].valid_from = c[1].valid_to = STR_MISSING;
    c[2].revoked = true;
    c[3].valid_to = STR("2026-06-30T23:59:59Z");
    c[4].user_id_format = STR("1");
    c[5].period = 0;
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        proof_kms_take(&k, &c[i], now);
        assert_int_equal(k.known, why[i] == NULL);
        assert_true(why[i] ? strstr(k.why, why[i]) != NULL : !*k.why);
    }
    c[0].valid_from = STR("2026-07-01T00:00:01Z");
    proof_kms_take(&k, &c[0], now);
    assert_false(k.known);
    proof_kms_free(&k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sets),
        cmocka_unit_test(of_others),
        cmocka_unit_test(periods),
        cmocka_unit_test(certificates),
    };
    return cmocka_run_group_tests(tests, issue, clear);
}
