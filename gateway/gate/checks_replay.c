#include "gate/checks.h"

/* The request's Time as a rule reads it, the earliest reading first; none where the rule takes no Time like it, or does
 * not look. */
static unsigned times_under(const struct checks *c, int64_t time_us, bool has_zone, int64_t out[2])
{
    if (c->mode[CHECK_TIME] != MODE_ENFORCE || c->mode[CHECK_REPLAY] == MODE_OFF)
        return 0;
    if (!has_zone)
        return checks_readings(c, time_us, out);
    out[0] = time_us;
    return 1;
}

/* Of a Time that its own rule does not enforce, but may after the next reload: by that rule's reading, or as it stands.
 * True: it is far ahead, and will be forgotten before it comes. */
static bool claim_unjudged(const struct checks *c, int64_t time_us, bool has_zone, int64_t furthest,
                           struct replay_claim *claim)
{
    int64_t at[2] = {time_us, time_us};
    const unsigned n = has_zone ? 0 : checks_readings(c, time_us, at);
    const int64_t latest = at[n ? n - 1 : 0];
    if (latest > claim->latest_us)
        claim->latest_us = latest < furthest ? latest : furthest;
    return latest > furthest;
}

/*
 * The Times to remember a request by: all that any rule takes it for. Else what one rule let through early, because it
 * does not enforce Time, assumes a zone further east or one whose clocks show that Time twice, could come again under
 * another, or later, when it is forgotten. A Time further ahead than zones are apart is not remembered that long: it
 * would keep places for years.
 */
static void claim_times(const struct judgement *j, int64_t now_us, struct replay_claim *claim)
{
    enum { AHEAD_MAX_HOURS = 48 };
    const int64_t furthest = now_us + (int64_t)AHEAD_MAX_HOURS * 3600 * US_PER_S;
    int64_t time_us, at[2];
    bool has_zone;
    claim->time_us = claim->earliest_us = claim->latest_us = TIME_NONE;
    if (!time_parse(j->request.time, &time_us, &has_zone))
        return;
    const unsigned own = times_under(&j->rule->checks, time_us, has_zone, at);
    if (own) {
        claim->time_us = now_us - j->decision.skew_us; /* the reading that was judged */
        claim->earliest_us = at[0];
        claim->latest_us = at[own - 1];
    }
    for (size_t i = 0; i < j->rules->request_count && !(own && has_zone); i++) {
        const unsigned n = times_under(&j->rules->requests[i].checks, time_us, has_zone, at);
        if (n && own && at[0] < claim->earliest_us)
            claim->earliest_us = at[0];
        if (n && at[n - 1] > claim->latest_us)
            claim->latest_us = at[n - 1] < furthest ? at[n - 1] : furthest;
    }
    const bool far = !own && claim_unjudged(&j->rule->checks, time_us, has_zone, furthest, claim);
    if (!own && claim->latest_us <= now_us)
        claim->latest_us = TIME_NONE;
    claim->zoneless = !has_zone && !far;
    claim->wall_us = time_us;
}

void checks_replay_found(struct judgement *j, enum reason reason, struct detail *found)
{
    const struct str time = checks_shown(j->request.time);
    const bool doubtful = j->claim.zoneless && j->claim.wall_us < replay_walls(j->gate->replay);
    const bool early = j->claim.earliest_us != TIME_NONE && j->claim.earliest_us < replay_floor(j->gate->replay);
    if (reason == REASON_REPLAY_SEEN)
        detail_set(found, "this signed request was accepted before");
    else if (reason == REASON_REPLAY_FULL)
        detail_set(found, "the replay memory has no room for it");
    else if (reason == REASON_REPLAY_UNAVAILABLE && early)
        detail_set(found, "Time is %.*s, before what the replay memory remembers", STR_FMT(time));
    else if (reason == REASON_REPLAY_UNAVAILABLE && doubtful)
        detail_set(found, "Time is %.*s, without a zone: one like it may have been accepted before, when rules read "
                          "such Times in another zone", STR_FMT(time));
    else if (reason == REASON_REPLAY_UNAVAILABLE)
        detail_set(found, "the replay memory could not take note of it in time");
}

enum reason check_replay(struct judgement *j, int64_t now_us, struct detail *found)
{
    j->claim = (struct replay_claim){.user = j->request.user_uri,
                                     .key_id = j->signer->id,
                                     .value = j->sig.value,
                                     .value_n = j->sig.value_n,
                                     .now_us = now_us};
    claim_times(j, now_us, &j->claim);
    const struct gate *g = j->gate;
    const enum reason r =
        replay_spend(g->replay, g->replay_line, &j->claim, j->spending.done ? &j->spending : NULL);
    if (j->spending.waits)
        return REASON_OK;
    j->spent = r == REASON_OK;
    checks_replay_found(j, r, found);
    return r;
}
