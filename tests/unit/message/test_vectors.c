/*
 * Published vectors of the algorithms: the RFCs' own and, where Wycheproof's files are, all of those that fit a key of
 * 256 bits. WYCHEPROOF names their folder (the default: shared/vectors/wycheproof beside the checkout); without it the
 * tables in tests/cases/wycheproof, which the other tests read, are what there is.
 */
#include "fixture.h"

#include "base/json.h"
#include "message/xmlenc.h"
#include "message/xmlsig_internal.h"

struct octets {
    uint8_t b[4096];
    size_t n;
};

static struct octets octets_of(struct str hex)
{
    struct octets o;
    if (!hex_decode(hex, o.b, sizeof o.b, &o.n))
        fail_msg("`%.*s` is no hex", STR_FMT(hex));
    return o;
}

/* Shorter keys of an HMAC are filled up with zeros (RFC 2104): a key of ours can be any of up to 32 octets. */
static struct secret_key padded(struct str hex)
{
    const struct octets o = octets_of(hex);
    struct secret_key key = {{0}};
    assert_true(o.n <= KEY_BYTES);
    memcpy(key.b, o.b, o.n);
    return key;
}

/* RFC 4231, 4.2 to 4.5; the others have longer keys. Each beside a key and a text that differ by a bit. */
static void test_hmac_of_rfc_4231(void **state)
{
    static const struct {
        const char *key, *data, *mac;
    } CASES[] = {
        {"0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b", "4869205468657265",
         "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"},
        {"4a656665", "7768617420646f2079612077616e7420666f72206e6f7468696e673f",
         "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"},
        {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
         "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd",
         "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"},
        {"0102030405060708090a0b0c0d0e0f10111213141516171819",
         "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd",
         "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct secret_key key = padded(str_z(CASES[i].key));
        struct octets data = octets_of(str_z(CASES[i].data));
        const struct octets wanted = octets_of(str_z(CASES[i].mac));
        const struct str text = {(const char *)data.b, data.n};
        uint8_t mac[HASH_BYTES];
        assert_true(signature_hmac(&key, text, mac));
        assert_memory_equal(mac, wanted.b, sizeof mac);
        data.b[0] ^= 1;
        assert_true(signature_hmac(&key, text, mac));
        assert_memory_not_equal(mac, wanted.b, sizeof mac);
        data.b[0] ^= 1;
        key.b[0] ^= 1;
        assert_true(signature_hmac(&key, text, mac));
        assert_memory_not_equal(mac, wanted.b, sizeof mac);
    }
    assert_false(signature_hmac(&(struct secret_key){{0}}, STR_MISSING, (uint8_t[HASH_BYTES]){0}));
}

/* FIPS 180-4, as NIST's examples have it. */
static void test_digest(void **state)
{
    static const struct {
        const char *text, *digest;
    } CASES[] = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        uint8_t digest[HASH_BYTES];
        assert_true(signature_hash(str_z(CASES[i].text), digest));
        assert_memory_equal(digest, octets_of(str_z(CASES[i].digest)).b, sizeof digest);
    }
    assert_false(signature_hash(STR_MISSING, (uint8_t[HASH_BYTES]){0}));
}

static struct octets cipher_of(const struct buf *xml)
{
    struct octets o;
    const char *from = strstr(xml->p, "<xenc:CipherValue>"), *to = strstr(xml->p, "</xenc:CipherValue>");
    assert_non_null(from);
    from += strlen("<xenc:CipherValue>");
    assert_true(base64_decode((struct str){from, (size_t)(to - from)}, o.b, sizeof o.b, &o.n));
    return o;
}

