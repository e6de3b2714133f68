#include <stdlib.h>
#include <string.h>

#include "study/cases.h"

/* One case on its way through the gate. */
struct running {
    const struct cases *c;
    const struct rule_case *rc;
    struct rules *rules;
    struct yaml_in in;
    struct case_run *run;
    int64_t now_us;
};

/* A case knows its rules by their ids: what decided is what it covers. */
static void cover(struct running *r, const struct judgement *j)
{
    const struct rules *rules = r->rules;
    if (j->rule)
        r->run->requests[j->rule - rules->requests] = true;
    for (size_t i = 0; i < rules->response_count && j->decision.response.rule; i++)
        if (case_expects_response(r->rc) && rules->responses[i].id == j->decision.response.rule)
            r->run->responses[i] = true;
}

static struct judgement *cases_judge(const struct running *r, const struct gate *gate, struct str body)
{
    const struct case_facts *f = &r->rc->facts;
    struct judgement *j = judgement_new(gate, "case");
    const struct gate_head head = {.method = str_z(f->method), .target = str_z(f->path), .source = f->source};
    if (j && gate_head(j, &head) == REASON_OK)
        (void)!gate_request(j, body, r->now_us);
    return j;
}

static void cases_note(const struct running *r, const char *what)
{
    struct buf text BUF_CLEANUP = BUF_INIT(2048);
    buf_printf(&text, "%s:%d: case %s: the upstream's reply: %s", r->in.file, r->rc->node->line,
               show(str_z(r->rc->name)).z, what);
    if (!text.failed)
        (void)!strings_add(&r->run->notes, buf_view(&text)); /* without memory it is not told */
}

/* What goes to the upstream, and what its answer becomes. */
static bool cases_answer(const struct running *r, struct judgement *j, const struct case_made *made,
                         struct case_outcome o)
{
    struct gate_outgoing out = {0};
    struct gate_response reply = {0};
    const struct gate_upstream up = {(int)r->rc->facts.status, made->reply.p ? buf_view(&made->reply) : STR("")};
    enum reason why = gate_forward(j, o.body, &out);
    o.outgoing = &out;
    if (why == REASON_OK)
        why = gate_reply(j, &up, r->now_us, &reply);
    else
        j->decision.reason = why;
    o.status = reply.status ? reply.status : reason_status(why);
    struct yaml_in in = r->in;
    const bool same = case_compare(&in, r->rc, &o);
    if (!same && reply.why.text[0])
        yaml_fault(&in, r->rc->node, "case %s: the upstream's reply: %s", show(str_z(r->rc->name)).z, reply.why.text);
    if (reply.left_out.text[0])
        cases_note(r, reply.left_out.text);
    buf_free(&reply.body);
    gate_outgoing_free(&out);
    return same;
}

static bool hold(struct running *r, const struct gate *gate, const struct case_made *made)
{
    const struct str body = made->body.p ? buf_view(&made->body) : STR("");
    if (r->rc->facts.fails == CHECK_REPLAY) /* the first of two */
        judgement_free(cases_judge(r, gate, body));
    struct judgement *j = cases_judge(r, gate, body);
    if (!j)
        return false;
    struct case_outcome o = {.j = j, .body = body, .request_reason = j->decision.reason};
    memcpy(o.shadow, j->decision.shadow, sizeof o.shadow);
    const bool same = j->decision.accepted ? cases_answer(r, j, made, o) : case_compare(&r->in, r->rc, &o);
    r->run->failed += !same;
    cover(r, j);
    judgement_free(j);
    return true;
}

static bool run_case(struct running *r)
{
    enum { REPLAY_ENTRIES = 64, ZONES_APART_DAYS = 3 };
    struct detail why = {""};
    struct case_made made;
    /* to the millisecond, as Time is written: the edges of a window are then where a case puts them */
    r->now_us = r->rc->facts.at_us == TIME_NONE ? time_now_us() / 1000 * 1000 : r->rc->facts.at_us;
    if (!case_make(r->c, &r->rc->facts, r->rules, r->now_us, &made, &why)) {
        yaml_fault(&r->in, r->rc->node, "case %s: %s", show(str_z(r->rc->name)).z, why.text);
        r->run->failed++;
        return true;
    }
    /* A gateway that has run for longer than any window is wide, and than two readings of a Time without a zone are
     * apart: it is held against the floor by the earliest. */
    const int64_t retain = r->rules->max_past_us;
    const int64_t floor_us = r->now_us - retain - INT64_C(86400) * ZONES_APART_DAYS * US_PER_S;
    const struct gate gate = {.public_url = &r->c->public_url,
                              .rules = r->rules,
                              .keys = made.keys,
                              .replay = replay_memory_new(REPLAY_ENTRIES, floor_us,
                                                          &(struct replay_settings){.past_us = retain})};
    const bool ok = gate.replay && hold(r, &gate, &made);
    replay_free(gate.replay);
    case_made_free(&made);
    return ok;
}

bool cases_run(const struct cases *c, struct rules *rules, struct faults *faults, struct case_run *out)
{
    *out = (struct case_run){.n = c->n,
                             .requests = calloc(rules->request_count + 1, sizeof *out->requests),
                             .responses = calloc(rules->response_count + 1, sizeof *out->responses)};
    bool ok = out->requests && out->responses;
    for (size_t i = 0; ok && i < c->n; i++) {
        struct running r = {c, c->v + i, rules, {c->file, faults}, out, 0};
        ok = run_case(&r);
    }
    if (!ok)
        faults_add(faults, c->file, 0, 0, "out of memory");
    return ok;
}

void case_run_free(struct case_run *r)
{
    free(r->requests);
    free(r->responses);
    strings_free(&r->notes);
    *r = (struct case_run){0};
}
