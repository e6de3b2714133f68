/*
 * Any body of a request, judged under a strict rule, a lenient one and one that lets everything through.
 *
 * What must hold: nobody is let through by the strict rule whose signature xmlsec does not find valid; the same bytes
 * pass once; what goes to the upstream is a KmsRequest; a refusal has a body; the decision is JSON; `internal` is no
 * answer to anything that a client can send. A request in the profile is then signed by xmlsec, which finds the way
 * past the signature that the fuzzer cannot: what xmlsec signs, we verify.
 */
#include "asking.h"
#include "by_xmlsec.h"

#define SETS_BEGIN "version: 1\nkms: { uris: [kms.example.org, \"http://10.0.0.1:8080\"] }\n"
#define RULES_END "responses: [{ id: default }]\n"
static const char *const RULES[] = {
    SETS_BEGIN "requests: [{ id: everyone }]\n" RULES_END,
    SETS_BEGIN "errors: { detail: reason }\nrequests:\n"
                "  - id: lenient\n    why: to reach all code\n    accept: [signed, unsigned, empty]\n    checks:\n"
                "      signature: { min_hmac_bits: 128, canonicalization: [c14n, exc-c14n, c14n11] }\n"
                "      kms_uri: { compare: host }\n      time: { past: 7d, future: 7d, assume_zone: \"+01:00\" }\n"
                "      client_req_url: { compare: normalized }\n"
                "      path_user: { also: [\"sip:group*\"] }\n" RULES_END,
    SETS_BEGIN "requests:\n  - id: shadow\n    why: to reach all code\n    accept: [signed, unsigned, empty]\n"
                "    checks: { schema: shadow, signature: shadow, key_policy: shadow, kms_uri: shadow, time: off,\n"
                "              client_req_url: { mode: shadow, compare: prefix }, path_user: shadow, replay: shadow }\n"
                "    forward: { assert_unproven: true,\n"
                "               headers: { X-User: \"{user}\", X-Key: \"{key_id}\" } }\n" RULES_END,
};
enum { STRICT, LENIENT, SHADOW, RULE_SETS };
enum { ROOM = 1 << 22 };

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    asking_begin(RULES, RULE_SETS); /* the libraries, xmlsec among them; the Time is that of the seeds */
    atexit(asking_end);
    return 0;
}

static void check_decision(struct judgement *j)
{
    struct buf line BUF_CLEANUP = BUF_INIT(ROOM);
    size_t at;
    const char *why = "";
    decision_json(&j->decision, &line);
    struct json_doc *doc = line.failed ? NULL : json_read(buf_view(&line), &at, &why);
    must(doc, "%s: %s", why, line.p);
    json_free(doc);
}

static void check_forward(struct judgement *j, struct str body)
{
    struct gate_outgoing out;
    struct xml_doc *doc = NULL;
    const enum reason r = gate_forward(j, body, &out);
    must(r == REASON_OK || r == REASON_XML_INVALID, "%s", reason_name(r)); /* invalid: a control in a header's value */
    if (r == REASON_OK && j->form != FORM_EMPTY) {
        must(xml_parse(buf_view(&out.body), &XML_LIMITS_REPLY, &doc, NULL) == REASON_OK, "%s", out.body.p);
        must(xml_root(doc) == KMS_ROOT_REQUEST, "%s", out.body.p);
        xml_free(doc);
    }
    gate_outgoing_free(&out);
}

/* The reason; what comes of it is checked. */
static enum reason judge(int set, struct str body)
{
    const struct gate_head head = {.method = STR("POST"), .target = STR("/keymanagement/identity/v1/keyprov"),
                                   .content_type = STR("application/xml")};
    asking.gate.rules = asking.rules[set];
    struct judgement *j = judgement_new(&asking.gate, "fuzz");
    must(j && gate_head(j, &head) == REASON_OK, "head");
    const enum gate_action action = gate_request(j, body, asking.now_us);
    const enum reason r = j->decision.reason;
    must(r != REASON_INTERNAL, "%s", j->decision.found[CHECK_SIGNATURE].text);
    must((action == GATE_FORWARD) == (r == REASON_OK), "%s", reason_name(r));
    check_decision(j);
    if (action == GATE_FORWARD) {
        must(set != STRICT || j->proven, "let through unproven");
        must(!j->proven || !str_eq_z(j->signer->id, "ink.1.alice") || xmlsec_accepts(body, &asking.ink),
             "xmlsec refuses");
        check_forward(j, body);
    } else {
        struct gate_response out;
        gate_refuse(j, r, 0, asking.now_us, &out);
        must(out.body.n > 0 && out.status >= 400, "no refusal");
        buf_free(&out.body);
    }
    judgement_free(j);
    return r;
}

