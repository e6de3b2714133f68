#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "http/census_inside.h"

/*
 * Which exceptions nobody uses is asked for over a month, and a gateway is restarted more often: how rules were used is
 * kept in a file beside the replay memory's mark. No users are in it. What it cannot be is wrong in a way that matters:
 * nothing that serves reads it.
 */
#define KEPT_FILE "console.json"
#define KEPT_NAME "kmsgate console 1"
#define DAY_US (86400 * US_PER_S)
enum { KEPT_MAX = 2 << 20 };

static const char *kept_by(unsigned what)
{
    return what == PASS_RULE ? "rule" : shadow_name(what);
}

static void put_time(struct json *j, const char *key, int64_t us)
{
    char text[TIME_TEXT];
    time_format(us, true, text);
    json_string(j, key, str_z(text), 0);
}

static void keep_pass(const struct pass *p, struct json *j)
{
    const struct span *s = &p->span;
    json_object(j, NULL);
    json_string(j, "rule", str_z(p->rule), 0);
    json_string(j, "by", str_z(kept_by(p->what)), 0);
    json_bool(j, "exception", p->exception);
    json_int(j, "rejected", (int64_t)p->rejected);
    json_int(j, "count", (int64_t)s->total);
    if (s->total) {
        put_time(j, "first", s->first_us);
        put_time(j, "last", s->last_us);
    }
    json_array(j, "days"); /* from that of `last` backwards */
    for (int64_t i = 0; i < SPAN_DAYS && s->total; i++)
        json_int(j, NULL, s->day >= i ? s->days[(s->day - i) % SPAN_DAYS] : 0);
    json_end(j);
    json_end(j);
}

static void keep_all(const struct census *t, int64_t now_us, struct buf *out)
{
    struct json j = {.out = out};
    json_object(&j, NULL);
    json_string(&j, "file", STR(KEPT_NAME), 0);
    put_time(&j, "since", t->watched_us);
    put_time(&j, "saved", now_us);
    json_array(&j, "passes");
    for (size_t i = 0; i < PASSES; i++)
        if (t->pass_hash[i])
            keep_pass(&t->pass[i], &j);
    json_end(&j);
    json_end(&j);
    buf_char(out, '\n');
}

static bool kept_path(const struct census *t, const char *suffix, char out[PATH_MAX])
{
    const int n = snprintf(out, PATH_MAX, "%s/" KEPT_FILE "%s", t->folder, suffix);
    return n > 0 && n < PATH_MAX;
}

static bool census_replace(const struct census *t, struct str text)
{
    char path[PATH_MAX], fresh[PATH_MAX];
    if (!kept_path(t, "", path) || !kept_path(t, ".new", fresh))
        return false;
    const int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    bool ok = fd >= 0 && file_write_all(fd, text.p, text.n);
    if (fd >= 0)
        ok = close(fd) == 0 && ok;
    return ok && rename(fresh, path) == 0;
}

void census_keep(struct census *t, int64_t now_us)
{
    struct buf text BUF_CLEANUP = BUF_INIT(KEPT_MAX);
    if (!t->folder)
        return;
    pthread_mutex_lock(&t->lock);
    const uint64_t counted = t->counted;
    if (counted != t->kept)
        keep_all(t, now_us, &text);
    pthread_mutex_unlock(&t->lock);
    if (counted == t->kept)
        return;
    const bool ok = !text.failed && census_replace(t, buf_view(&text));
    if (!ok && !t->keep_failed)
        log_warn("console", t->folder, KEPT_FILE " cannot be written: %s; a restart forgets how rules were used",
                 strerror(errno));
    t->keep_failed = !ok;
    t->kept = counted;
}

/* Reading. False: it is not what was written. */

static bool take_text(const struct json_value *from, const char *key, struct str *out)
{
    const struct json_value *v = json_get(from, key);
    *out = v && v->kind == JSON_STRING ? v->text : STR_MISSING;
    return out->p != NULL;
}

