#include <arpa/inet.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "base/config_internal.h"
#include "base/sink.h"
#include "base/timestamp.h"
#include "base/uri.h"

static const char USER_CHARS[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-";

static bool value_expect(struct shown *expected, const char *text)
{
    snprintf(expected->z, sizeof expected->z, "%s", text);
    return false;
}

static bool value_replace(char **to, char *with, struct shown *expected)
{
    if (!with)
        return value_expect(expected, "more memory");
    free(*to);
    *to = with;
    return true;
}

bool value_is_private(struct str text)
{
    return text.n && (memchr(text.p, '@', text.n) || memmem(text.p, text.n, "password", 8));
}

char *path_resolve(const char *folder, struct str path)
{
    struct buf b BUF_CLEANUP = BUF_INIT(2 * PATH_MAX);
    if (path.n && path.p[0] != '/')
        buf_z(&b, folder);
    buf_str(&b, path);
    return b.failed || !b.p ? NULL : str_dup(buf_view(&b));
}

static bool is_path(struct str s)
{
    return s.n > 0 && s.n < PATH_MAX && !memchr(s.p, '\0', s.n) && !memchr(s.p, '\n', s.n);
}

static bool path_into(char **to, const struct incoming *in, struct str path, struct shown *expected)
{
    return is_path(path) ? value_replace(to, path_resolve(in->folder, path), expected)
                         : value_expect(expected, "a path");
}

static bool value_after(struct str text, struct str prefix, struct str *rest)
{
    *rest = str_behind(text, prefix);
    return rest->p != NULL;
}

bool read_path(const struct option *o, const struct incoming *in, void *to, struct shown *expected)
{
    (void)o;
    return path_into(to, in, in->text, expected);
}

static bool socket_path_into(char **to, const struct incoming *in, struct shown *expected)
{
    static const struct str UNIX = STR("syslog:unix:");
    struct str path;
    struct buf whole BUF_CLEANUP = BUF_INIT(2 * PATH_MAX);
    if (!value_after(in->text, UNIX, &path) || !is_path(path))
        return value_expect(expected, "syslog:unix:PATH");
    char *resolved = path_resolve(in->folder, path);
    if (!resolved)
        return value_expect(expected, "more memory");
    buf_str(&whole, UNIX);
    buf_z(&whole, resolved);
    free(resolved);
    if (whole.failed || !sink_syslog_is_valid(buf_view(&whole)))
        return value_expect(expected, "syslog:unix: with a path that a socket can have (107 octets)");
    return value_replace(to, str_dup(buf_view(&whole)), expected);
}

/* What is meant for something else, and would become a file of that odd name; `./stderr` is a file all the same. */
static bool is_no_file_of_decisions(struct str s)
{
    return str_eq_z(s, "stderr") || str_eq_z(s, "syslog") || str_starts(s, STR("file:"));
}

bool read_decisions(const struct option *o, const struct incoming *in, void *to, struct shown *expected)
{
    (void)o;
    static const struct str UNIX = STR("syslog:unix:");
    if (str_eq_z(in->text, "stdout") || str_eq_z(in->text, "none"))
        return value_replace(to, str_dup(in->text), expected);
    if (sink_is_syslog(in->text) && !sink_syslog_is_valid(in->text))
        return value_expect(expected, "syslog:unix:PATH, syslog+tcp://HOST:PORT or syslog+tls://HOST:PORT");
    if (str_starts(in->text, UNIX))
        return socket_path_into(to, in, expected);
    if (sink_is_syslog(in->text))
        return value_replace(to, str_dup(in->text), expected);
    return is_path(in->text) && !is_no_file_of_decisions(in->text)
               ? path_into(to, in, in->text, expected)
               : value_expect(expected, "stdout, none, the path of a file, or a syslog server");
}

/* Parameters of libpq's URI that are paths of files. */
static bool is_file_parameter(struct str name)
{
    static const char *const FILES[] = {"sslrootcert", "sslcert", "sslkey", "sslcrl", "sslcrldir", "passfile"};
    for (size_t i = 0; i < sizeof FILES / sizeof *FILES; i++)
        if (str_eq_z(name, FILES[i]))
            return true;
    return false;
}

/* libpq's URI; relative paths in it are relative to the file that names them, like all others. */
static bool postgres_into(char **to, const struct incoming *in, struct str rest, struct shown *expected)
{
    struct buf b BUF_CLEANUP = BUF_INIT_SECRET(64 << 10);
    buf_z(&b, "postgresql://");
    for (size_t i = 0; i < rest.n; i++) {
        buf_char(&b, rest.p[i]);
        if (rest.p[i] != '?' && rest.p[i] != '&')
            continue;
        const struct str left = {rest.p + i + 1, rest.n - i - 1};
        const char *equals = memchr(left.p, '=', left.n);
        const struct str name = {left.p, equals ? (size_t)(equals - left.p) : 0};
        if (!is_file_parameter(name) || name.n + 1 == left.n)
            continue;
        const struct str value = {equals + 1, left.n - name.n - 1};
        const bool absolute = str_starts(value, STR("/")) || str_starts(value, STR("&")) ||
                              str_starts(value, STR("%2F")) || str_starts(value, STR("%2f"));
        buf_str(&b, (struct str){name.p, name.n + 1});
        if (!absolute)
            uri_percent_encode(str_z(in->folder), "/.-_", &b);
        i += name.n + 1;
    }
    if (b.failed || memchr(rest.p, '\0', rest.n) || memchr(rest.p, '\n', rest.n) || memchr(rest.p, ' ', rest.n))
        return value_expect(expected, "a URI of libpq without blanks");
    return value_replace(to, str_dup(buf_view(&b)), expected);
}

bool read_keys(const struct option *o, const struct incoming *in, void *to, struct shown *expected)
{
    struct str rest;
    (void)o;
    if (value_after(in->text, STR("sqlite:"), &rest))
        return path_into(to, in, rest, expected) || value_expect(expected, "sqlite:PATH");
    if (!value_after(in->text, STR("postgresql://"), &rest) && !value_after(in->text, STR("postgres://"), &rest))
        return value_expect(expected, "sqlite:PATH or postgresql://…");
#ifdef KMSGATE_FLEET
    return postgres_into(to, in, rest, expected);
#else
    (void)postgres_into;
    return value_expect(expected, "sqlite:PATH: this kmsgate was built without KMSGATE_FLEET, which PostgreSQL needs");
#endif
}

static bool is_variable(struct str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (!((s.p[i] >= 'A' && s.p[i] <= 'Z') || (s.p[i] >= 'a' && s.p[i] <= 'z') || s.p[i] == '_' ||
              (i && s.p[i] >= '0' && s.p[i] <= '9')))
            return false;
    return s.n > 0;
}

bool read_secret(const struct option *o, const struct incoming *in, void *to, struct shown *expected)
{
    struct secret_source *s = to;
    struct str name;
    (void)o;
    if (value_after(in->text, STR("file:"), &name) && path_into(&s->name, in, name, expected))
        s->kind = SECRET_FILE;
    else if (value_after(in->text, STR("env:"), &name) && is_variable(name) &&
             value_replace(&s->name, str_dup(name), expected))
        s->kind = SECRET_ENV;
    else
        return value_expect(expected, "file:PATH or env:NAME");
    return true;
}

/* One of the list; `to` is the first's place in its struct config. */
bool read_master_key(const struct option *o, const struct incoming *in, void *to, struct shown *expected)
{
    struct config *c = (struct config *)(void *)((char *)to - o->offset);
    if (c->master_key.kind == SECRET_NONE)
        return read_secret(o, in, to, expected);
    if (c->master_more_n == MASTER_KEYS_MAX - 1)
        return value_expect(expected, "at most 8 master keys");
    if (!read_secret(o, in, &c->master_more[c->master_more_n], expected))
        return false;
    c->master_more_n++;
    return true;
}

void config_clear_masters(struct config *c)
{
    free(c->master_key.name);
    for (size_t i = 0; i < MASTER_KEYS_MAX - 1; i++)
        free(c->master_more[i].name);
    memset(&c->master_key, 0, sizeof c->master_key);
    memset(c->master_more, 0, sizeof c->master_more);
    c->master_more_n = 0;
}

bool read_counter(const struct option *o, const struct incoming *in, void *to, struct shown *expected)
{
    struct str name;
    (void)o;
    return (value_after(in->text, STR("file:"), &name) && path_into(to, in, name, expected)) ||
           value_expect(expected, "file:PATH");
}

bool read_size(const struct option *o, const struct incoming *in, void *to, struct shown *expected)
{
    const struct yaml_range *r = o->arg;
    int64_t bytes;
    if (!size_parse(in->text, &bytes) || bytes < r->min || bytes > r->max) {
        snprintf(expected->z, sizeof expected->z, "a size such as 64KiB, from %.20s to %.20s", size_show(r->min).z,
                 size_show(r->max).z);
        return false;
    }
    *(size_t *)to = (size_t)bytes;
    return true;
}

bool read_duration(const struct option *o, const struct incoming *in, void *to, struct shown *expected)
{
    const struct yaml_range *r = o->arg;
    int64_t us;
    if (!duration_parse(in->text, &us) || us < r->min || us > r->max) {
        snprintf(expected->z, sizeof expected->z, "a duration such as 200ms, 5s or 7d, from %.20s to %.20s",
                 duration_show(r->min).z, duration_show(r->max).z);
        return false;
    }
    *(int64_t *)to = us;
    return true;
}

bool read_count(const struct option *o, const struct incoming *in, void *to, struct shown *expected)
{
    const struct yaml_range *r = o->arg;
    uint64_t value;
    if (!str_to_u64(in->text, (uint64_t)r->max, &value) || value < (uint64_t)r->min) {
        snprintf(expected->z, sizeof expected->z, "a number from %lld to %lld", (long long)r->min, (long long)r->max);
        return false;
    }
    *(unsigned *)to = (unsigned)value;
    return true;
}

bool read_choice(const struct option *o, const struct incoming *in, void *to, struct shown *expected)
{
    size_t n = 0;
    expected->z[0] = '\0';
    for (const struct yaml_choice *c = o->arg; c->name; c++) {
        if (str_eq_z(in->text, c->name)) {
            *(int *)to = c->value;
            return true;
        }
        n += (size_t)snprintf(expected->z + n, sizeof expected->z - n, "%s%s", n ? ", " : "one of ", c->name);
        n = n < sizeof expected->z ? n : sizeof expected->z - 1;
    }
    return false;
}

bool read_switch(const struct option *o, const struct incoming *in, void *to, struct shown *expected)
{
    const bool on = str_eq_z(in->text, "on") || str_eq_z(in->text, "true");
    (void)o;
    if (!on && !str_eq_z(in->text, "off") && !str_eq_z(in->text, "false"))
        return value_expect(expected, "on or off");
    *(bool *)to = on;
    return true;
}

/* As Debian's adduser would have it, or a number. Whether there is such a user is another question. */
bool read_user(const struct option *o, const struct incoming *in, void *to, struct shown *expected)
{
    bool good = in->text.n > 0 && in->text.n <= 32 && in->text.p[0] != '-';
    (void)o;
    for (size_t i = 0; i < in->text.n && good; i++)
        good = memchr(USER_CHARS, in->text.p[i], sizeof USER_CHARS - 1);
    if (!good || str_eq_z(in->text, "root") || str_eq_z(in->text, "0"))
        return value_expect(expected, "the name or number of a user, and not root");
    return value_replace(to, str_dup(in->text), expected);
}

bool config_port(struct str s, uint16_t *port)
{
    uint64_t v;
    if (s.n == 0 || s.n > 5 || (s.n > 1 && s.p[0] == '0') || !str_to_u64(s, UINT16_MAX, &v))
        return false;
    *port = (uint16_t)v;
    return true;
}

static bool inet_address(struct str text, struct listen_config *out)
{
    char host[INET6_ADDRSTRLEN];
    const char *colon = memrchr(text.p, ':', text.n);
    uint16_t port;
    if (!colon || !config_port((struct str){colon + 1, (size_t)(text.p + text.n - colon - 1)}, &port))
        return false;
    struct str h = {text.p, (size_t)(colon - text.p)};
    const bool six = h.n > 2 && h.p[0] == '[' && h.p[h.n - 1] == ']';
    if (six)
        h = (struct str){h.p + 1, h.n - 2};
    if (h.n == 0 || h.n >= sizeof host)
        return false;
    memcpy(host, h.p, h.n);
    host[h.n] = '\0';
    if (six) {
        struct sockaddr_in6 sa = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
        if (inet_pton(AF_INET6, host, &sa.sin6_addr) != 1)
            return false;
        memcpy(&out->sa, &sa, sizeof sa);
        out->sa_len = sizeof sa;
    } else {
        struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(port)};
        if (inet_pton(AF_INET, host, &sa.sin_addr) != 1)
            return false;
        memcpy(&out->sa, &sa, sizeof sa);
        out->sa_len = sizeof sa;
    }
    return true;
}

