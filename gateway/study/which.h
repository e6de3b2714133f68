/*
 * Which rules a request meets, and why not those above: asked of the rules alone, without a message.
 *
 *     struct which w;
 *     which_ask(rules, &(struct which_asks){.user = …, .path = STR("/…/init"), .form = FORM_SIGNED, .now_us = …}, &w);
 */
#ifndef KMSGATE_STUDY_WHICH_H
#define KMSGATE_STUDY_WHICH_H

#include "gate/resource.h"
#include "gate/rules.h"
#include "message/kms_response.h"

struct which_asks {
    struct str user, client_id; /* missing: not given, and no glob matches */
    struct str path;            /* a target, still encoded; missing: not given */
    struct ip source;
    enum form form;
    int64_t now_us;
};
enum { WHICH_REPLIES_MAX = 6 };
struct which {
    const struct rules *rules;
    struct request_facts facts;  /* `source` points into the asker's struct */
    struct buf path, path_user;  /* decoded */
    const struct request_rule *rule; /* NULL: none matches */
    enum reason reason;          /* of the rule or its `accept`; REASON_OK: the request goes on to the checks */
    bool shadow_form;            /* REASON_OK by shadow_accept alone */
    struct {
        enum kms_message message; /* that the resource owes, with status 200 */
        const struct response_rule *rule; /* NULL: none fits, so that the reply would be upstream.invalid */
    } replies[WHICH_REPLIES_MAX]; /* with a path one; without it, one for each message; none without a request rule */
    size_t reply_count;
};
/* False, with the reason, for a path that is none of the interface's. The caller frees with which_free() either way. */
bool which_ask(const struct rules *rules, const struct which_asks *asks, struct which *out,
               struct detail *why) MUST_CHECK;
void which_free(struct which *w);

/* Why request rule q is not met, and why response rule p is not met by reply i: one line. */
void which_request_miss(const struct which *w, const struct request_rule *q, struct buf *out);
void which_response_miss(const struct which *w, const struct response_rule *p, size_t i, struct buf *out);

#endif
