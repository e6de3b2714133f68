#include "cmd/explain.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/log.h"
#include "base/text.h"
#include "cmd/client.h"
#include "cmd/cmd.h"
#include "cmd/options.h"
#include "http/captures.h"

struct explain_options {
    const char *config, *path, *source, *at, *format, *capture, *file;
};
/* The same as values. */
struct request {
    const char *config, *path, *at, *file;
    int64_t now_us;
    struct ip ip;
    bool json, noted; /* noted: `path` is what the gateway kept beside a capture */
};

static bool starts(struct str body, const char *z)
{
    return str_starts(body, str_z(z));
}

/* A capture that holds more, or something else, than the body. */
static bool is_body(const char *file, struct str body)
{
    static const char *const METHODS[] = {"POST ", "GET ", "PUT ", "HEAD ", "OPTIONS ", "DELETE ", "PATCH ", "HTTP/1."};
    for (size_t i = 0; i < sizeof METHODS / sizeof *METHODS; i++)
        if (starts(body, METHODS[i])) {
            size_t line = 0;
            while (line < body.n && line < 200 && (unsigned char)body.p[line] >= 0x20)
                line++;
            complain("%s: found HTTP's own lines (`%.*s`), expected the body alone: cut all up to and with the first "
                     "empty line%s", file, (int)line, body.p,
                     i == 0 ? ", and give the path of the first line as --path" : "");
            return false;
        }
    if (body.n > 1 && body.p[0] == '\x1f' && body.p[1] == '\x8b') {
        complain("%s: found compressed bytes (gzip), expected XML: the gateway refuses a Content-Encoding, too", file);
        return false;
    }
    return true;
}

/* Where a URL's path begins: behind the base that it starts with, else behind its authority. */
static struct str path_of_url(struct str url, const struct strings *bases, bool *ours)
{
    *ours = true;
    for (size_t i = 0; i < bases->n; i++) {
        const struct str base = str_z(bases->v[i]);
        if (str_starts(url, base) && url.n > base.n && url.p[base.n] == '/')
            return (struct str){url.p + base.n, url.n - base.n};
    }
    *ours = false;
    const char *authority = url.p ? memmem(url.p, url.n, "://", 3) : NULL;
    if (!authority)
        return STR_MISSING;
    const char *from = authority + 3, *slash = memchr(from, '/', url.n - (size_t)(from - url.p));
    return slash ? (struct str){slash, url.n - (size_t)(slash - url.p)} : STR_MISSING;
}

/* Why a request does not say itself where it was posted: it cannot be read, or it has no ClientReqUrl. */
static void tell_no_target(const char *file, struct str body, bool readable, const struct detail *why)
{
    struct detail bytes;
    if (!readable && explain_bytes(body, &bytes))
        complain("explain: %s: %s", file, bytes.text);
    else if (!readable)
        complain("explain: %s: not valid XML: %s", file, why->text);
    else
        complain("explain: %s: no ClientReqUrl, which would tell where the request was posted; use --path", file);
}

/* The target that was given, or that the request claims. What cannot be told is complained about. */
static bool find_target(const struct request *q, struct str body, const struct strings *bases, struct buf *target,
                        const char **from)
{
    struct xml_doc *doc = NULL;
    struct kms_request claim = {0};
    struct detail why = {""};
    bool ours = true;
    *from = q->noted ? "as the gateway noted it" : "as --path says";
    if (q->path) {
        buf_z(target, q->path);
        return !target->failed;
    }
    const enum reason parsed = body.n ? xml_parse(body, &XML_LIMITS_REDIRECT, &doc, &why) : REASON_OK;
    if (body.n && parsed == REASON_OK && kms_request_claim(doc, &claim))
        buf_str(target, claim.client_req_url.p ? path_of_url(claim.client_req_url, bases, &ours) : STR(""));
    xml_free(doc);
    *from = ours ? "as its ClientReqUrl says" : "as its ClientReqUrl says, which begins with no public_url";
    if (target->n)
        return true;
    tell_no_target(q->file, body, parsed == REASON_OK, &why);
    return false;
}

static int explain_show(const struct request *q, const struct explained *x)
{
    struct buf out BUF_CLEANUP = BUF_INIT(4 << 20);
    if (q->json)
        explain_print_json(x, &out);
    else
        explain_print(x, &out);
    if (out.failed) {
        complain("out of memory");
        return EXIT_NEGATIVE;
    }
    if (!(q->json ? fwrite(out.p, 1, out.n, stdout) == out.n : text_write(buf_view(&out), stdout)) ||
        fflush(stdout) != 0) {
        complain("explain: cannot write to standard output");
        return EXIT_NEGATIVE;
    }
    return x->j->decision.accepted ? EXIT_DONE : EXIT_NEGATIVE;
}

