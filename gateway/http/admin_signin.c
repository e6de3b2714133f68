#include <openssl/x509v3.h>
#include <string.h>

#include "base/log.h"
#include "base/uri.h"
#include "http/admin.h"

/*
 * The sign-in at the console: the admin_token by a form, and a cookie from then on. Over TLS, or where the address is
 * loopback; elsewhere both would go over the network in clear, and there is no form.
 */

static const char SIGNIN_HEADERS[] =
    "Content-Security-Policy: default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'\r\n"
    "Referrer-Policy: same-origin\r\n" /* with less, a browser would not say where the form came from */
    "Cross-Origin-Opener-Policy: same-origin\r\n"
    "Cross-Origin-Resource-Policy: same-origin\r\n";

static const char SIGNIN_TOP[] =
    "<!doctype html>\n"
    "<html lang=\"en\">\n"
    "<meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
    "<title>Sign in - kmsgate</title>\n"
    "<link rel=\"stylesheet\" href=\"/sign-in.css\">\n"
    "<main>\n"
    "<h1>kmsgate</h1>\n";

static const char SIGNIN_FORM[] =
    "<form method=\"post\" action=\"/sign-in\">\n"
    "<label for=\"token\">Admin token</label>\n"
    "<input id=\"token\" name=\"token\" type=\"password\" autocomplete=\"current-password\" required autofocus>\n"
    "<button>Sign in</button>\n"
    "</form>\n";

static const char SIGNIN_NO_FORM[] =
    "<p>This address speaks plain HTTP, over which a token could be read on its way. To sign in here, give it a\n"
    "certificate: <code>admin: { address: &hellip;, tls: { certificate: &hellip;, key: &hellip; } }</code>\n"
    "in <code>gateway.yaml</code>. Or let the gateway listen on <code>127.0.0.1</code> alone, and reach it by\n"
    "<code>ssh -L 9090:127.0.0.1:9090</code>.</p>\n"
    "<p>Programs send <code>Authorization: Bearer</code> and the token.</p>\n";

static const char SIGNIN_CSS[] =
    ":root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif }\n"
    "body { margin: 0; background: Canvas; color: CanvasText }\n"
    "main { max-width: 24rem; margin: 12vh auto 0; padding: 0 1rem }\n"
    "label, input, button { display: block; width: 100%; box-sizing: border-box; font: inherit }\n"
    "input, button { margin-top: .5rem; padding: .5rem; min-height: 2.75rem }\n"
    "[role=alert] { border-left: .25rem solid; padding-left: .75rem; font-weight: 600 }\n"
    "code { overflow-wrap: anywhere }\n";

/* Where a cookie is taken and set, and under which name: one that begins so is never sent in clear, nor to or from
 * another host. On loopback it cannot have that, since browsers keep such cookies to TLS. NULL: nowhere here. */
static const char *cookie_name(const struct conn *c)
{
    return c->tls ? "__Host-kmsgate" : config_is_loopback(c->listener->config) ? "kmsgate" : NULL;
}

static struct str cookie_of(const struct conn *c)
{
    const char *name = cookie_name(c);
    struct str found = STR_MISSING;
    for (size_t i = 0; name && i < c->guard.header_count; i++) {
        struct str rest = c->guard.headers[i].value;
        if (!str_ieq_z(c->guard.headers[i].name, "cookie"))
            continue;
        while (rest.n && !found.p) {
            const char *end = memchr(rest.p, ';', rest.n);
            const struct str pair = str_trim((struct str){rest.p, end ? (size_t)(end - rest.p) : rest.n});
            const char *equals = memchr(pair.p, '=', pair.n);
            if (equals && str_eq_z((struct str){pair.p, (size_t)(equals - pair.p)}, name))
                found = (struct str){equals + 1, (size_t)(pair.p + pair.n - equals - 1)};
            rest = end ? (struct str){end + 1, (size_t)(rest.p + rest.n - end - 1)} : STR("");
        }
    }
    return found;
}

/* By TLS it is a name of the certificate; on loopback an address or localhost. No web page of others has such a Host,
 * however its own name resolves. */
static bool host_is_own(const struct conn *c)
{
    char host[256];
    const struct str name = admin_host(&c->guard);
    if (!c->tls)
        return admin_host_is_local(&c->guard);
    if (!name.n || name.n >= sizeof host)
        return false;
    memcpy(host, name.p, name.n);
    host[name.n] = '\0';
    X509 *own = conn_certificate(c);
    return own && (X509_check_ip_asc(own, host, 0) == 1 || X509_check_host(own, host, name.n, 0, NULL) == 1);
}

/* Whoever posts is a page of ours: its Origin is this very address. */
static bool origin_is_own(const struct conn *c)
{
    const struct str host = guard_header(&c->guard, "host");
    struct buf own BUF_CLEANUP = BUF_INIT(1024);
    buf_z(&own, c->tls ? "https://" : "http://");
    buf_str(&own, host);
    const struct str origin = guard_header(&c->guard, "origin");
    return !own.failed && origin.p && str_ieq_z(origin, own.p);
}

uint64_t admin_session(const struct server *s, const struct conn *c)
{
    const struct str name = cookie_of(c);
    const bool attended = !guard_header(&c->guard, "x-kmsgate-unattended").p; /* console/text.js */
    return s->admin_token && name.p && host_is_own(c) ? sessions_use(s->sessions, name, time_mono_us(), attended) : 0;
}

