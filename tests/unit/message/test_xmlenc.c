#include "fixture.h"

#include "message/xmlenc.h"
#include "message/xmlenc_internal.h"

#define KW NS_XENC "kw-aes256"
#define KWP NS_XENC11 "kw-aes-256-pad"
#define GCM NS_XENC11 "aes256-gcm"

/* RFC 3394, 4.6: 256 bits of key data with a 256-bit key. */
#define RFC3394_KEK "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F"
#define RFC3394_KEY "00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F"
#define RFC3394_OUT "28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21"

struct octets {
    uint8_t b[2048];
    size_t n;
};

static struct octets octets_of(const char *hex)
{
    struct octets o;
    assert_true(hex_decode(str_z(hex), o.b, sizeof o.b, &o.n));
    return o;
}

/* What stands in the CipherValue of an EncryptedKey. */
static struct octets cipher_of(const struct buf *xml)
{
    struct octets o;
    const char *from = strstr(xml->p, "<xenc:CipherValue>"), *to = strstr(xml->p, "</xenc:CipherValue>");
    assert_non_null(from);
    assert_non_null(to);
    from += strlen("<xenc:CipherValue>");
    assert_true(base64_decode((struct str){from, (size_t)(to - from)}, o.b, sizeof o.b, &o.n));
    return o;
}

static void test_the_vector_of_rfc_3394(void **state)
{
    (void)state;
    const struct secret_key kek = key_of(RFC3394_KEK);
    const struct octets key = octets_of(RFC3394_KEY), expected = octets_of(RFC3394_OUT);
    struct xmlenc *e = xmlenc_new(&kek, STR("trk.1"));
    struct buf xml = BUF_INIT(4096);
    uint8_t out[64];
    size_t n;
    assert_true(xmlenc_key(e, KEY_WRAP_AUTO, key.b, key.n, &xml));
    assert_non_null(strstr(xml.p, "Algorithm=\"" KW "\""));
    assert_non_null(strstr(xml.p, "<ds:KeyName>trk.1</ds:KeyName>"));
    const struct octets got = cipher_of(&xml);
    assert_int_equal(got.n, expected.n);
    assert_memory_equal(got.b, expected.b, got.n);
    assert_true(xmlenc_open_key(e, STR(KW), got.b, got.n, out, sizeof out, &n));
    assert_int_equal(n, key.n);
    assert_memory_equal(out, key.b, n);
    buf_free(&xml);
    xmlenc_free(e);
}

/* The next tab-separated column. */
static char *column(char **line)
{
    char *at = *line, *end = at + strcspn(at, "\t\n");
    *line = *end ? end + 1 : end;
    *end = '\0';
    return at;
}

struct vector {
    int number;
    struct secret_key key;
    struct octets message, cipher;
    bool valid;
};

/* 256-bit vectors of Wycheproof. Each valid one has invalid ones beside it that differ by a bit. */
static unsigned each_vector(const char *name, void (*check)(const struct vector *v))
{
    struct buf text;
    unsigned count = 0;
    read_case(name, &text);
    for (char *line = text.p; *line; count++) {
        struct vector v;
        char *next = line + strcspn(line, "\n");
        next += *next == '\n';
        v.number = (int)strtol(column(&line), NULL, 10);
        v.key = key_of(column(&line));
        v.message = octets_of(column(&line));
        v.cipher = octets_of(column(&line));
        v.valid = strcmp(column(&line), "valid") == 0;
        check(&v);
        line = next;
    }
    buf_free(&text);
    return count;
}

/* Side by side: the cipher texts are those of one after the other, which are OpenSSL's. */
static void same_side_by_side(struct xmlenc *e, enum key_wrap wrap, const struct octets *v, size_t count)
{
    uint8_t cipher[XMLENC_SEVERAL][1024 + XMLENC_MORE];
    struct xmlenc_wrapped w[XMLENC_SEVERAL];
    for (size_t i = 0; i < count; i++)
        w[i] = (struct xmlenc_wrapped){.octets = v[i].b, .n = v[i].n, .cipher = cipher[i]};
    assert_true(xmlenc_wrap(e, wrap, w, count));
    for (size_t i = 0; i < count; i++) {
        struct buf alone = BUF_INIT(8192), beside = BUF_INIT(8192);
        assert_true(xmlenc_key(e, wrap, v[i].b, v[i].n, &alone) && xmlenc_put(e, &w[i], &beside));
        if (wrap == KEY_WRAP_GCM) { /* whose nonce is random */
            uint8_t out[1024];
            size_t n;
            assert_true(xmlenc_open_key(e, STR(GCM), w[i].cipher, w[i].cipher_n, out, sizeof out, &n));
            assert_int_equal(n, v[i].n);
            assert_memory_equal(out, v[i].b, n);
        } else {
            assert_string_equal(alone.p, beside.p);
        }
        buf_free(&alone);
        buf_free(&beside);
    }
}

