#include "message/kms_response_spill.h"

#include <stdlib.h>
#include <string.h>

#include "base/limits.h"
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
    *s = (struct spill){.pieces = BUF_INIT_SECRET((size_t)PIECES_MAX * PIECE), .texts = BUF_INIT_SECRET(TEXTS_MAX)};
}

void spill_free(struct spill *s)
{
    buf_free(&s->pieces);
    buf_free(&s->texts);
}

void spill_key(struct spill *s, const uint8_t *octets, size_t n)
{
    for (size_t i = 0; i + PIECE <= n; i += PIECE) {
        uint64_t piece = 0;
        for (size_t k = 0; k < PIECE; k++)
            piece = piece << 8 | octets[i + k];
        if (piece != (piece << 8 | piece >> 56))
            buf_bytes(&s->pieces, &piece, sizeof piece);
    }
}

void spill_text(struct spill *s, struct str text)
{
    buf_str(&s->texts, text);
    buf_char(&s->texts, '\0');
}

void spill_texts(struct spill *s, struct str texts)
{
    buf_str(&s->texts, texts);
}

/* The pieces, in a table: 0 is an empty place. The factor is random, so that no sender can crowd them in one place. */
struct pieces {
    uint64_t *v, factor;
    size_t places;
    unsigned shift;
};

static size_t place_of(const struct pieces *t, uint64_t piece)
{
    size_t at = (size_t)(piece * t->factor >> t->shift);
    while (t->v[at] && t->v[at] != piece)
        at = (at + 1) & (t->places - 1);
    return at;
}

static bool is_piece(const struct pieces *t, uint64_t word)
{
    return word && t->v[place_of(t, word)] == word;
}

static bool pieces_make(struct pieces *t, const struct buf *from)
{
    const size_t n = from->n / sizeof(uint64_t);
    t->shift = 60; /* sixteen places at first; twice as many as pieces in the end */
    while ((size_t)1 << (64 - t->shift) < 2 * n)
        t->shift--;
    t->places = (size_t)1 << (64 - t->shift);
    t->v = calloc(t->places, sizeof *t->v);
    if (!t->v || !random_bytes(&t->factor, sizeof t->factor))
        return false;
    t->factor |= 1;
    for (size_t i = 0; i < n; i++) {
        uint64_t piece;
        memcpy(&piece, from->p + i * sizeof piece, sizeof piece);
        t->v[place_of(t, piece)] = piece;
    }
    return true;
}

static bool between(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == ':' || c == ',';
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
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
        const int digit = hex_digit(c);
        if (digit < 0 && (c | 0x20) == 'x' && (before == '\\' || (before == '0' && digits > 0))) {
            word >>= before == '0' ? 4 : 0;
            digits -= before == '0';
        } else if (digit >= 0) {
            word = word << 4 | (unsigned)digit;
            digits++;
        } else if (letter(c) || ends(c)) {
            digits = 0;
        }
        if (digit >= 0 && digits >= 2 * PIECE && is_piece(t, word))
            return true;
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

static int base64_digit(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    if (c == '+' || c == '-')
        return 62;
    return c == '/' || c == '_' ? 63 : -1;
}

/* Eight digits of hex, one in each octet of `text`: the four octets that they stand for. */
static bool from_hex(uint64_t text, uint64_t *octets)
{
    for (unsigned k = 0; k < PIECE; k++) {
        const int digit = hex_digit((char)(text >> (64 - 8 * (k + 1))));
        if (digit < 0)
            return false;
        *octets = *octets << 4 | (unsigned)digit;
    }
    return true;
}

/* The last 192 bits of a text of base64. */
struct window {
    uint64_t top, high, low;
    size_t bits;
};

/* A piece ends `bit` bits before the window's end; or hex of one does, which takes twice as much. */
static bool holds_piece(const struct pieces *t, const struct window *w, unsigned bit)
{
    const uint64_t word = bit ? w->low >> bit | w->high << (64 - bit) : w->low;
    const uint64_t before = bit ? w->high >> bit | w->top << (64 - bit) : w->high;
    uint64_t octets = 0;
    if (w->bits >= 64 + bit && is_piece(t, word))
        return true;
    return w->bits >= 128 + bit && from_hex(before, &octets) && from_hex(word, &octets) && is_piece(t, octets);
}

/* Where a group of four digits begins is not known: an octet may end at every second bit. */
static bool in_base64(const struct pieces *t, struct str text)
{
    struct window w = {0};
    for (size_t i = 0; i < text.n; i++) {
        const int digit = base64_digit(text.p[i]);
        if (digit < 0 && between(text.p[i]))
            continue;
        w.bits = digit < 0 ? 0 : w.bits + 6;
        w.top = w.top << 6 | w.high >> 58;
        w.high = w.high << 6 | w.low >> 58;
        w.low = w.low << 6 | (unsigned)(digit < 0 ? 0 : digit);
        if (w.bits < 64)
            continue;
        for (unsigned bit = 0; bit < 6; bit += 2)
            if (holds_piece(t, &w, bit))
                return true;
    }
    return false;
}

enum spill_result spill_look(struct spill *s)
{
    struct pieces t = {0};
    if (s->pieces.failed || s->texts.failed)
        return SPILL_FAILED;
    if (s->pieces.n == 0 || s->texts.n == 0)
        return SPILL_NONE;
    enum spill_result r = SPILL_FAILED;
    if (pieces_make(&t, &s->pieces))
        r = in_hex(&t, buf_view(&s->texts)) || in_base64(&t, buf_view(&s->texts)) ||
            in_decimal(&t, buf_view(&s->texts)) ? SPILL_FOUND : SPILL_NONE;
    secret_wipe(t.v, t.v ? t.places * sizeof *t.v : 0);
    free(t.v);
    return r;
}
