/*
 * Canonical text: the way straight from the tree against libxml2's, for every element of every stored message and of
 * many made at random, as an apex, whole and without one of its parts.
 */
#include "fixture.h"

#include <dirent.h>

#include "message/xml_internal.h"

enum { ROOM = 1u << 20 };

static unsigned compared;

static void compare(const struct xml_subtree *part, struct str text)
{
    struct buf ours = BUF_INIT(ROOM), theirs = BUF_INIT(ROOM);
    buf_z(&ours, "kept");
    buf_z(&theirs, "kept");
    const bool good = xml_canonical(part, XML_C14N_INCLUSIVE, &ours);
    if (good != xml_canonical_by_library(part, XML_C14N_INCLUSIVE, &theirs) ||
        (good && !str_eq(buf_view(&ours), buf_view(&theirs))))
        fail_msg("of %.*s\nours:   %s\ntheirs: %s", STR_FMT(text), ours.p, theirs.p);
    compared++;
    buf_free(&ours);
    buf_free(&theirs);
}

static void each_part(struct str text, const struct xml_limits *limits)
{
    static const char *const NAMED[] = {"TrK-ID", "Signature-ID", NULL};
    struct xml_doc *doc;
    struct detail why;
    if (xml_parse(text, limits, &doc, &why) != REASON_OK)
        return;
    const xmlNode *top = xml_top(doc);
    for (const xmlNode *apex = top; apex; apex = xml_following(apex, top)) {
        compare(&(struct xml_subtree){.doc = doc, .apex = apex}, text);
        compare(&(struct xml_subtree){.doc = doc, .apex = apex, .omit_named = NAMED}, text);
        for (const xmlNode *omit = xml_child(apex); omit; omit = xml_next(omit))
            compare(&(struct xml_subtree){.doc = doc, .apex = apex, .omit = omit}, text);
        compare(&(struct xml_subtree){.doc = doc, .apex = apex, .omit = apex->parent}, text);
    }
    xml_free(doc);
}

static void each_file(const char *folder)
{
    char path[2048];
    snprintf(path, sizeof path, "%s/%s", TEST_ROOT, folder);
    DIR *d = opendir(path);
    assert_non_null(d);
    for (const struct dirent *e; (e = readdir(d));) {
        const size_t n = strlen(e->d_name);
        struct buf text;
        if (n < 4 || strcmp(e->d_name + n - 4, ".xml") != 0)
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        read_case(path, &text);
        each_part(buf_view(&text), &XML_LIMITS_REQUEST);
        each_part(buf_view(&text), &XML_LIMITS_PROTECTED);
        buf_free(&text);
    }
    closedir(d);
}

static void test_stored_messages(void **state)
{
    (void)state;
    compared = 0;
    each_file("cases/requests");
    each_file("cases/vectors");
    assert_true(compared > 5000);
}

