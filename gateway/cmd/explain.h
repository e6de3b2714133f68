/*
 * `kmsgate explain`: its parts.
 */
#ifndef KMSGATE_CMD_EXPLAIN_H
#define KMSGATE_CMD_EXPLAIN_H

#include "study/explain.h"

/* One request as it was judged, and why. */
struct explained {
    const char *file;
    size_t size;
    const char *target_from; /* where the path is from, for people */
    const struct judgement *j;
    const struct explanation *why;
    int64_t now_us;
};
void explain_print(const struct explained *x, struct buf *out);
void explain_print_json(const struct explained *x, struct buf *out);

#endif
