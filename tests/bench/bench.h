/*
 * What the benchmarks' programs share.
 */
#ifndef TEST_BENCH_H
#define TEST_BENCH_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include <openssl/rand.h>

#include "base/buf.h"
#include "gate/rules.h"

/* Rules without an exception. */
#define BENCH_RULES "version: 1\nkms: { uris: [kms.example.org] }\nrequests: [{ id: everyone }]\n" \
                    "responses: [{ id: default }]\n"

/* A benchmark of what does not work says nothing. */
static inline void need(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "%s: %s failed\n", program_invocation_short_name, what);
    exit(1);
}

/* Random octets in hex, as an older KMS has its keys; `point`: of a curve, uncompressed. */
static inline void hex_element(struct buf *b, const char *name, size_t octets, bool point)
{
    uint8_t raw[257];
    need(octets <= sizeof raw && RAND_bytes(raw, (int)octets) == 1, "RAND_bytes");
    if (point)
        raw[0] = 4;
    buf_printf(b, "<%s>", name);
    buf_hex(b, raw, octets, true);
    buf_printf(b, "</%s>", name);
}

/* Rules from this text, by way of FOLDER/bench-rules.yaml, which is removed again. */
static inline struct rules *bench_rules(const char *folder, const char *text)
{
    char path[4096];
    struct faults faults = {0};
    snprintf(path, sizeof path, "%s/bench-rules.yaml", folder);
    FILE *f = fopen(path, "w");
    need(f && fputs(text, f) >= 0 && fclose(f) == 0, path);
    struct rules *rules = rules_load(path, &faults);
    faults_print_errors(&faults, stderr);
    need(rules, "rules_load");
    faults_free(&faults);
    remove(path);
    return rules;
}

#endif
