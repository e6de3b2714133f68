/*
 * A gate with Alice's keys, and her requests, whose replies the fuzzers make.
 *
 *     static const char *const RULES[] = {RULES_BEGIN "responses: [{ id: default }]\n"};
 *     asking_begin(RULES, 1);
 *     struct judgement *j = asked(asking.rules[0], reply);
 *     gate_reply(j, &up, asking.now_us + 1, &out);
 *     asking_end();
 */
#ifndef TEST_FUZZ_ASKING_H
#define TEST_FUZZ_ASKING_H

#include "fuzz.h"

#include <unistd.h>

#include "base/log.h"
#include "gate/gate.h"
#include "keys/keyfile.h"

#define ALICE "sip:alice@example.org"
#define RULES_BEGIN "version: 1\nkms: { uris: [kms.example.org], id: kms-01 }\nrequests: [{ id: everyone }]\n"
enum { ASKING_ROOM = 1 << 22, ASKING_RULES = 8 };

static struct {
    struct gate gate;
    struct secret_key ink, trk;
    int64_t now_us;
    struct rules *rules[ASKING_RULES]; /* of each text that asking_begin() was given */
    size_t rules_n;
} asking;

static inline void asking_keys(void)
{
    static char folder[] = "/tmp/kmsgate-fuzz-XXXXXX";
    char path[64];
    struct secret_key master = {{1}};
    struct faults faults = {0};
    struct keyfile file;
    size_t counts[3], at;
    must(mkdtemp(folder), "no folder");
    snprintf(path, sizeof path, "%s/k.db", folder);
    must(keyfile_read(TEST_ROOT "/cases/vectors/keys.jsonl", &file, &faults), "no keys");
    struct keystore *keys = keystore_open(path, &master, true, &faults);
    must(keys && keystore_put(keys, file.v, file.n, false, counts, &at, &faults), "no keys");
    for (size_t i = 0; i < file.n; i++) {
        if (str_eq_z(file.v[i].id, "ink.1.alice"))
            asking.ink = file.v[i].key;
        if (str_eq_z(file.v[i].id, "trk.1.alice"))
            asking.trk = file.v[i].key;
    }
    keyfile_free(&file);
    unlink(path);
    rmdir(folder);
    asking.gate.keys = keys;
}

static inline struct rules *asking_read(const char *text)
{
    char path[64];
    struct faults faults = {0};
    const int fd = fuzz_file(str_z(text), path);
    struct rules *rules = rules_load(path, &faults);
    if (!rules)
        faults_print(&faults, stderr);
    must(rules, "rules");
    faults_free(&faults);
    close(fd);
    return rules;
}

static inline void asking_begin(const char *const *rules, size_t n)
{
    static char base[] = "http://127.0.0.1:8080", *bases[] = {base};
    static const struct strings public_url = {bases, 1};
    bool zone;
    log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT);
    must(xml_startup(), "libraries");
    must(time_parse(STR("2026-11-23T18:00:00Z"), &asking.now_us, &zone), "time");
    asking_keys();
    asking.gate.public_url = &public_url;
    must(n <= ASKING_RULES, "room for %zu sets of rules", n);
    while (asking.rules_n < n) {
        asking.rules[asking.rules_n] = asking_read(rules[asking.rules_n]);
        asking.rules_n++;
    }
}

static inline void asking_end(void)
{
    while (asking.rules_n)
        rules_unref(asking.rules[--asking.rules_n]);
    keystore_close((struct keystore *)asking.gate.keys);
    xml_shutdown();
}

/* The resource that owes what the reply speaks of. */
static inline const char *resource_of(struct str reply)
{
    static const struct {
        const char *word, *resource;
    } OWED[] = {{"KmsInit", "/init"}, {"KmsCertCache", "/certcache"}, {"KmsLookup", "/lookup/sip%3Abob%40example.org"}};
    for (size_t i = 0; i < sizeof OWED / sizeof *OWED; i++)
        if (reply.n > 0 && memmem(reply.p, reply.n, OWED[i].word, strlen(OWED[i].word)))
            return OWED[i].resource;
    return reply.n > 0 ? "/keyprov" : "/redirect";
}

/* Alice's request for what the reply holds, judged and let through; signed, or not, where the rules allow it. */
static inline struct judgement *asked_so(struct rules *rules, struct str reply, bool is_signed)
{
    struct buf target = BUF_INIT(ASKING_ROOM), url = BUF_INIT(ASKING_ROOM), request = BUF_INIT(ASKING_ROOM),
               body = BUF_INIT(ASKING_ROOM);
    buf_printf(&target, "/keymanagement/identity/v1%s", resource_of(reply));
    buf_printf(&url, "http://127.0.0.1:8080%s", target.p);
    const struct kms_request fields = {.user_uri = STR(ALICE), .kms_uri = STR("kms.example.org"),
                                       .time = STR("2026-11-23T18:00:00Z"), .client_req_url = buf_view(&url),
                                       .trk_id = STR("trk.1.alice"), .signature_id = STR("ink.1.alice")};
    const struct gate_head head = {.method = STR("POST"), .target = buf_view(&target)};
    kms_request_write(&fields, &request);
    if (is_signed)
        must(xmlsig_sign(buf_view(&request), STR("ink.1.alice"), &asking.ink, &body), "not signed");
    else
        buf_str(&body, buf_view(&request));
    asking.gate.rules = rules;
    struct judgement *j = judgement_new(&asking.gate, "fuzz");
    must(j && gate_head(j, &head) == REASON_OK, "head");
    must(gate_request(j, buf_view(&body), asking.now_us) == GATE_FORWARD, "%s", reason_name(j->decision.reason));
    buf_free(&target);
    buf_free(&url);
    buf_free(&request);
    buf_free(&body);
    return j;
}

static inline struct judgement *asked(struct rules *rules, struct str reply)
{
    return asked_so(rules, reply, true);
}

#endif
