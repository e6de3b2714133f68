#include "cmd/screen.h"

#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <wchar.h>

#include "base/text.h"

enum { WIDTH_USUAL = 80, WIDTH_LEAST = 20, WIDTH_MOST = 10000, GAP = 2, INDENT = 4, TEXT_MAX = 1 << 20 };
#define ELLIPSIS "\xe2\x80\xa6"

struct screen screen_of(int fd)
{
    const char *term = getenv("TERM"), *no_colour = getenv("NO_COLOR");
    struct screen s = {.fd = fd, .terminal = isatty(fd) == 1};
    s.colour = s.terminal && !(no_colour && *no_colour) && term && *term && strcmp(term, "dumb") != 0;
    return s;
}

static size_t screen_bounded(unsigned long columns)
{
    return columns < WIDTH_LEAST ? WIDTH_LEAST : columns > WIDTH_MOST ? WIDTH_MOST : columns;
}

size_t screen_width(const struct screen *s)
{
    const char *columns = getenv("COLUMNS");
    struct winsize window;
    uint64_t n = 0;
    if (!s->terminal)
        return SIZE_MAX;
    if (columns && str_to_u64(str_z(columns), WIDTH_MOST, &n) && n)
        return screen_bounded(n);
    if (ioctl(s->fd, TIOCGWINSZ, &window) == 0 && window.ws_col)
        return screen_bounded(window.ws_col);
    return WIDTH_USUAL;
}

/* --- widths --- */

/* The process keeps the C locale, in which no character beyond ASCII has a width. */
static locale_t screen_locale(void)
{
    static locale_t the_locale;
    if (!the_locale)
        the_locale = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
    return the_locale;
}

/* How many bytes of the text fit into `columns`, and the columns that they take. */
static size_t screen_fitting(struct str text, size_t columns, size_t *taken)
{
    const locale_t mine = screen_locale(), before = mine ? uselocale(mine) : (locale_t)0;
    size_t at = 0, all = 0;
    while (at < text.n) {
        size_t n;
        const uint32_t code = text_code((struct str){text.p + at, text.n - at}, &n);
        const int width = n && mine ? wcwidth((wchar_t)code) : 1;
        const size_t more = width < 0 ? 1 : (size_t)width;
        if (all + more > columns)
            break;
        all += more;
        at += n ? n : 1;
    }
    if (mine)
        uselocale(before);
    *taken = all;
    return at;
}

size_t screen_columns(struct str text)
{
    size_t taken;
    screen_fitting(text, SIZE_MAX, &taken);
    return taken;
}

/* --- colours --- */

static const char *screen_begin(const struct screen *s, enum tone tone)
{
    static const char *const BEGIN[] = {
        [TONE_NONE] = "", [TONE_GOOD] = "\x1b[32m", [TONE_BAD] = "\x1b[31m", [TONE_WARN] = "\x1b[33m",
        [TONE_HEAD] = "\x1b[1m", [TONE_FAINT] = "\x1b[2m"};
    return s->colour ? BEGIN[tone] : "";
}

static const char *screen_end(const struct screen *s, enum tone tone)
{
    return s->colour && tone != TONE_NONE ? "\x1b[0m" : "";
}

static void screen_toned(const struct screen *s, struct str escaped, enum tone tone, struct buf *out)
{
    if (!escaped.n)
        return;
    buf_z(out, screen_begin(s, tone));
    buf_str(out, escaped);
    buf_z(out, screen_end(s, tone));
}

/* --- paragraphs --- */

void screen_wrap(struct buf *out, struct str text, size_t at, size_t indent, size_t width)
{
    size_t column = at;
    bool first = true;
    while (text.n) {
        size_t word = 0;
        for (bool literal = false; word < text.n && (literal || text.p[word] != ' '); word++)
            literal ^= text.p[word] == '`';
        if (!first && column + 1 + word > width) {
            buf_printf(out, "\n%*s", (int)indent, "");
            column = indent;
        } else if (!first) {
            buf_char(out, ' ');
            column++;
        }
        buf_bytes(out, text.p, word);
        column += word;
        first = false;
        word += word < text.n;
        text = (struct str){text.p + word, text.n - word};
    }
    buf_char(out, '\n');
}

/* The first part of the text that fits, up to a space; a word that is longer than the line is the terminal's to break.
 * What is left loses the spaces in front. */
static struct str screen_part(struct str *text, size_t columns)
{
    size_t taken, n = screen_fitting(*text, columns, &taken);
    const struct str all = *text;
    if (n < all.n) {
        size_t from = 0;
        while (from < all.n && all.p[from] == ' ') /* in front no break */
            from++;
        while (n > from && all.p[n] != ' ')
            n--;
        while (n <= from && from < all.n && all.p[from] != ' ')
            n = ++from;
    }
    const struct str part = {all.p, n};
    while (n < all.n && all.p[n] == ' ')
        n++;
    *text = (struct str){all.p + n, all.n - n};
    return part;
}

static void screen_fold(const struct screen *s, struct str line, struct screen_line look, struct buf *out)
{
    const size_t width = screen_width(s);
    size_t lead = 0;
    while (lead < line.n && line.p[lead] == ' ')
        lead++;
    const bool comment = lead < line.n && line.p[lead] == '#';
    const size_t next = comment ? lead : look.next;
    screen_toned(s, screen_part(&line, look.whole ? SIZE_MAX : width), look.tone, out);
    while (line.n) {
        const size_t used = next + (comment ? GAP : 0);
        buf_printf(out, "\n%*s", (int)next, "");
        const struct str part = screen_part(&line, width > used + WIDTH_LEAST / 2 ? width - used : WIDTH_LEAST / 2);
        buf_z(out, screen_begin(s, look.tone));
        buf_z(out, comment ? "# " : "");
        buf_str(out, part);
        buf_z(out, screen_end(s, look.tone));
    }
}

