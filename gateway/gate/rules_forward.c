#include <stdlib.h>
#include <string.h>

#include "gate/rules_forward.h"
#include "gate/rules_internal.h"

/* forward.c sends no more. */
enum { HEADERS_MAX = 16, VALUE_MAX = 1024, NAME_MAX_BYTES = 64 };

/* Of the connection, of the body, of the gateway itself: never set by a rule, never passed on. A name that ends in '-'
 * stands for all that begin so. */
static const char *const FORBIDDEN[] = {
    "Host", "Connection", "Keep-Alive", "Proxy-", "TE", "Trailer", "Trailers", "Transfer-Encoding", "Upgrade", "Expect",
    "Content-", "X-Request-Id", "Traceparent", "HTTP2-Settings", "Max-Forwards", "Via", "Range", "If-", "Date"};
const char *const FORWARD_STANDARD[FORWARD_STANDARD_COUNT] = {"Authorization", "Accept", "Accept-Language",
                                                            "User-Agent"};
static const char *const HOLDERS[] = {"user", "client_id", "device_id", "key_id", "rule"};
enum { HOLDER_COUNT = sizeof HOLDERS / sizeof *HOLDERS, UNPROVEN_HOLDERS = 3 };

/* '_' is '-' to servers that hand headers on as variables; case is nothing. */
static bool same_start(struct str a, struct str b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char x = a.p[i] == '_' ? '-' : a.p[i], y = b.p[i] == '_' ? '-' : b.p[i];
        x = x >= 'A' && x <= 'Z' ? (char)(x + 32) : x;
        y = y >= 'A' && y <= 'Z' ? (char)(y + 32) : y;
        if (x != y)
            return false;
    }
    return true;
}

bool header_same(struct str a, struct str b)
{
    return a.n == b.n && same_start(a, b, a.n);
}

static bool is_forbidden(struct str name)
{
    for (size_t i = 0; i < sizeof FORBIDDEN / sizeof *FORBIDDEN; i++) {
        const struct str f = str_z(FORBIDDEN[i]);
        const bool prefix = f.p[f.n - 1] == '-';
        if ((prefix ? name.n >= f.n : name.n == f.n) && same_start(name, f, f.n))
            return true;
    }
    return false;
}

static bool is_token(struct str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (!((s.p[i] >= 'a' && s.p[i] <= 'z') || (s.p[i] >= 'A' && s.p[i] <= 'Z') ||
              (s.p[i] >= '0' && s.p[i] <= '9') || (s.p[i] && strchr("!#$%&'*+-.^_`|~", s.p[i]))))
            return false;
    return s.n > 0 && s.n <= NAME_MAX_BYTES;
}

static bool name_is_good(struct yaml_in *in, struct str name, int line, int column)
{
    if (!is_token(name))
        faults_add(in->faults, in->file, line, column, "found %s, expected the name of a header (a token of RFC 9110)",
                   show(name).z);
    else if (is_forbidden(name))
        faults_add(in->faults, in->file, line, column,
                   "the header %s is the connection's, the body's or the gateway's own: a rule cannot name it",
                   show(name).z);
    else
        return true;
    return false;
}

static void value_check(struct yaml_in *in, const struct yaml_node *node)
{
    const struct str v = node->text;
    if (v.n > VALUE_MAX)
        yaml_fault(in, node, "a value of more than %d bytes", VALUE_MAX);
    if (memchr(v.p, '\t', v.n))
        yaml_fault(in, node, "a tab in a header's value");
    for (size_t i = 0; i < v.n; i++) {
        if (v.p[i] != '{' && v.p[i] != '}')
            continue;
        const char *end = v.p[i] == '{' ? memchr(v.p + i, '}', v.n - i) : NULL;
        if (!end) {
            yaml_fault(in, node, "a lone `%c`; a placeholder such as {user} is expected", v.p[i]);
            return;
        }
        const struct str name = {v.p + i + 1, (size_t)(end - v.p) - i - 1};
        bool known = false;
        for (size_t h = 0; h < HOLDER_COUNT; h++)
            known |= str_eq_z(name, HOLDERS[h]);
        if (!known)
            yaml_fault(in, node,
                       "unknown placeholder {%.*s}; did you mean {%s}? Known: {user}, {client_id}, {device_id}, "
                       "{key_id}, {rule}",
                       name.n > 40 ? 40 : (int)name.n, name.p,
                       nearest_name(name, HOLDERS, sizeof *HOLDERS, HOLDER_COUNT));
        i = (size_t)(end - v.p);
    }
}

