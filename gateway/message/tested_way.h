/*
 * Builds for tests can be told to go the long way with every message, and so to test that one.
 */
#ifndef KMSGATE_MESSAGE_TESTED_WAY_H
#define KMSGATE_MESSAGE_TESTED_WAY_H

#include <stdbool.h>
#ifdef KMSGATE_TEST_SWITCHES
#include <stdlib.h>
#include <string.h>
#endif

/* Whether the variable (TESTED_REQUEST_WAY, TESTED_REPLY_WAY) says `tree`. Never in a build that is released. */
static inline bool tested_way_is_tree(const char *variable)
{
#ifdef KMSGATE_TEST_SWITCHES
    const char *way = getenv(variable);
    return way && strcmp(way, "tree") == 0;
#else
    (void)variable;
    return false;
#endif
}

#endif
