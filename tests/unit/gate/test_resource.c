#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "gate/resource.h"

#define V1 "/keymanagement/identity/v1"

static const struct {
    const char *target;
    enum resource_kind kind;
    const char *user; /* NULL: none */
} GOOD[] = {
    {V1 "/init", RESOURCE_INIT, NULL},
    {V1 "/init?", RESOURCE_INIT, NULL},
    {V1 "/init?device=7&x=%20/?@", RESOURCE_INIT, NULL},
    {V1 "/keyprov", RESOURCE_KEYPROV, NULL},
    {V1 "/keyprov/sip%3Auser%40example.org", RESOURCE_KEYPROV, "sip%3Auser%40example.org"},
    {V1 "/keyprov/sip:user@example.org", RESOURCE_KEYPROV, "sip:user@example.org"},
    {V1 "/keyprov/sip:user@example.org;user=phone", RESOURCE_KEYPROV, "sip:user@example.org;user=phone"},
    {V1 "/keyprov/..a", RESOURCE_KEYPROV, "..a"},
    {V1 "/keyprov/%C3%A9", RESOURCE_KEYPROV, "%C3%A9"},
    {V1 "/keyprov/a%20b", RESOURCE_KEYPROV, "a%20b"},
    {V1 "/keyprov/a%252Fb", RESOURCE_KEYPROV, "a%252Fb"},
    {V1 "/keyprov/u/D6B4323200000000", RESOURCE_KEYPROV, "u"},
    {V1 "/keyprov/u/d6b4323200000000?a", RESOURCE_KEYPROV, "u"},
    {V1 "/certcache", RESOURCE_CERTCACHE, NULL},
    {V1 "/certcache/7", RESOURCE_CERTCACHE, NULL},
    {V1 "/cert/kms.other.example", RESOURCE_CERT, NULL},
    {V1 "/cert/https%3Aother", RESOURCE_CERT, NULL},
    {V1 "/lookup/sip%3Abob%40example.org", RESOURCE_LOOKUP, "sip%3Abob%40example.org"},
    {V1 "/redirect", RESOURCE_REDIRECT, NULL},
};

static void test_resources(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof GOOD / sizeof *GOOD; i++) {
        struct resource r;
        struct detail why = {""};
        const struct str target = str_z(GOOD[i].target);
        if (resource_parse(target, &r, &why) != REASON_OK)
            fail_msg("%s: %s", GOOD[i].target, why.text);
        assert_int_equal(r.kind, GOOD[i].kind);
        if (GOOD[i].user)
            assert_true(str_eq_z(r.user_raw, GOOD[i].user));
        else
            assert_null(r.user_raw.p);
        const char *mark = strchr(GOOD[i].target, '?');
        assert_int_equal(r.path.n, mark ? (size_t)(mark - GOOD[i].target) : target.n);
        assert_true(mark ? str_eq_z(r.query, mark + 1) : !r.query.p);
    }
}

