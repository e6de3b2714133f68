/*
 * The stage of `kmsgate demo`: a folder of its own, a legacy KMS and a gateway in front of it, all on loopback and
 * ended with the demo, however it ends.
 */
#ifndef KMSGATE_CMD_DEMO_H
#define KMSGATE_CMD_DEMO_H

#include <limits.h>
#include <sys/types.h>

#include "base/buf.h"
#include "base/reason.h"

#define DEMO_USER "sip:alice@example.org"
#define DEMO_KMS_URI "kms.example.org" /* of rules/spec.yaml, and of the legacy KMS */
#define DEMO_BASE "/keymanagement/identity/v1"

struct stage {
    char folder[512];
    char program[PATH_MAX], legacy[PATH_MAX]; /* kmsgate itself, and the KMS beside it */
    pid_t self, kms, gateway;                 /* 0: does not run */
    char kms_url[64];
    unsigned port, admin_port;
};
/* Signals that end the demo are blocked from here on, and seen by stage_stop(). False, told, when something cannot be
 * had. The caller calls stage_end() either way. */
bool stage_begin(struct stage *s) MUST_CHECK;
/* Ends the children, removes the folder. */
void stage_end(struct stage *s);
/* True when the demo was told to end. */
bool stage_stop(void);
/* Waits for that, or for the end of a child, which is told. */
bool stage_wait(struct stage *s);
/* Marks the user's keys as due, as if they had grown old: the gateway knows within a second. */
bool stage_make_due(const struct stage *s) MUST_CHECK;
/* The reason in the n-th line (from 1) of the decision log, waited for; false when it does not come. */
bool stage_decision(const struct stage *s, unsigned n, struct buf *reason) MUST_CHECK;
/* What the legacy KMS noted: how many requests, and whether one was signed. */
bool stage_seen(const struct stage *s, unsigned *requests, bool *is_signed) MUST_CHECK;

#endif
