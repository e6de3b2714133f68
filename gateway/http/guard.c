#include "http/guard.h"

#include <string.h>

#include "base/block.h"

static void guard_refuse(struct guard *g, enum reason reason, int status)
{
    g->state = GUARD_REFUSED;
    g->reason = reason;
    g->status = status;
}

static void refuse_framing(struct guard *g)
{
    guard_refuse(g, REASON_HTTP_FRAMING, 400);
}

void guard_init(struct guard *g, const struct limits_config *limits)
{
    *g = (struct guard){.limits = limits};
    g->head = BUF_INIT_PASSING(limits->target + limits->headers + 256);
    g->body = BUF_INIT_SECRET(limits->body + 1);
}

void guard_free(struct guard *g)
{
    secret_wipe(g->head.p, g->head.n);
    buf_free(&g->head);
    buf_free(&g->body);
    block_give(g->headers);
    g->headers = NULL;
}

void guard_next(struct guard *g)
{
    const struct limits_config *limits = g->limits;
    guard_free(g);
    guard_init(g, limits);
}

void guard_forget_body(struct guard *g)
{
    buf_free(&g->body);
    g->body = BUF_INIT_SECRET(g->limits->body + 1);
}

bool guard_begun(const struct guard *g)
{
    return g->head.n > 0 || g->skipped_line || g->state != GUARD_HEAD;
}

static const struct guard_header *guard_find(const struct guard *g, struct str name, size_t *count)
{
    const struct guard_header *found = NULL;
    *count = 0;
    for (size_t i = 0; i < g->header_count; i++)
        if (g->headers[i].name.n == name.n && str_ieq(g->headers[i].name, name)) {
            if (!found)
                found = &g->headers[i];
            ++*count;
        }
    return found;
}

struct str guard_header(const struct guard *g, const char *name)
{
    size_t count;
    const struct guard_header *h = guard_find(g, str_z(name), &count);
    return h ? h->value : STR_MISSING;
}

static bool connection_has(const struct guard *g, struct str token)
{
    for (size_t i = 0; i < g->header_count; i++)
        if (str_ieq_z(g->headers[i].name, "connection") && framing_list_has(g->headers[i].value, token))
            return true;
    return false;
}

bool guard_is_hop_header(const struct guard *g, struct str name)
{
    static const struct str HOP[] = {
        STR_INIT("connection"), STR_INIT("keep-alive"), STR_INIT("proxy-connection"), STR_INIT("proxy-authorization"),
        STR_INIT("proxy-authenticate"), STR_INIT("te"), STR_INIT("trailer"), STR_INIT("transfer-encoding"),
        STR_INIT("upgrade"), STR_INIT("content-length"), STR_INIT("host"), STR_INIT("expect"), STR_INIT("content-type"),
        STR_INIT("content-encoding"), STR_INIT("x-request-id"), STR_INIT("traceparent"), STR_INIT("x-forwarded-for"),
        STR_INIT("x-forwarded-host"), STR_INIT("x-forwarded-proto"), STR_INIT("x-real-ip"), STR_INIT("forwarded")};
    for (size_t i = 0; i < sizeof HOP / sizeof *HOP; i++)
        if (name.n == HOP[i].n && str_ieq(name, HOP[i]))
            return true;
    return connection_has(g, name);
}

static bool is_version(struct str v)
{
    return v.n == 8 && memcmp(v.p, "HTTP/", 5) == 0 && v.p[5] >= '0' && v.p[5] <= '9' && v.p[6] == '.' &&
           v.p[7] >= '0' && v.p[7] <= '9';
}

/* METHOD SP target SP HTTP/d.d, with exactly these two spaces. */
static void read_request_line(struct guard *g, struct str line)
{
    const char *one = memchr(line.p, ' ', line.n);
    const char *two = one ? memchr(one + 1, ' ', (size_t)(line.p + line.n - one - 1)) : NULL;
    if (!two) {
        refuse_framing(g);
        return;
    }
    const struct str method = {line.p, (size_t)(one - line.p)};
    const struct str target = {one + 1, (size_t)(two - one - 1)};
    const struct str version = {two + 1, (size_t)(line.p + line.n - two - 1)};
    if (!framing_is_token(method) || method.n > 32 || target.n == 0 || !is_version(version)) {
        refuse_framing(g);
        return;
    }
    g->method = method;
    g->target = target;
    g->http11 = str_eq_z(version, "HTTP/1.1");
    if (!g->http11 && !str_eq_z(version, "HTTP/1.0"))
        guard_refuse(g, REASON_HTTP_VERSION, 505);
    else if (target.n > g->limits->target)
        guard_refuse(g, REASON_HTTP_TOO_LARGE, 414);
}

