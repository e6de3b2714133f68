#include "base/faults.h"

#include <stdarg.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/text.h"

enum { FAULT_BYTES = 16 * 1024 };

/* Without memory the text is lost, but never that there was an error. */
__attribute__((format(printf, 5, 0))) static void add(struct faults *f, bool lint, const char *file,
                                                      const int place[2], const char *format, va_list arguments)
{
    struct buf text = BUF_INIT(FAULT_BYTES);
    char message[4096];
    f->errors += !lint;
    vsnprintf(message, sizeof message, format, arguments);
    text_escape(&text, str_z(file ? file : "kmsgate"));
    if (file && place[0])
        buf_printf(&text, ":%d", place[0]);
    if (file && place[0] && place[1])
        buf_printf(&text, ":%d", place[1]);
    buf_z(&text, ": ");
    text_escape(&text, str_z(message));
    struct fault *more = text.failed ? NULL : realloc(f->v, (f->n + 1) * sizeof *f->v);
    if (!more) {
        buf_free(&text);
        return;
    }
    f->v = more;
    f->v[f->n++] = (struct fault){text.p, !file || place[0], lint, file ? place[0] : 0};
}

void faults_add(struct faults *f, const char *file, int line, int column, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    add(f, false, file, (const int[2]){line, column}, format, arguments);
    va_end(arguments);
}

void faults_lint(struct faults *f, const char *file, int line, int column, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    add(f, true, file, (const int[2]){line, column}, format, arguments);
    va_end(arguments);
}

void faults_by_line(struct faults *f, size_t from)
{
    for (size_t i = from + 1; i < f->n; i++) { /* some hundreds at most, and mostly in order */
        const struct fault v = f->v[i];
        size_t at = i;
        for (; at > from && v.line && (!f->v[at - 1].line || f->v[at - 1].line > v.line); at--)
            f->v[at] = f->v[at - 1];
        f->v[at] = v;
    }
}

static void faults_show(const struct faults *f, bool lints, FILE *to)
{
    for (size_t i = 0; i < f->n; i++)
        if (lints || !f->v[i].lint)
            fprintf(to, "%s%s\n", f->v[i].placed || f->v[i].lint ? "" : "kmsgate: ", f->v[i].text);
    if (f->errors && !f->n)
        fputs("kmsgate: out of memory\n", to);
}

void faults_print(const struct faults *f, FILE *to)
{
    faults_show(f, true, to);
}

void faults_print_errors(const struct faults *f, FILE *to)
{
    faults_show(f, false, to);
}

void faults_log(const struct faults *f)
{
    if (!log_is_json()) {
        faults_show(f, true, stderr);
        return;
    }
    for (size_t i = 0; i < f->n; i++)
        log_event(f->v[i].lint ? LOG_LEVEL_WARN : LOG_LEVEL_ERROR, "configuration", NULL, "%s", f->v[i].text);
    if (f->errors && !f->n)
        log_error("configuration", NULL, "out of memory");
}

void faults_free(struct faults *f)
{
    for (size_t i = 0; i < f->n; i++)
        free(f->v[i].text);
    free(f->v);
    *f = (struct faults){0};
}
