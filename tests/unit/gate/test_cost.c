/*
 * What the worst body of 64 KiB costs: judging it takes at most five milliseconds of one core, whoever sends it. Each
 * body is as long as bodies may be and aims at one thing that could be more than linear.
 */
#include "judging.h"

#include <time.h>

enum { BODY = 64 * 1024 };
/* Sanitizers, valgrind and builds without optimization are slower, and say nothing of the program that is deployed. */
#if defined(__OPTIMIZE__) && !defined(KMSGATE_TRACED) && !defined(__SANITIZE_THREAD__)
#define LIMIT_MS 5.0
#else
#define LIMIT_MS 100.0
#endif

static const char SIGNATURE[] =
    "<Signature xmlns=\"http://www.w3.org/2000/09/xmldsig#\"><SignedInfo><CanonicalizationMethod "
    "Algorithm=\"http://www.w3.org/TR/2001/REC-xml-c14n-20010315\"/><SignatureMethod "
    "Algorithm=\"http://www.w3.org/2001/04/xmldsig-more#hmac-sha256\"/><Reference URI=\"#xmldoc\"><DigestMethod "
    "Algorithm=\"http://www.w3.org/2001/04/xmlenc#sha256\"/><DigestValue>AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
    "</DigestValue></Reference></SignedInfo><SignatureValue>AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
    "</SignatureValue><KeyInfo><KeyName>ink.1</KeyName></KeyInfo></Signature></SignedKmsRequest>";

/* head, then unit as often as there is room (at most `times`), then tail; in the DeviceId or as an extension. */
struct hostile {
    const char *what, *envelope, *head, *unit, *tail;
    bool extension;
    unsigned times;
};
#define DEEP "<x:B><x:B><x:B><x:B><x:B><x:B><x:B><x:B><x:B><x:B><x:B><x:B>"
#define DEEP_END "</x:B></x:B></x:B></x:B></x:B></x:B></x:B></x:B></x:B></x:B></x:B></x:B>"
#define EXT "<x:A xmlns:x=\"urn:x\">"
#define DECLARE(a) " xmlns:" a "=\"urn:" a "\""
#define PREFIXES                                                                                           \
    DECLARE("a") DECLARE("b") DECLARE("c") DECLARE("d") DECLARE("e") DECLARE("f") DECLARE("g") DECLARE("h") \
    DECLARE("i") DECLARE("j") DECLARE("k") DECLARE("l")
#define EIGHT(a, b, c, d, e, f, g, h, v)                                                                 \
    " " a "='" v "' " b "='" v "' " c "='" v "' " d "='" v "' " e "='" v "' " f "='" v "' " g "='" v "' " \
    h "='" v "'"
#define SIXTEEN(v)                                  \
    EIGHT("a", "b", "c", "d", "e", "f", "g", "h", v) \
    EIGHT("i", "j", "k", "l", "m", "n", "o", "p", v)
