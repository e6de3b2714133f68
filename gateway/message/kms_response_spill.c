#include "message/kms_response_spill.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

#include "base/limits.h"
#include "base/locked.h"
#include "base/random.h"
#include "base/secret.h"
#include "message/kms_response_pieces.h"

/*
 * Keys are remembered in pieces of eight octets, which any stretch of fifteen holds one of whole. Texts are read as
 * hex, base64, base32 and lists of numbers with a window of as many octets, at each place where a piece might end; what
 * people put between digits is passed over. A key that is written as one number is known by its last eight octets: they
 * are what the number leaves by 2^64. A piece of eight equal octets is none: test keys and zeros prove nothing.
 */
enum { PIECES_MAX = 1u << 20, TEXTS_MAX = LIMIT_REPLY_OUT };

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

static void piece_add(struct spill *s, const uint8_t octets[PIECE])
{
    uint64_t piece;
    memcpy(&piece, octets, sizeof piece);
    piece = be64toh(piece);
    if (piece == (piece << 8 | piece >> 56))
        return;
    if (s->some_pieces_n < SPILL_PIECES)
        s->some_pieces[s->some_pieces_n++] = piece;
    else
        buf_bytes(&s->pieces, &piece, sizeof piece);
}

void spill_key(struct spill *s, const uint8_t *octets, size_t n)
{
    for (size_t i = 0; i + PIECE <= n; i += PIECE)
        piece_add(s, octets + i);
    if (n > PIECE && n % PIECE) /* its end, for numbers */
        piece_add(s, octets + n - PIECE);
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

/* But for the first octet. */
static bool may_be_piece(const struct pieces *t, uint64_t word)
{
    size_t at = first_place(t, word);
    while (t->v[at] && (t->v[at] ^ word) << 8)
        at = (at + 1) & (t->places - 1);
    return t->v[at];
}

static inline void parts_put(struct pieces *t, uint64_t part)
{
    const size_t at = part_at(t, part);
    t->parts[at / 64] |= UINT64_C(1) << at % 64;
}

static void pieces_put(struct pieces *t, const void *from, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint64_t piece;
        memcpy(&piece, (const char *)from + i * sizeof piece, sizeof piece);
        t->v[place_of(t, piece)] = piece;
        for (unsigned bit = 1; bit <= 6; bit++)
            parts_put(t, piece >> bit);
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

/*
 * Eight numbers of one digit each, and what stands between them; eleven digits of base64: no piece is in less. Fifteen
 * octets take twenty-four digits of base32.
 */
enum { NUMBERS_MIN = 2 * PIECE - 1, BASE64_MIN = 11, BASE32_MIN = 24 };

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
 * or base32 those. Those of hex go on where those of decimal numbers begin anew: at the letters that are digits, and x.
 */
enum { ENDS_HEX = 1, ENDS_DECIMAL = 2, OF_BASE64 = 4, OF_BASE32 = 8 };
#define ENDS_NUMBERS (ENDS_HEX | ENDS_DECIMAL)
#define OF_BOTH (OF_BASE64 | OF_BASE32)
#define BOTH_ALONE (ENDS_NUMBERS | OF_BOTH)
#define BOTH_HEX (ENDS_DECIMAL | OF_BOTH)
static const unsigned char STRETCHES[256] = {
    ['\0'] = ENDS_NUMBERS, ['\t'] = OF_BOTH, ['\n'] = OF_BOTH, ['\r'] = OF_BOTH, [' '] = OF_BOTH, [','] = OF_BOTH,
    [':'] = OF_BOTH, ['-'] = OF_BOTH, ['+'] = OF_BASE64, ['/'] = OF_BASE64, ['_'] = OF_BASE64, ['0' ... '9'] = OF_BOTH,
    ['A' ... 'F'] = BOTH_HEX, ['G' ... 'W'] = BOTH_ALONE, ['X'] = BOTH_HEX, ['Y' ... 'Z'] = BOTH_ALONE,
    ['a' ... 'f'] = BOTH_HEX, ['g' ... 'w'] = BOTH_ALONE, ['x'] = BOTH_HEX, ['y' ... 'z'] = BOTH_ALONE,
};

static bool has_stretch(struct str text, unsigned kind, size_t length)
{
    const unsigned due = kind & OF_BOTH;
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

/* Twenty-four digits of base32 with no letter that hex lacks are hex: one key in millions has such. */
static bool is_hex(struct str text)
{
    size_t i = 0;
    while (i < text.n && STRETCHES[(unsigned char)text.p[i]] != BOTH_ALONE)
        i++;
    return i == text.n;
}

static enum spill_result look_through(const struct spill *s, struct pieces *t, struct str text)
{
    if (text.n < BASE64_MIN)
        return SPILL_NONE;
    const bool hex = has_stretch(text, ENDS_HEX, NUMBERS_MIN);
    const bool decimal = hex && has_stretch(text, ENDS_DECIMAL, NUMBERS_MIN);
    const bool base64 = has_stretch(text, OF_BASE64, BASE64_MIN);
    const bool base32 = base64 && has_stretch(text, OF_BASE32, BASE32_MIN) && !is_hex(text);
    if ((hex || base64) && !t->v && !pieces_make(t, s))
        return SPILL_FAILED;
    if ((hex && in_hex(t, text)) || (decimal && pieces_in_numbers(t, text)) || (base64 && in_base64(t, text)))
        return SPILL_FOUND;
    return base32 && pieces_in_base32(t, text) ? SPILL_FOUND : SPILL_NONE;
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