static void read_header_line(struct guard *g, struct str line)
{
    struct str name, value;
    if (framing_field(line, &name, &value))
        g->headers[g->header_count++] = (struct guard_header){name, value};
    else
        refuse_framing(g);
}

static bool host_is_plain(struct str host)
{
    for (size_t i = 0; i < host.n; i++)
        if ((unsigned char)host.p[i] <= ' ' || (unsigned char)host.p[i] >= 0x7f ||
            strchr("/?#@\\,\"<>{}|^`", host.p[i]))
            return false;
    return host.n > 0;
}

/* How long the body is: Content-Length or `chunked`, never both, never twice. */
static void read_framing(struct guard *g)
{
    size_t lengths, encodings;
    const struct guard_header *length = guard_find(g, STR("content-length"), &lengths);
    const struct guard_header *encoding = guard_find(g, STR("transfer-encoding"), &encodings);
    if (lengths > 1 || encodings > 1 || (lengths && encodings) || (encodings && !g->http11)) {
        refuse_framing(g);
        return;
    }
    if (encoding) {
        if (!str_eq_z(encoding->value, "chunked"))
            refuse_framing(g);
        g->chunked = true;
    }
    if (!length)
        return;
    switch (framing_length(length->value, g->limits->body, &g->length)) {
    case FRAMING_LENGTH:
        break;
    case FRAMING_LARGE:
        guard_refuse(g, REASON_HTTP_TOO_LARGE, 413);
        break;
    case FRAMING_NONE:
        refuse_framing(g);
        break;
    }
}

static void read_meaning(struct guard *g)
{
    static const struct str SINGLE[] = {STR_INIT("host"), STR_INIT("content-type"), STR_INIT("content-encoding"),
                                        STR_INIT("authorization"), STR_INIT("expect")};
    size_t count;
    for (size_t i = 0; i < sizeof SINGLE / sizeof *SINGLE; i++)
        if (guard_find(g, SINGLE[i], &count) && count > 1) {
            refuse_framing(g);
            return;
        }
    const struct guard_header *host = guard_find(g, STR("host"), &count);
    if (!host || !host_is_plain(host->value)) {
        refuse_framing(g);
        return;
    }
    read_framing(g);
    if (g->state == GUARD_REFUSED)
        return;
    const struct str expect = guard_header(g, "expect");
    if (g->http11 && expect.p) {
        if (!str_ieq_z(expect, "100-continue")) {
            guard_refuse(g, REASON_HTTP_EXPECT, 417);
            return;
        }
        g->expect_continue = g->chunked || g->length > 0;
    }
    g->keep_alive = g->http11 && !connection_has(g, STR("close"));
    g->state = g->chunked || g->length ? GUARD_BODY : GUARD_DONE;
}

/* The head as a whole is there; its line ends and sizes were held against the limits as it came in. */
static void read_head(struct guard *g)
{
    g->headers = block_take((g->lines ? g->lines : 1) * sizeof *g->headers); /* of a count that is bounded */
    if (!g->headers || g->head.failed) {
        guard_refuse(g, REASON_INTERNAL, 500);
        return;
    }
    const char *p = g->head.p;
    const char *end = p + g->head.n - 2;
    for (bool first = true; p < end && g->state != GUARD_REFUSED; first = false) {
        const char *lf = memchr(p, '\n', (size_t)(end - p));
        const struct str line = {p, (size_t)(lf - p) - 1};
        if (first)
            read_request_line(g, line);
        else
            read_header_line(g, line);
        p = lf + 1;
    }
    if (g->state != GUARD_REFUSED)
        read_meaning(g);
}

