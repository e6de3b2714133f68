/* Parsing: caps at the limit and one beyond, encodings, replies, what the tree holds, canonical text. */
#include "fixture.h"

#include "base/limits.h"
#include "message/xml_internal.h"

enum { ROOM = 4u << 20 };

static enum reason parse(struct str text, const struct xml_limits *limits)
{
    struct xml_doc *doc = (struct xml_doc *)1;
    struct detail why = {""};
    const enum reason r = xml_parse(text, limits, &doc, &why);
    assert_true((r == REASON_OK) == (doc != NULL));
    assert_true(r == REASON_OK || why.text[0]);
    xml_free(doc);
    return r;
}

static enum reason parse_z(const char *text)
{
    return parse(str_z(text), &XML_LIMITS_REQUEST);
}

static void repeat(struct buf *b, const char *unit, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        buf_z(b, unit);
}

static enum reason parse_buf(struct buf *b, const struct xml_limits *limits)
{
    assert_false(b->failed);
    const enum reason r = parse(buf_view(b), limits);
    buf_free(b);
    return r;
}

static enum reason with_depth(unsigned n, const struct xml_limits *limits)
{
    struct buf b = BUF_INIT(ROOM);
    repeat(&b, "<a>", n);
    repeat(&b, "</a>", n);
    return parse_buf(&b, limits);
}

static enum reason with_elements(unsigned n, const struct xml_limits *limits)
{
    struct buf b = BUF_INIT(ROOM);
    buf_z(&b, "<a>");
    repeat(&b, "<b/>", n - 1);
    buf_z(&b, "</a>");
    return parse_buf(&b, limits);
}

static enum reason with_attributes(unsigned n, unsigned declarations, const struct xml_limits *limits)
{
    struct buf b = BUF_INIT(ROOM);
    buf_z(&b, "<a");
    for (unsigned i = 0; i < n; i++)
        buf_printf(&b, " a%u=''", i);
    for (unsigned i = 0; i < declarations; i++)
        buf_printf(&b, " xmlns:n%u='urn:%u'", i, i);
    buf_z(&b, "/>");
    return parse_buf(&b, limits);
}

static enum reason with_namespaces(unsigned n, const struct xml_limits *limits)
{
    struct buf b = BUF_INIT(ROOM);
    buf_z(&b, "<a>");
    repeat(&b, "<b xmlns='urn:b'/>", n);
    buf_z(&b, "</a>");
    return parse_buf(&b, limits);
}

/* n siblings of as many declarations each, below an element that has some, too. */
static enum reason with_scopes(unsigned n, unsigned outer, unsigned inner, const struct xml_limits *limits)
{
    struct buf b = BUF_INIT(ROOM);
    buf_z(&b, "<a");
    for (unsigned i = 0; i < outer; i++)
        buf_printf(&b, " xmlns:o%u='urn:%u'", i, i);
    buf_z(&b, ">");
    for (unsigned k = 0; k < n; k++) {
        buf_z(&b, "<b");
        for (unsigned i = 0; i < inner; i++)
            buf_printf(&b, " xmlns:i%u='urn:%u'", i, i);
        buf_z(&b, k % 2 ? "/>" : "></b>");
    }
    buf_z(&b, "</a>");
    return parse_buf(&b, limits);
}