static void check_wrap(const struct vector *v, enum key_wrap wrap, struct str algorithm)
{
    struct xmlenc *e = xmlenc_new(&v->key, STR("trk.1"));
    struct buf xml = BUF_INIT(8192);
    uint8_t out[2048];
    size_t n = 0;
    assert_non_null(e);
    const bool opened = xmlenc_open_key(e, algorithm, v->cipher.b, v->cipher.n, out, sizeof out, &n);
    if (opened != (v->valid && v->message.n > 0))
        fail_msg("vector %d: %s", v->number, opened ? "opened" : "not opened");
    if (opened) {
        assert_int_equal(n, v->message.n);
        assert_memory_equal(out, v->message.b, n);
        assert_true(xmlenc_key(e, wrap, v->message.b, v->message.n, &xml));
        const struct octets got = cipher_of(&xml);
        assert_int_equal(got.n, v->cipher.n);
        assert_memory_equal(got.b, v->cipher.b, got.n);
        same_side_by_side(e, wrap, &v->message, 1);
    }
    buf_free(&xml);
    xmlenc_free(e);
}

static void check_kw(const struct vector *v)
{
    check_wrap(v, KEY_WRAP_KW, STR(KW));
}

static void check_kwp(const struct vector *v)
{
    check_wrap(v, KEY_WRAP_KWP, STR(KWP));
}

static void check_gcm(const struct vector *v)
{
    struct buf out = BUF_INIT(4096);
    const bool opened = xmlenc_open_gcm(v->key.b, v->cipher.b, v->cipher.n, &out);
    if (opened != v->valid)
        fail_msg("vector %d: %s", v->number, opened ? "opened" : "not opened");
    if (opened) {
        assert_int_equal(out.n, v->message.n);
        assert_memory_equal(out.p, v->message.b, out.n);
    }
    buf_free(&out);
}

static void test_wycheproof(void **state)
{
    (void)state;
    assert_int_equal(each_vector("cases/wycheproof/aes_wrap.tsv", check_kw), 68);
    assert_int_equal(each_vector("cases/wycheproof/aes_kwp.tsv", check_kwp), 94);
    assert_int_equal(each_vector("cases/wycheproof/aes_gcm.tsv", check_gcm), 48);
}

/* Every length by every algorithm: what auto takes, and that a flipped bit never opens. */
static void test_lengths(void **state)
{
    (void)state;
    static const size_t lengths[] = {1, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 64, 65, 256, 257, 1017, 1024};
    static const char *const algorithms[] = {[KEY_WRAP_KW] = KW, [KEY_WRAP_KWP] = KWP, [KEY_WRAP_GCM] = GCM};
    const struct secret_key kek = key_of(ALICE_TRK);
    struct xmlenc *e = xmlenc_new(&kek, STR("trk.1"));
    uint8_t key[1024], out[1024];
    for (size_t i = 0; i < sizeof key; i++)
        key[i] = (uint8_t)(i * 7 + 1);
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        for (enum key_wrap wrap = KEY_WRAP_AUTO; wrap <= KEY_WRAP_GCM; wrap++) {
            const bool whole = lengths[i] % 8 == 0 && lengths[i] >= 16;
            const enum key_wrap used = wrap != KEY_WRAP_AUTO ? wrap : whole ? KEY_WRAP_KW : KEY_WRAP_KWP;
            struct buf xml = BUF_INIT(8192);
            size_t n = 0;
            assert_int_equal(xmlenc_key(e, wrap, key, lengths[i], &xml), used != KEY_WRAP_KW || whole);
            if (used == KEY_WRAP_KW && !whole) {
                buf_free(&xml);
                continue;
            }
            struct octets cipher = cipher_of(&xml);
            assert_non_null(strstr(xml.p, algorithms[used]));
            assert_true(xmlenc_open_key(e, str_z(algorithms[used]), cipher.b, cipher.n, out, sizeof out, &n));
            assert_int_equal(n, lengths[i]);
            assert_memory_equal(out, key, n);
            assert_false(xmlenc_open_key(e, str_z(algorithms[used]), cipher.b, cipher.n, out, n - 1, &n));
            cipher.b[cipher.n / 2] ^= 1;
            assert_false(xmlenc_open_key(e, str_z(algorithms[used]), cipher.b, cipher.n, out, sizeof out, &n));
            assert_int_equal(n, 0);
            buf_free(&xml);
        }
    }
    struct buf xml = BUF_INIT(8192);
    assert_false(xmlenc_key(e, KEY_WRAP_AUTO, key, 0, &xml));
    assert_false(xmlenc_key(e, KEY_WRAP_AUTO, key, sizeof key + 1, &xml));
    assert_false(xmlenc_open_key(e, STR(NS_XENC "kw-aes128"), key, 40, out, sizeof out, &(size_t){0}));
    buf_free(&xml);
    xmlenc_free(e);
}

