/*
 * The console at `/` of the admin address: a page, its script and its style, and the JSON under /api/ that the page
 * shows. Read-only. docker/ADMIN-API.md describes the JSON.
 *
 *     {"/", console_page, ADMIN_KNOWN, NULL}, {"/api/state", console_page, ADMIN_KNOWN, NULL}, …     rows of admin.c
 *
 * Who may ask is admin.c's to know: nothing here looks at a token, a session or a Host.
 */
#ifndef KMSGATE_HTTP_CONSOLE_H
#define KMSGATE_HTTP_CONSOLE_H

#include "base/json.h"
#include "http/admin.h"

/* What a browser is told of each page of this address: nothing but what comes from here, no inline script or style, no
 * frame around it, no form to elsewhere. */
extern const char CONSOLE_HEADERS[];

/* Of a path that it has; a query to the JSON is refused. */
admin_page console_page;

/* Inside console*.c: each writes one JSON object. */
void console_state(struct server *s, int64_t now_us, struct json *j);
void console_rules(struct server *s, int64_t now_us, struct json *j);
void console_keys(struct server *s, int64_t now_us, struct json *j);
void console_reasons(struct json *j);
/* A member with an instant; TIME_NONE writes nothing. */
void console_time(struct json *j, const char *key, int64_t us);

#endif