/* RFC 3394, 4.3, 4.5, 4.6. RFC 5649, section 6, is for keys of 192 bits: its algorithm is held against Wycheproof's. */
static void test_wrap_of_rfc_3394(void **state)
{
    static const char KEK[] = "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F";
    static const struct {
        const char *clear, *wrapped;
    } CASES[] = {
        {"00112233445566778899AABBCCDDEEFF", "64E8C3F9CE0F5BA263E9777905818A2A93C8191E7D6E8AE7"},
        {"00112233445566778899AABBCCDDEEFF0001020304050607",
         "A8F9BC1612C68B3FF6E6F4FBE30E71E4769C8B80A32CB8958CD5D17D6B254DA1"},
        {"00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F",
         "28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21"},
    };
    const struct secret_key kek = key_of(KEK);
    struct xmlenc *e = xmlenc_new(&kek, STR("trk.1"));
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        const struct octets clear = octets_of(str_z(CASES[i].clear)), wanted = octets_of(str_z(CASES[i].wrapped));
        struct buf xml = BUF_INIT(8192);
        assert_true(xmlenc_key(e, KEY_WRAP_KW, clear.b, clear.n, &xml));
        const struct octets got = cipher_of(&xml);
        assert_int_equal(got.n, wanted.n);
        assert_memory_equal(got.b, wanted.b, got.n);
        buf_free(&xml);
    }
    xmlenc_free(e);
}

/* --- Wycheproof --- */

struct vector {
    const struct json_value *test;
    struct str key;
    uint64_t tag_bits;
    bool valid;
};

static struct str text_of(const struct json_value *object, const char *name)
{
    const struct json_value *v = json_get(object, name);
    return v ? v->text : STR_MISSING;
}

static uint64_t number_of(const struct json_value *object, const char *name)
{
    uint64_t n = 0;
    (void)str_to_u64(text_of(object, name), UINT32_MAX, &n);
    return n;
}

/* Runs all tests whose key has `bits`, or up to so many where `shorter` is set; *run counts. False: no such file. */
static bool each_of(const char *file, bool shorter, void (*check)(const struct vector *v), unsigned *run)
{
    char path[4096];
    size_t at;
    const char *why, *folder = getenv("WYCHEPROOF");
    struct buf text = BUF_INIT(4u << 20);
    snprintf(path, sizeof path, "%s/%s", folder ? folder : TEST_ROOT "/../../shared/vectors/wycheproof", file);
    FILE *f = fopen(path, "rb");
    if (!f && folder)
        fail_msg("%s is not there", path);
    if (!f)
        return false;
    for (char *room; (room = buf_reserve(&text, 65536));) {
        const size_t n = fread(room, 1, 65536, f);
        text.n += n;
        if (!n)
            break;
    }
    fclose(f);
    struct json_doc *doc = json_read(buf_view(&text), &at, &why);
    if (!doc)
        fail_msg("%s: at %zu: %s", path, at, why);
    for (const struct json_value *g = json_get(json_root(doc), "testGroups")->first; g; g = g->next)
        for (const struct json_value *t = json_get(g, "tests")->first; t; t = t->next) {
            const bool valid = str_eq_z(text_of(t, "result"), "valid");
            const struct vector v = {t, text_of(t, "key"), number_of(g, "tagSize"), valid};
            if (v.key.n != 2 * KEY_BYTES && !(shorter && v.key.n < 2 * KEY_BYTES))
                continue;
            check(&v);
            ++*run;
        }
    json_free(doc);
    buf_free(&text);
    return true;
}

static void check_hmac(const struct vector *v)
{
    const struct secret_key key = padded(v->key);
    const struct octets text = octets_of(text_of(v->test, "msg")), tag = octets_of(text_of(v->test, "tag"));
    uint8_t mac[HASH_BYTES];
    assert_true(signature_hmac(&key, (struct str){(const char *)text.b, text.n}, mac));
    assert_int_equal(tag.n, v->tag_bits / 8);
    if (secret_equal(mac, tag.b, tag.n) != v->valid)
        fail_msg("HMAC %.*s", STR_FMT(text_of(v->test, "tcId")));
}

static void check_wrap(const struct vector *v, enum key_wrap wrap, struct str algorithm)
{
    const struct secret_key key = padded(v->key);
    const struct octets clear = octets_of(text_of(v->test, "msg")), cipher = octets_of(text_of(v->test, "ct"));
    struct xmlenc *e = xmlenc_new(&key, STR("trk.1"));
    struct buf xml = BUF_INIT(16384);
    uint8_t out[4096];
    size_t n = 0;
    const bool opened = xmlenc_open_key(e, algorithm, cipher.b, cipher.n, out, sizeof out, &n);
    if (opened != (v->valid && clear.n > 0))
        fail_msg("wrap %.*s", STR_FMT(text_of(v->test, "tcId")));
    if (opened) {
        assert_int_equal(n, clear.n);
        assert_memory_equal(out, clear.b, n);
        assert_true(xmlenc_key(e, wrap, clear.b, clear.n, &xml));
        const struct octets got = cipher_of(&xml);
        assert_int_equal(got.n, cipher.n);
        assert_memory_equal(got.b, cipher.b, got.n);
    }
    buf_free(&xml);
    xmlenc_free(e);
}

