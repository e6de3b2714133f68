/* How older KMSs speak: what each dialect makes readable, and what stays an error. */
#include "fixture.h"
#include "replies.h"

#include "message/dialect.h"

#define VENDOR "http://vendor.example/kms"
#define PLACEHOLDER "TOBEDEFINED"
#define V_VERSION " xmlns:v=\"" VENDOR "\" v:Version=\"9\""
#define SSK_OPEN "<UserSigningKeySSK>"
#define XSI_DECLARED " xmlns:xsi=\"" NS_XSI "\""
enum { CUTS = 7, ALL_NAMESPACES = 3 };

static char *namespaces[ALL_NAMESPACES] = {(char[]){VENDOR}, (char[]){PLACEHOLDER}, (char[]){""}};
static struct dialect_name renames[] = {{(char[]){"Answer"}, (char[]){"KmsResponse"}},
                                        {(char[]){"KmsKeyset"}, (char[]){"KmsKeySet"}},
                                        {(char[]){"SecretRsk"}, (char[]){"UserDecryptKey"}},
                                        {(char[]){"SecretSsk"}, (char[]){"UserSigningKeySSK"}}};
static const struct dialect NOTHING = {0}, LISTED = {.namespaces = {namespaces, ALL_NAMESPACES}},
                            RENAMED = {.namespaces = {namespaces, ALL_NAMESPACES},
                                       .rename = renames, .rename_count = 4},
                            POINTS = {.point_prefix = PREFIX_ADD}, HEX = {.key_text = KEY_TEXT_HEX},
                            BASE64 = {.key_text = KEY_TEXT_BASE64, .point_prefix = PREFIX_ADD};

static void replace_all(struct buf *text, const char *find, const char *put)
{
    struct buf out = BUF_INIT(REPLY_MAX);
    const char *from = text->p;
    for (const char *at; (at = strstr(from, find)) != NULL; from = at + strlen(find)) {
        buf_bytes(&out, from, (size_t)(at - from));
        buf_z(&out, put);
    }
    if (from == text->p)
        fail_msg("%s is not in %s", find, text->p);
    buf_z(&out, from);
    buf_free(text);
    *text = out;
}

/* <a> becomes <v:a>, as a server writes that declares a prefix. */
static void prefixed(struct buf *text, const char *ns)
{
    char declared[200];
    replace_all(text, "</", "\x01");
    replace_all(text, "<", "<v:");
    replace_all(text, "\x01", "</v:");
    snprintf(declared, sizeof declared, " xmlns:v=\"%s\"", ns);
    replace(text, " xmlns=\"" NS_KMS "\"", declared);
}

/* The octets of a key, as put_key_set() has them, in another form. */
static void as_text(char which, size_t n, bool base64, bool cut, const char *between, struct buf *out)
{
    uint8_t octets[RSK_OCTETS];
    struct buf dense = BUF_INIT(REPLY_MAX);
    for (size_t i = 0; i < n; i++)
        octets[i] = key_octet(which, i);
    if (base64)
        buf_base64(&dense, octets + cut, n - cut);
    else
        buf_hex(&dense, octets + cut, n - cut, false);
    for (size_t i = 0; i < dense.n; i++) {
        if (i % CUTS == 0)
            buf_z(out, between);
        buf_char(out, dense.p[i]);
    }
    buf_z(out, between);
    buf_free(&dense);
}

static void rewrite_key(struct buf *text, const char *name, char which, size_t n, bool base64, bool cut,
                        const char *between)
{
    struct buf old = BUF_INIT(REPLY_MAX), new = BUF_INIT(REPLY_MAX);
    put_hex(&old, name, which, n);
    buf_printf(&new, "<%s>", name);
    as_text(which, n, base64, cut, between, &new);
    buf_printf(&new, "</%s>", name);
    replace(text, old.p, new.p);
    buf_free(&old);
    buf_free(&new);
}

static void rewrite_keys(struct buf *text, bool base64, bool cut, const char *between)
{
    rewrite_key(text, "UserDecryptKey", 'r', RSK_OCTETS, base64, cut, between);
    rewrite_key(text, "UserSigningKeySSK", 's', SSK_OCTETS, base64, false, between);
    rewrite_key(text, "UserPubTokenPVT", 'p', PVT_OCTETS, base64, cut, between);
}

