#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "replay/keeper.h"
#include "replay/spent.h"

struct memory {
    struct replay replay;
    struct spent *spent;
    _Atomic bool passed;    /* the clock has reached the floor once: if it stands before it again, it stepped back */
    _Atomic int64_t latest; /* the latest Time ever accepted, as its own rule read it */
    _Atomic int64_t walls;  /* just after the latest that was accepted without a zone, read as UTC; 0: none was */
    struct keeper *keeper;  /* NULL: no mark is kept */
};

/* With what waits for the mark. */
struct memory_line {
    struct replay_line line;
    struct replay_host host;
    struct replay_call *waiting;
};

static void raise_latest(struct memory *r, const struct keeper_time *t)
{
    time_raise(&r->latest, t->time_us);
    if (t->east_us != TIME_NONE)
        time_raise(&r->walls, t->time_us + t->east_us + 1);
}

/* Remembered, but accepted only with a mark that covers its Time. */
static enum reason mark_it(struct memory *r, struct memory_line *line, const uint8_t digest[2][REPLAY_DIGEST],
                           const struct replay_claim *c, struct replay_call *call)
{
    const struct keeper_time t = {c->time_us, c->now_us,
                                  c->zoneless && c->time_us != TIME_NONE ? c->wall_us - c->time_us : TIME_NONE};
    const bool covered = !r->keeper || keeper_note(r->keeper, &t);
    if (!covered && !call) {
        spent_forget(r->spent, digest);
        return REASON_REPLAY_UNAVAILABLE;
    }
    if (covered) {
        raise_latest(r, &t);
        return REASON_OK;
    }
    call->waits = true;
    call->line = &line->line;
    call->time_us = t.time_us;
    call->now_us = t.now_us;
    call->east_us = t.east_us;
    memcpy(call->digest, digest, sizeof call->digest);
    call->next = line->waiting;
    call->link = &line->waiting;
    if (call->next)
        call->next->link = &call->next;
    line->waiting = call;
    return REASON_OK;
}

static void stop_waiting(struct replay_call *call)
{
    *call->link = call->next;
    if (call->next)
        call->next->link = call->link;
    call->waits = false;
}

static enum reason memory_spend(struct replay *replay, struct replay_line *line, const struct replay_claim *c,
                                struct replay_call *call)
{
    struct memory *r = (struct memory *)replay;
    uint8_t digest[2][REPLAY_DIGEST];
    if (!spent_digests(c, digest))
        return REASON_REPLAY_FULL;
    const enum reason result = spent_add(r->spent, digest, c);
    return result == REASON_OK ? mark_it(r, (struct memory_line *)line, digest, c, call) : result;
}

static void memory_give_back(struct replay *r, struct replay_line *line, const struct replay_claim *c)
{
    uint8_t digest[2][REPLAY_DIGEST];
    (void)line;
    if (spent_digests(c, digest)) /* else it stays spent */
        spent_forget(((struct memory *)r)->spent, digest);
}

static void memory_cancel(struct replay_call *call)
{
    stop_waiting(call);
    spent_forget(((struct memory *)call->line->replay)->spent, call->digest);
}

static void memory_settle(struct replay *r, const struct replay_settings *s)
{
    spent_retain(((struct memory *)r)->spent, s->past_us);
    if (s->max_entries)
        spent_limit(((struct memory *)r)->spent, s->max_entries);
}

static void memory_tidy(struct replay *r)
{
    spent_tidy(((struct memory *)r)->spent);
}

static int64_t memory_floor(const struct replay *r)
{
    return spent_floor(((const struct memory *)r)->spent);
}

static int64_t memory_walls(const struct replay *r)
{
    return spent_walls(((const struct memory *)r)->spent);
}

static size_t memory_count(const struct replay *r)
{
    return spent_count(((const struct memory *)r)->spent);
}

/* The mark, which a call may wait for, is on the disk long before; or the disk is at fault. */
static int64_t memory_patience(const struct replay *r)
{
    enum { PATIENCE_MS = 500 };
    (void)r;
    return PATIENCE_MS * US_PER_S / 1000;
}

static const char *memory_unready(const struct replay *replay, int64_t now_us)
{
    struct memory *r = (struct memory *)replay; /* its atomics only */
    if (now_us < spent_floor(r->spent))
        return atomic_load(&r->passed) ? "clock" : "starting";
    atomic_store(&r->passed, true);
    return r->keeper && !keeper_covers(r->keeper, &(struct keeper_time){TIME_NONE, now_us, TIME_NONE}) ? "mark" : NULL;
}

static struct replay_line *memory_line_open(struct replay *r, const struct replay_host *host)
{
    struct keeper *keeper = ((struct memory *)r)->keeper;
    struct memory_line *l = calloc(1, sizeof *l);
    if (!l)
        return NULL;
    *l = (struct memory_line){.line.replay = r, .host = *host};
    if (!keeper || keeper_add(keeper, host))
        return &l->line;
    free(l);
    return NULL;
}