static const struct hostile HOSTILE[] = {
    {"a long text", "", "", "d", "", false, BODY},
    {"character references", "", "", "&#97;", "", false, BODY},
    {"entities", "", "", "&amp;", "", false, BODY},
    {"empty CDATA", "", "", "<![CDATA[]]>", "", false, BODY},
    {"brackets", "", "", "]", "", false, BODY},
    {"carriage returns", "", "", "\r", "", false, BODY},
    {"two octets", "", "", "\xC3\xA9", "", false, BODY},
    {"four octets", "", "", "\xF0\x9F\x98\x80", "", false, BODY},
    {"white space between", "", EXT "</x:A>", " ", "", true, BODY},
    {"namespaces over many elements", PREFIXES, EXT DEEP, "<x:B/>", DEEP_END "</x:A>", true, 200},
    {"namespaces in attributes", PREFIXES, EXT DEEP,
     "<x:B a:z='1' b:z='1' c:z='1' d:z='1' e:z='1' f:z='1' g:z='1' h:z='1' i:z='1' j:z='1' k:z='1' l:z='1'/>",
     DEEP_END "</x:A>", true, 200},
    {"attributes", "", EXT, "<x:B" SIXTEEN("vvvvvvvv") "/>", "</x:A>", true, 220},
    {"attributes of quotes", "", EXT, "<x:B" SIXTEEN("&quot;&#9;") "/>", "</x:A>", true, 220},
    {"a long attribute", "", EXT "<x:B a='", "&#9;", "'/></x:A>", true, BODY},
    {"a long namespace", "", "<x:A xmlns:x='urn:", "a", "'/>", true, BODY},
    {"a long name", "", "<x", "a", " xmlns='urn:x'/>", true, 49000},
    {"many Ids", "", EXT, "<x:B Id='xmldoc-xmldoc-xmldoc-xmldoc'/>", "</x:A>", true, 220},
    {"too many elements", "", EXT, "<x:B/>", "</x:A>", true, BODY},
    {"never closed", "", "", "<a>", "", true, BODY},
    {"too many attributes", "", EXT "<x:B ", "a='' ", "/></x:A>", true, BODY},
    {"too many namespaces", "", EXT "<x:B ", " xmlns:a=''", "/></x:A>", true, BODY},
};

static void write_hostile(const struct hostile *h, struct buf *out)
{
    char time[TIME_TEXT];
    time_format(NOW, true, time);
    buf_printf(out,
               "<SignedKmsRequest xmlns=\"" NS_KMS "\"%s><KmsRequest Id=\"xmldoc\" Version=\"1.1.0\"><UserUri>" ALICE
               "</UserUri><KmsUri>kms.example.org</KmsUri><Time>%s</Time><ClientId>c</ClientId><DeviceId>",
               h->envelope, time);
    const char *const rest = "</DeviceId><ClientReqUrl>" BASE V1 "/keyprov</ClientReqUrl><Signature-ID>ink.1"
                             "</Signature-ID>";
    if (h->extension)
        buf_printf(out, "d%s", rest);
    buf_z(out, h->head);
    const size_t end = strlen(h->tail) + strlen(rest) + sizeof SIGNATURE + 32, step = strlen(h->unit);
    for (unsigned i = 0; i < h->times && out->n + step + end <= BODY; i++)
        buf_z(out, h->unit);
    buf_printf(out, "%s%s</KmsRequest>%s", h->tail, h->extension ? "" : rest, SIGNATURE);
    assert_false(out->failed);
    assert_true(out->n <= BODY);
}

static double thread_ms(void)
{
    struct timespec t;
    assert_int_equal(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t), 0);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void test_worst_bodies(void **state)
{
    struct world *w = *state;
    for (size_t i = 0; i < sizeof HOSTILE / sizeof *HOSTILE; i++) {
        const struct ask a = ask_of(w);
        struct buf body BUF_CLEANUP = BUF_INIT(2 * BODY);
        double best = 1e9;
        write_hostile(&HOSTILE[i], &body);
        for (int n = 0; n < 5; n++) { /* the fastest: what else runs here is not the gate's */
            const double began = thread_ms();
            const enum reason r = judge_text(w, &a, buf_view(&body));
            const double took = thread_ms() - began;
            assert_int_not_equal(r, REASON_OK);
            assert_int_not_equal(r, REASON_INTERNAL);
            best = took < best ? took : best;
        }
        if (best > LIMIT_MS)
            fail_msg("%s: %.2f ms for %s", HOSTILE[i].what, best, reason_name(w->j->decision.reason));
        if (getenv("KMSGATE_MEASURE"))
            print_message("%8.3f ms %6zu octets, %s: %s\n", best, body.n, HOSTILE[i].what,
                          reason_name(w->j->decision.reason));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup(test_worst_bodies, fresh)};
    xml_startup();
    const int failed = cmocka_run_group_tests(tests, world_begin, world_end);
    xml_shutdown();
    return failed;
}
