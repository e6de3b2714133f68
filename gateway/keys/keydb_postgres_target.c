#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "keys/keydb_postgres_target.h"

/*
 * libpq fills in from the environment, and from files that it names, whatever a URI leaves out: settings that nobody
 * checked, `sslmode` among them. All of them are taken away but those by which a password is kept out of gateway.yaml.
 */
static void forget_environment(void)
{
    static const char *const MORE[] = {"PGSERVICE", "PGSERVICEFILE", "PGSYSCONFDIR", "PGREQUIRESSL"};
    PQconninfoOption *all = PQconndefaults();
    for (const PQconninfoOption *o = all; o && o->keyword; o++)
        if (o->envvar && !str_eq_z(str_z(o->envvar), "PGPASSWORD") && !str_eq_z(str_z(o->envvar), "PGPASSFILE"))
            unsetenv(o->envvar);
    for (size_t i = 0; i < sizeof MORE / sizeof *MORE; i++)
        unsetenv(MORE[i]);
    PQconninfoFree(all);
}

static struct str target_part(const char *list, size_t i)
{
    const char *p = list;
    while (p && i--) {
        p = strchr(p, ',');
        p = p ? p + 1 : NULL;
    }
    const char *end = p ? strchr(p, ',') : NULL;
    return p ? (struct str){p, end ? (size_t)(end - p) : strlen(p)} : STR_MISSING;
}

static size_t target_parts(const char *list)
{
    size_t n = list && *list;
    for (; list && *list; list++)
        n += *list == ',';
    return n;
}

static bool target_add(struct pg_target *t, const char *keyword, const char *value)
{
    if (!value || !*value)
        return true;
    char *copy = t->n < PG_PARAMETERS ? str_dup(str_z(value)) : NULL;
    if (!copy)
        return false;
    t->keywords[t->n] = keyword;
    t->values[t->n++] = copy;
    return true;
}

static bool is_one_of(const char *keyword, const char *const *v)
{
    while (*v && !str_eq_z(str_z(keyword), *v))
        v++;
    return *v != NULL;
}

/* What this program decides itself, whatever the URI says. */
static bool add_own(struct pg_target *t, const PQconninfoOption *o)
{
    static const struct {
        const char *keyword, *value;
    } PRESET[] = {
        {"application_name", "kmsgate"}, {"gssencmode", "disable"}, {"keepalives", "1"}, {"keepalives_idle", "10"},
        {"keepalives_interval", "5"}, {"keepalives_count", "3"},
        {"tcp_user_timeout", "3000"}, /* an address that nothing comes back from gives way to the next */
    };
    const char *value = o->val;
    /* The one that was promoted. Never a standby: one that follows no more looks like a database without changes. */
    if (str_eq_z(str_z(o->keyword), "target_session_attrs") && !value)
        value = t->hosts > 1 ? "read-write" : "primary";
    for (size_t i = 0; !value && i < sizeof PRESET / sizeof *PRESET; i++)
        if (str_eq_z(str_z(o->keyword), PRESET[i].keyword))
            value = PRESET[i].value;
    if (!value)
        value = o->compiled;
    return target_add(t, o->keyword, str_eq_z(str_z(o->keyword), "client_encoding") ? "UTF8" : value);
}

/* What libpq would only refuse later, in words that repeat it: it may be a piece of a password that was not escaped. */
static bool is_sound(const struct pg_target *t, struct detail *why)
{
    const char *const hosts[] = {t->host, t->hostaddr};
    for (const char *p = t->port; p && *p; p++)
        if ((*p < '0' || *p > '9') && *p != ',') {
            detail_set(why, "its port is not a number (a password's special characters are written as %%XX)");
            return false;
        }
    for (size_t i = 0; i < 2; i++)
        if (hosts[i] && strchr(hosts[i], '@')) {
            detail_set(why, "its host has an `@` (a password's special characters are written as %%XX)");
            return false;
        }
    return true;
}

static bool target_take(struct pg_target *t, const PQconninfoOption *all, struct detail *why)
{
    static const char *const REFUSED[] = {"service", "options", "replication", NULL};
    static const char *const HOSTS[] = {"host", "hostaddr", "port", "connect_timeout", NULL};
    for (const PQconninfoOption *o = all; o->keyword; o++) {
        if (o->val && is_one_of(o->keyword, REFUSED)) {
            detail_set(why, "the parameter `%s` is not for key databases", o->keyword);
            return false;
        }
        if (!is_one_of(o->keyword, HOSTS))
            continue;
        char **to = o->keyword[0] == 'c' ? &t->timeout : o->keyword[0] == 'p' ? &t->port
                    : o->keyword[4]      ? &t->hostaddr : &t->host;
        if (o->val && !(*to = str_dup(str_z(o->val))))
            return false;
    }
    t->hosts = target_parts(t->hostaddr) > target_parts(t->host) ? target_parts(t->hostaddr) : target_parts(t->host);
    t->hosts = t->hosts ? t->hosts : 1;
    for (const PQconninfoOption *o = all; o->keyword; o++)
        if (!is_one_of(o->keyword, HOSTS) && !is_one_of(o->keyword, REFUSED) && !add_own(t, o))
            return false;
    return true;
}

