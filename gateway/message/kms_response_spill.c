#include "message/kms_response_spill.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

#include "base/limits.h"
#include "base/locked.h"
#include "base/random.h"
#include "base/secret.h"

/*
 * Keys are remembered in pieces of eight octets, which any stretch of fifteen holds one of whole. Texts are read as hex
 *, base64 and decimal numbers with a window of as many octets, at each place where a piece might end; what people put
 * between digits is passed over. A piece of eight equal octets is none: test keys and zeros prove nothing.
 */
enum { PIECE = 8, PIECES_MAX = 1u << 20, TEXTS_MAX = LIMIT_REPLY_OUT };

void spill_init(struct spill *s)
{
    s->some_pieces_n = s->some_texts_n = 0;
    s->pieces = BUF_INIT_KEYS((size_t)PIECES_MAX * PIECE);
    s->texts = BUF_INIT_KEYS(TEXTS_MAX);
    s->lasting = STR("");
}

void spill_free(struct spill *s)
{
    secret_wipe(s->some_pieces, s->some_pieces_n * sizeof *s->some_pieces);
    secret_wipe(s->some_texts, s->some_texts_n);
    buf_free(&s->pieces);
    buf_free(&s->texts);
}

void spill_key(struct spill *s, const uint8_t *octets, size_t n)
{
    for (size_t i = 0; i + PIECE <= n; i += PIECE) {
        uint64_t piece;
        memcpy(&piece, octets + i, sizeof piece);
        piece = be64toh(piece);
        if (piece == (piece << 8 | piece >> 56))
            continue;
        if (s->some_pieces_n < SPILL_PIECES)
            s->some_pieces[s->some_pieces_n++] = piece;
        else
            buf_bytes(&s->pieces, &piece, sizeof piece);
    }
}

void spill_text(struct spill *s, struct str text)
{
    if (text.n < sizeof s->some_texts - s->some_texts_n) {
        memcpy(s->some_texts + s->some_texts_n, text.p, text.n);
        s->some_texts[s->some_texts_n + text.n] = '\0';
        s->some_texts_n += text.n + 1;
        return;
    }
    buf_str(&s->texts, text);
    buf_char(&s->texts, '\0');
}

void spill_texts(struct spill *s, struct str texts)
{
    s->lasting = texts;
}

/*
 * The pieces, in a table: 0 is an empty place. It is found by the low seven octets, which of a text of base64 are known
 * before the first. The factor is random, so that no sender can crowd others in one place than those that differ in
 * the first octet alone: at most 256.
 * What is known of a few bits of a word is enough to pass over most. They, too, stand at a place that is random for
 * each reply: which lines of the cache are written tells nobody what a key is.
 */
enum { FEW_PLACES = 256, PARTS_BITS = 14, PARTS = 1 << PARTS_BITS, PARTS_WORDS = PARTS / 64 };
struct pieces {
    uint64_t *v, factor, offset;
    size_t places;
    unsigned shift;
    uint64_t parts[PARTS_WORDS]; /* a bit for each value of the fourteen above a last digit of base64 */
    uint64_t few[FEW_PLACES]; /* v, where that is enough */
};

static inline size_t first_place(const struct pieces *t, uint64_t word)
{
    return (size_t)((word << 8) * t->factor >> t->shift);
}

static size_t place_of(const struct pieces *t, uint64_t piece)
{
    size_t at = first_place(t, piece);
    while (t->v[at] && t->v[at] != piece)
        at = (at + 1) & (t->places - 1);
    return at;
}

/* No piece is 0. Nearly every word's place is empty. */
static inline bool is_piece(const struct pieces *t, uint64_t word)
{
    return t->v[first_place(t, word)] && word && t->v[place_of(t, word)] == word;
}

/* But for the first octet. */
static bool may_be_piece(const struct pieces *t, uint64_t word)
{
    size_t at = first_place(t, word);
    while (t->v[at] && (t->v[at] ^ word) << 8)
        at = (at + 1) & (t->places - 1);
    return t->v[at];
}

/* The place of the lowest fourteen bits. */
static inline size_t part_at(const struct pieces *t, uint64_t part)
{
    return (size_t)((part * t->factor + t->offset) % PARTS);
}

static inline void parts_put(struct pieces *t, uint64_t part)
{
    const size_t at = part_at(t, part);
    t->parts[at / 64] |= UINT64_C(1) << at % 64;
}

