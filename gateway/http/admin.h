/*
 * The admin address: pages behind the same guard and connections as the exchange, in a thread and with limits of its
 * own, so that it answers while workers are busy, and neither side's flood is the other's.
 *
 * A page is a function and a row in admin.c:
 *
 *     static void page_rules(struct server *s, const struct admin_request *q, struct admin_answer *a)
 *     {
 *         a->type = "application/json";
 *         rules_json(s, &a->body);
 *     }
 *     {"/rules", page_rules, ADMIN_KNOWN},
 *
 * It runs in the admin thread and must not block.
 */
#ifndef KMSGATE_HTTP_ADMIN_H
#define KMSGATE_HTTP_ADMIN_H

#include "http/server.h"

enum { ADMIN_TOKEN_MAX = 512, ADMIN_BODY_MAX = 64 << 20 };

struct admin_request {
    struct str path, query; /* query: behind the question mark; missing: none */
    struct str body;        /* of a POST */
    bool known;             /* by token or session, or since none is needed, and by a Host that no foreign page has */
    uint64_t session;       /* by which it is known; 0: it is not by one */
    bool head_only;         /* HEAD: the body of the answer is only measured */
    const struct conn *conn; /* for its headers and its peer */
};

/* As it comes: 200, text/plain, nothing in it. A body that runs out of memory becomes a 503. */
struct admin_answer {
    int status;
    const char *type;
    struct buf headers;    /* more header lines, with their ends; nothing of a stranger's goes in there */
    struct buf body;
    struct stream *stream; /* what follows the body as it comes; NULL: nothing */
};

typedef void admin_page(struct server *s, const struct admin_request *q, struct admin_answer *a);

/* Who may see it. OPEN: everybody (probes have no token). KNOWN: who is known by token or session, and by the Host. A
 * post is for everybody: it looks for itself who sends it. */
enum admin_door { ADMIN_OPEN, ADMIN_KNOWN };
struct admin_route {
    const char *path;
    admin_page *get;  /* HEAD, too; NULL: it is not to be got */
    enum admin_door door;
    admin_page *post; /* NULL: it takes none */
};

/* admin.c: the route of a path; NULL: there is none. */
const struct admin_route *admin_route(struct str path);
/* False: it is refused before its body is read, by what a then says. */
bool admin_admits(struct server *s, const struct admin_request *q, struct admin_answer *a);
/* The page of a request that was admitted. */
void admin_show(struct server *s, const struct admin_request *q, struct admin_answer *a);

/* Why the gateway is not ready, in a word; NULL: it is. */
const char *admin_unready(const struct server *s);

/* admin_access.c: compared in constant time; false where there is none. */
bool admin_token_is(const struct server *s, struct str given);
/* By its Authorization, or since none is needed. */
bool admin_has_token(const struct server *s, const struct guard *g);
/* Without brackets and port; empty: there is none. */
struct str admin_host(const struct guard *g);
/* It is an address, or localhost. */
bool admin_host_is_local(const struct guard *g);
/* A web page that a browser on this machine shows may rename its own host to 127.0.0.1, and then read what stands here;
 * its requests still carry its name. Where there is a token, it does not know that. */
bool admin_host_holds(const struct server *s, const struct guard *g);

/* admin_signin.c: the session whose cookie the request has, and, unless the page asks by itself, that it is used; 0:
 * none. */
uint64_t admin_session(const struct server *s, const struct conn *c);
/* 401: a program is told, and a browser gets the form. */
void admin_ask(const struct admin_request *q, struct admin_answer *a);
admin_page admin_signin_page, admin_signin_css, admin_signin, admin_signout;

/* admin_decisions.c */
admin_page admin_decisions;
/* Decisions as they are made, a line each. At most STREAMS_MOST at a time. */
enum { STREAMS_MOST = 16, STREAM_WAITING = 256 << 10 };
/* Appends what is new and wanted until out holds `room` octets; false without memory. A slow reader loses lines that
 * are no longer kept, and is told how many: {"lost":N}. */
bool stream_pump(struct stream *t, size_t room, struct buf *out);
void stream_free(struct stream *t); /* NULL is fine */
/* It ends with this session; 0: with none. */
void stream_bind(struct stream *t, uint64_t session);
uint64_t stream_session(const struct stream *t);

#endif