static void memory_line_turn(struct replay_line *line)
{
    struct memory_line *l = (struct memory_line *)line;
    struct memory *r = (struct memory *)line->replay;
    for (struct replay_call *call = l->waiting, *next; call; call = next) {
        next = call->next;
        const struct keeper_time t = {call->time_us, call->now_us, call->east_us};
        if (!keeper_covers(r->keeper, &t))
            continue;
        stop_waiting(call);
        raise_latest(r, &t);
        call->done(call->arg, REASON_OK);
    }
}

static void memory_line_close(struct replay_line *line)
{
    struct memory_line *l = (struct memory_line *)line;
    struct keeper *keeper = ((struct memory *)line->replay)->keeper;
    if (keeper)
        keeper_remove(keeper, &l->host);
    free(l);
}

static bool memory_start(struct replay *r, struct detail *why)
{
    struct keeper *keeper = ((struct memory *)r)->keeper;
    return !keeper || keeper_start(keeper, why);
}

static void memory_end(struct replay *r)
{
    struct memory *m = (struct memory *)r;
    if (m->keeper)
        keeper_end(m->keeper, atomic_load(&m->latest), atomic_load(&m->walls));
}

static void memory_free(struct replay *replay)
{
    struct memory *r = (struct memory *)replay;
    keeper_free(r->keeper);
    spent_free(r->spent);
    free(r);
}

static struct memory *memory_new(unsigned max_entries, int64_t floor_us, int64_t walls_us,
                                 const struct replay_settings *s)
{
    static const struct replay_engine MEMORY = {
        .free = memory_free,
        .start = memory_start,
        .end = memory_end,
        .settle = memory_settle,
        .tidy = memory_tidy,
        .floor = memory_floor,
        .walls = memory_walls,
        .unready = memory_unready,
        .count = memory_count,
        .patience = memory_patience,
        .line_open = memory_line_open,
        .line_turn = memory_line_turn,
        .line_close = memory_line_close,
        .spend = memory_spend,
        .cancel = memory_cancel,
        .give_back = memory_give_back,
    };
    struct memory *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->replay.engine = &MEMORY;
    r->spent = spent_new(max_entries, floor_us, walls_us, s->past_us);
    atomic_init(&r->passed, false);
    atomic_init(&r->latest, floor_us - 1);
    atomic_init(&r->walls, walls_us == TIME_NONE ? 0 : walls_us);
    if (r->spent)
        return r;
    memory_free(&r->replay);
    return NULL;
}

struct replay *replay_memory_new(unsigned max_entries, int64_t floor_us, const struct replay_settings *s)
{
    struct memory *r = memory_new(max_entries, floor_us, TIME_NONE, s);
    return r ? &r->replay : NULL;
}

static void tell_floor(const struct replay_state *state, const struct mark *m, int64_t floor_us, bool back)
{
    char until[TIME_TEXT];
    time_format(floor_us, false, until);
    if (back)
        log_warn("replay", state->folder,
                 "this machine's clock stands before the time at which %s was last written: signed requests are "
                 "refused until %s. Set the clock right; if it was wrong then, and is right now, delete the file: "
                 "what was captured while it was wrong could be replayed after that",
                 MARK_FILE, until);
    else
        log_info("replay", state->folder, "%s; signed requests are accepted from %s",
                 !m         ? "no mark of an earlier run"
                 : m->clean ? "the last run ended in order"
                            : "the last run was cut off",
                 until);
}

struct replay *replay_memory_kept(unsigned max_entries, const struct replay_settings *s,
                                  const struct replay_state *state, int64_t launch_us)
{
    struct mark m;
    struct detail why = {""};
    const enum mark_found found = mark_read(state->folder, &state->key, &m, &why);
    if (found == MARK_FOREIGN)
        log_warn("replay", state->folder, "%s: it is as if there were none", why.text);
    const struct mark *mark = found == MARK_FOUND ? &m : NULL;
    const int64_t floor_us = floor_at_start(mark, launch_us, s->future_us);
    struct memory *memory = memory_new(max_entries, floor_us, floor_walls_at_start(mark, floor_us), s);
    if (!memory)
        return NULL;
    const bool back = mark && launch_us < mark->clock_us;
    atomic_store(&memory->passed, back); /* it is the clock that makes the wait, not the start */
    memory->keeper = keeper_new(state, floor_us - 1, atomic_load(&memory->walls));
    if (memory->keeper) {
        tell_floor(state, mark, floor_us, back);
        return &memory->replay;
    }
    memory_free(&memory->replay);
    return NULL;
}
