/*
 * What the parts of the upstream client share: upstream.c (calls on the event loop), upstream_call.c (what a call asks
 * and what it takes for an answer), upstream_health.c (what the log says). Nobody else's.
 */
#ifndef KMSGATE_HTTP_UPSTREAM_INSIDE_H
#define KMSGATE_HTTP_UPSTREAM_INSIDE_H

#include <curl/curl.h>

#include "http/upstream.h"
#include "http/upstream_sockets.h"

enum { HEADER_VALUE = 256 };

struct upstream {
    const struct upstream_config *config;
    struct event_base *base;
    CURLM *multi;
    struct event *timer;
    struct upstream_call *calls;
    struct upstream_health *health;
    struct upstream_tls *tls;
    struct upstream_sockets sockets;
    struct event *probe_timer;
    bool probing, probed;
};

struct upstream_call {
    struct upstream *u;
    struct upstream_call *next, **link;
    CURL *easy;
    struct event *deadline; /* libcurl's own does not run while a call waits for a connection */
    struct curl_slist *headers;
    struct upstream_tls *tls; /* lives as long as the handle, which has no copy */
    struct buf out, in;
    size_t sent, header_bytes;
    char www_authenticate[HEADER_VALUE], retry_after[HEADER_VALUE];
    upstream_done *done;
    void *arg;
    bool too_large;
    bool probe;      /* connects, and that is all */
    bool unclean;    /* the connection that it was to go out on had something to say already */
    bool asked;      /* the request was sent, or begun to be */
    bool head_ended; /* of the reply: what follows are trailers */
    bool interim;    /* the newest status is 1xx: the reply is still to come */
    char error[CURL_ERROR_SIZE];
};

/* Adds the failure or success to what is known of the upstream's health, and tells a change. */
void upstream_tell(struct upstream_call *c, enum reason reason, CURLcode code);
enum reason upstream_reason(CURLcode code, const struct upstream_call *c);

#endif
