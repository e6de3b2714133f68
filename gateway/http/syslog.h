/*
 * Decision lines to a syslog server, as RFC 5424 messages: facility 10 (authpriv), severity 6 (informational) for what
 * was accepted and 4 (warning) for what was refused; MSGID `decision`, or `lost` for a message that says how many were
 * dropped.
 *
 *     syslog:unix:PATH      a datagram each
 *     syslog+tcp://H:P      octet counting (RFC 6587, 3.4.1)
 *     syslog+tls://H:P      the same over TLS 1.2 or 1.3 (RFC 5425); the name is held against the system's certificates
 */
#ifndef KMSGATE_HTTP_SYSLOG_H
#define KMSGATE_HTTP_SYSLOG_H

#include "base/sink_target.h"

/* For sink_ways.syslog. The server is asked when the first line comes, by the sink's thread, and again each second: one
 * that is away is no reason not to serve. */
bool syslog_open(struct sink_target *t, const char *where, char *why, size_t why_size);

#endif