/* Read, written by the standard and held against the XSD; the keys are those that were put. */
static enum reason read_as(struct str text, const struct dialect *d, struct buf *out, struct detail *why)
{
    struct xml_doc *doc = NULL;
    struct kms_response r;
    bool encrypted;
    const struct kms_response_plan plan = {.user_uri = STR(REPLY_USER), .kms_uri = STR("kms.example.org"),
                                           .time = STR("2026-11-23T18:00:00Z"), .kms_id = STR_MISSING,
                                           .client_req_url = STR("https://kms.example.org/"), .keep_extensions = true,
                                           .trk_id = STR_MISSING, .signature_id = STR_MISSING,
                                           .error_msg = STR_MISSING};
    *out = BUF_INIT(REPLY_MAX);
    enum reason reason = dialect_parse(text, d, &doc, why);
    if (reason == REASON_OK)
        reason = kms_response_read(doc, STR(REPLY_USER), STR_MISSING, &r, why);
    if (reason == REASON_OK)
        reason = kms_response_write(&r, &plan, out, &encrypted, why);
    xml_free(doc);
    return reason;
}

static void assert_keys(const struct buf *out)
{
    struct buf key = BUF_INIT(REPLY_MAX);
    const char *names[] = {"UserDecryptKey", "UserSigningKeySSK", "UserPubTokenPVT"};
    const size_t octets[] = {RSK_OCTETS, SSK_OCTETS, PVT_OCTETS};
    char upper[REPLY_MAX / 64];
    assert_true(out->n < sizeof upper);
    for (size_t i = 0; i <= out->n; i++)
        upper[i] = (char)(out->p[i] >= 'a' && out->p[i] <= 'f' ? out->p[i] - 32 : out->p[i]);
    for (size_t i = 0; i < 3; i++) {
        buf_reset(&key);
        put_hex(&key, names[i], "rsp"[i], octets[i]);
        const char *hex = strchr(key.p, '>') + 1;
        *strchr(hex, '<') = '\0';
        assert_non_null(strstr(upper, hex));
    }
    buf_free(&key);
}

#define assert_read(text, d, due) assert_read_at(text, d, due, __LINE__)
static void assert_read_at(struct buf *text, const struct dialect *d, enum reason due, int line)
{
    struct detail why = {""};
    struct buf out;
    const enum reason got = read_as(buf_view(text), d, &out, &why);
    if (got != due)
        fail_msg("line %d: %s: %s", line, reason_name(got), why.text);
    if (got == REASON_OK) {
        assert_xsd_valid(buf_view(&out));
        assert_int_equal(kms_response_validate(buf_view(&out), false, &why), REASON_OK);
        if (strstr(out.p, "KmsKeySet"))
            assert_keys(&out);
    } else {
        assert_true(why.text[0] != '\0');
    }
    buf_free(&out);
}

/* Another namespace, or none, on elements with and without a prefix: only where the dialect lists it. */
static void test_namespaces(void **state)
{
    (void)state;
    static const char *const URIS[] = {VENDOR, PLACEHOLDER};
    for (enum kms_message m = KMS_MESSAGE_NONE; m <= KMS_MESSAGE_ERROR; m++)
        for (size_t i = 0; i < 5; i++) {
            char declared[200];
            struct buf text;
            put_reply(&text, m);
            snprintf(declared, sizeof declared, " xmlns=\"%s\"", i < 2 ? URIS[i] : "");
            if (i < 3)
                replace(&text, " xmlns=\"" NS_KMS "\"", i < 2 ? declared : "");
            else
                prefixed(&text, URIS[i - 3]);
            assert_read(&text, &LISTED, REASON_OK);
            assert_read(&text, &NOTHING, REASON_UPSTREAM_INVALID);
            assert_read(&text, NULL, REASON_UPSTREAM_INVALID);
            buf_free(&text);
        }
}

/* The standard's own namespace is always one; several may stand side by side. */
static void test_mixed_namespaces(void **state)
{
    (void)state;
    static const char *const PUT[] = {"<KmsKeyProv ", "<KmsKeyProv xmlns=\"" VENDOR "\" ", "<KmsKeyProv xmlns=\"\" ",
                                      "<KmsKeyProv xmlns=\"" PLACEHOLDER "\" "};
    for (size_t i = 0; i < 4; i++) {
        struct buf text;
        put_reply(&text, KMS_MESSAGE_KEYPROV);
        replace(&text, "<KmsKeyProv ", PUT[i]);
        assert_read(&text, &LISTED, REASON_OK);
        assert_read(&text, NULL, i ? REASON_UPSTREAM_INVALID : REASON_OK);
        buf_free(&text);
    }
}

