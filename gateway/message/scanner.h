/*
 * Tokens of a message in one pass: start tags with their attributes and namespaces, text, end tags. For the profiles
 * that are read without a tree; what it does not know, it declines, and the reader by tree (xml.h) judges it instead.
 * So a false here is never a verdict, and what it takes is a subset of what xml_parse() takes: well-formed XML 1.0 in
 * UTF-8, ASCII names, attribute values without references or line ends, text without CR, CDATA and other character
 * references than &#xD;, namespace URIs of a plain form. No DTD, comment or processing instruction.
 *
 *     struct scanner s;
 *     struct scan_tag tag;
 *     scanner_begin(&s, body);
 *     if (!scanner_start(&s, &tag)) return false;           <tag …>; its namespaces are in scope now
 *     canon_start(&c, &s, &tag, true);                      canonical text of it, as the apex
 *     ok = scanner_text(&s, &c, &value) && scanner_end(&s, &tag);
 *
 * No recursion, no memory of its own, each byte looked at a bounded number of times: reads are within [0, n) of the
 * text, writes within [0, cap) of the canonical text, arrays have the sizes below. For files of message/ only.
 */
#ifndef KMSGATE_MESSAGE_SCANNER_H
#define KMSGATE_MESSAGE_SCANNER_H

#include "base/reason.h"
#include "base/str.h"

enum {
    SCAN_NAMESPACES = 16, /* declarations in scope, and in all of the text */
    SCAN_ATTRIBUTES = 8,  /* of one element, without declarations */
    SCAN_DEPTH = 16
};

struct scan_namespace {
    struct str prefix, uri; /* prefix "": the default one */
};
struct scan_attribute {
    struct str prefix, local, value;
};
struct scan_tag {
    struct str name, prefix, local; /* name: both, as written */
    struct str uri;                 /* of its namespace; missing: none */
    struct scan_attribute attributes[SCAN_ATTRIBUTES];
    unsigned attribute_count;
    unsigned scope_before;          /* declarations in scope of its parent: those behind are its own */
    bool empty;                     /* <tag/>: it has ended already */
};
struct scanner {
    const char *p;
    size_t n, at; /* at <= n */
    struct scan_namespace scope[SCAN_NAMESPACES];
    unsigned scope_count, declared, depth;
};

/* Canonical text (inclusive C14N 1.0), written into a block of fixed size; once `full`, nothing more is written. */
struct canon {
    char *p;
    size_t n, cap; /* n <= cap */
    bool full;
};

/* A byte order mark is passed over, as is an XML declaration of version 1.0 and UTF-8. */
bool scanner_begin(struct scanner *s, struct str text) MUST_CHECK;
/* White space, then one start tag. No two attributes have one name. */
bool scanner_start(struct scanner *s, struct scan_tag *tag) MUST_CHECK;
/* The end tag of the element (nothing for an empty one); its namespaces leave the scope. */
bool scanner_end(struct scanner *s, const struct scan_tag *tag) MUST_CHECK;
/* Text up to the next `<`, appended to c as canonical text; *out is where it stands in c. */
bool scanner_text(struct scanner *s, struct canon *c, struct str *out) MUST_CHECK;
/* White space alone, up to the next `<`: appended to c where c is given. */
bool scanner_blank(struct scanner *s, struct canon *c) MUST_CHECK;
/* White space, if there is any. */
void scanner_space(struct scanner *s);
/* A run of hex digits, in the text itself: nothing of it is copied. */
struct str scanner_hex(struct scanner *s);
/* True when an end tag comes next. */
bool scanner_at_end_tag(const struct scanner *s);
/* True when nothing but white space is left, and no element is open. */
bool scanner_done(struct scanner *s);

bool scan_tag_is(const struct scan_tag *tag, struct str uri, struct str local);
/* The URI that a prefix stands for; missing: none. */
struct str scanner_uri(const struct scanner *s, struct str prefix);
/* The attribute of no namespace with this name; NULL: none. */
const struct scan_attribute *scan_attribute_named(const struct scan_tag *tag, struct str local);

static inline void canon_bytes(struct canon *c, struct str s)
{
    if (c->full || s.n > c->cap - c->n) {
        c->full = true;
        return;
    }
    if (s.p)
        short_copy(c->p + c->n, s.p, s.n);
    c->n += s.n;
}
/* `<name`, then the namespaces: of an apex all in scope, else those of its own that its parent does not have. The
 * attributes and `>` are the caller's to write. */
void canon_start(struct canon *c, const struct scanner *s, const struct scan_tag *tag, bool apex);
/* ` name="value"`; *value is where it stands in c. */
void canon_attribute(struct canon *c, const struct scan_attribute *a, struct str *value);
void canon_end(struct canon *c, const struct scan_tag *tag);
/* What canonical text says, without its references; in place of `out`, which has room for text.n bytes. */
struct str canon_decode(struct str text, char *out);

#endif
