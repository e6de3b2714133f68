/*
 * KmsResponse (TS 33.180 D.3): an upstream's reply read and validated, the compliant one written, and a client's view.
 */
#ifndef KMSGATE_MESSAGE_KMS_RESPONSE_H
#define KMSGATE_MESSAGE_KMS_RESPONSE_H

#include "base/buf.h"
#include "message/dialect.h"
#include "message/xml.h"
#include "message/xmlenc.h"
#include "message/xmlsig.h"

enum kms_message { KMS_MESSAGE_NONE, KMS_MESSAGE_INIT, KMS_MESSAGE_KEYPROV, KMS_MESSAGE_CERTCACHE, KMS_MESSAGE_LOOKUP,
                   KMS_MESSAGE_ERROR };
const char *kms_message_name(enum kms_message m); /* "KmsInit", …, "error", "none" */

/* Finds a user's TrK; false: there is none of that ID. */
typedef bool (*kms_trk_fn)(void *arg, struct str trk_id, struct secret_key *out);

/* What was read from an upstream; values point into the document, or where it was read in one pass, into that. */
struct response_profile;
struct kms_response {
    const struct xml_doc *doc;
    const void *node;      /* the KmsResponse: for message/ only */
    const struct response_profile *profile; /* instead of both: see response_profile.h */
    enum kms_message message;
    struct str user_uri, kms_uri, time, kms_id, client_req_url; /* missing where the upstream left them out */
    struct str kms_id_unfit; /* a KmsId that is no free text: it counts as left out */
    int64_t error_code;    /* KMS_MESSAGE_ERROR */
    struct str error_msg;  /* the sender's: a gateway never passes it on */
    size_t certificates;   /* of a KmsCertCache */
    bool has_key_content;  /* a key content of a KmsKeySet stands in it */
    bool has_encrypted;    /* … encrypted already */
    bool has_new_key;      /* a new TrK or InK, which is never left in clear */
};
/* Reads a reply in the dialect-less form of the contract: the interface's namespace, fields in any order, any
 * Version and Id, xsi:type optional; root KmsResponse or SignedKmsResponse (whose signature is not looked at).
 * Everything is held against the schema table: unknown or extra elements, bad types, wrong lengths, a key content
 * anywhere but in its place are REASON_UPSTREAM_INVALID. Then the users, as by kms_response_users() with envelope. */
enum reason kms_response_read(const struct xml_doc *doc, struct str user, struct str path_user,
                              struct kms_response *out, struct detail *why) MUST_CHECK;
/* Every KmsKeySet's UserUri and, with `envelope`, the reply's own must be one of the two (either may be missing), else
 * UPSTREAM_WRONG_USER; with both missing that is not checked. */
enum reason kms_response_users(const struct kms_response *r, struct str user, struct str path_user, bool envelope,
                               struct detail *why) MUST_CHECK;
/* A new TrK or InK that an upstream issues. */
struct kms_issued_key {
    bool integrity;        /* an InK */
    struct str id;         /* its CarriedKeyName; missing: it says none */
    struct secret_key key; /* the caller wipes it */
};
enum { KMS_ISSUED_MAX = 2 };
/* Those of a reply that was read: at most one of a type, the TrK first. In clear, or under a TrK that `trk` finds by
 * its ID. UPSTREAM_INVALID, with the why: two of a type, no such TrK, they do not open. INTERNAL. */
enum reason kms_response_issued(const struct kms_response *r, kms_trk_fn trk, void *arg,
                                struct kms_issued_key out[KMS_ISSUED_MAX], size_t *n, struct detail *why) MUST_CHECK;
/* True when it issues one of that type. */
bool kms_response_issues(const struct kms_response *r, bool integrity);
/* What a reply says that it holds, before anybody knows whether it is valid. False: not even that can be seen. */
bool kms_response_kind(const struct xml_doc *doc, enum kms_message *out);