static void test_names(void **state)
{
    (void)state;
    struct buf text;
    put_reply(&text, KMS_MESSAGE_KEYPROV);
    replace_all(&text, "KmsResponse", "Answer");
    replace_all(&text, "KmsKeySet", "KmsKeyset");
    replace_all(&text, "UserDecryptKey", "SecretRsk");
    replace(&text, NS_KMS, VENDOR);
    struct detail why;
    struct buf out;
    assert_int_equal(read_as(buf_view(&text), &LISTED, &out, &why), REASON_UPSTREAM_INVALID);
    buf_free(&out);
    assert_read(&text, &RENAMED, REASON_OK);
    replace_all(&text, "</KmsKeyset>", "<UserDecryptKey>00</UserDecryptKey></KmsKeyset>"); /* it twice */
    assert_read(&text, &RENAMED, REASON_UPSTREAM_INVALID);
    buf_free(&text);
}

static void test_key_texts(void **state)
{
    (void)state;
    static const struct dialect AUTO_POINTS = {.point_prefix = PREFIX_ADD}, AUTO = {0};
    static const struct {
        bool base64, cut;
        const char *between;
        const struct dialect *d;
        enum reason due;
    } CASES[] = {
        {false, false, "", NULL, REASON_OK},
        {false, false, "\n  ", NULL, REASON_UPSTREAM_INVALID},
        {false, false, "\r\n\t ", &AUTO, REASON_OK},
        {true, false, "", NULL, REASON_UPSTREAM_INVALID},
        {true, false, "", &AUTO, REASON_OK},
        {true, false, "\n\t", &AUTO, REASON_OK},
        {true, false, "", &HEX, REASON_UPSTREAM_INVALID},
        {false, false, "", &HEX, REASON_OK},
        {true, false, "", &BASE64, REASON_OK},
        {false, false, "", &BASE64, REASON_UPSTREAM_INVALID},
        {false, true, "", &AUTO, REASON_UPSTREAM_INVALID},
        {false, true, "", &AUTO_POINTS, REASON_OK},
        {false, false, "", &AUTO_POINTS, REASON_OK},
        {true, true, "", &AUTO, REASON_UPSTREAM_INVALID},
        {true, true, "\n", &AUTO_POINTS, REASON_OK},
        {true, true, "\n", &BASE64, REASON_OK},
        {false, false, "\xc2\xa0", &AUTO, REASON_UPSTREAM_INVALID},
        {false, false, ":", &AUTO, REASON_UPSTREAM_INVALID},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        struct buf text;
        put_reply(&text, KMS_MESSAGE_KEYPROV);
        if (CASES[i].base64 || CASES[i].cut || CASES[i].between[0])
            rewrite_keys(&text, CASES[i].base64, CASES[i].cut, CASES[i].between);
        assert_read(&text, CASES[i].d, CASES[i].due);
        buf_free(&text);
    }
}

/* Only points have a first octet that can be missing, and only one; the public keys of a certificate are read alike. */
static void test_lengths(void **state)
{
    (void)state;
    struct buf text, out;
    struct detail why;
    put_reply(&text, KMS_MESSAGE_KEYPROV);
    rewrite_key(&text, "UserSigningKeySSK", 's', SSK_OCTETS, false, true, "");
    assert_int_equal(read_as(buf_view(&text), &POINTS, &out, &why), REASON_UPSTREAM_INVALID);
    buf_free(&out);
    buf_free(&text);
    put_reply(&text, KMS_MESSAGE_INIT);
    rewrite_key(&text, "PubEncKey", 'e', RSK_OCTETS, true, true, "\n");
    assert_read(&text, &POINTS, REASON_OK);
    assert_read(&text, &NOTHING, REASON_UPSTREAM_INVALID);
    replace(&text, "<PubAuthKey>04", "<PubAuthKey>");
    assert_read(&text, &POINTS, REASON_OK);
    replace(&text, "<PubAuthKey>", "<PubAuthKey>0");
    assert_read(&text, &POINTS, REASON_UPSTREAM_INVALID);
    buf_free(&text);
}

