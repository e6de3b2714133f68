/*
 * Memory that fails as the input says: from one allocation on, at one alone, or at every so many; ours, libxml2's and
 * OpenSSL's, with what a serving process sets aside for libraries that do not come out whole otherwise. What is done
 * meanwhile the input chooses, too: a whole exchange with a request and a reply of its making, or a file that is read.
 * It is done with memory first, then with memory that fails, then with memory again.
 *
 * What must hold: where it fails, the outcome is the one with memory, or a refusal for want of it, and nothing else:
 * no other verdict, no other reply, no other reading; nothing is lost; and the third time all is as the first.
 */
#include "asking.h"
#include "framed.h"

#define ENDING_MEMORY_WRAPPED
#include "../unit/ending_memory.h"
#include "../unit/gate/made_reply.h"

#include <libxml/xmlmemory.h>
#include <openssl/crypto.h>
#include <unistd.h>

#include "base/config.h"
#include "base/spare.h"
#include "http/guard.h"
#include "http/upstream_reply.h"
#include "study/record.h"

#define KEEP "extensions: keep, set: { UserUri: keep, KmsUri: keep, KmsId: keep, Time: keep, ClientReqUrl: keep }"
static const char *const RULES[] = {
    RULES_BEGIN "responses: [{ id: default }]\n",
    RULES_BEGIN "responses: [{ id: keeps, " KEEP " }]\n",
    "version: 1\nkms: { uris: [kms.example.org], id: kms-01 }\nrequests:\n  - id: received\n    forward:\n"
    "      body: signed\n      headers: { X-User: \"{user}\" }\n"
    "responses: [{ id: older, dialect: older }]\n"
    "dialects:\n  older: { namespaces: [\"urn:older\", \"\"], point_prefix: add }\n",
};
enum { RULE_SETS = sizeof RULES / sizeof *RULES };
enum { ROOM = 1 << 20, TOLD = 1 << 20, MANY = 1 << 30 };

/* When memory fails. */
static struct {
    bool on;
    unsigned long seen, from, every; /* every 0: once */
    bool ended;
} failing;

static bool denied(void)
{
    if (!failing.on)
        return false;
    const unsigned long n = failing.seen++;
    const unsigned long since = n - failing.from;
    const bool fails = n >= failing.from && (since == 0 || (failing.every && since % failing.every == 0));
    failing.ended |= fails;
    return fails;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    must(CRYPTO_set_mem_functions(crypto_malloc, crypto_realloc, crypto_free) == 1, "OpenSSL was used before");
    must(xmlMemSetup(free, limited_malloc, limited_realloc, limited_strdup) == 0 && spare_setup(), "memory");
    asking_begin(RULES, RULE_SETS);
    atexit(asking_end);
    return 0;
}

/* What is done, of what, and what came of it. */
enum outcome { REFUSED, DONE, NO_MEMORY };
struct deed {
    enum outcome (*run)(struct deed *d);
    struct str text, more; /* the input; of an exchange: request and reply */
    int set;
    char path[64];         /* of the text as a file */
    struct buf told;       /* all that matters of the outcome */
};

/* Where memory fails, no word of it is due; else what is told is compared. */
static void tell(struct deed *d, struct str text)
{
    const bool was = failing.on;
    failing.on = false;
    buf_str(&d->told, text);
    buf_char(&d->told, '\n');
    failing.on = was;
}

static bool is_want(enum reason r)
{
    return r == REASON_INTERNAL || r == REASON_REPLAY_FULL || r == REASON_KEYS_UNAVAILABLE;
}

static enum outcome finish_exchange(struct deed *d, struct judgement *j)
{
    struct gate_outgoing out;
    struct gate_response reply;
    const struct gate_upstream up = {.status = 200, .body = d->more};
    enum reason r = gate_forward(j, d->text, &out);
    if (r != REASON_OK)
        return is_want(r) ? NO_MEMORY : REFUSED;
    tell(d, buf_view(&out.body));
    gate_outgoing_free(&out);
    r = gate_reply(j, &up, asking.now_us + 1, &reply);
    must(r != REASON_OK || reply.status == 200, "%d", reply.status);
    tell(d, str_z(reason_name(r)));
    if (r == REASON_OK)
        tell(d, buf_view(&reply.body));
    buf_free(&reply.body);
    return r == REASON_OK ? DONE : is_want(r) ? NO_MEMORY : REFUSED;
}

