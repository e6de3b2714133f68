#include "message/response_profile_internal.h"

#include <string.h>

enum { OCTETS_MAX = 264 }; /* of a key content; an RSK has 257 */

/* So many keys in clear, and wrapped. */
struct some_keys {
    uint8_t octets[XMLENC_SEVERAL][OCTETS_MAX], cipher[XMLENC_SEVERAL][OCTETS_MAX + XMLENC_MORE];
    struct xmlenc_wrapped wrapped[XMLENC_SEVERAL];
};

static bool keys_read(struct writing *w, const struct response_key *keys, size_t count, struct some_keys *out)
{
    for (size_t i = 0; i < count; i++) {
        size_t n = 0;
        /* cppcheck-suppress uninitvar ; it is written here */
        if (!hex_decode(keys[i].hex, out->octets[i], OCTETS_MAX, &n) || n != keys[i].e->octets) {
            writing_fail(w, REASON_UPSTREAM_INVALID, "a key content is not hex of its length");
            return false;
        }
        out->wrapped[i] = (struct xmlenc_wrapped){.octets = out->octets[i], .n = n, .cipher = out->cipher[i]};
    }
    return true;
}

/* From where the text stands up to behind the last of them. */
static void profile_keys(struct writing *w, const struct response_profile *p, size_t first, size_t count, size_t *from)
{
    struct some_keys some;
    const bool encrypts = w->plan->protect == PROTECT_KEYS;
    const struct response_key *keys = p->keys + first;
    bool ok = keys_read(w, keys, count, &some) && (!encrypts || writing_wrap(w, some.wrapped, count));
    for (size_t i = 0; ok && i < count; i++) {
        buf_bytes(w->out, p->text.p + *from, keys[i].at - *from);
        *from = keys[i].at;
        if (encrypts)
            writing_wrapped(w, &some.wrapped[i]);
        else
            writing_key(w, keys[i].e, some.octets[i], keys[i].hex);
    }
    secret_wipe(some.octets, count * sizeof some.octets[0]);
    secret_wipe(some.cipher, count * sizeof some.cipher[0]); /* they began as the same */
}

size_t writing_profile_ceiling(const struct response_profile *p, const struct kms_response_plan *plan)
{
    enum { ENVELOPE_TAGS = 512, KEY_TAGS = 480 }; /* tags, declarations, algorithms, a TrK's ID of usual length */
    size_t n = ENVELOPE_TAGS + p->text.n + plan->user_uri.n + plan->kms_uri.n + plan->kms_id.n +
               plan->client_req_url.n + plan->signature_id.n;
    for (size_t i = 0; i < p->key_count; i++)
        n += KEY_TAGS + 2 * p->keys[i].e->octets; /* hex is longer than base64 of what is wrapped */
    if (plan->signature_id.n > 0)
        n += XMLSIG_MORE;
    return plan->protect == PROTECT_MESSAGE ? n * 3 / 2 : n;
}

void writing_profile(struct writing *w, const struct response_profile *p, const char *declare)
{
    size_t from = 1 + strlen(kms_message_name(p->message));
    buf_bytes(w->out, p->text.p, from);
    buf_z(w->out, declare);
    if (!w->hidden)
        spill_texts(&w->spill, p->texts);
    for (size_t i = 0; i < p->key_count && !writing_stopped(w); i += XMLENC_SEVERAL) {
        const size_t left = p->key_count - i;
        profile_keys(w, p, i, left < XMLENC_SEVERAL ? left : XMLENC_SEVERAL, &from);
    }
    buf_bytes(w->out, p->text.p + from, p->text.n - from);
}
