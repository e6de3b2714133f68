/*
 * Any bytes from the upstream, as one piece and cut at places that the bytes themselves choose, and what is left then
 * read as the next reply: the readings must be the same, within the limits, and a reply that was read, written anew in
 * its plainest form, must be read as the same reply. Bytes of which the first reply is not complete are the values of
 * replies, too, one after the other.
 */
#include "framed.h"

#include "http/upstream_reply.h"

enum { MAX = 300, REPLIES = 16 };

struct seen {
    struct one {
        enum reply_state state;
        int status;
        size_t end, n;
        bool keeps;
        char body[MAX], retry_after[REPLY_VALUE], www_authenticate[REPLY_VALUE];
        uint64_t keep_seconds;
    } v[REPLIES];
    size_t n;
};

static void check(const struct reply_reader *r)
{
    must(r->state == REPLY_REFUSED ? r->why && *r->why : r->state == REPLY_DONE, "state %d", (int)r->state);
    must(!reply_keeps(r) || r->state == REPLY_DONE, "kept");
    must(r->body.n <= MAX && r->head_bytes <= REPLY_HEADS + MAX * 64, "a limit");
    for (const char *p = r->retry_after; *p; p++)
        must(*p >= 0x20 && *p < 0x7f, "Retry-After");
    for (const char *p = r->www_authenticate; *p; p++)
        must(*p >= 0x20 && *p < 0x7f, "WWW-Authenticate");
    if (r->state == REPLY_DONE)
        must(r->status >= 200 && r->status <= 599, "status %d", r->status);
}

static void note(struct seen *s, const struct reply_reader *r, size_t end)
{
    check(r);
    if (s->n == REPLIES)
        return;
    struct one *o = &s->v[s->n++];
    *o = (struct one){.state = r->state, .end = end, .keeps = reply_keeps(r)};
    if (r->state != REPLY_DONE)
        return;
    o->status = r->status;
    o->n = r->body.n;
    o->keep_seconds = r->keep_seconds;
    if (o->n)
        memcpy(o->body, r->body.p, o->n);
    memcpy(o->retry_after, r->retry_after, sizeof o->retry_after);
    memcpy(o->www_authenticate, r->www_authenticate, sizeof o->www_authenticate);
}

static void read_all(const uint8_t *data, size_t size, bool cut, struct seen *out)
{
    struct reply_reader r = {.state = REPLY_STATUS};
    size_t at = 0;
    for (;;) {
        reply_begin(&r, MAX);
        while (at < size && r.state != REPLY_DONE && r.state != REPLY_REFUSED) {
            size_t piece = cut ? 1 + data[at] % 7u : size - at;
            piece = piece < size - at ? piece : size - at;
            const size_t used = reply_feed(&r, (const char *)data + at, piece);
            must(used <= piece && used > 0, "%zu of %zu", used, piece);
            must(used == piece || r.state == REPLY_DONE || r.state == REPLY_REFUSED, "it stands still at %zu", at);
            at += used;
        }
        if (at == size)
            reply_end(&r);
        note(out, &r, r.state == REPLY_DONE ? at : 0);
        if (r.state != REPLY_DONE || at == size)
            break;
    }
    reply_free(&r);
}

/* In its plainest form. */
static void again(const struct one *o)
{
    struct buf text BUF_CLEANUP = BUF_INIT(4096);
    struct reply_reader r = {.state = REPLY_STATUS};
    if (o->state != REPLY_DONE || ((o->status == 204 || o->status == 304) && !o->n))
        return;
    buf_printf(&text, "HTTP/1.1 %d X\r\nContent-Length: %zu\r\n\r\n", o->status, o->n);
    buf_bytes(&text, o->body, o->n);
    must(!text.failed, "room");
    reply_begin(&r, MAX);
    must(reply_feed(&r, text.p, text.n) == text.n && r.state == REPLY_DONE && reply_keeps(&r), "it is not read again");
    must(r.status == o->status && r.body.n == o->n && (!o->n || memcmp(r.body.p, o->body, o->n) == 0), "another reply");
    reply_free(&r);
}

/* Whether the first reply is complete. */
static bool look(const uint8_t *data, size_t size)
{
    static struct seen whole, cut;
    whole.n = cut.n = 0;
    read_all(data, size, false, &whole);
    read_all(data, size, true, &cut);
    must(whole.n == cut.n, "%zu replies at once, %zu in pieces", whole.n, cut.n);
    for (size_t i = 0; i < whole.n; i++) {
        must(memcmp(&whole.v[i], &cut.v[i], sizeof whole.v[i]) == 0, "reply %zu", i);
        again(&whole.v[i]);
    }
    return whole.n > 0 && whole.v[0].state == REPLY_DONE;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    framed_input(data, size, look, framed_reply);
    return 0;
}
