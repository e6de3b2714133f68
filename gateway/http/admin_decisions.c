#include "base/json.h"
#include "base/sink.h"
#include "base/uri.h"
#include "http/server.h"

/* /decisions?n=&user=&reason=&verdict=&rule= */

enum { DECISIONS_MOST = 1000, DECISIONS_USUAL = 100, FIELD_MAX = 1024 };
enum field { FIELD_USER, FIELD_REASON, FIELD_VERDICT, FIELD_RULE, FIELD_COUNT };
static const char *const FIELDS[] = {"user", "reason", "verdict", "rule"};
_Static_assert(sizeof FIELDS / sizeof *FIELDS == FIELD_COUNT, "each field has its name");

struct filter {
    uint64_t n;
    bool any;                      /* a field is asked for */
    struct buf field[FIELD_COUNT]; /* decoded; p NULL: not asked for */
};

/* `*` stands for any text in a user's URI and a rule's name; a verdict and a reason are words. */
static bool holds(const void *arg, struct str line)
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
static bool read_pair(struct filter *f, struct str pair, bool *numbered)
{
    const char *equals = memchr(pair.p, '=', pair.n);
    if (!equals)
        return false;
    const struct str name = {pair.p, (size_t)(equals - pair.p)};
    const struct str value = {equals + 1, pair.n - name.n - 1};
    if (str_eq_z(name, "n")) {
        const bool again = *numbered;
        *numbered = true;
        return !again && str_to_u64(value, DECISIONS_MOST, &f->n);
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
    bool numbered = false;
    while (query.p) {
        const char *and = memchr(query.p, '&', query.n);
        const struct str pair = {query.p, and ? (size_t)(and - query.p) : query.n};
        if (!read_pair(f, pair, &numbered))
            return false;
        query = and ? (struct str){and + 1, query.n - pair.n - 1} : STR_MISSING;
    }
    return true;
}

void admin_decisions(struct server *s, struct str query, struct admin_answer *a)
{
    struct filter f = {.n = DECISIONS_USUAL};
    for (size_t i = 0; i < FIELD_COUNT; i++)
        f.field[i] = BUF_INIT(FIELD_MAX);
    if (read_query(&f, query)) {
        a->type = "application/json";
        sink_recent(s->sink, (size_t)f.n, f.any ? holds : NULL, &f, &a->body);
    } else {
        a->status = 400;
        buf_printf(&a->body, "expected /decisions with n=0 to %d, user=, reason=, verdict=accept or reject, rule=, each at "
                   "most once and percent-encoded; `*` stands for any text\n", DECISIONS_MOST);
    }
    for (size_t i = 0; i < FIELD_COUNT; i++)
        buf_free(&f.field[i]);
}
