/*
 * Faults found in users' files: all of one run, in the order of the text, each with FILE:LINE:COLUMN.
 */
#ifndef KMSGATE_BASE_FAULTS_H
#define KMSGATE_BASE_FAULTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

struct faults {
    struct fault {
        char *text;  /* "FILE:LINE:COLUMN: message" or "FILE: message" */
        bool placed; /* it begins with a place in a file, or already with the program's name */
        bool lint;   /* not an error: `check` exits 0 unless --strict */
        int line;    /* 0: none */
    } *v;
    size_t n;
    size_t errors; /* of n, those that are no lints */
};

/* line 0: no position; file NULL: none is at fault, the line begins `kmsgate: `. */
void faults_add(struct faults *f, const char *file, int line, int column, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
void faults_lint(struct faults *f, const char *file, int line, int column, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
/* Those from number `from` on, which were found in one file in several goes, in the order of its lines; those without a
 * line come last. */
void faults_by_line(struct faults *f, size_t from);
/* An error that has no place in a file is told as all of the program's errors are: `kmsgate: FILE: message`. */
void faults_print(const struct faults *f, FILE *to);
/* The same without the lints, which are `check`'s matter. */
void faults_print_errors(const struct faults *f, FILE *to);
/* Faults and lints to stderr as faults_print() does, or under `log.format: json` as events of the log. */
void faults_log(const struct faults *f);
void faults_free(struct faults *f);

#endif