static void test_caps(void **state)
{
    const struct xml_limits *const both[] = {&XML_LIMITS_REQUEST, &XML_LIMITS_REPLY};
    (void)state;
    assert_int_equal(XML_LIMITS_REQUEST.depth, 16);
    assert_int_equal(XML_LIMITS_REQUEST.elements, 256);
    assert_int_equal(XML_LIMITS_REPLY.depth, 32);
    assert_int_equal(XML_LIMITS_REPLY.elements, 20000);
    for (size_t i = 0; i < 2; i++) {
        const struct xml_limits *l = both[i];
        assert_int_equal(l->attributes, 16);
        assert_int_equal(l->in_scope, 16);
        assert_int_equal(with_depth(l->depth, l), REASON_OK);
        assert_int_equal(with_depth(l->depth + 1, l), REASON_XML_FORBIDDEN);
        assert_int_equal(with_elements(l->elements, l), REASON_OK);
        assert_int_equal(with_elements(l->elements + 1, l), REASON_XML_FORBIDDEN);
        assert_int_equal(with_attributes(l->attributes, 0, l), REASON_OK);
        assert_int_equal(with_attributes(l->attributes + 1, 0, l), REASON_XML_FORBIDDEN);
        assert_int_equal(with_attributes(l->attributes, l->in_scope, l), REASON_OK);
        assert_int_equal(with_attributes(l->attributes, l->in_scope + 1, l), REASON_XML_FORBIDDEN);
    }
    assert_int_equal(XML_LIMITS_REPLY.declarations, 20000);
    for (unsigned of = 1; of <= 19; of += 9) { /* as many in all as a reply may have, few in scope */
        assert_int_equal(with_scopes(19000 / of, 10 / of, of < 10 ? of : 1, &XML_LIMITS_REPLY), REASON_OK);
    }
    assert_int_equal(with_scopes(5, 8, 8, &XML_LIMITS_REPLY), REASON_OK);
    assert_int_equal(with_scopes(1, 8, 9, &XML_LIMITS_REPLY), REASON_XML_FORBIDDEN);
    assert_int_equal(with_scopes(1999, 10, 10, &XML_LIMITS_PROTECTED), REASON_OK);
    assert_int_equal(with_scopes(1334, 1, 15, &XML_LIMITS_REPLY), REASON_XML_FORBIDDEN); /* 20,011 in all */
    assert_int_equal(with_scopes(1333, 1, 15, &XML_LIMITS_REPLY), REASON_OK);
    assert_int_equal(with_namespaces(XML_LIMITS_REQUEST.declarations, &XML_LIMITS_REQUEST), REASON_OK);
    assert_int_equal(with_namespaces(XML_LIMITS_REQUEST.declarations + 1, &XML_LIMITS_REQUEST), REASON_XML_FORBIDDEN);
    assert_int_equal(with_namespaces(1000, &XML_LIMITS_PROTECTED), REASON_OK);
}

/* The scan's view of a document is libxml2's: a scan that could be led astray would let a bomb through. */
static void test_scan_is_not_led_astray(void **state)
{
    static const char *const hiding[] = {"<a b='<'>",         "<a b=\"'\" c='>'>",
                                         "<![CDATA[<a>]]>",   "<![CDATA[]]]]><![CDATA[>]]>",
                                         "<a b='&lt;a&gt;'>", "<a b=']]&gt;'>"};
    (void)state;
    for (size_t i = 0; i < sizeof hiding / sizeof hiding[0]; i++) {
        struct buf b = BUF_INIT(ROOM);
        buf_z(&b, "<r>");
        buf_z(&b, hiding[i]);
        buf_z(&b, hiding[i][1] == 'a' ? "</a>" : "");
        const size_t before = b.n;
        buf_z(&b, "</r>");
        assert_int_equal(parse(buf_view(&b), &XML_LIMITS_REQUEST), i == 0 ? REASON_XML_MALFORMED : REASON_OK);
        b.n = before;
        repeat(&b, "<b/>", 300);
        buf_z(&b, "</r>");
        assert_int_equal(parse_buf(&b, &XML_LIMITS_REQUEST), i == 0 ? REASON_XML_MALFORMED : REASON_XML_FORBIDDEN);
    }
}

