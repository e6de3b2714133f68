#include "http/console.h"

#include "http/census.h"
#include "http/console_css.h" /* these are made by CMake of gateway/http/console/ */
#include "http/console_html.h"
#include "http/console_js_console.h"
#include "http/console_js_decisions.h"
#include "http/console_js_detail.h"
#include "http/console_js_fleet.h"
#include "http/console_js_ruled.h"
#include "http/console_js_state.h"
#include "http/console_js_text.h"
#include "http/console_svg.h"

const char CONSOLE_HEADERS[] =
    "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'\r\n"
    "Referrer-Policy: same-origin\r\n" /* with less, a browser would not say where a sign-out came from */
    "Cross-Origin-Opener-Policy: same-origin\r\n"
    "Cross-Origin-Resource-Policy: same-origin\r\n";

#define JAVASCRIPT "text/javascript; charset=utf-8"
/* What stands there whatever happens. */
static const struct page {
    const char *path, *type;
    const unsigned char *p;
    size_t n;
} PAGES[] = {
    {"/", "text/html; charset=utf-8", CONSOLE_HTML, sizeof CONSOLE_HTML},
    {"/console.js", JAVASCRIPT, CONSOLE_JS_CONSOLE, sizeof CONSOLE_JS_CONSOLE},
    {"/console/decisions.js", JAVASCRIPT, CONSOLE_JS_DECISIONS, sizeof CONSOLE_JS_DECISIONS},
    {"/console/detail.js", JAVASCRIPT, CONSOLE_JS_DETAIL, sizeof CONSOLE_JS_DETAIL},
    {"/console/fleet.js", JAVASCRIPT, CONSOLE_JS_FLEET, sizeof CONSOLE_JS_FLEET},
    {"/console/ruled.js", JAVASCRIPT, CONSOLE_JS_RULED, sizeof CONSOLE_JS_RULED},
    {"/console/state.js", JAVASCRIPT, CONSOLE_JS_STATE, sizeof CONSOLE_JS_STATE},
    {"/console/text.js", JAVASCRIPT, CONSOLE_JS_TEXT, sizeof CONSOLE_JS_TEXT},
    {"/console.css", "text/css; charset=utf-8", CONSOLE_CSS, sizeof CONSOLE_CSS},
    {"/console.svg", "image/svg+xml", CONSOLE_SVG, sizeof CONSOLE_SVG},
};

static void tell_traffic(struct server *s, int64_t now_us, struct json *j)
{
    census_tell_traffic(s->census, now_us, j);
}

static void tell_passes(struct server *s, int64_t now_us, struct json *j)
{
    census_tell_passes(s->census, now_us, j);
}

static void tell_clocks(struct server *s, int64_t now_us, struct json *j)
{
    census_tell_clocks(s->census, now_us, j);
}

static void tell_reasons(struct server *s, int64_t now_us, struct json *j)
{
    (void)s;
    (void)now_us;
    console_reasons(j);
}

static const struct api {
    const char *path;
    void (*tell)(struct server *s, int64_t now_us, struct json *j);
} APIS[] = {
    {"/api/state", console_state}, {"/api/traffic", tell_traffic}, {"/api/passes", tell_passes},
    {"/api/clocks", tell_clocks},  {"/api/keys", console_keys},    {"/api/rules", console_rules},
    {"/api/reasons", tell_reasons},
};

void console_time(struct json *j, const char *key, int64_t us)
{
    char text[TIME_TEXT];
    if (us == TIME_NONE)
        return;
    time_format(us, false, text);
    json_string(j, key, str_z(text), 0);
}

static void console_tell(struct server *s, const struct api *api, const struct admin_request *q, struct admin_answer *a)
{
    struct json j = {.out = &a->body};
    if (q->query.p) {
        a->status = 400;
        buf_printf(&a->body, "expected %s without a query\n", api->path);
        return;
    }
    a->type = "application/json";
    api->tell(s, time_now_us(), &j);
}

void console_page(struct server *s, const struct admin_request *q, struct admin_answer *a)
{
    buf_z(&a->headers, CONSOLE_HEADERS);
    for (size_t i = 0; i < sizeof PAGES / sizeof *PAGES; i++)
        if (str_eq_z(q->path, PAGES[i].path)) {
            a->type = PAGES[i].type;
            buf_bytes(&a->body, PAGES[i].p, PAGES[i].n);
        }
    for (size_t i = 0; i < sizeof APIS / sizeof *APIS; i++)
        if (str_eq_z(q->path, APIS[i].path))
            console_tell(s, &APIS[i], q, a);
}
