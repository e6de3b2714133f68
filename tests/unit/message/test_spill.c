/* Keys beside their place: what is found in a text, and what is not. */
#include "fixture.h"

#include "message/kms_response_spill.h"

static enum spill_result look(const uint8_t *octets, size_t n, struct str text)
{
    struct spill s;
    spill_init(&s);
    spill_key(&s, octets, n);
    spill_text(&s, STR("sip:alice@example.org"));
    spill_text(&s, text);
    const enum spill_result r = spill_look(&s);
    spill_free(&s);
    return r;
}

static void fill(uint8_t octets[257])
{
    uint32_t x = 7;
    for (size_t i = 0; i < 257; i++) {
        x = x * 1664525 + 1013904223;
        octets[i] = (uint8_t)(x >> 24);
    }
}

/* Every stretch of fifteen octets, wherever it begins, in hex of either case and in base64 at each phase. */
static void test_stretches(void **state)
{
    (void)state;
    uint8_t key[257], shifted[32];
    fill(key);
    for (size_t from = 0; from + 15 <= sizeof key; from++) {
        for (unsigned phase = 0; phase < 3; phase++) {
            struct buf text = BUF_INIT(1024);
            memset(shifted, 0x5a, sizeof shifted);
            memcpy(shifted + phase, key + from, 15);
            buf_base64(&text, shifted, phase + 15);
            assert_int_equal(look(key, sizeof key, buf_view(&text)), SPILL_FOUND);
            buf_reset(&text);
            buf_z(&text, phase == 1 ? "a" : ""); /* an odd digit before it */
            buf_hex(&text, key + from, 15, phase == 2);
            assert_int_equal(look(key, sizeof key, buf_view(&text)), SPILL_FOUND);
            buf_free(&text);
        }
    }
}

static void test_separated(void **state)
{
    (void)state;
    uint8_t key[257];
    struct buf text = BUF_INIT(2048);
    fill(key);
    for (size_t i = 0; i < 32; i++) {
        buf_hex(&text, key + i, 1, false);
        buf_z(&text, i % 4 == 3 ? "\n " : ":");
    }
    assert_int_equal(look(key, 32, buf_view(&text)), SPILL_FOUND);
    buf_free(&text);
}

static void as_dressed(struct buf *text, const uint8_t *octets, size_t n, const char *format, const char *between)
{
    for (size_t i = 0; i < n; i++) {
        buf_z(text, i ? between : "");
        if (strcmp(format, "signed") == 0)
            buf_printf(text, "%d", (int)(int8_t)octets[i]);
        else if (strcmp(format, "decimal") == 0)
            buf_printf(text, "%u", octets[i]);
        else if (strcmp(format, "octal") == 0)
            buf_printf(text, "%03o", octets[i]);
        else if (strcmp(format, "escape") == 0)
            buf_printf(text, "\\%o", octets[i]);
        else
            buf_printf(text, "%s%02x", format, octets[i]);
    }
}

/* As programs write octets: each way finds its fifteen, and not another key's. */
static void test_dresses(void **state)
{
    static const struct {
        const char *format, *between;
    } DRESSES[] = {{"", "."}, {"", ";"}, {"", " - "}, {"0x", ", "}, {"0x", ",\n"}, {"\\x", ""}, {"0x", ""},
                   {"decimal", ","}, {"decimal", " "}, {"decimal", "."}, {"signed", ", "}, {"signed", ";"},
                   {"octal", " "}, {"octal", ","}, {"escape", ""}};
    uint8_t key[257];
    (void)state;
    fill(key);
    for (size_t i = 0; i < sizeof DRESSES / sizeof DRESSES[0]; i++)
        for (size_t from = 0; from + 15 <= 64; from++) {
            struct buf text = BUF_INIT(4096);
            buf_z(&text, "key = { ");
            as_dressed(&text, key + from, 15, DRESSES[i].format, DRESSES[i].between);
            buf_z(&text, " }");
            if (look(key, 64, buf_view(&text)) != SPILL_FOUND)
                fail_msg("not found: %s", text.p);
            if (look(key + 128, 64, buf_view(&text)) != SPILL_NONE)
                fail_msg("found, and not there: %s", text.p);
            buf_free(&text);
        }
    for (unsigned upper = 0; upper < 2; upper++)
        for (unsigned phase = 0; phase < 3; phase++) { /* base64 of hex */
            struct buf hex = BUF_INIT(4096), text = BUF_INIT(4096);
            buf_z(&hex, phase == 0 ? "" : phase == 1 ? "k" : "k:");
            buf_hex(&hex, key, 32, upper);
            buf_base64(&text, hex.p, hex.n);
            assert_int_equal(look(key, 32, buf_view(&text)), SPILL_FOUND);
            assert_int_equal(look(key + 32, 32, buf_view(&text)), SPILL_NONE);
            buf_free(&hex);
            buf_free(&text);
        }
}