static void test_by_example(void **state)
{
    static const struct {
        const char *text, *of_b; /* the canonical form of its second element */
    } CASES[] = {
        {"<a xmlns='urn:1' xmlns:p='urn:p'><b/></a>", "<b xmlns=\"urn:1\" xmlns:p=\"urn:p\"></b>"},
        {"<a xmlns='urn:1'><b xmlns=''><c xmlns='urn:1'/></b></a>", "<b><c xmlns=\"urn:1\"></c></b>"},
        {"<a xmlns='urn:1'><b><c xmlns=''/></b></a>", "<b xmlns=\"urn:1\"><c xmlns=\"\"></c></b>"},
        {"<a xmlns='urn:1'><b xmlns='urn:1'><c xmlns='urn:1'/></b></a>", "<b xmlns=\"urn:1\"><c></c></b>"},
        {"<a xmlns:p='urn:1'><b xmlns:p='urn:2'><c xmlns:p='urn:1'/></b></a>",
         "<b xmlns:p=\"urn:2\"><c xmlns:p=\"urn:1\"></c></b>"},
        {"<a><b z='1' a='2' p:c='3' q:b='4' xmlns:p='urn:b' xmlns:q='urn:a'/></a>",
         "<b xmlns:p=\"urn:b\" xmlns:q=\"urn:a\" a=\"2\" z=\"1\" q:b=\"4\" p:c=\"3\"></b>"},
        {"<a xml:lang='de' xml:space='preserve'><b xml:lang='en'/></a>",
         "<b xml:lang=\"en\" xml:space=\"preserve\"></b>"},
        {"<a><b t='&#9;&#10;&#13;&quot;&apos;&lt;&gt;&amp;'>&#9;&#10;&#13;\"'&lt;&gt;&amp;<![CDATA[<&]]></b></a>",
         "<b t=\"&#x9;&#xA;&#xD;&quot;'&lt;>&amp;\">\t\n&#xD;\"'&lt;&gt;&amp;&lt;&amp;</b>"},
        {"<a>\r\n<b\n>\r\n x\r</b\n>\r</a>", "<b>\n x\n</b>"},
        {"<p:a xmlns:p='urn:p'><p:b p:c=' x  y '/></p:a>", "<p:b xmlns:p=\"urn:p\" p:c=\" x  y \"></p:b>"},
        /* an ampersand in a namespace's URI is escaped as in any attribute, and is one character when read */
        {"<a xmlns:p='urn:p?x=1&amp;y=2'><p:b/></a>", "<p:b xmlns:p=\"urn:p?x=1&amp;y=2\"></p:b>"},
        {"<a xmlns='urn:a?b&#38;amp;c'><b><c xmlns='urn:a?b&#x26;amp;c'/></b></a>",
         "<b xmlns=\"urn:a?b&amp;amp;c\"><c></c></b>"},
        {"<a xmlns:p='urn:a&amp;' xmlns:q='urn:a'><b p:z='1' q:z='2' xmlns:r='urn:a&amp;b' r:a='3' a='&amp;'/></a>",
         "<b xmlns:p=\"urn:a&amp;\" xmlns:q=\"urn:a\" xmlns:r=\"urn:a&amp;b\""
         " a=\"&amp;\" q:z=\"2\" p:z=\"1\" r:a=\"3\"></b>"},
        {"<a><b xmlns:xml='http://www.w3.org/XML/1998/namespace' xml:id='x'/></a>", "<b xml:id=\"x\"></b>"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct xml_doc *doc;
        struct detail why;
        struct buf out = BUF_INIT(ROOM);
        assert_int_equal(xml_parse(str_z(CASES[i].text), &XML_LIMITS_REQUEST, &doc, &why), REASON_OK);
        const struct xml_subtree b = {.doc = doc, .apex = xml_child(xml_top(doc))};
        assert_true(xml_canonical(&b, XML_C14N_INCLUSIVE, &out));
        assert_string_equal(out.p, CASES[i].of_b);
        buf_free(&out);
        xml_free(doc);
        each_part(str_z(CASES[i].text), &XML_LIMITS_REQUEST);
    }
}

static uint32_t dice(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

static const char *pick(uint32_t *seed, const char *const *of, size_t n)
{
    return of[dice(seed) % n];
}
#define PICK(seed, of) pick(seed, of, sizeof of / sizeof *of)

static void random_element(uint32_t *seed, unsigned depth, struct buf *b)
{
    static const char *const NAMES[] = {"a", "b", "p:a", "q:b", "p:TrK-ID", "Signature-ID", "c"};
    static const char *const DECLARED[] = {" xmlns='urn:1'", " xmlns='urn:2'", " xmlns=''", " xmlns:p='urn:1'",
        " xmlns:p='urn:2'", " xmlns:q='urn:3'", " xmlns:q='urn:1'", " xmlns:p='urn:3:mcsecKMSInterface'",
        " xmlns='urn:1?a&amp;b'",
        " xmlns:p='urn:1?a&#38;b&amp;amp;'", " xmlns:q='urn:1?a'", " xmlns:q='urn:1?a&amp;amp;b'", "", ""};
    static const char *const ATTRIBUTES[] = {" z='1'", " a='&#10;&amp;\"'", " p:a='2'", " q:a='3'", "",
        " xml:lang='de'", " Id='x'", " p:z='&#xE4;'", " q:Id='&lt;'", "", "", ""};
    static const char *const TEXTS[] = {"", "x", " \n", "&amp;&lt;&gt;", "&#13;", "<![CDATA[]]>", "<![CDATA[<&>]]>",
        "\xc3\xa4", "\"'", "]]&gt;"};
    const char *name = PICK(seed, NAMES), *text = PICK(seed, TEXTS);
    buf_printf(b, "<%s%s%s%s", name, PICK(seed, DECLARED), PICK(seed, ATTRIBUTES), PICK(seed, ATTRIBUTES));
    buf_printf(b, ">%s", text);
    for (unsigned i = 0, n = depth ? dice(seed) % 4 : 0; i < n; i++) {
        random_element(seed, depth - 1, b);
        text = PICK(seed, TEXTS);
        buf_z(b, text);
    }
    buf_printf(b, "</%s>", name);
}

static void test_random_documents(void **state)
{
    (void)state;
    uint32_t seed = 11;
    compared = 0;
    for (unsigned round = 0; round < 6000; round++) {
        struct buf b = BUF_INIT(ROOM);
        buf_z(&b, "<r xmlns:p='urn:p' xmlns:q='urn:q'>");
        random_element(&seed, 1 + dice(&seed) % 3, &b);
        buf_z(&b, "</r>");
        each_part(buf_view(&b), &XML_LIMITS_REQUEST);
        buf_free(&b);
    }
    assert_true(compared > 20000);
}

/* The ceiling is one for both ways: what passes it is no canonical text. */
static void test_ceiling(void **state)
{
    struct xml_doc *doc;
    struct detail why;
    (void)state;
    assert_int_equal(xml_parse(STR("<a><b/></a>"), &XML_LIMITS_REQUEST, &doc, &why), REASON_OK);
    const struct xml_subtree whole = {.doc = doc, .apex = xml_top(doc)};
    for (size_t max = 0; max < 20; max++) {
        struct buf out = BUF_INIT(max);
        assert_int_equal(xml_canonical(&whole, XML_C14N_INCLUSIVE, &out), max >= strlen("<a><b></b></a>"));
        buf_free(&out);
    }
    xml_free(doc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_by_example), cmocka_unit_test(test_stored_messages),
                                       cmocka_unit_test(test_random_documents), cmocka_unit_test(test_ceiling)};
    return cmocka_run_group_tests(tests, start_libraries, stop_libraries);
}
