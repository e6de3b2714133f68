#include "base/limits.h"
#include "gate/reply.h"

const char *reply_spoken_namespace(const struct dialect *d)
{
    return d->namespaces.n > 0 ? d->namespaces.v[0] : NS_KMS;
}

/* What was spoken says, to who knows the dialect, what the standard's form said. */
static enum reason reads_back(struct str text, const struct dialect *d, struct detail *why)
{
    struct xml_doc *doc = NULL;
    struct kms_response read;
    enum reason r = dialect_parse(text, d, &doc, why);
    if (r == REASON_OK)
        r = kms_response_read(doc, STR_MISSING, STR_MISSING, &read, why);
    xml_free(doc);
    return r;
}

enum reason reply_speak(const struct dialect *d, const char *ns, const struct kms_response *m,
                        const struct kms_response_plan *plan, struct buf *out, struct detail *why)
{
    struct kms_response_plan spoken = *plan;
    struct buf text BUF_CLEANUP = BUF_INIT_KEYS(LIMIT_REPLY_OUT);
    bool encrypted;
    spoken.speak = d;
    spoken.speak_ns = ns;
    enum reason r = kms_response_write(m, &spoken, &text, &encrypted, why);
    if (r == REASON_OK)
        r = reads_back(buf_view(&text), d, why);
    if (r != REASON_OK)
        return r;
    buf_reset(out);
    buf_str(out, buf_view(&text));
    return out->failed ? REASON_INTERNAL : REASON_OK;
}
