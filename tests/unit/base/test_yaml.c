#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/timestamp.h"
#include "base/yaml.h"

static struct yaml *parse(const char *text, struct faults *f)
{
    return yaml_parse("f.yaml", str_z(text), f);
}

static bool has_fault(const struct faults *f, const char *part)
{
    for (size_t i = 0; i < f->n; i++)
        if (strstr(f->v[i].text, part))
            return true;
    return false;
}

static void nodes_know_their_place(void **state)
{
    (void)state;
    struct faults f = {0};
    struct yaml *y = parse("a: 1\nb:\n  - x\n  - \"y\"\nc: { d: e }\n", &f);
    assert_non_null(y);
    assert_int_equal(f.n, 0);
    const struct yaml_node *a = yaml_get(y->root, "a"), *b = yaml_get(y->root, "b");
    assert_int_equal(a->line, 1);
    assert_int_equal(a->column, 4);
    assert_true(a->plain);
    assert_int_equal(b->kind, YAML_LIST);
    assert_int_equal(b->n, 2);
    assert_int_equal(b->key_line, 2);
    assert_int_equal(b->key_column, 1);
    assert_int_equal(b->first->next->line, 4);
    assert_int_equal(b->first->next->column, 5);
    assert_false(b->first->next->plain);
    assert_true(str_eq_z(yaml_get(yaml_get(y->root, "c"), "d")->text, "e"));
    assert_null(yaml_get(y->root, "d"));
    assert_null(yaml_get(a, "x"));
    assert_null(yaml_get(NULL, "x"));
    yaml_done(y);
    yaml_done(NULL);
}

