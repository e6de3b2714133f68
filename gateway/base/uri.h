/*
 * URIs as RFC 3986 sees them: percent-decoding, one normal form, and the parts of an absolute http(s) URL.
 */
#ifndef KMSGATE_BASE_URI_H
#define KMSGATE_BASE_URI_H

#include "base/buf.h"

/* Decodes %XX into out (appended). False on a malformed escape or a decoded control byte, NUL included. */
bool uri_percent_decode(struct str text, struct buf *out);
/* Appends s with all but letters, digits and the characters of `also` as %XX. */
void uri_percent_encode(struct str s, const char *also, struct buf *out);
/* True when s can be written as xs:anyURI: not empty, UTF-8, no controls, none of  <>"{}|\^`  and no space. */
bool uri_is_any_uri(struct str s);
/* RFC 3986 6.2.2/6.2.3: scheme and host in lower case, default port and trailing dot of the host removed, unreserved
 * escapes decoded, other escapes in upper case, dot segments removed, an empty path becomes "/". False when s is no
 * absolute http or https URL, or has userinfo or a fragment (two URLs that differ there are never called equal). */
bool uri_normalize(struct str s, struct buf *out);
/* The host of "host", "host:port" or "scheme://host:port/…", as a view; missing when there is none. */
struct str uri_host(struct str s);
/* True when a and b are the same but for an http or https scheme, the port, the case of scheme and host, and a lone "/"
 * behind them (`compare: host` of the contract). Another scheme, a path, a query, a fragment or userinfo is a
 * difference; what has no host, or a port that is none, is the same as nothing. */
bool uri_same_server(struct str a, struct str b);
/* A database's URI as it may be shown: no password of its userinfo, and of the parameters behind `?` only the values of
 * those that are known to be no secrets; `***` stands for what is left out. Rather too much is left out than too
 * little, also of what is no URI at all. */
void uri_mask(struct str s, struct buf *out);

#endif
