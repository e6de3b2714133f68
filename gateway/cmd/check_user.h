#ifndef KMSGATE_CMD_CHECK_USER_H
#define KMSGATE_CMD_CHECK_USER_H

#include "base/config.h"

/* Adds a fault for each file that `user` could not open once the gateway is that user. Only root can look; to others it
 * is told only whether there is such a user. Nothing to do where `user` is not set. */
void check_user(const struct config *c, struct faults *faults);

#endif
