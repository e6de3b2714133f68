#include "cmd/explain.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "cmd/client.h"
#include "cmd/cmd.h"
#include "cmd/options.h"

static const char USAGE[] =
    "usage: kmsgate explain --config gateway.yaml [--path P] [--source IP] [--at TIME] [--format json] REQUEST.xml\n"
    "\n"
    "Judges one captured request offline, by the rules and keys of a gateway: which rule matches and why those\n"
    "above it do not, a line a check, the verdict; and of a refusal the cause, and what would mend it at what\n"
    "cost. It changes nothing and asks nobody; a running gateway does not notice. It never shows a key.\n"
    "\n"
    "  --config FILE  the gateway's configuration: it names the rules, the keys and the public URLs\n"
    "  --path P       the path that it was posted to, with its query; without it that of its own ClientReqUrl\n"
    "  --source IP    where it came from (default 127.0.0.1)\n"
    "  --at TIME      when it arrived, with a zone, such as 2026-11-23T18:00:00Z (default: now)\n"
    "  --format json  one JSON object instead of text\n"
    "  REQUEST.xml    the body alone, without HTTP's headers; `-` is standard input, an empty file an empty request\n"
    "\n"
    "Exit: 0 it would pass, 1 it would not (or cannot be judged), 2 wrong usage.\n";

struct request {
    const char *config, *path, *source, *at, *format, *file;
    int64_t now_us;
    struct ip ip;
    bool json;
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

static bool read_options(struct request *q)
{
    bool has_zone = false;
    q->json = q->format && strcmp(q->format, "json") == 0;
    q->now_us = time_now_us();
    if (q->format && !q->json && strcmp(q->format, "text") != 0)
        complain("explain: found --format %s, expected text or json", q->format);
    else if (!ip_parse(str_z(q->source ? q->source : "127.0.0.1"), &q->ip))
        complain("explain: found --source %s, expected an IP address", q->source);
    else if (q->at && (!time_parse(str_z(q->at), &q->now_us, &has_zone) || !has_zone))
        complain("explain: found --at %s, expected a time with a zone, such as 2026-11-23T18:00:00Z", q->at);
    else if (q->path && q->path[0] != '/')
        complain("explain: found --path %s, expected a path that begins with /", q->path);
    else
        return true;
    return false;
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

/* The target that was given, or that the request claims. What cannot be told is complained about. */
static bool find_target(const struct request *q, struct str body, const struct strings *bases, struct buf *target,
                        const char **from)
{
    struct xml_doc *doc = NULL;
    struct kms_request claim = {0};
    bool ours = true;
    *from = "as --path says";
    if (q->path) {
        buf_z(target, q->path);
        return !target->failed;
    }
    if (body.n && xml_parse(body, &XML_LIMITS_REQUEST, &doc, NULL) == REASON_OK && kms_request_claim(doc, &claim))
        buf_str(target, claim.client_req_url.p ? path_of_url(claim.client_req_url, bases, &ours) : STR(""));
    xml_free(doc);
    *from = ours ? "as its ClientReqUrl says" : "as its ClientReqUrl says, which begins with no public_url";
    if (target->n)
        return true;
    complain("explain: the request has no ClientReqUrl to tell where it was posted; give --path");
    return false;
}

static int print(const struct request *q, const struct explained *x)
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
    if (fwrite(out.p, 1, out.n, stdout) != out.n || fflush(stdout) != 0) {
        complain("explain: cannot write to standard output");
        return EXIT_NEGATIVE;
    }
    return x->j->decision.accepted ? EXIT_DONE : EXIT_NEGATIVE;
}

static int judge(const struct request *q, const struct config *c, const struct gate *gate, struct keystore *keys,
                 struct str body)
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
        code = print(q, &(struct explained){q->file, body.n, from, j, &why, q->now_us});
    else
        complain("out of memory");
    explanation_free(&why);
    judgement_free(j);
    return code;
}

static int explain_file(const struct request *q, const struct config *c, struct faults *faults)
{
    struct buf body BUF_CLEANUP = BUF_INIT(c->limits.body);
    struct secret_key master SECRET_CLEANUP = {{0}};
    struct rules *rules = rules_load(c->rules, faults);
    struct keystore *keys = NULL;
    int code = EXIT_NEGATIVE;
    if (config_read_master_key(&c->master_key, &master, faults))
        keys = keystore_open(c->keys, &master, false, faults);
    const struct gate gate = {.public_url = &c->public_url, .rules = rules, .keys = keys};
    if (rules && keys && client_read(q->file, &body) && is_body(q->file, buf_view(&body)))
        code = judge(q, c, &gate, keys, body.p ? buf_view(&body) : STR(""));
    keystore_close(keys);
    rules_unref(rules);
    return code;
}

static int run(const struct request *q)
{
    struct faults faults = {0};
    struct config *c = config_load(q->config, &faults);
    const int code = c ? explain_file(q, c, &faults) : EXIT_NEGATIVE;
    faults_print_errors(&faults, stderr);
    faults_free(&faults);
    config_free(c);
    return code;
}

int cmd_explain(int argc, char **argv)
{
    struct request q = {0};
    const struct option_entry entries[] = {
        {"--config", "gateway.yaml", &q.config, NULL, true}, {"--path", "a path", &q.path, NULL, false},
        {"--source", "an IP address", &q.source, NULL, false}, {"--at", "a time", &q.at, NULL, false},
        {"--format", "text or json", &q.format, NULL, false},
    };
    switch (options_read(&(struct option_table){"explain", entries, sizeof entries / sizeof *entries, &q.file,
                                                "a REQUEST.xml"}, argc, argv)) {
    case OPTIONS_HELP:
        fputs(USAGE, stdout);
        return EXIT_DONE;
    case OPTIONS_WRONG:
        return EXIT_USAGE;
    default:
        return read_options(&q) ? run(&q) : EXIT_USAGE;
    }
}
