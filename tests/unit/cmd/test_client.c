/* Which key signs, and what a request is made of. */
#include "client_fixture.h"

#include "message/kms_request.h"

struct signer_case {
    const char *keys[6][2]; /* id, more members */
    const char *want;       /* NULL: none, and the load fails */
};

static void signers(void **state)
{
    static const struct signer_case CASES[] = {
        {{{"ink.1", ""}, {"trk.1", ""}}, "ink.1"},
        {{{"trk.1", ""}, {"ink.1", ""}}, "ink.1"},
        {{{"ink.1", ""}, {"ink.2", ""}}, "ink.2"},
        {{{"ink.1", ""}, {"ink.2", ",\"state\":\"retiring\""}}, "ink.1"},
        {{{"ink.1", ",\"state\":\"retiring\""}, {"ink.2", ",\"state\":\"retiring\""}}, "ink.2"},
        {{{"ink.1", ""}, {"ink.2", ",\"state\":\"revoked\""}}, "ink.1"},
        {{{"ink.1", ""}, {"ink.2", ",\"not_after\":\"2020-01-01T00:00:00Z\""}}, "ink.1"},
        {{{"ink.1", ""}, {"ink.2", ",\"not_after\":\"2120-01-01T00:00:00Z\""}}, "ink.2"},
        {{{"trk.1", ""}}, "trk.1"},
        {{{"trk.1", ""}, {"trk.2", ",\"state\":\"revoked\""}}, "trk.1"},
        {{{"ink.1", ",\"state\":\"revoked\""}, {"trk.1", ""}}, NULL}, /* he has an InK: his TrK does not sign */
        {{{"ink.1", ",\"not_after\":\"2020-01-01T00:00:00Z\""}, {"trk.1", ""}}, NULL},
        {{{"trk.1", ",\"state\":\"revoked\""}}, NULL},
        {{{NULL, NULL}}, NULL},
    };
    struct files *f = *state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        char lines[4096] = "";
        struct client c;
        add_key(lines, sizeof lines, BOB, "ink.9", 9, ""); /* another's is never his */
        for (int k = 0; CASES[i].keys[k][0]; k++)
            add_key(lines, sizeof lines, ALICE, CASES[i].keys[k][0], k + 1, CASES[i].keys[k][1]);
        write_keys(f, lines);
        hush(f);
        const bool loaded = client_load(&c, ALICE, f->keys);
        assert_true(told(f, loaded ? "" : "no key that can sign for " ALICE));
        assert_int_equal(loaded, CASES[i].want != NULL);
        assert_true(!loaded || str_eq_z(client_signer(&c)->id, CASES[i].want));
        client_free(&c);
    }
}

static void key_files(void **state)
{
    struct files *f = *state;
    char lines[1024] = "";
    struct client c;
    hush(f);
    assert_false(client_load(&c, ALICE, "/nonexistent/keys.jsonl"));
    client_free(&c);
    assert_true(told(f, "/nonexistent/keys.jsonl: cannot open"));
    write_keys(f, "{\"user\":1}\n");
    hush(f);
    assert_false(client_load(&c, ALICE, f->keys));
    client_free(&c);
    assert_true(told(f, "keys.jsonl:1:"));
    add_key(lines, sizeof lines, ALICE, "ink.1", 1, "");
    write_keys(f, lines);
    assert_int_equal(chmod(f->keys, 0644), 0);
    hush(f);
    assert_true(client_load(&c, ALICE, f->keys));
    client_free(&c);
    assert_true(told(f, "warning"));
    assert_int_equal(chmod(f->keys, 0600), 0);
}

