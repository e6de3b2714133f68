/* The finished reply in one pass: what it must take, what it must leave to the tree, what it must refuse. */
#include "finishing.h"

/* What the gateway sends is proven in one pass, or all of this is for nothing. */
static void test_usual_replies(void **state)
{
    static const enum kms_message MESSAGE[] = {KMS_MESSAGE_NONE, KMS_MESSAGE_INIT, KMS_MESSAGE_KEYPROV,
                                               KMS_MESSAGE_CERTCACHE, KMS_MESSAGE_ERROR};
    static const int PROTECT[] = {PROTECT_NONE, PROTECT_KEYS, PROTECT_MESSAGE};
    static const enum key_wrap WRAP[] = {KEY_WRAP_AUTO, KEY_WRAP_KWP, KEY_WRAP_GCM};
    struct detail why = {""};
    (void)state;
    for (size_t i = 0; i < COUNT(MESSAGE) * COUNT(PROTECT) * COUNT(WRAP) * 2; i++) {
        const struct sample of = {MESSAGE[i / 2 % COUNT(MESSAGE)], PROTECT[i / 2 / COUNT(MESSAGE) % COUNT(PROTECT)],
                                  WRAP[i / 2 / COUNT(MESSAGE) / COUNT(PROTECT)], i % 2 == 0};
        struct proof p;
        struct buf payload;
        put_sample(&of, &payload);
        finish(&payload, of.is_signed, of.protect != PROTECT_NONE, &p);
        if (!finished_holds(buf_view(&p.text), &p.f))
            fail_msg("not proven: %s", p.text.p);
        if (!tree_holds(&p, &why))
            fail_msg("%s: %s", why.text, p.text.p);
        p.f.encrypted = true;
        const bool clear = of.message == KMS_MESSAGE_KEYPROV && of.protect == PROTECT_NONE;
        assert_int_equal(finished_holds(buf_view(&p.text), &p.f), !clear);
        buf_free(&p.text);
        buf_free(&payload);
    }
}

/* What one pass leaves to the tree. */
static void test_left_to_the_tree(void **state)
{
    const struct sample lookup = {KMS_MESSAGE_LOOKUP, PROTECT_KEYS, KEY_WRAP_AUTO, true},
                        init = {KMS_MESSAGE_INIT, PROTECT_KEYS, KEY_WRAP_AUTO, true};
    struct detail why;
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct proof p;
        struct buf payload;
        put_sample(i == 0 ? &lookup : &init, &payload);
        if (i == 1)
            replace(&payload, "</KmsResponse>", "<x:a xmlns:x=\"urn:x\">1</x:a></KmsResponse>");
        if (i == 2)
            replace(&payload, "<UserUri>", "<UserUri xmlns:xsi=\"" NS_XSI "\" xsi:schemaLocation=\"a b\">");
        finish(&payload, true, true, &p);
        assert_false(finished_holds(buf_view(&p.text), &p.f));
        if (!tree_holds(&p, &why))
            fail_msg("%s: %s", why.text, p.text.p);
        buf_free(&p.text);
        buf_free(&payload);
    }
}

