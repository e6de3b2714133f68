/*
 * What people read: at a terminal it is fitted to the width of the window, and coloured unless NO_COLOR is set or TERM
 * is dumb. Where the output is no terminal nothing is cut, folded or coloured, so that what goes to a file or another
 * program is the same whatever the window.
 *
 *     static const struct column COLUMNS[] = {{"VERDICT", 7}, {"USER", 28, COLUMN_GROWS}};
 *     const struct screen s = screen_of(STDOUT_FILENO);
 *     screen_head(&s, COLUMNS, 2, &out);
 *     screen_row(&s, COLUMNS, (struct cell[]){{STR("reject"), TONE_BAD}, {user, TONE_NONE}}, 2, &out);
 *
 * Texts are escaped here as text_escape() does: none can bring a control sequence of its own. Failures are the
 * buffer's.
 */
#ifndef KMSGATE_CMD_SCREEN_H
#define KMSGATE_CMD_SCREEN_H

#include <stdio.h>

#include "base/buf.h"

struct screen {
    int fd;
    bool terminal, colour;
};
struct screen screen_of(int fd);
/* Columns of the window: COLUMNS, else what the terminal says, else 80; SIZE_MAX where there is no terminal. It is
 * asked each time, since a window changes while a command goes on. */
size_t screen_width(const struct screen *s);

enum tone { TONE_NONE, TONE_GOOD, TONE_BAD, TONE_WARN, TONE_HEAD, TONE_FAINT };

/* A table is written row by row. The columns that do not fit beside each other go on in a line of their own below, so
 * that a narrow window hides none. */
enum column_kind {
    COLUMN_CUT,   /* what is longer is cut, and ends in an ellipsis */
    COLUMN_GROWS, /* the same, after it was given the room that its line has left */
    COLUMN_FOLDS  /* the last one: goes on below itself */
};
struct column {
    const char *title;
    size_t width;
    enum column_kind kind;
};
struct cell {
    struct str text; /* missing: "-" */
    enum tone tone;
};
/* What is empty is missing. */
static inline struct cell cell_of(struct str text)
{
    return (struct cell){text.n ? text : STR_MISSING, TONE_NONE};
}
enum { SCREEN_COLUMNS_MAX = 16 };
void screen_head(const struct screen *s, const struct column *columns, size_t n, struct buf *out);
void screen_row(const struct screen *s, const struct column *columns, const struct cell *cells, size_t n,
                struct buf *out);

/* How a line of text is shown. Broken at spaces where it is too long, it goes on `next` columns from the left; a line
 * that is `whole` is never broken, and what begins with `#` goes on behind another one. */
struct screen_line {
    enum tone tone;
    size_t next;
    bool whole;
};
/* Appends the line, escaped, and its end. */
void screen_line(const struct screen *s, struct str text, struct screen_line look, struct buf *out);
typedef struct screen_line screen_look(struct str line);
/* Lines, escaped but for their ends, each as `look` says; false when they could not be written. */
bool screen_write(const struct screen *s, struct str text, screen_look *look, FILE *to);

/* One paragraph for a page that is `width` columns wide, broken at spaces: it begins at column `at` and goes on at
 * `indent`. What stands between backquotes stays in one piece, since it is to be typed. */
void screen_wrap(struct buf *out, struct str text, size_t at, size_t indent, size_t width);
/* How many columns a terminal takes for a text that holds no control characters. */
size_t screen_columns(struct str text);

#endif
