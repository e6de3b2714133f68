#include "base/uri.h"

#include <string.h>

#include "base/run.h"

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The byte that the escape at s.p[i] stands for; -1 when it is malformed. */
static int escape_at(struct str s, size_t i)
{
    if (s.n - i < 3)
        return -1;
    const int high = hex_value(s.p[i + 1]), low = hex_value(s.p[i + 2]);
    return high < 0 || low < 0 ? -1 : high << 4 | low;
}

static bool control(int byte)
{
    return byte < 0x20 || byte == 0x7f;
}

bool uri_percent_decode(struct str text, struct buf *out)
{
    for (size_t i = 0; i < text.n; i++) {
        if (text.p[i] != '%') {
            buf_char(out, text.p[i]);
            continue;
        }
        const int byte = escape_at(text, i);
        if (byte < 0 || control(byte))
            return false;
        buf_char(out, (char)byte);
        i += 2;
    }
    return !out->failed;
}

void uri_percent_encode(struct str s, const char *also, struct buf *out)
{
    for (size_t i = 0; i < s.n; i++) {
        const char c = s.p[i];
        const bool plain = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
                           (c && strchr(also, c));
        if (plain)
            buf_char(out, c);
        else
            buf_printf(out, "%%%02X", (unsigned char)c);
    }
}

bool uri_is_any_uri(struct str s)
{
    const size_t i = run_uri(s.p, s.n);
    if (i == s.n)
        return s.n > 0;
    for (size_t k = i; k < s.n; k++)
        if ((unsigned char)s.p[k] < 0x80 && !(RUN_KINDS[(unsigned char)s.p[k]] & RUN_URI))
            return false;
    return str_is_utf8(s);
}

static bool unreserved(int c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.' ||
        c == '_' ||
           c == '~';
}

/* Appends text with unreserved escapes decoded and all others in upper case (6.2.2.1, 6.2.2.2). */
static bool normal_escapes(struct str text, struct buf *out)
{
    for (size_t i = 0; i < text.n; i++) {
        if (text.p[i] != '%') {
            buf_char(out, text.p[i]);
            continue;
        }
        const int byte = escape_at(text, i);
        if (byte < 0)
            return false;
        if (unreserved(byte))
            buf_char(out, (char)byte);
        else
            buf_printf(out, "%%%02X", (unsigned)byte);
        i += 2;
    }
    return true;
}

/* Removes the dot segments of the path that begins at out->p + from with a slash, in place (5.2.4). */
static void remove_dots(struct buf *out, size_t from)
{
    size_t to = from;
    for (size_t i = from; i < out->n;) {
        size_t end = i + 1;
        while (end < out->n && out->p[end] != '/')
            end++;
        const struct str segment = {out->p + i + 1, end - i - 1};
        const bool last = end == out->n, one = str_eq(segment, STR(".")), two = str_eq(segment, STR(".."));
        if (two)
            while (to > from && out->p[--to] != '/')
                ;
        if (!one && !two) {
            memmove(out->p + to, out->p + i, end - i);
            to += end - i;
        } else if (last) {
            out->p[to++] = '/';
        }
        i = end;
    }
    out->n = to;
    out->p[to] = '\0';
}

static size_t find_any(struct str s, size_t from, const char *of)
{
    while (from < s.n && !(s.p[from] && strchr(of, s.p[from])))
        from++;
    return from;
}

/* "host", "host:", "host:8080" and "[::1]:8080", taken apart. */
static bool split_authority(struct str authority, struct str *host, struct str *port)
{
    size_t end = 0;
    if (authority.n && authority.p[0] == '[') {
        end = find_any(authority, 0, "]");
        if (end++ == authority.n)
            return false;
    } else {
        end = find_any(authority, 0, ":");
    }
    *host = (struct str){authority.p, end};
    *port = STR("");
    if (end < authority.n) {
        if (authority.p[end] != ':')
            return false;
        *port = (struct str){authority.p + end + 1, authority.n - end - 1};
    }
    return host->n > 0 && find_any(*host, 0, "@%") == host->n;
}

static void lower_case(struct str s, struct buf *out)
{
    for (size_t i = 0; i < s.n; i++)
        buf_char(out, s.p[i] >= 'A' && s.p[i] <= 'Z' ? (char)(s.p[i] + 32) : s.p[i]);
}

static bool normal_authority(struct str authority, bool tls, struct buf *out)
{
    struct str host, port;
    uint64_t number = 0;
    if (!split_authority(authority, &host, &port) || (port.n && !str_to_u64(port, 65535, &number)))
        return false;
    if (host.p[host.n - 1] == '.')
        host.n--;
    if (!host.n || host.p[host.n - 1] == '.') /* an empty label is no name */
        return false;
    lower_case(host, out);
    if (port.n && number != (tls ? 443 : 80))
        buf_printf(out, ":%u", (unsigned)number);
    return true;
}

