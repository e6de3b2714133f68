#include "study/record.h"

#include <stdlib.h>

#include "base/limits.h"

struct record_in {
    const struct json_value *root;
    struct detail *why; /* filled at the first fault */
    bool bad;
};

static void record_fault(struct record_in *in, const char *key, const char *expected)
{
    if (!in->bad)
        detail_set(in->why, "`%s`: expected %s", key, expected);
    in->bad = true;
}

static const struct json_value *member(struct record_in *in, const struct json_value *of, const char *key,
                                       enum json_kind kind, const char *expected)
{
    const struct json_value *v = of ? json_get(of, key) : NULL;
    if (v && v->kind != kind) {
        record_fault(in, key, expected);
        return NULL;
    }
    return v;
}

static struct str record_text(struct record_in *in, const struct json_value *of, const char *key)
{
    const struct json_value *v = member(in, of, key, JSON_STRING, "a text");
    return v ? v->text : STR_MISSING;
}

static const struct json_value *object(struct record_in *in, const char *key)
{
    return member(in, in->root, key, JSON_OBJECT, "an object");
}

static enum form read_form(struct record_in *in)
{
    const struct str s = record_text(in, in->root, "form");
    for (unsigned f = FORM_SIGNED; f <= FORM_EMPTY; f *= 2)
        if (str_eq_z(s, form_name((enum form)f)))
            return (enum form)f;
    if (s.p)
        record_fault(in, "form", "signed, unsigned or empty");
    return 0;
}

static void read_checks(struct record_in *in, struct record *out)
{
    const struct json_value *checks = object(in, "checks");
    for (int c = 0; c < CHECK_COUNT; c++) {
        const struct str s = record_text(in, checks, check_name((enum check)c));
        for (int r = CHECK_PASS; r <= CHECK_SKIP; r++)
            if (str_eq_z(s, check_result_name((enum check_result)r)))
                out->checks[c] = (enum check_result)r;
        if (s.p && out->checks[c] == CHECK_NONE)
            record_fault(in, check_name((enum check)c), "pass, fail, shadow_fail, off or skip");
    }
}

static void read_shadow(struct record_in *in, struct record *out)
{
    const struct json_value *list = member(in, in->root, "shadow", JSON_ARRAY, "a list of reasons");
    size_t n = 0;
    for (const struct json_value *v = list ? list->first : NULL; v; v = v->next)
        if (n == SHADOW_COUNT || v->kind != JSON_STRING || !reason_parse(v->text, &out->shadow[n++]))
            record_fault(in, "shadow", "a list of reasons, at most one for the form and one for each check");
}

static void read_verdict(struct record_in *in, struct record *out)
{
    const struct str verdict = record_text(in, in->root, "verdict"), reason = record_text(in, in->root, "reason");
    bool has_zone = false;
    out->accepted = str_eq_z(verdict, "accept");
    if (!out->accepted && !str_eq_z(verdict, "reject"))
        record_fault(in, "verdict", "accept or reject");
    if (!reason_parse(reason, &out->reason))
        record_fault(in, "reason", "one of the gateway's reasons");
    if (!time_parse(record_text(in, in->root, "time"), &out->time_us, &has_zone) || !has_zone)
        record_fault(in, "time", "a time with a zone");
    const struct json_value *proven = member(in, in->root, "proven", JSON_BOOL, "true or false");
    out->has_proven = proven != NULL;
    out->proven = proven && str_eq_z(proven->text, "true");
}

static void read_reply(struct record_in *in, struct record *out)
{
    const struct json_value *response = object(in, "response");
    const struct json_value *status = member(in, object(in, "upstream"), "status", JSON_NUMBER, "a number");
    const struct str message = record_text(in, response, "message");
    uint64_t n = 0;
    if (status && !str_to_u64(status->text, 999, &n))
        record_fault(in, "upstream.status", "an HTTP status");
    out->upstream_status = (int)n;
    out->response_rule = record_text(in, response, "rule");
    out->message = -1;
    for (int m = KMS_MESSAGE_NONE; m <= KMS_MESSAGE_ERROR; m++)
        if (str_eq_z(message, kms_message_name((enum kms_message)m)))
            out->message = m;
}

static void read_bits(struct record_in *in, const struct json_value *claims, struct record *out)
{
    enum { BITS_MAX = 4096 };
    const struct json_value *bits = member(in, claims, "hmac_bits", JSON_NUMBER, "a number");
    uint64_t n = 0;
    if (bits && !str_to_u64(bits->text, BITS_MAX, &n))
        record_fault(in, "hmac_bits", "a number of bits");
    out->claims.hmac_bits = (unsigned)n;
}

static void read_c14n(struct record_in *in, const struct json_value *claims, struct record *out)
{
    static const char *const NAMES[] = {"c14n",          "exc-c14n",          "c14n11",
                                        "c14n-comments", "exc-c14n-comments", "c14n11-comments"}; /* by bit */
    const struct str name = record_text(in, claims, "c14n");
    for (unsigned i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
        if (str_eq_z(name, NAMES[i]))
            out->claims.c14n = 1u << i;
    if (name.p && !out->claims.c14n)
        record_fault(in, "c14n", "a canonicalization as rules name it");
}

bool record_read(struct str line, struct record *out, struct detail *why)
{
    size_t at = 0;
    const char *what = NULL;
    struct record_in in = {.why = why};
    *out = (struct record){.doc = json_read(line, &at, &what), .message = -1};
    if (!out->doc) {
        detail_set(why, "no JSON: %s at column %zu", what, at + 1);
        return false;
    }
    in.root = json_root(out->doc);
    if (in.root->kind != JSON_OBJECT) {
        detail_set(why, "found no JSON object, expected a decision");
        return false;
    }
    const struct json_value *claims = object(&in, "claims");
    read_verdict(&in, out);
    out->form = read_form(&in);
    out->id = record_text(&in, in.root, "id");
    out->path = record_text(&in, in.root, "path");
    out->rule = record_text(&in, in.root, "rule");
    out->user = record_text(&in, in.root, "user");
    out->client_id = record_text(&in, in.root, "client_id");
    out->device_id = record_text(&in, in.root, "device_id");
    out->key_id = record_text(&in, in.root, "key_id");
    out->key_type = record_text(&in, in.root, "key_type");
    out->claims.kms_uri = record_text(&in, claims, "kms_uri");
    out->claims.time = record_text(&in, claims, "time");
    out->claims.client_req_url = record_text(&in, claims, "client_req_url");
    out->claims.trk_id = record_text(&in, claims, "trk_id");
    out->claims.signature_id = record_text(&in, claims, "signature_id");
    out->claims.version = record_text(&in, claims, "version");
    read_bits(&in, claims, out);
    read_c14n(&in, claims, out);
    const struct json_value *captured = member(&in, in.root, "captured", JSON_BOOL, "true or false");
    out->captured = captured && str_eq_z(captured->text, "true");
    out->expected_url = record_text(&in, in.root, "expected_url");
    out->rules_hash = record_text(&in, in.root, "rules");
    const struct str source = record_text(&in, in.root, "source");
    if (source.p && !ip_parse(source, &out->source))
        out->source = (struct ip){.known = false};
    read_checks(&in, out);
    read_shadow(&in, out);
    read_reply(&in, out);
    return !in.bad;
}

void record_free(struct record *r)
{
    json_free(r->doc);
    r->doc = NULL;
}

/* Texts are cut to so many bytes, and never inside a character, which has up to four. */
bool record_cut(struct str t)
{
    return t.n + 3 >= LIMIT_DECISION_TEXT;
}
