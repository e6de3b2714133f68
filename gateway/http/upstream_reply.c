#include "http/upstream_reply.h"

#include <string.h>

#include "base/secret.h"

enum { BODY_FIRST = 64 * 1024, BODY_KEPT = 64 * 1024, LINE_KEPT = 4096 }; /* bytes of memory */

static void reply_refuse(struct reply_reader *r, const char *why)
{
    r->state = REPLY_REFUSED;
    r->why = why;
}

void reply_begin(struct reply_reader *r, size_t max)
{
    struct buf line = r->line, body = r->body;
    if (line.cap > LINE_KEPT)
        buf_free(&line);
    if (body.cap > BODY_KEPT)
        buf_free(&body);
    *r = (struct reply_reader){.max = max, .keep_seconds = UINT64_MAX, .line = line, .body = body};
    r->line.max = REPLY_HEADS;
    r->body.max = max;
    r->body.secret = r->body.locked = true;
    r->line.failed = r->body.failed = false;
    secret_wipe(r->body.p, r->body.n); /* beyond it nothing was written since the last time */
    r->line.n = r->body.n = 0;
}

void reply_free(struct reply_reader *r)
{
    buf_free(&r->line);
    buf_free(&r->body);
}

/* A value may go on to the client when it fits and is printable ASCII; Retry-After is a number or a date. */
static bool may_pass(struct str value, bool retry_after)
{
    for (size_t i = 0; i < value.n; i++) {
        const char c = value.p[i];
        const bool alnum = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (c < 0x20 || c > 0x7e || (retry_after && !alnum && c != ' ' && c != ',' && c != ':'))
            return false;
    }
    return value.n > 0 && value.n < REPLY_VALUE;
}

/* The first of its name that may pass. */
static void keep_value(struct str value, bool retry_after, char out[REPLY_VALUE])
{
    if (out[0] || !may_pass(value, retry_after))
        return;
    memcpy(out, value.p, value.n);
    out[value.n] = '\0';
}

/* "timeout=5, max=100" */
static void read_keep_alive(struct reply_reader *r, struct str list)
{
    while (list.n) {
        const char *comma = memchr(list.p, ',', list.n);
        const size_t n = comma ? (size_t)(comma - list.p) : list.n;
        const struct str item = framing_trim((struct str){list.p, n});
        uint64_t v = 0;
        if (item.n > 8 && str_ieq_z((struct str){item.p, 8}, "timeout=") &&
            str_to_u64((struct str){item.p + 8, item.n - 8}, UINT32_MAX, &v))
            r->keep_seconds = v < r->keep_seconds ? v : r->keep_seconds;
        else if (item.n > 4 && str_ieq_z((struct str){item.p, 4}, "max=") &&
                 str_to_u64((struct str){item.p + 4, item.n - 4}, UINT32_MAX, &v))
            r->no_more = r->no_more || v == 0;
        const size_t step = comma ? n + 1 : n;
        list.p += step;
        list.n -= step;
    }
}

static void read_length(struct reply_reader *r, struct str value)
{
    if (r->has_length) {
        reply_refuse(r, "has more than one Content-Length");
        return;
    }
    r->has_length = true;
    switch (framing_length(value, r->max, &r->length)) {
    case FRAMING_LENGTH:
        break;
    case FRAMING_LARGE:
        reply_refuse(r, "is longer than upstream.max_reply by its Content-Length");
        break;
    case FRAMING_NONE:
        reply_refuse(r, "has a Content-Length that is not a number");
        break;
    }
}

static void read_field(struct reply_reader *r, struct str name, struct str value)
{
    if (str_ieq_z(name, "content-length")) {
        read_length(r, value);
    } else if (str_ieq_z(name, "transfer-encoding")) {
        if (r->chunked || !str_ieq_z(value, "chunked"))
            reply_refuse(r, "has a Transfer-Encoding other than one `chunked`");
        r->chunked = true;
    } else if (str_ieq_z(name, "connection")) {
        r->said_close = r->said_close || framing_list_has(value, STR("close"));
        r->said_keep = r->said_keep || framing_list_has(value, STR("keep-alive"));
    } else if (str_ieq_z(name, "keep-alive")) {
        read_keep_alive(r, value);
    } else if (str_ieq_z(name, "www-authenticate")) {
        keep_value(value, false, r->www_authenticate);
    } else if (str_ieq_z(name, "retry-after")) {
        keep_value(value, true, r->retry_after);
    } else if (str_ieq_z(name, "content-encoding")) {
        r->encoded = r->encoded || !str_ieq_z(value, "identity");
    }
}