static enum outcome exchange(struct deed *d)
{
    struct buf target = BUF_INIT(ROOM);
    const bool was = failing.on;
    failing.on = false;
    buf_printf(&target, "/keymanagement/identity/v1%s", resource_of(d->more));
    asking.gate.rules = asking.rules[d->set];
    asking.gate.replay = replay_memory_new(64, asking.now_us - US_PER_S,
                                           &(struct replay_settings){.past_us = 60 * US_PER_S});
    must(asking.gate.replay, "no memory");
    failing.on = was;
    const struct gate_head head = {.method = STR("POST"), .target = buf_view(&target),
                                   .content_type = STR("application/xml")};
    enum outcome o = NO_MEMORY;
    struct judgement *j = judgement_new(&asking.gate, "fuzz");
    enum reason r = j ? gate_head(j, &head) : REASON_INTERNAL;
    if (r == REASON_OK && gate_request(j, d->text, asking.now_us) == GATE_FORWARD) {
        must(j->proven && j->signer, "let through unproven");
        o = finish_exchange(d, j);
    } else {
        r = j ? j->decision.reason : r;
        tell(d, str_z(reason_name(r)));
        o = is_want(r) ? NO_MEMORY : REFUSED;
    }
    judgement_free(j);
    replay_free(asking.gate.replay);
    buf_free(&target);
    return o;
}

static enum outcome outcome_of(struct faults *f, bool ok)
{
    const enum outcome o = ok ? DONE : REFUSED;
    must(ok == (f->errors == 0), "%zu faults", (size_t)f->errors);
    faults_free(f);
    return o;
}

static enum outcome key_file(struct deed *d)
{
    struct faults faults = {0};
    struct keyfile file;
    const bool read = keyfile_read(d->path, &file, &faults);
    enum outcome o = outcome_of(&faults, read);
    struct keystore *keys = read ? keystore_scratch(file.v, file.n) : NULL;
    o = read && !keys ? failing.ended ? NO_MEMORY : REFUSED : o; /* or too many of a user */
    for (size_t i = 0; keys && i < file.n; i++) {
        struct keyring ring;
        struct secret_key clear SECRET_CLEANUP = {{0}};
        const enum keystore_result r = keystore_user(keys, file.v[i].user, &ring);
        const struct key *key = r == KEYSTORE_OK ? keyring_find(&ring, file.v[i].id) : NULL;
        must(r != KEYSTORE_NOT_FOUND && (r == KEYSTORE_FAILED || key), "entry %zu is not there", i);
        if (!key || !keyring_open(&ring, key, &clear))
            o = NO_MEMORY;
        keyring_clear(&ring);
    }
    if (o == DONE)
        tell(d, (struct str){file.text, file.text_n});
    if (keys)
        keystore_close(keys);
    keyfile_free(&file);
    return o;
}

static enum outcome configuration(struct deed *d)
{
    struct faults faults = {0};
    struct config *c = config_load(d->path, &faults);
    const enum outcome o = outcome_of(&faults, c != NULL);
    if (c)
        tell(d, str_z(c->rules));
    config_free(c);
    return o;
}

static enum outcome rule_file(struct deed *d)
{
    struct faults faults = {0};
    struct rules *r = rules_load(d->path, &faults);
    const enum outcome o = outcome_of(&faults, r != NULL);
    if (r)
        tell(d, str_z(r->hash));
    rules_unref(r);
    return o;
}

static enum outcome decision_line(struct deed *d)
{
    struct record r;
    struct detail why = {""};
    const bool ok = record_read(d->text, &r, &why);
    must(ok || why.text[0], "refused without a word");
    if (ok) {
        tell(d, r.id);
        tell(d, r.user);
        tell(d, str_z(reason_name(r.reason)));
    }
    record_free(&r);
    return ok ? DONE : REFUSED;
}

