#include "gate/rules_internal.h"

static bool holds_to_time(const struct checks *c)
{
    return c->mode[CHECK_TIME] == MODE_ENFORCE && c->mode[CHECK_REPLAY] == MODE_ENFORCE;
}

static bool takes_signed(const struct request_rule *q)
{
    return request_rule_takes(q) & FORM_SIGNED;
}

/* What has no Time that is looked at cannot be told from what was accepted before the last start. */
static void lint_timeless(struct reading *g, size_t i)
{
    const struct request_rule *q = g->r->requests + i;
    const struct checks *c = &q->checks;
    if (takes_signed(q) && c->mode[CHECK_REPLAY] == MODE_ENFORCE && c->mode[CHECK_TIME] != MODE_ENFORCE)
        rules_lint_add(rules_remark(g, q->id, rules_node(g->requests, i), "checks", "time"), LINT_REPLAY_TIMELESS,
                       "enforces `replay` without `time`: after each start what was captured before is accepted once "
                       "more");
}

static bool reads_zoneless(const struct request_rule *q)
{
    return takes_signed(q) && holds_to_time(&q->checks) && !q->checks.zone_refuse;
}

/* How far east of UTC (minutes) the clocks of a rule are that show `wall_us`, read one way or the other; false: they
 * never show it. */
static bool zone_offset(const struct checks *c, int64_t wall_us, bool most, int *out)
{
    int64_t at[2];
    const unsigned n = c->zone ? zone_instants(c->zone, wall_us, at) : 0;
    if (n)
        *out = (int)((wall_us - at[most ? 0 : n - 1]) / (60 * US_PER_S));
    else
        *out = c->zone_minutes;
    return n || !c->zone;
}

/* By how many minutes q reads a Time without a zone earlier than `other` does, at most, over a year: zones that are
 * named have summers of their own. */
static int reads_earlier(const struct checks *q, const struct checks *other)
{
    enum { DAYS = 366 };
    const int64_t now = time_now_us();
    int worst = 0;
    for (int64_t day = 0; day < (q->zone || other->zone ? DAYS : 1); day++) {
        int east = 0, west = 0;
        const int64_t wall = now + day * 86400 * US_PER_S;
        if (zone_offset(q, wall, true, &east) && zone_offset(other, wall, false, &west) && east - west > worst)
            worst = east - west;
    }
    return worst;
}

/* A Time without a zone may have been accepted as what any rule takes it for, and is held against the start by the
 * earliest: by this rule's, the clients of that one have to wait. */
static void lint_zone_restart(struct reading *g, size_t i)
{
    const struct request_rule *q = g->r->requests + i, *west = q;
    int minutes = 0;
    for (size_t k = 0; k < g->r->request_count && reads_zoneless(q); k++) {
        const struct request_rule *other = g->r->requests + k;
        const int earlier = k != i && reads_zoneless(other) ? reads_earlier(&q->checks, &other->checks) : 0;
        if (earlier > minutes) {
            minutes = earlier;
            west = other;
        }
    }
    if (minutes > 0)
        rules_lint_add(rules_remark(g, q->id, rules_node(g->requests, i), "checks", "time"), LINT_ZONE_RESTART,
                       "reads a Time without a zone as %d h %02d min earlier than `%s` does, whose clients without a "
                       "zone are refused for so long after each start: if it has none, let it say assume_zone: refuse",
                       minutes / 60, minutes % 60, west->id);
}

void rules_lint_replay(struct reading *g)
{
    for (size_t i = 0; i < g->r->request_count; i++) {
        lint_timeless(g, i);
        lint_zone_restart(g, i);
    }
}

bool rules_fit_shared(const struct rules *r, struct faults *faults)
{
    enum { AHEAD_S = 60 };
    bool fit = true;
    for (size_t i = 0; i < r->request_count; i++) {
        const struct checks *c = &r->requests[i].checks;
        if (!takes_signed(&r->requests[i]) || c->mode[CHECK_REPLAY] == MODE_OFF ||
            c->mode[CHECK_TIME] != MODE_ENFORCE || c->future_us <= AHEAD_S * US_PER_S)
            continue;
        faults_add(faults, r->file, r->requests[i].line, 1,
                   "rule `%s` takes a Time up to %.20s ahead (`future`), and gateway.yaml has a shared replay memory: "
                   "expected at most %d s, for so long all are refused after each failover",
                   r->requests[i].id, duration_show(c->future_us).z, AHEAD_S);
        fit = false;
    }
    return fit;
}