/* Cuts a line of a head or trailer; false: refused. A control character in a value is no danger to the frame, but for
 * NUL and CR, and where the value says how the body ends. */
static bool cut_field(struct reply_reader *r, struct str line, struct str *name, struct str *value)
{
    if (memchr(line.p, '\0', line.n) || memchr(line.p, '\r', line.n)) {
        reply_refuse(r, "has a NUL or a bare CR in its head");
        return false;
    }
    if (framing_field(line, name, value))
        return true;
    const char *colon = memchr(line.p, ':', line.n);
    *name = (struct str){line.p, colon ? (size_t)(colon - line.p) : 0};
    *value = STR("");
    if (*line.p == ' ' || *line.p == '\t')
        reply_refuse(r, "has a folded header line");
    else if (!framing_is_token(*name))
        reply_refuse(r, "has a header line without a name");
    else if (str_ieq_z(*name, "content-length") || str_ieq_z(*name, "transfer-encoding") ||
             str_ieq_z(*name, "connection"))
        reply_refuse(r, "has a control character in a header that says where it ends");
    return r->state != REPLY_REFUSED;
}

/* "HTTP/1.1 200 OK" */
static void read_status(struct reply_reader *r, struct str line)
{
    if (line.n < 12 || !str_starts(line, STR("HTTP/1.")) || (line.p[7] != '0' && line.p[7] != '1') ||
        line.p[8] != ' ') {
        reply_refuse(r, "does not begin with HTTP/1.0 or HTTP/1.1");
        return;
    }
    for (size_t i = 9; i < 12; i++)
        if (line.p[i] < '0' || line.p[i] > '9') {
            reply_refuse(r, "has no status of three digits");
            return;
        }
    if ((line.n > 12 && line.p[12] != ' ') || !framing_is_value((struct str){line.p + 12, line.n - 12})) {
        reply_refuse(r, "has a status line that cannot be read");
        return;
    }
    r->status = (line.p[9] - '0') * 100 + (line.p[10] - '0') * 10 + (line.p[11] - '0');
    r->http11 = line.p[7] == '1';
    r->begun = true;
    r->interim = r->status >= 100 && r->status <= 199;
    if (r->status < 100 || r->status > 599)
        reply_refuse(r, "has a status that HTTP does not know");
    else if (r->interim && r->status != 100 && r->status != 103)
        reply_refuse(r, r->status == 101 ? "changes the protocol, which nobody asked for"
                                         : "has a 1xx status other than 100 and 103");
    else
        r->state = REPLY_FIELDS;
}

/* What a head says is forgotten with it: of interim replies nothing is taken. */
static void forget_head(struct reply_reader *r)
{
    r->state = REPLY_STATUS;
    r->encoded = r->said_close = r->said_keep = r->no_more = false;
    r->keep_seconds = UINT64_MAX;
    r->www_authenticate[0] = r->retry_after[0] = '\0';
}

/* The head is whole: how the body ends (RFC 9112, 6.3). */
static void end_head(struct reply_reader *r)
{
    const bool bodiless = r->interim || r->status == 204 || r->status == 304;
    if (r->chunked && (r->has_length || !r->http11)) {
        reply_refuse(r, r->has_length ? "has both Transfer-Encoding and Content-Length"
                                      : "has a Transfer-Encoding under HTTP/1.0");
    } else if (bodiless && (r->chunked || (r->length && r->status != 304))) {
        reply_refuse(r, "has a body where its status allows none");
    } else if (r->interim) {
        if (r->has_length)
            reply_refuse(r, "has a body where its status allows none");
        else
            forget_head(r);
    } else if (bodiless || (r->has_length && !r->length)) {
        r->state = REPLY_DONE;
    } else if (r->encoded && r->status <= 299) {
        reply_refuse(r, "has a Content-Encoding, which nobody asked for");
    } else {
        r->state = r->chunked ? REPLY_CHUNKS : r->has_length ? REPLY_LENGTH : REPLY_TO_END;
        if (r->has_length && !buf_reserve(&r->body, r->length < BODY_FIRST ? r->length : BODY_FIRST))
            reply_refuse(r, "finds no memory");
    }
}

