#include "replay/replay_engine.h"

void replay_free(struct replay *r)
{
    if (r)
        r->engine->free(r);
}

bool replay_start(struct replay *r, struct detail *why)
{
    return !r->engine->start || r->engine->start(r, why);
}

void replay_end(struct replay *r)
{
    if (r->engine->end)
        r->engine->end(r);
}

void replay_settle(struct replay *r, const struct replay_settings *s)
{
    r->engine->settle(r, s);
}

void replay_tidy(struct replay *r)
{
    if (r->engine->tidy)
        r->engine->tidy(r);
}

int64_t replay_floor(const struct replay *r)
{
    return r->engine->floor(r);
}

int64_t replay_walls(const struct replay *r)
{
    return r->engine->walls ? r->engine->walls(r) : TIME_NONE;
}

const char *replay_unready(const struct replay *r, int64_t now_us)
{
    return r->engine->unready(r, now_us);
}

size_t replay_count(const struct replay *r)
{
    return r->engine->count(r);
}

int64_t replay_patience_us(const struct replay *r)
{
    return r->engine->patience(r);
}

struct replay_line *replay_line_open(struct replay *r, const struct replay_host *host)
{
    return r->engine->line_open(r, host);
}

void replay_line_turn(struct replay_line *l)
{
    l->replay->engine->line_turn(l);
}

void replay_line_close(struct replay_line *l)
{
    if (l)
        l->replay->engine->line_close(l);
}

enum reason replay_spend(struct replay *r, struct replay_line *line, const struct replay_claim *claim,
                         struct replay_call *call)
{
    if (call)
        call->waits = false;
    if (!claim->user.p || !claim->key_id.p || claim->value_n == 0)
        return REASON_REPLAY_FULL;
    return r->engine->spend(r, call ? line : NULL, claim, line ? call : NULL);
}

void replay_cancel(struct replay_call *call)
{
    if (call->waits)
        call->line->replay->engine->cancel(call);
}

void replay_give_back(struct replay *r, struct replay_line *line, const struct replay_claim *claim)
{
    r->engine->give_back(r, line, claim);
}
