#include "message/schema.h"

#include <stdio.h>

#include "base/limits.h"
#include "base/secret.h"

/* How a key's text is written, without its white space. */
enum written { WRITTEN_HEX, WRITTEN_BASE64, WRITTEN_ODD, WRITTEN_OTHERWISE };
struct reading {
    enum written how;                     /* ODD: as hex with one digit less or more than octets have */
    size_t digits, n;                     /* without white space; the octets, of whatever length */
    uint8_t octets[2 * LIMIT_KEY_CONTENT];
};

static void read_octets(struct str text, struct reading *r)
{
    struct buf dense BUF_CLEANUP = BUF_INIT_KEYS(4 * LIMIT_KEY_CONTENT);
    r->how = WRITTEN_OTHERWISE;
    r->digits = r->n = 0;
    buf_char(&dense, '0');
    for (size_t i = 0; i < text.n && !dense.failed; i++)
        if (text.p[i] != ' ' && text.p[i] != '\t' && text.p[i] != '\r' && text.p[i] != '\n')
            buf_char(&dense, text.p[i]);
    if (dense.failed || dense.n == 1)
        return;
    const struct str odd = buf_view(&dense), all = {odd.p + 1, odd.n - 1};
    r->digits = all.n;
    if (hex_decode(all, r->octets, sizeof r->octets, &r->n))
        r->how = WRITTEN_HEX;
    else if (base64_decode(all, r->octets, sizeof r->octets, &r->n))
        r->how = WRITTEN_BASE64;
    else if (hex_decode(odd, r->octets, sizeof r->octets, &r->n))
        r->how = WRITTEN_ODD;
}

/* Which key of a dialect would make of them those that are due; NULL: none. */
static const char *helping(const struct schema_element *e, const struct reading *r, bool base64_due)
{
    const bool other = (r->how == WRITTEN_BASE64) != base64_due;
    size_t zeros = 0;
    while (zeros < r->n && r->octets[zeros] == 0)
        zeros++;
    if (schema_is_number(e) && (r->n != e->octets || r->how == WRITTEN_ODD) && r->n - zeros <= e->octets)
        return "key_octets: numeric";
    if (r->how == WRITTEN_ODD)
        return NULL;
    if (r->n + 1 == e->octets && e->octets % 2)
        return !other ? "point_prefix: add" : base64_due ? "key_text: hex` and `point_prefix: add"
                                                         : "key_text: base64` and `point_prefix: add";
    if (r->n != e->octets)
        return NULL;
    return r->how == WRITTEN_BASE64 ? "key_text: base64" : "key_text: hex";
}

void schema_tell_key(struct detail *why, const struct schema_element *e, struct str text, bool base64_due)
{
    struct reading r;
    read_octets(text, &r);
    const char *help = r.how == WRITTEN_OTHERWISE ? NULL : helping(e, &r, base64_due);
    char found[96];
    if (r.how == WRITTEN_OTHERWISE)
        snprintf(found, sizeof found, "%zu characters that are neither hex nor base64", text.n);
    else if (r.how == WRITTEN_ODD)
        snprintf(found, sizeof found, "%zu hex digits, an odd number", r.digits);
    else
        snprintf(found, sizeof found, "%zu octets as %s%s", r.n, r.how == WRITTEN_HEX ? "hex" : "base64",
                 r.digits < text.n ? " with white space in it" : "");
    detail_set(why, "%s: found %s, expected %zu%s as %s%s%s%s", e->name.p, found, e->octets,
               r.how >= WRITTEN_ODD ? " octets" : "", base64_due ? "base64" : "hex", help ? "; `" : "",
               help ? help : "", help ? "` in a dialect reads it" : "");
    secret_wipe(&r, sizeof r);
}