static bool take_time(const struct json_value *from, const char *key, int64_t now_us, int64_t *us)
{
    struct str text;
    bool zone;
    return take_text(from, key, &text) && time_parse(text, us, &zone) && zone && *us >= 0 && *us <= now_us + DAY_US;
}

static bool take_number(const struct json_value *from, const char *key, uint64_t max, uint64_t *out)
{
    const struct json_value *v = json_get(from, key);
    return v && v->kind == JSON_NUMBER && str_to_u64(v->text, max, out);
}

static bool take_days(const struct json_value *from, struct span *s)
{
    const struct json_value *v = json_get(from, "days");
    int64_t i = 0;
    for (v = v && v->kind == JSON_ARRAY ? v->first : NULL; v && i < SPAN_DAYS && s->day >= i; v = v->next, i++) {
        uint64_t n;
        if (v->kind != JSON_NUMBER || !str_to_u64(v->text, UINT32_MAX, &n))
            return false;
        s->days[(s->day - i) % SPAN_DAYS] = (uint32_t)n;
    }
    return !v;
}

static bool take_pass(struct census *t, const struct json_value *from, int64_t now_us)
{
    struct str rule, by;
    struct span s = {0};
    uint64_t rejected;
    unsigned what = 0;
    if (!take_text(from, "rule", &rule) || !rule.n || rule.n > NOTE_RULE_MAX || memchr(rule.p, '\0', rule.n) ||
        !take_text(from, "by", &by) || !take_number(from, "count", INT64_MAX, &s.total) ||
        !take_number(from, "rejected", INT64_MAX, &rejected))
        return false;
    while (what < PASS_KINDS && !str_eq_z(by, kept_by(what)))
        what++;
    if (what == PASS_KINDS || (s.total && (!take_time(from, "first", now_us, &s.first_us) ||
                                           !take_time(from, "last", now_us, &s.last_us))))
        return false;
    s.day = s.last_us / DAY_US;
    if (!take_days(from, &s))
        return false;
    const struct json_value *exception = json_get(from, "exception");
    struct pass *p = census_pass_of(t, rule, what);
    p->exception = exception && str_eq_z(exception->text, "true");
    p->rejected = rejected;
    p->span = s;
    return true;
}

static bool take_all(struct census *t, const struct json_value *root, int64_t now_us)
{
    struct str name;
    int64_t since, saved;
    const struct json_value *passes = json_get(root, "passes");
    if (!take_text(root, "file", &name) || !str_eq_z(name, KEPT_NAME) || !take_time(root, "since", now_us, &since) ||
        !take_time(root, "saved", now_us, &saved) || !passes || passes->kind != JSON_ARRAY)
        return false;
    size_t n = 0;
    for (const struct json_value *v = passes->first; v; v = v->next)
        if (++n > PASSES || !take_pass(t, v, now_us))
            return false;
    if (now_us - saved < DAY_US) /* else nobody watched for longer than can be left out */
        t->watched_us = since;
    return true;
}

void census_recall(struct census *t, int64_t now_us)
{
    char path[PATH_MAX];
    const char *why = "is damaged";
    size_t at;
    const int fd = kept_path(t, "", path) ? open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK) : -1;
    if (fd < 0 && errno == ENOENT)
        return;
    char *text = fd < 0 ? NULL : malloc(KEPT_MAX);
    const ssize_t n = text ? read(fd, text, KEPT_MAX) : -1;
    if (fd >= 0)
        close(fd);
    struct json_doc *doc = n < 0 ? NULL : json_read((struct str){text, (size_t)n}, &at, &why);
    if (!doc || json_root(doc)->kind != JSON_OBJECT || !take_all(t, json_root(doc), now_us)) {
        log_warn("console", t->folder, KEPT_FILE " cannot be used (%s): how rules were used is counted from now on",
                 n < 0 ? strerror(errno) : why);
        memset(t->pass_hash, 0, sizeof t->pass_hash);
    }
    json_free(doc);
    free(text);
}
