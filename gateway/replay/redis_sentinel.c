#include <stdio.h>
#include <string.h>

#include "replay/redis_talk.h"

void redis_ask_sentinel(struct talk *t, bool password)
{
    const struct redis_site *s = t->site;
    if (password) {
        redis_command(&t->out, s->how.user ? 3 : 2);
        redis_argument_z(&t->out, "AUTH");
        if (s->how.user)
            redis_argument_z(&t->out, s->how.user);
        redis_argument(&t->out, s->password, s->password_n);
    }
    redis_command(&t->out, 3);
    redis_argument_z(&t->out, "SENTINEL");
    redis_argument_z(&t->out, "GET-MASTER-ADDR-BY-NAME");
    redis_argument_z(&t->out, s->how.master);
}

static bool is_host(struct str h)
{
    for (size_t i = 0; i < h.n; i++)
        if (!((h.p[i] >= 'a' && h.p[i] <= 'z') || (h.p[i] >= 'A' && h.p[i] <= 'Z') ||
              (h.p[i] >= '0' && h.p[i] <= '9') || h.p[i] == '-' || h.p[i] == '.' || h.p[i] == '_' || h.p[i] == ':'))
            return false;
    return h.n > 0 && h.n < REDIS_HOST;
}

static bool take_address(const struct redis_reply *r, char host[REDIS_HOST], char port[REDIS_PORT])
{
    uint64_t n;
    if (!r->array || r->n != 2 || r->item[0].kind != ITEM_TEXT || r->item[1].kind != ITEM_TEXT ||
        !is_host(r->item[0].text) || !str_to_u64(r->item[1].text, UINT16_MAX, &n) || !n)
        return false;
    snprintf(host, REDIS_HOST, "%.*s", STR_FMT(r->item[0].text));
    snprintf(port, REDIS_PORT, "%u", (unsigned)n);
    return true;
}

enum sentinel_says redis_hear_sentinel(struct talk *t, const void *bytes, size_t n, char host[REDIS_HOST],
                                       char port[REDIS_PORT])
{
    const struct redis_reply *r;
    enum redis_read got = REPLY_FAULTY;
    if (redis_reader_feed(t->reader, bytes, n))
        while ((got = redis_reader_next(t->reader, &r)) == REPLY_WHOLE) {
            const struct redis_item *one = &r->item[0];
            if (!r->array && one->kind == ITEM_STATUS) /* to AUTH */
                continue;
            if (!r->array && one->kind == ITEM_ERROR && redis_error_kind(one->text) == REDIS_AUTH)
                return SENTINEL_LOCKED;
            if (take_address(r, host, port))
                return SENTINEL_KNOWS;
            (void)talk_fail(t, REDIS_SENTINEL, r->array || one->kind == ITEM_NIL
                                                   ? "a Sentinel knows no primary called %.60s"
                                                   : "a Sentinel gives no answer about %.60s", t->site->how.master);
            return SENTINEL_FAILS;
        }
    if (got == REPLY_PART)
        return SENTINEL_MORE;
    (void)talk_fail(t, REDIS_PROTOCOL, "what it says is not a reply of a Sentinel");
    return SENTINEL_FAILS;
}
