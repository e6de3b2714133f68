#include "message/xmlsig_diagnose.h"

#include <string.h>

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "message/declarations.h"
#include "message/xmlsig_internal.h"

enum { LEAST_BITS = 80 }; /* a shorter value fits by chance too soon */

/* The signature as far as it can be read, and the two values as they stand there. */
struct look {
    const struct xml_doc *doc;
    struct str body;
    struct signature sig;
    uint8_t digest[HASH_BYTES], value[HASH_BYTES];
    size_t value_n;
};

const char *xmlsig_form_says(enum xmlsig_form form)
{
    static const char *const SAYS[XMLSIG_FORM_COUNT] = {
        [XMLSIG_AS_DECLARED] = "",
        [XMLSIG_AS_INCLUSIVE] = "by inclusive canonicalization (C14N 1.0), which the message does not declare",
        [XMLSIG_AS_EXCLUSIVE] = "by exclusive canonicalization, which the message does not declare",
        [XMLSIG_AS_INCLUSIVE_11] = "by C14N 1.1, which the message does not declare",
        [XMLSIG_AS_ALONE] =
            ("alone, without the namespaces that its envelope declares: inclusive canonicalization renders those of "
             "ancestors, too"),
        [XMLSIG_AS_DENSE] = "without the white space between its elements: the message was indented after signing",
        [XMLSIG_AS_BARE] = "without its namespace declaration, which is part of the canonical form",
        [XMLSIG_AS_NAKED] = "without the namespace declarations of its first tag, which are part of the canonical form",
        [XMLSIG_AS_WRITTEN] = "as the bytes stand in the message, not canonicalized",
        [XMLSIG_AS_BEFORE] = "with fewer namespace declarations around it",
        [XMLSIG_AS_WITHIN] = "in an envelope that declared more namespaces; those declarations got lost on the way",
        [XMLSIG_AS_EXCLUSIVE_OR_ALONE] =
            ("by exclusive canonicalization, which the message does not declare, or, which gives the same octets here, "
             "alone: without the namespaces that its ancestors declare, which inclusive canonicalization renders, too"),
    };
    return SAYS[form];
}

const char *xmlsig_ends_say(enum xmlsig_ends ends)
{
    static const char *const SAYS[XMLSIG_ENDS_COUNT] = {
        [XMLSIG_LF] = "",
        [XMLSIG_CRLF] = "with CR LF line ends: an XML parser makes LF of them, so hash what a parser returns",
        [XMLSIG_CR_REFERENCES] =
            "with CRs in the tree (&#xD;): an XML parser makes LF of CR LF, so the receiver has none",
    };
    return SAYS[ends];
}

const char *xmlsig_key_text_says(enum xmlsig_key_text text)
{
    static const char *const SAYS[XMLSIG_KEY_TEXT_COUNT] = {
        [XMLSIG_KEY_OCTETS] = "",
        [XMLSIG_KEY_HEX] =
            ("with the key as text: its 64 hex digits in lower case instead of the 32 octets that they stand for"),
        [XMLSIG_KEY_HEX_UPPER] =
            ("with the key as text: its 64 hex digits in upper case instead of the 32 octets that they stand for"),
        [XMLSIG_KEY_BASE64] = "with the key as text: its base64 instead of the 32 octets that it stands for",
        [XMLSIG_KEY_HEX_LINE] =
            ("with the key as text: its 64 hex digits and the line end behind them, as they stood in a file, instead "
             "of the 32 octets"),
    };
    return SAYS[text];
}

static const xmlNode *last_child(const xmlNode *parent)
{
    const xmlNode *last = NULL;
    for (const xmlNode *n = xml_child(parent); n; n = xml_next(n))
        last = n;
    return last;
}

/* The strictest reading decides in the gate; here the loosest, so that what is short or only not allowed is looked
 * at. */
