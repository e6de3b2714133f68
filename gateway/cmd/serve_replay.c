#include <stdlib.h>
#include <string.h>

#include "cmd/serve.h"
#include "http/replay_line.h"

static struct replay *own_memory(const struct server *s, const struct replay_settings *settings)
{
    struct replay_state state = {.folder = s->config->state};
    struct replay *r = NULL;
    if (keystore_state_key(s->keys, &state.key))
        r = replay_memory_kept(s->config->limits.replay_entries, settings, &state, time_now_us());
    secret_key_clear(&state.key);
    return r;
}

#ifdef KMSGATE_FLEET
static struct replay *shared_memory(struct server *s, const struct replay_settings *settings, struct faults *faults)
{
    enum { USER_SHARE = 16 };
    const struct replay_config *c = &s->config->replay;
    const unsigned share = s->config->limits.replay_entries / USER_SHARE;
    char why[TLS_WHY];
    struct secret_key secret SECRET_CLEANUP = {{0}};
    if (!config_read_key(&c->secret, "key of the replay memory", &secret, faults) ||
        !rules_fit_shared(s->rules, faults))
        return NULL;
    char *password = NULL;
    if (c->password.kind != SECRET_NONE && !(password = config_read_token(&c->password, faults)))
        return NULL;
    const struct replay_redis how = {.name = c->url,
                                     .secret = &secret,
                                     .user = c->user,
                                     .password = password,
                                     .master = c->master,
                                     .timeout_us = c->timeout_us,
                                     .apart_us = c->clock_difference_us,
                                     .wait_replicas = c->wait_replicas,
                                     .user_max = share ? share : 1};
    struct replay *r = NULL;
    s->replay_site = replay_site_new(c, why);
    if (s->replay_site)
        r = replay_redis_new(&how, settings, &REPLAY_SOCKETS, s->replay_site);
    else
        faults_add(faults, NULL, 0, 0, "%s", why);
    if (password)
        secret_wipe(password, strlen(password));
    free(password);
    return r;
}
#endif

struct replay *serve_replay(struct server *s, struct faults *faults)
{
    const struct replay_settings settings = {s->rules->max_past_us, s->rules->max_future_us, 0};
#ifdef KMSGATE_FLEET
    if (s->config->replay.host_count)
        return shared_memory(s, &settings, faults);
#else
    (void)faults; /* the configuration of such a memory was refused */
#endif
    return own_memory(s, &settings);
}

void serve_replay_end(struct server *s)
{
    replay_free(s->replay);
#ifdef KMSGATE_FLEET
    replay_site_free(s->replay_site);
#endif
}
