/*
 * The program xmlsec1, which shares nothing with the gateway but its libraries.
 */
#ifndef TEST_MESSAGE_PROGRAM_H
#define TEST_MESSAGE_PROGRAM_H

#include "fixture.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

static inline void put_file(const char *folder, const char *name, struct str content, char path[256])
{
    snprintf(path, 256, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(content.p, 1, content.n, f), content.n);
    assert_int_equal(fclose(f), 0);
}

/* The exit status of xmlsec1 for a request, with the key in a file; what it says goes nowhere. */
static inline int xmlsec1(const char *command, const char *key_path, const char *input, const char *output)
{
    char id[] = "--id-attr:Id", name[] = "xmlsec1", hmackey[] = "--hmackey:ink.1.alice", out_option[] = "--output";
    int status = -1;
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        const int null = open("/dev/null", O_RDWR);
        dup2(null, 1);
        dup2(null, 2);
        char *const argv[] = {
            name,           (char *)command, hmackey, (char *)key_path, id, (char *)NS_KMS ":KmsRequest", out_option,
            (char *)output, (char *)input,   NULL};
        execvp("xmlsec1", argv);
        _exit(127);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    const int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    if (code == 127)
        fail_msg("the program xmlsec1 is not installed");
    return code;
}

#endif
