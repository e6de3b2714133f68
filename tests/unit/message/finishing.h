/*
 * Finished replies for tests: payloads as the writer makes them, signed or left bare, and the tree's word for them.
 */
#ifndef TEST_MESSAGE_FINISHING_H
#define TEST_MESSAGE_FINISHING_H

#include "fixture.h"
#include "replies.h"

#include "message/finished.h"

#define TRK_ID STR("trk.1.alice")
#define INK_ID STR("ink.1.alice")
#define COUNT(a) (sizeof(a) / sizeof *(a))

/* A payload as the writer makes it. */
struct sample {
    enum kms_message message;
    int protect;
    enum key_wrap wrap;
    bool is_signed;
};

static inline void put_sample(const struct sample *of, struct buf *out)
{
    const struct secret_key trk = key_of(ALICE_TRK);
    struct xmlenc *enc = xmlenc_new(&trk, TRK_ID);
    struct kms_response_plan plan = {.user_uri = STR(REPLY_USER), .kms_uri = STR("kms.example.org"),
                                     .time = STR("2026-11-23T18:00:01Z"), .kms_id = STR("kms-01"),
                                     .client_req_url = STR("https://kms.example.org/?a=1&b=2"), .wrap = of->wrap,
                                     .enc = enc, .trk_id = TRK_ID,
                                     .signature_id = of->is_signed ? INK_ID : STR_MISSING};
    struct buf text;
    struct xml_doc *doc = NULL;
    struct kms_response r;
    struct detail why = {""};
    bool encrypted;
    plan.protect = of->protect;
    if (of->message == KMS_MESSAGE_ERROR) {
        plan.error_code = 403;
        plan.error_msg = STR("<No> & \"no\" \xC3\xA9");
    }
    put_reply(&text, of->message);
    *out = BUF_INIT(REPLY_MAX);
    assert_int_equal(xml_parse(buf_view(&text), &XML_LIMITS_REPLY, &doc, &why), REASON_OK);
    assert_int_equal(kms_response_read(doc, STR(REPLY_USER), STR_MISSING, &r, &why), REASON_OK);
    if (kms_response_write(&r, &plan, out, &encrypted, &why) != REASON_OK)
        fail_msg("%s", why.text);
    xml_free(doc);
    buf_free(&text);
    xmlenc_free(enc);
}

/* Signed as it is, or left bare. */
struct proof {
    struct buf text;
    struct xmlsig_made made;
    struct finished f;
};

static inline void finish(const struct buf *payload, bool is_signed, bool encrypted, struct proof *p)
{
    const struct secret_key ink = key_of(ALICE_INK);
    p->text = BUF_INIT(REPLY_MAX);
    p->f = (struct finished){buf_view(payload), is_signed ? &p->made : NULL, INK_ID, encrypted};
    const size_t from = is_signed ? xmlsig_response_begin(&p->text) : 0;
    buf_str(&p->text, buf_view(payload));
    if (is_signed)
        assert_true(xmlsig_response_end(&p->text, from, INK_ID, &ink, &p->made));
}

/* The tree's word for it; of what is signed, xmlsec1's too. */
static inline bool tree_holds(const struct proof *p, struct detail *why)
{
    const struct secret_key ink = key_of(ALICE_INK);
    const struct xmlsig_policy policy = {256, XMLSIG_C14N};
    const struct xml_signed *proof = NULL;
    const struct str text = buf_view(&p->text);
    struct xml_doc *doc = NULL;
    bool holds = false;
    if (!p->f.made)
        return kms_response_validate(text, p->f.encrypted, why) == REASON_OK;
    if (kms_response_validate_signed(text, p->f.hashed, p->f.encrypted, &holds, why) != REASON_OK || !holds ||
        xml_parse(text, &XML_LIMITS_PROTECTED, &doc, why) != REASON_OK)
        return false;
    const enum reason r = xmlsig_verify(doc, &policy, &ink, &proof, why);
    xml_free(doc);
    return r == REASON_OK;
}

#endif