/* The address as written; of a Unix socket with its path resolved. */
static bool unix_address(const struct incoming *in, struct str path, struct listen_config *out, struct shown *expected)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    char *full = is_path(path) ? path_resolve(in->folder, path) : NULL;
    const size_t n = full ? strlen(full) : 0;
    struct buf b BUF_CLEANUP = BUF_INIT(2 * PATH_MAX);
    buf_printf(&b, "unix:%s", full ? full : "");
    char *address = n && n < sizeof sa.sun_path ? str_dup(buf_view(&b)) : NULL;
    if (address)
        memcpy(sa.sun_path, full, n);
    free(full);
    if (!address || !value_replace(&out->address, address, expected))
        return value_expect(expected, "unix:PATH of at most 107 bytes");
    memcpy(&out->sa, &sa, sizeof sa);
    out->sa_len = sizeof sa;
    return true;
}

bool address_parse(const struct incoming *in, bool unix_too, struct listen_config *out, struct shown *expected)
{
    struct str path;
    if (unix_too && value_after(in->text, STR("unix:"), &path))
        return unix_address(in, path, out, expected);
    if (inet_address(in->text, out))
        return value_replace(&out->address, str_dup(in->text), expected);
    return value_expect(expected, unix_too ? "ADDRESS:PORT such as 0.0.0.0:8443 or [::1]:8443, or unix:PATH"
                                     : "ADDRESS:PORT such as 127.0.0.1:9090 or [::1]:9090");
}

