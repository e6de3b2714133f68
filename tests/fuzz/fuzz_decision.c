/*
 * Any line of a decision log, as an operator's file may hold it: it is read or refused with a reason; what is read
 * is within its bounds, and its texts can be written as JSON again. A line is completed where it was cut off. Bytes
 * that do not begin as an object does are the values of a good line's members, one after the other: a length, so
 * many bytes.
 */
#include "fuzz.h"

#include "study/record.h"

enum { ROOM = 1 << 20, OPEN_MAX = 64 };

static void check_text(struct str text)
{
    struct buf one BUF_CLEANUP = BUF_INIT(ROOM);
    size_t at;
    const char *why = "";
    if (!text.p)
        return;
    struct json j = {.out = &one};
    json_object(&j, NULL);
    json_string(&j, "text", text, ROOM);
    json_end(&j);
    struct json_doc *doc = one.failed ? NULL : json_read(buf_view(&one), &at, &why);
    must(doc, "%s", why);
    json_free(doc);
}

static bool look(struct str line)
{
    struct record r;
    struct detail why = {""};
    const bool ok = record_read(line, &r, &why);
    must(ok || why.text[0], "refused without a word");
    if (ok) {
        must((unsigned)r.reason < REASON_COUNT, "a reason that is none");
        must(r.upstream_status >= 0, "a status that is none");
        for (int i = 0; i < CHECK_COUNT; i++)
            must((int)r.checks[i] >= 0, "a check's result that is none");
        const struct str texts[] = {r.id, r.path, r.rule, r.user, r.client_id, r.device_id, r.key_id, r.claims.kms_uri,
                                    r.claims.client_req_url, r.expected_url, r.response_rule};
        for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
            check_text(texts[i]);
    }
    record_free(&r);
    return ok;
}

/* What closes the strings, objects and lists that are open at the end. */
static void close_line(struct buf *b)
{
    char open[OPEN_MAX];
    size_t depth = 0;
    bool text = false;
    for (size_t i = 0; i < b->n; i++) {
        const char c = b->p[i];
        if (text) {
            i += c == '\\';
            text = c != '"';
        } else if (c == '"') {
            text = true;
        } else if ((c == '{' || c == '[') && depth < OPEN_MAX) {
            open[depth++] = c == '{' ? '}' : ']';
        } else if ((c == '}' || c == ']') && depth) {
            depth--;
        }
    }
    if (text)
        buf_char(b, '"');
    while (depth)
        buf_char(b, open[--depth]);
}

/* A good line, with the bytes in it. */
static void make_line(struct buf *b, struct str s)
{
    static const char *const TEXTS[] = {"id", "path", "rule", "user", "client_id", "device_id", "key_id",
                                        "expected_url"};
    struct json j = {.out = b};
    json_object(&j, NULL);
    json_string(&j, "time", STR("2026-11-29T06:42:08.003Z"), 0);
    for (size_t i = 0; i < sizeof TEXTS / sizeof *TEXTS; i++)
        json_string(&j, TEXTS[i], fuzz_next(&s), 0);
    json_string(&j, "form", STR("signed"), 0);
    json_string(&j, "verdict", s.n % 2 ? STR("accept") : STR("reject"), 0);
    json_string(&j, "reason", s.n % 2 ? STR("ok") : STR("key.unknown"), 0);
    json_object(&j, "claims");
    json_string(&j, "kms_uri", s, 0);
    json_end(&j);
    json_int(&j, "status", s.n % 2 ? 200 : 403);
    json_end(&j);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct str line = fuzz_view(data, size);
    if (size && data[0] != '{') {
        struct buf made BUF_CLEANUP = BUF_INIT(ROOM);
        make_line(&made, line);
        must(!made.failed || size > ROOM / 8, "room");
        fuzz_arrived(!made.failed && look(buf_view(&made)));
        return 0;
    }
    bool ok = look(line);
    if (!ok && size < ROOM / 2) {
        struct buf closed BUF_CLEANUP = BUF_INIT(ROOM);
        buf_str(&closed, line);
        close_line(&closed);
        ok = look(buf_view(&closed));
    }
    fuzz_arrived(ok);
    return 0;
}