/* Each with the twin that differs by one thing. */
static void refused(void **state)
{
    static const struct {
        const char *bad, *message, *good;
    } CASES[] = {
        {"", "expected", "a: 1"},
        {"a: &x 1", "f.yaml:1:4: anchors", "a: x 1"},
        {"a: *x", "f.yaml:1:4: anchors", "a: x"},
        {"&x a: 1", "anchors", "x a: 1"},
        {"a: !!int 1", "anchors, aliases and tags", "a: int 1"},
        {"a: !x [1]", "anchors", "a: [1]"},
        {"a: &x {b: 1}", "anchors", "a: {b: 1}"},
        {"a: 1\n---\nb: 2\n", "a second document", "---\na: 1\nb: 2\n...\n"},
        {"a: 1\na: 2\n", "f.yaml:2:1: duplicate key `a` (first on line 1)", "a: 1\nb: 2\n"},
        {"[a]: 1\n", "a key is expected", "a: 1\n"},
        {"? {a: b}\n: 1\n", "a key is expected", "? a\n: 1\n"},
        {"a: \"\\0\"", "control character", "a: \"\\t\""},
        {"a: \"\\e[1m\"", "control character", "a: \"[1m\""},
        {"\"\\0\": 1", "control character", "\"\\t\": 1"},
        {"a: [", "not valid YAML", "a: []"},
        {"\ta: 1", "not valid YAML", " a: 1"},
        {"a: 1\n b: 2\n", "f.yaml:2:3: not valid YAML", "a: 1\nb: 2\n"},
        {"a: \"\xff\"", "UTF-8", "a: \"\xc3\xbf\""},
        {"a: \x01", "not valid YAML", "a: 1"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct faults bad = {0}, good = {0};
        yaml_done(parse(CASES[i].bad, &bad));
        if (!has_fault(&bad, CASES[i].message))
            fail_msg("%s: %s", CASES[i].bad, bad.n ? bad.v[0].text : "no fault");
        struct yaml *y = parse(CASES[i].good, &good);
        if (!y || good.n)
            fail_msg("%s: %s", CASES[i].good, good.n ? good.v[0].text : "nothing");
        yaml_done(y);
        faults_free(&bad);
        faults_free(&good);
    }
}

static void nul_and_other_encodings(void **state)
{
    (void)state;
    struct faults f = {0};
    assert_null(yaml_parse("f", (struct str){"a: 1\nb\0c", 8}, &f));
    assert_true(has_fault(&f, "f:2:2: a NUL byte"));
    assert_null(yaml_parse("f", (struct str){"\xff\xfe" "a\0", 4}, &f));
    assert_int_equal(f.errors, 2);
    struct yaml *y = yaml_parse("f", STR("\xef\xbb\xbf" "a: 1\nb: 2\n"), &f);
    assert_non_null(yaml_get(y->root, "a"));
    assert_non_null(yaml_get(y->root, "b"));
    assert_int_equal(yaml_get(y->root, "a")->column, 4);
    assert_int_equal(yaml_get(y->root, "b")->line, 2);
    yaml_done(y);
    faults_free(&f);
}

static struct yaml *repeated(const char *head, const char *unit, size_t n, const char *tail, struct faults *f)
{
    struct buf b BUF_CLEANUP = BUF_INIT(64 << 20);
    buf_z(&b, head);
    for (size_t i = 0; i < n; i++)
        buf_z(&b, unit);
    buf_z(&b, tail);
    return yaml_parse("f", buf_view(&b), f);
}

static void caps(void **state)
{
    static const struct {
        const char *head, *unit, *tail, *message;
        size_t bad, good;
    } CASES[] = {
        {"", "[", "", "nested more than 32 deep", 33, 0},
        {"a: ", "{a: ", "", "nested more than 32 deep", 100000, 0},
        {"[", "1,", "]", "more than 200000 values", 200000, 199999},
        {"# ", "x", "\na: 1", "larger than", 4 << 20, 4000000},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct faults f = {0};
        yaml_done(repeated(CASES[i].head, CASES[i].unit, CASES[i].bad, CASES[i].tail, &f));
        assert_true(has_fault(&f, CASES[i].message));
        faults_free(&f);
        if (!CASES[i].good)
            continue;
        struct yaml *y = repeated(CASES[i].head, CASES[i].unit, CASES[i].good, CASES[i].tail, &f);
        assert_non_null(y);
        assert_int_equal(f.n, 0);
        yaml_done(y);
    }
    struct faults f = {0};
    struct yaml *y = parse("[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]", &f);
    assert_non_null(y);
    assert_int_equal(f.n, 0);
    yaml_done(y);
    struct buf b BUF_CLEANUP = BUF_INIT(1 << 20);
    for (int i = 0; i < 2001; i++)
        buf_printf(&b, "k%d: 1\n", i);
    yaml_done(yaml_parse("f", buf_view(&b), &f));
    assert_true(has_fault(&f, "more than 2000 keys"));
    faults_free(&f);
}

static void quantities(void **state)
{
    static const struct {
        const char *text;
        int64_t us;
    } GOOD[] = {{"0s", 0}, {"200ms", 200000}, {"5s", 5 * US_PER_S}, {"10m", 600 * US_PER_S}, {"2h", 7200 * US_PER_S},
                {"7d", 7 * 86400 * US_PER_S}};
    static const char *const BAD[] = {"",
                                      "5",
                                      "s",
                                      "-5s",
                                      "+5s",
                                      "5 s",
                                      " 5s",
                                      "5s ",
                                      "5S",
                                      "05s",
                                      "1.5s",
                                      "1h30m",
                                      "5us",
                                      "9223372036854775807s",
                                      "99999999999999999999s",
                                      "5sec",
                                      "0x5s"};
    (void)state;
    int64_t v = 77;
    for (size_t i = 0; i < sizeof GOOD / sizeof *GOOD; i++) {
        assert_true(duration_parse(str_z(GOOD[i].text), &v));
        assert_int_equal(v, GOOD[i].us);
        assert_string_equal(duration_show(v).z, GOOD[i].text);
    }
    v = 77;
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++)
        assert_false(duration_parse(str_z(BAD[i]), &v));
    assert_int_equal(v, 77);
    assert_true(size_parse(STR("64KiB"), &v) && v == 65536);
    assert_true(size_parse(STR("1MiB"), &v) && v == 1 << 20);
    assert_true(size_parse(STR("2GiB"), &v) && v == INT64_C(2) << 30);
    assert_true(size_parse(STR("7B"), &v) && v == 7);
    assert_string_equal(size_show(1536).z, "1536B");
    assert_string_equal(size_show(3 << 20).z, "3MiB");
    assert_false(size_parse(STR("64KB"), &v));
    assert_false(size_parse(STR("64k"), &v));
    assert_false(size_parse(STR("64"), &v));
    assert_false(size_parse(STR("9999999999999GiB"), &v));
}

static void nearest(void **state)
{
    static const char *const NAMES[] = {"upstream", "limits", "listen", "public_url"};
    (void)state;
    assert_string_equal(nearest_name(STR("upsteam"), NAMES, sizeof *NAMES, 4), "upstream");
    assert_string_equal(nearest_name(STR("lsiten"), NAMES, sizeof *NAMES, 4), "listen");
    assert_string_equal(nearest_name(STR("url"), NAMES, sizeof *NAMES, 4), "public_url");
    assert_string_equal(nearest_name(STR(""), NAMES, sizeof *NAMES, 4), "limits");
    assert_null(nearest_name(STR("x"), NAMES, sizeof *NAMES, 0));
    char longer[300];
    memset(longer, 'u', sizeof longer);
    assert_non_null(nearest_name((struct str){longer, sizeof longer}, NAMES, sizeof *NAMES, 4));
}