/* Each is one change of a payload that is then signed: what the signature is over is wrong. */
static void test_wrong_payloads(void **state)
{
    static const struct {
        const char *find, *put;
    } FAULTS[] = {
        {"Id=\"xmldoc\"", "Id=\"xmldoc2\""},
        {" Id=\"xmldoc\"", ""},
        {"Version=\"1.0.0\"><UserUri>", "Version=\"1.1.0\"><UserUri>"},
        {" Id=\"xmldoc\" Version=\"1.0.0\"", " Version=\"1.0.0\" Id=\"xmldoc\""},
        {"<KmsKeySet Id=\"set\"", "<KmsKeySet Id=\"xmldoc\""},
        {"<KmsKeySet Id=\"set\"", "<KmsKeySet Id=\"a\" Id=\"b\""},
        {"<KmsKeySet Id=\"set\"", "<KmsKeySet Id=\"\""},
        {"<KmsKeySet Id=\"set\" Version=\"1.1.0\">", "<KmsKeySet Version=\"1.1.0\" Id=\"set\">"},
        {"<KmsKeySet Id=\"set\" Version=\"1.1.0\">", "<KmsKeySet Version=\"1.0.0\">"},
        {"<KmsKeySet Id=\"set\" Version=\"1.1.0\">", "<KmsKeySet>"},
        {"<KmsKeySet Id=\"set\"", "<KmsKeySet Id='set'"},
        {"<KmsKeySet Id=\"set\"", "<KmsKeySet  Id=\"set\""},
        {"<KmsKeySet Id", "<KmsKeySet Extra=\"\" Id"},
        {"<KmsKeySet Id", "<KmsKeySet CacheNum=\"1\" Id"},
        {"<KmsId>", "<KmsId >"},
        {"<KmsId>kms-01</KmsId>", "<KmsId>kms-01</KmsId> "},
        {"<KmsId>kms-01</KmsId>", "<KmsId>kms-01</KmsId>x"},
        {"<KmsId>kms-01</KmsId>", "<KmsId>kms-01</KmsId><!-- -->"},
        {"<KmsId>kms-01</KmsId>", "<KmsId>kms-01</KmsId><?x?>"},
        {"<KmsId>kms-01</KmsId>", "<KmsId><![CDATA[kms-01]]></KmsId>"},
        {"<KmsId>kms-01</KmsId>", "<KmsId>kms&#45;01</KmsId>"},
        {"<KmsId>kms-01</KmsId>", "<KmsId>kms-01\r\n</KmsId>"},
        {"<KmsId>kms-01</KmsId>", "<KmsId>kms>01</KmsId>"},
        {"<KmsId>kms-01</KmsId>", "<KmsId>kms&quot;01</KmsId>"},
        {"<KmsId>kms-01</KmsId>", "<KmsId>\xC0\x80</KmsId>"},
        {"<KmsId>kms-01</KmsId>", "<KmsId>\xEF\xBF\xBF</KmsId>"},
        {"<KmsId>kms-01</KmsId>", "<KmsId>\x01</KmsId>"},
        {"<KmsId>kms-01</KmsId>", "<KmsId><KmsId>kms-01</KmsId></KmsId>"},
        {"<KmsId>kms-01</KmsId>", "<KmsId>kms-01</KmsId><KmsId>kms-01</KmsId>"},
        {"<KmsId>kms-01</KmsId>", "<KmsId2>kms-01</KmsId2>"},
        {"<KmsId>kms-01</KmsId>", "<KmsId xmlns=\"urn:x\">kms-01</KmsId>"},
        {"<KmsId>kms-01</KmsId><ClientReqUrl>https://kms.example.org/?a=1&amp;b=2</ClientReqUrl>",
         "<ClientReqUrl>https://kms.example.org/</ClientReqUrl><KmsId>kms-01</KmsId>"},
        {"<ClientReqUrl>https://kms.example.org/?a=1&amp;b=2", "<ClientReqUrl>https://kms.example.org/&lt;"},
        {"<ClientReqUrl>https://kms.example.org/?a=1&amp;b=2", "<ClientReqUrl>https://a b"},
        {"<Time>2026-11-23T18:00:01Z</Time>", ""},
        {"<Time>2026-11-23T18:00:01Z</Time>", "<Time>now</Time>"},
        {"<Time>2026-11-23T18:00:01Z</Time>", "<Time>2026-11-23 18:00:01Z</Time>"},
        {"<KeyPeriodNo>1514</KeyPeriodNo>", "<KeyPeriodNo>1514</KeyPeriodNo><KeyPeriodNo>1514</KeyPeriodNo>"},
        {"<KeyPeriodNo>1514", "<KeyPeriodNo>x"},
        {"<KeyPeriodNo>1514", "<KeyPeriodNo>"},
        {"<UserID>ABCDEF</UserID>", ""},
        {"</KeyPeriodNo>", "</KeyPeriodNo><Revoked>maybe</Revoked>"},
        {"</KmsMessage>", "</KmsMessage><KmsError><ErrorCode>1</ErrorCode><ErrorMsg>m</ErrorMsg></KmsError>"},
        {"</KmsMessage>", "</KmsMessage><KmsMessage></KmsMessage>"},
        {"</KmsKeyProv>", "</KmsKeyProv><KmsKeyProv Version=\"1.0.0\"></KmsKeyProv>"},
        {"<TrK-ID>trk.1.alice</TrK-ID>", ""},
        {"<TrK-ID>trk.1.alice</TrK-ID>", "<TrK-ID>trk.2.alice</TrK-ID>"},
        {"<Signature-ID>ink.1.alice</Signature-ID>", ""},
        {"<Signature-ID>ink.1.alice</Signature-ID>", "<Signature-ID>ink.2.alice</Signature-ID>"},
        {"<ds:KeyName>trk.1.alice", "<ds:KeyName>trk.2.alice"},
        {"<ds:KeyName>trk.1.alice", "<ds:KeyName>"},
        {" xsi:type=\"EncKeyContentType\">", ">"},
        {" xsi:type=\"EncKeyContentType\">", " xsi:type=\"KeyContentType\">"},
        {" xmlns:xsi=\"" NS_XSI "\"", ""},
        {" xmlns:xsi=\"" NS_XSI "\"", " xmlns:xsi=\"" NS_XENC "\""},
        {" xmlns:xsi=\"" NS_XSI "\" Version=\"1.0.0\"",
         " xmlns:xsi=\"" NS_XSI "\" Version=\"1.0.0\" xsi:type=\"KmsKeyProvTkIkType\""},
        {"#kw-aes256", "#kw-aes128"},
        {"#kw-aes-256-pad", "#aes256-gcm"}, /* no such number of octets */
        {"<xenc:CipherValue>", "<xenc:CipherValue>AAAA"},
        {"<xenc:CipherValue>", "<xenc:CipherValue> "},
        {"<xenc:CipherData>", "<xenc:CipherData><xenc:CipherReference URI=\"x\"></xenc:CipherReference>"},
        {"</xenc:EncryptedKey>", "</xenc:EncryptedKey>00"},
        {"</KmsResponse>", "<KmsId>kms-01</KmsId></KmsResponse>"},
        {"</KmsResponse>", "</KmsResponse> "},
        {"</KmsResponse>", "</KmsResponse><KmsResponse></KmsResponse>"},
        {"</KmsResponse>", ""},
        {"</KmsResponse>", "</KmsResponsE>"},
        {"<KmsResponse ", " <KmsResponse "},
    };
    const struct sample of = {KMS_MESSAGE_KEYPROV, PROTECT_KEYS, KEY_WRAP_AUTO, true};
    (void)state;
    for (size_t i = 0; i < COUNT(FAULTS); i++) {
        struct proof p;
        struct buf payload;
        put_sample(&of, &payload);
        replace(&payload, FAULTS[i].find, FAULTS[i].put);
        finish(&payload, true, true, &p);
        if (finished_holds(buf_view(&p.text), &p.f))
            fail_msg("taken: %s -> %s", FAULTS[i].find, FAULTS[i].put);
        buf_free(&p.text);
        buf_free(&payload);
    }
}