/* A line of the head has ended. */
static void end_line(struct guard *g)
{
    const size_t length = g->head.n - g->line_at - 2;
    if (length == 0 && g->line_at == 0) { /* an empty line before the request */
        if (g->skipped_line)
            refuse_framing(g);
        g->skipped_line = true;
        buf_reset(&g->head);
        return;
    }
    if (length == 0) {
        read_head(g);
        return;
    }
    if (g->line_at > 0 && (++g->lines > g->limits->header_count || g->header_bytes > g->limits->headers))
        guard_refuse(g, REASON_HTTP_TOO_LARGE, 431);
    g->line_at = g->head.n;
}

/* How many of the n bytes may follow those of the head: all, or up to the first that is a NUL, or a CR or LF without
 * the other. `before`: the byte before them. The only LF, if there is one, is the last byte. */
static size_t head_run(char before, const char *p, size_t n)
{
    const char *nul = memchr(p, '\0', n), *cr = memchr(p, '\r', n);
    const size_t good = nul ? (size_t)(nul - p) : n;
    if ((*p == '\n') != (before == '\r'))
        return 0;
    if (cr && cr + 1 < p + good && cr[1] != '\n')
        return (size_t)(cr + 1 - p) < good ? (size_t)(cr + 1 - p) : good;
    if (good == n && n > 1 && p[n - 1] == '\n' && p[n - 2] != '\r')
        return n - 1;
    return good;
}

/* How many bytes the line that is being read may still have. */
static size_t head_room(const struct guard *g)
{
    const size_t length = g->head.n - g->line_at;
    if (g->line_at == 0)
        return g->limits->target + 64 - length;
    const size_t line = g->limits->header + 2 - length, all = g->limits->headers + 2 - g->header_bytes; /* empty line */
    return line < all ? line : all;
}

/* Bytes of one line of the head, to its end or to the end of what has come. Returns how many were looked at. */
static size_t head_bytes(struct guard *g, const char *p, size_t n)
{
    const char *lf = memchr(p, '\n', n);
    const size_t whole = lf ? (size_t)(lf - p) + 1 : n, room = head_room(g);
    const size_t run = head_run(g->head.n ? g->head.p[g->head.n - 1] : '\0', p, whole);
    const size_t take = run < room ? run : room;
    buf_bytes(&g->head, p, take);
    if (g->line_at)
        g->header_bytes += take;
    if (g->head.failed && g->head.n + take <= g->head.max) { /* not its ceiling: want of memory */
        guard_refuse(g, REASON_INTERNAL, 500);
    } else if (g->head.failed || (take == room && run > room)) {
        guard_refuse(g, REASON_HTTP_TOO_LARGE, g->line_at ? 431 : 414);
    } else if (take < whole) {
        refuse_framing(g);
    } else if (lf) {
        end_line(g);
    }
    return take < whole ? take + 1 : take;
}

/* One byte of chunked framing; trailers are refused, since nothing may be said after the body. */
static void chunk_byte(struct guard *g, char c)
{
    framing_chunk(&g->chunks, c, g->limits->body - g->body.n);
    if (g->chunks.state == CHUNK_DONE)
        g->state = GUARD_DONE;
    else if (g->chunks.state == CHUNK_BAD)
        refuse_framing(g);
    else if (g->only_empty && g->chunks.left)
        guard_refuse(g, REASON_HTTP_MEDIA_TYPE, 415);
    else if (g->chunks.state == CHUNK_LARGE)
        guard_refuse(g, REASON_HTTP_TOO_LARGE, 413);
    g->length = g->chunks.left;
}

static size_t body_bytes(struct guard *g, const char *p, size_t n)
{
    if (g->chunked && g->chunks.state != CHUNK_DATA) {
        chunk_byte(g, *p);
        return 1;
    }
    const size_t take = n < g->length ? n : g->length;
    buf_bytes(&g->body, p, take);
    g->length -= take;
    if (g->chunked)
        framing_chunk_data(&g->chunks, take);
    if (g->body.failed)
        guard_refuse(g, REASON_INTERNAL, 500);
    else if (g->length == 0 && !g->chunked)
        g->state = GUARD_DONE;
    return take;
}

size_t guard_feed(struct guard *g, const char *p, size_t n)
{
    size_t used = 0;
    const enum guard_state before = g->state;
    while (used < n && g->state == before && before != GUARD_DONE && before != GUARD_REFUSED) {
        if (g->state == GUARD_HEAD)
            used += head_bytes(g, p + used, n - used);
        else
            used += body_bytes(g, p + used, n - used);
    }
    return used;
}
