#include "message/schema.h"

#include "base/limits.h"
#include "base/secret.h"

/* Reads a key's text without white space as hex, else as base64, of whatever length. */
enum written { WRITTEN_HEX, WRITTEN_BASE64, WRITTEN_OTHERWISE };

static enum written read_octets(struct str text, uint8_t *out, size_t room, size_t *n)
{
    struct buf dense BUF_CLEANUP = BUF_INIT_KEYS(4 * LIMIT_KEY_CONTENT);
    enum written how = WRITTEN_OTHERWISE;
    for (size_t i = 0; i < text.n && !dense.failed; i++)
        if (text.p[i] != ' ' && text.p[i] != '\t' && text.p[i] != '\r' && text.p[i] != '\n')
            buf_char(&dense, text.p[i]);
    if (dense.failed || !dense.n)
        return WRITTEN_OTHERWISE;
    if (hex_decode(buf_view(&dense), out, room, n))
        how = WRITTEN_HEX;
    else if (base64_decode(buf_view(&dense), out, room, n))
        how = WRITTEN_BASE64;
    return how;
}

/* Which key of a dialect would make of n octets those that are due; NULL: none. */
static const char *helping(const struct schema_element *e, enum written how, const uint8_t *octets, size_t n)
{
    size_t zeros = 0;
    while (zeros < n && octets[zeros] == 0)
        zeros++;
    if (schema_is_number(e) && n != e->octets && n - zeros <= e->octets)
        return "key_octets: numeric";
    if (n + 1 == e->octets && e->octets % 2)
        return how == WRITTEN_BASE64 ? "key_text: base64` and `point_prefix: add" : "point_prefix: add";
    return how == WRITTEN_BASE64 && n == e->octets ? "key_text: base64" : NULL;
}

void schema_tell_key(struct detail *why, const struct schema_element *e, struct str text)
{
    uint8_t octets[2 * LIMIT_KEY_CONTENT];
    size_t n = 0;
    const enum written how = read_octets(text, octets, sizeof octets, &n);
    const char *help = how == WRITTEN_OTHERWISE ? NULL : helping(e, how, octets, n);
    const bool spaced = how == WRITTEN_HEX && n == e->octets;
    if (spaced)
        help = "key_text: hex";
    secret_wipe(octets, sizeof octets);
    if (how == WRITTEN_OTHERWISE)
        detail_set(why, "%s: found %zu characters that are neither hex nor base64, expected %zu octets as hex", e->name,
                   text.n, e->octets);
    else
        detail_set(why, "%s: found %zu octets as %s%s, expected %zu as hex%s%s%s", e->name, n,
                   how == WRITTEN_HEX ? "hex" : "base64", spaced ? " with white space in it" : "", e->octets,
                   help ? "; `" : "", help ? help : "", help ? "` in a dialect reads it" : "");
}