static PQconninfoOption *target_parse(const char *uri, struct detail *why)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    char *said = NULL; /* it repeats the URI, and with it a password: it is not shown */
    pthread_once(&once, forget_environment);
    PQconninfoOption *all = PQconninfoParse(uri, &said);
    if (!all)
        detail_set(why, said ? "is not a connection URI as libpq reads it (a password's special characters are written "
                               "as %%XX)" : "out of memory");
    if (said)
        secret_wipe(said, strlen(said));
    PQfreemem(said);
    return all;
}

static void forget(PQconninfoOption *all)
{
    for (const PQconninfoOption *o = all; o && o->keyword; o++)
        if (o->val)
            secret_wipe(o->val, strlen(o->val));
    PQconninfoFree(all);
}

struct pg_target *pg_target_new(const char *uri, struct detail *why)
{
    struct pg_target *t = calloc(1, sizeof *t);
    detail_set(why, "out of memory");
    PQconninfoOption *all = t ? target_parse(uri, why) : NULL;
    const bool ok = all && target_take(t, all, why) && is_sound(t, why);
    forget(all);
    if (ok)
        return t;
    pg_target_free(t);
    return NULL;
}

void pg_target_free(struct pg_target *t)
{
    if (!t)
        return;
    for (size_t i = 0; i < t->n; i++) {
        secret_wipe(t->values[i], strlen(t->values[i]));
        free(t->values[i]);
    }
    free(t->host);
    free(t->hostaddr);
    free(t->port);
    free(t->timeout);
    free(t);
}

int pg_target_ms(const struct pg_target *t)
{
    enum { LEAST_S = 2, MOST_S = 60 };
    const long s = t->timeout ? strtol(t->timeout, NULL, 10) : 0;
    return s <= 0 ? PG_CONNECT_MS : (int)(s < LEAST_S ? LEAST_S : s > MOST_S ? MOST_S : s) * 1000;
}

PGconn *pg_target_start(const struct pg_target *t, size_t host)
{
    const char *keywords[PG_PARAMETERS + 4], *values[PG_PARAMETERS + 4];
    const struct {
        const char *keyword;
        struct str value;
    } own[] = {{"host", target_part(t->host, host)},
               {"hostaddr", target_part(t->hostaddr, host)},
               {"port", target_part(t->port, target_parts(t->port) > 1 ? host : 0)}};
    char *copies[3] = {NULL};
    size_t n = 0;
    for (; n < t->n; n++) {
        keywords[n] = t->keywords[n];
        values[n] = t->values[n];
    }
    for (size_t i = 0; i < 3; i++)
        if (own[i].value.n && (copies[i] = str_dup(own[i].value))) {
            keywords[n] = own[i].keyword;
            values[n++] = copies[i];
        }
    keywords[n] = values[n] = NULL;
    PGconn *conn = PQconnectStartParams(keywords, values, 0);
    for (size_t i = 0; i < 3; i++)
        free(copies[i]);
    return conn;
}

static bool is_near(struct str host)
{
    return !host.n || *host.p == '/' || str_ieq_z(host, "localhost") || str_eq_z(host, "::1") ||
           str_starts(host, STR("127."));
}

void keydb_postgres_lint(const char *where, const char *shown, struct faults *faults)
{
    struct detail why;
    struct pg_target *t = pg_target_new(where, &why);
    if (!t) {
        faults_add(faults, shown, 0, 0, "%s", why.text);
        return;
    }
    const char *mode = "";
    bool far = false;
    for (size_t i = 0; i < t->n; i++)
        if (str_eq_z(str_z(t->keywords[i]), "sslmode"))
            mode = t->values[i];
    for (size_t i = 0; i < t->hosts; i++)
        far |= !is_near(t->hostaddr ? target_part(t->hostaddr, i) : target_part(t->host, i));
    if (far && !str_eq_z(str_z(mode), "verify-full"))
        faults_lint(faults, shown, 0, 0,
                    "database-unverified: with sslmode=%s whoever sits between can pass for the database, read who has "
                    "keys and hold changes back; expected sslmode=verify-full, with sslrootcert", mode);
    pg_target_free(t);
}