static void test_times(void **state)
{
    (void)state;
    static const struct {
        const char *put, *due; /* NULL: not valid */
    } CASES[] = {
        {"2026-11-23T18:00:00.123456+00:00", "2026-11-23T18:00:00Z"},
        {"2026-11-23T18:00:00", "2026-11-23T18:00:00Z"},
        {"\n 2026-11-23 18:00:00.5 ", "2026-11-23T18:00:00Z"},
        {"2026-11-23T18:00:00+02:00", "2026-11-23T16:00:00Z"},
        {"2026-11-23", NULL},
        {"23.11.2026 18:00", NULL},
        {"", NULL},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        struct buf text, out;
        struct detail why;
        char put[200], due[200];
        put_reply(&text, KMS_MESSAGE_KEYPROV);
        snprintf(put, sizeof put, "<ValidFrom>%s</ValidFrom><KeyPeriodNo>", CASES[i].put);
        replace(&text, "<KeyPeriodNo>", put);
        const enum reason got = read_as(buf_view(&text), &NOTHING, &out, &why);
        assert_int_equal(got, CASES[i].due ? REASON_OK : REASON_UPSTREAM_INVALID);
        snprintf(due, sizeof due, "<ValidFrom>%s</ValidFrom>", CASES[i].due ? CASES[i].due : "");
        assert_true(!CASES[i].due || strstr(out.p, due));
        buf_free(&out);
        buf_free(&text);
    }
}

static void test_texts_are_trimmed(void **state)
{
    (void)state;
    struct buf text, out;
    struct detail why;
    put_reply(&text, KMS_MESSAGE_KEYPROV);
    replace(&text, "<UserID>ABCDEF<", "<UserID>\n  AB CD \n<");
    assert_int_equal(read_as(buf_view(&text), &NOTHING, &out, &why), REASON_OK);
    assert_non_null(strstr(out.p, "<UserID>AB CD</UserID>"));
    buf_free(&out);
    replace(&text, "AB CD", " ");
    assert_int_equal(read_as(buf_view(&text), &NOTHING, &out, &why), REASON_OK);
    assert_non_null(strstr(out.p, "<UserID></UserID>"));
    buf_free(&out);
    buf_free(&text);
}

struct change {
    enum kms_message of;
    const char *find, *put;
    enum reason due;
};

static void run(const struct change *cases, size_t n, const struct dialect *d)
{
    for (size_t i = 0; i < n; i++) {
        struct buf text;
        put_reply(&text, cases[i].of);
        assert_read(&text, d, REASON_OK); /* the twin */
        replace(&text, cases[i].find, cases[i].put);
        assert_read(&text, d, cases[i].due);
        buf_free(&text);
    }
}

/* Attributes and types of the vendor's namespace are the standard's; others stay errors. */
static void test_attributes(void **state)
{
    (void)state;
    static const struct change CASES[] = {
        {KMS_MESSAGE_KEYPROV, "<KmsKeySet Id", "<KmsKeySet" V_VERSION " Ix", REASON_UPSTREAM_INVALID},
        {KMS_MESSAGE_KEYPROV, "<KmsKeySet Id=\"set\" Version=\"1.0.0\"", "<KmsKeySet" V_VERSION, REASON_OK},
        {KMS_MESSAGE_KEYPROV, "<KmsKeySet ", "<KmsKeySet" V_VERSION " ", REASON_UPSTREAM_INVALID},
        {KMS_MESSAGE_KEYPROV, "<KmsKeySet ", "<KmsKeySet xmlns:v=\"urn:v\" v:Version=\"9\" ", REASON_OK},
        {KMS_MESSAGE_KEYPROV, "<KmsKeySet ", "<KmsKeySet Colour=\"red\" ", REASON_UPSTREAM_INVALID},
        {KMS_MESSAGE_KEYPROV, SSK_OPEN,
         "<UserSigningKeySSK" XSI_DECLARED " xmlns:v=\"" VENDOR "\" xsi:type=\"v:KeyContentType\">", REASON_OK},
        {KMS_MESSAGE_KEYPROV, SSK_OPEN,
         "<UserSigningKeySSK" XSI_DECLARED " xmlns:v=\"urn:v\" xsi:type=\"v:KeyContentType\">",
         REASON_UPSTREAM_INVALID},
        {KMS_MESSAGE_KEYPROV, SSK_OPEN,
         "<UserSigningKeySSK" XSI_DECLARED " xmlns:v=\"" VENDOR "\" xsi:type=\"v:Other\">", REASON_UPSTREAM_INVALID},
    };
    run(CASES, sizeof CASES / sizeof CASES[0], &LISTED);
}

