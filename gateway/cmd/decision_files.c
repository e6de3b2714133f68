#include "cmd/decision_files.h"

#include "base/log.h"

bool decisions_found(const char *command, const struct words *files, enum lines_end end, const struct lines_count *n)
{
    if (command && n->broken)
        complain("%s: %zu line%s not a decision and left out", command, n->broken, n->broken == 1 ? " is" : "s are");
    if (end == LINES_ALL && !n->decisions)
        complain("%s%s: holds no decision", files->v[0], files->n > 1 ? " and the others" : "");
    return end == LINES_ALL && n->decisions;
}
