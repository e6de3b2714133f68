/*
 * What must cost the same, so that nobody learns from it: judging a user's request, however many keys the user has; and
 * refusing one that an unknown user signed, an unknown or a revoked key, or nobody's.
 *
 *     alike FOLDER NAME COUNT       judges COUNT requests of that kind; under callgrind only the judging is collected
 *     alike FOLDER                  the names, one a line
 *
 * All names of users and keys, and so all messages, are equally long.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <valgrind/callgrind.h>

#include "base/limits.h"
#include "bench.h"
#include "gate/gate.h"
#include "keys/keystore.h"

#define RESOURCE "/keymanagement/identity/v1/keyprov"
static const struct user {
    const char *uri;
    unsigned inks, trks;
} USERS[] = {{"sip:user-1@example.org", 1, 0}, {"sip:user-2@example.org", 1, 1}, {"sip:user-3@example.org", 8, 8},
             {"sip:user-4@example.org", 32, 32}, {"sip:user-5@example.org", 0, 1}};
#define NOBODY "sip:user-9@example.org"
enum { USER_COUNT = sizeof USERS / sizeof *USERS };

static const struct alike {
    const char *name, *user;
    unsigned key;   /* the InK that is named: its number; of none that is there: unknown */
    bool forged;    /* signed by other bytes */
    enum reason want;
} ALIKE[] = {
    {"good-1-key", "sip:user-1@example.org", 1, false, REASON_OK},
    {"good-2-keys", "sip:user-2@example.org", 1, false, REASON_OK},
    {"good-16-keys", "sip:user-3@example.org", 8, false, REASON_OK},
    {"good-64-keys", "sip:user-4@example.org", 32, false, REASON_OK},
    {"good-64-keys-the-first", "sip:user-4@example.org", 2, false, REASON_OK},
    {"forged-1-key", "sip:user-1@example.org", 1, true, REASON_SIGNATURE_INVALID},
    {"forged-64-keys", "sip:user-4@example.org", 32, true, REASON_SIGNATURE_INVALID},
    {"unknown-key-of-1", "sip:user-1@example.org", 77, false, REASON_KEY_UNKNOWN},
    {"unknown-key-of-64", "sip:user-4@example.org", 77, false, REASON_KEY_UNKNOWN},
    {"unknown-key-of-a-trk", "sip:user-5@example.org", 77, false, REASON_KEY_UNKNOWN},
    {"unknown-user", NOBODY, 1, false, REASON_KEY_UNKNOWN},
    {"revoked-key-of-64", "sip:user-4@example.org", 1, false, REASON_KEY_REVOKED},
};
enum { ALIKE_COUNT = sizeof ALIKE / sizeof *ALIKE };

static void id_of(char out[16], const char *type, unsigned number)
{
    snprintf(out, 16, "%s.%02u", type, number);
}

static struct secret_key key_of(unsigned user, unsigned number, bool trk)
{
    struct secret_key k;
    memset(k.b, (int)(number + (trk ? 100 : 0)), sizeof k.b);
    k.b[0] = (uint8_t)(user + 1);
    return k;
}

/* A store in memory: what import would let give way stays. The first InK of many is revoked, the last one active. */
static struct keystore *all_keys(void)
{
    static struct key_entry v[USER_COUNT * LIMIT_USER_KEYS];
    static char ids[USER_COUNT * LIMIT_USER_KEYS][16];
    size_t n = 0;
    for (unsigned u = 0; u < USER_COUNT; u++)
        for (unsigned i = 0; i < USERS[u].inks + USERS[u].trks; i++, n++) {
            const bool trk = i >= USERS[u].inks;
            const unsigned number = trk ? i - USERS[u].inks + 1 : i + 1, of = trk ? USERS[u].trks : USERS[u].inks;
            id_of(ids[n], trk ? "trk" : "ink", number);
            v[n] = (struct key_entry){str_z(USERS[u].uri), str_z(ids[n]), trk ? KEY_TRK : KEY_INK, KEY_RETIRING,
                                      TIME_NONE, key_of(u, number, trk)};
            if (number == of)
                v[n].state = KEY_ACTIVE;
            else if (number == 1)
                v[n].state = KEY_REVOKED;
        }
    return keystore_scratch(v, n);
}