static void test_text_encodings(void **state)
{
    (void)state;
    assert_int_equal(parse_z("<a>\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80</a>"), REASON_OK);
    assert_int_equal(parse_z("\xEF\xBB\xBF<a/>"), REASON_OK);
    assert_int_equal(parse_z("\xEF\xBB\xBF\xEF\xBB\xBF<a/>"), REASON_XML_MALFORMED);
    assert_int_equal(parse_z("<a/>\xEF\xBB\xBF"), REASON_XML_MALFORMED);
    assert_int_equal(parse_z("<a>\xE9</a>"), REASON_XML_MALFORMED);
    assert_int_equal(parse_z("<a>\xF4\x90\x80\x80</a>"), REASON_XML_MALFORMED);
    assert_int_equal(parse_z("<a>\xEF\xBF\xBE</a>"), REASON_XML_MALFORMED);
    assert_int_equal(parse_z("<a>\xEF\xBF\xBD</a>"), REASON_OK);
    assert_int_equal(parse(STR("<a>\0</a>"), &XML_LIMITS_REQUEST), REASON_XML_MALFORMED);
    assert_int_equal(parse(STR("<\0a\0/\0>\0"), &XML_LIMITS_REQUEST), REASON_XML_FORBIDDEN);
    assert_int_equal(parse(STR("\xFF\xFE<\0a\0/\0>\0"), &XML_LIMITS_REQUEST), REASON_XML_FORBIDDEN);
    assert_int_equal(parse(STR_MISSING, &XML_LIMITS_REQUEST), REASON_XML_MALFORMED);
    assert_int_equal(parse_z(""), REASON_XML_MALFORMED);
    assert_int_equal(parse_z("<?xml version='1.0' encoding='Utf-8'?><a/>"), REASON_OK);
    assert_int_equal(parse_z("<?xml version='1.0' encoding='UTF-16'?><a/>"), REASON_XML_FORBIDDEN);
    assert_int_equal(parse_z("<?xml version='1.1'?><a/>"), REASON_XML_FORBIDDEN);
    assert_int_equal(parse_z("<?xml version='1.0' standalone='yes'?><a/>"), REASON_OK);
    assert_int_equal(parse_z("<?xml version='1.0' standalone='maybe'?><a/>"), REASON_XML_MALFORMED);
    assert_int_equal(parse_z("<?xml encoding='UTF-8'?><a/>"), REASON_XML_MALFORMED);
    assert_int_equal(parse_z("<?xml version='1.0'encoding='UTF-8'?><a/>"), REASON_XML_MALFORMED);
}

static void test_character_references(void **state)
{
    static const char *const good[] = {"&#9;", "&#x20;", "&#xD7FF;", "&#xE000;", "&#xfffd;", "&#x10FFFF;", "&#0065;"};
    static const char *const bad[] = {"&#0;",  "&#x1F;", "&#xD800;", "&#xFFFE;", "&#x110000;",
                                      "&#;",   "&#x;",   "&#65",     "&#6 5;",   "&#99999999999999999999;",
                                      "&#xG;", "&#-1;",  "&",        "&a",       "&nbsp;",
                                      "&LT;",  "& lt;"};
    (void)state;
    for (int in_attribute = 0; in_attribute < 2; in_attribute++) {
        char text[128];
        for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
            snprintf(text, sizeof text, in_attribute ? "<a b='%s'/>" : "<a>%s</a>", good[i]);
            assert_int_equal(parse_z(text), REASON_OK);
        }
        for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
            snprintf(text, sizeof text, in_attribute ? "<a b='%s'/>" : "<a>%s</a>", bad[i]);
            assert_int_equal(parse_z(text), REASON_XML_MALFORMED);
        }
    }
}

static void test_malformed(void **state)
{
    static const char *const bad[] = {"<",
                                      "<a",
                                      "<a ",
                                      "<a b",
                                      "<a b=",
                                      "<a b=c/>",
                                      "<a b='",
                                      "<a b='c'd='e'/>",
                                      "<a b='c' b='d'/>",
                                      "<a/",
                                      "<a/ >",
                                      "< a/>",
                                      "</a>",
                                      "<a></b>",
                                      "<a></a",
                                      "<a></a><",
                                      "<a/><b/>",
                                      "<a/>x",
                                      "x<a/>",
                                      "<a>]]></a>",
                                      "<1/>",
                                      "<a 1='x'/>",
                                      "<a:/>",
                                      "<:a/>",
                                      "<a:b:c/>",
                                      "<p:a/>",
                                      "<a p:b='c'/>",
                                      "<!ELEMENT a ANY><a/>",
                                      "<![CDATA[x]]><a/>",
                                      "<a><![cdata[x]]></a>",
                                      "<a><![CDATA[x]]</a>",
                                      "<a><!x></a>",
                                      "<a xmlns:p=''/>",
                                      "<a xmlns:xmlns='urn:x'/>",
                                      "&lt;<a/>",
                                      "<a>\x01</a>",
                                      "<a\xC3\x97/>",
                                      "<!doctype a><a/>"};
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        if (parse_z(bad[i]) != REASON_XML_MALFORMED)
            fail_msg("%s", bad[i]);
    }
    assert_int_equal(parse_z("<a b = 'c'\n></a >"), REASON_OK);
    assert_int_equal(parse_z(" \n<a_-.1\xC3\xA9/>\r\n"), REASON_OK);
    assert_int_equal(parse_z("<p:a xmlns:p='urn:p' p:b='>' c=\"'\" d='\"'>&lt;]]&gt;</p:a>"), REASON_OK);
}

