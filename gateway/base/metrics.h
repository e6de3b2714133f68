/*
 * Counters, gauges and histograms for /metrics (Prometheus text format 0.0.4). One list makes enum, name, type and
 * help. Safe from any thread: values are atomics, labelled counters live in a table under a lock that is only taken
 * when a label combination is first seen. Label values come from closed sets and rule ids only, never from clients.
 */
#ifndef KMSGATE_BASE_METRICS_H
#define KMSGATE_BASE_METRICS_H

#include "base/buf.h"

#define METRIC_LIST(X)                                                                                               \
    X(REQUESTS, counter, "kmsgate_requests_total", "Requests by rule, verdict, reason, form and proof.")             \
    X(CHECK_FAILURES, counter, "kmsgate_check_failures_total", "Failed checks by check, mode and rule.")             \
    X(PHASE_SECONDS, histogram, "kmsgate_phase_seconds", "Time spent judging, upstream, protecting and in total.")   \
    X(CLOCK_SKEW, histogram, "kmsgate_clock_skew_seconds", "Gateway's clock minus the request's Time.")              \
    X(IN_FLIGHT, gauge, "kmsgate_in_flight", "Requests being served.")                                               \
    X(CONNECTIONS, gauge, "kmsgate_connections", "Open client connections.")                                         \
    X(KEYS, gauge, "kmsgate_keys", "Users' keys by type and state.")                                                 \
    X(KEYS_AGE, gauge, "kmsgate_keys_age_seconds", "Seconds since the keys were last seen to be the database's.")    \
    X(RENEWALS, counter, "kmsgate_renewals_total", "Users' keys that were renewed, by type and result.")             \
    X(REPLAY_ENTRIES, gauge, "kmsgate_replay_entries", "Signed requests remembered against replay.")                 \
    X(REPLAY_SECONDS, histogram, "kmsgate_replay_seconds", "Time until a shared replay memory answered.")            \
    X(REPLAY_ERRORS, counter, "kmsgate_replay_errors_total", "Failures of a shared replay memory by kind.")          \
    X(CLOCK_STEPS, counter, "kmsgate_clock_steps_total", "Steps of this machine's wall clock by direction.")         \
    X(DECISIONS_DROPPED, counter, "kmsgate_decisions_dropped_total", "Decision lines dropped by a stalled sink.")    \
    X(CAPTURES_DROPPED, counter, "kmsgate_captures_dropped_total", "Refused bodies that could not be kept.")         \
    X(RULES_RELOADS, counter, "kmsgate_rules_reloads_total", "Reloads of the rules by result.")                      \
    X(CONFIG_RELOADS, counter, "kmsgate_config_reloads_total", "Readings of gateway.yaml by SIGHUP, by result.")      \
    X(RULES_INFO, gauge, "kmsgate_rules_info", "The rules in force, by hash.")                                       \
    X(LIMIT, gauge, "kmsgate_limit", "1 while a limit is reached, by its name, else 0.")                             \
    X(CERTIFICATE_EXPIRY, gauge, "kmsgate_certificate_expiry_seconds", "Seconds until a certificate expires.")       \
    X(TLS_FAILURES, counter, "kmsgate_tls_failures_total", "TLS handshakes that failed, by listener and reason.")     \
    X(SANDBOX, gauge, "kmsgate_sandbox", "1 for a layer of the sandbox that is in force, by its name, else 0.")       \
    X(PROCESS_CPU, counter, "process_cpu_seconds_total", "Processor time that the process has taken.")                \
    X(PROCESS_START, gauge, "process_start_time_seconds", "When the gateway began, in Unix time.")                   \
    X(PROCESS_MEMORY, gauge, "process_resident_memory_bytes", "Memory of the process that is resident.")             \
    X(PROCESS_VIRTUAL, gauge, "process_virtual_memory_bytes", "Memory that the process has mapped.")                 \
    X(PROCESS_FDS, gauge, "process_open_fds", "Open descriptors.")                                                   \
    X(PROCESS_FDS_MAX, gauge, "process_max_fds", "Descriptors that the process may open.")                           \
    X(BUILD_INFO, gauge, "kmsgate_build_info", "The version that runs.")

enum metric {
#define METRIC_ENUM(e, type, name, help) METRIC_##e,
    METRIC_LIST(METRIC_ENUM)
#undef METRIC_ENUM
    METRIC_COUNT
};

/* `labels` is the text between the braces, such as `rule="everyone",verdict="accept"`, or NULL for none; values already
 * escaped by metric_label(). */
void metric_add(enum metric m, const char *labels, double by);
void metric_set(enum metric m, const char *labels, double value);
/* Histograms: phases 100us to 10s, skew -3600 s to 3600 s around 0. */
void metric_observe(enum metric m, const char *labels, double value);
/* Where a thread keeps a series that it counts at again and again; zero at first, and when other labels are meant. */
struct metric_place {
    struct series *series;
    unsigned freed;
};
/* As those above, for labels that are looked up once. */
void metric_add_at(struct metric_place *place, enum metric m, const char *labels, double by);
void metric_observe_at(struct metric_place *place, enum metric m, const char *labels, double value);
bool metric_place_stands(const struct metric_place *place);
/* The one series of m from now on, of value 1: for what labels alone tell and reloads change (rules_info): the labels
 * before are forgotten, so that any number of changes takes no more memory. NULL, or without memory: none. */
void metric_info(enum metric m, const char *labels);
/* Appends `name="value"` with value escaped. */
void metric_label(struct buf *b, const char *name, struct str value);
/* The value of one series that is no histogram; 0 where it is not there. */
double metric_get(enum metric m, const char *labels);
/* The whole exposition text. */
void metrics_write(struct buf *out);
void metrics_free(void);

#endif
