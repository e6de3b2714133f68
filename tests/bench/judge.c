/*
 * The cost of the gate itself, without sockets: judging one signed keyprov request (with what goes to the upstream),
 * making its reply of one key set (three key contents wrapped, signed, validated), and telling the decision.
 *
 *     judge FOLDER COUNT        a JSON line for each phase: microseconds of CPU for one, the median of COUNT
 *
 * Under `valgrind --tool=callgrind --collect-atstart=no` only the phase named by BENCH_PHASE (judge, reply, decide) is
 * collected, COUNT times. Every request is signed afresh before the clock runs, so none is a replay. The gate takes
 * the time as an argument: it stands still here, however slow the machine is.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <valgrind/callgrind.h>

#include <openssl/rand.h>

#include "base/heap.h"
#include "bench.h"
#include "gate/gate.h"

#define RESOURCE "/keymanagement/identity/v1/keyprov"
#define USER "sip:alice@example.org"
#define INK_ID "ink.1.alice@example.org"
#define TRK_ID "trk.1.alice@example.org"

enum { PHASES = 3 };
static const char *const PHASE[PHASES] = {"judge", "reply", "decide"};

static struct keystore *keys_of_alice(const char *folder, struct secret_key *ink)
{
    char path[4096];
    size_t counts[3], at;
    struct secret_key master;
    struct faults faults = {0};
    snprintf(path, sizeof path, "%s/bench.db", folder);
    unlink(path);
    need(RAND_bytes(master.b, sizeof master.b) == 1 && RAND_bytes(ink->b, sizeof ink->b) == 1, "RAND_bytes");
    struct keystore *ks = keystore_open(path, &master, true, &faults);
    need(ks, "keystore_open");
    struct key_entry entries[2] = {
        {STR(USER), STR(INK_ID), KEY_INK, KEY_ACTIVE, TIME_NONE, *ink},
        {STR(USER), STR(TRK_ID), KEY_TRK, KEY_ACTIVE, TIME_NONE, {{0}}},
    };
    need(RAND_bytes(entries[1].key.b, KEY_BYTES) == 1, "RAND_bytes");
    need(keystore_put(ks, entries, 2, false, counts, &at, &faults), "keystore_put");
    return ks;
}

static void sign_one(unsigned i, const struct secret_key *ink, const char *time, struct buf *out)
{
    char device[32];
    struct buf text BUF_CLEANUP = BUF_INIT(1u << 16);
    snprintf(device, sizeof device, "device-%u", i);
    const struct kms_request r = {.id = STR("xmldoc"), .version = STR("1.1.0"), .user_uri = STR(USER),
                                  .kms_uri = STR("kms.example.org"), .time = str_z(time), .client_id = STR("bench"),
                                  .device_id = str_z(device), .client_req_url = STR("https://kms.example.org" RESOURCE),
                                  .trk_id = STR(TRK_ID), .signature_id = STR(INK_ID)};
    kms_request_write(&r, &text);
    need(!text.failed && xmlsig_sign(buf_view(&text), STR(INK_ID), ink, out), "xmlsig_sign");
}

/* What an older KMS answers: one key set, in clear. */
static void upstream_reply(const char *time, struct buf *b)
{
    buf_printf(b,
               "<?xml version=\"1.0\" encoding=\"UTF-8\"?><KmsResponse xmlns=\"" NS_KMS "\" Version=\"1.0.0\">"
               "<UserUri>" USER "</UserUri><KmsUri>kms.example.org</KmsUri><Time>%s</Time><KmsId>old</KmsId>"
               "<ClientReqUrl>http://old" RESOURCE "</ClientReqUrl><KmsMessage><KmsKeyProv Version=\"1.0.0\">"
               "<KmsKeySet Version=\"1.1.0\"><KmsUri>kms.example.org</KmsUri><CertUri>cert1.kms.example.org</CertUri>"
               "<Issuer>kms.example.org</Issuer><UserUri>" USER "</UserUri><UserID>",
               time);
    for (int i = 0; i < 8; i++)
        buf_z(b, "0A1B2C3D");
    buf_z(b, "</UserID><ValidFrom>2026-01-01T00:00:00Z</ValidFrom><ValidTo>2027-01-01T00:00:00Z</ValidTo>"
             "<KeyPeriodNo>1514</KeyPeriodNo><Revoked>false</Revoked>");
    hex_element(b, "UserDecryptKey", 257, true);
    hex_element(b, "UserSigningKeySSK", 32, false);
    hex_element(b, "UserPubTokenPVT", 65, true);
    buf_z(b, "</KmsKeySet></KmsKeyProv></KmsMessage></KmsResponse>");
}

