/* Rows in PostgreSQL's binary form, from a server that is trusted with nothing. */
#include "fixture.h"

#include <endian.h>

#include "base/uri.h"
#include "keys/keydb_postgres.h"
#include "keys/keydb_postgres_target.h"

static void put16(struct buf *b, int v)
{
    const uint16_t wire = htobe16((uint16_t)v);
    buf_bytes(b, &wire, sizeof wire);
}

static void put32(struct buf *b, int v)
{
    const uint32_t wire = htobe32((uint32_t)v);
    buf_bytes(b, &wire, sizeof wire);
}

static void put64(struct buf *b, int64_t v)
{
    const uint64_t wire = htobe64((uint64_t)v);
    put32(b, 8);
    buf_bytes(b, &wire, sizeof wire);
}

static void put_small(struct buf *b, int v)
{
    put32(b, 2);
    put16(b, v);
}

static void put_text(struct buf *b, const char *z)
{
    put32(b, (int)strlen(z));
    buf_z(b, z);
}

/* A row of which one column is what the caller says. */
static void put_row(struct buf *b, int odd, void (*write)(struct buf *b))
{
    uint8_t sealed[KEY_SEALED];
    memset(sealed, 7, sizeof sealed);
    put16(b, PG_COLUMN_COUNT);
    for (int i = 0; i < PG_COLUMN_COUNT; i++)
        if (i == odd)
            write(b);
        else if (i == 0 || i == 1)
            put_text(b, i ? "ink.1" : ALICE);
        else if (i == 2 || i == 3 || i == 6 || i == 7)
            put_small(b, i == 3 ? KEY_RETIRING : i == 7);
        else if (i == 9)
            put_text(b, "trk.1\n");
        else if (i < 12)
            put64(b, i == 8 ? TIME_NONE : i == 11 ? 41 : 1000000);
        else {
            put32(b, sizeof sealed);
            buf_bytes(b, sealed, sizeof sealed);
        }
}

static void put_head(struct buf *b)
{
    buf_bytes(b, "PGCOPY\n\377\r\n", 11);
    put32(b, 0);
    put32(b, 0);
}

static bool count(void *arg, const struct key_row *row, struct detail *why)
{
    size_t *n = arg;
    (void)why;
    ++*n;
    return str_eq_z(row->user, ALICE) && str_eq_z(row->key.id, "ink.1") && row->key.state == KEY_RETIRING &&
           row->key.due && row->key.seq == 41 && row->key.keep_old == TIME_NONE && row->key.since == 1000000 &&
           str_eq_z(row->key.sent, "trk.1\n") && row->master == 1000000 && row->key.sealed[59] == 7;
}

/* Whole, and cut anywhere: the same rows. */
static void test_cut_anywhere(void **state)
{
    struct buf b BUF_CLEANUP = BUF_INIT(1 << 16);
    (void)state;
    put_head(&b);
    for (int i = 0; i < 3; i++)
        put_row(&b, -1, NULL);
    put16(&b, -1);
    for (size_t step = 1; step <= b.n; step += step < 64 ? 1 : 97) {
        struct pg_copy c = {.rest = BUF_INIT(PG_COPY_MAX)};
        struct detail why;
        size_t n = 0;
        for (size_t at = 0; at < b.n; at += step) {
            const struct str part = {b.p + at, b.n - at < step ? b.n - at : step};
            assert_int_equal(pg_copy_take(&c, part, count, &n, &why), KEYDB_OK);
        }
        assert_int_equal(n, 3);
        assert_true(c.ended);
        buf_free(&c.rest);
    }
}

static void null_value(struct buf *b)
{
    put32(b, -1);
}

static void no_octets(struct buf *b)
{
    put32(b, 0);
}

static void huge_length(struct buf *b)
{
    put32(b, 0x7fffffff);
}

static void long_text(struct buf *b)
{
    put32(b, 8000);
    for (int i = 0; i < 8000; i++)
        buf_char(b, 'x');
}

static void minus_one(struct buf *b)
{
    put_small(b, -1);
}

static void nine(struct buf *b)
{
    put_small(b, 9);
}

static void minus_two(struct buf *b)
{
    put64(b, -2);
}

static void beyond_the_table(struct buf *b)
{
    put64(b, INT64_C(1) << 40);
}

static void with_nul(struct buf *b)
{
    put32(b, 3);
    buf_bytes(b, "a\0b", 3);
}

/* One column at fault: the row never reaches anybody. */
static void test_each_fault(void **state)
{
    static const struct {
        int column;
        void (*write)(struct buf *b);
    } FAULTS[] = {{0, null_value}, {0, no_octets}, {0, long_text}, {0, with_nul}, {1, null_value}, {1, long_text},
                  {1, huge_length}, {2, minus_one}, {2, nine}, {3, nine}, {3, minus_two}, {4, null_value}, {4, nine},
                  {5, minus_two}, {6, nine}, {7, nine}, {8, minus_two}, {9, null_value}, {9, long_text},
                  {10, minus_two}, {10, beyond_the_table}, {11, minus_two}, {11, beyond_the_table}, {12, no_octets},
                  {12, long_text}, {12, null_value}};
    (void)state;
    for (size_t i = 0; i < sizeof FAULTS / sizeof *FAULTS; i++) {
        struct buf b BUF_CLEANUP = BUF_INIT(1 << 16);
        struct pg_copy c = {.rest = BUF_INIT(PG_COPY_MAX)};
        struct detail why = {{0}};
        size_t n = 0;
        put_head(&b);
        put_row(&b, FAULTS[i].column, FAULTS[i].write);
        put_row(&b, -1, NULL);
        assert_int_equal(pg_copy_take(&c, buf_view(&b), count, &n, &why), KEYDB_REFUSED);
        assert_int_equal(n, 0);
        assert_non_null(strstr(why.text, "not as kmsgate writes it"));
        buf_free(&c.rest);
    }
}

