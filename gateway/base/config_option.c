#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/config_internal.h"
#include "base/timestamp.h"
#include "base/uri.h"

#define AT(field) .offset = offsetof(struct config, field)

static const struct yaml_choice LEVELS[] = {{"error", LOG_LEVEL_ERROR},
                                            {"warn", LOG_LEVEL_WARN},
                                            {"info", LOG_LEVEL_INFO},
                                            {"debug", LOG_LEVEL_DEBUG},
                                            {NULL, 0}};
static const struct yaml_choice FORMATS[] = {{"text", LOG_FORMAT_TEXT}, {"json", LOG_FORMAT_JSON}, {NULL, 0}};
static const struct yaml_choice DECISIONS_FORMATS[] = {{"json", DECISIONS_JSON}, {"ecs", DECISIONS_ECS}, {NULL, 0}};
static const struct yaml_choice AUTH[] = {
    {"required", CLIENT_AUTH_REQUIRED}, {"optional", CLIENT_AUTH_OPTIONAL}, {NULL, 0}};
static const struct yaml_range SIZE = {64, 64 << 20}, MEMORY = {1 << 20, INT64_C(1) << 40},
                               COUNT = {1, 1000000}, WAIT = {1000, 3600 * US_PER_S},
                               DRAIN = {0, 3600 * US_PER_S}, ENTRIES = {16, 1 << 28}, WORKERS = {1, 256},
                               AGE = {1000, 366 * 86400 * US_PER_S},
                               LIFE = {US_PER_S, 7 * 24 * 3600 * US_PER_S}, PROBE = {100000, 3600 * US_PER_S},
                               REPLY = {10000, 10 * US_PER_S}, APART = {100000, 60 * US_PER_S}, REPLICAS = {0, 16};

const struct option OPTIONS[] = {
    {"admin", read_admin, AT(admin), .preset = "127.0.0.1:9090", .also = "admin.address"},
    {"admin.tls.certificate", read_path, AT(admin.certificate)},
    {"admin.tls.key", read_path, AT(admin.key)},
    {"admin.tls.client_ca", read_path, AT(admin.client_ca)},
    {"admin.tls.client_auth", read_choice, AT(admin.client_auth), AUTH},
    {"admin_token", read_secret, AT(admin_token), .secret = true},
    {"tickets", read_secret, AT(tickets), .secret = true},
    {"public_url", read_public_url, AT(public_url), .required = true, .list = true, .live = true},
    {"upstream.url", read_upstream_url, AT(upstream.url), .required = true},
    {"upstream.timeout", read_duration, AT(upstream.timeout_us), &WAIT, "5s", .live = true},
    {"upstream.tls.ca", read_path, AT(upstream.ca)},
    {"upstream.tls.certificate", read_path, AT(upstream.certificate)},
    {"upstream.tls.key", read_path, AT(upstream.key)},
    {"upstream.connections", read_count, AT(upstream.connections), &COUNT, "64"},
    {"upstream.max_reply", read_size, AT(upstream.max_reply), &SIZE, "1MiB"},
    {"upstream.idle_timeout", read_duration, AT(upstream.idle_timeout_us), &WAIT, "15s"},
    {"upstream.lifetime", read_duration, AT(upstream.lifetime_us), &LIFE, "5m"},
    {"upstream.breaker.failures", read_count, AT(upstream.breaker_failures), &COUNT, "20"},
    {"upstream.breaker.probe", read_duration, AT(upstream.breaker_probe_us), &PROBE, "1s"},
    {"rules", read_path, AT(rules), .required = true},
    {"keys", read_keys, AT(keys), .required = true},
    {"master_key", read_master_key, AT(master_key), .required = true, .list = true, .secret = true, .live = true},
    {"keys_counter", read_counter, AT(keys_counter)},
    {"keys_max_age", read_duration, AT(keys_max_age_us), &AGE, "1h"},
    {"replay", read_replay, AT(replay.url), .preset = "memory"},
    /* the same, beside what belongs to it */
    {"replay.url", read_replay, AT(replay.url)},
    {"replay.secret", read_secret, AT(replay.secret), .secret = true},
    {"replay.user", read_text, AT(replay.user)},
    {"replay.password", read_secret, AT(replay.password), .secret = true},
    {"replay.ca", read_path, AT(replay.ca)},
    {"replay.timeout", read_duration, AT(replay.timeout_us), &REPLY, "200ms"},
    {"replay.clock_difference", read_duration, AT(replay.clock_difference_us), &APART, "1s"},
    {"replay.wait_replicas", read_count, AT(replay.wait_replicas), &REPLICAS},
    {"state", read_path, AT(state)},
    {"decisions", read_decisions, AT(decisions), .preset = "stdout"},
    {"captures.folder", read_path, AT(captures)},
    {"captures.max", read_size, AT(captures_max), &MEMORY, "100MiB"},
    {"decisions_format", read_choice, AT(decisions_format), DECISIONS_FORMATS, "json"},
    {"workers", read_count, AT(workers), &WORKERS},
    {"limits.body", read_size, AT(limits.body), &SIZE, "64KiB", .live = true},
    {"limits.target", read_size, AT(limits.target), &SIZE, "8KiB", .live = true},
    {"limits.header", read_size, AT(limits.header), &SIZE, "8KiB", .live = true},
    {"limits.headers", read_size, AT(limits.headers), &SIZE, "16KiB", .live = true},
    {"limits.header_count", read_count, AT(limits.header_count), &COUNT, "64", .live = true},
    {"limits.connections", read_count, AT(limits.connections), &COUNT, "10000", .live = true},
    {"limits.in_flight", read_count, AT(limits.in_flight), &COUNT, "1024", .live = true},
    {"limits.header_timeout", read_duration, AT(limits.header_timeout_us), &WAIT, "5s", .live = true},
    {"limits.body_timeout", read_duration, AT(limits.body_timeout_us), &WAIT, "5s", .live = true},
    {"limits.idle_timeout", read_duration, AT(limits.idle_timeout_us), &WAIT, "60s", .live = true},
    {"limits.replay_entries", read_count, AT(limits.replay_entries), &ENTRIES, "1048576", .live = true},
    {"limits.memory", read_size, AT(limits.memory), &MEMORY, "64MiB", .live = true},
    {"log.level", read_choice, AT(log_level), LEVELS, "info", .live = true},
    {"log.format", read_choice, AT(log_format), FORMATS, "text", .live = true},
    {"drain_delay", read_duration, AT(drain_delay_us), &DRAIN, "0s", .live = true},
    {"drain_timeout", read_duration, AT(drain_timeout_us), &DRAIN, "10s", .live = true},
    {"sandbox", read_switch, AT(sandbox), .preset = "on"},
    {"user", read_user, AT(user)},
};
_Static_assert(sizeof OPTIONS / sizeof *OPTIONS == OPTION_COUNT, "OPTION_COUNT counts the table");
_Static_assert(sizeof(enum log_level) == sizeof(int) && sizeof(enum log_format) == sizeof(int) &&
                   sizeof(enum decisions_format) == sizeof(int) && sizeof(enum client_auth) == sizeof(int),
               "read_choice writes ints");

