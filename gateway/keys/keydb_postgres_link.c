#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/timestamp.h"
#include "keys/keydb_postgres_target.h"

/* An SSL layer may hold octets that no poll sees: nobody waits longer than this without looking. */
enum { LOOK_MS = 20 };
/* A server that could not be reached is left alone for so long; one that said so at once is asked sooner. */
enum { AGAIN_MS = 1000, AGAIN_SOON_MS = 200, AT_ONCE_MS = 100 };

static int64_t ms_ahead(int ms)
{
    return time_mono_us() + ms * INT64_C(1000);
}

/* The server's words, on one line, with nothing that a terminal or a log would act on. */
static void said(struct detail *why, const char *before, const char *text)
{
    char line[160];
    size_t n = 0;
    for (bool gap = false; text && *text && n < sizeof line - 1; text++) {
        const bool plain = *text > ' ' && *text <= '~';
        if (plain && gap && n)
            line[n++] = ' ';
        if (plain && n < sizeof line - 1)
            line[n++] = *text;
        gap = !plain;
    }
    line[n] = 0;
    detail_set(why, "%s: %s", before, n ? line : "no reason was given");
}

static void on_notice(void *arg, const PGresult *r)
{
    struct keydb_postgres *db = arg;
    const char *severity = PQresultErrorField(r, PG_DIAG_SEVERITY_NONLOCALIZED);
    db->warned |= severity && str_eq_z(str_z(severity), "WARNING");
}

/* Until the socket can be read, or written; at most LOOK_MS. False when `until` has passed. */
static bool wait_for(PGconn *c, bool reading, bool writing, int64_t until)
{
    const int64_t left = (until - time_mono_us()) / 1000;
    struct pollfd p = {PQsocket(c), (short)((reading ? POLLIN : 0) | (writing ? POLLOUT : 0)), 0};
    if (left < 0 || p.fd < 0)
        return false;
    (void)poll(&p, 1, left < LOOK_MS ? (int)left : LOOK_MS);
    return true;
}

void pg_drop(struct keydb_postgres *db)
{
    PQfinish(db->conn); /* it never blocks: the connection is a nonblocking one */
    db->conn = NULL;
    db->in = PG_IDLE;
    db->known = false;
    db->said[0] = '\0';
    pg_hand_free(db->hand);
    db->hand = NULL;
}

/* What an SQLSTATE is to a caller. */
static enum keydb_result kind_of(const char *state)
{
    static const struct {
        const char *begin;
        enum keydb_result r;
    } KINDS[] = {{"55P03", KEYDB_BUSY}, {"40", KEYDB_BUSY},    {"08", KEYDB_AWAY},
                 {"57", KEYDB_AWAY},    {"25006", KEYDB_AWAY}, {"25P03", KEYDB_AWAY}};
    for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++)
        if (str_starts(str_z(state), str_z(KINDS[i].begin)))
            return KINDS[i].r;
    return KEYDB_FAILED;
}

static enum keydb_result lost(struct keydb_postgres *db, const char *doing, struct detail *why)
{
    char before[64];
    snprintf(before, sizeof before, "cannot %s: the connection broke", doing);
    said(why, before, PQerrorMessage(db->conn));
    pg_drop(db);
    return KEYDB_AWAY;
}

static enum keydb_result late(struct keydb_postgres *db, const char *doing, struct detail *why)
{
    detail_set(why, "cannot %s: PostgreSQL did not answer in time", doing);
    pg_drop(db);
    return KEYDB_AWAY;
}

static enum keydb_result link_fault(struct keydb_postgres *db, const PGresult *r, const char *doing, struct detail *why)
{
    const char *state = PQresultErrorField(r, PG_DIAG_SQLSTATE);
    const char *text = PQresultErrorField(r, PG_DIAG_MESSAGE_PRIMARY);
    char before[64];
    if (!state || PQstatus(db->conn) != CONNECTION_OK)
        return lost(db, doing, why);
    const enum keydb_result kind = kind_of(state);
    snprintf(before, sizeof before, "cannot %s", doing);
    said(why, before, text);
    const bool gone = str_eq_z(str_z(state), "42P01") || str_eq_z(str_z(state), "3F000");
    if (str_eq_z(str_z(state), "55P03"))
        detail_set(why, "cannot %s: another process is writing", doing);
    else if (gone)
        detail_set(why, PG_NO_TABLES);
    if (kind == KEYDB_AWAY || gone)
        pg_drop(db);
    return kind;
}

