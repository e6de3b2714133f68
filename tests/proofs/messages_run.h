/* The program of messages.proof, behind both readers' own sources. */
static const struct xml_limits LIMITS = {.depth = 6, .elements = 60, .attributes = 3, .in_scope = 8, .declarations = 8,
                                         .attributes_all = 9};
enum { INPUT_MAX = 512 };
static char input[INPUT_MAX];
static size_t input_n;
static unsigned long texts, scanned, taken;

/* An element and what is in it; false: declined. */
static bool element(struct scanner *s, struct canon *c)
{
    struct scan_tag tag;
    if (!scanner_start(s, &tag))
        return false;
    canon_start(c, s, &tag, s->depth == 1);
    for (unsigned i = 0; i < tag.attribute_count; i++) {
        struct str value;
        canon_attribute(c, &tag.attributes[i], &value);
    }
    for (struct str text; !tag.empty && !scanner_at_end_tag(s);) {
        const size_t before = s->at;
        if (!scanner_text(s, c, &text))
            return false;
        if (!scanner_at_end_tag(s) && !element(s, c))
            return false;
        holds(s->at > before, input, input_n);
    }
    canon_end(c, &tag);
    return scanner_end(s, &tag);
}

static bool scanner_takes(struct str text)
{
    struct scanner s;
    char *room = malloc(300);
    struct canon c = {.p = room, .cap = 300};
    const bool yes = scanner_begin(&s, text) && (scanner_space(&s), element(&s, &c)) && scanner_done(&s);
    holds(!yes || (c.n <= c.cap && s.at == s.n), input, input_n);
    if (yes && c.n) {
        char *out = malloc(c.n);
        holds(canon_decode((struct str){c.p, c.n}, out).n <= c.n, input, input_n);
        free(out);
    }
    free(room);
    return yes && !c.full;
}

static void look(void)
{
    struct detail why = {""};
    struct str body;
    char *exact = malloc(input_n);
    memcpy(exact, input, input_n);
    const bool ok = xml_scan((struct str){exact, input_n}, &LIMITS, &body, &why) == REASON_OK;
    const bool fast = scanner_takes((struct str){exact, input_n});
    holds(ok || !fast, input, input_n);
    texts++;
    scanned += ok;
    taken += fast;
    free(exact);
}

static void pieces(unsigned depth)
{
#define PIECE(text) {text, sizeof text - 1}
    static const struct { const char *p; size_t n; } PIECES[] = {
        PIECE("<a"), PIECE(">"), PIECE("/>"), PIECE("</a"), PIECE("</b>"), PIECE("</ >"),
        PIECE(" xmlns:b='urn:a'"), PIECE(" b:x="),
        PIECE("\""), PIECE("&amp;"), PIECE("&#x"), PIECE("D;"), PIECE("]]>"), PIECE("<![CDATA["), PIECE("<!--"),
        PIECE("<?"),
        PIECE(" "), PIECE("\xEF\xBF"), PIECE("\xBE"), PIECE("12345678"), PIECE("<b:c"), PIECE("\r"),
        PIECE("<!DOCTYPE "),
    };
    for (size_t i = 0; i < sizeof PIECES / sizeof *PIECES; i++) {
        const size_t before = input_n;
        memcpy(input + input_n, PIECES[i].p, PIECES[i].n);
        input_n += PIECES[i].n;
        look();
        if (depth > 1)
            pieces(depth - 1);
        input_n = before;
    }
}

static void behind(const char *head, unsigned depth)
{
    input_n = strlen(head);
    memcpy(input, head, input_n);
    pieces(depth);
}

int main(int argc, char **argv)
{
    const unsigned deeper = argc > 1 ? 1 : 0;
    (void)argv;
    behind("", 4 + deeper);
    behind("<a xmlns:b='urn:a'><b:c b:x='", 3 + deeper);
    behind("\xEF\xBB\xBF<?xml version='1.0' encoding=\"UTF-8\"?>\n<a>", 4 + deeper);
    behind("<?xml version", 2 + deeper);
    behind("<a><a><a><a><a>]]&#xD;</a></a></a></a>", 3 + deeper);
    for (size_t n = 0; n <= 66; n++) { /* a declaration cut anywhere */
        input_n = n;
        memcpy(input, "<?xml version=\"1.0\" encoding=\"utf-8\" standalone='yes'?><a b='&'/> ", n);
        look();
    }
    printf("%lu texts, %lu pass the scan, %lu the scanner too\n", texts, scanned, taken);
    return 0;
}
