/*
 * A key management client: what `request`, `open` and `demo` share. It signs with the user's InK (without one, with the
 * TrK), posts, and believes a reply only when its signature holds and it answers what was asked.
 *
 *     struct client c;
 *     if (!client_load(&c, "sip:alice@example.org", "alice.jsonl")) ...
 *     client_compose(&c, &(struct client_ask){.url = url}, &body)
 *     client_post(&(struct client_post){.url = url, .body = buf_view(&body)}, &status, &reply)
 *     client_open(&c, buf_view(&reply), &expect, &got)
 *     client_free(&c);
 *
 * Errors are complained about on stderr. xml_startup() comes first.
 */
#ifndef KMSGATE_CMD_CLIENT_H
#define KMSGATE_CMD_CLIENT_H

#include "keys/keyfile.h"
#include "message/kms_response.h"

struct client {
    struct keyfile file;
    struct str user;
};
/* Reads a key file (others' keys in it are left alone). False when it is faulty, or holds no usable key of the user. The
 * caller calls client_free() either way. `user` must outlive the client. */
bool client_load(struct client *c, const char *user, const char *keys) MUST_CHECK;
void client_free(struct client *c);
/* The key that signs: the last InK of the file, active before retiring; the TrK for a user who has no InK at all. NULL
 * when there is none. */
const struct key_entry *client_signer(const struct client *c);

struct client_ask {
    struct str url;      /* ClientReqUrl */
    struct str kms_uri;  /* missing: the host of the URL */
    struct str client_id; /* may be missing */
    int64_t time_us;     /* 0: now */
};
/* Appends a SignedKmsRequest. DeviceId is a fresh one, so that two requests are never the same message. */
bool client_compose(const struct client *c, const struct client_ask *ask, struct buf *out) MUST_CHECK;

struct client_post {
    const char *url;
    const char *ca;         /* a file of CA certificates; NULL: the system's */
    const char *token_file; /* a bearer token; NULL: none */
    struct str body;        /* missing: GET */
    bool quiet;             /* no complaint when nobody answers */
};
/* One exchange; no redirect is followed, no proxy used, TLS always verified. False: no reply came. */
bool client_post(const struct client_post *what, long *status, struct buf *reply) MUST_CHECK;

/* What the reply must be an answer to. */
struct client_expect {
    const struct key_entry *signer; /* the key that signed the request; NULL: any key that may sign for the user */
    struct str url;                 /* ClientReqUrl; missing: any */
    int64_t now_us;                 /* its Time must be about this; 0: any */
    bool with_secrets;              /* `lines` show clear keys */
};
struct client_got {
    enum { CLIENT_OPENED, CLIENT_REFUSED, CLIENT_BROKEN } result;
    struct buf head;  /* one line: who signed, what for whom; of a refusal: its ErrorCode and ErrorMsg */
    struct buf lines; /* a line a key content (secret) */
};
/* Fills *got, which the caller frees by client_got_free(). CLIENT_REFUSED: a KmsError, whose signature holds where it has
 * one. CLIENT_BROKEN: not to be believed; complained about. */
void client_open(const struct client *c, struct str reply, const struct client_expect *expect, struct client_got *got);
void client_got_free(struct client_got *got);

#endif
