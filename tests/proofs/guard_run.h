/* The program of guard.proof, behind the guard's own source. */
#include "proofs/holds.h"

static const struct limits_config LIMITS = {.body = 6, .target = 12, .header = 40, .headers = 120, .header_count = 4};
enum { INPUT_MAX = 512 };
static char input[INPUT_MAX];
static size_t input_n;
static unsigned long nodes, taken;

/* Fed in pieces: the first `cut` bytes, then the others at once, or each by itself. What came of it is left in g. */
static size_t feed(struct guard *g, size_t cut, bool bytes)
{
    char *exact = malloc(input_n); /* what reads beyond it is seen */
    size_t at = 0;
    memcpy(exact, input, input_n);
    guard_init(g, &LIMITS);
    while (at < input_n && g->state != GUARD_DONE && g->state != GUARD_REFUSED) {
        const size_t upto = bytes ? at + 1 : at < cut ? cut : input_n;
        const enum guard_state before = g->state;
        const size_t used = guard_feed(g, exact + at, upto - at);
        holds(used <= upto - at && (used > 0 || g->state != before), input, input_n);
        at += used;
    }
    free(exact);
    return at;
}

static bool same(struct str a, const char *p, size_t n)
{
    return a.n == n && (n == 0 || memcmp(a.p, p, n) == 0);
}

static void hold_against_the_rfc(const struct guard *g, size_t at)
{
    const struct rfc_reading r = rfc_read(input, input_n);
    if (g->state == GUARD_DONE) {
        holds(r.verdict == RFC_TAKEN, input, input_n);
        holds(r.end == at, input, input_n);
        holds(same(g->method, input + r.method, r.method_n), input, input_n);
        holds(same(g->target, input + r.target, r.target_n), input, input_n);
        holds(same(buf_view(&g->body), r.body, r.body_n), input, input_n);
        taken++;
    } else if (g->state != GUARD_REFUSED) {
        holds(at == input_n, input, input_n);
        holds(r.verdict != RFC_TAKEN, input, input_n); /* nobody's request ends where the guard's goes on */
    }
}

/* Reads the input in every way; true when what follows can still change what it is. */
static bool look(size_t last)
{
    struct guard whole, other;
    const size_t at = feed(&whole, input_n, false);
    nodes++;
    hold_against_the_rfc(&whole, at);
    for (size_t cut = input_n - last; cut <= input_n; cut++) {
        const size_t there = feed(&other, cut, cut == input_n);
        holds(there == at && other.state == whole.state && other.reason == whole.reason, input, input_n);
        holds(same(buf_view(&other.body), whole.body.p, whole.body.n), input, input_n);
        guard_free(&other);
    }
    const bool open = whole.state == GUARD_HEAD || whole.state == GUARD_BODY;
    guard_free(&whole);
    return open;
}

static void put(const char *p, size_t n)
{
    memcpy(input + input_n, p, n);
    input_n += n;
}

static void pieces(unsigned depth)
{
#define PIECE(text) {text, sizeof text - 1}
    static const struct { const char *p; size_t n; } PIECES[] = {
        PIECE("GET / HTTP/1.1\r\n"), PIECE("POST /a HTTP/1.0\r\n"), PIECE("A  HTTP/1.1\r\n"), PIECE("Host: a\r\n"),
        PIECE("Content-Length: 2\r\n"), PIECE("content-length:0\r\n"), PIECE("Content-Length: +2\r\n"),
        PIECE("Content-Length: 2, 2\r\n"), PIECE("Content-Length : 2\r\n"), PIECE("Content-Length: 7\r\n"),
        PIECE("Transfer-Encoding: chunked\r\n"), PIECE("Transfer-Encoding: x, chunked\r\n"),
        PIECE("transfer-encoding:\tChunked \r\n"), PIECE(" folded: 1\r\n"), PIECE("X: \0\r\n"),
        PIECE("Expect: 100-continue\r\n"),
        PIECE("\r\n"), PIECE("\n"), PIECE("\r"), PIECE("2\r\n"), PIECE("0\r\n"), PIECE("ab"), PIECE("0;a\r\n"),
        PIECE("T: 1"),
    };
    for (size_t i = 0; i < sizeof PIECES / sizeof *PIECES; i++) {
        const size_t before = input_n;
        put(PIECES[i].p, PIECES[i].n);
        if (look(PIECES[i].n) && depth > 1)
            pieces(depth - 1);
        input_n = before;
    }
}

/* Any byte, so many times; of a body's data, which nobody looks at, four that might be taken for something. */
static void bytes(unsigned depth)
{
    static const char DATA[] = {'\0', '\r', '\n', '0'};
    struct guard g;
    feed(&g, input_n, false);
    const bool data = g.state == GUARD_BODY && (!g.chunked || g.chunks.state == CHUNK_DATA);
    guard_free(&g);
    for (int c = 0; c < (data ? 4 : 256); c++) {
        const char byte = data ? DATA[c] : (char)c;
        put(&byte, 1);
        if (look(1) && depth > 1)
            bytes(depth - 1);
        input_n--;
    }
}

static void behind(const char *head, unsigned depth)
{
    input_n = 0;
    put(head, strlen(head));
    bytes(depth);
    input_n = 0;
}

int main(int argc, char **argv)
{
    const unsigned deeper = argc > 1 ? 1 : 0;
    (void)argv;
    pieces(4 + deeper);
    put("POST / HTTP/1.1\r\nHost: a\r\n", 26);
    pieces(4 + deeper);
    put("Content-Length: 2\r\n", 19);
    pieces(4 + deeper);
    input_n -= 19;
    put("Transfer-Encoding: chunked\r\n\r\n", 30);
    pieces(7 + deeper);
    behind("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 7 + 4 * deeper);
    behind("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n", 4);
    behind("GET / HTTP/1.1\r\nHost: a\r\n", 1 + deeper);
    behind("GET / HTTP/1.1\r\nHost: a\r\nContent-Length:", 1 + deeper);
    behind("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r", 1 + deeper);
    behind("GET / HTTP/1.", 2 + deeper);
    behind("", 1 + deeper);
    printf("%lu inputs, %lu of them taken: one reading of each\n", nodes, taken);
    return 0;
}