static void test_namespaces(void **state)
{
    static const char *const relative[] = {"TOBEDEFINED", "a/b", "/a", "//a", "#a", "?a", "../a", "."};
    (void)state;
    for (size_t i = 0; i < sizeof relative / sizeof relative[0]; i++) {
        char text[128];
        snprintf(text, sizeof text, "<a xmlns='%s'/>", relative[i]);
        assert_int_equal(parse_z(text), REASON_XML_FORBIDDEN);
        assert_int_equal(parse(str_z(text), &XML_LIMITS_REPLY), REASON_XML_FORBIDDEN);
        snprintf(text, sizeof text, "<a><b xmlns:c='%s'/></a>", relative[i]);
        assert_int_equal(parse_z(text), REASON_XML_FORBIDDEN);
    }
    assert_int_equal(parse_z("<a xmlns='urn:a'><b xmlns=''/></a>"), REASON_OK);
    assert_int_equal(parse_z("<a xmlns='http://example.org/a?b#c'/>"), REASON_OK);
    assert_int_equal(parse_z("<a xmlns='a+b-c.1:d'/>"), REASON_OK);
    assert_int_equal(parse_z("<a xmlns='1urn:a'/>"), REASON_XML_MALFORMED); /* no URI at all */
    assert_int_equal(parse_z("<a xmlns='urn:a b'/>"), REASON_XML_MALFORMED);
}

static void test_doctype_and_instructions(void **state)
{
    static const char *const forbidden[] = {"<!DOCTYPE a><a/>",
                                            "<?a?><a/>",
                                            "<a><?a b?></a>",
                                            "<a/><?a?>",
                                            "<a><!----></a>",
                                            "<!-- --><a/>",
                                            "<a/><!-- -->",
                                            " <?xml version='1.0'?><a/>",
                                            "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
                                            "<a><!DOCTYPE b></a>"};
    (void)state;
    for (size_t i = 0; i < sizeof forbidden / sizeof forbidden[0]; i++)
        assert_int_equal(parse_z(forbidden[i]), REASON_XML_FORBIDDEN);
    for (size_t i = 0; i < sizeof forbidden / sizeof forbidden[0]; i++) {
        const struct str text = str_z(forbidden[i]);
        const bool doctype = strstr(forbidden[i], "DOCTYPE") != NULL, late = text.p[0] == ' ';
        assert_int_equal(parse(text, &XML_LIMITS_REPLY),
                         doctype ? REASON_XML_FORBIDDEN : late ? REASON_XML_MALFORMED : REASON_OK);
    }
    assert_int_equal(parse(STR("<a><!-- - --b --></a>"), &XML_LIMITS_REPLY), REASON_XML_MALFORMED);
    assert_int_equal(parse(STR("<a><!-- </a>"), &XML_LIMITS_REPLY), REASON_XML_MALFORMED);
    assert_int_equal(parse(STR("<a><?b </a>"), &XML_LIMITS_REPLY), REASON_XML_MALFORMED);
    assert_int_equal(parse(STR("<a><?xml b?></a>"), &XML_LIMITS_REPLY), REASON_XML_MALFORMED);
}

static struct xml_doc *tree(const char *text, const struct xml_limits *limits)
{
    struct xml_doc *doc;
    struct detail why = {""};
    if (xml_parse(str_z(text), limits, &doc, &why) != REASON_OK)
        fail_msg("%s: %s", text, why.text);
    return doc;
}