void screen_line(const struct screen *s, struct str text, struct screen_line look, struct buf *out)
{
    struct buf plain BUF_CLEANUP = BUF_INIT(SIZE_MAX / 2);
    text_escape(&plain, text);
    out->failed |= plain.failed;
    if (plain.n && s->terminal)
        screen_fold(s, buf_view(&plain), look, out);
    else if (plain.n)
        buf_str(out, buf_view(&plain));
    buf_char(out, '\n');
}

bool screen_write(const struct screen *s, struct str text, screen_look *look, FILE *to)
{
    struct buf out BUF_CLEANUP = BUF_INIT(SIZE_MAX / 2);
    for (struct str rest = text; rest.n;) {
        const char *end = memchr(rest.p, '\n', rest.n);
        const struct str line = {rest.p, end ? (size_t)(end - rest.p) : rest.n};
        screen_line(s, line, look(line), &out);
        rest = (struct str){rest.p + line.n + (end != NULL), rest.n - line.n - (end != NULL)};
    }
    return !out.failed && fwrite(out.p ? out.p : "", 1, out.n, to) == out.n;
}

/* --- tables --- */

/* Where the columns stand in a window: in which line, and how wide. */
struct layout {
    size_t width; /* of the window */
    struct place {
        size_t line, at, width;
        bool last; /* of its line */
    } v[SCREEN_COLUMNS_MAX];
};

/* What a line has left goes to its growing column, else to the last one. */
static void layout_line(struct layout *l, const struct column *c, size_t from, size_t end)
{
    size_t grows = end - 1;
    for (size_t i = end; i-- > from;)
        if (c[i].kind != COLUMN_CUT)
            grows = i;
    const struct place *last = &l->v[end - 1];
    const size_t used = last->at + last->width, room = l->width > used ? l->width - used : 0;
    l->v[grows].width += room;
    for (size_t i = grows + 1; i < end; i++)
        l->v[i].at += room;
    l->v[end - 1].last = true;
    if (l->v[end - 1].at + l->v[end - 1].width > l->width) /* one column is wider than the window */
        l->v[end - 1].width = l->width - l->v[end - 1].at;
}

static struct layout layout_of(const struct screen *s, const struct column *c, size_t n)
{
    struct layout l = {.width = screen_width(s)};
    size_t line = 0, from = 0, at = 0;
    for (size_t i = 0; i < n; i++) {
        if (i > from && s->terminal && at + c[i].width > l.width) {
            layout_line(&l, c, from, i);
            from = i;
            line++;
            at = INDENT;
        }
        l.v[i] = (struct place){.line = line, .at = at, .width = c[i].width};
        at += c[i].width + GAP;
    }
    if (s->terminal)
        layout_line(&l, c, from, n);
    else
        l.v[n - 1].last = true;
    return l;
}

/* A cell at its place; returns the column behind it. */
static size_t cell_write(const struct screen *s, const struct place *p, struct str escaped, enum tone tone,
                         struct buf *out)
{
    size_t taken, n = screen_fitting(escaped, s->terminal ? p->width : SIZE_MAX, &taken);
    if (n < escaped.n)
        n = screen_fitting(escaped, p->width - 1, &taken);
    screen_toned(s, (struct str){escaped.p, n}, tone, out);
    if (n < escaped.n) {
        buf_z(out, ELLIPSIS);
        taken++;
    }
    return p->at + taken;
}

static void cell_fold(const struct screen *s, const struct place *p, struct str escaped, enum tone tone,
                      struct buf *out)
{
    screen_toned(s, screen_part(&escaped, p->width), tone, out);
    while (escaped.n) {
        buf_printf(out, "\n%*s", (int)p->at, "");
        screen_toned(s, screen_part(&escaped, p->width), tone, out);
    }
}

void screen_row(const struct screen *s, const struct column *columns, const struct cell *cells, size_t n,
                struct buf *out)
{
    const struct layout l = layout_of(s, columns, n);
    size_t at = 0, line = 0;
    for (size_t i = 0; i < n; i++) {
        const struct place *p = &l.v[i];
        struct buf plain BUF_CLEANUP = BUF_INIT(TEXT_MAX);
        text_escape(&plain, cells[i].text.p ? cells[i].text : STR("-"));
        out->failed |= plain.failed;
        const struct str escaped = plain.p ? buf_view(&plain) : STR("");
        if (p->line != line) {
            buf_char(out, '\n');
            line = p->line;
            at = 0;
        }
        const size_t gap = !at ? p->at : p->at > at + GAP ? p->at - at : GAP;
        buf_printf(out, "%*s", (int)gap, "");
        if (columns[i].kind == COLUMN_FOLDS && s->terminal)
            cell_fold(s, p, escaped, cells[i].tone, out);
        else
            at = cell_write(s, p, escaped, cells[i].tone, out);
    }
    buf_char(out, '\n');
}

void screen_head(const struct screen *s, const struct column *columns, size_t n, struct buf *out)
{
    struct cell titles[SCREEN_COLUMNS_MAX];
    for (size_t i = 0; i < n; i++)
        titles[i] = (struct cell){str_z(columns[i].title), TONE_HEAD};
    screen_row(s, columns, titles, n, out);
}
