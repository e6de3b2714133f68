/*
 * What a Redis server, or a Sentinel, answers: read by libhiredis into a reply of bounded size. Everything in it is
 * from outside. Inside replay/ only.
 *
 *     if (!redis_reader_feed(r, bytes, n)) ...                      more than any reply of ours may have
 *     while ((got = redis_reader_next(r, &reply)) == REPLY_WHOLE)   reply is r's, until the next call
 *     if (got == REPLY_FAULTY) ...                                  no reply of ours: the connection is of no use
 */
#ifndef KMSGATE_REPLAY_REDIS_REPLY_H
#define KMSGATE_REPLAY_REDIS_REPLY_H

#include "base/str.h"

enum {
    REPLY_ITEMS = 72,         /* of an array: a batch's verdicts, and three more */
    REPLY_TEXT = 64 << 10,    /* bytes of all texts together: a few sections of INFO */
    REPLY_WAITING = 96 << 10, /* bytes fed and not yet read */
};

struct redis_item {
    enum { ITEM_NIL, ITEM_INTEGER, ITEM_TEXT, ITEM_STATUS, ITEM_ERROR } kind;
    int64_t integer;
    struct str text; /* not missing where kind is TEXT, STATUS or ERROR */
};

struct redis_reply {
    bool array;
    size_t n; /* items; 1 where it is no array */
    struct redis_item item[REPLY_ITEMS];
};

struct redis_reader;
enum redis_read { REPLY_WHOLE, REPLY_PART, REPLY_FAULTY };

struct redis_reader *redis_reader_new(void); /* NULL without memory */
void redis_reader_free(struct redis_reader *r);
/* For another connection. False without memory. */
bool redis_reader_reset(struct redis_reader *r);
bool redis_reader_feed(struct redis_reader *r, const void *bytes, size_t n);
enum redis_read redis_reader_next(struct redis_reader *r, const struct redis_reply **out);

/* The value of `name:` in a text of INFO, up to the line's end; missing where there is none. */
struct str redis_info_field(struct str info, const char *name);

#endif