/* The octets of an http or https scheme up to its authority, which is not empty; 0: there is none. */
static size_t web_scheme(struct str s, bool *tls)
{
    *tls = s.n > 8 && str_ieq((struct str){s.p, 8}, STR("https://"));
    return *tls ? 8 : s.n > 7 && str_ieq((struct str){s.p, 7}, STR("http://")) ? 7 : 0;
}

bool uri_normalize(struct str s, struct buf *out)
{
    bool tls;
    const size_t begin = web_scheme(s, &tls);
    if (!uri_is_any_uri(s) || !begin)
        return false;
    const size_t path = find_any(s, begin, "/?#"), query = find_any(s, path, "?#");
    if (find_any(s, query, "#") < s.n)
        return false;
    buf_z(out, tls ? "https://" : "http://");
    if (!normal_authority((struct str){s.p + begin, path - begin}, tls, out))
        return false;
    const size_t from = out->n;
    if (path == query)
        buf_char(out, '/');
    if (!normal_escapes((struct str){s.p + path, query - path}, out) || out->failed)
        return false;
    remove_dots(out, from);
    return normal_escapes((struct str){s.p + query, s.n - query}, out) && !out->failed;
}

/* The host that begins at `begin`; behind it and its port is *end. False: there is none, or the port is none. */
static bool split_host(struct str s, size_t begin, struct str *host, size_t *end)
{
    struct str port;
    uint64_t number;
    *end = find_any(s, begin, "/?#");
    return split_authority((struct str){s.p + begin, *end - begin}, host, &port) &&
           (!port.n || str_to_u64(port, 65535, &number));
}

struct str uri_host(struct str s)
{
    struct str host;
    size_t begin = 0, end;
    if (!s.p)
        return STR_MISSING;
    while (begin < s.n && (unreserved((unsigned char)s.p[begin]) || s.p[begin] == '+'))
        begin++; /* a scheme, or a host */
    begin = str_starts((struct str){s.p + begin, s.n - begin}, STR("://")) ? begin + 3 : 0;
    return split_host(s, begin, &host, &end) ? host : STR_MISSING;
}

/* Without an http or https scheme: the host, and what stands behind the port; nothing where that is a lone "/". */
static bool split_server(struct str s, struct str *host, struct str *rest)
{
    bool tls;
    size_t end;
    if (!s.p || !split_host(s, web_scheme(s, &tls), host, &end))
        return false;
    *rest = (struct str){s.p + end, s.n - end};
    if (str_eq_z(*rest, "/"))
        rest->n = 0;
    return true;
}

bool uri_same_server(struct str a, struct str b)
{
    struct str host_a, host_b, rest_a, rest_b;
    return split_server(a, &host_a, &rest_a) && split_server(b, &host_b, &rest_b) && str_ieq(host_a, host_b) &&
           str_eq(rest_a, rest_b);
}

/* Parameters of a database's URI whose values anybody may see. */
static bool is_open_parameter(struct str name)
{
    static const char *const OPEN[] = {"sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "sslcrldir", "passfile",
        "connect_timeout", "target_session_attrs", "host", "hostaddr", "port", "dbname", "user", "application_name",
        "channel_binding", "requirepeer", "ssl_min_protocol_version"};
    for (size_t i = 0; i < sizeof OPEN / sizeof *OPEN; i++)
        if (str_eq_z(name, OPEN[i]))
            return true;
    return false;
}

static void mask_parameters(struct str query, struct buf *out)
{
    while (query.n) {
        const char *end = memchr(query.p, '&', query.n);
        const struct str one = {query.p, end ? (size_t)(end - query.p) : query.n};
        const char *equals = memchr(one.p, '=', one.n);
        const struct str name = {one.p, equals ? (size_t)(equals - one.p) : 0};
        if (is_open_parameter(name)) {
            buf_str(out, one);
        } else {
            buf_str(out, name);
            buf_z(out, equals ? "=***" : "***");
        }
        if (end)
            buf_char(out, '&');
        const size_t used = one.n + (end ? 1 : 0);
        query = (struct str){query.p + used, query.n - used};
    }
}

void uri_mask(struct str s, struct buf *out)
{
    const char *slashes = memmem(s.p, s.n, "//", 2);
    const size_t start = slashes ? (size_t)(slashes - s.p) + 2 : 0;
    const char *colon = memchr(s.p + start, ':', s.n - start), *at = memrchr(s.p + start, '@', s.n - start);
    if (colon && at && colon < at) { /* a password may hold whatever ends a part of other URIs */
        buf_str(out, (struct str){s.p, (size_t)(colon - s.p) + 1});
        buf_z(out, "***");
        s = (struct str){at, s.n - (size_t)(at - s.p)};
    }
    const char *question = memchr(s.p, '?', s.n);
    const struct str before = {s.p, question ? (size_t)(question - s.p) : s.n};
    buf_str(out, before);
    if (!question)
        return;
    buf_char(out, '?');
    mask_parameters((struct str){question + 1, s.n - before.n - 1}, out);
}
