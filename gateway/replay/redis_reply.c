#include "replay/redis_reply.h"

#include <hiredis/read.h>
#include <stdlib.h>
#include <string.h>

struct redis_reader {
    redisReader *hiredis;
    struct redis_reply reply;
    size_t text_n;
    char text[REPLY_TEXT];
};

/* The place for what was read, in the order of the array; NULL: no reply of ours is like that. */
static struct redis_item *item_of(const redisReadTask *task)
{
    struct redis_reader *r = task->privdata;
    if (!task->parent) {
        r->reply.array = false;
        r->reply.n = 1;
        r->text_n = 0;
        return &r->reply.item[0];
    }
    return task->idx >= 0 && (size_t)task->idx < r->reply.n ? &r->reply.item[task->idx] : NULL;
}

/* hiredis' own text is in a buffer that moves. */
static void *create_string(const redisReadTask *task, char *p, size_t n)
{
    struct redis_reader *r = task->privdata;
    struct redis_item *item = item_of(task);
    if (!item || n > sizeof r->text - r->text_n)
        return NULL;
    char *text = r->text + r->text_n;
    if (n)
        memcpy(text, p, n);
    r->text_n += n;
    *item = (struct redis_item){.kind = task->type == REDIS_REPLY_ERROR    ? ITEM_ERROR
                                        : task->type == REDIS_REPLY_STATUS ? ITEM_STATUS
                                                                           : ITEM_TEXT,
                                .text = {text, n}};
    return item;
}

/* None of ours has an array in it. */
static void *create_array(const redisReadTask *task, int n)
{
    struct redis_reader *r = task->privdata;
    if (task->parent || n < 0 || n > REPLY_ITEMS)
        return NULL;
    r->text_n = 0;
    r->reply.array = true;
    r->reply.n = (size_t)n;
    for (size_t i = 0; i < r->reply.n; i++)
        r->reply.item[i] = (struct redis_item){.kind = ITEM_NIL};
    return &r->reply;
}

static void *create_integer(const redisReadTask *task, long long value)
{
    struct redis_item *item = item_of(task);
    if (item)
        *item = (struct redis_item){.kind = ITEM_INTEGER, .integer = value};
    return item;
}

static void *create_nil(const redisReadTask *task)
{
    struct redis_item *item = item_of(task);
    if (item)
        *item = (struct redis_item){.kind = ITEM_NIL};
    return item;
}

static void free_object(void *object)
{
    (void)object; /* the reader's own */
}

bool redis_reader_reset(struct redis_reader *r)
{
    static redisReplyObjectFunctions functions = {create_string, create_array, create_integer, create_nil, free_object};
    if (r->hiredis)
        redisReaderFree(r->hiredis);
    r->hiredis = redisReaderCreateWithFunctions(&functions);
    if (r->hiredis)
        r->hiredis->privdata = r;
    return r->hiredis;
}

struct redis_reader *redis_reader_new(void)
{
    struct redis_reader *r = calloc(1, sizeof *r);
    if (r && redis_reader_reset(r))
        return r;
    free(r);
    return NULL;
}

void redis_reader_free(struct redis_reader *r)
{
    if (r && r->hiredis)
        redisReaderFree(r->hiredis);
    free(r);
}

bool redis_reader_feed(struct redis_reader *r, const void *bytes, size_t n)
{
    return r->hiredis && n <= REPLY_WAITING && r->hiredis->len - r->hiredis->pos <= REPLY_WAITING - n &&
           redisReaderFeed(r->hiredis, bytes, n) == 0;
}

enum redis_read redis_reader_next(struct redis_reader *r, const struct redis_reply **out)
{
    void *got = NULL;
    *out = NULL;
    if (!r->hiredis || redisReaderGetReply(r->hiredis, &got) != 0)
        return REPLY_FAULTY;
    if (!got)
        return REPLY_PART;
    *out = &r->reply;
    return REPLY_WHOLE;
}

struct str redis_info_field(struct str info, const char *name)
{
    const size_t n = strlen(name);
    for (const char *p = info.p, *end = info.p + info.n; p && p < end;) {
        const char *lf = memchr(p, '\n', (size_t)(end - p));
        const struct str line = {p, lf ? (size_t)(lf - p) : (size_t)(end - p)};
        if (line.n > n && line.p[n] == ':' && str_eq_z((struct str){line.p, n}, name))
            return str_trim((struct str){line.p + n + 1, line.n - n - 1});
        p = lf ? lf + 1 : NULL;
    }
    return STR_MISSING;
}
