#include "message/kms_response_pieces.h"

/* Ways to write octets that are seldom met: lists of numbers, one number, base32. */

static bool decimal_digit(char c)
{
    return (unsigned)(c - '0') < 10;
}

/* Lists of numbers: octal, as `od` and escapes in strings have them, or decimal; those of languages whose octets have a
 * sign go from -128 to 127. */
static bool in_list(const struct pieces *t, struct str text, unsigned base)
{
    uint64_t word = 0, with_sign = 0;
    size_t count = 0;
    for (size_t i = 0; i < text.n; i++) {
        unsigned value = 0;
        const bool negative = base == 10 && i && text.p[i - 1] == '-';
        if (letter(text.p[i]) || ends(text.p[i]))
            count = 0;
        if (!decimal_digit(text.p[i]))
            continue;
        for (; i < text.n && decimal_digit(text.p[i]); i++) {
            const unsigned digit = (unsigned)(text.p[i] - '0');
            value = value > 255 || digit >= base ? 256 : value * base + digit;
        }
        i--;
        count = value > 255 ? 0 : count + 1;
        word = word << 8 | (value & 255);
        with_sign = with_sign << 8 | ((negative ? 256 - value : value) & 255);
        if (count >= PIECE && (is_piece(t, word) || is_piece(t, with_sign)))
            return true;
    }
    return false;
}

/* A number, decimal or octal, by what it leaves by 2^64. Below twenty digits it has no more than a piece. */
enum { NUMBER_MIN = 20 };
struct number {
    uint64_t decimal, octal;
    size_t digits;
};

static inline void number_add(struct number *n, char c)
{
    n->decimal = n->decimal * 10 + (unsigned)(c - '0');
    n->octal = n->octal << 3 | (unsigned)(c - '0');
    n->digits++;
}

static bool number_has(const struct pieces *t, const struct number *n)
{
    return n->digits >= NUMBER_MIN && (is_piece(t, n->decimal) || is_piece(t, n->octal));
}

/* A key as one number: its digits in a row, or with what stands between groups or at the ends of lines. */
static bool in_number(const struct pieces *t, struct str text)
{
    struct number row = {0}, all = {0};
    for (size_t i = 0; i < text.n; i++) {
        const char c = text.p[i];
        if (decimal_digit(c)) {
            number_add(&row, c);
            number_add(&all, c);
            if ((i + 1 == text.n || !decimal_digit(text.p[i + 1])) && (number_has(t, &row) || number_has(t, &all)))
                return true;
        } else {
            row = (struct number){0};
            if (letter(c) || ends(c))
                all = row;
        }
    }
    return false;
}

bool pieces_in_numbers(const struct pieces *t, struct str text)
{
    return in_list(t, text, 10) || in_list(t, text, 8) || in_number(t, text);
}

/*
 * RFC 4648's two alphabets of base32, letters of either case. Where a group of eight digits begins is not known: an
 * octet may end at every bit.
 */
enum { NO_DIGIT = 99 };
static unsigned base32_digit(char c, bool hex)
{
    const unsigned decimal = (unsigned)(c - '0'), alpha = (unsigned)((c | 0x20) - 'a');
    if (hex)
        return decimal < 10 ? decimal : alpha < 22 ? alpha + 10 : NO_DIGIT;
    return alpha < 26 ? alpha : decimal - 2 < 6 ? decimal - 2 + 26 : NO_DIGIT;
}

/* As groups of digits are parted, and lines. */
static bool between(char c)
{
    return c == ' ' || c == '-' || c == '\n' || c == '\r' || c == '\t' || c == ':' || c == ',';
}

/* The five places where a piece may end in the last digit. Seldom come to. */
static __attribute__((noinline)) bool ends_piece(const struct pieces *t, uint64_t high, uint64_t low)
{
    bool found = is_piece(t, low);
    for (unsigned bit = 1; bit < 5 && !found; bit++)
        found = is_piece(t, low >> bit | high << (64 - bit));
    return found;
}

static bool in_base32(const struct pieces *t, struct str text, bool hex)
{
    uint64_t high = 0, low = 0;
    size_t digits = 0;
    for (size_t i = 0; i < text.n; i++) {
        const unsigned digit = base32_digit(text.p[i], hex);
        if (digit == NO_DIGIT) {
            digits = between(text.p[i]) ? digits : 0;
            continue;
        }
        high = high << 5 | low >> 59;
        low = low << 5 | digit;
        if (++digits * 5 >= 64 + 4 && parts_have(t, low >> 5) && ends_piece(t, high, low))
            return true;
    }
    return false;
}

bool pieces_in_base32(const struct pieces *t, struct str text)
{
    return in_base32(t, text, false) || in_base32(t, text, true);
}