/* A key content in clear before each tag there is, as itself and where it would replace what stands there. */
static void test_clear_keys_everywhere(void **state)
{
    static const struct {
        const char *name;
        size_t octets;
    } KEYS[] = {{"UserDecryptKey", RSK_OCTETS}, {"UserSigningKeySSK", SSK_OCTETS}, {"UserPubTokenPVT", PVT_OCTETS},
                {"NewTransportKey", SSK_OCTETS}, {"NewIntegrityKey", SSK_OCTETS}};
    static const char *const TYPES[] = {"", " xsi:type=\"KeyContentType\"", " xsi:type=\"EncKeyContentType\""};
    static const struct sample OF[] = {{KMS_MESSAGE_KEYPROV, PROTECT_KEYS, KEY_WRAP_AUTO, true},
                                       {KMS_MESSAGE_INIT, PROTECT_KEYS, KEY_WRAP_AUTO, true},
                                       {KMS_MESSAGE_CERTCACHE, PROTECT_KEYS, KEY_WRAP_AUTO, false},
                                       {KMS_MESSAGE_ERROR, PROTECT_KEYS, KEY_WRAP_AUTO, true}};
    unsigned places = 0;
    (void)state;
    for (size_t o = 0; o < COUNT(OF); o++) {
        struct buf payload;
        put_sample(&OF[o], &payload);
        for (size_t k = 0; k < COUNT(KEYS) * COUNT(TYPES); k++) {
            struct buf key = BUF_INIT(4096);
            const size_t name = k % COUNT(KEYS);
            buf_printf(&key, "<%s%s>", KEYS[name].name, TYPES[k / COUNT(KEYS)]);
            for (size_t i = 0; i < KEYS[name].octets; i++)
                buf_hex(&key, &(uint8_t){key_octet('s', i)}, 1, true);
            buf_printf(&key, "</%s>", KEYS[name].name);
            for (const char *at = payload.p; (at = strchr(at, '<')); at++, places++) {
                struct buf bad = BUF_INIT(REPLY_MAX);
                struct proof p;
                buf_bytes(&bad, payload.p, (size_t)(at - payload.p));
                buf_str(&bad, buf_view(&key));
                buf_z(&bad, at);
                finish(&bad, OF[o].is_signed, true, &p);
                if (finished_holds(buf_view(&p.text), &p.f))
                    fail_msg("taken: %s", bad.p);
                buf_free(&p.text);
                buf_free(&bad);
            }
            buf_free(&key);
        }
        buf_free(&payload);
    }
    assert_true(places > 1000);
}

