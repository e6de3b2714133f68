/*
 * `kmsgate conform`: its parts. What a KMS answers is read here with libxml2 alone, and its signature is verified by
 * xmlsec1: nothing that judges requests has a part in it.
 */
#ifndef KMSGATE_CMD_CONFORM_H
#define KMSGATE_CMD_CONFORM_H

#include "cmd/client.h"

struct conform_options {
    const char *url, *user, *keys, *kms_uri, *client_id, *connect, *ca, *cert, *key, *token_file, *out, *format;
};

enum conform_result { CONFORM_HOLDS, CONFORM_FAILS, CONFORM_UNKNOWN };
enum { CONFORM_ROWS = 128, CONFORM_TEXT = 240 };
struct conform_row {
    const char *clause, *what;
    char resource[128]; /* as in the path, behind /keymanagement/identity/v1; cut */
    enum conform_result result;
    char found[CONFORM_TEXT]; /* empty: what was due */
    unsigned exchange;        /* number of the kept exchange; 0: none */
};

struct conform {
    const struct conform_options *options;
    struct client client;
    const struct key_entry *ink, *trk, *signer; /* in use; may be NULL: ink or trk */
    struct str kms_uri;
    int folder;        /* where exchanges are kept; -1: nowhere */
    unsigned sent;     /* exchanges so far */
    bool broken;       /* a file could not be written, or there is no memory: complained about */
    struct conform_row rows[CONFORM_ROWS];
    size_t n;
};

/* What is wrong with a request; all else in it is valid and fresh. */
enum conform_flaw {
    FLAW_NONE, FLAW_SIGNATURE, FLAW_CONTENT, FLAW_OTHER_KEY, FLAW_UNKNOWN_KEY, FLAW_OTHER_USER, FLAW_UNSIGNED,
    FLAW_TRK_SIGNS, FLAW_NO_SIGNATURE_ID, FLAW_OTHER_SIGNATURE_ID, FLAW_ELEMENT, FLAW_TWICE, FLAW_DTD, FLAW_SHORT_HMAC,
    FLAW_KMS_URI, FLAW_PAST, FLAW_FUTURE, FLAW_URL_RESOURCE, FLAW_URL_HOST, FLAW_URL_BASE, FLAW_TRK_ID, FLAW_MOVED
};
/* Appends the request that is to be posted to `resource`. False: no memory. */
bool conform_compose(const struct conform *c, const char *resource, enum conform_flaw flaw, struct buf *out);

/* An answer, as far as it can be read. Texts are libxml2's, alive until conform_reply_free(). */
struct conform_reply {
    bool arrived;
    long status;
    struct buf body;
    unsigned exchange;
    void *doc;          /* xmlDoc; NULL: no XML */
    void *response;     /* xmlNode: the KmsResponse of the standard's namespace; NULL: there is none */
    bool is_signed;     /* root is a SignedKmsResponse */
    const char *message;   /* name of what KmsMessage holds; "encrypted"; NULL: nothing */
    bool error;         /* a KmsError */
};
/* Posts it; one at a time, and with a pause between. Frees by conform_reply_free(). */
void conform_post(struct conform *c, const char *resource, const char *name, struct str body, struct conform_reply *r);
void conform_reply_free(struct conform_reply *r);
/* A 2xx with a KmsResponse and no KmsError; what it is instead is written. */
bool conform_accepted(const struct conform_reply *r, char text[CONFORM_TEXT]);

/* The rows of D.2.2, and of D.3.1 for each resource. */
void conform_requests(struct conform *c);
void conform_responses(struct conform *c);
/* The rows of D.2.2 for a resource that answered a valid request with `valid`: that it, too, verifies. */
void conform_requests_to(struct conform *c, const char *resource, const struct conform_reply *valid);
/* The row that the answer is signed by the key that signed the request. */
void conform_signed(struct conform *c, const char *what, const char *resource, const struct conform_reply *r);
struct conform_row *conform_row(struct conform *c, const char *clause, const char *what, const char *resource,
                                enum conform_result result, unsigned exchange);

void conform_print_text(const struct conform *c, struct buf *out);
void conform_print_json(const struct conform *c, struct buf *out);
void conform_print_junit(const struct conform *c, struct buf *out);

#endif
