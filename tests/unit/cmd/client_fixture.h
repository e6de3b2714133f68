/* A key file of a test's making, and the words of complain(): standard error goes into a file that tests read. */
#ifndef TESTS_CMD_CLIENT_FIXTURE_H
#define TESTS_CMD_CLIENT_FIXTURE_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cmd/client.h"

#define ALICE "sip:alice@example.org"
#define BOB "sip:bob@example.org"

struct files {
    char folder[64], keys[128];
    int told; /* what stands behind standard error */
};

static inline int files_setup(void **state)
{
    static struct files f;
    snprintf(f.folder, sizeof f.folder, "/tmp/kmsgate-unit-XXXXXX");
    assert_non_null(mkdtemp(f.folder));
    snprintf(f.keys, sizeof f.keys, "%s/keys.jsonl", f.folder);
    f.told = -1;
    assert_true(xml_startup() && client_startup());
    *state = &f;
    return 0;
}

static inline int files_teardown(void **state)
{
    const struct files *f = *state;
    unlink(f->keys);
    client_shutdown();
    xml_shutdown();
    return rmdir(f->folder);
}

static inline void write_keys(const struct files *f, const char *text)
{
    const int fd = open(f->keys, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

/* A line of a key file; key bytes are all `fill`. */
static inline void add_key(char *lines, size_t cap, const char *user, const char *id, int fill, const char *more)
{
    const size_t n = strlen(lines);
    char hex[65];
    for (int i = 0; i < 32; i++)
        snprintf(hex + 2 * i, 3, "%02x", (unsigned)fill & 0xff);
    snprintf(lines + n, cap - n, "{\"user\":\"%s\",\"type\":\"%.3s\",\"id\":\"%s\",\"key\":\"%s\"%s}\n", user, id, id,
             hex, more);
}

static inline void hush(struct files *f)
{
    char path[] = "/tmp/kmsgate-told-XXXXXX";
    fflush(stderr);
    const int fd = mkstemp(path);
    assert_true(fd >= 0 && unlink(path) == 0);
    f->told = dup(STDERR_FILENO);
    assert_true(dup2(fd, STDERR_FILENO) >= 0);
    close(fd);
}

/* Ends it; true when `word` was complained about. */
static inline bool told(struct files *f, const char *word)
{
    char text[8192];
    fflush(stderr);
    const ssize_t n = pread(STDERR_FILENO, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = 0;
    dup2(f->told, STDERR_FILENO);
    close(f->told);
    if (!strstr(text, word))
        fprintf(stderr, "expected `%s`, told: %s\n", word, text);
    return strstr(text, word) != NULL;
}

#endif