static bool diagnose_look(struct look *l, const struct xml_doc *doc, struct str body)
{
    const struct xmlsig_policy any = {HASH_BYTES * 4, XMLSIG_C14N | XMLSIG_EXC_C14N | XMLSIG_C14N11};
    struct detail ignored;
    size_t digest_n = 0;
    *l = (struct look){.doc = doc, .body = body};
    if (signature_read(doc, &any, &l->sig, &ignored) == REASON_INTERNAL || !l->sig.apex)
        return false;
    return base64_decode(xml_text(last_child(last_child(l->sig.info))), l->digest, HASH_BYTES, &digest_n) &&
           digest_n == HASH_BYTES &&
           base64_decode(xml_text(xml_next(l->sig.info)), l->value, HASH_BYTES, &l->value_n) &&
           l->value_n * 8 >= LEAST_BITS;
}

struct str xmlsig_find_key_name(const struct xml_doc *doc)
{
    const struct xmlsig_policy any = {HASH_BYTES * 4, XMLSIG_C14N | XMLSIG_EXC_C14N | XMLSIG_C14N11};
    struct signature sig;
    const enum reason r = signature_read(doc, &any, &sig, NULL);
    return r == REASON_INTERNAL ? STR_MISSING : sig.key_name;
}

/* The subtree of `tree`, a copy of l's document, that stands where the one to be hashed does. */
static bool canonical_copy(const struct look *l, bool info, xmlDocPtr tree, struct buf *out)
{
    const struct xml_doc copy = {.tree = tree, .size = l->doc->size};
    const xmlNode *top = xml_top(&copy), *signature = last_child(top);
    struct xml_subtree part = {.doc = &copy, .apex = info ? xml_child(signature) : xml_child(top)};
    if (!info && l->sig.apex == l->sig.top)
        part = (struct xml_subtree){.doc = &copy, .apex = top, .omit = signature};
    return xml_canonical(&part, info ? l->sig.info_form : l->sig.apex_form, out);
}

static bool without_space(const struct look *l, bool info, struct buf *out)
{
    xmlDocPtr tree = xmlCopyDoc(l->doc->tree, 1);
    bool ok = tree != NULL;
    for (xmlNodePtr n = ok ? xmlDocGetRootElement(tree) : NULL, next; n; n = next) {
        next = n->children ? n->children : n->next;
        for (xmlNodePtr up = n->parent; !next && up; up = up->parent)
            next = up->next;
        if (n->type == XML_TEXT_NODE && (n->prev || n->next) && str_trim(str_z((const char *)n->content)).n == 0) {
            xmlUnlinkNode(n);
            xmlFreeNode(n);
        }
    }
    ok = ok && canonical_copy(l, info, tree, out);
    xmlFreeDoc(tree);
    return ok;
}

static bool alone(const struct look *l, bool info, struct buf *out)
{
    const xmlNode *node = info ? l->sig.info : l->sig.apex;
    xmlDocPtr tree = node == l->sig.top ? NULL : xmlNewDoc((const xmlChar *)"1.0");
    xmlNodePtr copy = tree ? xmlDocCopyNode((xmlNodePtr)node, tree, 1) : NULL;
    if (!copy) {
        xmlFreeDoc(tree);
        return false;
    }
    xmlDocSetRootElement(tree, copy);
    const struct xml_doc doc = {.tree = tree, .size = l->doc->size};
    const struct xml_subtree whole = {.doc = &doc, .apex = copy};
    const bool ok = xml_canonical(&whole, info ? l->sig.info_form : l->sig.apex_form, out);
    xmlFreeDoc(tree);
    return ok;
}

static bool canonical(const struct look *l, bool info, enum xml_c14n form, struct buf *out)
{
    struct xml_subtree part = {.doc = l->doc, .apex = info ? l->sig.info : l->sig.apex};
    if (!info && l->sig.enveloped)
        part.omit = l->sig.node;
    return xml_canonical(&part, form, out);
}

