/*
 * HTTP messages whose parts are an input's values and whose frame is right: what a fuzzer that only changes octets
 * loses first.
 *
 *     framed_request(&rest, &out);     a request of a method, a target, headers, a body
 *     framed_reply(&rest, &out);       an upstream's reply
 *     framed_input(data, size, look, framed_reply)     the input as it is, or as some of these
 */
#ifndef TEST_FUZZ_FRAMED_H
#define TEST_FUZZ_FRAMED_H

#include "base/buf.h"
#include "fuzz.h"

enum { FRAMED_HEADERS = 3, FRAMED_ODD = 8, FRAMED_MAX = 4, FRAMED_ROOM = 1 << 16 };

/* Some bytes of a field's value or a target; `odd` ones as they are, others without what ends it. */
static inline void framed_text(struct str text, bool odd, char instead, struct buf *out)
{
    for (size_t i = 0; i < text.n; i++) {
        const unsigned char c = (unsigned char)text.p[i];
        buf_char(out, odd || (c > 0x20 && c < 0x7f) ? (char)c : instead);
    }
}

static inline void framed_headers(struct str *rest, struct buf *out)
{
    static const char *const NAMES[] = {"X-A", "Connection", "Keep-Alive", "Retry-After", "WWW-Authenticate",
                                        "Content-Type", "Authorization", "Expect"};
    for (unsigned i = fuzz_choice(rest, FRAMED_HEADERS + 1); i > 0; i--) {
        const char *name = NAMES[fuzz_choice(rest, sizeof NAMES / sizeof *NAMES)];
        const bool odd = fuzz_choice(rest, FRAMED_ODD) == 1;
        buf_printf(out, "%s: ", name);
        framed_text(fuzz_next(rest), odd, ',', out);
        buf_z(out, "\r\n");
    }
}

/* A body of the next text, in one of its frames, or without. */
static inline void framed_body(struct str *rest, bool chunked_may_be, struct buf *out)
{
    enum { LENGTH, CHUNKS, NONE, FRAMES };
    const unsigned frame = fuzz_choice(rest, FRAMES);
    struct str body = fuzz_next(rest);
    if (frame == NONE) {
        buf_z(out, "\r\n");
    } else if (frame == LENGTH || !chunked_may_be) {
        buf_printf(out, "Content-Length: %zu\r\n\r\n", body.n);
        buf_str(out, body);
    } else {
        buf_z(out, "Transfer-Encoding: chunked\r\n\r\n");
        while (body.n) {
            const size_t most = 1 + fuzz_choice(rest, 32), n = most < body.n ? most : body.n;
            buf_printf(out, fuzz_choice(rest, 2) ? "%zx\r\n" : "%zX\r\n", n);
            buf_bytes(out, body.p, n);
            buf_z(out, "\r\n");
            body = (struct str){body.p + n, body.n - n};
        }
        buf_z(out, "0\r\n\r\n");
    }
}

static inline void framed_request(struct str *rest, struct buf *out)
{
    static const char *const METHODS[] = {"POST", "POST", "GET", "PUT", "OPTIONS", "X"};
    const bool odd = fuzz_choice(rest, FRAMED_ODD) == 1, http11 = fuzz_choice(rest, FRAMED_ODD) != 1;
    buf_printf(out, "%s /", METHODS[fuzz_choice(rest, sizeof METHODS / sizeof *METHODS)]);
    if (fuzz_choice(rest, 2))
        buf_z(out, "keymanagement/identity/v1/");
    framed_text(fuzz_next(rest), odd, '/', out);
    buf_printf(out, " HTTP/1.%d\r\n", http11);
    if (http11 || fuzz_choice(rest, 2))
        buf_z(out, "Host: a\r\n");
    framed_headers(rest, out);
    framed_body(rest, http11, out);
}

static inline void framed_reply(struct str *rest, struct buf *out)
{
    const bool http11 = fuzz_choice(rest, FRAMED_ODD) != 1;
    const unsigned status = fuzz_choice(rest, 3) ? 200 + 2 * fuzz_choice(rest, 200) : 200;
    for (unsigned interim = fuzz_choice(rest, FRAMED_ODD); interim < 3 && interim > 0; interim--)
        buf_z(out, interim == 1 ? "HTTP/1.1 100 Continue\r\n\r\n" : "HTTP/1.1 103 Hints\r\nLink: x\r\n\r\n");
    buf_printf(out, "HTTP/1.%d %u ", http11, status);
    framed_text(fuzz_next(rest), false, ' ', out);
    buf_z(out, "\r\n");
    framed_headers(rest, out);
    framed_body(rest, http11, out);
}

/* Whether `look` arrives with the octets as they are, or else with what `make` makes of them. */
static inline void framed_input(const uint8_t *data, size_t size, bool (*look)(const uint8_t *data, size_t size),
                                void (*make)(struct str *rest, struct buf *out))
{
    bool arrived = look(data, size);
    if (!arrived) {
        struct buf made BUF_CLEANUP = BUF_INIT(FRAMED_ROOM);
        struct str rest = fuzz_view(data, size);
        for (int i = 0; i < FRAMED_MAX && (i == 0 || rest.n); i++)
            make(&rest, &made);
        must(!made.failed, "room");
        arrived = look((const uint8_t *)made.p, made.n);
    }
    fuzz_arrived(arrived);
}

#endif
