/*
 * Every way in which an exchange can end: one list makes the enum, the names of logs and metrics, and the statuses.
 * The depth fills in the reason, the top decides what becomes of it.
 */
#ifndef KMSGATE_BASE_REASON_H
#define KMSGATE_BASE_REASON_H

#include <stdbool.h>

#include "base/str.h"

/* enumerator, name, HTTP status (http.too_large: 413, the guard also uses 414 and 431; upstream.error: the
 * upstream's) */
#define REASON_LIST(X)                                   \
    X(OK, "ok", 200)                                     \
    X(HTTP_FRAMING, "http.framing", 400)                 \
    X(HTTP_PATH, "http.path", 400)                       \
    X(HTTP_RESOURCE, "http.resource", 404)               \
    X(HTTP_METHOD, "http.method", 405)                   \
    X(HTTP_MEDIA_TYPE, "http.media_type", 415)           \
    X(HTTP_TOO_LARGE, "http.too_large", 413)             \
    X(HTTP_TIMEOUT, "http.timeout", 408)                 \
    X(HTTP_VERSION, "http.version", 505)                 \
    X(HTTP_EXPECT, "http.expect", 417)                   \
    X(HTTP_BUSY, "http.busy", 503)                       \
    X(REPLAY_FULL, "replay.full", 503)                   \
    X(REPLAY_UNAVAILABLE, "replay.unavailable", 503)     \
    X(KEYS_UNAVAILABLE, "keys.unavailable", 503)         \
    X(RULE_NONE, "rule.none", 403)                       \
    X(RULE_FORM, "rule.form", 403)                       \
    X(RULE_DENIED, "rule.denied", 403)                   \
    X(XML_MALFORMED, "xml.malformed", 400)               \
    X(XML_FORBIDDEN, "xml.forbidden", 400)               \
    X(XML_INVALID, "xml.invalid", 400)                   \
    X(SIGNATURE_MISSING, "signature.missing", 403)       \
    X(SIGNATURE_INVALID, "signature.invalid", 403)       \
    X(SIGNATURE_PROFILE, "signature.profile", 403)       \
    X(SIGNATURE_REFERENCE, "signature.reference", 403)   \
    X(KEY_UNKNOWN, "key.unknown", 403)                   \
    X(KEY_POLICY, "key.policy", 403)                     \
    X(KEY_REVOKED, "key.revoked", 403)                   \
    X(KMS_URI_MISMATCH, "kms_uri.mismatch", 403)         \
    X(TIME_STALE, "time.stale", 403)                     \
    X(TIME_FUTURE, "time.future", 403)                   \
    X(TIME_ZONE, "time.zone", 403)                       \
    X(CLIENT_REQ_URL_MISMATCH, "client_req_url.mismatch", 403) \
    X(PATH_USER_MISMATCH, "path_user.mismatch", 403)     \
    X(REPLAY_SEEN, "replay.seen", 403)                   \
    X(UPSTREAM_UNREACHABLE, "upstream.unreachable", 502) \
    X(UPSTREAM_INVALID, "upstream.invalid", 502)         \
    X(UPSTREAM_WRONG_USER, "upstream.wrong_user", 502)   \
    X(UPSTREAM_TIMEOUT, "upstream.timeout", 504)         \
    X(UPSTREAM_ERROR, "upstream.error", 502)             \
    X(PROTECT_NO_KEY, "protect.no_key", 500)             \
    X(INTERNAL, "internal", 500)

enum reason {
#define REASON_ENUM(e, name, status) REASON_##e,
    REASON_LIST(REASON_ENUM)
#undef REASON_ENUM
    REASON_COUNT
};

const char *reason_name(enum reason r);
/* The HTTP status of a refusal for r. */
int reason_status(enum reason r);
/* False when there is no reason of that name. */
bool reason_parse(struct str name, enum reason *out);

/*
 * What was found, what was expected and where, for people: the depth of the code fills it in, `explain` and the debug
 * log show it, no client ever sees it. Never holds key material. Passing NULL for a `struct detail *` is always
 * allowed.
 */
struct detail {
    char text[320];
};
void detail_set(struct detail *d, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define MUST_CHECK __attribute__((warn_unused_result))

#endif
