#include "message/response_profile_internal.h"

#include <string.h>

#include "base/limits.h"

static void profile_put_key(struct writing *w, const struct response_key *key)
{
    uint8_t octets[LIMIT_KEY_CONTENT];
    size_t n = 0;
    if (hex_decode(key->hex, octets, sizeof octets, &n) && n == key->e->octets)
        writing_key(w, key->e, octets, key->hex);
    else
        writing_fail(w, REASON_UPSTREAM_INVALID, "a key content is no hex of its length");
    secret_wipe(octets, sizeof octets);
}

void writing_profile(struct writing *w, const struct response_profile *p, const char *declare)
{
    size_t from = 1 + strlen(kms_message_name(p->message));
    buf_bytes(w->out, p->text.p, from);
    buf_z(w->out, declare);
    if (!w->hidden)
        spill_texts(&w->spill, p->texts);
    for (size_t i = 0; i < p->key_count && !writing_stopped(w); i++) {
        const size_t at = p->keys[i].at;
        buf_bytes(w->out, p->text.p + from, at - from);
        profile_put_key(w, &p->keys[i]);
        from = at;
    }
    buf_bytes(w->out, p->text.p + from, p->text.n - from);
}
