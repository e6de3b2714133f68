/*
 * One HTTP/1 request, read from RFC 9112 alone: written for guard.proof, sharing no line with what it is held
 * against. It sees the whole input at once and takes what the RFC takes, chunk extensions and trailers included; the
 * guard takes less.
 */
#ifndef PROOFS_RFC9112_H
#define PROOFS_RFC9112_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum rfc_verdict { RFC_MORE, RFC_TAKEN, RFC_REFUSED };
struct rfc_reading {
    enum rfc_verdict verdict;
    size_t method, method_n, target, target_n; /* where, and how long */
    size_t end;                                /* of the request */
    char body[64];
    size_t body_n;
};

static bool rfc_tchar(unsigned char c) /* RFC 9110, 5.6.2 */
{
    return c > 32 && c < 127 && !memchr("\"(),/:;<=>?@[\\]{}", c, 17);
}

/* Where the line that begins at `at` ends (at its CR LF); SIZE_MAX: not yet there. */
static size_t rfc_line(const char *in, size_t n, size_t at)
{
    for (; at + 1 < n; at++)
        if (in[at] == '\r' && in[at + 1] == '\n')
            return at;
    return SIZE_MAX;
}

static bool rfc_is(const char *p, size_t n, const char *word) /* without case */
{
    for (size_t i = 0; i < n; i++, word++) {
        const unsigned char a = (unsigned char)p[i], b = (unsigned char)*word;
        if (!b || (a >= 'A' && a <= 'Z' ? a + 32 : a) != b)
            return false;
    }
    return !*word;
}

struct rfc_body {
    unsigned lengths, codings;
    bool chunked, bad;
    size_t length;
};

/* field-line = field-name ":" OWS field-value OWS (5); what it says of the body (6.1 to 6.3). */
static bool rfc_field(const char *p, size_t n, struct rfc_body *body)
{
    size_t name = 0;
    while (name < n && rfc_tchar((unsigned char)p[name]))
        name++;
    if (name == 0 || name == n || p[name] != ':')
        return false;
    size_t from = name + 1, to = n;
    while (from < to && (p[from] == ' ' || p[from] == '\t'))
        from++;
    while (to > from && (p[to - 1] == ' ' || p[to - 1] == '\t'))
        to--;
    for (size_t i = from; i < to; i++)
        if (p[i] == '\r' || p[i] == '\n' || p[i] == '\0')
            return false;
    if (rfc_is(p, name, "transfer-encoding")) {
        body->codings++;
        body->chunked = rfc_is(p + from, to - from, "chunked"); /* any other coding before it is not implemented: 501 */
    } else if (rfc_is(p, name, "content-length")) {
        body->lengths++;
        body->length = 0;
        body->bad |= from == to;
        for (size_t i = from; i < to; i++) {
            body->bad |= p[i] < '0' || p[i] > '9' || body->length > 1000;
            body->length = body->length * 10 + (size_t)(unsigned char)p[i] - '0';
        }
    }
    return true;
}

/* request-line = method SP request-target SP HTTP-version (3). */
static bool rfc_request_line(const char *in, size_t at, size_t end, struct rfc_reading *r, bool *one_one)
{
    size_t i = at;
    while (i < end && rfc_tchar((unsigned char)in[i]))
        i++;
    r->method = at;
    r->method_n = i - at;
    if (i == at || i == end || in[i] != ' ')
        return false;
    r->target = ++i;
    while (i < end && in[i] != ' ' && in[i] != '\r' && in[i] != '\n')
        i++;
    r->target_n = i - r->target;
    if (r->target_n == 0 || end - i != 9 || memcmp(in + i, " HTTP/1.", 8) != 0 ||
        (in[i + 8] != '1' && in[i + 8] != '0'))
        return false;
    *one_one = in[i + 8] == '1';
    return true;
}

static int rfc_hex(unsigned char c)
{
    const char *digits = "0123456789abcdef", *at = c ? strchr(digits, c >= 'A' && c <= 'F' ? c + 32 : c) : NULL;
    return at ? (int)(at - digits) : -1;
}

/* chunked-body (7.1), from `at` on. */
static enum rfc_verdict rfc_chunks(const char *in, size_t n, size_t at, struct rfc_reading *r)
{
    for (;;) {
        const size_t line = rfc_line(in, n, at);
        size_t size = 0, digits = 0;
        for (; at < n && rfc_hex((unsigned char)in[at]) >= 0 && size < 4096; at++, digits++)
            size = size * 16 + (size_t)rfc_hex((unsigned char)in[at]);
        if (line == SIZE_MAX)
            return RFC_MORE;
        if (digits == 0 || (at < line && in[at] != ';' && in[at] != ' ' && in[at] != '\t'))
            return RFC_REFUSED;
        at = line + 2;
        if (size == 0)
            break;
        if (n - at < size + 2)
            return RFC_MORE;
        if (in[at + size] != '\r' || in[at + size + 1] != '\n' || r->body_n + size > sizeof r->body)
            return RFC_REFUSED;
        memcpy(r->body + r->body_n, in + at, size);
        r->body_n += size;
        at += size + 2;
    }
    for (;;) { /* trailers */
        struct rfc_body ignored = {0};
        const size_t line = rfc_line(in, n, at);
        if (line == SIZE_MAX)
            return RFC_MORE;
        if (line > at && !rfc_field(in + at, line - at, &ignored))
            return RFC_REFUSED;
        const bool last = line == at;
        at = line + 2;
        if (last)
            break;
    }
    r->end = at;
    return RFC_TAKEN;
}

static struct rfc_reading rfc_read(const char *in, size_t n)
{
    struct rfc_reading r = {.verdict = RFC_MORE};
    struct rfc_body body = {0};
    bool one_one;
    size_t at = n >= 2 && in[0] == '\r' && in[1] == '\n' ? 2 : 0; /* 2.2 */
    size_t line = rfc_line(in, n, at);
    if (line == SIZE_MAX)
        return r;
    r.verdict = RFC_REFUSED;
    if (!rfc_request_line(in, at, line, &r, &one_one))
        return r;
    for (at = line + 2; (line = rfc_line(in, n, at)) != at; at = line + 2) {
        if (line == SIZE_MAX) {
            r.verdict = RFC_MORE;
            return r;
        }
        if (!rfc_field(in + at, line - at, &body))
            return r;
    }
    at += 2;
    if (body.codings) {
        if (body.codings > 1 || body.lengths || !body.chunked || !one_one)
            return r;
        r.verdict = rfc_chunks(in, n, at, &r);
        return r;
    }
    if (body.bad || body.lengths > 1 || body.length > sizeof r.body)
        return r;
    r.verdict = n - at >= body.length ? RFC_TAKEN : RFC_MORE;
    if (r.verdict == RFC_TAKEN) {
        memcpy(r.body, in + at, body.length);
        r.body_n = body.length;
        r.end = at + body.length;
    }
    return r;
}

#endif