/* The next result of what was asked, NULL behind the last; *r tells how it went. */
static PGresult *next_result(struct keydb_postgres *db, int64_t until, const char *doing, enum keydb_result *r,
                             struct detail *why)
{
    /* what has come is taken before more is asked for: PQconsumeInput() moves all that waits, for each row again */
    while (PQisBusy(db->conn)) {
        const int unsent = PQflush(db->conn);
        if (unsent < 0 || !PQconsumeInput(db->conn)) {
            *r = lost(db, doing, why);
            return NULL;
        }
        if (PQisBusy(db->conn) && !wait_for(db->conn, true, unsent > 0, until)) {
            *r = late(db, doing, why);
            return NULL;
        }
    }
    return PQgetResult(db->conn);
}

static enum keydb_result take_rows(struct keydb_postgres *db, const PGresult *r, const struct pg_ask *ask,
                                   struct detail *why)
{
    if (!ask->row)
        return KEYDB_OK;
    bool ok = PQnfields(r) == ask->columns;
    for (int i = 0; ok && i < ask->columns; i++)
        ok = PQfformat(r, i) == 1;
    for (int row = 0; ok && row < PQntuples(r); row++) {
        struct pg_value v[PG_COLUMN_COUNT];
        for (int i = 0; i < ask->columns; i++)
            v[i] = (struct pg_value){PQgetvalue(r, row, i),
                                     PQgetisnull(r, row, i) ? -1 : PQgetlength(r, row, i)};
        if (!ask->row(ask->arg, v, why)) {
            pg_drop(db);
            return KEYDB_REFUSED;
        }
    }
    if (ok)
        return KEYDB_OK;
    detail_set(why, "tampered with: what it answers is not what was asked for");
    pg_drop(db);
    return KEYDB_REFUSED;
}

static bool send_ask(struct keydb_postgres *db, const struct pg_ask *ask)
{
    const char *values[PG_COLUMN_COUNT];
    int lengths[PG_COLUMN_COUNT], formats[PG_COLUMN_COUNT];
    for (int i = 0; i < ask->n; i++) {
        values[i] = ask->values[i].p;
        lengths[i] = ask->values[i].n;
        formats[i] = 1;
    }
    const int sent = ask->n || ask->row
                         ? PQsendQueryParams(db->conn, ask->sql, ask->n, ask->types, values, lengths, formats, 1)
                         : PQsendQuery(db->conn, ask->sql);
    return sent && (!ask->row || PQsetSingleRowMode(db->conn));
}

enum keydb_result pg_ask(struct keydb_postgres *db, const struct pg_ask *ask, struct detail *why)
{
    const int ms = ask->ms ? ask->ms : PG_ANSWER_MS;
    int64_t until = ms_ahead(ms);
    enum keydb_result r = KEYDB_OK, next = KEYDB_OK;
    if (!db->conn) {
        *why = db->away;
        return KEYDB_AWAY;
    }
    if (!send_ask(db, ask))
        return lost(db, ask->doing, why);
    for (PGresult *got; (got = next_result(db, until, ask->doing, &next, why));) {
        const ExecStatusType status = PQresultStatus(got);
        struct detail later;
        if (status == PGRES_SINGLE_TUPLE || status == PGRES_TUPLES_OK)
            next = r == KEYDB_OK ? take_rows(db, got, ask, why) : KEYDB_OK;
        else if (status == PGRES_COMMAND_OK)
            snprintf(db->tag, sizeof db->tag, "%s", PQcmdStatus(got));
        else
            next = link_fault(db, got, ask->doing, r == KEYDB_OK ? why : &later);
        PQclear(got);
        r = r == KEYDB_OK ? next : r;
        if (!db->conn)
            return r;
        until = ms_ahead(ms);
    }
    return r == KEYDB_OK ? next : r;
}

enum keydb_result pg_run(struct keydb_postgres *db, const char *sql, const char *doing, struct detail *why)
{
    const struct pg_ask ask = {.sql = sql, .doing = doing};
    return pg_ask(db, &ask, why);
}

