#include "base/metrics.h"
#include "http/server.h"

static void tell_live(void *arg, const struct config_change *change)
{
    const struct server *s = arg;
    if (change->live && change->after)
        log_info("config", s->config->file, "%s is now %s (was %s)", change->key, change->after,
                 change->before ? change->before : "not set");
    else if (change->live)
        log_info("config", s->config->file, "%s has changed and is in effect", change->key);
}

static void tell_restart(void *arg, const struct config_change *change)
{
    const struct server *s = arg;
    if (!change->live)
        log_warn("config", s->config->file, "%s has changed: restart kmsgate to apply it", change->key);
}

/* What workers do not look up by themselves. */
static void reload_apply(struct server *s, const struct limits_config *before, const struct limits_config *limits)
{
    if (limits->connections != before->connections || limits->in_flight != before->in_flight) {
        const unsigned most = descriptors_prepare(s->config, limits);
        if (crowd_limit(s->crowd, most))
            s->connections_max = most;
        else
            log_error("config", s->config->file, "limits.connections stays at %u: out of memory", s->connections_max);
    }
    shares_limit(s->shares, limits->in_flight);
    replay_settle(s->replay, &(struct replay_settings){s->rules->max_past_us, s->rules->max_future_us,
                                                       limits->replay_entries});
}

static void take_over(struct server *s, struct config *fresh)
{
    log_setup(fresh->log_level, fresh->log_format);
    config_compare(s->now, fresh, tell_live, s);
    config_compare(s->config, fresh, tell_restart, s);
    reload_apply(s, &s->now->limits, &fresh->limits);
    pthread_mutex_lock(&s->lock);
    struct config *old = s->now;
    s->now = fresh;
    atomic_fetch_add(&s->edition, 1);
    pthread_mutex_unlock(&s->lock);
    config_free(old);
}

/* Another list of master keys; what a key in use is still sealed under cannot go. */
static bool take_masters(struct server *s, const struct config *fresh, struct faults *faults)
{
    struct master_keys masters MASTERS_CLEANUP = {.n = 0};
    if (!config_read_master_keys(fresh, &masters, faults) ||
        !keystore_set_masters(s->keys, masters.v, masters.n, faults))
        return false;
    log_info("keys", keystore_where(s->keys), "%zu master key%s in force", masters.n, masters.n == 1 ? "" : "s");
    return true;
}

void reload_config(struct server *s)
{
    struct faults faults = {0};
    struct config *fresh = config_load(s->config->file, &faults);
    if (fresh && !take_masters(s, fresh, &faults)) {
        config_free(fresh);
        fresh = NULL;
    }
    if (fresh) {
        take_over(s, fresh);
        (void)reload_trouble(s, PART_CONFIG, NULL);
    } else {
        (void)reload_trouble(s, PART_CONFIG, reload_tell_faults("config", s->config->file, &faults,
                                                                "the settings read before stay in effect"));
    }
    metric_add(METRIC_CONFIG_RELOADS, fresh ? "result=\"ok\"" : "result=\"error\"", 1);
    faults_free(&faults);
}
