#include <string.h>

#include "base/json.h"
#include "base/limits.h"
#include "base/text.h"
#include "base/uri.h"
#include "gate/gate.h"

enum { HEADERS_MAX = sizeof((struct gate_outgoing *)0)->headers / sizeof *((struct gate_outgoing *)0)->headers };

/* What a header's value may hold. The first three say who asks: of proven requests only, unless the rule vouches. */
enum { HOLDER_USER, HOLDER_CLIENT, HOLDER_DEVICE, HOLDER_KEY, HOLDER_RULE, HOLDER_COUNT };
static const char *const HOLDERS[HOLDER_COUNT] = {"{user}", "{client_id}", "{device_id}", "{key_id}", "{rule}"};

static struct str holder_value(const struct judgement *j, int holder)
{
    switch (holder) {
    case HOLDER_USER:
        return j->request.user_uri;
    case HOLDER_CLIENT:
        return j->request.client_id;
    case HOLDER_DEVICE:
        return j->request.device_id;
    case HOLDER_KEY:
        return j->signer ? j->signer->id : STR_MISSING;
    default:
        return str_z(j->rule->id);
    }
}

/* The holder that `text` begins with; HOLDER_COUNT: none. */
static int holder_at(struct str text)
{
    int h = 0;
    while (h < HOLDER_COUNT && !str_starts(text, str_z(HOLDERS[h])))
        h++;
    return h;
}

/* No C0, no DEL, no C1: nothing that could end a header or start another one, in any server's reading. */
static bool fits_header(struct str s)
{
    for (size_t i = 0; i < s.n; i++) {
        const unsigned char c = (unsigned char)s.p[i];
        if (c < 0x20 || c == 0x7f)
            return false;
        if (c == 0xc2 && i + 1 < s.n && (unsigned char)s.p[i + 1] < 0xa0)
            return false;
    }
    return true;
}

/* A value within other text: nothing in it can end it there, or look like the text around it. */
static void put_encoded(struct buf *out, struct str value)
{
    uri_percent_encode(value, "-._~:@/+", out);
}

static enum reason forward_fill(const struct judgement *j, struct str text, struct buf *out)
{
    const int first = holder_at(text);
    const bool alone = first < HOLDER_COUNT && text.n == str_z(HOLDERS[first]).n;
    while (text.n > 0) {
        const int h = holder_at(text);
        if (h == HOLDER_COUNT) {
            buf_char(out, text.p[0]);
            text = (struct str){text.p + 1, text.n - 1};
            continue;
        }
        const struct str value = holder_value(j, h), name = str_z(HOLDERS[h]);
        if (value.p && !(text_is_trimmed(value) && fits_header(value)))
            return REASON_XML_INVALID;
        if (value.p && alone)
            buf_str(out, value);
        else if (value.p)
            put_encoded(out, value);
        text = (struct str){text.p + name.n, text.n - name.n};
    }
    if (out->failed)
        return REASON_INTERNAL;
    return fits_header(buf_view(out)) ? REASON_OK : REASON_XML_INVALID;
}

/* Rules that would tell of nobody in particular do not load. */
static bool may_tell(const struct judgement *j, const char *text)
{
    for (int h = 0; h <= HOLDER_DEVICE; h++)
        if (strstr(text, HOLDERS[h]) && !j->proven && !j->rule->forward.assert_unproven)
            return false;
    return true;
}

enum reason forward_values(const struct judgement *j, struct detail *why)
{
    const struct forward *f = &j->rule->forward;
    for (size_t i = 0; i < f->header_count; i++) {
        struct buf value BUF_CLEANUP = BUF_INIT(LIMIT_REPLY_OUT);
        const enum reason r = forward_fill(j, str_z(f->headers[i].value), &value);
        if (r == REASON_XML_INVALID)
            detail_set(why, "what goes into the header %s has a control character in it or white space around it",
                       f->headers[i].name);
        if (r != REASON_OK)
            return r;
    }
    return REASON_OK;
}

/* A header whose value comes out empty is left out: the client's own of that name never passes either. */
static enum reason fill_headers(const struct judgement *j, struct gate_outgoing *out)
{
    const struct forward *f = &j->rule->forward;
    if (f->header_count > HEADERS_MAX)
        return REASON_INTERNAL;
    for (size_t i = 0; i < f->header_count; i++) {
        struct buf *value = &out->headers[out->header_count].value;
        *value = BUF_INIT(LIMIT_REPLY_OUT);
        out->headers[out->header_count++].name = f->headers[i].name;
        if (!may_tell(j, f->headers[i].value))
            return REASON_INTERNAL;
        const enum reason r = forward_fill(j, str_z(f->headers[i].value), value);
        if (r != REASON_OK)
            return r;
        if (value->n == 0) {
            buf_free(value);
            out->header_count--;
        }
    }
    return REASON_OK;
}

/* What servers with a body of their own take: who asks, by which client; what is not known is left out. */
static enum reason fill_json(const struct judgement *j, struct gate_outgoing *out)
{
    struct json json = {.out = &out->body};
    json_object(&json, NULL);
    if (j->request.user_uri.n > 0)
        json_string(&json, "UserUri", j->request.user_uri, 0);
    if (j->request.client_id.n > 0)
        json_string(&json, "ClientId", j->request.client_id, 0);
    json_end(&json);
    out->content_type = "application/json";
    return out->body.failed ? REASON_INTERNAL : REASON_OK;
}

static enum reason fill_body(const struct judgement *j, struct str received, struct gate_outgoing *out)
{
    out->body = BUF_INIT_PASSING(LIMIT_REPLY_OUT);
    if (j->rule->forward.body == FORWARD_JSON)
        return fill_json(j, out);
    if (j->form == FORM_EMPTY)
        return REASON_OK;
    switch (j->rule->forward.body) {
    case FORWARD_REQUEST:
        if (!(j->proof ? request_proof_forward(j->proof, !j->rule->forward.drop_extensions, &out->body)
                       : request_doc_forward_claimed(j->doc, !j->rule->forward.drop_extensions, &out->body)))
            return REASON_INTERNAL;
        break;
    case FORWARD_SIGNED:
        buf_str(&out->body, received);
        break;
    default:
        return REASON_OK;
    }
    out->content_type = "application/xml";
    return out->body.failed ? REASON_INTERNAL : REASON_OK;
}

enum reason gate_forward(struct judgement *j, struct str received_body, struct gate_outgoing *out)
{
    *out = (struct gate_outgoing){0};
    if (!j->rule || !j->decision.accepted)
        return REASON_INTERNAL;
    out->method = j->rule->forward.method ? j->rule->forward.method : "POST";
    enum reason r = fill_body(j, received_body, out);
    if (r == REASON_OK)
        r = fill_headers(j, out);
    if (r != REASON_OK)
        gate_outgoing_free(out);
    return r;
}

void gate_outgoing_free(struct gate_outgoing *out)
{
    buf_free(&out->body);
    for (size_t i = 0; i < out->header_count; i++)
        buf_free(&out->headers[i].value);
    out->header_count = 0;
}
