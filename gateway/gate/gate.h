/*
 * The gate: judges a request, makes a reply. No sockets, no globals, no clock of its own. serve, explain, tests,
 * fuzzers and benchmarks call the same functions.
 *
 *     struct judgement *j = judgement_new(&gate, id);
 *     reason = gate_head(j, &head);                 after the head: method, path, media type
 *     action = gate_request(j, body, now_us);       after the body: everything else; GATE_FORWARD only from here,
 *     action = gate_looked(j);                      after GATE_WAIT with j->looking: the keys were looked at anew
 *     action = gate_spent(j, reason);               or, after GATE_WAIT, from here, when the replay memory has answered
 *     gate_forward(j, &out);                        what goes to the upstream
 *     gate_reply(j, &upstream, now_us, &reply);     what its answer becomes; where reply.waits, once more after
 *     gate_granted(j, fates, n);                    what the keeper of the keys has answered to gate_wishes()
 *     gate_refuse(j, reason, now_us, &reply);       or: a refusal, at any point
 *     judgement_free(j);                            wipes the keys
 */
#ifndef KMSGATE_GATE_GATE_H
#define KMSGATE_GATE_GATE_H

#include "gate/decision.h"
#include "replay/replay.h"
#include "gate/resource.h"
#include "gate/rules.h"
#include "keys/keylife.h"
#include "message/kms_response.h"
#include "message/request_doc.h"

/* What a judgement needs; all of it outlives the judgements made with it, but `rules`: each judgement holds a
 * reference. */
struct gate {
    const struct strings *public_url;
    struct rules *rules;
    const struct keystore *keys;
    struct replay *replay; /* NULL: replay is not judged (explain) */
    struct replay_line *replay_line; /* of the thread that judges; NULL: what would have to wait is refused */
    bool looks; /* who serves asks for a look into a shared store of keys before a request is refused for want of one */
    bool asks_keeper; /* who serves asks the keeper of the keys; else no new key is ever sent */
    bool by_tree; /* requests and replies are read the long way (request_doc.h, response_profile.h) */
};

/* What the head says of a body. Without one the type of content is of nothing; a chunked one shows when it comes. */
enum gate_body { GATE_BODY, GATE_BODY_NONE, GATE_BODY_UNKNOWN };

struct gate_head {
    struct str method, target;
    struct str content_type;     /* missing: none */
    bool content_encoded;        /* any Content-Encoding */
    enum gate_body body;
    struct ip source;
};

enum gate_action { GATE_REFUSE, GATE_FORWARD, GATE_WAIT };

struct judgement {
    const struct gate *gate;
    struct rules *rules; /* own reference: an exchange keeps the rule set that it started with */
    struct gate_head head;
    char *target;    /* owns head's texts */
    enum form form;
    bool head_holds; /* gate_head() let it through */
    bool only_empty; /* … without a body alone: its type is not one that a body may have */
    bool proven;
    bool ring_loaded;
    bool spent;      /* the replay memory has taken note */
    bool stale;      /* what was refused may hold by keys that another gateway has changed just now */
    bool looking;    /* after GATE_WAIT: for such keys, not for the replay memory */
    uint64_t edition; /* of the keys that it was judged by */
    struct resource resource;
    struct str path_clear; /* the path, decoded: no {…} segment can become another path by that */
    struct buf path_room;  /* what had to be decoded */
    struct buf path_user;  /* decoded {UserUri} */
    struct request_doc *doc;
    const struct request_proof *proof; /* of doc; NULL: not proven */
    struct kms_request request;  /* proven: of what was signed; else as claimed */
    const struct request_rule *rule;
    struct xmlsig_info sig;
    const struct key *signer;    /* in ring; the key whose signature held */
    struct replay_claim claim;   /* what is spent; its texts are the document's */
    struct replay_call spending; /* `done` and `arg`: whom to tell after GATE_WAIT; none: nothing waits */
    struct renewal *renewal;     /* the new keys of the reply; NULL: none */
    struct keyring ring;
    struct decision decision; /* last, as the ring's keys: most of it need not be zeroed */
};