/* A TrK or InK that its user is given, under the plan's TrK. */
struct kms_new_key {
    bool integrity; /* an InK */
    struct str id;  /* for CarriedKeyName; missing: it is not said */
    const struct secret_key *key;
};
/* How to write it. A missing field is left out. */
struct kms_response_plan {
    struct str user_uri, kms_uri, time, kms_id, client_req_url;
    bool keep_extensions;
    bool keeps_kms_id;       /* kms_id is the upstream's */
    struct detail *left_out; /* empty at first: the first text of the upstream's that is not passed on, and why */
    const struct dialect *speak; /* written in its names, in the upstream's order; NULL: as the standard says */
    const char *speak_ns;        /* the namespace then; "": none */
    enum { PROTECT_NONE, PROTECT_KEYS, PROTECT_MESSAGE } protect;
    enum key_wrap wrap;
    struct xmlenc *enc;      /* for PROTECT_KEYS, PROTECT_MESSAGE; for what stays encrypted under PROTECT_NONE */
    struct str trk_id;       /* written where something was encrypted */
    struct str signature_id; /* written where given */
    bool own_new_keys;       /* instead of the upstream's new TrKs and InKs, last in KmsInit or KmsKeyProv: these */
    const struct kms_new_key *new_keys;
    size_t new_key_count;
    int64_t error_code;      /* an error is written instead of a payload where error_msg is given */
    struct str error_msg;
};
/* Appends a KmsResponse (Id="xmldoc", its default namespace declared on it, others where they are used, the schema's
 * order) made of what was read and the plan. What came encrypted is opened and wrapped anew, a new TrK or InK is always
 * wrapped. *encrypted tells whether anything was. REASON_OK, PROTECT_NO_KEY, UPSTREAM_INVALID, INTERNAL.
 * r may be NULL: then a response without payload, or with the plan's error. */
enum reason kms_response_write(const struct kms_response *r, const struct kms_response_plan *plan, struct buf *out,
                               bool *encrypted, struct detail *why) MUST_CHECK;
/* The last look before sending: parses `text` (a KmsResponse or SignedKmsResponse) as a stranger would and holds it
 * against the strict schema (order, versions, types, xsi:type); with `encrypted`, refuses any clear key content. */
enum reason kms_response_validate(struct str text, bool encrypted, struct detail *why) MUST_CHECK;
/* The same of what xmlsig_response_end() made of `response`. *holds tells whether that is the canonical form of the
 * KmsResponse in `text`, so that its signature holds; it may be false beside REASON_OK. */
enum reason kms_response_validate_signed(struct str text, struct str response, bool encrypted, bool *holds,
                                         struct detail *why) MUST_CHECK;

/* A client's view of a verified response: each key content, decrypted, and the certificate of a KmsInit. Views are
 * valid while the callback runs. */
struct kms_key_content {
    struct str element;   /* "UserDecryptKey", "UserSigningKeySSK", "UserPubTokenPVT", "NewTransportKey",
                           * "NewIntegrityKey" */
    const void *set;      /* the same for all contents of one KmsKeySet, which come one after the other; NULL: of
                           * none */
    struct str kms_uri, user_uri, user_id, period_no, valid_from, valid_to; /* of its KmsKeySet, where it has one */
    struct str algorithm; /* how it was wrapped; missing when it came in clear */
    struct str key_name;
    struct str carried;   /* the ID that a new TrK or InK says of itself; missing: none */
    const uint8_t *octets; /* wiped after the callback returns */
    size_t n;
};
enum { KMS_PUB_ENC = 257, KMS_PUB_AUTH = 65 };
struct kms_certificate {
    struct str kms_uri, user_id_format, valid_from, valid_to; /* the last two may be missing */
    bool revoked;
    uint64_t period, offset; /* UserKeyPeriod, UserKeyOffset: seconds; a period of 0: what is written there is no
                              * number */
    uint8_t pub_enc[KMS_PUB_ENC], pub_auth[KMS_PUB_AUTH];
};
typedef void (*kms_key_fn)(void *arg, const struct kms_key_content *key);
typedef void (*kms_certificate_fn)(void *arg, const struct kms_certificate *certificate);
struct kms_reader {
    kms_trk_fn trk; /* finds a TrK; false: unknown ID */
    kms_key_fn key;
    kms_certificate_fn certificate; /* NULL: of no interest */
    void *arg;
};
/* Validates the KmsResponse behind `proof` strictly but for order and Version and shows the reader what stands in it,
 * also inside an encrypted KmsMessage. *r is filled as by kms_response_read (views into the document).
 * REASON_KEY_UNKNOWN: no such TrK. Parse what a gateway wrote with XML_LIMITS_PROTECTED: each wrapped key declares its
 * own namespaces. */
enum reason kms_response_open(const struct xml_signed *proof, const struct kms_reader *reader, struct kms_response *r,
                              struct detail *why) MUST_CHECK;
/* The same of a bare KmsResponse that nobody signed. */
enum reason kms_response_open_unsigned(const struct xml_doc *doc, const struct kms_reader *reader,
                                       struct kms_response *r, struct detail *why) MUST_CHECK;

#endif