static void shown_texts_are_cut(void **state)
{
    char text[400];
    (void)state;
    memset(text, 'a', sizeof text);
    struct shown s = show((struct str){text, sizeof text});
    assert_true(strlen(s.z) < sizeof s.z);
    assert_string_equal(s.z + strlen(s.z) - 4, "...`");
    for (size_t i = 0; i + 1 < sizeof text; i += 2) {
        text[i] = '\xc3';
        text[i + 1] = '\xbf';
    }
    for (size_t n = 0; n < sizeof text; n += 2) {
        s = show((struct str){text, n});
        assert_true(str_is_utf8(str_z(s.z)));
    }
    assert_string_equal(show(STR("a\nb\x1b")).z, "`a b `");
}

struct thing {
    char *name;
    unsigned count;
    int64_t wait;
    bool on;
    int kind;
    unsigned bits;
    struct strings list;
    struct yaml_cidrs nets;
};
static const struct yaml_range COUNTS = {1, 10}, WAITS = {US_PER_S, 10 * US_PER_S};
static const struct yaml_choice KINDS[] = {{"one", 1}, {"two", 2}, {"four", 4}, {NULL, 0}};
#define IN(member) .offset = offsetof(struct thing, member)
static const struct yaml_field SUB[] = {{"list", yaml_texts, IN(list)}, {"nets", yaml_networks, IN(nets)}, {0}};
static const struct yaml_field FIELDS[] = {
    {"name", yaml_text, IN(name), .required = true}, {"count", yaml_count, IN(count), &COUNTS, "3"},
    {"wait", yaml_duration, IN(wait), &WAITS},       {"on", yaml_switch, IN(on), .preset = "off"},
    {"kind", yaml_choose, IN(kind), KINDS},          {"bits", yaml_flags, IN(bits), KINDS},
    {"sub", yaml_sub, .offset = 0, .sub = SUB},      {0}};

static void thing_free(struct thing *t)
{
    free(t->name);
    strings_free(&t->list);
    free(t->nets.v);
}

static void fields(void **state)
{
    (void)state;
    struct faults f = {0};
    struct thing t = {0};
    struct yaml_in in = {"f.yaml", &f};
    struct yaml *y = parse("name: \"1\"\ncount: 7\nwait: 2s\non: on\nkind: two\nbits: [one, four]\n"
                           "sub: { list: [a, b], nets: [10.0.0.0/8, \"::1\"] }\n", &f);
    yaml_fields(&in, y->root, FIELDS, &t);
    assert_int_equal(f.n, 0);
    assert_string_equal(t.name, "1");
    assert_int_equal(t.count, 7);
    assert_int_equal(t.wait, 2 * US_PER_S);
    assert_true(t.on);
    assert_int_equal(t.kind, 2);
    assert_int_equal(t.bits, 5);
    assert_int_equal(t.list.n, 2);
    assert_int_equal(t.nets.n, 2);
    struct buf out BUF_CLEANUP = BUF_INIT(10000);
    yaml_print(&out, "f.yaml", y->root, FIELDS, "");
    assert_non_null(strstr(out.p, "count: 7 "));
    assert_non_null(strstr(out.p, "# f.yaml:2\n"));
    assert_non_null(strstr(out.p, "name: \"1\" "));
    assert_non_null(strstr(out.p, "sub.list: [a, b] "));
    yaml_done(y);
    thing_free(&t);
}