struct judgement *judgement_new(const struct gate *gate, const char *id);
void judgement_free(struct judgement *j);

/* REASON_OK, or HTTP_METHOD, HTTP_PATH, HTTP_RESOURCE, HTTP_MEDIA_TYPE (in the contract's order), or INTERNAL. Copies
 * head's texts. */
enum reason gate_head(struct judgement *j, const struct gate_head *head) MUST_CHECK;
/* j->decision.reason tells why it refuses. Judges in the contract's order; see checks.c. */
enum gate_action gate_request(struct judgement *j, struct str body, int64_t now_us) MUST_CHECK;
/* After GATE_WAIT with j->looking, once: judges again, where other keys are there now. GATE_WAIT is for the replay
 * memory then. All that fails for its key or signature waits for a look, so that time does not tell them apart. */
enum gate_action gate_looked(struct judgement *j) MUST_CHECK;
/* After GATE_WAIT, once: what the replay memory answered, or REASON_REPLAY_UNAVAILABLE when it was waited for too long
 * (whoever waits no longer calls replay_cancel(&j->spending) first). GATE_FORWARD or GATE_REFUSE. */
enum gate_action gate_spent(struct judgement *j, enum reason reason) MUST_CHECK;
/* Certainly no byte of it was sent: the same bytes may be accepted again. */
void gate_unsent(struct judgement *j);
/* What its rule was chosen by. */
struct request_facts gate_facts(const struct judgement *j, int64_t now_us);

/* What goes to the upstream: method and body; headers that a rule sets (values filled in, what comes out empty left
 * out, control characters refused as XML_INVALID). */
struct gate_outgoing {
    const char *method;
    struct buf body;
    const char *content_type; /* NULL: no body */
    struct {
        const char *name;
        struct buf value;
    } headers[16];
    size_t header_count;
};
enum reason gate_forward(struct judgement *j, struct str received_body, struct gate_outgoing *out) MUST_CHECK;
/* Before anything is judged: whether what the rule's headers take from the request can stand in one. Names of keys are
 * not known yet. REASON_OK, XML_INVALID with the why, INTERNAL. For gate/ alone. */
enum reason forward_values(const struct judgement *j, struct detail *why) MUST_CHECK;
void gate_outgoing_free(struct gate_outgoing *out);

struct gate_upstream {
    int status;
    struct str body;
};
/* The reply to the client. status and body are always set: where the upstream's answer cannot be made a compliant one,
 * they are the refusal for the reason, which is returned. */
struct gate_response {
    int status;
    bool waits; /* there is none yet: new keys are due, which are committed before they are sent */
    struct buf body;
    struct detail why; /* what was wrong with the upstream's answer, in plain words; empty: nothing. Not for clients */
    struct detail left_out; /* of an answer that was passed on: what of it was not, in plain words; the same */
};
enum reason gate_reply(struct judgement *j, const struct gate_upstream *up, int64_t now_us,
                       struct gate_response *out) MUST_CHECK;
/* After `waits`: what the keeper is to be asked, in one errand; texts live as long as the judgement. */
size_t gate_wishes(const struct judgement *j, const struct key_wish **wishes);
/* … and what it answered, once; n 0: it cannot be asked, or was waited for too long. Then gate_reply() again, with the
 * same answer of the upstream: without new keys, where there are none now; UPSTREAM_INVALID or KEYS_UNAVAILABLE, where
 * the upstream's were to be learnt. */
void gate_granted(struct judgement *j, const struct key_fate *v, size_t n);
/* After GATE_FORWARD: the keys that this request is the first to use, which become active by that. Nobody waits for
 * it: while the keeper has not come to it, such a key is as good as an active one. */
size_t gate_confirms(const struct judgement *j, struct key_wish out[2]);
/* What became of one such wish, for the metrics. Any thread. */
void gate_confirmed(enum key_type type, const struct key_fate *f);
/* A KmsResponse with KmsError, signed when the requester's signature held. status 0: reason's own. Never fails: without
 * memory the body is empty. j may be fresh (nothing known yet). */
void gate_refuse(struct judgement *j, enum reason reason, int status, int64_t now_us, struct gate_response *out);

#endif