static void put_page(const struct conn *c, struct admin_answer *a, const char *alert)
{
    a->type = "text/html; charset=utf-8";
    buf_z(&a->headers, SIGNIN_HEADERS);
    buf_z(&a->body, SIGNIN_TOP);
    if (alert)
        buf_printf(&a->body, "<p role=\"alert\">%s</p>\n", alert);
    buf_z(&a->body, cookie_name(c) ? SIGNIN_FORM : SIGNIN_NO_FORM);
    buf_z(&a->body, "</main>\n</html>\n");
}

static void go_to(struct admin_answer *a, const char *path)
{
    a->status = 303;
    buf_printf(&a->headers, "Location: %s\r\n", path);
}

void admin_ask(const struct admin_request *q, struct admin_answer *a)
{
    const struct str accept = guard_header(&q->conn->guard, "accept");
    a->status = 401;
    buf_z(&a->headers, "WWW-Authenticate: Bearer\r\n");
    if (accept.n && memmem(accept.p, accept.n, "text/html", 9))
        put_page(q->conn, a, NULL);
    else
        buf_z(&a->body, "expected `Authorization: Bearer` and the admin_token\n");
}

void admin_signin_page(struct server *s, const struct admin_request *q, struct admin_answer *a)
{
    (void)s;
    if (q->known)
        go_to(a, "/");
    else
        put_page(q->conn, a, NULL);
}

void admin_signin_css(struct server *s, const struct admin_request *q, struct admin_answer *a)
{
    (void)s;
    (void)q;
    a->type = "text/css; charset=utf-8";
    buf_z(&a->body, SIGNIN_CSS);
}

/* The form's only field, decoded into out; false: it is another. */
static bool read_form(struct str body, struct buf *out)
{
    static const struct str FIELD = STR("token=");
    struct buf plus BUF_CLEANUP = BUF_INIT_SECRET(4 * ADMIN_TOKEN_MAX);
    if (!str_starts(body, FIELD) || memchr(body.p, '&', body.n))
        return false;
    for (size_t i = FIELD.n; i < body.n; i++)
        buf_char(&plus, body.p[i] == '+' ? ' ' : body.p[i]);
    return plus.n && !plus.failed && uri_percent_decode(buf_view(&plus), out) && out->n && !out->failed;
}

static bool is_form(const struct guard *g)
{
    const struct str type = guard_header(g, "content-type");
    const char *end = type.n ? memchr(type.p, ';', type.n) : NULL;
    return type.p && str_ieq_z(str_trim((struct str){type.p, end ? (size_t)(end - type.p) : type.n}),
                               "application/x-www-form-urlencoded");
}

/* Why this post is nobody's who signs in; false: it may be. */
static bool refuse_post(const struct admin_request *q, struct admin_answer *a)
{
    const struct conn *c = q->conn;
    a->status = 403;
    if (!cookie_name(c))
        put_page(c, a, "Not over plain HTTP.");
    else if (!host_is_own(c))
        put_page(c, a, c->tls ? "Open this page by a name of its certificate." : "Open this page as localhost.");
    else if (!origin_is_own(c))
        put_page(c, a, "This form was sent from another page.");
    else
        return false;
    return true;
}

static void set_cookie(const struct conn *c, struct admin_answer *a, const char *value, const char *more)
{
    buf_printf(&a->headers, "Set-Cookie: %s=%s; Path=/; HttpOnly;%s SameSite=Strict%s\r\n", cookie_name(c), value,
               c->tls ? " Secure;" : "", more);
}

static void sign_in(struct server *s, const struct admin_request *q, struct admin_answer *a, const char *from)
{
    char name[SESSIONS_NAME];
    sessions_end(s->sessions, cookie_of(q->conn));
    if (!sessions_begin(s->sessions, time_mono_us(), name)) {
        a->status = 503;
        put_page(q->conn, a, "No session can be made.");
        return;
    }
    log_info("admin", from, "signed in at the console");
    set_cookie(q->conn, a, name, "");
    secret_wipe(name, sizeof name);
    go_to(a, "/");
}

void admin_signin(struct server *s, const struct admin_request *q, struct admin_answer *a)
{
    char from[IP_TEXT] = "unknown", text[80];
    struct buf token BUF_CLEANUP = BUF_INIT_SECRET(4 * ADMIN_TOKEN_MAX);
    if (refuse_post(q, a))
        return;
    if (!is_form(&q->conn->guard) || !read_form(q->body, &token)) {
        a->status = is_form(&q->conn->guard) ? 400 : 415;
        put_page(q->conn, a, "This is not the form of this page.");
        return;
    }
    if (q->conn->peer.known)
        ip_format(&q->conn->peer, from);
    const unsigned wait = s->admin_token ? sessions_try(s->sessions, &q->conn->peer, time_mono_us()) : 0;
    if (wait) {
        a->status = 429;
        buf_printf(&a->headers, "Retry-After: %u\r\n", wait);
        snprintf(text, sizeof text, "Too many tries. The next one is possible in %u seconds.", wait);
        put_page(q->conn, a, text);
    } else if (!s->admin_token) {
        go_to(a, "/");
    } else if (admin_token_is(s, buf_view(&token))) {
        sign_in(s, q, a, from);
    } else {
        log_warn("admin", from, "a sign-in at the console was refused: another token");
        a->status = 401;
        buf_z(&a->headers, "WWW-Authenticate: Bearer\r\n");
        put_page(q->conn, a, "This is not the admin token.");
    }
}

void admin_signout(struct server *s, const struct admin_request *q, struct admin_answer *a)
{
    if (refuse_post(q, a))
        return;
    sessions_end(s->sessions, cookie_of(q->conn));
    set_cookie(q->conn, a, "", "; Max-Age=0");
    go_to(a, "/sign-in");
}