/* What --print shows: paths and sources as they were resolved. */
static char *effective(const struct option *o, struct str text, const void *field)
{
    struct buf b BUF_CLEANUP = BUF_INIT(1 << 20);
    if (o->read == read_secret) {
        const struct secret_source *s = field;
        buf_printf(&b, "%s:%s", s->kind == SECRET_FILE ? "file" : "env", s->name);
    } else if (o->read == read_master_key) {
        const struct config *c = (const struct config *)(const void *)((const char *)field - o->offset);
        for (size_t i = 0; i <= c->master_more_n; i++) {
            const struct secret_source *s = i ? &c->master_more[i - 1] : &c->master_key;
            buf_printf(&b, "%s%s:%s", i ? ", " : c->master_more_n ? "[" : "", s->kind == SECRET_FILE ? "file" : "env",
                       s->name);
        }
        buf_z(&b, c->master_more_n ? "]" : "");
    } else if (o->read == read_public_url) {
        const struct strings *s = field;
        for (size_t i = 0; i < s->n; i++)
            buf_printf(&b, "%s%s", i ? ", " : s->n > 1 ? "[" : "", s->v[i]);
        buf_z(&b, s->n > 1 ? "]" : "");
    } else if (o->read == read_keys) {
        const struct str where = str_z(*(char *const *)field);
        buf_z(&b, str_starts(where, STR("postgresql://")) ? "" : "sqlite:");
        if (str_starts(where, STR("postgresql://")))
            uri_mask(where, &b);
        else
            buf_str(&b, where);
    } else if (o->read == read_counter) {
        buf_printf(&b, "file:%s", *(char *const *)field);
    } else if (o->read == read_path || o->read == read_decisions || o->read == read_upstream_url ||
               o->read == read_replay || o->read == read_text || o->read == read_user) {
        buf_z(&b, *(char *const *)field);
    } else {
        buf_str(&b, text);
    }
    return b.failed ? NULL : str_dup(buf_view(&b));
}

bool option_set(struct load *l, size_t i, const struct incoming *in, struct shown *expected, const char *origin)
{
    struct held *h = l->held + i;
    void *field = (char *)l->c + OPTIONS[i].offset;
    h->given = true;
    h->line = h->column = 0;
    if (!OPTIONS[i].read(OPTIONS + i, in, field, expected))
        return false;
    free(h->value);
    free(h->origin);
    h->value = effective(OPTIONS + i, in->text, field);
    h->origin = str_dup(str_z(origin));
    return true;
}

void option_clear(struct load *l, size_t i)
{
    if (OPTIONS[i].read == read_master_key)
        config_clear_masters(l->c);
    else if (OPTIONS[i].list)
        strings_free((struct strings *)((char *)l->c + OPTIONS[i].offset));
}

