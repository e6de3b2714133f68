/*
 * What the gate's tests share: a world with users, keys and one rule that enforces everything; requests to judge in it.
 *
 *     struct world *w = *state;
 *     struct ask a = ask_of(w);                          a good request: alice, signed, POST /keyprov
 *     a.fields.kms_uri = STR("kms.evil.example");        … made bad by one thing
 *     assert_judged(w, &a, REASON_KMS_URI_MISMATCH);
 */
#ifndef TEST_GATE_JUDGING_H
#define TEST_GATE_JUDGING_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <openssl/rand.h>

#include "gate/gate.h"

#define V1 "/keymanagement/identity/v1"
#define BASE "https://kms.example.org"
#define ALICE "sip:alice@example.org"
#define BOB "sip:bob@example.org"     /* his InK is revoked */
#define CAROL "sip:carol@example.org" /* has no InK */
#define DAVE "sip:dave@example.org"   /* his InK is expired */
#define NOW (INT64_C(1795000000) * US_PER_S)
#define UNUSED __attribute__((unused))

enum who { WHO_ALICE, WHO_BOB, WHO_CAROL, WHO_DAVE, WHO_COUNT };
static const char *const USERS[WHO_COUNT] = {ALICE, BOB, CAROL, DAVE};

struct world {
    char folder[64], path[96];
    struct secret_key ink[WHO_COUNT], trk[WHO_COUNT], stranger;
    struct keystore *keys;
    struct rules rules;
    struct request_rule rule[2]; /* the first has no match: any */
    struct gate gate;
    struct strings public_url;
    char *bases[2], *uris[2];
    struct judgement *j; /* of the last request judged */
};

/* A request: what is sent, what signs it. */
struct ask {
    struct kms_request fields;
    const struct secret_key *key; /* NULL: unsigned */
    const char *key_id, *method, *target, *media;
    bool encoded;
    int64_t now_us;
    char time[TIME_TEXT];
    const char *find, *put; /* replaced in the signed text */
    struct str body;        /* instead of all that */
};

static void add_key(struct world *w, enum who who, enum key_type type, int64_t not_after) UNUSED;
static void add_key(struct world *w, enum who who, enum key_type type, int64_t not_after)
{
    struct faults faults = {0};
    size_t counts[3], at;
    struct secret_key *key = type == KEY_INK ? &w->ink[who] : &w->trk[who];
    assert_int_equal(RAND_bytes(key->b, sizeof key->b), 1);
    const struct key_entry e = {str_z(USERS[who]), type == KEY_INK ? STR("ink.1") : STR("trk.1"), type, KEY_ACTIVE,
                                not_after, *key};
    assert_true(keystore_put(w->keys, &e, 1, false, counts, &at, &faults));
}

static void enforce_all(struct world *w) UNUSED;
static void enforce_all(struct world *w)
{
    static char versions[] = "1.1.0 1.0.0", id[] = "everyone", second[] = "second", method[] = "POST";
    memset(w->rule, 0, sizeof w->rule);
    for (int i = 0; i < 2; i++) {
        struct request_rule *r = &w->rule[i];
        r->id = i ? second : id;
        r->since_us = r->until_us = TIME_NONE;
        r->accept = FORM_SIGNED;
        r->checks = (struct checks){.versions = versions, .min_hmac_bits = 256, .canonicalization = XMLSIG_C14N,
                                    .past_us = 5 * US_PER_S, .future_us = 5 * US_PER_S};
        r->forward.method = method;
    }
    w->rules.requests = w->rule;
    w->rules.request_count = 1;
}

static int world_begin(void **state) UNUSED;
static int world_begin(void **state)
{
    static char base[] = BASE, other[] = "http://localhost:8080";
    static char uri[] = "kms.example.org", second[] = "kms2.example.org";
    struct world *w = calloc(1, sizeof *w);
    struct secret_key master;
    struct faults faults = {0};
    if (!w || RAND_bytes(master.b, KEY_BYTES) != 1 || RAND_bytes(w->stranger.b, KEY_BYTES) != 1)
        return -1;
    *state = w;
    snprintf(w->folder, sizeof w->folder, "/tmp/kmsgate-gate-XXXXXX");
    if (!mkdtemp(w->folder))
        return -1;
    snprintf(w->path, sizeof w->path, "%s/k.db", w->folder);
    w->keys = keystore_open(w->path, &master, true, &faults);
    assert_non_null(w->keys);
    for (enum who who = 0; who < WHO_COUNT; who++) {
        if (who != WHO_CAROL)
            add_key(w, who, KEY_INK, who == WHO_DAVE ? NOW - 1 : TIME_NONE);
        add_key(w, who, KEY_TRK, TIME_NONE);
    }
    assert_true(keystore_set_state(w->keys, STR(BOB), STR("ink.1"), KEY_REVOKED, &faults));
    w->bases[0] = base;
    w->bases[1] = other;
    w->uris[0] = uri;
    w->uris[1] = second;
    w->public_url = (struct strings){w->bases, 2};
    w->rules.kms_uris = (struct strings){w->uris, 2};
    w->rules.refs = 1;
    w->rules.max_past_us = 5 * US_PER_S;
    snprintf(w->rules.hash, sizeof w->rules.hash, "%064d", 7);
    enforce_all(w);
    w->gate = (struct gate){.public_url = &w->public_url, .rules = &w->rules, .keys = w->keys};
    return 0;
}

