/*
 * Any bytes on a connection, as one piece and cut at places that the bytes themselves choose: the requests read must be
 * the same, with the same ends and reasons, and within the limits. Bytes of which the first request is not complete are
 * the values of requests, too, one after the other.
 */
#include "framed.h"

#include "gate/resource.h"
#include "http/guard.h"

static const struct limits_config LIMITS = {.body = 300, .target = 200, .header = 150, .headers = 400,
                                            .header_count = 8};
enum { REQUESTS_MAX = 64 };

struct seen {
    struct request {
        enum guard_state state;
        enum reason reason;
        int status;
        size_t end, headers, body_n;
        uint64_t text; /* of target, headers and body together */
    } v[REQUESTS_MAX];
    size_t n;
};

static uint64_t mix(uint64_t h, struct str s)
{
    for (size_t i = 0; i < s.n; i++)
        h = (h ^ (uint8_t)s.p[i]) * UINT64_C(0x100000001b3);
    return (h ^ s.n) * UINT64_C(0x100000001b3);
}

static bool visible(struct str s)
{
    for (size_t i = 0; i < s.n; i++)
        if ((unsigned char)s.p[i] < 0x20 && s.p[i] != '\t')
            return false;
    return true;
}

static void check_request(const struct guard *g)
{
    struct resource resource;
    must(g->target.n <= LIMITS.target && g->header_count <= LIMITS.header_count && g->body.n <= LIMITS.body, "a limit");
    must(g->method.n > 0 && g->target.n > 0 && !memchr(g->target.p, '\n', g->target.n), "target");
    for (size_t i = 0; i < g->header_count; i++) {
        const struct guard_header *h = &g->headers[i];
        must(h->name.n > 0 && visible(h->value), "header");
        must(str_eq(guard_header(g, "host"), guard_header(g, "HOST")), "case");
    }
    must(guard_header(g, "host").p || !g->http11, "no Host");
    if (resource_parse(g->target, &resource, NULL) == REASON_OK)
        must(visible(g->target) && !memmem(resource.path.p, resource.path.n, "//", 2) &&
                 !memmem(resource.path.p, resource.path.n, "/../", 4) && !memchr(resource.path.p, '?', resource.path.n),
             "path");
}

static void note(struct seen *s, const struct guard *g, size_t end)
{
    if (s->n == REQUESTS_MAX)
        return;
    struct request *r = &s->v[s->n++];
    *r = (struct request){g->state, g->reason, g->status, end, g->header_count, g->body.n, 0};
    if (g->state == GUARD_REFUSED) {
        must(g->reason != REASON_OK && g->reason != REASON_INTERNAL && g->status >= 400, "refused without a reason");
        r->headers = r->body_n = 0;
        return;
    }
    r->text = mix(mix(1, g->method), g->target);
    for (size_t i = 0; i < g->header_count; i++)
        r->text = mix(mix(r->text, g->headers[i].name), g->headers[i].value);
    r->text = mix(r->text, buf_view(&g->body));
}

/* cut: how large the next piece may be, from the input's own bytes; false: all at once. */
static void read_all(const uint8_t *data, size_t size, bool cut, struct seen *out)
{
    struct guard g;
    size_t at = 0, piece;
    guard_init(&g, &LIMITS);
    while (at < size) {
        piece = cut ? 1 + data[at] % 7u : size - at;
        piece = piece < size - at ? piece : size - at;
        const enum guard_state before = g.state;
        const size_t used = guard_feed(&g, (const char *)data + at, piece);
        must(used <= piece, "more than there was");
        must(used > 0 || g.state != before, "it stands still at %zu", at);
        at += used;
        if (g.state == GUARD_DONE)
            check_request(&g);
        if (g.state == GUARD_DONE || g.state == GUARD_REFUSED)
            note(out, &g, g.state == GUARD_DONE ? at : 0);
        if (g.state == GUARD_REFUSED)
            break;
        if (g.state == GUARD_DONE)
            guard_next(&g);
    }
    guard_free(&g);
}

/* Whether the first request is complete. */
static bool look(const uint8_t *data, size_t size)
{
    struct seen whole = {.n = 0}, cut = {.n = 0};
    read_all(data, size, false, &whole);
    read_all(data, size, true, &cut);
    must(whole.n == cut.n, "%zu requests at once, %zu in pieces", whole.n, cut.n);
    for (size_t i = 0; i < whole.n; i++) {
        const struct request *a = &whole.v[i], *b = &cut.v[i];
        must(a->state == b->state && a->reason == b->reason && a->status == b->status, "request %zu: %s, in pieces %s",
             i, reason_name(a->reason), reason_name(b->reason));
        must(a->end == b->end && a->headers == b->headers, "request %zu", i);
        must(a->body_n == b->body_n && a->text == b->text, "request %zu", i);
    }
    return whole.n > 0 && whole.v[0].state == GUARD_DONE;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    framed_input(data, size, look, framed_request);
    return 0;
}
