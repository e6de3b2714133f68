#include "study/lines.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "study/unpack.h"

enum {
    LINE_MAX_BYTES = 1 << 20, /* a decision has a few kilobytes */
    BROKEN_TOLD = 20          /* of each file, by line; a journal may hold thousands of other lines */
};

struct lines {
    char *const *names;
    size_t n, at;            /* the next file */
    const char *name;        /* as it is shown */
    struct unpack *from;     /* NULL: none is open */
    size_t number, broken;   /* the line; those that are no decisions, in this file */
    struct buf line;
    struct str text;         /* the decision in it */
    struct json_doc *around; /* the journal's object that holds it: owns `text` then */
    struct record record;    /* given out last */
};

struct lines *lines_open(char *const *names, size_t n)
{
    struct lines *l = calloc(1, sizeof *l);
    if (l) {
        l->names = names;
        l->n = n;
        l->line = BUF_INIT(LINE_MAX_BYTES + 2);
    }
    return l;
}

struct str lines_text(const struct lines *l)
{
    return l->text;
}

static void lines_forget(struct lines *l)
{
    record_free(&l->record);
    json_free(l->around);
    l->around = NULL;
    l->text = STR_MISSING;
}

static enum lines_result lines_open_next(struct lines *l)
{
    const char *name = l->names[l->at++];
    const char *why = NULL;
    l->name = str_eq_z(str_z(name), "-") ? "standard input" : name;
    l->number = l->broken = 0;
    l->from = unpack_open(name, &why);
    if (l->from)
        return LINES_DECISION;
    complain("%s: cannot be read: %s", l->name, why);
    return LINES_FAILED;
}

/* Nothing more comes of the file: it is over, or cannot be read. */
static enum lines_result lines_close_file(struct lines *l)
{
    const char *why = unpack_why(l->from);
    if (l->broken > BROKEN_TOLD)
        fprintf(stderr, "%s: and %zu more lines that are not decisions\n", l->name, l->broken - BROKEN_TOLD);
    if (why)
        complain("%s: cannot be read: %s", l->name, why);
    unpack_close(l->from);
    l->from = NULL;
    return why ? LINES_FAILED : LINES_DECISION;
}

/* One line, without its end; of one that is too long no more than shows that it is. False at the end. */
static bool lines_read(struct lines *l)
{
    int c;
    buf_reset(&l->line);
    while ((c = unpack_octet(l->from)) >= 0 && c != '\n')
        if (l->line.n <= LINE_MAX_BYTES)
            buf_char(&l->line, (char)c);
    l->number++;
    return c >= 0 || (c == UNPACK_END && l->line.n > 0);
}

/* What stands behind journalctl's "Nov 23 18:00:00 host kmsgate[7]: ", or rsyslog's, without that colon. */
static struct str lines_behind_prefix(struct str line)
{
    const char *brace = line.n && line.p[0] != '{' ? memchr(line.p, '{', line.n) : NULL;
    const size_t before = brace ? (size_t)(brace - line.p) : 0;
    const struct str prefix = {line.p, before};
    if (before < 2 || (!str_ends(prefix, STR(": ")) && !str_ends(prefix, STR("] "))))
        return line;
    return (struct str){brace, line.n - before};
}

/* The MESSAGE of an object of `journalctl -o json`; false, with the reason, where it cannot be one's decision. Any
 * other line stays as it is. */
static bool lines_unwrap(struct lines *l, struct detail *why)
{
    size_t at = 0;
    const char *what = NULL;
    if (!l->text.n || l->text.p[0] != '{' || !memmem(l->text.p, l->text.n, "\"MESSAGE\"", 9))
        return true;
    l->around = json_read(l->text, &at, &what);
    const struct json_value *root = l->around ? json_root(l->around) : NULL;
    const struct json_value *message = root ? json_get(root, "MESSAGE") : NULL;
    if (!message)
        return true;
    if (message->kind == JSON_STRING) {
        l->text = message->text;
        return true;
    }
    detail_set(why, "%s", message->kind == JSON_NULL
                              ? "the journal left out a long MESSAGE, expected the output of `journalctl -o json --all`"
                              : "found a MESSAGE that is not a text, expected a decision");
    return false;
}

static enum lines_result lines_take(struct lines *l, struct record *out)
{
    struct detail why = {""};
    bool ok = l->line.n <= LINE_MAX_BYTES;
    if (!ok)
        detail_set(&why, "the line has more than 1 MiB, expected a decision");
    l->text = lines_behind_prefix(str_trim(buf_view(&l->line)));
    ok = ok && lines_unwrap(l, &why) && record_read(l->text, &l->record, &why);
    if (ok) {
        *out = l->record;
        return LINES_DECISION;
    }
    if (++l->broken <= BROKEN_TOLD)
        fprintf(stderr, "%s:%zu: %s\n", l->name, l->number, why.text);
    return LINES_BROKEN;
}

enum lines_result lines_next(struct lines *l, struct record *out)
{
    for (;;) {
        lines_forget(l);
        if (!l->from && l->at == l->n)
            return LINES_END;
        if (!l->from && lines_open_next(l) != LINES_DECISION)
            return LINES_FAILED;
        if (!lines_read(l)) {
            if (lines_close_file(l) != LINES_DECISION)
                return LINES_FAILED;
        } else if (l->line.failed) {
            complain("out of memory");
            return LINES_FAILED;
        } else if (l->line.n && str_trim(buf_view(&l->line)).n) {
            return lines_take(l, out);
        }
    }
}

void lines_close(struct lines *l)
{
    if (!l)
        return;
    lines_forget(l);
    unpack_close(l->from);
    buf_free(&l->line);
    free(l);
}

enum lines_end lines_each(char *const *names, size_t n, lines_taker *take, void *arg, struct lines_count *count)
{
    struct lines *l = lines_open(names, n);
    struct record r;
    enum lines_result result = LINES_END;
    bool goes_on = l != NULL;
    *count = (struct lines_count){0};
    while (goes_on && (result = lines_next(l, &r)) != LINES_END && result != LINES_FAILED) {
        count->broken += result == LINES_BROKEN;
        count->decisions += result == LINES_DECISION;
        goes_on = result != LINES_DECISION || take(arg, &r, lines_text(l));
    }
    lines_close(l);
    return !goes_on ? LINES_STOPPED : result == LINES_FAILED ? LINES_UNREADABLE : LINES_ALL;
}