static inline bool parts_have(const struct pieces *t, uint64_t part)
{
    const size_t at = part_at(t, part);
    return t->parts[at / 64] >> at % 64 & 1;
}

static void pieces_put(struct pieces *t, const void *from, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint64_t piece;
        memcpy(&piece, (const char *)from + i * sizeof piece, sizeof piece);
        t->v[place_of(t, piece)] = piece;
        parts_put(t, piece >> 2);
        parts_put(t, piece >> 4);
        parts_put(t, piece >> 6);
    }
}

static bool pieces_make(struct pieces *t, const struct spill *s)
{
    const size_t more = s->pieces.n / sizeof(uint64_t), n = s->some_pieces_n + more;
    t->shift = 60; /* sixteen places at first; four times as many as pieces in the end */
    while ((size_t)1 << (64 - t->shift) < 4 * n)
        t->shift--;
    t->places = (size_t)1 << (64 - t->shift);
    if (t->places <= FEW_PLACES) {
        memset(t->few, 0, t->places * sizeof *t->few);
        t->v = t->few;
    } else {
        t->v = locked_alloc(t->places * sizeof *t->v);
    }
    if (!t->v || !random_bytes(&t->factor, sizeof t->factor))
        return false;
    t->factor |= 1;
    t->offset = t->factor >> (64 - PARTS_BITS); /* which the lowest bits of a product do not hang on */
    memset(t->parts, 0, sizeof t->parts);
    pieces_put(t, s->some_pieces, s->some_pieces_n);
    pieces_put(t, s->pieces.p, more);
    return true;
}

static void pieces_free(struct pieces *t)
{
    if (!t->v)
        return;
    secret_wipe(t->parts, sizeof t->parts);
    if (t->v == t->few)
        secret_wipe(t->few, t->places * sizeof *t->few);
    else
        locked_free(t->v);
}

/* Digits of hex; else NONE. */
enum { NONE = 99, BETWEEN = 98 };
static unsigned hex_digit(char c)
{
    const unsigned decimal = (unsigned)(c - '0'), letter = (unsigned)((c | 0x20) - 'a');
    return decimal < 10 ? decimal : letter < 6 ? letter + 10 : NONE;
}

/* Where one text ends and the next begins: nothing is read across. */
static bool ends(char c)
{
    return c == '\0';
}

static bool letter(char c)
{
    return (unsigned)((c | 0x20) - 'a') < 26;
}

static bool decimal_digit(char c)
{
    return (unsigned)(c - '0') < 10;
}

/* Between two digits may stand anything but letters; 0x and \x before each is how programs write octets. */
static bool in_hex(const struct pieces *t, struct str text)
{
    uint64_t word = 0;
    size_t digits = 0;
    for (size_t i = 0; i < text.n; i++) {
        const char c = text.p[i], before = i ? text.p[i - 1] : '\0';
        const unsigned digit = hex_digit(c);
        if (digit != NONE) {
            word = word << 4 | digit;
            if (++digits >= 2 * PIECE && is_piece(t, word))
                return true;
        } else if ((c | 0x20) == 'x' && (before == '\\' || (before == '0' && digits > 0))) {
            word >>= before == '0' ? 4 : 0;
            digits -= before == '0';
        } else if (letter(c) || ends(c)) {
            digits = 0;
        }
    }
    return false;
}

/* Lists of decimal numbers; those of languages whose octets have a sign go from -128 to 127. */
static bool in_decimal(const struct pieces *t, struct str text)
{
    uint64_t word = 0, with_sign = 0;
    size_t count = 0;
    for (size_t i = 0; i < text.n; i++) {
        unsigned value = 0;
        const size_t from = i;
        if (letter(text.p[i]) || ends(text.p[i]))
            count = 0;
        if (!decimal_digit(text.p[i]))
            continue;
        for (; i < text.n && decimal_digit(text.p[i]); i++)
            value = value > 255 ? value : value * 10 + (unsigned)(text.p[i] - '0');
        i--;
        count = value > 255 ? 0 : count + 1;
        word = word << 8 | (value & 255);
        with_sign = with_sign << 8 | ((from && text.p[from - 1] == '-' ? 256 - value : value) & 255);
        if (count >= PIECE && (is_piece(t, word) || is_piece(t, with_sign)))
            return true;
    }
    return false;
}

/* Eight numbers of one digit each, and what stands between them; eleven digits of base64: no piece is in less. */
enum { NUMBERS_MIN = 2 * PIECE - 1, BASE64_MIN = 11 };