static int explain_judge(const struct request *q, const struct config *c, const struct gate *gate,
                         struct keystore *keys, struct str body)
{
    struct buf target BUF_CLEANUP = BUF_INIT(c->limits.body + 1);
    const char *from;
    if (!find_target(q, body, &c->public_url, &target, &from))
        return EXIT_NEGATIVE;
    struct judgement *j = judgement_new(gate, "explain");
    struct explanation why = {0};
    const struct gate_head head = {.method = STR("POST"), .target = buf_view(&target), .source = q->ip};
    int code = EXIT_NEGATIVE;
    bool ok = j != NULL;
    if (ok && gate_head(j, &head) == REASON_OK)
        (void)!gate_request(j, body, q->now_us);
    ok = ok && explain(&(struct explain_in){j, body, q->now_us, q->at != NULL, keys, q->config}, &why);
    if (ok)
        code = explain_show(q, &(struct explained){q->file, body.n, from, j, &why, q->now_us});
    else
        complain("out of memory");
    explanation_free(&why);
    judgement_free(j);
    return code;
}

static int explain_file(const struct request *q, const struct config *c, struct faults *faults)
{
    struct buf body BUF_CLEANUP = BUF_INIT(c->limits.body);
    struct master_keys masters MASTERS_CLEANUP = {.n = 0};
    struct rules *rules = rules_load(c->rules, faults);
    struct keystore *keys = NULL;
    int code = EXIT_NEGATIVE;
    if (config_read_master_keys(c, &masters, faults))
        keys = keystore_open_under(c->keys, masters.v, masters.n, KEYSTORE_READ, faults);
    if (keys && keystore_is_earlier(keys))
        complain("%s: is of an earlier version; it is read as it will be when it is taken over", c->keys);
    const struct gate gate = {.public_url = &c->public_url, .rules = rules, .keys = keys};
    if (rules && keys && client_read(q->file, &body) && is_body(q->file, buf_view(&body)))
        code = explain_judge(q, c, &gate, keys, body.p ? buf_view(&body) : STR(""));
    keystore_close(keys);
    rules_unref(rules);
    return code;
}

/* Where the gateway keeps a capture, and what it noted of it. */
struct captured {
    struct buf file, note;
    struct json_doc *doc;
    char *path, *at;
};

static void captured_free(struct captured *k)
{
    buf_free(&k->file);
    buf_free(&k->note);
    json_free(k->doc);
    free(k->path);
    free(k->at);
}

static struct str note_text(const struct captured *k, const char *key)
{
    const struct json_value *v = json_get(json_root(k->doc), key);
    return v && v->kind == JSON_STRING ? v->text : STR_MISSING;
}

static bool captured_find(struct captured *k, const struct config *c, const char *id)
{
    if (!c->captures) {
        complain("explain: %s: no `captures`, so none are kept", c->file);
        return false;
    }
    buf_printf(&k->file, "%s/%s.xml", c->captures, id);
    buf_printf(&k->note, "%s/%s.json", c->captures, id);
    if (k->file.failed || k->note.failed)
        complain("out of memory");
    else if (access(k->file.p, F_OK) == 0)
        return true;
    else
        complain("explain: %s: %s: there is no such capture; the oldest are removed when the folder holds more than "
                 "`captures.max`, and only what a rule with `capture: on` refuses is kept",
                 k->file.p, strerror(errno));
    return false;
}

/* What is given on the command line goes before what was noted. */
static bool captured_read(struct captured *k, const struct config *c, const struct explain_options *o,
                          struct request *q)
{
    enum { NOTE_MAX = 256 << 10 };
    struct buf text BUF_CLEANUP = BUF_INIT(NOTE_MAX);
    size_t at;
    bool zone;
    const char *why = "it is not a JSON object";
    if (!captured_find(k, c, o->capture) || !client_read(k->note.p, &text))
        return false;
    k->doc = json_read(text.p ? buf_view(&text) : STR(""), &at, &why);
    if (!k->doc || json_root(k->doc)->kind != JSON_OBJECT) {
        complain("explain: %s: cannot be read: %s", k->note.p, why);
        return false;
    }
    const struct str time = note_text(k, "time"), source = note_text(k, "source");
    k->path = str_dup(note_text(k, "target"));
    k->at = str_dup(time);
    q->file = k->file.p;
    if (!q->path)
        q->noted = (q->path = k->path) != NULL;
    if (!o->at && time_parse(time, &q->now_us, &zone))
        q->at = k->at;
    if (!o->source)
        (void)ip_parse(source, &q->ip); /* unknown: it came over a Unix socket */
    return true;
}

