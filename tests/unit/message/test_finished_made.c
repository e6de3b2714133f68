/*
 * Replies made at random, finished, and most of them changed before they are signed or after: what one pass proves, the
 * tree takes, too, and xmlsec1 verifies it; what nobody signed is never proven.
 *
 *     TESTED_MESSAGES=1000000 TESTED_SEED=7 message_test_finished_made      the long run
 */
#include "finishing.h"

#include <inttypes.h>

#include "made.h"

enum { MESSAGES = 20000 };

static uint64_t setting(const char *name, uint64_t usual)
{
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 10) : usual;
}

/* What is between `from` and `to` (where that is more) becomes `put`. */
static void splice(struct buf *text, size_t from, size_t to, struct str put)
{
    to = to > from ? to : from;
    struct buf out = BUF_INIT(REPLY_MAX);
    buf_bytes(&out, text->p, from);
    buf_str(&out, put);
    buf_bytes(&out, text->p + to, text->n - to);
    buf_free(text);
    *text = out;
}

/* A tag's `<`, at random, from there on the next that is (no) end tag. */
static size_t some_tag(struct dice *d, const struct buf *text, bool end)
{
    const size_t from = roll(d, (unsigned)text->n);
    for (size_t k = 0; k < text->n; k++) {
        const size_t i = (from + k) % text->n;
        if (text->p[i] == '<' && i + 1 < text->n && (text->p[i + 1] == '/') == end)
            return i;
    }
    return 0;
}

/* Where the element that begins there ends, most often. */
static size_t element_end(const struct buf *text, size_t at)
{
    char name[64];
    const size_t n = strcspn(text->p + at + 1, " >/");
    snprintf(name, sizeof name, "</%.*s>", (int)(n < 50 ? n : 50), text->p + at + 1);
    const char *end = strstr(text->p + at, name);
    return end ? (size_t)(end - text->p) + strlen(name) : text->n;
}

/* Changes that leave most of it well-formed: texts, elements and attributes come, go and move. */
static void change(struct dice *d, struct buf *text)
{
    static const char *const TEXTS[] = {"", "x", "a&amp;b", "&lt;", "1", "-7", "true", "\xC3\xA9", "]]&gt;", "\"'",
                                        "sip:bob@example.org", "2026-11-23T18:00:01Z", "&#xD;", "&gt;", " ", "+1",
                                        "99999999999999999999", "2026-11-23T18:00:01.5+01:00", "\xF0\x9F\x98\x80",
                                        "trk.1.alice"};
    static const char *const PIECES[] = {"<KmsId>k</KmsId>", "<Revoked>false</Revoked>", "<Issuer>i</Issuer>",
                                         "<CertUri>c</CertUri>", "<ValidFrom>2026-11-23T18:00:01Z</ValidFrom>", " ",
                                         "x", "<!-- -->", "<x:y xmlns:x=\"urn:x\"></x:y>", "<KmsMessage></KmsMessage>",
                                         "<KmsDomain>d</KmsDomain>", "<UserID></UserID>", "<UserUri/>"};
    static const char *const ATTRIBUTES[] = {" Id=\"a\"", " Id=\"xmldoc\"", " Version=\"1.0.0\"", " CacheNum=\"3\"",
                                             " IsSecurityGateway=\"true\"", " xmlns=\"" NS_KMS "\"", " Role=\"Root\"",
                                             " xsi:type=\"KeyContentType\"", " xmlns:x=\"urn:x\"", " x=\"&lt;\""};
    const size_t at = some_tag(d, text, false), end = element_end(text, at), tag_end = strcspn(text->p + at, ">") + at;
    const struct str whole = {text->p + at, end - at};
    const size_t name_end = at + 1 + strcspn(text->p + at + 1, " >"), there = some_tag(d, text, one_in(d, 2));
    struct buf moved = BUF_INIT(REPLY_MAX);
    switch (roll(d, 6)) {
    case 0:
        if (tag_end < text->n)
            splice(text, tag_end + 1, tag_end + 1 + strcspn(text->p + tag_end + 1, "<"), str_z(PICK(d, TEXTS)));
        break;
    case 1:
        splice(text, at, at > 0 ? end : 1, STR(""));
        break;
    case 2: /* twice, here or there */
        buf_str(&moved, whole);
        splice(text, one_in(d, 2) ? at : there, 0, buf_view(&moved));
        break;
    case 3:
        buf_str(&moved, whole);
        if (there < at)
            splice(text, at, end, STR(""));
        splice(text, there, 0, buf_view(&moved));
        break;
    case 4:
        splice(text, there, 0, str_z(PICK(d, PIECES)));
        break;
    default:
        if (tag_end < text->n)
            splice(text, one_in(d, 2) ? tag_end : name_end, 0, str_z(PICK(d, ATTRIBUTES)));
    }
    buf_free(&moved);
}

