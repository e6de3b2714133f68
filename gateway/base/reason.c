#include "base/reason.h"

#include <stdarg.h>
#include <stdio.h>

static const struct {
    const char *name;
    int status;
} REASONS[REASON_COUNT] = {
#define REASON_ROW(e, name, status) [REASON_##e] = {name, status},
    REASON_LIST(REASON_ROW)
#undef REASON_ROW
};

const char *reason_name(enum reason r)
{
    return REASONS[r].name;
}

int reason_status(enum reason r)
{
    return REASONS[r].status;
}

bool reason_parse(struct str name, enum reason *out)
{
    for (int r = 0; r < REASON_COUNT; r++)
        if (str_eq_z(name, REASONS[r].name)) {
            *out = (enum reason)r;
            return true;
        }
    return false;
}

void detail_set(struct detail *d, const char *format, ...)
{
    if (!d)
        return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(d->text, sizeof d->text, format, arguments);
    va_end(arguments);
}