/* A type of the vendor's is renamed behind whatever prefix it has, up to a length that no server writes. */
static void test_types_behind_a_prefix(void **state)
{
    (void)state;
    struct dialect_name types[] = {{(char[]){"Clear"}, (char[]){"KeyContentType"}}};
    const struct dialect retyped = {.rename_types = types, .rename_type_count = 1};
    static const struct {
        int prefix;
        enum reason due;
    } CASES[] = {{1, REASON_OK}, {1023, REASON_OK}, {1024, REASON_UPSTREAM_INVALID}};
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        char prefix[1025] = "", put[4096];
        memset(prefix, 'v', (size_t)CASES[i].prefix);
        snprintf(put, sizeof put, "<UserSigningKeySSK" XSI_DECLARED " xmlns:%s=\"" NS_KMS "\" xsi:type=\"%s:Clear\">",
                 prefix, prefix);
        struct buf text;
        put_reply(&text, KMS_MESSAGE_KEYPROV);
        replace(&text, SSK_OPEN, put);
        assert_read(&text, &retyped, CASES[i].due);
        buf_free(&text);
    }
}

/* A key in an element that is renamed or that nobody knows never passes; what would be dropped at most is refused. */
static void test_no_key_hides(void **state)
{
    (void)state;
    static const struct change CASES[] = {
        {KMS_MESSAGE_KEYPROV, "<KeyPeriodNo>", "<Backup>00</Backup><KeyPeriodNo>", REASON_UPSTREAM_INVALID},
        {KMS_MESSAGE_KEYPROV, "<KeyPeriodNo>", "<Backup xmlns=\"" VENDOR "\">00</Backup><KeyPeriodNo>",
         REASON_UPSTREAM_INVALID},
        {KMS_MESSAGE_KEYPROV, "<KeyPeriodNo>", "<Backup xmlns=\"\">00</Backup><KeyPeriodNo>", REASON_UPSTREAM_INVALID},
        {KMS_MESSAGE_KEYPROV, "<KmsMessage>", "<SecretSsk>00</SecretSsk><KmsMessage>", REASON_UPSTREAM_INVALID},
        {KMS_MESSAGE_KEYPROV, REPLY_END, "<e xmlns=\"urn:x\">00</e>" REPLY_END, REASON_OK},
        {KMS_MESSAGE_KEYPROV, REPLY_END, "<SecretSsk xmlns=\"urn:x\">00</SecretSsk>" REPLY_END,
         REASON_UPSTREAM_INVALID},
        {KMS_MESSAGE_KEYPROV, REPLY_END, "<e xmlns=\"urn:x\"><secretssk>00</secretssk></e>" REPLY_END,
         REASON_UPSTREAM_INVALID},
        {KMS_MESSAGE_KEYPROV, REPLY_END, "<e xmlns=\"urn:x\" SecretSsk=\"00\"/>" REPLY_END, REASON_UPSTREAM_INVALID},
        {KMS_MESSAGE_KEYPROV, REPLY_END, "<e xmlns=\"urn:x\"><v:e xmlns:v=\"" VENDOR "\">00</v:e></e>" REPLY_END,
         REASON_UPSTREAM_INVALID},
        {KMS_MESSAGE_KEYPROV, REPLY_END, "<x:e xmlns:x=\"urn:x\"><e xmlns=\"\">00</e></x:e>" REPLY_END,
         REASON_UPSTREAM_INVALID},
        {KMS_MESSAGE_LOOKUP, "<a>", "<SecretSsk>00</SecretSsk><a>", REASON_UPSTREAM_INVALID},
        {KMS_MESSAGE_LOOKUP, "<a>", "<secretSSK>00</secretSSK><a>", REASON_UPSTREAM_INVALID},
        {KMS_MESSAGE_LOOKUP, "<a>", "<Harmless>00</Harmless><a>", REASON_OK},
        {KMS_MESSAGE_KEYPROV, "<KmsMessage>", "<KmsMessage xmlns:w=\"OTHER\">", REASON_UPSTREAM_INVALID},
        {KMS_MESSAGE_KEYPROV, "<KmsMessage>", "<KmsMessage xmlns:w=\"" PLACEHOLDER "\">", REASON_OK},
    };
    run(CASES, sizeof CASES / sizeof CASES[0], &RENAMED);
}