static enum outcome front(struct deed *d)
{
    static const struct limits_config LIMITS = {.body = 3000, .target = 200, .header = 150, .headers = 400,
                                                .header_count = 8};
    struct guard g;
    enum outcome o = REFUSED;
    guard_init(&g, &LIMITS);
    for (size_t at = 0; at < d->text.n;) {
        at += guard_feed(&g, d->text.p + at, d->text.n - at);
        if (g.state == GUARD_REFUSED) {
            o = g.reason == REASON_INTERNAL || g.reason == REASON_HTTP_BUSY ? NO_MEMORY : REFUSED;
            tell(d, str_z(reason_name(g.reason)));
            break;
        }
        if (g.state == GUARD_DONE) {
            o = DONE;
            tell(d, g.target);
            tell(d, buf_view(&g.body));
            guard_next(&g);
        }
    }
    guard_free(&g);
    return o;
}

static enum outcome upstream(struct deed *d)
{
    struct reply_reader r = {.state = REPLY_STATUS};
    reply_begin(&r, 3000);
    reply_feed(&r, d->text.p, d->text.n);
    if (r.state != REPLY_DONE && r.state != REPLY_REFUSED)
        reply_end(&r);
    const enum outcome o = r.state == REPLY_DONE ? DONE : REFUSED;
    if (o == DONE)
        tell(d, buf_view(&r.body));
    reply_free(&r);
    return o;
}

/* Once: of these the memory that fails is told apart from a refusal by its reason alone. */
static enum outcome run(struct deed *d, bool fails)
{
    buf_reset(&d->told);
    failing.seen = 0;
    failing.ended = false;
    failing.on = true;
    if (!fails)
        failing.from = MANY;
    const enum outcome o = d->run(d);
    failing.on = false;
    must(!d->told.failed, "room");
    return o;
}

/* Whether it was done with memory, and did without some. */
static bool three_times(struct deed *d, struct str *rest)
{
    struct buf first BUF_CLEANUP = BUF_INIT(TOLD);
    const size_t aside = spare_left();
    const enum outcome whole = run(d, false);
    const unsigned long count = failing.seen, at = fuzz_choice(rest, 256) * 256ul + fuzz_choice(rest, 256);
    static const unsigned long EVERY[] = {1, 1, 0, 2, 7, 50};
    buf_str(&first, buf_view(&d->told));
    must(whole != NO_MEMORY, "no memory, and there is some");
    failing.from = count ? at % count : 0;
    failing.every = EVERY[fuzz_choice(rest, sizeof EVERY / sizeof *EVERY)];
    const enum outcome o = run(d, true);
    const bool ended = failing.ended;
    must(d->run != exchange || o == NO_MEMORY || o == whole, "another verdict without memory at %lu: %.*s",
         failing.from, STR_FMT(buf_view(&d->told)));
    must(o != DONE || (whole == DONE && str_eq(buf_view(&first), buf_view(&d->told))),
         "without memory at %lu it is\n%.*s\nelse\n%.*s", failing.from, STR_FMT(buf_view(&d->told)),
         STR_FMT(buf_view(&first)));
    must(spare_left() == aside, "%zu octets less are set aside", aside - spare_left());
    must(run(d, false) == whole && str_eq(buf_view(&first), buf_view(&d->told)),
         "with memory again it is\n%.*s\nelse\n%.*s", STR_FMT(buf_view(&d->told)), STR_FMT(buf_view(&first)));
    return whole == DONE && ended;
}

static void make_exchange(struct str *rest, struct buf *request, struct buf *reply)
{
    struct buf plain BUF_CLEANUP = BUF_INIT(ROOM), url BUF_CLEANUP = BUF_INIT(ROOM);
    const struct str client = fuzz_next(rest), device = fuzz_next(rest);
    struct dice dice = {.p = (const uint8_t *)rest->p, .n = rest->n};
    made_reply(&dice, KMS_MESSAGE_INIT + roll(&dice, 3), reply);
    buf_printf(&url, "http://127.0.0.1:8080/keymanagement/identity/v1%s", resource_of(buf_view(reply)));
    const struct kms_request fields = {.user_uri = STR(ALICE), .kms_uri = STR("kms.example.org"),
                                       .time = STR("2026-11-23T18:00:00Z"), .client_req_url = buf_view(&url),
                                       .client_id = client.n ? client : STR_MISSING,
                                       .device_id = device.n ? device : STR_MISSING,
                                       .trk_id = STR("trk.1.alice"), .signature_id = STR("ink.1.alice")};
    kms_request_write(&fields, &plain);
    if (plain.failed || !xmlsig_sign(buf_view(&plain), STR("ink.1.alice"), &asking.ink, request))
        buf_reset(request);
}