static void test_faults_of_the_stream(void **state)
{
    (void)state;
    for (int what = 0; what < 4; what++) {
        struct buf b BUF_CLEANUP = BUF_INIT(1 << 16);
        struct pg_copy c = {.rest = BUF_INIT(PG_COPY_MAX)};
        struct detail why = {{0}};
        size_t n = 0;
        if (what == 0)
            buf_bytes(&b, "PGCOPY\n\377\r\r\0\0\0\0\0\0\0\0", 19);
        else
            put_head(&b);
        put16(&b, what == 1 ? PG_COLUMN_COUNT - 1 : what == 2 ? -2 : -1);
        put16(&b, what == 3 ? -1 : 0);
        assert_int_equal(pg_copy_take(&c, buf_view(&b), count, &n, &why), KEYDB_REFUSED);
        buf_free(&c.rest);
    }
}

/* What is written as lists is read as rows: each column, in its own form. */
static void test_lists(void **state)
{
    const struct key_row row = {.user = STR(ALICE), .master = UINT32_MAX,
                                .key = {.type = KEY_TRK, .state = KEY_OFFERED, .origin = KEY_LEARNT, .due = true,
                                        .not_after = TIME_NONE, .since = TIME_NONE, .keep_old = 5, .seq = 9,
                                        .id = STR("trk.1"), .sent = STR("")}};
    const struct key_row *rows[] = {&row};
    struct pg_value v[PG_COLUMN_COUNT];
    struct buf b[PG_COLUMN_COUNT];
    struct key_row got;
    (void)state;
    for (unsigned i = 0; i < PG_COLUMN_COUNT; i++) {
        b[i] = BUF_INIT(1 << 12);
        assert_true(pg_put_list(rows, 1, i, &b[i]) >= PG_BYTEA_LIST);
        v[i] = (struct pg_value){b[i].p + 24, (int)b[i].n - 24};
    }
    assert_true(pg_take_row(v, &got));
    assert_true(str_eq_z(got.user, ALICE) && str_eq_z(got.key.id, "trk.1") && got.key.sent.n == 0);
    assert_true(got.key.type == KEY_TRK && got.key.state == KEY_OFFERED && got.key.origin == KEY_LEARNT && got.key.due);
    assert_true(got.key.not_after == TIME_NONE && got.key.since == TIME_NONE && got.key.keep_old == 5);
    assert_true(got.key.seq == 9 && got.master == UINT32_MAX);
    for (unsigned i = 0; i < PG_COLUMN_COUNT; i++)
        buf_free(&b[i]);
}

/* Nothing of a password, whatever it holds. */
static void test_mask(void **state)
{
    static const char *const URIS[][2] = {
        {"postgresql://u:secret@h/d", "postgresql://u:***@h/d"},
        {"postgresql://u:sec/ret@h/d", "postgresql://u:***@h/d"},
        {"postgresql://u:sec?ret@h/d?sslmode=require", "postgresql://u:***@h/d?sslmode=require"},
        {"postgresql://u:sec@ret@h/d", "postgresql://u:***@h/d"},
        {"postgresql://u:@h:5432/d", "postgresql://u:***@h:5432/d"},
        {"postgresql://u@h/d?password=secret&sslmode=require", "postgresql://u@h/d?password=***&sslmode=require"},
        {"postgresql://h/d?pass%77ord=secret", "postgresql://h/d?pass%77ord=***"},
        {"postgresql://h/d?sslpassword=secret&port=1", "postgresql://h/d?sslpassword=***&port=1"},
        {"postgresql://h/d?secret", "postgresql://h/d?***"},
        {"postgresql://h:5432/d", "postgresql://h:5432/d"},
        {"u:secret@h", "u:***@h"},
        {"", ""}};
    (void)state;
    for (size_t i = 0; i < sizeof URIS / sizeof *URIS; i++) {
        struct buf b BUF_CLEANUP = BUF_INIT(1 << 12);
        uri_mask(str_z(URIS[i][0]), &b);
        assert_string_equal(b.p ? b.p : "", URIS[i][1]);
    }
}

/* A second is too short for a handshake, and a minute is as long as anybody waits for one host. */
static void test_how_long_a_host_is_waited_for(void **state)
{
    static const struct {
        const char *given;
        int ms;
    } CASES[] = {{NULL, 3000}, {"0", 3000}, {"-1", 3000}, {"1", 2000}, {"2", 2000}, {"17", 17000}, {"60", 60000},
                 {"61", 60000}, {"999999999999", 60000}};
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        char *given = CASES[i].given ? strdup(CASES[i].given) : NULL;
        const struct pg_target t = {.timeout = given};
        assert_int_equal(pg_target_ms(&t), CASES[i].ms);
        free(given);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cut_anywhere), cmocka_unit_test(test_each_fault),
        cmocka_unit_test(test_faults_of_the_stream), cmocka_unit_test(test_lists), cmocka_unit_test(test_mask),
        cmocka_unit_test(test_how_long_a_host_is_waited_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
