/*
 * Text views. A `struct str` borrows bytes that somebody else owns: it is neither NUL-terminated nor freed.
 *
 *     struct str user = request.user_uri;
 *     if (!str_eq(user, signer)) return REASON_PATH_USER_MISMATCH;
 *
 * A view whose `p` is NULL is *missing*. Missing never equals anything, not even another missing view, so that an
 * absent field can never satisfy a comparison by accident.
 */
#ifndef KMSGATE_BASE_STR_H
#define KMSGATE_BASE_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/short.h"

struct str {
    const char *p;
    size_t n;
};

#define STR_MISSING ((struct str){NULL, 0})
#define STR(literal) ((struct str){("" literal ""), sizeof(literal) - 1})
#define STR_INIT(literal) {"" literal "", sizeof(literal) - 1} /* the same, in what is initialized before main() */
#define STR_FMT(s) (int)(s).n, (s).p /* for "%.*s"; the view must be shorter than INT_MAX */

/* The view of a NUL-terminated string; missing when z is NULL. */
struct str str_z(const char *z);

/* True when both are there and equal byte for byte. Not for secrets: see secret_equal(). */
static inline bool str_eq(struct str a, struct str b)
{
    return a.p && b.p && a.n == b.n && short_equal(a.p, b.p, a.n);
}
/* Nearly every name that is looked for in a table differs in the first letter: in place, that is all of the cost. */
static inline bool str_eq_z(struct str a, const char *z)
{
    if (!a.p || !z || (a.n > 0 && a.p[0] != z[0]))
        return false;
    return strlen(z) == a.n && short_equal(a.p, z, a.n);
}
/* The same without regard to ASCII case. */
bool str_ieq(struct str a, struct str b);
static inline bool str_ieq_z(struct str a, const char *z)
{
    return z && strlen(z) == a.n && str_ieq(a, (struct str){z, a.n});
}
bool str_starts(struct str s, struct str prefix);
bool str_ends(struct str s, struct str suffix);
/* What follows the prefix; missing where s does not begin with it. */
struct str str_behind(struct str s, struct str prefix);
/* s without leading and trailing XML white space (space, tab, CR, LF). */
struct str str_trim(struct str s);
/* A NUL-terminated copy that the caller frees; NULL when out of memory or when s is missing. */
char *str_dup(struct str s);
/* Plain decimal digits only, no sign or space; false on anything else or above max. */
bool str_to_u64(struct str s, uint64_t max, uint64_t *out);
/* True when s is well-formed UTF-8 (no surrogates, no overlong forms, at most U+10FFFF). */
bool str_is_utf8(struct str s);
/* The bytes of its first character; 0 when s is empty or does not begin with a well-formed one. */
size_t str_utf8_length(struct str s);

/*
 * Glob matching of the rule language, byte for byte and case-sensitive. `*` matches any run of bytes. With `path` true,
 * `*` stays within a `/`-separated segment and `**` crosses them (a pattern ending in a slash and `**` matches that
 * slash alone, too). No other byte is special. No recursion and no memory: at most |pattern| * |text| steps, and where
 * `*` follows `**`, |text| times as many. A missing text matches nothing.
 */
bool str_glob(struct str pattern, struct str text, bool path);

#endif