const char *forward_unproven_holder(const struct forward *f)
{
    static const char *const SHOWN[UNPROVEN_HOLDERS] = {"{user}", "{client_id}", "{device_id}"};
    for (size_t i = 0; i < f->header_count; i++)
        for (size_t h = 0; h < UNPROVEN_HOLDERS; h++)
            if (strstr(f->headers[i].value, SHOWN[h]))
                return SHOWN[h];
    return NULL;
}

/* `to` is a struct forward. */
void forward_read_headers(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    struct forward *f = to;
    (void)arg;
    if (!yaml_is_mapping(in, node, "a mapping of header names to values") || f->headers)
        return;
    if (node->n > HEADERS_MAX) {
        yaml_fault(in, node, "found %zu headers, expected at most %d", node->n, HEADERS_MAX);
        return;
    }
    f->headers = calloc(node->n + 1, sizeof *f->headers);
    for (const struct yaml_node *m = node->first; m && f->headers; m = m->next) {
        struct header_rule h = {0};
        for (size_t i = 0; i < f->header_count; i++)
            if (header_same(str_z(f->headers[i].name), m->key))
                faults_add(in->faults, in->file, m->key_line, m->key_column, "duplicate header %s",
                           show(m->key).z);
        const bool good = name_is_good(in, m->key, m->key_line, m->key_column);
        yaml_text(in, m, &h.value, NULL);
        if (h.value)
            value_check(in, m);
        if (good && h.value && (h.name = str_dup(m->key)))
            f->headers[f->header_count++] = h;
        else
            free(h.value);
    }
    if (!f->headers)
        yaml_fault(in, node, "out of memory");
}

void forward_read_pass(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    yaml_texts(in, node, to, arg);
    for (const struct yaml_node *m = node->kind == YAML_LIST ? node->first : node; m;
         m = node->kind == YAML_LIST ? m->next : NULL)
        if (m->kind == YAML_SCALAR && m->text.n)
            name_is_good(in, m->text, m->line, m->column);
}

void forward_read_withhold(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    unsigned *bits = to;
    (void)arg;
    if (node->kind == YAML_LIST && !node->n)
        yaml_fault(in, node, "found an empty list, expected at least one of: Authorization, Accept, Accept-Language, "
                             "User-Agent");
    for (const struct yaml_node *m = node->kind == YAML_LIST ? node->first : node; m;
         m = node->kind == YAML_LIST ? m->next : NULL) {
        unsigned i = 0;
        while (i < FORWARD_STANDARD_COUNT && !(m->kind == YAML_SCALAR && str_ieq_z(m->text, FORWARD_STANDARD[i])))
            i++;
        if (i == FORWARD_STANDARD_COUNT)
            yaml_fault(in, m, "found %s, expected one of the headers that are passed on without a word: Authorization, "
                              "Accept, Accept-Language, User-Agent", yaml_found(m).z);
        else if (*bits & 1u << i)
            yaml_fault(in, m, "duplicate value %s", yaml_found(m).z);
        else
            *bits |= 1u << i;
    }
}

void forward_collect_headers(struct reading *g)
{
    struct rules *r = g->r;
    for (size_t i = 0; i < r->request_count; i++)
        for (size_t h = 0; h < r->requests[i].forward.header_count; h++) {
            const struct str name = str_z(r->requests[i].forward.headers[h].name);
            bool known = false;
            for (size_t k = 0; k < r->headers.n && !known; k++)
                known = header_same(name, str_z(r->headers.v[k]));
            if (!known && !strings_add(&r->headers, name))
                yaml_fault(&g->in, g->root, "out of memory");
        }
}

bool rules_pass_header(const struct rules *r, const struct request_rule *q, struct str name)
{
    bool passes = false;
    for (unsigned i = 0; i < FORWARD_STANDARD_COUNT && !passes; i++)
        passes = str_ieq_z(name, FORWARD_STANDARD[i]) && !(q->forward.withhold & 1u << i);
    for (size_t i = 0; i < q->forward.pass.n && !passes; i++)
        passes = str_ieq_z(name, q->forward.pass.v[i]);
    for (size_t i = 0; i < r->headers.n && passes; i++)
        passes = !header_same(name, str_z(r->headers.v[i]));
    return passes;
}