/* What is composed is what the gateway's own reader finds in it, proven by the key that signed. */
static void composed(void **state)
{
    static const struct xmlsig_policy POLICY = {.min_hmac_bits = 256, .canonicalization = XMLSIG_C14N};
    const struct files *f = *state;
    char lines[2048] = "";
    struct client c;
    struct buf bodies[2] = {BUF_INIT(1 << 16), BUF_INIT(1 << 16)};
    add_key(lines, sizeof lines, ALICE, "ink.1", 1, "");
    add_key(lines, sizeof lines, ALICE, "trk.1", 2, "");
    write_keys(f, lines);
    assert_true(client_load(&c, ALICE, f->keys));
    const struct client_ask ask = {.url = STR("http://kms.example.org:8080/keymanagement/identity/v1/init?a=1&b=2"),
                                   .client_id = STR("a <b> & \"c\"\n")};
    for (int i = 0; i < 2; i++) {
        struct xml_doc *doc;
        struct xmlsig_info info;
        const struct xml_signed *proof = NULL;
        struct kms_request r;
        int64_t at;
        bool zone;
        assert_true(client_compose(&c, &ask, &bodies[i]));
        assert_int_equal(xml_parse(buf_view(&bodies[i]), &XML_LIMITS_REQUEST, &doc, NULL), REASON_OK);
        assert_int_equal(xml_root(doc), KMS_ROOT_SIGNED_REQUEST);
        assert_int_equal(xmlsig_read(doc, &POLICY, &info, NULL), REASON_OK);
        assert_int_equal(xmlsig_verify(doc, &POLICY, &client_signer(&c)->key, &proof, NULL), REASON_OK);
        assert_true(kms_request_claim(doc, &r));
        assert_true(str_eq_z(info.key_name, "ink.1") && str_eq_z(r.signature_id, "ink.1") &&
                    str_eq_z(r.trk_id, "trk.1"));
        assert_true(str_eq_z(r.user_uri, ALICE) && str_eq_z(r.kms_uri, "kms.example.org"));
        assert_true(str_eq(r.client_req_url, ask.url) && str_eq(r.client_id, ask.client_id));
        assert_true(time_parse(r.time, &at, &zone) && zone && llabs(time_now_us() - at) < 5 * US_PER_S);
        xml_free(doc);
    }
    assert_false(str_eq(buf_view(&bodies[0]), buf_view(&bodies[1])));
    buf_free(&bodies[0]);
    buf_free(&bodies[1]);
    struct buf small = BUF_INIT(100);
    assert_false(client_compose(&c, &ask, &small));
    buf_free(&small);
    client_free(&c);
}

static void addresses(void **state)
{
    static const char *const GOOD[] = {"127.0.0.1:1", "kms:65535", "[::1]:8443", "http://a:80", "https://[::1]:80",
                                       "unix:/run/a.sock"};
    static const char *const BAD[] = {"", ":", "a", "a:", ":1", "a:0", "a:65536", "a:-1", "a:+1", "a: 1", "a:1/",
                                      "a:1x",
                                      "::1:80", "[::1:80", "ftp://a:1", "HTTP://a:1", "http://", "http://a", "u@a:1",
                                      "unix:", "unix:a", "a b:1", "a:1#x", "a:1?x"};
    (void)state;
    for (size_t i = 0; i < sizeof GOOD / sizeof *GOOD; i++)
        assert_true(client_connect_holds(GOOD[i]));
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++)
        assert_false(client_connect_holds(BAD[i]));
}

static void resources(void **state)
{
    struct resource r;
    size_t at;
    (void)state;
    assert_true(client_resource(STR("https://a/b/keymanagement/identity/v1/keyprov/sip%3Aa%40b?x"), &at, &r));
    assert_true(at == 11 && r.kind == RESOURCE_KEYPROV && str_eq_z(r.user_raw, "sip%3Aa%40b"));
    assert_true(client_resource(STR("http://a/keymanagement/identity/v1/init"), &at, &r) && r.kind == RESOURCE_INIT);
    assert_false(client_resource(STR("http://a/keymanagement/identity/v1/nothing"), &at, &r));
    assert_false(client_resource(STR("http://a/keymanagement/identity/v2/init"), &at, &r));
    assert_false(client_resource(STR("http://a/"), &at, &r));
    assert_false(client_resource(STR_MISSING, &at, &r));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(signers, files_setup, files_teardown),
        cmocka_unit_test_setup_teardown(key_files, files_setup, files_teardown),
        cmocka_unit_test_setup_teardown(composed, files_setup, files_teardown),
        cmocka_unit_test(addresses),
        cmocka_unit_test(resources),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