static void fields_faults(void **state)
{
    static const struct {
        const char *text, *message;
    } CASES[] = {
        {"count: 1", "f.yaml:1:1: the key `name` is missing"},
        {"nam: x", "f.yaml:1:1: unknown key `nam`; did you mean `name`?"},
        {"name: ", "f.yaml:1:6: found nothing, expected a text"},
        {"name: ~", "found nothing"},
        {"name: \"\"", "found an empty text"},
        {"name: \" \"", "expected a text"},
        {"name: true", "in quotes"},
        {"name: \"a\\nb\"", "several lines"},
        {"name: [a]", "found a list, expected a text"},
        {"count: \"7\"", "found `7` in quotes, expected a number from 1 to 10"},
        {"count: 11", "found `11`"},
        {"count: 0", "found `0`"},
        {"count: -1", "found `-1`"},
        {"count: 1.5", "found `1.5`"},
        {"count: 1e1", "found `1e1`"},
        {"count: 0x7", "found `0x7`"},
        {"count: 99999999999999999999999", "expected a number"},
        {"wait: 11s", "a duration from 1s to 10s"},
        {"wait: 2", "a duration such as"},
        {"on: yes", "expected on or off"},
        {"on: \"on\"", "expected on or off"},
        {"kind: tow", "did you mean `two`?"},
        {"kind: [one]", "found a list"},
        {"kind:", "found nothing"},
        {"bits: []", "empty list"},
        {"bits: [one, one]", "duplicate"},
        {"bits: [one, three]", "expected one, two or four"},
        {"sub: 1", "expected a mapping"},
        {"sub: { list: [a, a] }", "duplicate"},
        {"sub: { list: [[a]] }", "found a list, expected a text"},
        {"sub: { nets: [10.0.0.1/8] }", "host bits"},
        {"sub: { nets: [10.0.0.0/33] }", "expected an address"},
        {"[name]", "found a list, expected a mapping"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct faults f = {0};
        struct thing t = {.count = 3, .kind = 1};
        struct yaml_in in = {"f.yaml", &f};
        struct yaml *y = parse(CASES[i].text, &f);
        assert_non_null(y);
        yaml_fields(&in, y->root, FIELDS, &t);
        if (!has_fault(&f, CASES[i].message))
            fail_msg("%s: %s", CASES[i].text, f.n ? f.v[0].text : "no fault");
        assert_true(strstr(CASES[i].text, "count: 1") || t.count == 3);
        assert_int_equal(t.kind, 1);
        thing_free(&t);
        yaml_done(y);
        faults_free(&f);
    }
}

static void faults_stand_in_the_text_order(void **state)
{
    (void)state;
    struct faults f = {0};
    faults_add(&f, "other", 0, 0, "before");
    faults_add(&f, "a.yaml", 10, 2, "third");
    faults_add(&f, "a.yaml", 9, 30, "second");
    faults_add(&f, "a.yaml", 9, 4, "first");
    faults_add(&f, "KMSGATE_X", 0, 0, "without a place");
    yaml_sort_faults(&f, 1, "a.yaml");
    static const char *const ORDER[] = {"before", "without", "first", "second", "third"};
    for (size_t i = 0; i < 5; i++)
        assert_non_null(strstr(f.v[i].text, ORDER[i]));
    faults_free(&f);
}

static void files(void **state)
{
    (void)state;
    struct faults f = {0};
    assert_null(yaml_load("/nonexistent/x.yaml", &f));
    assert_true(has_fault(&f, "/nonexistent/x.yaml: cannot be read: No such file"));
    assert_null(yaml_load("/", &f));
    assert_true(has_fault(&f, "a folder"));
    assert_null(yaml_load("/dev/null", &f));
    assert_true(has_fault(&f, "expected"));
    assert_null(yaml_load("/dev/zero", &f)); /* endless: read up to the cap, then refused */
    assert_int_equal(f.errors, 4);
    faults_free(&f);
}

/* Any bytes: a tree or a fault, never a crash; each prefix, and each byte replaced, of a text with all that YAML has.
 */
static void any_bytes(void **state)
{
    static const char TEXT[] = "%YAML 1.1\n---\na: &x [1, 'b', \"c\\u0041\"]\nb: *x\n? c\n: |\n  d\n  e\nf: >-\n  g\n"
                               "h: !!str {i: j, k: }\n- l\n...\n";
    static const char BYTES[] = "\0\t\n !\"#%&'*,-:>?@[]`{|}~\x7f\x80\xc3\xff";
    (void)state;
    char copy[sizeof TEXT];
    for (size_t n = 0; n < sizeof TEXT; n++)
        for (size_t b = 0; b < sizeof BYTES - 1; b++) {
            struct faults f = {0};
            memcpy(copy, TEXT, sizeof TEXT);
            copy[n] = BYTES[b];
            struct yaml *y = yaml_parse("f", (struct str){copy, sizeof TEXT - 1}, &f);
            assert_true(y || f.errors);
            yaml_done(y);
            y = yaml_parse("f", (struct str){copy, n}, &f);
            yaml_done(y);
            faults_free(&f);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nodes_know_their_place), cmocka_unit_test(refused),
        cmocka_unit_test(nul_and_other_encodings), cmocka_unit_test(caps),
        cmocka_unit_test(quantities), cmocka_unit_test(nearest),
        cmocka_unit_test(shown_texts_are_cut), cmocka_unit_test(fields),
        cmocka_unit_test(fields_faults), cmocka_unit_test(faults_stand_in_the_text_order),
        cmocka_unit_test(files), cmocka_unit_test(any_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