/* One more than the digit of base64 and of its form for URLs, or than BETWEEN: what may stand between two. */
static const unsigned char BASE64_DIGITS[256] = {
    [' '] = BETWEEN + 1, ['\t'] = BETWEEN + 1, ['\r'] = BETWEEN + 1, ['\n'] = BETWEEN + 1, [':'] = BETWEEN + 1,
    [','] = BETWEEN + 1,
    ['A'] = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26,
    ['a'] = 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52,
    ['0'] = 53, 54, 55, 56, 57, 58, 59, 60, 61, 62,
    ['+'] = 63, ['-'] = 63, ['/'] = 64, ['_'] = 64,
};

/* Eight digits of hex, one in each octet of `text`: the four octets that they stand for. */
static bool from_hex(uint64_t text, uint64_t *octets)
{
    for (unsigned k = 0; k < PIECE; k++) {
        const unsigned digit = hex_digit((char)(text >> (64 - 8 * (k + 1))));
        if (digit == NONE)
            return false;
        *octets = *octets << 4 | digit;
    }
    return true;
}

/* The last bits of a text of base64: as many as hex of a piece takes with what may lie beside it. */
struct window {
    uint64_t top, high, low;
    size_t digits; /* in a row, as far as nothing else stood between */
};

/* A piece ends `bit` bits before the window's end; or hex of one does, which takes twice as much. */
static bool window_has(const struct pieces *t, const struct window *w, unsigned bit)
{
    const uint64_t word = bit ? w->low >> bit | w->high << (64 - bit) : w->low;
    uint64_t octets = 0;
    if (6 * w->digits < 64 + bit)
        return false;
    if (is_piece(t, word))
        return true;
    if (6 * w->digits < 128 + bit)
        return false;
    const uint64_t before = bit ? w->high >> bit | w->top << (64 - bit) : w->high;
    return from_hex(before, &octets) && from_hex(word, &octets) && is_piece(t, octets);
}

/* The window whose last digit is text's last octet. What stands between digits is passed over once more, for as many
 * digits as there are in a window. */
static struct window window_of(struct str text, size_t digits)
{
    enum { DIGITS = 192 / 6, WORD = 64 };
    uint64_t v[192 / WORD + 1] = {0};
    const unsigned due = digits < DIGITS ? (unsigned)digits : DIGITS;
    for (unsigned n = 0; n < due; text.n--) {
        const uint64_t digit = BASE64_DIGITS[(unsigned char)text.p[text.n - 1]] - 1u;
        const unsigned word = 6 * n / WORD, at = 6 * n % WORD;
        if (digit == BETWEEN)
            continue;
        v[word] |= digit << at;
        if (at > WORD - 6)
            v[word + 1] |= digit >> (WORD - at);
        n++;
    }
    return (struct window){v[2], v[1], v[0], digits};
}

/* Where a group of four digits begins is not known: an octet may end at every second bit. Seldom come to. */
static __attribute__((noinline)) bool holds_piece(const struct pieces *t, struct str text, size_t digits)
{
    const struct window w = window_of(text, digits);
    return window_has(t, &w, 0) || window_has(t, &w, 2) || window_has(t, &w, 4);
}

/* False: the seven octets that end `bit` bits before the end are not all digits of hex: those have no bit 7, and bit 5
 * or bit 6. */
static inline bool may_be_hex(uint64_t low, unsigned bit)
{
    const uint64_t bit7 = UINT64_C(0x80808080808080) << bit, bit6 = bit7 >> 1;
    return !(low & bit7) && ((low | low << 1) & bit6) == bit6;
}

/* False: no piece ends in the last digit. Seldom come to, but for texts that repeat themselves. */
static __attribute__((noinline)) bool may_end_piece(const struct pieces *t, uint64_t low)
{
    return may_be_piece(t, low) || may_be_piece(t, low >> 2) || may_be_piece(t, low >> 4);
}

/* False: neither a piece ends in the last digit, nor hex of one. Of a piece the bits above that digit are known
 * wherever in it the piece ends; the topmost octet of eight may lie in part above `low`. */
static inline bool may_hold_piece(const struct pieces *t, uint64_t low)
{
    if (parts_have(t, low >> 6) && may_end_piece(t, low))
        return true;
    return may_be_hex(low, 0) || may_be_hex(low, 2) || may_be_hex(low, 4);
}

