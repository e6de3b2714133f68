#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/sink.h"
#include "base/uri.h"
#include "http/admin.h"

/* /decisions?n=&user=&reason=&verdict=&rule=&source=&form=&follow=1 */

enum { DECISIONS_MOST = 1000, DECISIONS_USUAL = 100, FIELD_MAX = 1024, LINE_MAX_BYTES = 1 << 20 };
enum field { FIELD_USER, FIELD_REASON, FIELD_VERDICT, FIELD_RULE, FIELD_SOURCE, FIELD_FORM, FIELD_COUNT };
static const char *const FIELDS[] = {"user", "reason", "verdict", "rule", "source", "form"};
_Static_assert(sizeof FIELDS / sizeof *FIELDS == FIELD_COUNT, "each field has its name");

struct filter {
    uint64_t n;
    bool any;                      /* a field is asked for */
    bool numbered, follow;
    struct buf field[FIELD_COUNT]; /* decoded; p NULL: not asked for */
};

/* `*` stands for any text in a user's URI, a rule's name and an address; the others are words. */
static bool admin_decisions_holds(const void *arg, struct str line)
{
    const struct filter *f = arg;
    size_t at;
    const char *why;
    struct json_doc *doc = json_read(line, &at, &why);
    bool ok = doc != NULL;
    for (size_t i = 0; ok && i < FIELD_COUNT; i++) {
        if (!f->field[i].p)
            continue;
        const struct json_value *v = json_get(json_root(doc), FIELDS[i]);
        const struct str found = v && v->kind == JSON_STRING ? v->text : STR("");
        ok = str_glob(buf_view(&f->field[i]), found, false);
    }
    json_free(doc);
    return ok;
}

/* One `name=value`. False where that is none, or stands there twice. */
static bool read_pair(struct filter *f, struct str pair)
{
    const char *equals = memchr(pair.p, '=', pair.n);
    if (!equals)
        return false;
    const struct str name = {pair.p, (size_t)(equals - pair.p)};
    const struct str value = {equals + 1, pair.n - name.n - 1};
    if (str_eq_z(name, "n")) {
        const bool again = f->numbered;
        f->numbered = true;
        return !again && str_to_u64(value, DECISIONS_MOST, &f->n);
    }
    if (str_eq_z(name, "follow")) {
        const bool again = f->follow;
        f->follow = true;
        return !again && str_eq_z(value, "1");
    }
    for (size_t i = 0; i < FIELD_COUNT; i++) {
        struct buf *to = &f->field[i];
        if (!str_eq_z(name, FIELDS[i]))
            continue;
        f->any = true;
        return !to->p && value.n && uri_percent_decode(value, to) && to->p && !to->failed;
    }
    return false;
}

static bool read_query(struct filter *f, struct str query)
{
    while (query.p) {
        const char *and = memchr(query.p, '&', query.n);
        const struct str pair = {query.p, and ? (size_t)(and - query.p) : query.n};
        if (!read_pair(f, pair))
            return false;
        query = and ? (struct str){and + 1, query.n - pair.n - 1} : STR_MISSING;
    }
    return true;
}

static void filter_clear(struct filter *f)
{
    for (size_t i = 0; i < FIELD_COUNT; i++)
        buf_free(&f->field[i]);
}

/* The admin thread's alone. */
struct stream {
    struct sink *sink;
    struct filter filter;
    uint64_t at, lost; /* lost: not yet told */
    uint64_t session;  /* with which it ends; 0: with none */
};
static unsigned streams;

void stream_free(struct stream *t)
{
    if (!t)
        return;
    filter_clear(&t->filter);
    free(t);
    streams--;
}

void stream_bind(struct stream *t, uint64_t session)
{
    t->session = session;
}

uint64_t stream_session(const struct stream *t)
{
    return t->session;
}

/* So far back that n lines that are wanted come first. */
static void stream_rewind(struct stream *t)
{
    const uint64_t next = sink_next_number(t->sink);
    uint64_t found = 0;
    t->at = next;
    for (uint64_t back = 1; back <= next && back <= DECISIONS_MOST && found < t->filter.n; back++) {
        struct buf line BUF_CLEANUP = BUF_INIT(LINE_MAX_BYTES);
        uint64_t at = next - back, lost = 0;
        if (!sink_follow(t->sink, &at, &lost, &line) || lost)
            return;
        if (admin_decisions_holds(&t->filter, buf_view(&line))) {
            found++;
            t->at = next - back;
        }
    }
}

/* Takes over the filter; NULL without memory. */
static struct stream *stream_new(struct server *s, struct filter *f)
{
    struct stream *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    streams++;
    *t = (struct stream){.sink = s->sink, .filter = *f};
    for (size_t i = 0; i < FIELD_COUNT; i++)
        f->field[i] = BUF_INIT(0);
    if (!t->filter.numbered)
        t->filter.n = 0;
    stream_rewind(t);
    return t;
}

bool stream_pump(struct stream *t, size_t room, struct buf *out)
{
    while (out->n < room) {
        struct buf line BUF_CLEANUP = BUF_INIT(LINE_MAX_BYTES);
        if (!sink_follow(t->sink, &t->at, &t->lost, &line))
            return !line.failed && !out->failed;
        if (t->lost)
            buf_printf(out, "{\"lost\":%llu}\n", (unsigned long long)t->lost);
        t->lost = 0;
        if (!admin_decisions_holds(&t->filter, buf_view(&line)))
            continue;
        buf_str(out, buf_view(&line));
        buf_char(out, '\n');
    }
    return !out->failed;
}

static void decisions_follow(struct server *s, struct filter *f, bool head_only, struct admin_answer *a)
{
    a->type = "application/x-ndjson";
    if (head_only)
        return;
    if (streams < STREAMS_MOST && !atomic_load(&s->draining) && (a->stream = stream_new(s, f)))
        return;
    a->status = 503;
    a->type = "text/plain; charset=utf-8";
    buf_printf(&a->body, "no more than %d follow at a time, and none while the gateway ends\n", STREAMS_MOST);
}

void admin_decisions(struct server *s, const struct admin_request *q, struct admin_answer *a)
{
    struct filter f = {.n = DECISIONS_USUAL};
    for (size_t i = 0; i < FIELD_COUNT; i++)
        f.field[i] = BUF_INIT(FIELD_MAX);
    const bool good = read_query(&f, q->query);
    if (good && f.follow) {
        decisions_follow(s, &f, q->head_only, a);
    } else if (good) {
        a->type = "application/json";
        sink_recent(s->sink, (size_t)f.n, f.any ? admin_decisions_holds : NULL, &f, &a->body);
    } else {
        a->status = 400;
        buf_printf(&a->body, "expected /decisions with n=0 to %d, user=, reason=, verdict=accept or reject, rule=, "
                   "source=, form=, follow=1, each at most once and percent-encoded; `*` stands for any text\n",
                   DECISIONS_MOST);
    }
    filter_clear(&f);
}
