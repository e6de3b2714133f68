/*
 * The strict front: reads one HTTP/1 request at a time out of raw bytes, however they are split, and refuses everything
 * that two readers could read differently. Does no input or output.
 *
 *     used = guard_feed(&g, p, n);     consumes up to the end of the head, then up to the end of the request
 *     GUARD_BODY    the head is there (method, target, headers); feed the rest
 *     GUARD_DONE    the request is complete; guard_next() begins the next one
 *     GUARD_REFUSED g.reason and g.status tell why; the connection has to be closed
 */
#ifndef KMSGATE_HTTP_GUARD_H
#define KMSGATE_HTTP_GUARD_H

#include "base/buf.h"
#include "base/config.h"
#include "base/reason.h"
#include "http/framing.h"

enum guard_state { GUARD_HEAD, GUARD_BODY, GUARD_DONE, GUARD_REFUSED };

struct guard_header {
    struct str name, value; /* value without surrounding blanks */
};

struct guard {
    const struct limits_config *limits;
    enum guard_state state;
    enum reason reason;
    int status;
    struct buf head, body;   /* head: as received */
    size_t line_at;          /* where the current line of the head begins */
    size_t header_bytes, lines;
    bool skipped_line;       /* one empty line before a request is forgiven (RFC 9112, 2.2) */
    struct str method, target; /* views into head; missing until they were read */
    struct guard_header *headers;
    size_t header_count;
    bool http11, keep_alive, expect_continue, chunked;
    bool only_empty;         /* set by who looks at the head: its type fits no body, and a chunked one shows late */
    size_t length;           /* of the body, or of the rest of the chunk */
    struct chunks chunks;
};

void guard_init(struct guard *g, const struct limits_config *limits);
void guard_free(struct guard *g);
/* After GUARD_DONE: forgets the request. */
void guard_next(struct guard *g);
/* After GUARD_DONE: gives the body's memory back; the head stays. */
void guard_forget_body(struct guard *g);
/* Returns how many of the n bytes were consumed; stops where the state changes. */
size_t guard_feed(struct guard *g, const char *p, size_t n);
/* True once a byte of the request was seen. */
bool guard_begun(const struct guard *g);
/* The value of a header; missing when there is none. */
struct str guard_header(const struct guard *g, const char *name);
/* True when the header belongs to this connection alone: hop-by-hop, or named by Connection. */
bool guard_is_hop_header(const struct guard *g, struct str name);

#endif
