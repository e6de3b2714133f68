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
 * Errors are complained about on stderr. client_startup() comes first.
 */
#ifndef KMSGATE_CMD_CLIENT_H
#define KMSGATE_CMD_CLIENT_H

#include "cmd/client_proof.h"
#include "gate/resource.h"
#include "keys/keyfile.h"

/* The libraries behind it, once a process. */
bool client_startup(void) MUST_CHECK;
void client_shutdown(void);

struct client {
    struct keyfile file;
    struct str user;
};
/* Reads a key file (others' keys in it are left alone). False when it is faulty, or holds no usable key of the
 * user. The caller calls client_free() either way. `user` must outlive the client. */
bool client_load(struct client *c, const char *user, const char *keys) MUST_CHECK;
void client_free(struct client *c);
/* The last usable key of a type, active before retiring; NULL when there is none. *any tells whether the user has one
 * of that type at all. */
const struct key_entry *client_newest(const struct client *c, enum key_type type, bool *any);
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
    const char *connect;    /* where to post it instead, see client_connect_holds(); NULL: where the URL says */
    const char *ca;         /* a file of CA certificates; NULL: the system's */
    const char *certificate, *key; /* the client's own, for mutual TLS; NULL: none */
    const char *token_file; /* a bearer token; NULL: none */
    struct str body;        /* missing: GET */
    bool quiet;             /* no complaint when nobody answers */
    bool (*stop)(void);     /* asked at least once a second; true ends the exchange; NULL: none */
};
/* One exchange; no redirect is followed, no proxy used, TLS always verified, against the host of the URL. False:
 * no reply came. */
bool client_post(const struct client_post *what, long *status, struct buf *reply) MUST_CHECK;
/* HOST:PORT or [ADDRESS]:PORT, with http:// or https:// before it where the scheme is another than the URL's; or
 * unix:PATH, in plain HTTP. The URL, its host, the path and the Host header stay as they are. */
bool client_connect_holds(const char *address);

/* Where in a URL its resource begins ("/keymanagement/…"), and which it is. False when it is none of the
 * interface's. */
bool client_resource(struct str url, size_t *at, struct resource *out);

/* What the reply must be an answer to. */
struct client_expect {
    const struct key_entry *signer; /* the key that signed the request; NULL: any key that may sign for the user */
    struct str url;                 /* ClientReqUrl; missing: any */
    int64_t now_us;                 /* its Time must be about this; 0: any */
    bool with_secrets;              /* `lines` show clear keys */
    const struct proof_kms *kms;    /* what the keys are proven by; NULL or not known: they are not, `why_not` is
                                     * told */
    const char *why_not;
};
enum { CLIENT_NEW_KEYS = 4 };
struct client_got {
    enum {
        CLIENT_OPENED,
        CLIENT_REFUSED, /* a KmsError, whose signature holds where it has one */
        CLIENT_WRONG,   /* opened, and a key in it is not what it should be; complained about */
        CLIENT_BROKEN   /* not to be believed; complained about */
    } result;
    enum kms_message message;
    int64_t error_code; /* of a KmsError */
    struct buf head;    /* one line: who signed, what for whom; of a refusal: its ErrorCode and ErrorMsg */
    struct buf lines;   /* a line a key content, and what was proven of them (secret) */
    struct proof_kms kms; /* of a KmsInit's certificate */
    struct key_entry new_keys[CLIENT_NEW_KEYS]; /* that it brings its user, with the IDs that they say of themselves;
                                                 * IDs are its own */
    size_t new_count;
    unsigned sets, proven; /* KmsKeySets in it, and those whose keys were proven right */
};
/* Fills *got, which the caller frees by client_got_free(). */
void client_open(const struct client *c, struct str reply, const struct client_expect *expect, struct client_got *got);
void client_got_free(struct client_got *got);
/* client_keep.c */
/* Takes up the new keys of an opened reply: behind the others in the key file (which is replaced in one step, its mode
 * kept, locked against others who do the same), and in the client, which signs with them from then on. False, told,
 * when they cannot be kept. What points into the client's file is no longer valid. */
bool client_keep(struct client *c, const char *file, struct client_got *got) MUST_CHECK;
/* Copies one more, with its ID; without memory `lines` fails. */
void client_note_new(struct client_got *got, const struct key_entry *e);
void client_forget_new(struct client_got *got);

/* A whole file ("-": standard input) up to out's ceiling; what cannot be read is told. */
bool client_read(const char *path, struct buf *out) MUST_CHECK;
/* Moves the KMS out of an opened reply to init; from any other nothing but the why. */
void client_take_kms(struct client_got *got, struct proof_kms *out);
/* The KMS of a stored reply to init, whenever it was sent. False, told, when it proves nothing. */
bool client_stored_kms(const struct client *c, const char *file, struct proof_kms *out) MUST_CHECK;
/* Prints what was got, complains about what was refused; the exit code. */
int client_tell(const char *command, const struct client_got *got);

#endif