/* What others have signed passes where nothing in it and around it was changed. */
static void test_sealed(void **state)
{
    (void)state;
    static const struct {
        const char *find, *put;
        enum reason due;
    } CASES[] = {
        {"<Issuer>", "<Issuer>", REASON_OK},
        {" xmlns=\"" NS_KMS "\" Version=\"1.1.0\">\n", " Version=\"1.1.0\">\n", REASON_OK}, /* none around it */
        {"<KmsMessage>", "<KmsMessage xmlns:v=\"" VENDOR "\">", REASON_UPSTREAM_INVALID},
        {"<SignedKmsCertificate xmlns=\"" NS_KMS "\">", "<SignedKmsCertificate xmlns=\"" VENDOR "\">",
         REASON_UPSTREAM_INVALID},
        {"<SignedKmsCertificate xmlns=\"" NS_KMS "\">", "<SignedKmsCertificate xmlns=\"\">", REASON_UPSTREAM_INVALID},
        {"<Issuer>", "<Issuer xmlns:v=\"" VENDOR "\">", REASON_UPSTREAM_INVALID},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        struct buf text;
        put_reply(&text, KMS_MESSAGE_INIT);
        replace(&text, "<KmsCertificate ", "<SignedKmsCertificate xmlns=\"" NS_KMS "\"><KmsCertificate ");
        replace(&text, "<UserIdFormat>", "<Issuer> kept  as it is </Issuer><UserIdFormat>");
        replace(&text, "</KmsCertificate>",
                "</KmsCertificate><ds:Signature xmlns:ds=\"" NS_DS "\"/></SignedKmsCertificate>");
        replace(&text, CASES[i].find, CASES[i].put);
        struct buf out;
        struct detail why = {""};
        const enum reason got = read_as(buf_view(&text), &LISTED, &out, &why);
        if (got != CASES[i].due)
            fail_msg("%zu: %s: %s", i, reason_name(got), why.text);
        assert_true(got != REASON_OK || strstr(out.p, "<Issuer> kept  as it is </Issuer>"));
        buf_free(&out);
        buf_free(&text);
    }
}

static void test_kind(void **state)
{
    (void)state;
    static const char *const OTHER[] = {"<a/>", "<KmsResponse xmlns=\"urn:x\"/>",
                                        "<KmsResponse xmlns=\"" NS_KMS "\"><KmsMessage><a/></KmsMessage></KmsResponse>",
                                        "<KmsResponse xmlns=\"" NS_KMS "\"><KmsMessage/></KmsResponse>"};
    struct xml_doc *doc;
    struct detail why;
    enum kms_message kind;
    for (enum kms_message m = KMS_MESSAGE_NONE; m <= KMS_MESSAGE_ERROR; m++) {
        struct buf text;
        put_reply(&text, m);
        assert_int_equal(dialect_parse(buf_view(&text), NULL, &doc, &why), REASON_OK);
        assert_true(kms_response_kind(doc, &kind));
        assert_int_equal(kind, m);
        xml_free(doc);
        buf_free(&text);
    }
    for (size_t i = 0; i < sizeof OTHER / sizeof OTHER[0]; i++) {
        assert_int_equal(dialect_parse(str_z(OTHER[i]), NULL, &doc, &why), REASON_OK);
        assert_false(kms_response_kind(doc, &kind));
        xml_free(doc);
    }
}

static void test_names_for_rules(void **state)
{
    (void)state;
    size_t n = 0, keys = 0;
    for (const char *name; (name = dialect_target(n)) != NULL; n++)
        keys += dialect_is_key(str_z(name));
    assert_int_equal(keys, 7); /* five names, two of them in two messages */
    assert_true(n > 40);
    assert_true(dialect_looks_like_key(STR("userdecryptkey")));
    assert_false(dialect_looks_like_key(STR("PubEncKey")));
    assert_true(dialect_is_foreign(STR(NS_DS)));
    assert_false(dialect_is_foreign(STR(VENDOR)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_namespaces),  cmocka_unit_test(test_mixed_namespaces),
        cmocka_unit_test(test_types_behind_a_prefix),
        cmocka_unit_test(test_names),       cmocka_unit_test(test_key_texts),
        cmocka_unit_test(test_lengths),     cmocka_unit_test(test_times),
        cmocka_unit_test(test_attributes),  cmocka_unit_test(test_texts_are_trimmed),
        cmocka_unit_test(test_no_key_hides), cmocka_unit_test(test_sealed),
        cmocka_unit_test(test_kind),        cmocka_unit_test(test_names_for_rules),
    };
    return cmocka_run_group_tests(tests, start_libraries, stop_libraries);
}