enum keydb_result pg_commit(struct keydb_postgres *db, struct detail *why)
{
    const struct pg_ask commit = {.sql = "COMMIT", .doing = "commit", .ms = PG_COMMIT_MS};
    struct detail how;
    db->warned = false;
    db->tag[0] = 0;
    const enum keydb_result r = pg_ask(db, &commit, &how);
    if (r == KEYDB_OK && str_eq_z(str_z(db->tag), "COMMIT") && !db->warned)
        return KEYDB_OK;
    if (r == KEYDB_OK && db->warned)
        detail_set(why, "it was committed, but not by a standby that should have confirmed it: it may be lost");
    else if (r == KEYDB_AWAY)
        detail_set(why, "%.120s; the change may be done or not: look before you repeat it", how.text);
    else
        detail_set(why, "nothing was committed: %.120s", r == KEYDB_OK ? "it was rolled back" : how.text);
    return r == KEYDB_OK ? KEYDB_FAILED : r;
}

/* One message's worth of rows, or the end: *more false. */
static enum keydb_result copy_message(struct keydb_postgres *db, struct pg_copy *c, keydb_each each, void *arg,
                                      bool *more, struct detail *why)
{
    const int64_t until = ms_ahead(PG_STALL_MS);
    char *data = NULL;
    int n;
    while ((n = PQgetCopyData(db->conn, &data, 1)) == 0) {
        if (!wait_for(db->conn, true, false, until))
            return late(db, "read the keys", why);
        if (!PQconsumeInput(db->conn))
            return lost(db, "read the keys", why);
    }
    *more = n > 0;
    if (n == -2)
        return lost(db, "read the keys", why);
    const enum keydb_result r = n > 0 ? pg_copy_take(c, (struct str){data, (size_t)n}, each, arg, why) : KEYDB_OK;
    PQfreemem(data);
    return r;
}

enum keydb_result pg_copy_out(struct keydb_postgres *db, const char *sql, keydb_each each, void *arg,
                              struct detail *why)
{
    struct pg_copy c = {.rest = BUF_INIT(PG_COPY_MAX)};
    enum keydb_result r = KEYDB_OK;
    bool more = true;
    if (!db->conn || !PQsendQuery(db->conn, sql))
        return db->conn ? lost(db, "read the keys", why) : KEYDB_AWAY;
    PGresult *got = next_result(db, ms_ahead(PG_STALL_MS), "read the keys", &r, why);
    if (got && PQresultStatus(got) != PGRES_COPY_OUT) {
        r = link_fault(db, got, "read the keys", why);
        PQclear(got);
        return r;
    }
    PQclear(got);
    if (!got)
        return r == KEYDB_OK ? KEYDB_FAILED : r;
    while (r == KEYDB_OK && more)
        r = copy_message(db, &c, each, arg, &more, why);
    const bool whole = c.ended;
    buf_free(&c.rest);
    if (r != KEYDB_OK) {
        pg_drop(db);
        return r;
    }
    while ((got = next_result(db, ms_ahead(PG_ANSWER_MS), "read the keys", &r, why))) {
        if (PQresultStatus(got) != PGRES_COMMAND_OK && r == KEYDB_OK)
            r = link_fault(db, got, "read the keys", why);
        PQclear(got);
        if (!db->conn)
            return r;
    }
    if (r == KEYDB_OK && !whole) {
        detail_set(why, "tampered with: the rows end half way");
        r = KEYDB_REFUSED;
    }
    return r;
}

/* Plans without surprises: all but the whole is found by an index, whatever the server knows of the tables. A writer
 * that is gone or stopped holds the others up for half a minute at most, and what nobody waits for ends. */
static const char SETTLE[] =
    "SET client_min_messages = warning; SET search_path = pg_catalog, pg_temp; SET enable_seqscan = off;"
    "SET enable_bitmapscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET jit = off;"
    "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_session_timeout = 0;"
    "SET idle_in_transaction_session_timeout = '30s'; SET client_connection_check_interval = '2s';"
    "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;"
    "SET tcp_user_timeout = '20s'; SET default_transaction_deferrable = off;"
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";