static void test_values(void **state)
{
    (void)state;
    struct xml_doc *doc =
        tree("<a xmlns='urn:a' xmlns:p='urn:p' b='x&amp;y&#65;' c='' p:b='z'><d>1<![CDATA[<&]]>2&lt;&#x41;</d>"
             "<e/> <f>x<g/></f>\n</a>",
             &XML_LIMITS_REQUEST);
    const xmlNode *a = xml_top(doc), *d = xml_child(a), *e = xml_next(d), *f = xml_next(e);
    assert_true(str_eq(xml_attr(a, NULL, "b"), STR("x&yA")));
    assert_true(str_eq(xml_attr(a, "urn:p", "b"), STR("z")));
    assert_true(str_eq(xml_attr(a, NULL, "c"), STR("")));
    assert_null(xml_attr(a, NULL, "d").p);
    assert_null(xml_attr(a, "urn:q", "b").p);
    assert_true(str_eq(xml_text(d), STR("1<&2<A")));
    assert_true(str_eq(xml_text(e), STR("")));
    assert_null(xml_text(f).p);
    assert_null(xml_text(NULL).p);
    assert_true(xml_blank(a));
    assert_false(xml_blank(f));
    assert_true(xml_is(d, "urn:a", "d") && !xml_is(d, "urn:a", "D") && !xml_is(d, "", "d") && !xml_is(NULL, "", "d"));
    assert_true(str_eq(xml_namespace(d), STR("urn:a")));
    unsigned n = 0;
    for (const xmlNode *x = a; x; x = xml_following(x, a))
        n++;
    assert_int_equal(n, 5);
    assert_null(xml_following(xml_child(f), f));
    xml_free(doc);
}

/* In replies comments and instructions are as if they had never been there. */
static void test_dropped_comments(void **state)
{
    (void)state;
    struct xml_doc *doc = tree("<?p?><a>1<!-- x -->2<?y?>3<!---->4</a><!-- z -->", &XML_LIMITS_REPLY);
    assert_true(str_eq(xml_text(xml_top(doc)), STR("1234")));
    xml_free(doc);
}

static void canonical(const char *text, const char *expected)
{
    struct xml_doc *doc = tree(text, &XML_LIMITS_REQUEST);
    struct buf out = BUF_INIT(ROOM);
    const struct xml_subtree whole = {.doc = doc, .apex = xml_top(doc)};
    assert_true(xml_canonical(&whole, XML_C14N_INCLUSIVE, &out));
    assert_string_equal(out.p, expected);
    buf_free(&out);
    xml_free(doc);
}

static void test_canonical(void **state)
{
    (void)state;
    canonical("<a  z='1' b='2'/>", "<a b=\"2\" z=\"1\"></a>");
    canonical("<a xmlns:z='urn:z' xmlns='urn:a' xmlns:b='urn:b' z:q='1' b:q='2' q='3'/>",
              "<a xmlns=\"urn:a\" xmlns:b=\"urn:b\" xmlns:z=\"urn:z\" q=\"3\" b:q=\"2\" z:q=\"1\"></a>");
    canonical("<a b='&#9;&#10;&#13;&quot;&lt;>&amp;'>&#13;&gt;\"\t</a>",
              "<a b=\"&#x9;&#xA;&#xD;&quot;&lt;>&amp;\">&#xD;&gt;\"\t</a>");
    canonical("\xEF\xBB\xBF<a>\r\n\xC3\xA9&#xE9;<![CDATA[<]]></a>\n", "<a>\n\xC3\xA9\xC3\xA9&lt;</a>");
}

static void test_canonical_parts(void **state)
{
    (void)state;
    struct xml_doc *doc =
        tree("<a xmlns='" NS_KMS "' xmlns:p='urn:p'><b><c>1</c><d>2</d><x:c xmlns:x='urn:x'/></b><e/></a>",
             &XML_LIMITS_REQUEST);
    const xmlNode *a = xml_top(doc), *b = xml_child(a);
    struct buf out = BUF_INIT(ROOM);
    assert_true(xml_canonical(&(struct xml_subtree){.doc = doc, .apex = b}, XML_C14N_INCLUSIVE, &out));
    assert_string_equal(out.p,
                        "<b xmlns=\"" NS_KMS "\" xmlns:p=\"urn:p\"><c>1</c><d>2</d><x:c xmlns:x=\"urn:x\"></x:c></b>");
    buf_reset(&out);
    assert_true(xml_canonical(&(struct xml_subtree){.doc = doc, .apex = b}, XML_C14N_EXCLUSIVE, &out));
    assert_string_equal(out.p, "<b xmlns=\"" NS_KMS "\"><c>1</c><d>2</d><x:c xmlns:x=\"urn:x\"></x:c></b>");
    buf_reset(&out);
    assert_true(xml_canonical(&(struct xml_subtree){.doc = doc, .apex = a, .omit = b}, XML_C14N_INCLUSIVE, &out));
    assert_string_equal(out.p, "<a xmlns=\"" NS_KMS "\" xmlns:p=\"urn:p\"><e></e></a>");
    buf_reset(&out);
    const char *const names[] = {"c", NULL};
    assert_true(
        xml_canonical(&(struct xml_subtree){.doc = doc, .apex = b, .omit_named = names}, XML_C14N_INCLUSIVE, &out));
    assert_string_equal(out.p, "<b xmlns=\"" NS_KMS "\" xmlns:p=\"urn:p\"><d>2</d><x:c xmlns:x=\"urn:x\"></x:c></b>");
    buf_free(&out);
    struct buf small = BUF_INIT(8);
    assert_false(xml_canonical(&(struct xml_subtree){.doc = doc, .apex = a}, XML_C14N_INCLUSIVE, &small));
    buf_free(&small);
    xml_free(doc);
}