static bool arrived;

static void judge_all(struct str body)
{
    for (int set = 0; set < RULE_SETS; set++) {
        asking.gate.replay = replay_memory_new(64, asking.now_us - US_PER_S,
                                               &(struct replay_settings){.past_us = 60 * US_PER_S});
        must(asking.gate.replay, "no memory");
        const enum reason r = judge(set, body);
        arrived |= set == STRICT && r == REASON_OK;
        if (set == STRICT && r == REASON_OK)
            must(judge(set, body) == REASON_REPLAY_SEEN, "let through twice");
        replay_free(asking.gate.replay);
    }
}

/* Alice's signature over it by xmlsec, when the signature's form is one that we take. */
static void sign_and_judge(struct str body)
{
    const struct xmlsig_policy lenient = {128, XMLSIG_C14N | XMLSIG_EXC_C14N | XMLSIG_C14N11};
    struct xml_doc *ours = NULL;
    struct xmlsig_info info;
    xmlNodePtr signature;
    xmlChar *text = NULL;
    int n = 0;
    if (xml_parse(body, &XML_LIMITS_REQUEST, &ours, NULL) != REASON_OK)
        return;
    const bool ready = xml_root(ours) == KMS_ROOT_SIGNED_REQUEST &&
                       xmlsig_read(ours, &lenient, &info, NULL) == REASON_OK;
    xml_free(ours);
    if (!ready)
        return;
    xmlDocPtr doc = read_for_xmlsec(body, &signature);
    xmlSecDSigCtxPtr ctx = context_of(&asking.ink);
    if (signature && xmlSecDSigCtxSign(ctx, signature) == 0)
        xmlDocDumpMemory(doc, &text, &n);
    xmlSecDSigCtxDestroy(ctx);
    xmlFreeDoc(doc);
    if (!text)
        return;
    const struct str signed_text = {(const char *)text, (size_t)n};
    const struct xml_signed *proof = NULL;
    must(xml_parse(signed_text, &XML_LIMITS_REQUEST, &ours, NULL) == REASON_OK, "%s", text);
    must(xmlsig_read(ours, &lenient, &info, NULL) == REASON_OK, "%s", text);
    must(xmlsig_verify(ours, &lenient, &asking.ink, &proof, NULL) == REASON_OK, "xmlsec signs what we refuse: %s",
         text);
    xml_free(ours);
    judge_all(signed_text);
    xmlFree(text);
}

/* Empty: it is left out. */
static struct str next_text(struct str *s)
{
    const struct str text = fuzz_next(s);
    return text.n ? text : STR_MISSING;
}

/* A right request of Alice's, with the bytes as the values that are hers to choose: a length, so many bytes. `rest`:
 * what is left stands behind it. */
static void make_and_judge(struct str s, bool rest)
{
    struct buf request BUF_CLEANUP = BUF_INIT(ROOM), body BUF_CLEANUP = BUF_INIT(ROOM);
    const struct str client = next_text(&s), device = next_text(&s);
    const struct kms_request fields = {.user_uri = STR(ALICE), .kms_uri = STR("kms.example.org"),
                                       .time = STR("2026-11-23T18:00:00Z"), .client_id = client, .device_id = device,
                                       .client_req_url = STR("http://127.0.0.1:8080/keymanagement/identity/v1/keyprov"),
                                       .trk_id = STR("trk.1.alice"), .signature_id = STR("ink.1.alice")};
    kms_request_write(&fields, &request);
    if (request.failed || !xmlsig_sign(buf_view(&request), STR("ink.1.alice"), &asking.ink, &body))
        return;
    if (rest)
        buf_str(&body, s);
    if (!body.failed)
        judge_all(buf_view(&body));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct str body = fuzz_view(data, size);
    arrived = false;
    if (size && data[0] == 1) {
        make_and_judge((struct str){body.p + 1, size - 1}, true);
        fuzz_arrived(arrived);
        return 0;
    }
    judge_all(body);
    sign_and_judge(body);
    if (!arrived)
        make_and_judge(body, false);
    fuzz_arrived(arrived);
    return 0;
}