static bool in_base64(const struct pieces *t, struct str text)
{
    uint64_t low = 0;
    size_t digits = 0;
    for (size_t i = 0; i < text.n; i++) {
        const unsigned digit = BASE64_DIGITS[(unsigned char)text.p[i]] - 1u;
        if (digit >= BETWEEN) {
            digits = digit == BETWEEN ? digits : 0;
            continue;
        }
        low = low << 6 | digit;
        if (++digits >= BASE64_MIN && may_hold_piece(t, low) &&
            holds_piece(t, (struct str){text.p, i + 1}, digits))
            return true;
    }
    return false;
}

/*
 * Nearly no text can hold a piece, since nearly each is short or broken by what stands in it: a look from the end of
 * each stretch that would be long enough tells. What ends numbers makes their readers begin anew, what is not of base64
 * that of base64. Those of hex go on where those of decimal numbers begin anew: at the letters that are digits, and x.
 */
enum { ENDS_HEX = 1, ENDS_DECIMAL = 2, OF_BASE64 = 4 };
#define ENDS_NUMBERS (ENDS_HEX | ENDS_DECIMAL)
#define BASE64_ALONE (ENDS_NUMBERS | OF_BASE64)
#define BASE64_HEX (ENDS_DECIMAL | OF_BASE64)
static const unsigned char STRETCHES[256] = {
    ['\0'] = ENDS_NUMBERS, ['\t'] = OF_BASE64, ['\n'] = OF_BASE64, ['\r'] = OF_BASE64, [' '] = OF_BASE64,
    [','] = OF_BASE64, [':'] = OF_BASE64, ['+'] = OF_BASE64, ['-'] = OF_BASE64, ['/'] = OF_BASE64, ['_'] = OF_BASE64,
    ['0' ... '9'] = OF_BASE64,
    ['A' ... 'F'] = BASE64_HEX, ['G' ... 'W'] = BASE64_ALONE, ['X'] = BASE64_HEX, ['Y' ... 'Z'] = BASE64_ALONE,
    ['a' ... 'f'] = BASE64_HEX, ['g' ... 'w'] = BASE64_ALONE, ['x'] = BASE64_HEX, ['y' ... 'z'] = BASE64_ALONE,
};

static bool has_stretch(struct str text, unsigned kind, size_t length)
{
    const unsigned due = kind == OF_BASE64 ? OF_BASE64 : 0;
    size_t from = 0, known = 0; /* all in [from, known) is of the kind */
    while (text.n - from >= length) {
        size_t i = from + length;
        while (i > known && (STRETCHES[(unsigned char)text.p[i - 1]] & kind) == due)
            i--;
        if (i <= known)
            return true;
        known = from + length;
        from = i;
    }
    return false;
}

static enum spill_result look_through(const struct spill *s, struct pieces *t, struct str text)
{
    if (text.n < BASE64_MIN)
        return SPILL_NONE;
    const bool hex = has_stretch(text, ENDS_HEX, NUMBERS_MIN);
    const bool decimal = hex && has_stretch(text, ENDS_DECIMAL, NUMBERS_MIN);
    const bool base64 = has_stretch(text, OF_BASE64, BASE64_MIN);
    if ((hex || base64) && !t->v && !pieces_make(t, s))
        return SPILL_FAILED;
    return (hex && in_hex(t, text)) || (decimal && in_decimal(t, text)) || (base64 && in_base64(t, text)) ? SPILL_FOUND
                                                                                                          : SPILL_NONE;
}

/* Of a block of texts. */
static enum spill_result look_at(const struct spill *s, struct pieces *t, struct str left)
{
    enum spill_result r = SPILL_NONE;
    while (left.n > 0 && r == SPILL_NONE) {
        const struct str text = {left.p, strnlen(left.p, left.n)};
        const size_t whole = text.n < left.n ? text.n + 1 : text.n;
        r = look_through(s, t, text);
        left = (struct str){left.p + whole, left.n - whole};
    }
    return r;
}

enum spill_result spill_look(struct spill *s)
{
    const struct str blocks[] = {{s->some_texts, s->some_texts_n}, s->lasting, buf_view(&s->texts)};
    struct pieces t;
    enum spill_result r = SPILL_NONE;
    if (s->pieces.failed || s->texts.failed)
        return SPILL_FAILED;
    if (s->some_pieces_n == 0)
        return SPILL_NONE;
    t.v = NULL;
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks && r == SPILL_NONE; i++)
        r = look_at(s, &t, blocks[i]);
    pieces_free(&t);
    return r;
}