/* What is around the payload, and what is not what was hashed and MACed. */
static void test_other_than_signed(void **state)
{
    static const struct {
        const char *find, *put;
    } FAULTS[] = {
        {"<SignedKmsResponse ", "<SignedKmsResponse Id=\"xmldoc\" "},
        {"<SignedKmsResponse ", " <SignedKmsResponse "},
        {"<UserUri>sip:alice", "<UserUri>sip:alicf"},
        {"</KmsResponse><Signature", "</KmsResponse> <Signature"},
        {"</KmsResponse><Signature", "</KmsResponse>x<Signature"},
        {"</KmsResponse><Signature", "</KmsResponse><KmsId>kms-01</KmsId><Signature"},
        {"</KmsResponse><Signature", "</KmsResponse><KmsResponse xmlns=\"" NS_KMS "\"/><Signature"},
        {"xml-c14n-20010315\"", "xml-c14n-20010316\""},
        {"xmldsig-more#hmac-sha256", "xmldsig-more#hmac-sha224"},
        {"</SignatureMethod>", "<HMACOutputLength>128</HMACOutputLength></SignatureMethod>"},
        {"URI=\"#xmldoc\"", "URI=\"\""},
        {"xmlenc#sha256", "xmlenc#sha512"},
        {"<DigestValue>", "<DigestValue> "},
        {"<KeyName>ink.1.alice", "<KeyName>ink.2.alice"},
        {"</KeyName></KeyInfo>", "</KeyName><KeyName>x</KeyName></KeyInfo>"},
        {"</Signature></SignedKmsResponse>", "</Signature><Signature></Signature></SignedKmsResponse>"},
        {"</SignedKmsResponse>", "</SignedKmsResponse>\n"},
        {"</SignedKmsResponse>", ""},
    };
    const struct sample of = {KMS_MESSAGE_KEYPROV, PROTECT_KEYS, KEY_WRAP_AUTO, true};
    struct proof p;
    struct buf payload;
    (void)state;
    put_sample(&of, &payload);
    finish(&payload, true, true, &p);
    for (size_t i = 0; i < COUNT(FAULTS); i++) {
        struct buf bad = BUF_INIT(REPLY_MAX);
        buf_str(&bad, buf_view(&p.text));
        replace(&bad, FAULTS[i].find, FAULTS[i].put);
        if (finished_holds(buf_view(&bad), &p.f))
            fail_msg("taken: %s -> %s", FAULTS[i].find, FAULTS[i].put);
        buf_free(&bad);
    }
    assert_true(finished_holds(buf_view(&p.text), &p.f));
    for (unsigned bit = 0; bit < 256; bit += 37) {
        p.made.digest[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_false(finished_holds(buf_view(&p.text), &p.f));
        p.made.digest[bit / 8] ^= (uint8_t)(1u << bit % 8);
        p.made.mac[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_false(finished_holds(buf_view(&p.text), &p.f));
        p.made.mac[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    for (size_t i = 0; i < p.made.info_n; i++) {
        p.made.info[i] ^= 1;
        assert_false(finished_holds(buf_view(&p.text), &p.f));
        p.made.info[i] ^= 1;
    }
    p.f.key_id = STR("ink.2.alice");
    assert_false(finished_holds(buf_view(&p.text), &p.f));
    p.f.key_id = STR("");
    assert_false(finished_holds(buf_view(&p.text), &p.f));
    p.f.key_id = INK_ID;
    assert_true(finished_holds(buf_view(&p.text), &p.f));
    p.f.made = NULL; /* nobody signs: then neither envelope nor Signature-ID */
    assert_false(finished_holds(buf_view(&p.text), &p.f));
    assert_false(finished_holds(p.f.hashed, &p.f));
    assert_false(finished_holds(STR_MISSING, &p.f));
    buf_free(&p.text);
    buf_free(&payload);
}

/* No byte beyond the text is read, however it is cut: the sanitizer looks. */
static void test_cut(void **state)
{
    const struct sample of = {KMS_MESSAGE_KEYPROV, PROTECT_KEYS, KEY_WRAP_AUTO, true};
    struct proof p;
    struct buf payload;
    (void)state;
    put_sample(&of, &payload);
    finish(&payload, true, true, &p);
    for (size_t n = 0; n < p.text.n; n++) {
        char *cut = malloc(n ? n : 1);
        assert_non_null(cut);
        memcpy(cut, p.text.p, n);
        assert_false(finished_holds((struct str){cut, n}, &p.f));
        free(cut);
    }
    buf_free(&p.text);
    buf_free(&payload);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_usual_replies),         cmocka_unit_test(test_left_to_the_tree),
        cmocka_unit_test(test_wrong_payloads),        cmocka_unit_test(test_clear_keys_everywhere),
        cmocka_unit_test(test_other_than_signed),     cmocka_unit_test(test_cut),
    };
    unsetenv("TESTED_REPLY_WAY"); /* both ways are asked here, whatever the suite is told to take */
    return cmocka_run_group_tests(tests, start_libraries, stop_libraries);
}