/* Each differs by one thing from one of the above. */
static const struct {
    const char *target;
    enum reason reason;
} BAD[] = {
    {"", REASON_HTTP_PATH},
    {"*", REASON_HTTP_PATH},
    {"https://kms.example.org" V1 "/init", REASON_HTTP_PATH},
    {"keymanagement/identity/v1/init", REASON_HTTP_PATH},
    {V1 "/init#f", REASON_HTTP_PATH},
    {V1 "/init?a#f", REASON_HTTP_PATH},
    {V1 "/init?a=%2", REASON_HTTP_PATH},
    {V1 "/init?a=%g0", REASON_HTTP_PATH},
    {V1 "/init?a=\x01", REASON_HTTP_PATH},
    {V1 "/init?a=\"", REASON_HTTP_PATH},
    {V1 "/init?a= b", REASON_HTTP_PATH},
    {V1 "\\init", REASON_HTTP_PATH},
    {V1 "/init\x7f", REASON_HTTP_PATH},
    {V1 "/init\xc3\xa9", REASON_HTTP_PATH},
    {V1 "//init", REASON_HTTP_PATH},
    {"/" V1 "/init", REASON_HTTP_PATH},
    {V1 "/init//", REASON_HTTP_PATH},
    {V1 "/./init", REASON_HTTP_PATH},
    {V1 "/../v1/init", REASON_HTTP_PATH},
    {V1 "/keyprov/..", REASON_HTTP_PATH},
    {V1 "/keyprov/.", REASON_HTTP_PATH},
    {V1 "/keyprov/%2e%2E", REASON_HTTP_PATH},
    {V1 "/keyprov/..;x", REASON_HTTP_PATH},
    {V1 "/keyprov/%2e%2e%3bx", REASON_HTTP_PATH},
    {V1 "/cert/..", REASON_HTTP_PATH},
    {V1 "/in%69t", REASON_HTTP_PATH},
    {"/%6beymanagement/identity/v1/init", REASON_HTTP_PATH},
    {V1 "%2finit", REASON_HTTP_PATH},
    {V1 "/keyprov/a%2Fb", REASON_HTTP_PATH},
    {V1 "/keyprov/a%2fb", REASON_HTTP_PATH},
    {V1 "/keyprov/a%5Cb", REASON_HTTP_PATH},
    {V1 "/keyprov/a%00b", REASON_HTTP_PATH},
    {V1 "/keyprov/a%0ab", REASON_HTTP_PATH},
    {V1 "/keyprov/a%7f", REASON_HTTP_PATH},
    {V1 "/keyprov/a%4", REASON_HTTP_PATH},
    {V1 "/keyprov/a%", REASON_HTTP_PATH},
    {V1 "/keyprov/a%zz", REASON_HTTP_PATH},
    {V1 "/keyprov/%20a", REASON_HTTP_PATH}, /* a server that trims would read the `a` of another rule */
    {V1 "/keyprov/a%20", REASON_HTTP_PATH},
    {V1 "/keyprov/a%C2%A0", REASON_HTTP_PATH},
    {V1 "/keyprov/%EF%BB%BFa", REASON_HTTP_PATH},
    {V1 "/lookup/a%20", REASON_HTTP_PATH},
    {V1 "/keyprov/%C3", REASON_HTTP_PATH},
    {V1 "/keyprov/%C0%AF", REASON_HTTP_PATH},
    {V1 "/cert/a%2Fb", REASON_HTTP_PATH},
    {"/", REASON_HTTP_RESOURCE},
    {V1, REASON_HTTP_RESOURCE},
    {V1 "/", REASON_HTTP_RESOURCE},
    {V1 "/init/", REASON_HTTP_RESOURCE},
    {V1 "/init/x", REASON_HTTP_RESOURCE},
    {V1 "/Init", REASON_HTTP_RESOURCE},
    {V1 "/inits", REASON_HTTP_RESOURCE},
    {V1 "/ini", REASON_HTTP_RESOURCE},
    {"/keymanagement/identity/v2/init", REASON_HTTP_RESOURCE},
    {"/init", REASON_HTTP_RESOURCE},
    {"/a" V1 "/init", REASON_HTTP_RESOURCE},
    {V1 "/keyprov/", REASON_HTTP_RESOURCE},
    {V1 "/keyprov/u/", REASON_HTTP_RESOURCE},
    {V1 "/keyprov/u/D6B432320000000", REASON_HTTP_RESOURCE},
    {V1 "/keyprov/u/D6B43232000000000", REASON_HTTP_RESOURCE},
    {V1 "/keyprov/u/G6B4323200000000", REASON_HTTP_RESOURCE},
    {V1 "/keyprov/u/%446B4323200000000", REASON_HTTP_RESOURCE},
    {V1 "/keyprov/u/D6B4323200000000/", REASON_HTTP_RESOURCE},
    {V1 "/keyprov/u/D6B4323200000000/x", REASON_HTTP_RESOURCE},
    {V1 "/certcache/", REASON_HTTP_RESOURCE},
    {V1 "/certcache/x", REASON_HTTP_RESOURCE},
    {V1 "/certcache/-1", REASON_HTTP_RESOURCE},
    {V1 "/certcache/%31", REASON_HTTP_RESOURCE},
    {V1 "/certcache/7/8", REASON_HTTP_RESOURCE},
    {V1 "/cert", REASON_HTTP_RESOURCE},
    {V1 "/cert/", REASON_HTTP_RESOURCE},
    {V1 "/cert/a/b", REASON_HTTP_RESOURCE},
    {V1 "/lookup", REASON_HTTP_RESOURCE},
    {V1 "/lookup/a/b", REASON_HTTP_RESOURCE},
    {V1 "/redirect/", REASON_HTTP_RESOURCE},
};

static void test_no_resources(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        struct resource r;
        struct detail why = {""};
        const enum reason got = resource_parse(str_z(BAD[i].target), &r, &why);
        if (got != BAD[i].reason)
            fail_msg("%s: %s instead of %s", BAD[i].target, reason_name(got), reason_name(BAD[i].reason));
        assert_true(why.text[0]);
        assert_null(r.user_raw.p);
    }
}

/* A NUL ends nothing: the target is as long as it is. */
static void test_nul(void **state)
{
    (void)state;
    struct resource r;
    const struct str target = STR(V1 "/init\0x");
    assert_int_equal(resource_parse(target, &r, NULL), REASON_HTTP_PATH);
    assert_int_equal(resource_parse((struct str){target.p, target.n - 2}, &r, NULL), REASON_OK);
    assert_int_equal(resource_parse(STR_MISSING, &r, NULL), REASON_HTTP_PATH);
}

/* An escape that the target cuts off is none, whatever stands behind it in memory. */
static void test_a_cut_escape(void **state)
{
    (void)state;
    static const char *const TEXTS[] = {V1 "/keyprov/a%41", V1 "/init?a=%41"}; /* nobody decodes a query again */
    for (size_t i = 0; i < 2; i++)
        for (size_t cut = 0; cut < 3; cut++) {
            struct resource r;
            struct detail why = {""};
            const enum reason got = resource_parse((struct str){TEXTS[i], strlen(TEXTS[i]) - cut}, &r, &why);
            assert_int_equal(got, cut == 0 ? REASON_OK : REASON_HTTP_PATH);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_cut_escape),
        cmocka_unit_test(test_resources),
        cmocka_unit_test(test_no_resources),
        cmocka_unit_test(test_nul),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
