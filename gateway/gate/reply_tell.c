#include <string.h>

#include "base/log.h"
#include "base/text.h"
#include "gate/reply.h"

/* No name of the interface is that long. */
enum { LONGEST_SHOWN = 24, SHOWN_CHARACTERS = 200 };

/* Hex has many digits, base64 letters of both cases. */
static bool looks_like_key(const char *p, size_t n)
{
    enum { DIGITS_ONE_IN = 8 };
    size_t digits = 0, upper = 0, lower = 0;
    for (size_t i = 0; i < n; i++) {
        digits += p[i] >= '0' && p[i] <= '9';
        upper += p[i] >= 'A' && p[i] <= 'Z';
        lower += p[i] >= 'a' && p[i] <= 'z';
    }
    return n > LONGEST_SHOWN && (digits * DIGITS_ONE_IN >= n || (upper && lower));
}

void reply_hide_keys(char *text)
{
    static const char KEY_TEXT[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=_-";
    for (char *p = text; *p;) {
        const size_t n = strspn(p, KEY_TEXT);
        if (looks_like_key(p, n))
            memset(p, '*', n);
        p += n + strcspn(p + n, KEY_TEXT);
    }
}

/* Of what is no UTF-8, each octet is a character. */
static struct str first_characters(struct str text, size_t count)
{
    size_t at = 0;
    for (; at < text.n && count > 0; count--) {
        const size_t n = str_utf8_length((struct str){text.p + at, text.n - at});
        at += n ? n : 1;
    }
    return (struct str){text.p, at};
}

void reply_tell_error(const struct judgement *j, const struct gate_upstream *up)
{
    struct buf shown BUF_CLEANUP = BUF_INIT_KEYS(16 * SHOWN_CHARACTERS);
    text_escape(&shown, first_characters(str_trim(up->body), SHOWN_CHARACTERS));
    if (shown.failed)
        return;
    if (shown.n > 0)
        reply_hide_keys(shown.p);
    log_warn("upstream", j->decision.id, "answered with status %d%s%s", up->status, shown.n > 0 ? ": " : "",
             shown.n > 0 ? shown.p : ", and nothing else");
}