static const char LOOK[] =
    "SELECT to_regclass('kmsgate.meta') IS NOT NULL, pg_is_in_recovery() OR "
    "current_setting('transaction_read_only') = 'on' OR NOT coalesce(has_table_privilege(to_regclass('kmsgate.meta'),"
    " 'UPDATE') AND has_table_privilege(to_regclass('kmsgate.keys'), 'INSERT'), false)";

static bool take_look(void *arg, const struct pg_value *v, struct detail *why)
{
    struct keydb_postgres *db = arg;
    if (v[0].n != 1 || v[1].n != 1) {
        detail_set(why, "tampered with: what it answers is not what was asked for");
        return false;
    }
    db->made = *v[0].p != 0;
    db->readonly = *v[1].p != 0;
    return true;
}

enum keydb_result pg_look(struct keydb_postgres *db, struct detail *why)
{
    const struct pg_ask look = {.sql = LOOK, .doing = "connect", .row = take_look, .columns = 2, .arg = db};
    return pg_ask(db, &look, why);
}

static enum keydb_result settle(struct keydb_postgres *db, struct detail *why)
{
    enum { OLDEST = 150000 };
    const char *encoding = PQparameterStatus(db->conn, "server_encoding");
    if (PQserverVersion(db->conn) < OLDEST) {
        detail_set(why, "is PostgreSQL %d; 15 or newer is expected", PQserverVersion(db->conn) / 10000);
        return KEYDB_FAILED;
    }
    if (!encoding || !str_eq_z(str_z(encoding), "UTF8")) {
        said(why, "a database in UTF8 is expected, and this one's encoding is", encoding);
        return KEYDB_FAILED;
    }
    const enum keydb_result r = pg_run(db, SETTLE, "connect", why);
    return r == KEYDB_OK ? pg_look(db, why) : r;
}

static enum keydb_result connect_host(struct keydb_postgres *db, size_t host, struct detail *why)
{
    const int64_t until = ms_ahead(pg_target_ms(db->target));
    PostgresPollingStatusType state = PGRES_POLLING_WRITING;
    db->conn = pg_target_start(db->target, host);
    if (!db->conn) {
        detail_set(why, "out of memory");
        return KEYDB_FAILED;
    }
    PQsetNoticeReceiver(db->conn, on_notice, db);
    if (PQstatus(db->conn) == CONNECTION_BAD)
        state = PGRES_POLLING_FAILED;
    while (state != PGRES_POLLING_OK && state != PGRES_POLLING_FAILED) {
        struct pollfd p = {PQsocket(db->conn), state == PGRES_POLLING_READING ? POLLIN : POLLOUT, 0};
        const int64_t left = (until - time_mono_us()) / 1000;
        if (left <= 0)
            return late(db, "connect", why);
        if (poll(&p, 1, (int)left) > 0)
            state = PQconnectPoll(db->conn);
    }
    if (state == PGRES_POLLING_FAILED || PQsetnonblocking(db->conn, 1) != 0) {
        const char *text = PQerrorMessage(db->conn), *reason = strstr(text, "failed: ");
        said(why, "cannot connect", reason ? reason + sizeof "failed: " - 1 : text); /* where is known */
        pg_drop(db);
        return KEYDB_AWAY;
    }
    const enum keydb_result r = settle(db, why);
    if (r != KEYDB_OK)
        pg_drop(db);
    return r;
}

enum keydb_result pg_connect(struct keydb_postgres *db, struct detail *why)
{
    enum keydb_result r = KEYDB_AWAY;
    /* one that the server has closed meanwhile is known by reading it */
    if (db->conn && (!PQconsumeInput(db->conn) || PQstatus(db->conn) != CONNECTION_OK))
        pg_drop(db);
    if (db->conn)
        return KEYDB_OK;
    if (time_mono_us() < db->again_us) {
        *why = db->away;
        return KEYDB_AWAY;
    }
    const int64_t at_once_us = ms_ahead(AT_ONCE_MS);
    for (size_t host = 0; host < db->target->hosts && r != KEYDB_OK; host++)
        r = connect_host(db, host, why);
    if (r != KEYDB_OK) {
        db->again_us = ms_ahead(time_mono_us() < at_once_us ? AGAIN_SOON_MS : AGAIN_MS);
        db->away = *why;
    }
    return r;
}