static bool one(struct dice *d, const struct buf *sample, bool is_signed)
{
    struct proof p;
    struct detail why = {""};
    struct buf payload = BUF_INIT(REPLY_MAX);
    buf_str(&payload, buf_view(sample));
    for (unsigned i = roll(d, 3); i > 0; i--)
        change(d, &payload);
    if (one_in(d, 8))
        made_mutate(d, &payload);
    finish(&payload, is_signed, one_in(d, 2), &p);
    const bool holds = finished_holds(buf_view(&p.text), &p.f);
    if (holds && !tree_holds(&p, &why))
        fail_msg("one pass proves what the tree refuses (%s): %s", why.text, p.text.p);
    struct buf other = BUF_INIT(REPLY_MAX);
    buf_str(&other, buf_view(&p.text));
    made_mutate(d, &other);
    if (!str_eq(buf_view(&other), buf_view(&p.text)) && finished_holds(buf_view(&other), &p.f))
        fail_msg("one pass proves what nobody signed: %s", other.p);
    buf_free(&other);
    buf_free(&p.text);
    buf_free(&payload);
    return holds;
}

static void test_made_replies(void **state)
{
    static const enum kms_message MESSAGE[] = {KMS_MESSAGE_KEYPROV, KMS_MESSAGE_INIT, KMS_MESSAGE_CERTCACHE,
                                               KMS_MESSAGE_ERROR, KMS_MESSAGE_NONE, KMS_MESSAGE_KEYPROV};
    static const int PROTECT[] = {PROTECT_KEYS, PROTECT_NONE, PROTECT_MESSAGE};
    const uint64_t messages = setting("TESTED_MESSAGES", MESSAGES), seed = setting("TESTED_SEED", 1);
    struct dice d = {.state = UINT64_C(0x9E3779B97F4A7C15) * (seed + 1)};
    struct buf samples[COUNT(MESSAGE) * COUNT(PROTECT) * 2];
    uint64_t proven = 0;
    (void)state;
    for (size_t i = 0; i < COUNT(samples); i++) {
        const struct sample of = {MESSAGE[i / 2 % COUNT(MESSAGE)], PROTECT[i / 2 / COUNT(MESSAGE)], KEY_WRAP_AUTO,
                                  i % 2 == 0};
        put_sample(&of, &samples[i]);
    }
    for (uint64_t i = 0; i < messages; i++) {
        const size_t which = roll(&d, COUNT(samples));
        proven += one(&d, &samples[which], which % 2 == 0);
    }
    print_message("%" PRIu64 " replies, %" PRIu64 " proven in one pass\n", messages, proven);
    assert_true(proven > messages / 5 && proven < messages - messages / 5); /* neither set is empty */
    for (size_t i = 0; i < COUNT(samples); i++)
        buf_free(&samples[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_made_replies)};
    unsetenv("TESTED_REPLY_WAY"); /* both ways are asked here, whatever the suite is told to take */
    return cmocka_run_group_tests(tests, start_libraries, stop_libraries);
}