/* Several of every length beside one another, in any order; what the algorithm cannot take fails all. */
static void test_side_by_side(void **state)
{
    static const size_t LENGTHS[] = {257, 32, 65, 1, 8, 9, 16, 1024, 264, 24, 17, 7, 33, 64, 257, 15};
    static const enum key_wrap WRAPS[] = {KEY_WRAP_AUTO, KEY_WRAP_KWP, KEY_WRAP_NAMED, KEY_WRAP_GCM};
    const struct secret_key kek = key_of(ALICE_TRK);
    struct xmlenc *e = xmlenc_new(&kek, STR("trk.1"));
    static struct octets v[sizeof LENGTHS / sizeof *LENGTHS];
    const size_t all = sizeof LENGTHS / sizeof *LENGTHS;
    (void)state;
    for (size_t i = 0; i < all; i++) {
        v[i].n = LENGTHS[i];
        for (size_t k = 0; k < LENGTHS[i]; k++)
            v[i].b[k] = (uint8_t)(k * 31 + i * 7 + 1);
    }
    for (size_t wrap = 0; wrap < sizeof WRAPS / sizeof *WRAPS; wrap++)
        for (size_t from = 0; from < all; from++)
            for (size_t count = 0; count <= XMLENC_SEVERAL && from + count <= all; count++)
                same_side_by_side(e, WRAPS[wrap], v + from, count);
    uint8_t cipher[2][1024 + XMLENC_MORE];
    struct xmlenc_wrapped w[2] = {{.octets = v[1].b, .n = 32, .cipher = cipher[0]},
                                  {.octets = v[0].b, .n = 257, .cipher = cipher[1]}};
    assert_true(xmlenc_wrap(e, KEY_WRAP_KW, w, 1));
    assert_false(xmlenc_wrap(e, KEY_WRAP_KW, w, 2));
    w[1].n = 0;
    assert_false(xmlenc_wrap(e, KEY_WRAP_AUTO, w, 2));
    xmlenc_free(e);
}

static void test_no_key_without_name(void **state)
{
    (void)state;
    const struct secret_key kek = key_of(ALICE_TRK);
    struct xmlenc *e = xmlenc_new(&kek, STR("trk.1"));
    assert_non_null(e);
    xmlenc_free(e);
    assert_null(xmlenc_new(&kek, STR("")));
    assert_null(xmlenc_new(&kek, STR_MISSING));
    xmlenc_free(NULL);
}

/* Two encryptions of one content share nothing; a key's name is escaped. */
static void test_content(void **state)
{
    (void)state;
    const struct secret_key kek = key_of(ALICE_TRK);
    struct xmlenc *e = xmlenc_new(&kek, STR("<trk&1>"));
    struct buf one = BUF_INIT(8192), two = BUF_INIT(8192), small = BUF_INIT(64);
    assert_true(xmlenc_content(e, STR("<KmsKeyProv/>"), &one));
    assert_true(xmlenc_content(e, STR("<KmsKeyProv/>"), &two));
    assert_int_equal(one.n, two.n);
    assert_string_not_equal(one.p, two.p);
    assert_non_null(strstr(one.p, "&lt;trk&amp;1&gt;"));
    assert_null(strstr(one.p, "KmsKeyProv"));
    assert_false(xmlenc_content(e, STR("<KmsKeyProv/>"), &small));
    assert_false(xmlenc_content(e, STR_MISSING, &one));
    buf_free(&one);
    buf_free(&two);
    buf_free(&small);
    xmlenc_free(e);
}

#define METHOD(a) "<EncryptionMethod Algorithm='" a "'/>"
#define NAMED "<d:KeyInfo><d:KeyName>k</d:KeyName></d:KeyInfo>"
#define CIPHER "<CipherData><CipherValue>AA==</CipherValue></CipherData>"
#define KEY(attributes, parts)                                                                                        \
    "<EncryptedKey xmlns='" NS_XENC "' xmlns:d='" NS_DS "'" attributes ">" parts "</EncryptedKey>"