static int explain_with(struct request *q, const struct explain_options *o, struct faults *faults)
{
    struct captured k = {.file = BUF_INIT(PATH_MAX), .note = BUF_INIT(PATH_MAX)};
    struct config *c = config_load(q->config, faults);
    int code = EXIT_NEGATIVE;
    if (c && (!o->capture || captured_read(&k, c, o, q)))
        code = explain_file(q, c, faults);
    captured_free(&k);
    config_free(c);
    return code;
}

static int explain_run(const void *given)
{
    const struct explain_options *o = given;
    struct request q = {.config = o->config, .path = o->path, .at = o->at, .file = o->file,
                        .now_us = time_now_us(), .json = format_is_json(o->format)};
    struct faults faults = {0};
    bool zone;
    if (o->path && o->path[0] != '/')
        return usage_error(&COMMAND_EXPLAIN, "--path: found `%s`, expected a path that begins with /", o->path);
    if (!o->capture == !o->file)
        return usage_error(&COMMAND_EXPLAIN, "expected either a file or --capture");
    if (o->capture && !capture_is_id(str_z(o->capture)))
        return usage_error(&COMMAND_EXPLAIN, "--capture: found `%s`, expected the 32 hex digits of a request's ID",
                           o->capture);
    if (o->source || !o->capture)
        ip_parse(o->source ? str_z(o->source) : STR("127.0.0.1"), &q.ip); /* holds: the parser has seen to it */
    if (o->at)
        time_parse(str_z(o->at), &q.now_us, &zone);
    const int code = explain_with(&q, o, &faults);
    faults_print_errors(&faults, stderr);
    faults_free(&faults);
    return code;
}

static const struct command_option EXPLAIN_OPTIONS[] = {
    OPTION_CONFIG(struct explain_options, config),
    {.name = "path", .argument = "PATH", .at = offsetof(struct explain_options, path),
     .help = "The path that the request was posted to, with its query. Default: the path of its own ClientReqUrl."},
    {.name = "source", .argument = "IP", .type = VALUE_IP, .at = offsetof(struct explain_options, source),
     .help = "The address that the request came from. Default: `127.0.0.1`."},
    {.name = "at", .argument = "TIME", .type = VALUE_TIME, .at = offsetof(struct explain_options, at),
     .help = "The time at which the request arrived, with a zone, such as 2026-11-23T18:00:00Z. Default: now."},
    {.name = "capture", .argument = "ID", .at = offsetof(struct explain_options, capture),
     .help = "Judge the request with this ID as it came, from the folder `captures` of the configuration, instead of "
             "a file: its path, source and time are as the gateway noted them."},
    OPTION_FORMAT(struct explain_options, format)};
static const struct command_operand EXPLAIN_OPERANDS[] = {
    {.name = "REQUEST.xml", .type = VALUE_FILE, .optional = true, .at = offsetof(struct explain_options, file),
     .help = "The body of the request, without the HTTP header; `-` is standard input. An empty file is an empty "
             "request."}};
const struct command COMMAND_EXPLAIN = {
    .name = "explain", .does = "judge a captured request offline",
    .about = "Judges a captured request offline by the rules and keys of a gateway. The output shows which rule "
             "matches, "
             "why the rules above it do not match, the result of each check, and the verdict. If the request is "
             "refused, "
             "the cause is shown, followed by possible remedies and what each of them costs in security. Nothing is "
             "changed, a running gateway is not contacted, and keys are never shown.",
    .exits = "0 the request would be accepted; 1 it would be refused, or cannot be judged",
    .examples = "kmsgate explain --source 10.20.0.7 --at 2026-11-23T18:00:00Z request.xml\n"
                "kmsgate explain --config gateway.yaml --capture 0f3c5a0b9f6e4d7c8a1b2c3d4e5f6071\n",
    COMMAND_TAKES(EXPLAIN_OPTIONS, EXPLAIN_OPERANDS, struct explain_options), .run = explain_run};