static int world_end(void **state) UNUSED;
static int world_end(void **state)
{
    struct world *w = *state;
    judgement_free(w->j);
    const unsigned refs = w->rules.refs;
    keystore_close(w->keys);
    replay_free(w->gate.replay);
    unlink(w->path);
    const int left = rmdir(w->folder);
    free(w);
    return left || refs != 1; /* a judgement that kept its rules */
}

/* Each test begins with a rule that enforces everything and an empty replay memory. */
static int fresh(void **state) UNUSED;
static int fresh(void **state)
{
    struct world *w = *state;
    enforce_all(w);
    judgement_free(w->j);
    w->j = NULL;
    replay_free(w->gate.replay);
    w->gate.replay = replay_memory_new(1000, NOW - 3 * US_PER_S, &(struct replay_settings){.past_us = 60 * US_PER_S});
    return w->gate.replay ? 0 : -1;
}

/* A good request, which no other one of the same run equals. */
static struct ask ask_as(const struct world *w, enum who who) UNUSED;
static struct ask ask_as(const struct world *w, enum who who)
{
    static unsigned number;
    static char device[8][32];
    char *fresh_device = device[number % 8];
    snprintf(fresh_device, sizeof device[0], "device-%u", number++);
    struct ask a = {.key = who == WHO_CAROL ? &w->trk[who] : &w->ink[who],
                    .key_id = who == WHO_CAROL ? "trk.1" : "ink.1",
                    .method = "POST", .target = V1 "/keyprov", .media = "application/xml", .now_us = NOW};
    a.fields = (struct kms_request){.user_uri = str_z(USERS[who]), .kms_uri = STR("kms.example.org"),
                                    .client_id = STR("client-1"), .device_id = str_z(fresh_device),
                                    .client_req_url = STR(BASE V1 "/keyprov"), .trk_id = STR("trk.1"),
                                    .signature_id = str_z(a.key_id)};
    return a;
}

static struct ask ask_of(const struct world *w) UNUSED;
static struct ask ask_of(const struct world *w)
{
    return ask_as(w, WHO_ALICE);
}

/* The resource, and the ClientReqUrl that goes with it. */
static void ask_at(struct ask *a, const char *target, const char *url) UNUSED;
static void ask_at(struct ask *a, const char *target, const char *url)
{
    a->target = target;
    a->fields.client_req_url = str_z(url);
}

static void ask_write(const struct ask *a, struct buf *out) UNUSED;
static void ask_write(const struct ask *a, struct buf *out)
{
    struct kms_request fields = a->fields;
    struct buf request = BUF_INIT(1u << 20), text = BUF_INIT(1u << 20);
    char time[TIME_TEXT];
    time_format(a->now_us, true, time);
    if (!fields.time.p)
        fields.time = str_z(time);
    if (a->body.p) {
        buf_str(out, a->body);
        return;
    }
    kms_request_write(&fields, &request);
    if (a->key)
        assert_true(xmlsig_sign(buf_view(&request), str_z(a->key_id), a->key, &text));
    else
        buf_str(&text, buf_view(&request));
    const char *at = a->find ? strstr(text.p, a->find) : NULL;
    if (a->find && !at)
        fail_msg("%s is not in %s", a->find, text.p);
    const size_t n = at ? (size_t)(at - text.p) : text.n;
    buf_bytes(out, text.p, n);
    if (at) {
        buf_z(out, a->put);
        buf_z(out, at + strlen(a->find));
    }
    buf_free(&request);
    buf_free(&text);
}

static enum reason judge_text(struct world *w, const struct ask *a, struct str body) UNUSED;
static enum reason judge_text(struct world *w, const struct ask *a, struct str body)
{
    const struct gate_head head = {.method = str_z(a->method),
                                   .target = str_z(a->target),
                                   .content_type = str_z(a->media),
                                   .content_encoded = a->encoded,
                                   .source = {.b = {[10] = 0xff, 0xff, 127, 0, 0, 1}, .known = true}};
    judgement_free(w->j);
    w->j = judgement_new(&w->gate, "0123456789abcdef0123456789abcdef");
    assert_non_null(w->j);
    const enum reason r = gate_head(w->j, &head);
    assert_int_equal(w->j->decision.reason, r);
    if (r != REASON_OK)
        return r;
    const enum gate_action action = gate_request(w->j, body, a->now_us);
    assert_int_equal(action == GATE_FORWARD, w->j->decision.reason == REASON_OK);
    assert_int_equal(w->j->decision.accepted, action == GATE_FORWARD);
    return w->j->decision.reason;
}

static enum reason judge_ask(struct world *w, const struct ask *a) UNUSED;
static enum reason judge_ask(struct world *w, const struct ask *a)
{
    struct buf body = BUF_INIT(1u << 20);
    ask_write(a, &body);
    const enum reason r = judge_text(w, a, buf_view(&body));
    buf_free(&body);
    return r;
}

#define assert_judged(w, a, expected) assert_reason(w, a, expected, __FILE__, __LINE__)
static UNUSED void assert_reason(struct world *w, const struct ask *a, enum reason expected, const char *file,
                                 int line)
{
    const enum reason got = judge_ask(w, a);
    if (got == expected)
        return;
    print_error("%s instead of %s\n", reason_name(got), reason_name(expected));
    for (enum check c = 0; c < CHECK_COUNT; c++)
        print_error("  %s: %s\n", check_name(c), w->j->decision.found[c].text);
    _fail(file, line);
}

#endif
