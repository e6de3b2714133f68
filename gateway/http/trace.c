#include "http/trace.h"

#include <string.h>

#include "base/random.h"

/* Where the parts of version-trace-parent-flags begin, and how long they are. */
enum { VERSION_N = 2, ID_AT = 3, ID_N = 32, PARENT_AT = 36, PARENT_N = 16, FLAGS_AT = 53, FLAGS_N = 2 };

static bool trace_hex(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!((p[i] >= '0' && p[i] <= '9') || (p[i] >= 'a' && p[i] <= 'f')))
            return false;
    return true;
}

static bool trace_zero(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] != '0')
            return false;
    return true;
}

static bool trace_well_formed(struct str v)
{
    if (v.n != TRACE_PARENT_TEXT - 1 || v.p[ID_AT - 1] != '-' || v.p[PARENT_AT - 1] != '-' || v.p[FLAGS_AT - 1] != '-')
        return false;
    return trace_hex(v.p, VERSION_N) && !(v.p[0] == 'f' && v.p[1] == 'f') && trace_hex(v.p + ID_AT, ID_N) &&
           !trace_zero(v.p + ID_AT, ID_N) && trace_hex(v.p + PARENT_AT, PARENT_N) &&
           !trace_zero(v.p + PARENT_AT, PARENT_N) && trace_hex(v.p + FLAGS_AT, FLAGS_N);
}

void trace_begin(struct trace *t, const struct guard *g, const char *id)
{
    struct str found = STR_MISSING;
    size_t count = 0;
    for (size_t i = 0; i < g->header_count; i++)
        if (str_ieq_z(g->headers[i].name, "traceparent")) {
            found = g->headers[i].value;
            count++;
        }
    t->clients = count == 1 && trace_well_formed(found);
    t->sampled = t->clients && strchr("13579bdf", found.p[FLAGS_AT + 1]);
    memcpy(t->id, t->clients ? found.p + ID_AT : id, ID_N);
    t->id[ID_N] = '\0';
}

bool trace_parent(const struct trace *t, char out[TRACE_PARENT_TEXT])
{
    struct buf text = {.p = out, .cap = TRACE_PARENT_TEXT, .max = TRACE_PARENT_TEXT - 1};
    uint64_t parent = 0;
    while (parent == 0)
        if (!random_bytes(&parent, sizeof parent))
            return false;
    buf_str(&text, STR("00-"));
    buf_bytes(&text, t->id, ID_N);
    buf_str(&text, STR("-"));
    buf_hex(&text, &parent, sizeof parent, false);
    buf_str(&text, t->sampled ? STR("-01") : STR("-00"));
    return !text.failed;
}