/* A key as one number of a base up to ten; between: what stands behind each third digit. */
static void as_number(struct buf *text, const uint8_t *octets, size_t n, unsigned base, const char *between)
{
    uint8_t digits[1024], rest[257];
    size_t count = 0;
    memcpy(rest, octets, n);
    for (size_t from = 0; from < n;) {
        unsigned carry = 0;
        for (size_t i = from; i < n; i++) {
            carry = carry << 8 | rest[i];
            rest[i] = (uint8_t)(carry / base);
            carry %= base;
        }
        digits[count++] = (uint8_t)carry;
        while (from < n && rest[from] == 0)
            from++;
    }
    while (count--) {
        buf_printf(text, "%u", digits[count]);
        buf_z(text, count && count % 3 == 0 ? between : "");
    }
}

/* A whole key as one number: of each length, alone or beside another number, in a row or in groups. */
static void test_numbers(void **state)
{
    static const size_t LENGTHS[] = {32, 65, 257};
    static const char *const BETWEEN[] = {"", ",", "_", "\\\n"};
    uint8_t key[257], other[257];
    (void)state;
    fill(key);
    for (size_t i = 0; i < sizeof key; i++)
        other[i] = key[sizeof key - 1 - i];
    for (size_t l = 0; l < 3; l++)
        for (size_t b = 0; b < 4; b++)
            for (unsigned base = 8; base <= 10; base += 2) {
                struct buf text = BUF_INIT(4096);
                const size_t n = LENGTHS[l];
                buf_z(&text, b == 0 ? "7 " : "key ");
                as_number(&text, key, n, base, BETWEEN[b]);
                if (look(key, n, buf_view(&text)) != SPILL_FOUND)
                    fail_msg("not found: %s", text.p);
                buf_z(&text, "."); /* something behind it */
                assert_int_equal(look(key, n, buf_view(&text)), SPILL_FOUND);
                assert_int_equal(look(other, n, buf_view(&text)), SPILL_NONE);
                text.p[text.n - 1] = '1'; /* another number; of an octal one most is still the key's */
                if (base == 10)
                    assert_int_equal(look(key, n, buf_view(&text)), SPILL_NONE);
                buf_free(&text);
            }
}

static void as_base32(struct buf *text, const uint8_t *octets, size_t n, const char *alphabet)
{
    unsigned held = 0, bits = 0;
    for (size_t i = 0; i < n; i++) {
        held = (held << 8 | octets[i]) & 0xffff;
        for (bits += 8; bits >= 5; bits -= 5)
            buf_char(text, alphabet[held >> (bits - 5) & 31]);
    }
    if (bits > 0)
        buf_char(text, alphabet[held << (5 - bits) & 31]);
}