/* Its default namespace, which stands first behind its name. */
static bool bare(const struct look *l, bool info, struct buf *out)
{
    struct buf text BUF_CLEANUP = BUF_INIT(xml_canonical_ceiling(l->doc->size));
    if (!canonical(l, info, info ? l->sig.info_form : l->sig.apex_form, &text))
        return false;
    const char *from = memmem(text.p, text.n, " xmlns=\"", 8), *gt = memchr(text.p, '>', text.n);
    const char *to = from ? memchr(from + 8, '"', text.n - (size_t)(from + 8 - text.p)) : NULL;
    if (!to || from > gt)
        return false;
    buf_bytes(out, text.p, (size_t)(from - text.p));
    buf_bytes(out, to + 1, text.n - (size_t)(to + 1 - text.p));
    return !out->failed;
}

static bool naked(const struct look *l, bool info, struct buf *out)
{
    struct buf text BUF_CLEANUP = BUF_INIT(xml_canonical_ceiling(l->doc->size));
    if (!canonical(l, info, info ? l->sig.info_form : l->sig.apex_form, &text))
        return false;
    const struct str gone = declarations_of(buf_view(&text));
    buf_bytes(out, text.p, (size_t)(gone.p - text.p));
    buf_bytes(out, gone.p + gone.n, text.n - (size_t)(gone.p + gone.n - text.p));
    return gone.n > 0 && !out->failed;
}

/* From `<name` to the `>` behind the last `</name`. */
static bool diagnose_written(const struct look *l, bool info, struct buf *out)
{
    const xmlNode *node = info ? l->sig.info : l->sig.apex;
    const char *prefix = node->ns && node->ns->prefix ? (const char *)node->ns->prefix : "";
    struct buf open BUF_CLEANUP = BUF_INIT(1024), close BUF_CLEANUP = BUF_INIT(1024);
    buf_printf(&open, "<%s%s%s", prefix, *prefix ? ":" : "", (const char *)node->name);
    buf_printf(&close, "</%s%s%s", prefix, *prefix ? ":" : "", (const char *)node->name);
    if (node == l->sig.top || open.failed || close.failed)
        return false;
    const char *from = memmem(l->body.p, l->body.n, open.p, open.n), *to = NULL;
    const char *end = l->body.p + l->body.n;
    for (const char *p = from; p; p = memmem(p + 1, (size_t)(end - p - 1), close.p, close.n))
        to = p;
    to = to && to > from ? memchr(to, '>', (size_t)(end - to)) : NULL;
    if (to)
        buf_bytes(out, from, (size_t)(to + 1 - from));
    return to && !out->failed;
}

static bool form_text(const struct look *l, bool info, enum xmlsig_form form, struct buf *out)
{
    const enum xml_c14n declared = info ? l->sig.info_form : l->sig.apex_form;
    switch (form) {
    case XMLSIG_AS_DECLARED:
        return canonical(l, info, declared, out);
    case XMLSIG_AS_INCLUSIVE:
        return canonical(l, info, XML_C14N_INCLUSIVE, out);
    case XMLSIG_AS_EXCLUSIVE:
        return canonical(l, info, XML_C14N_EXCLUSIVE, out);
    case XMLSIG_AS_INCLUSIVE_11:
        return canonical(l, info, XML_C14N_INCLUSIVE_11, out);
    case XMLSIG_AS_ALONE:
        return alone(l, info, out);
    case XMLSIG_AS_DENSE:
        return without_space(l, info, out);
    case XMLSIG_AS_BARE:
        return bare(l, info, out);
    case XMLSIG_AS_WRITTEN:
        return diagnose_written(l, info, out);
    case XMLSIG_AS_NAKED:
        return naked(l, info, out);
    default:
        return false;
    }
}