static void set_scalar(struct load *l, size_t i, const struct yaml_node *node)
{
    const struct option *o = OPTIONS + i;
    struct shown expected = {""};
    struct buf origin BUF_CLEANUP = BUF_INIT(2 * PATH_MAX);
    buf_printf(&origin, "%s:%d", l->in.file, node->line);
    l->held[i].given = true;
    if (!yaml_is_scalar(&l->in, node, "a single value"))
        return;
    if (!node->plain && (o->read == read_count || o->read == read_switch)) {
        yaml_fault(&l->in, node, "found a text in quotes, expected %s",
                   o->read == read_count ? "a number" : "on or off");
        return;
    }
    if (!option_set(l, i, &(struct incoming){node->text, l->folder}, &expected, origin.p ? origin.p : "")) {
        const bool hide = o->secret || value_is_private(node->text);
        yaml_fault(&l->in, node, "%s%s, expected %s", hide ? "" : "found ",
                   hide ? "value hidden (may be secret)" : yaml_found(node).z,
                   expected.z);
    }
    l->held[i].line = node->line;
    l->held[i].column = node->column;
}

static void set_option(struct load *l, size_t i, const struct yaml_node *node)
{
    option_clear(l, i);
    if (!OPTIONS[i].list || node->kind != YAML_LIST) {
        set_scalar(l, i, node);
        return;
    }
    l->held[i].given = true;
    if (!node->n)
        yaml_fault(&l->in, node, "found an empty list, expected at least one value");
    for (const struct yaml_node *item = node->first; item; item = item->next)
        set_scalar(l, i, item);
}

/* Known keys right below `prefix`; views into OPTIONS. */
static size_t keys_below(const char *prefix, struct strings *out)
{
    const struct str p = str_z(prefix);
    if (!p.n)
        strings_add(out, STR("listen"));
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        const char *also = OPTIONS[i].also;
        struct str path = str_z(p.n && also && str_starts(str_z(also), p) ? also : OPTIONS[i].path);
        if (!str_starts(path, p))
            continue;
        path = (struct str){path.p + p.n, path.n - p.n};
        const char *dot = memchr(path.p, '.', path.n);
        if (dot)
            path.n = (size_t)(dot - path.p);
        if (!out->n || !str_eq_z(path, out->v[out->n - 1]))
            strings_add(out, path);
    }
    return out->n;
}

static void option_unknown(struct load *l, const struct yaml_node *m, const char *prefix)
{
    struct strings known = {0};
    struct buf list BUF_CLEANUP = BUF_INIT(2000);
    const size_t n = keys_below(prefix, &known);
    const char *near = nearest_name(m->key, known.v, sizeof *known.v, n);
    for (size_t i = 0; i < n; i++)
        buf_printf(&list, "%s%s", i ? ", " : "", known.v[i]);
    faults_add(l->faults, l->in.file, m->key_line, m->key_column, "unknown key %s; did you mean `%s`? Known here: %s",
               show(m->key).z, near ? near : "", list.p ? list.p : "");
    strings_free(&known);
}

static bool option_is(const struct option *o, struct str path)
{
    return str_eq_z(path, o->path) || (o->also && str_eq_z(path, o->also));
}

/* Options stand below it, too. */
static bool is_parent(struct str path)
{
    bool found = false;
    for (size_t i = 0; i < OPTION_COUNT && !found; i++)
        found = str_starts(str_z(OPTIONS[i].path), path) && OPTIONS[i].path[path.n] == '.';
    return found;
}

static void option_walk(struct load *l, const struct yaml_node *node, const char *prefix)
{
    if (!yaml_is_mapping(&l->in, node, "a mapping"))
        return;
    for (const struct yaml_node *m = node->first; m; m = m->next) {
        char path[OPTION_PATH]; /* no block: where memory ends, a key that is known is not unknown */
        const size_t above = strlen(prefix), n = above + m->key.n;
        if (n >= sizeof path - 1) { /* longer than any */
            option_unknown(l, m, prefix);
            continue;
        }
        snprintf(path, sizeof path, "%s", prefix);
        if (m->key.n)
            memcpy(path + above, m->key.p, m->key.n);
        memcpy(path + n, ".", 2);
        const struct str whole = {path, n};
        size_t i = 0;
        while (i < OPTION_COUNT && !option_is(OPTIONS + i, whole))
            i++;
        if (i < OPTION_COUNT && !(m->kind == YAML_MAPPING && is_parent(whole))) {
            set_option(l, i, m);
            continue;
        }
        if (str_eq_z(whole, "listen")) {
            config_listen(&l->in, m, l, NULL);
            continue;
        }
        if (is_parent(whole))
            option_walk(l, m, path);
        else
            option_unknown(l, m, prefix);
    }
}

void config_walk(struct load *l, const struct yaml_node *root)
{
    option_walk(l, root, "");
}