static void test_roots(void **state)
{
    static const struct {
        const char *text;
        enum kms_root root;
    } roots[] = {{"<KmsRequest xmlns='" NS_KMS "'/>", KMS_ROOT_REQUEST},
                 {"<k:SignedKmsRequest xmlns:k='" NS_KMS "'/>", KMS_ROOT_SIGNED_REQUEST},
                 {"<KmsResponse xmlns='" NS_KMS "'/>", KMS_ROOT_RESPONSE},
                 {"<SignedKmsResponse xmlns='" NS_KMS "'/>", KMS_ROOT_SIGNED_RESPONSE},
                 {"<KmsRequest/>", KMS_ROOT_OTHER},
                 {"<KmsRequest xmlns='" NS_KRR "'/>", KMS_ROOT_OTHER},
                 {"<kmsRequest xmlns='" NS_KMS "'/>", KMS_ROOT_OTHER}};
    (void)state;
    for (size_t i = 0; i < sizeof roots / sizeof roots[0]; i++) {
        struct xml_doc *doc = tree(roots[i].text, &XML_LIMITS_REQUEST);
        assert_int_equal(xml_root(doc), roots[i].root);
        xml_free(doc);
    }
}

/* Every text cut short, and every byte replaced by each that means something: no crash, and one verdict or the other.
 */
static void test_cut_and_altered(void **state)
{
    static const char text[] =
        "<?xml version='1.0'?><a xmlns='urn:a' b=\"c\"><![CDATA[d]]>&#65;<e:f xmlns:e='urn:e' e:g='&lt;'/></a>";
    static const char bytes[] = "<>&'\"/=?!-[]:; \n\x01\x7F\xC3\xFF";
    char copy[sizeof text];
    (void)state;
    assert_int_equal(parse_z(text), REASON_OK);
    for (size_t n = 0; n + 1 < sizeof text; n++) {
        char *exact = malloc(n + 1); /* so that a read beyond the end is seen */
        assert_non_null(exact);
        memcpy(exact, text, n);
        assert_int_not_equal(parse((struct str){exact, n}, &XML_LIMITS_REQUEST), REASON_OK);
        assert_int_not_equal(parse((struct str){exact, n}, &XML_LIMITS_REPLY), REASON_OK);
        free(exact);
    }
    for (size_t i = 0; i + 1 < sizeof text; i++) {
        for (size_t k = 0; k < sizeof bytes; k++) {
            memcpy(copy, text, sizeof text);
            copy[i] = bytes[k];
            const enum reason r = parse((struct str){copy, sizeof text - 1}, &XML_LIMITS_REQUEST);
            assert_true(r == REASON_OK || r == REASON_XML_MALFORMED || r == REASON_XML_FORBIDDEN);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_caps),
        cmocka_unit_test(test_scan_is_not_led_astray),
        cmocka_unit_test(test_text_encodings),
        cmocka_unit_test(test_character_references),
        cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_namespaces),
        cmocka_unit_test(test_doctype_and_instructions),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_dropped_comments),
        cmocka_unit_test(test_canonical),
        cmocka_unit_test(test_canonical_parts),
        cmocka_unit_test(test_roots),
        cmocka_unit_test(test_cut_and_altered),
    };
    return cmocka_run_group_tests(tests, start_libraries, stop_libraries);
}
