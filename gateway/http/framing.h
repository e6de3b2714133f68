/*
 * What HTTP/1 messages of both sides are made of: tokens, lists, lengths, chunks (RFC 9110, 5.6; RFC 9112, 6 and 7).
 * One reading for the guard, which reads requests, and for the reader of the upstream's replies: what two readers could
 * read differently is no message for either.
 */
#ifndef KMSGATE_HTTP_FRAMING_H
#define KMSGATE_HTTP_FRAMING_H

#include "base/str.h"

/* A token is one character at least. */
bool framing_is_token(struct str s);
/* Without spaces and tabs around. */
struct str framing_trim(struct str s);
/* A field's value: no control character but the tab. */
bool framing_is_value(struct str s);
/* Whether the comma-separated list holds the token, in whatever case. */
bool framing_list_has(struct str list, struct str token);

/* Of a Content-Length: digits alone. FRAMING_LARGE: a number, but above max. */
enum framing_length { FRAMING_LENGTH, FRAMING_LARGE, FRAMING_NONE };
enum framing_length framing_length(struct str value, size_t max, size_t *out);

/* A line of a head, cut into name and value; false: it is no field (no colon, a blank before it, a folded line, a
 * control character). */
bool framing_field(struct str line, struct str *name, struct str *value);

/*
 * A chunked body's frame, byte by byte:
 *
 *     struct chunks c = {0};
 *     CHUNK_DATA: take up to c.left bytes of data, framing_chunk_data(&c, n); else framing_chunk(&c, byte, room)
 *     CHUNK_END_CR: the last chunk's size line is read; trailers, if they are allowed, stand here, then CR LF
 *     CHUNK_DONE, CHUNK_BAD, CHUNK_LARGE (a chunk of more than `room` bytes): the end
 */
enum chunk_state {
    CHUNK_SIZE, CHUNK_SIZE_LF, CHUNK_DATA, CHUNK_DATA_CR, CHUNK_DATA_LF, CHUNK_END_CR, CHUNK_END_LF, CHUNK_DONE,
    CHUNK_BAD, CHUNK_LARGE
};
struct chunks {
    enum chunk_state state;
    size_t left;     /* of the chunk's data */
    unsigned digits; /* of its size, so far */
};
void framing_chunk(struct chunks *c, char byte, size_t room);
void framing_chunk_data(struct chunks *c, size_t n); /* n <= c->left were taken */

#endif
