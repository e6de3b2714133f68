/*
 * No judgement opens a file or a socket, starts a program or a thread, whatever a message asks for: each case of
 * tests/cases/requests is judged by a child process in which the kernel kills on the first such call.
 */
#include "fixture.h"

#include <fcntl.h>
#include <signal.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CASES_MAX = 1024 };
static struct buf texts[CASES_MAX];
static size_t count;

static int read_all(void **state)
{
    struct buf table;
    char *save = NULL;
    read_case("cases/requests/verdicts.tsv", &table);
    for (char *line = strtok_r(table.p, "\n", &save); line && count < CASES_MAX; line = strtok_r(NULL, "\n", &save)) {
        char path[256];
        char *inner = NULL;
        snprintf(path, sizeof path, "cases/requests/%s.xml", strtok_r(line, "\t", &inner));
        read_case(path, &texts[count++]);
    }
    buf_free(&table);
    return start_libraries(state);
}

static int free_all(void **state)
{
    while (count > 0)
        buf_free(&texts[--count]);
    return stop_libraries(state);
}

#define KILL_ON(name)                                         \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_##name, 0, 1),   \
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)

static bool forbid_io(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        KILL_ON(openat),
        KILL_ON(openat2),
        KILL_ON(socket),
        KILL_ON(connect),
        KILL_ON(execve),
        KILL_ON(execveat),
        KILL_ON(clone),
        KILL_ON(clone3),
        KILL_ON(statx),
        KILL_ON(newfstatat),
        KILL_ON(readlinkat),
#ifdef __NR_open
        KILL_ON(open),
        KILL_ON(stat),
        KILL_ON(access),
        KILL_ON(fork),
        KILL_ON(vfork),
#endif
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {sizeof filter / sizeof filter[0], filter};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static void nothing(void)
{
}

/* The wait status of a child that does this under the filter, and `before` it something else. */
static int in_child(void (*before)(void), void (*work)(void))
{
    int status = -1;
    fflush(NULL);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        before();
        if (!forbid_io())
            _exit(2);
        work();
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

static void judge_all(void)
{
    const struct options lax = {{128, XMLSIG_C14N | XMLSIG_EXC_C14N | XMLSIG_C14N11}, VERSIONS, true, false};
    const struct secret_key key = {{1}};
    for (size_t i = 0; i < count; i++) {
        const struct xml_limits *const both[] = {&XML_LIMITS_REQUEST, &XML_LIMITS_REPLY};
        for (size_t k = 0; k < 2; k++) {
            struct xml_doc *doc;
            struct xmlsig_info info;
            const struct xml_signed *proof = NULL;
            if (xml_parse(buf_view(&texts[i]), both[k], &doc, NULL) != REASON_OK)
                continue;
            const bool judged = kms_request_schema(doc, lax.versions, true, NULL) == REASON_OK &&
                                xmlsig_read(doc, &lax.policy, &info, NULL) == REASON_OK &&
                                xmlsig_verify(doc, &lax.policy, &key, &proof, NULL) == REASON_OK;
            if (judged)
                _exit(3); /* under that key nothing holds */
            xml_free(doc);
        }
    }
}

static void open_a_file(void)
{
    _exit(open("/dev/null", O_RDONLY) < 0 ? 4 : 5);
}

static void open_a_socket(void)
{
    _exit(socket(AF_INET, SOCK_STREAM, 0) < 0 ? 4 : 5);
}

static void test_no_io(void **state)
{
    (void)state;
    assert_true(count > 250 && count < CASES_MAX);
    /* What the libraries load once, they load at first. In the child, too: memory for keys is empty in a fork. */
    assert_int_equal(in_child(judge_all, judge_all), 0);
}

static void test_the_filter_kills(void **state)
{
    (void)state;
    int status = in_child(nothing, open_a_file);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
    status = in_child(nothing, open_a_socket);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_no_io), cmocka_unit_test(test_the_filter_kills)};
    return cmocka_run_group_tests(tests, read_all, free_all);
}
