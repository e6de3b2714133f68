/*
 * The strict reader of the upstream's replies: takes raw bytes, however they are split, and refuses everything that two
 * readers could read differently (RFC 9112, 6.3): it is then known where a reply ends, and whether its connection can
 * be used again. Does no input or output.
 *
 *     reply_begin(&r, max_reply);
 *     used = reply_feed(&r, p, n);     until state is REPLY_DONE or REPLY_REFUSED; fewer than n: more came than it
 *     reply_end(&r);                   the upstream has ended its side: complete, if that is how this reply ends
 *     REPLY_DONE      status, body and the few headers that anybody asks for
 *     REPLY_REFUSED   why: what is wrong with it, for the log
 *
 * 100 and 103 before the reply are passed over; every other 1xx is refused, since nobody asked for what it means.
 */
#ifndef KMSGATE_HTTP_UPSTREAM_REPLY_H
#define KMSGATE_HTTP_UPSTREAM_REPLY_H

#include "base/buf.h"
#include "http/framing.h"

enum {
    REPLY_HEADS = 64 * 1024, /* bytes of all heads and trailers of one reply */
    REPLY_VALUE = 256,       /* of a header that may go on to the client, with its NUL */
};

enum reply_state { REPLY_STATUS, REPLY_FIELDS, REPLY_LENGTH, REPLY_CHUNKS, REPLY_TRAILERS, REPLY_TO_END, REPLY_DONE,
                   REPLY_REFUSED };

struct reply_reader {
    enum reply_state state;
    const char *why;       /* REPLY_REFUSED: a sentence's end, "has two Content-Length headers" */
    int status;            /* of the newest head; 0: none yet */
    bool begun;            /* a status line was read: the upstream has answered something */
    bool interim;          /* the newest head is 1xx: the reply is still to come */
    bool http11;
    bool has_length, chunked, encoded, said_close, said_keep;
    size_t length;         /* of the body, then of its rest */
    struct chunks chunks;
    size_t head_bytes;
    uint64_t keep_seconds; /* Keep-Alive: timeout=; UINT64_MAX: it says nothing */
    bool no_more;          /* Keep-Alive: max=0 */
    char www_authenticate[REPLY_VALUE], retry_after[REPLY_VALUE]; /* "": none that may pass */
    struct buf line;       /* the part of a line that has come */
    struct buf body;       /* a secret */
    size_t max;            /* bytes of the body */
};

/* For a new reply; buffers that it has are kept. A reader of all zeros is a new one. */
void reply_begin(struct reply_reader *r, size_t max);
void reply_free(struct reply_reader *r);
/* How many of the n bytes belong to this reply. Without memory it is refused. */
size_t reply_feed(struct reply_reader *r, const char *p, size_t n);
/* The upstream sends no more. */
void reply_end(struct reply_reader *r);
/* REPLY_DONE, and its connection may carry another request. */
bool reply_keeps(const struct reply_reader *r);

#endif
