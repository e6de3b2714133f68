/*
 * The commands: a small file each, no logic of their own. How an entry is written: command.h.
 */
#ifndef KMSGATE_CMD_CMD_H
#define KMSGATE_CMD_CMD_H

#include "cmd/command.h"

extern const struct command COMMAND_SERVE, COMMAND_CHECK, COMMAND_HEALTH, COMMAND_KEYS, COMMAND_REQUEST, COMMAND_OPEN,
    COMMAND_DEMO, COMMAND_EXPLAIN, COMMAND_TEST, COMMAND_REPLAY, COMMAND_WHICH, COMMAND_ADVISE, COMMAND_DECISIONS,
    COMMAND_HELP, COMMAND_COMPLETION, COMMAND_VERSION;

#endif
