#include <stdio.h>

#include "base/metrics.h"
#include "http/console.h"
#include "http/server.h"
#include "http/census.h"

enum { AGES_EACH_S = 60 };

/* Looking at every key is dear, and ages change slowly: what was found is good for a minute. The process's. */
static struct {
    pthread_mutex_t lock;
    const struct keystore *of;
    int64_t at_us; /* monotonic */
    struct key_ages ages;
} the_ages = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void ages_now(struct server *s, int64_t now_us, struct key_ages *out)
{
    const int64_t mono = time_mono_us();
    pthread_mutex_lock(&the_ages.lock);
    if (the_ages.of != s->keys || mono - the_ages.at_us >= AGES_EACH_S * US_PER_S) {
        keystore_ages(s->keys, now_us, &the_ages.ages);
        the_ages.of = s->keys;
        the_ages.at_us = mono;
    }
    *out = the_ages.ages;
    pthread_mutex_unlock(&the_ages.lock);
}

static void put_states(struct server *s, int64_t now_us, enum key_type type, struct json *j)
{
    size_t n[2][KEY_STATES];
    keystore_count(s->keys, now_us, n);
    json_object(j, "states");
    for (int k = 0; k < KEY_STATES; k++)
        json_int(j, key_state_name((enum key_state)k), (int64_t)n[type][k]);
    json_end(j);
}

static void put_ages(const struct key_ages *a, enum key_type type, struct json *j)
{
    json_array(j, "ages");
    for (int i = 0; i < KEY_AGE_STEPS; i++) {
        json_object(j, NULL);
        if (i < KEY_AGE_STEPS - 1)
            json_int(j, "younger_than_days", KEY_AGE_DAYS[i]);
        json_int(j, "keys", (int64_t)a->n[type][i]);
        json_end(j);
    }
    json_end(j);
    json_array(j, "oldest");
    for (size_t i = 0; i < a->oldest_n[type]; i++) {
        const struct key_oldest *o = &a->oldest[type][i];
        json_object(j, NULL);
        json_string(j, "user", (struct str){o->user, o->user_n}, 0);
        console_time(j, "since", o->since);
        json_end(j);
    }
    json_end(j);
}

static void put_renewals(enum key_type type, struct json *j)
{
    static const char *const RESULTS[] = {"offered", "resent", "confirmed", "learnt", "deferred", "failed"};
    json_object(j, "renewals");
    for (size_t i = 0; i < sizeof RESULTS / sizeof *RESULTS; i++) {
        char labels[64];
        snprintf(labels, sizeof labels, "type=\"%s\",result=\"%s\"", key_type_name(type), RESULTS[i]);
        json_int(j, RESULTS[i], (int64_t)metric_get(METRIC_RENEWALS, labels));
    }
    json_end(j);
}

void console_keys(struct server *s, int64_t now_us, struct json *j)
{
    struct key_ages ages;
    ages_now(s, now_us, &ages);
    json_object(j, NULL);
    console_time(j, "since", census_since(s->census));
    for (int t = 0; t < 2; t++) {
        json_object(j, key_type_name((enum key_type)t));
        put_states(s, now_us, (enum key_type)t, j);
        put_ages(&ages, (enum key_type)t, j);
        put_renewals((enum key_type)t, j);
        json_end(j);
    }
    census_tell_keys(s->census, now_us, j);
    json_end(j);
}
