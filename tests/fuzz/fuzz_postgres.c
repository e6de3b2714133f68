/*
 * Rows as a PostgreSQL server sends them by COPY, whole and cut at places that the bytes themselves choose: the same
 * rows, or the same refusal; and what is taken is within its bounds. The first byte chooses: the bytes as they are,
 * or as the values of rows that are framed as they must be, of which one is changed and the others are good.
 */
#include "fuzz.h"

#include <endian.h>

#include "keys/keydb_postgres.h"

enum { ROOM = 1 << 18, ROWS_MAX = 64 };

struct seen {
    enum keydb_result result;
    bool ended;
    size_t rows;
    uint64_t sum;
};

static bool each(void *arg, const struct key_row *row, struct detail *why)
{
    struct seen *s = arg;
    (void)why;
    must(row->user.n > 0 && row->user.n <= KEY_TEXT_MAX && row->key.id.n > 0 && row->key.id.n <= KEY_TEXT_MAX, "texts");
    must(row->key.sent.n <= KEY_SENT_MAX, "sent");
    s->rows++;
    s->sum = (s->sum ^ row->key.seq ^ row->user.n ^ row->key.id.n << 16 ^ (uint64_t)row->key.state << 32) *
             UINT64_C(0x100000001b3);
    return true;
}

static struct seen take(struct str text, bool cut)
{
    struct pg_copy c = {.rest = BUF_INIT(PG_COPY_MAX)};
    struct seen s = {.result = KEYDB_OK};
    struct detail why = {""};
    for (size_t at = 0; at < text.n && s.result == KEYDB_OK;) {
        size_t piece = cut ? 1 + (uint8_t)text.p[at] % 61u : text.n - at;
        piece = piece < text.n - at ? piece : text.n - at;
        char *exact = malloc(piece);
        must(exact, "no memory");
        memcpy(exact, text.p + at, piece);
        s.result = pg_copy_take(&c, (struct str){exact, piece}, each, &s, &why);
        free(exact);
        at += piece;
    }
    s.ended = c.ended;
    buf_free(&c.rest);
    must(s.result == KEYDB_OK || why.text[0], "refused without a word");
    return s;
}

static void put(struct buf *b, uint64_t v, int bytes)
{
    for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8)
        buf_char(b, (char)(v >> shift));
}

static void put_value(struct buf *b, const void *p, size_t n)
{
    put(b, n, 4);
    buf_bytes(b, p, n);
}

/* A good row, but for one column, which is `odd`; column 255: none. */
static void put_row(struct buf *b, unsigned column, struct str odd)
{
    static const struct { const char *p; size_t n; } GOOD[PG_COLUMN_COUNT] = {
        {"sip:alice@example.org", 21}, {"ink.1", 5}, {"\0\0", 2}, {"\0\1", 2}, {"\0\0\0\0\0\17\102\100", 8},
        {"\0\0\0\0\0\17\102\100", 8}, {"\0\0", 2}, {"\0\0", 2}, {"\200\0\0\0\0\0\0\0", 8}, {"trk.1\n", 6},
        {"\0\0\0\0\0\0\0\1", 8}, {"\0\0\0\0\0\0\0\51", 8},
        {"............................................................", KEY_SEALED}};
    put(b, PG_COLUMN_COUNT, 2);
    for (unsigned i = 0; i < PG_COLUMN_COUNT; i++)
        if (i == column)
            put_value(b, odd.p, odd.n);
        else
            put_value(b, GOOD[i].p, GOOD[i].n);
}

/* Rows whose odd columns are the bytes: a column's number, a length, so many bytes. */
static void put_rows(struct buf *b, struct str s)
{
    buf_bytes(b, "PGCOPY\n\377\r\n\0", 11);
    put(b, 0, 4);
    put(b, 0, 4);
    put_row(b, PG_COLUMN_COUNT, s);
    for (size_t rows = 0; s.n >= 2 && rows < ROWS_MAX; rows++) {
        const unsigned column = fuzz_choice(&s, PG_COLUMN_COUNT + 1);
        put_row(b, column, fuzz_next(&s));
    }
    put(b, 0xffff, 2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf made = BUF_INIT(ROOM);
    struct str text = fuzz_view(data + (size > 0), size ? size - 1 : 0);
    if (size && data[0] % 2) {
        put_rows(&made, text);
        must(!made.failed, "room");
        text = buf_view(&made);
    }
    const struct seen whole = take(text, false), cut = take(text, true);
    must(whole.result == cut.result && whole.rows == cut.rows && whole.sum == cut.sum && whole.ended == cut.ended,
         "%zu rows at once, %zu in pieces", whole.rows, cut.rows);
    fuzz_arrived(whole.rows > 0);
    buf_free(&made);
    return 0;
}