/* Every stretch of sixteen octets, at each phase, in both alphabets and cases; its twin is of another key. */
static void test_base32(void **state)
{
    static const char *const ALPHABETS[] = {"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", "0123456789ABCDEFGHIJKLMNOPQRSTUV",
                                            "abcdefghijklmnopqrstuvwxyz234567", "0123456789abcdefghijklmnopqrstuv"};
    uint8_t key[257], shifted[32];
    (void)state;
    fill(key);
    for (size_t from = 0; from + 16 <= 64; from++)
        for (size_t a = 0; a < 4; a++)
            for (unsigned phase = 0; phase < 5; phase++) {
                struct buf text = BUF_INIT(1024);
                memset(shifted, 0x5a, sizeof shifted);
                memcpy(shifted + phase, key + from, 16);
                buf_z(&text, "k=");
                as_base32(&text, shifted, phase + 16, ALPHABETS[a]);
                if (look(key, 64, buf_view(&text)) != SPILL_FOUND)
                    fail_msg("not found: %s", text.p);
                assert_int_equal(look(key + 128, 64, buf_view(&text)), SPILL_NONE);
                buf_char(&text, '='); /* what follows its end does not matter, what parts it does */
                assert_int_equal(look(key, 64, buf_view(&text)), SPILL_FOUND);
                text.p[2 + (phase * 8 + 64) / 5] = '=';
                assert_int_equal(look(key, 64, buf_view(&text)), SPILL_NONE);
                buf_free(&text);
            }
    struct buf text = BUF_INIT(1024), groups = BUF_INIT(1024);
    as_base32(&text, key, 32, ALPHABETS[0]);
    for (size_t i = 0; i < text.n; i++) {
        buf_char(&groups, text.p[i]);
        buf_z(&groups, i % 4 == 3 ? "-" : "");
    }
    assert_int_equal(look(key, 32, buf_view(&groups)), SPILL_FOUND);
    buf_free(&text);
    buf_free(&groups);
}

/* A key of one piece, and its hex, in base64: wherever it ends in the last digit, nothing else is there to be found. */
static void test_one_piece(void **state)
{
    uint8_t key[257];
    (void)state;
    fill(key);
    for (unsigned hex = 0; hex < 3; hex++)
        for (unsigned phase = 0; phase < 3; phase++) {
            struct buf octets = BUF_INIT(4096), text = BUF_INIT(4096);
            buf_bytes(&octets, "kk", phase);
            if (hex)
                buf_hex(&octets, key, 8, hex == 2);
            else
                buf_bytes(&octets, key, 8);
            buf_base64(&text, octets.p, octets.n);
            assert_int_equal(look(key, 8, buf_view(&text)), SPILL_FOUND);
            assert_int_equal(look(key + 8, 8, buf_view(&text)), SPILL_NONE);
            buf_free(&octets);
            buf_free(&text);
        }
}

/* The twins: another key, a short stretch, digits broken by something else, constant keys. */
static void test_not_found(void **state)
{
    (void)state;
    uint8_t key[257], zeros[32] = {0}, same[32];
    struct buf text = BUF_INIT(2048);
    fill(key);
    buf_hex(&text, key + 32, 32, true);
    buf_char(&text, ' ');
    buf_base64(&text, key + 64, 32);
    assert_int_equal(look(key, 32, buf_view(&text)), SPILL_NONE);
    buf_reset(&text);
    buf_hex(&text, key, 7, true);
    buf_char(&text, 'x');
    buf_hex(&text, key + 7, 7, true);
    assert_int_equal(look(key, 32, buf_view(&text)), SPILL_NONE);
    buf_reset(&text);
    memset(same, 0x22, sizeof same);
    buf_hex(&text, zeros, 32, true);
    buf_hex(&text, same, 32, true);
    assert_int_equal(look(zeros, 32, buf_view(&text)), SPILL_NONE);
    assert_int_equal(look(same, 32, buf_view(&text)), SPILL_NONE);
    assert_int_equal(look(key, 7, STR("")), SPILL_NONE);
    buf_free(&text);
}

/* Texts that come one after the other are not one text. */
static void test_texts_apart(void **state)
{
    (void)state;
    uint8_t key[257];
    struct spill s;
    struct buf text = BUF_INIT(2048);
    fill(key);
    buf_hex(&text, key, 8, true);
    spill_init(&s);
    for (size_t i = 0; i < 257; i++)
        spill_key(&s, key, 257);
    spill_text(&s, (struct str){text.p, 8});
    spill_text(&s, (struct str){text.p + 8, 8});
    assert_int_equal(spill_look(&s), SPILL_NONE);
    spill_text(&s, buf_view(&text));
    assert_int_equal(spill_look(&s), SPILL_FOUND);
    spill_free(&s);
    buf_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_stretches), cmocka_unit_test(test_separated),
                                       cmocka_unit_test(test_dresses), cmocka_unit_test(test_numbers),
                                       cmocka_unit_test(test_base32), cmocka_unit_test(test_one_piece),
                                       cmocka_unit_test(test_not_found), cmocka_unit_test(test_texts_apart)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