#define DATA(type, parts)                                                                                             \
    "<EncryptedData xmlns='" NS_XENC "' xmlns:d='" NS_DS "' Type='" type "'>" parts "</EncryptedData>"
#define GOOD_KEY KEY("", METHOD(KW) NAMED CIPHER)
#define IN_DATA(key) DATA(NS_XENC "Content", METHOD(GCM) "<d:KeyInfo>" key "</d:KeyInfo>" CIPHER)

/* What an upstream may write wrongly, each beside what is right; "" is. */
static void test_what_is_not_read(void **state)
{
    static const struct {
        bool data;
        const char *text, *why;
    } CASES[] = {
        {false, GOOD_KEY, ""},
        {false, KEY(" Id='x'", METHOD(KWP) NAMED CIPHER "<CarriedKeyName>n</CarriedKeyName>"), ""},
        {false, KEY(" Recipient='x'", METHOD(KW) NAMED CIPHER), "EncryptedKey: expected no such attribute"},
        {false, KEY("", "text" METHOD(KW) NAMED CIPHER), "EncryptedKey: expected no text between its elements"},
        {false, KEY("", NAMED CIPHER), "EncryptionMethod: expected it here"},
        {false, KEY("", "<EncryptionMethod Algorithm='" KW "'><KeySize>256</KeySize></EncryptionMethod>" NAMED CIPHER),
         "EncryptionMethod: expected no content"},
        {false, KEY("", METHOD(NS_XENC "kw-aes128") NAMED CIPHER), "EncryptionMethod: expected " KW},
        {false, KEY("", METHOD(KW) CIPHER), "KeyInfo: expected it here"},
        {false, KEY("", METHOD(KW) "<d:KeyInfo/>" CIPHER), "KeyInfo: expected exactly one element in it"},
        {false, KEY("", METHOD(KW) "<d:KeyInfo><d:KeyName/></d:KeyInfo>" CIPHER), "KeyName: expected text"},
        {false, KEY("", METHOD(KW) NAMED "<CipherData/>"), "CipherData: expected exactly one element in it"},
        {false, KEY("", METHOD(KW) NAMED "<CipherData><CipherReference URI='http://x/'/></CipherData>"),
         "CipherValue: expected it here"},
        {false, KEY("", METHOD(KW) NAMED CIPHER "<CarriedKeyName>n</CarriedKeyName><a/>"),
         "EncryptedKey: expected CarriedKeyName last"},
        {false, KEY("", METHOD(KW) NAMED CIPHER "<CarriedKeyName/>"), "CarriedKeyName: expected text"},
        {true, IN_DATA(GOOD_KEY), ""},
        {true, DATA(NS_XENC "Element", METHOD(GCM) "<d:KeyInfo>" GOOD_KEY "</d:KeyInfo>" CIPHER),
         "EncryptedData: expected Type " NS_XENC "Content"},
        {true, DATA(NS_XENC "Content", METHOD(NS_XENC "aes256-cbc") "<d:KeyInfo>" GOOD_KEY "</d:KeyInfo>" CIPHER),
         "EncryptionMethod: expected " GCM},
        {true, DATA(NS_XENC "Content", METHOD(GCM) NAMED CIPHER), "EncryptedKey: expected it here"},
        {true, DATA(NS_XENC "Content", METHOD(GCM) "<d:KeyInfo>" GOOD_KEY "</d:KeyInfo>" CIPHER "<a/>"),
         "EncryptedData: expected CipherData last"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct xml_doc *doc = NULL;
        struct encrypted out;
        struct detail why = {""};
        assert_int_equal(xml_parse(str_z(CASES[i].text), &XML_LIMITS_PROTECTED, &doc, NULL), REASON_OK);
        const bool read = CASES[i].data ? encrypted_data_read(xml_top(doc), &out, &why)
                                        : encrypted_key_read(xml_top(doc), &out, &why);
        if (read != !*CASES[i].why || !strstr(why.text, CASES[i].why))
            fail_msg("%s: %s instead of %s", CASES[i].text, why.text, CASES[i].why);
        xml_free(doc);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_vector_of_rfc_3394), cmocka_unit_test(test_wycheproof),
        cmocka_unit_test(test_lengths),                cmocka_unit_test(test_side_by_side),
        cmocka_unit_test(test_no_key_without_name),    cmocka_unit_test(test_content),
        cmocka_unit_test(test_what_is_not_read),
    };
    return cmocka_run_group_tests(tests, start_libraries, stop_libraries);
}