static void check_kw(const struct vector *v)
{
    check_wrap(v, KEY_WRAP_KW, STR(NS_XENC "kw-aes256"));
}

static void check_kwp(const struct vector *v)
{
    check_wrap(v, KEY_WRAP_KWP, STR(NS_XENC11 "kw-aes-256-pad"));
}

static unsigned gcm_of_our_layout;

/* XML Encryption knows one layout: an IV of 12 octets, a tag of 16, nothing beside the text. */
static void check_gcm(const struct vector *v)
{
    const struct secret_key key = padded(v->key);
    const struct octets iv = octets_of(text_of(v->test, "iv")), cipher = octets_of(text_of(v->test, "ct"));
    const struct octets tag = octets_of(text_of(v->test, "tag")), clear = octets_of(text_of(v->test, "msg"));
    struct buf all = BUF_INIT(16384), out = BUF_INIT(16384);
    if (iv.n != 12 || text_of(v->test, "aad").n)
        return;
    gcm_of_our_layout++;
    buf_bytes(&all, iv.b, iv.n);
    buf_bytes(&all, cipher.b, cipher.n);
    buf_bytes(&all, tag.b, tag.n);
    const bool opened = xmlenc_open_gcm(key.b, (const uint8_t *)all.p, all.n, &out);
    if (opened != v->valid)
        fail_msg("GCM %.*s", STR_FMT(text_of(v->test, "tcId")));
    assert_true(!opened || (out.n == clear.n && memcmp(out.p, clear.b, out.n) == 0));
    buf_free(&all);
    buf_free(&out);
}

static void test_wycheproof_files(void **state)
{
    unsigned hmac = 0, kw = 0, kwp = 0, gcm = 0;
    (void)state;
    if (!each_of("hmac_sha256.json", true, check_hmac, &hmac) || !each_of("aes_wrap.json", false, check_kw, &kw) ||
        !each_of("aes_kwp.json", false, check_kwp, &kwp) || !each_of("aes_gcm.json", false, check_gcm, &gcm))
        skip();
    assert_int_equal(hmac, 168);
    assert_int_equal(kw, 68);
    assert_int_equal(kwp, 94);
    assert_int_equal(gcm_of_our_layout, 48);
}

/* The same of the HMAC as a table in the tree: number, key, message, tag, verdict, what is special. */
static void test_wycheproof_hmac(void **state)
{
    struct buf text;
    unsigned count = 0;
    (void)state;
    read_case("cases/wycheproof/hmac_sha256.tsv", &text);
    for (char *line = text.p, *end; (end = strchr(line, '\n')); line = end + 1, count++) {
        struct str column[5];
        uint8_t mac[HASH_BYTES];
        for (size_t i = 0; i < 5; i++) {
            column[i] = (struct str){line, strcspn(line, "\t\n")};
            line += column[i].n + 1;
        }
        const struct secret_key key = padded(column[1]);
        const struct octets message = octets_of(column[2]), tag = octets_of(column[3]);
        assert_true(signature_hmac(&key, (struct str){(const char *)message.b, message.n}, mac));
        if (secret_equal(mac, tag.b, tag.n) != str_eq_z(column[4], "valid"))
            fail_msg("HMAC %.*s", STR_FMT(column[0]));
    }
    assert_int_equal(count, 162);
    buf_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hmac_of_rfc_4231), cmocka_unit_test(test_digest), cmocka_unit_test(test_wrap_of_rfc_3394),
        cmocka_unit_test(test_wycheproof_hmac),  cmocka_unit_test(test_wycheproof_files),
    };
    return cmocka_run_group_tests(tests, start_libraries, stop_libraries);
}