/* One line, without its CR LF. */
static void read_line(struct reply_reader *r, struct str line)
{
    struct str name = STR(""), value = STR("");
    switch (r->state) {
    case REPLY_STATUS:
        read_status(r, line);
        break;
    case REPLY_FIELDS:
        if (!line.n)
            end_head(r);
        else if (cut_field(r, line, &name, &value))
            read_field(r, name, value);
        break;
    case REPLY_TRAILERS: /* held against the form, and that is all */
        if (!line.n)
            r->state = REPLY_DONE;
        else
            (void)cut_field(r, line, &name, &value);
        break;
    default:
        break;
    }
}

/* What has come of the status line cannot become one any more. */
static bool is_foreign(struct str begin)
{
    static const struct str DUE = {"HTTP/1.", 7};
    const struct str first = {begin.p, begin.n < DUE.n ? begin.n : DUE.n};
    return !str_eq(first, (struct str){DUE.p, first.n});
}

/* Bytes of a head or of trailers, up to the end of one line. */
static size_t line_bytes(struct reply_reader *r, const char *p, size_t n)
{
    const char *lf = memchr(p, '\n', n);
    const size_t take = lf ? (size_t)(lf - p) + 1 : n;
    r->head_bytes += take;
    if (r->head_bytes > REPLY_HEADS) {
        reply_refuse(r, "has a head of more than 64 KiB");
        return take;
    }
    struct str line = {p, take};
    if (r->line.n || !lf) { /* a part of it came before, or is still to come */
        buf_bytes(&r->line, p, take);
        if (r->line.failed) {
            reply_refuse(r, "finds no memory");
            return take;
        }
        line = buf_view(&r->line);
    }
    if (r->state == REPLY_STATUS && is_foreign(line)) {
        reply_refuse(r, "does not begin with HTTP/1.0 or HTTP/1.1");
    } else if (lf && (line.n < 2 || line.p[line.n - 2] != '\r')) {
        reply_refuse(r, "has a line that ends without CR");
    } else if (lf) {
        read_line(r, (struct str){line.p, line.n - 2});
        r->line.n = 0;
    }
    return take;
}

static void add_body(struct reply_reader *r, const char *p, size_t n)
{
    buf_bytes(&r->body, p, n);
    if (r->body.failed)
        reply_refuse(r, n > r->max - r->body.n ? "is longer than upstream.max_reply" : "finds no memory");
}

static size_t length_bytes(struct reply_reader *r, const char *p, size_t n)
{
    const size_t take = n < r->length ? n : r->length;
    r->length -= take;
    if (!r->length)
        r->state = REPLY_DONE;
    add_body(r, p, take);
    return take;
}

static size_t chunk_bytes(struct reply_reader *r, const char *p, size_t n)
{
    if (r->chunks.state == CHUNK_DATA) {
        const size_t take = n < r->chunks.left ? n : r->chunks.left;
        add_body(r, p, take);
        framing_chunk_data(&r->chunks, take);
        return take;
    }
    framing_chunk(&r->chunks, *p, r->max - r->body.n);
    if (r->chunks.state == CHUNK_END_CR)
        r->state = REPLY_TRAILERS;
    else if (r->chunks.state == CHUNK_BAD)
        reply_refuse(r, "has a chunk whose frame is broken");
    else if (r->chunks.state == CHUNK_LARGE)
        reply_refuse(r, "is longer than upstream.max_reply");
    return 1;
}

size_t reply_feed(struct reply_reader *r, const char *p, size_t n)
{
    size_t used = 0;
    while (used < n && r->state != REPLY_DONE && r->state != REPLY_REFUSED) {
        const char *at = p + used;
        const size_t left = n - used;
        switch (r->state) {
        case REPLY_STATUS:
        case REPLY_FIELDS:
        case REPLY_TRAILERS:
            used += line_bytes(r, at, left);
            break;
        case REPLY_LENGTH:
            used += length_bytes(r, at, left);
            break;
        case REPLY_CHUNKS:
            used += chunk_bytes(r, at, left);
            break;
        default: /* REPLY_TO_END */
            add_body(r, at, left);
            used = n;
            break;
        }
    }
    return used;
}

void reply_end(struct reply_reader *r)
{
    if (r->state == REPLY_TO_END) {
        r->said_close = true;
        r->state = REPLY_DONE;
    } else if (r->state != REPLY_DONE && r->state != REPLY_REFUSED) {
        reply_refuse(r, r->begun ? "breaks off before its end" : "did not come: the connection was closed");
    }
}

bool reply_keeps(const struct reply_reader *r)
{
    return r->state == REPLY_DONE && !r->said_close && (r->http11 || r->said_keep) && !r->no_more &&
           r->status != 304; /* some send its body */
}
