/*
 * Parts of `kmsgate serve`.
 */
#ifndef KMSGATE_CMD_SERVE_H
#define KMSGATE_CMD_SERVE_H

#include "http/server.h"

/* The replay memory that the configuration names; rules and keys are there. NULL with a fault, or without memory. */
struct replay *serve_replay(struct server *s, struct faults *faults);
void serve_replay_end(struct server *s);

#endif
