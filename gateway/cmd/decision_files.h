/*
 * What the commands that read decision logs (decisions, replay, advise) say of the files.
 */
#ifndef KMSGATE_CMD_DECISION_FILES_H
#define KMSGATE_CMD_DECISION_FILES_H

#include "cmd/command.h"
#include "study/lines.h"

/* True when all were read, and there was a decision; what is to be said of lines that are none (with a `command`), and
 * of files without any, goes to stderr. */
bool decisions_found(const char *command, const struct words *files, enum lines_end end, const struct lines_count *n);

#endif
