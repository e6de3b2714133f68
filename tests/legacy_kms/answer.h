/*
 * One request: read, logged, answered, perhaps late or broken.
 */
#ifndef LEGACY_KMS_ANSWER_H
#define LEGACY_KMS_ANSWER_H

#include <event2/event.h>
#include <event2/http.h>
#include <stdio.h>

#include "reply.h"

struct answers {
    struct event_base *base;
    struct style style;
    unsigned delay_ms;
    FILE *log;               /* NULL: none */
    struct waiting *waiting; /* requests that are not answered yet */
};

bool fault_parse(const char *name, enum fault *out);
/* evhttp's callback; arg is the struct answers. */
void answer(struct evhttp_request *req, void *arg);
/* Drops what waits; before evhttp_free(). */
void answers_end(struct answers *a);

#endif
