/*
 * What an older KMS answers: unsigned, in clear, pretty-printed, KmsUri before UserUri, without Id and xsi:type.
 */
#ifndef LEGACY_KMS_REPLY_H
#define LEGACY_KMS_REPLY_H

#include <event2/buffer.h>
#include <stdbool.h>

enum resource { NO_RESOURCE, INIT, KEYPROV, CERTCACHE, CERT, LOOKUP, REDIRECT };

/* How a reply is spoiled, and how an answer is; see legacy_kms --help. */
#define FAULT_LIST(X)                                                                                               \
    X(NONE, "none") X(ERROR_403, "error-403") X(ERROR_500, "error-500") X(PLAIN_TEXT, "plain-text")                 \
    X(WRONG_USER, "wrong-user") X(EXTRA_ELEMENT, "extra-element") X(KEY_IN_COMMENT, "key-in-comment") X(DTD, "dtd") \
    X(TRUNCATED, "truncated") X(OVERSIZED, "oversized") X(REDIRECTED, "redirect") X(EMPTY, "empty")                 \
    X(SILENT, "silent") X(RESET, "reset") X(BAD_LENGTH, "bad-length") X(KMS_ERROR, "kms-error")                     \
    X(WRONG_RSK, "wrong-rsk") X(WRONG_SSK, "wrong-ssk") X(WRONG_PVT, "wrong-pvt") X(WRONG_UID, "wrong-uid")         \
    X(WRONG_PERIOD, "wrong-period") X(OLD_PERIOD, "old-period") X(WRONG_KMS, "wrong-kms")                           \
    X(REVOKED, "revoked")
enum fault {
#define FAULT_ENUM(e, name) FAULT_##e,
    FAULT_LIST(FAULT_ENUM)
#undef FAULT_ENUM
};

struct asked {
    enum resource resource;
    char *user;           /* who asks: the body's UserUri, else the path's */
    char *of;             /* the {UserUri} or {KmsUri} of the path; NULL: none */
    char *client_req_url; /* the body's; NULL: none */
    uint64_t cache_number;
    int64_t at; /* Unix seconds: the {time} of the path, else now */
};

struct style {
    const char *kms_uri;
    unsigned user_sets; /* KmsKeySets in a KmsKeyProv */
    enum fault fault;
};

/* Appends the document; false when a key could not be made. */
bool reply_write(const struct asked *asked, const struct style *style, struct evbuffer *out);
/* A KmsResponse with a KmsError. */
void reply_error(const struct asked *asked, const struct style *style, int code, struct evbuffer *out);

#endif
