/*
 * What the worst reply of an upstream costs. Each aims at one thing that could be more than linear in the text: names
 * and namespaces that are long and stand around much, many small elements, what is kept, what is looked for.
 *
 *     worst                     a table: milliseconds of CPU for each, the best of five, of 1 MiB
 *     worst NAME OCTETS         that one once, of so many octets: under callgrind only gate_reply() is collected
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <valgrind/callgrind.h>

#include "base/limits.h"
#include "bench.h"
#include "gate/gate.h"
#include "keys/keystore.h"

#define KEYPROV "/keymanagement/identity/v1/keyprov"
#define ALICE "sip:alice@example.org"
enum { FULL = 1 << 20 };

/* head, then unit as often as there is room, then tail; {L} is a run of letters as long as an eighth of the reply, {N}
 * a number of its own. */
struct worst {
    const char *name, *root, *head, *unit, *tail;
    unsigned times; /* at most, of a full reply */
};
#define KEY_SET "<KmsKeySet" KEY_SET_REST
#define KEY_SET_REST                                                                               \
    "><KmsUri>k</KmsUri><UserUri>" ALICE "</UserUri><UserID>A</UserID><KeyPeriodNo>1</KeyPeriodNo>" \
    "{K}</KmsKeySet>"
static const struct worst WORST[] = {
    {"key-sets", "", "", KEY_SET, "", 20000},
    {"extensions", " xmlns:v='urn:{L}'", "", "<v:e/>", "", 19000},
    {"extensions-of-their-own", "", "", "<e xmlns='urn:{N}'/>", "", 19000},
    {"extensions-of-text", "", KEY_SET, "<e xmlns='urn:x'>abcdefghijklmnopqrstuvwxyz0123456789+/abc</e>", "",
     12000},
    {"one-long-extension", "", KEY_SET "<e xmlns='urn:x'>", "0123456789abcdef", "</e>", 65536},
    {"attributes-of-long-namespaces", " xmlns:v='urn:{L}a' xmlns:w='urn:{L}b'", "<e xmlns='urn:x'>",
     "<f v:a='1' w:b='2'/>", "</e>", 9990},
    {"many-attributes", " xmlns:v='urn:v'", "<e xmlns='urn:x'>",
     "<f v:a='0123456789abcdef0123456789abcdef01234567' v:b='0123456789abcdef0123456789abcdef01234567'/>",
     "</e>", 9990},
    {"foreign-attributes", " xmlns:v='urn:{L}'", "", "<KmsKeySet v:a='1'" KEY_SET_REST, "", 4000},
    {"language-around", " xml:lang='en'", "", "<e xmlns='urn:x'/>", "", 19000},
    {"deep", "", "<e xmlns='urn:x'>", "<a><a><a><a><a><a><a></a></a></a></a></a></a></a>", "</e>", 2800},
    {"comments", "", KEY_SET, "<!--c-->", "", 120000},
    {"white-space", "", KEY_SET, " \n", "", 520000},
};
static const char WORST_RULES[] =
    "version: 1\nkms: { uris: [kms.example.org] }\n"
    "requests: [{ id: all, why: bench, accept: [unsigned, empty], checks: { path_user: off } }]\n"
    "responses: [{ id: all, dialect: d, extensions: keep }]\n"
    "dialects: { d: { namespaces: [urn:d] } }\n";
enum { WORST_COUNT = sizeof WORST / sizeof WORST[0] };

static void put_hex(struct buf *b, const char *name, size_t octets, unsigned seed)
{
    buf_printf(b, "<%s>04", name);
    for (size_t i = 1; i < octets; i++) {
        seed = seed * 1664525u + 1013904223u;
        buf_printf(b, "%02X", seed >> 24);
    }
    buf_printf(b, "</%s>", name);
}