static void make_keys(struct str *rest, struct buf *out)
{
    for (unsigned i = 0, n = 1 + fuzz_choice(rest, 70); i < n; i++)
        buf_printf(out, "{\"user\":\"sip:u%u@example.org\",\"type\":\"%s\",\"id\":\"k%u\",\"key\":\"%064x\"}\n",
                   i / 4, fuzz_choice(rest, 2) ? "ink" : "trk", i, i + 1);
}

static void make_rules(struct str *rest, struct buf *out)
{
    buf_z(out, RULES[fuzz_choice(rest, RULE_SETS)]);
    buf_printf(out, "lints:\n  accepted:\n    - { name: dialect-unused, why: \"%u\" }\n", fuzz_choice(rest, 256));
}

static void make_line(struct str *rest, struct buf *out)
{
    struct json j = {.out = out};
    json_object(&j, NULL);
    json_string(&j, "time", STR("2026-11-29T06:42:08.003Z"), 0);
    json_string(&j, "id", fuzz_next(rest), 0);
    json_string(&j, "user", fuzz_next(rest), 0);
    json_string(&j, "form", STR("signed"), 0);
    json_string(&j, "verdict", STR("accept"), 0);
    json_string(&j, "reason", STR("ok"), 0);
    json_end(&j);
}

static void make_config(struct str *rest, struct buf *out)
{
    buf_printf(out, "listen: [{ address: \"127.0.0.1:8080\" }, { address: \"127.0.0.1:%u\" }]\n"
                    "public_url: [https://kms.example.org]\nupstream: { url: \"http://127.0.0.1:9000\" }\n"
                    "keys: \"sqlite:k.db\"\nmaster_key: [\"env:M\", \"env:N\"]\nrules: rules.yaml\nworkers: %u\n",
               8081 + fuzz_choice(rest, 256), 1 + fuzz_choice(rest, 8));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static enum outcome (*const DEEDS[])(struct deed *) = {exchange, exchange, exchange, key_file, configuration,
                                                           rule_file, decision_line, front, upstream};
    static void (*const MAKES[])(struct str *, struct buf *) = {NULL, NULL, NULL, make_keys, make_config, make_rules,
                                                                make_line, framed_request, framed_reply};
    enum { DEED_COUNT = sizeof DEEDS / sizeof *DEEDS, AS_IT_IS = 8 };
    struct str rest = fuzz_view(data, size), how;
    const unsigned which = fuzz_choice(&rest, DEED_COUNT);
    struct buf text BUF_CLEANUP = BUF_INIT(ROOM), more BUF_CLEANUP = BUF_INIT(ROOM);
    struct deed d = {.run = DEEDS[which], .set = (int)fuzz_choice(&rest, RULE_SETS), .told = BUF_INIT(TOLD)};
    const bool as_it_is = fuzz_choice(&rest, AS_IT_IS) == 1;
    how = (struct str){rest.p, rest.n < 3 ? rest.n : 3};
    rest = (struct str){rest.p + how.n, rest.n - how.n};
    if (!MAKES[which])
        make_exchange(&rest, &text, &more);
    else if (as_it_is)
        buf_str(&text, rest);
    else
        MAKES[which](&rest, &text);
    must(!text.failed && !more.failed, "room");
    d.text = buf_view(&text);
    d.more = buf_view(&more);
    const int fd = fuzz_file(d.text, d.path);
    fuzz_arrived(three_times(&d, &how));
    close(fd);
    buf_free(&d.told);
    return 0;
}