static void sign(const struct alike *a, unsigned i, const char *time, struct buf *out)
{
    char device[32], id[16];
    struct secret_key key = key_of(USER_COUNT, 1, false);
    struct buf text BUF_CLEANUP = BUF_INIT(1u << 16);
    for (unsigned u = 0; u < USER_COUNT && !a->forged; u++)
        if (strcmp(USERS[u].uri, a->user) == 0)
            key = key_of(u, a->key, false);
    id_of(id, "ink", a->key);
    snprintf(device, sizeof device, "device-%06u", i);
    const struct kms_request r = {.id = STR("xmldoc"), .version = STR("1.1.0"), .user_uri = str_z(a->user),
                                  .kms_uri = STR("kms.example.org"), .time = str_z(time), .client_id = STR("bench"),
                                  .device_id = str_z(device), .client_req_url = STR("https://kms.example.org" RESOURCE),
                                  .signature_id = str_z(id)};
    kms_request_write(&r, &text);
    need(!text.failed && xmlsig_sign(buf_view(&text), str_z(id), &key, out), "xmlsig_sign");
}

static void judge(const struct gate *gate, const struct alike *a, struct str request, int64_t now, bool warming)
{
    const struct gate_head head = {.method = STR("POST"), .target = STR(RESOURCE),
                                   .content_type = STR("application/xml")};
    if (!warming)
        CALLGRIND_TOGGLE_COLLECT;
    struct judgement *j = judgement_new(gate, "0123456789abcdef0123456789abcdef");
    need(j && gate_head(j, &head) == REASON_OK, "gate_head");
    (void)!gate_request(j, request, now);
    const enum reason r = j->decision.reason;
    judgement_free(j);
    if (!warming)
        CALLGRIND_TOGGLE_COLLECT;
    if (r != a->want)
        fprintf(stderr, "alike: %s: %s\n", a->name, reason_name(r));
    need(r == a->want, a->name);
}

int main(int argc, char **argv)
{
    char text[TIME_TEXT], *base = strdup("https://kms.example.org");
    if (argc != 2 && argc != 4) {
        fputs("usage: alike FOLDER [NAME COUNT]\n", stderr);
        return 2;
    }
    const struct alike *a = NULL;
    for (size_t i = 0; i < ALIKE_COUNT; i++) {
        if (argc == 2)
            puts(ALIKE[i].name);
        else if (strcmp(ALIKE[i].name, argv[2]) == 0)
            a = &ALIKE[i];
    }
    if (argc == 2)
        return 0;
    need(a != NULL && xml_startup(), argv[2]);
    struct keystore *ks = all_keys();
    need(ks, "keystore_scratch");
    const struct strings public_url = {&base, 1};
    const int64_t now = time_now_us() / US_PER_S * US_PER_S;
    time_format(now, false, text);
    struct gate gate = {.public_url = &public_url, .rules = bench_rules(argv[1], BENCH_RULES), .keys = ks};
    gate.replay = replay_memory_new(1u << 20, now - 2 * US_PER_S,
                                    &(struct replay_settings){.past_us = gate.rules->max_past_us});
    const long count = strtol(argv[3], NULL, 10);
    struct buf request = BUF_INIT(1u << 16);
    for (long i = -8; i < count; i++) { /* the first ones warm up, and are not counted */
        buf_reset(&request);
        sign(a, (unsigned)(i + 8), text, &request);
        judge(&gate, a, buf_view(&request), now, i < 0);
    }
    buf_free(&request);
    return 0;
}