/* Written bytes may have CRs already: they are made LFs first. */
static void with_ends(struct str text, enum xmlsig_ends ends, struct buf *out)
{
    static const char *const END[] = {[XMLSIG_LF] = "\n", [XMLSIG_CRLF] = "\r\n", [XMLSIG_CR_REFERENCES] = "&#xD;\n"};
    for (size_t i = 0; i < text.n; i++) {
        if (text.p[i] == '\r' && i + 1 < text.n && text.p[i + 1] == '\n')
            continue;
        if (text.p[i] == '\n')
            buf_z(out, END[ends]);
        else
            buf_char(out, text.p[i]);
    }
}

/* A cut of the text around `at`, on one line, of whole characters. */
static void cut_out(struct str text, size_t at, char out[160])
{
    enum { BEFORE = 40, AFTER = 40 };
    size_t from = at > BEFORE ? at - BEFORE : 0, to = text.n - at > AFTER ? at + AFTER : text.n;
    struct buf b BUF_CLEANUP = BUF_INIT(160);
    while (from < at && ((unsigned char)text.p[from] & 0xC0) == 0x80)
        from++;
    while (to > at && to < text.n && ((unsigned char)text.p[to] & 0xC0) == 0x80)
        to--;
    buf_z(&b, from ? "..." : "");
    for (size_t i = from; i < to && b.n < 150; i++) {
        const unsigned char c = (unsigned char)text.p[i];
        if (c == '\n' || c == '\r' || c == '\t')
            buf_z(&b, c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t");
        else
            buf_char(&b, c < 0x20 || c == 0x7f ? '?' : (char)c);
    }
    buf_z(&b, to < text.n ? "..." : "");
    if (b.p)
        memcpy(out, b.p, b.n + 1);
}

static void diagnose_compare(struct str ours, struct str theirs, struct xmlsig_attempt *out)
{
    size_t at = 0;
    while (at < ours.n && at < theirs.n && ours.p[at] == theirs.p[at])
        at++;
    if (at == ours.n && at == theirs.n)
        return;
    while (at > 0 && at < ours.n && ((unsigned char)ours.p[at] & 0xC0) == 0x80)
        at--;
    out->at = at;
    cut_out(ours, at, out->ours);
    cut_out(theirs, at, out->theirs);
}

/* One text against the value that stands in the message. key NULL: a digest. */
static bool fits(const struct look *l, const struct secret_key *key, struct str text, struct xmlsig_attempt *out)
{
    uint8_t made[HASH_BYTES];
    if (!key)
        return signature_hash(text, made) && secret_equal(made, l->digest, HASH_BYTES);
    bool found = false;
    for (int k = 0; k < XMLSIG_KEY_TEXT_COUNT && !found; k++) {
        struct buf octets BUF_CLEANUP = BUF_INIT_KEYS(2 * KEY_BYTES + 8);
        unsigned n = 0;
        if (k == XMLSIG_KEY_OCTETS)
            buf_bytes(&octets, key->b, KEY_BYTES);
        else if (k == XMLSIG_KEY_BASE64)
            buf_base64(&octets, key->b, KEY_BYTES);
        else
            buf_hex(&octets, key->b, KEY_BYTES, k == XMLSIG_KEY_HEX_UPPER);
        if (k == XMLSIG_KEY_HEX_LINE)
            buf_char(&octets, '\n');
        found = !octets.failed &&
                HMAC(EVP_sha256(), octets.p, (int)octets.n, (const unsigned char *)text.p, text.n, made, &n) &&
                n == HASH_BYTES && secret_equal(made, l->value, l->value_n);
        out->key_text = (enum xmlsig_key_text)k;
    }
    secret_wipe(made, sizeof made);
    return found;
}

/* What is sought, and what was found so far. */
struct seeking {
    struct look look;
    const struct secret_key *key; /* NULL: a digest */
    struct buf ours;
    size_t ceiling;
    struct xmlsig_attempt *out;
};

static bool fits_with_ends(struct seeking *s, struct str text)
{
    for (int ends = 0; ends < XMLSIG_ENDS_COUNT; ends++) {
        struct buf hashed BUF_CLEANUP = BUF_INIT(s->ceiling * 4);
        with_ends(text, (enum xmlsig_ends)ends, &hashed);
        s->out->ends = (enum xmlsig_ends)ends;
        if (hashed.failed || !fits(&s->look, s->key, buf_view(&hashed), s->out))
            continue;
        diagnose_compare(buf_view(&s->ours), buf_view(&hashed), s->out);
        declarations_more(buf_view(&s->ours), text, s->out->added);
        return true;
    }
    return false;
}

/* Declarations that are there no more: of those known, up to three. */
static bool find_lost(struct seeking *s)
{
    enum { LOST_MOST = 3 };
    s->out->form = XMLSIG_AS_WITHIN;
    for (unsigned set = 0; declarations_next(declarations_known(), LOST_MOST, &set);) {
        struct buf text BUF_CLEANUP = BUF_INIT(s->ceiling);
        if (!declarations_add(buf_view(&s->ours), set, &text) || !fits_with_ends(s, buf_view(&text)))
            continue;
        declarations_known_names(set, s->out->lost);
        return true;
    }
    return false;
}

/* Declarations that were not there yet: of those in the first tag, up to four. */
static bool find_added(struct seeking *s)
{
    enum { ADDED_MOST = 4 };
    s->out->form = XMLSIG_AS_BEFORE;
    for (unsigned set = 0; declarations_next(declarations_count(buf_view(&s->ours)), ADDED_MOST, &set);) {
        struct buf text BUF_CLEANUP = BUF_INIT(s->ceiling);
        if (declarations_drop(buf_view(&s->ours), set, &text) && fits_with_ends(s, buf_view(&text)))
            return true;
    }
    return false;
}

/* Exclusive canonicalization, and inclusive of an element that was taken out of its envelope: often the same. */
static void tell_both(struct seeking *s)
{
    struct buf exclusive BUF_CLEANUP = BUF_INIT(s->ceiling), by_itself BUF_CLEANUP = BUF_INIT(s->ceiling);
    const bool info = s->key != NULL;
    if (s->out->form == XMLSIG_AS_EXCLUSIVE && form_text(&s->look, info, XMLSIG_AS_EXCLUSIVE, &exclusive) &&
        form_text(&s->look, info, XMLSIG_AS_ALONE, &by_itself) &&
        str_eq(buf_view(&exclusive), buf_view(&by_itself)))
        s->out->form = XMLSIG_AS_EXCLUSIVE_OR_ALONE;
}

static bool diagnose_find(const struct xml_doc *doc, struct str body, const struct secret_key *key,
                          struct xmlsig_attempt *out)
{
    struct seeking s = {.key = key, .ceiling = 2 * xml_canonical_ceiling(doc->size), .out = out};
    *out = (struct xmlsig_attempt){.form = XMLSIG_AS_DECLARED};
    if (!diagnose_look(&s.look, doc, body))
        return false;
    s.ours = BUF_INIT(s.ceiling);
    bool found = false;
    if (form_text(&s.look, key != NULL, XMLSIG_AS_DECLARED, &s.ours)) {
        out->bits = (unsigned)s.look.value_n * 8;
        for (int form = 0; form < XMLSIG_AS_BEFORE && !found; form++) {
            struct buf text BUF_CLEANUP = BUF_INIT(s.ceiling);
            out->form = (enum xmlsig_form)form;
            found = form_text(&s.look, key != NULL, out->form, &text) && fits_with_ends(&s, buf_view(&text));
        }
        found = found || find_added(&s) || find_lost(&s);
        tell_both(&s);
    }
    buf_free(&s.ours);
    return found;
}

bool xmlsig_find_digest(const struct xml_doc *doc, struct str body, struct xmlsig_attempt *out)
{
    return diagnose_find(doc, body, NULL, out);
}

bool xmlsig_find_hmac(const struct xml_doc *doc, struct str body, const struct secret_key *key,
                      struct xmlsig_attempt *out)
{
    return diagnose_find(doc, body, key, out);
}