bool read_admin(const struct option *o, const struct incoming *in, void *to, struct shown *expected)
{
    (void)o;
    return address_parse(in, false, to, expected);
}

bool config_is_host(struct str h)
{
    if (h.n > 2 && h.p[0] == '[') {
        char z[INET6_ADDRSTRLEN];
        struct in6_addr six;
        if (h.p[h.n - 1] != ']' || h.n - 2 >= sizeof z)
            return false;
        memcpy(z, h.p + 1, h.n - 2);
        z[h.n - 2] = '\0';
        return inet_pton(AF_INET6, z, &six) == 1;
    }
    for (size_t i = 0; i < h.n; i++)
        if (!((h.p[i] >= 'a' && h.p[i] <= 'z') || (h.p[i] >= 'A' && h.p[i] <= 'Z') ||
              (h.p[i] >= '0' && h.p[i] <= '9') || h.p[i] == '-' || h.p[i] == '.' || h.p[i] == '_'))
            return false;
    return h.n > 0 && h.n <= 253;
}

/* An absolute http(s) URL of scheme, host, port and path alone; a trailing slash is cut off. */
static bool is_base_url(struct str url, struct str *out)
{
    struct str rest;
    uint16_t port = 1;
    if ((!value_after(url, STR("http://"), &rest) && !value_after(url, STR("https://"), &rest)) || !uri_is_any_uri(url))
        return false;
    if (memchr(rest.p, '?', rest.n) || memchr(rest.p, '#', rest.n) || memchr(rest.p, '@', rest.n))
        return false;
    const char *slash = memchr(rest.p, '/', rest.n);
    struct str host = {rest.p, slash ? (size_t)(slash - rest.p) : rest.n};
    const char *bracket = memchr(host.p, ']', host.n);
    const size_t skip = bracket ? (size_t)(bracket - host.p) : 0;
    const char *colon = memchr(host.p + skip, ':', host.n - skip);
    if (colon) {
        if (!config_port((struct str){colon + 1, (size_t)(host.p + host.n - colon - 1)}, &port))
            return false;
        host.n = (size_t)(colon - host.p);
    }
    *out = url;
    while (slash && out->n && out->p[out->n - 1] == '/')
        out->n--;
    return port && config_is_host(host);
}

bool read_upstream_url(const struct option *o, const struct incoming *in, void *to, struct shown *expected)
{
    struct str url;
    (void)o;
    return is_base_url(in->text, &url)
               ? value_replace(to, str_dup(url), expected)
               : value_expect(expected, "http:// or https://, host, port and path; no user, query, fragment");
}

bool read_public_url(const struct option *o, const struct incoming *in, void *to, struct shown *expected)
{
    struct strings *s = to;
    struct str url;
    (void)o;
    if (!is_base_url(in->text, &url))
        return value_expect(expected, "http:// or https://, host, port and path; no user, query, fragment");
    for (size_t i = 0; i < s->n; i++)
        if (str_eq_z(url, s->v[i]))
            return value_expect(expected, "each URL once");
    return strings_add(s, url) || value_expect(expected, "more memory");
}