static double cpu_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void report(const char *phase, double *us, size_t n)
{
    qsort(us, n, sizeof *us, by_value);
    printf("{\"bench\":\"gate\",\"phase\":\"%s\",\"us_median\":%.1f,\"us_p99\":%.1f,\"count\":%zu}\n", phase, us[n / 2],
           us[n - 1 - n / 100], n);
}

/* One phase's boundaries, for callgrind. */
static void collect(bool warming, const char *phase)
{
    const char *wanted = getenv("BENCH_PHASE");
    if (!warming && wanted && strcmp(wanted, phase) == 0)
        CALLGRIND_TOGGLE_COLLECT;
}

/* The line of the decision, and its metrics. */
static void decide(struct decision *d, bool warming, double *us)
{
    static struct buf line = BUF_INIT(1u << 20);
    const double began = cpu_us();
    d->time_us = time_now_us();
    d->us.total = 1234;
    d->us.upstream = d->upstream.us = 567;
    buf_reset(&line);
    collect(warming, "decide");
    decision_json(d, &line);
    decision_count(d);
    collect(warming, "decide");
    *us = cpu_us() - began;
    need(!line.failed, "decision_json");
}

static void exchange(const struct gate *gate, int64_t now, const struct str texts[2], bool warming, double us[PHASES])
{
    const struct str request = texts[0], upstream = texts[1];
    struct gate_outgoing outgoing = {0};
    struct gate_response response = {0};
    const struct gate_head head = {.method = STR("POST"), .target = STR(RESOURCE),
                                   .content_type = STR("application/xml")};
    double began = cpu_us();
    collect(warming, "judge");
    struct judgement *j = judgement_new(gate, "0123456789abcdef0123456789abcdef");
    need(j && gate_head(j, &head) == REASON_OK, "gate_head");
    const bool forwarded = gate_request(j, request, now) == GATE_FORWARD &&
        gate_forward(j, request, &outgoing) == REASON_OK;
    collect(warming, "judge");
    us[0] = cpu_us() - began;
    if (!forwarded)
        fprintf(stderr, "judge: refused: %s\n", reason_name(j->decision.reason));
    need(forwarded, "gate_request");
    const struct gate_upstream up = {200, upstream};
    began = cpu_us();
    collect(warming, "reply");
    const enum reason r = gate_reply(j, &up, now, &response);
    collect(warming, "reply");
    us[1] = cpu_us() - began;
    need(r == REASON_OK && response.status == 200, reason_name(r));
    decide(&j->decision, warming, &us[2]);
    gate_outgoing_free(&outgoing);
    buf_free(&response.body);
    judgement_free(j);
}

int main(int argc, char **argv)
{
    const long count = argc == 3 ? strtol(argv[2], NULL, 10) : 0;
    if (count < 1) {
        fputs("usage: judge FOLDER COUNT\n", stderr);
        return 2;
    }
    char text[TIME_TEXT], *base = strdup("https://kms.example.org");
    struct secret_key ink;
    const struct strings public_url = {&base, 1};
    heap_setup(); /* as in the gateway */
    need(xml_startup(), "xml_startup");
    const int64_t now = time_now_us() / US_PER_S * US_PER_S;
    time_format(now, false, text);
    struct gate gate = {.public_url = &public_url, .rules = bench_rules(argv[1], BENCH_RULES),
                        .keys = keys_of_alice(argv[1], &ink)};
    gate.replay = replay_memory_new(1u << 20, now - 2 * US_PER_S,
                                    &(struct replay_settings){.past_us = gate.rules->max_past_us});
    struct buf upstream = BUF_INIT(1u << 20), request = BUF_INIT(1u << 16);
    double *us[PHASES];
    for (size_t p = 0; p < PHASES; p++)
        need((us[p] = calloc((size_t)count, sizeof(double))) != NULL, "memory");
    need(gate.replay, "memory");
    upstream_reply(text, &upstream);
    for (long i = -1; i < count; i++) { /* the first one warms up, and is not counted */
        double one[PHASES];
        buf_reset(&request);
        sign_one((unsigned)(i + 1), &ink, text, &request);
        exchange(&gate, now, (const struct str[]){buf_view(&request), buf_view(&upstream)}, i < 0, one);
        for (size_t p = 0; i >= 0 && p < PHASES; p++)
            us[p][i] = one[p];
    }
    buf_free(&request);
    buf_free(&upstream);
    for (size_t p = 0; p < PHASES; p++)
        report(PHASE[p], us[p], (size_t)count);
    return 0;
}
