/*
 * What the fuzzers share. A target is one function that must hold for any bytes; libFuzzer calls it with bytes of its
 * own (-DKMSGATE_FUZZ=ON, clang), replay.c with those of files, so that the seeds are ordinary tests of every build.
 */
#ifndef TEST_FUZZ_H
#define TEST_FUZZ_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What must hold, in release builds too. */
#define must(condition, ...) ((condition) ? (void)0 : fuzz_failed(__FILE__, __LINE__, #condition, __VA_ARGS__))
static inline __attribute__((noreturn, format(printf, 4, 5))) void fuzz_failed(const char *file, int line,
                                                                               const char *condition,
                                                                               const char *format, ...)
{
    va_list args;
    fprintf(stderr, "%s:%d: %s does not hold: ", file, line, condition);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    abort();
}

/* Once in each run: whether it came to the end that matters (a request accepted, a reply made, a line read). How many
 * did is said at the end of the process, for whoever asks (FUZZ_ARRIVED=1). */
void fuzz_arrived(bool yes);
extern struct fuzz_count {
    unsigned long runs, arrived;
} fuzz_count;

static inline struct str fuzz_view(const uint8_t *data, size_t size)
{
    return (struct str){size ? (const char *)data : "", size};
}

/* A file in memory with these bytes; its path in `path`. The caller closes the descriptor. */
int fuzz_file(struct str bytes, char path[64]);

/* What is left of an input, as values of something that is right but for them: the next text is a length and so many
 * octets, the next choice (0 to sides - 1) is an octet. Empty and 0 at its end. */
struct str fuzz_next(struct str *rest);
unsigned fuzz_choice(struct str *rest, unsigned sides);

#endif