static void put(struct buf *b, const char *text, size_t size, unsigned number)
{
    for (const char *p = text; *p; p++) {
        if (strncmp(p, "{L}", 3) == 0) {
            for (size_t i = 0; i < size / 8; i++)
                buf_char(b, 'a');
            p += 2;
        } else if (strncmp(p, "{N}", 3) == 0) {
            buf_printf(b, "%u", number);
            p += 2;
        } else if (strncmp(p, "{K}", 3) == 0) {
            put_hex(b, "UserDecryptKey", 257, number);
            put_hex(b, "UserSigningKeySSK", 32, number + 1);
            put_hex(b, "UserPubTokenPVT", 65, number + 2);
            p += 2;
        } else {
            buf_char(b, *p);
        }
    }
}

static void make(const struct worst *w, size_t size, struct buf *b)
{
    const char *const end = "</KmsKeyProv></KmsMessage></KmsResponse>";
    buf_z(b, "<KmsResponse xmlns=\"" NS_KMS "\"");
    put(b, w->root, size, 0);
    buf_z(b, "><UserUri>" ALICE "</UserUri><KmsMessage><KmsKeyProv>");
    put(b, w->head, size, 0);
    const unsigned times = (unsigned)((uint64_t)w->times * size / FULL);
    for (unsigned i = 0; i < times; i++) {
        const size_t before = b->n;
        put(b, w->unit, size, 3 * i + 7);
        if (b->n + strlen(w->tail) + strlen(end) > size) {
            b->n = before;
            break;
        }
    }
    buf_z(b, w->tail);
    buf_z(b, end);
    need(!b->failed && b->n <= size + 4096, "make");
}

static double cpu_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static double run(const struct gate *gate, struct str text, enum reason *reason)
{
    static const char REQUEST[] = "<KmsRequest xmlns=\"" NS_KMS "\" Version=\"1.0.0\"><UserUri>" ALICE "</UserUri>"
                                  "<KmsUri>kms.example.org</KmsUri><Time>2026-11-23T18:00:00Z</Time>"
                                  "<ClientReqUrl>https://kms.example.org" KEYPROV "</ClientReqUrl></KmsRequest>";
    int64_t now;
    bool zone;
    struct gate_response out = {0};
    const struct gate_head head = {.method = STR("POST"), .target = STR(KEYPROV), .content_type = STR("text/xml")};
    need(time_parse(STR("2026-11-23T18:00:00Z"), &now, &zone), "time_parse");
    struct judgement *j = judgement_new(gate, "0123456789abcdef0123456789abcdef");
    need(j && gate_head(j, &head) == REASON_OK && gate_request(j, str_z(REQUEST), now) == GATE_FORWARD, "gate_request");
    const struct gate_upstream up = {200, text};
    const double began = cpu_ms();
    CALLGRIND_TOGGLE_COLLECT;
    *reason = gate_reply(j, &up, now, &out);
    CALLGRIND_TOGGLE_COLLECT;
    const double took = cpu_ms() - began;
    buf_free(&out.body);
    judgement_free(j);
    return took;
}

static void measure(const struct gate *gate, const struct worst *w, size_t size, int rounds)
{
    struct buf text BUF_CLEANUP = BUF_INIT(4 * FULL);
    enum reason reason = REASON_OK;
    double best = 1e9;
    make(w, size, &text);
    for (int i = 0; i < rounds; i++) {
        const double took = run(gate, buf_view(&text), &reason);
        best = took < best ? took : best;
    }
    printf("%8.2f ms %8zu octets  %-32s %s\n", best, text.n, w->name, reason_name(reason));
}

int main(int argc, char **argv)
{
    char *base = strdup("https://kms.example.org");
    const struct strings public_url = {&base, 1};
    struct key_entry key = {STR(ALICE), STR("trk.1"), KEY_TRK, KEY_ACTIVE, TIME_NONE, {{1, 2, 3}}};
    need(xml_startup(), "xml_startup");
    const struct gate gate = {.public_url = &public_url, .rules = bench_rules(".", WORST_RULES),
                              .keys = keystore_scratch(&key, 1)};
    need(gate.keys, "keystore_scratch");
    for (size_t i = 0; i < WORST_COUNT; i++) {
        if (argc == 3 && strcmp(argv[1], WORST[i].name) == 0)
            measure(&gate, WORST + i, strtoul(argv[2], NULL, 10), 1);
        else if (argc == 1)
            measure(&gate, WORST + i, FULL, 5);
    }
    return 0;
}
