#include <stdio.h>
#include <string.h>

#include "keys/keydb_postgres.h"

static bool is_set(void *arg, const struct pg_value *v, struct detail *why)
{
    (void)arg, (void)v, (void)why;
    return true;
}

void postgres_say(struct keydb *base, const char *word)
{
    static const Oid TEXT[] = {PG_TEXT};
    struct keydb_postgres *db = (struct keydb_postgres *)base;
    const struct pg_ask say = {.sql = "SELECT set_config('application_name', $1, false)",
                               .doing = "say what is followed", .n = 1, .types = TEXT,
                               .values = {{word, (int)strlen(word)}}, .row = is_set, .columns = 1};
    struct detail why;
    if (!db->conn || db->in != PG_IDLE || db->draft || str_eq_z(str_z(db->said), word))
        return;
    if (pg_ask(db, &say, &why) == KEYDB_OK)
        snprintf(db->said, sizeof db->said, "%s", word);
}

struct words {
    keydb_each_word each;
    void *arg;
};

/* Anybody may call himself so: who says something else than the others is no gateway, and is left out above. */
static bool take_word(void *arg, const struct pg_value *v, struct detail *why)
{
    const struct words *w = arg;
    char word[KEYDB_WORD + 1];
    struct str text;
    uint64_t process;
    if (!pg_take_number(v[0], &process) || !pg_take_text(v[1], &text)) {
        detail_set(why, "tampered with: what it answers is not what was asked for");
        return false;
    }
    snprintf(word, sizeof word, "%.*s", text.n < sizeof word ? (int)text.n : (int)sizeof word - 1, text.p);
    w->each(w->arg, (long)process, word);
    return true;
}

enum keydb_result postgres_words(struct keydb *base, keydb_each_word each, void *arg, struct detail *why)
{
    struct keydb_postgres *db = (struct keydb_postgres *)base;
    struct words w = {each, arg};
    const struct pg_ask ask = {.sql = "SELECT pid::int8, application_name FROM pg_stat_activity WHERE datname = "
                                      "current_database() AND pid <> pg_backend_pid() AND "
                                      "application_name LIKE 'kmsgate %' ORDER BY pid",
                               .doing = "ask what gateways follow", .row = take_word, .columns = 2, .arg = &w};
    const enum keydb_result r = pg_connect(db, why);
    return r == KEYDB_OK ? pg_ask(db, &ask, why) : r;
}
