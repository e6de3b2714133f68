/* getaddrinfo() and the clock are this test's (linked by --wrap): a name server that is mute until it is told. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/timestamp.h"
#include "http/resolver.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static bool mute;            /* nothing is answered */
static int answer_code;      /* EAI_… of the next answers */
static unsigned answer_port; /* stands for an address: the answers' port */
static unsigned asked;       /* how often a name was asked for */
static _Atomic int64_t now_us = 1000 * US_PER_S;

int64_t __wrap_time_mono_us(void);
int64_t __wrap_time_mono_us(void)
{
    return now_us;
}

int __real_getaddrinfo(const char *host, const char *port, const struct addrinfo *hints, struct addrinfo **out);
int __wrap_getaddrinfo(const char *host, const char *port, const struct addrinfo *hints, struct addrinfo **out);
int __wrap_getaddrinfo(const char *host, const char *port, const struct addrinfo *hints, struct addrinfo **out)
{
    if (hints->ai_flags & AI_NUMERICHOST)
        return __real_getaddrinfo(host, port, hints, out);
    pthread_mutex_lock(&lock);
    asked++;
    pthread_cond_broadcast(&changed);
    while (mute)
        pthread_cond_wait(&changed, &lock);
    const int code = answer_code;
    char number[12];
    snprintf(number, sizeof number, "%u", answer_port);
    pthread_mutex_unlock(&lock);
    return code ? code : __real_getaddrinfo("127.0.0.1", number, hints, out);
}

static void set(bool to_mute, int code, unsigned port)
{
    pthread_mutex_lock(&lock);
    mute = to_mute;
    answer_code = code;
    answer_port = port;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static unsigned times_asked(void)
{
    pthread_mutex_lock(&lock);
    const unsigned n = asked;
    pthread_mutex_unlock(&lock);
    return n;
}

static void wait_asked(unsigned n)
{
    pthread_mutex_lock(&lock);
    while (asked < n)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}

/* The next answer, which wakes whoever watches. */
static void wait_woken(int fd)
{
    uint64_t n;
    struct pollfd p = {.fd = fd, .events = POLLIN};
    assert_int_equal(poll(&p, 1, 60000), 1);
    assert_int_equal(read(fd, &n, sizeof n), sizeof n);
}

static unsigned port_of(const struct addresses *a)
{
    struct sockaddr_in sa;
    assert_int_equal(a->n, 1);
    memcpy(&sa, &a->v[0].sa, sizeof sa);
    return ntohs(sa.sin_port);
}

static void addresses_need_nobody(void **state)
{
    (void)state;
    static const char *const HOSTS[] = {"127.0.0.1", "::1"};
    struct addresses a;
    char why[RESOLVER_WHY];
    for (size_t i = 0; i < 2; i++) {
        struct resolver *r = resolver_new(HOSTS[i], "9000");
        const unsigned before = times_asked();
        assert_true(resolver_is_fixed(r));
        now_us += 3600 * US_PER_S;
        assert_int_equal(resolver_get(r, &a, why), RESOLVER_KNOWN);
        assert_int_equal(a.n, 1);
        assert_false(resolver_doubt(r, &a));
        assert_int_equal(resolver_get(r, &a, why), RESOLVER_KNOWN);
        assert_int_equal(times_asked(), before);
        resolver_free(r);
    }
}

/* Nobody waits for a mute name server: who asks is told so, and who ends ends. */
static void a_mute_server_holds_up_nobody(void **state)
{
    (void)state;
    struct addresses a;
    char why[RESOLVER_WHY];
    struct resolver *r = resolver_new("kms.example.org", "9000");
    const unsigned before = times_asked();
    const int fd = eventfd(0, EFD_NONBLOCK);
    assert_true(resolver_watch(r, fd));
    set(true, 0, 0);
    for (int i = 0; i < 100; i++)
        assert_int_equal(resolver_get(r, &a, why), RESOLVER_ASKED);
    wait_asked(before + 1);
    resolver_free(r); /* the thread is still at it, and has nobody to tell */
    close(fd);
    assert_int_equal(times_asked(), before + 1);
    set(false, 0, 1);
}

static void answers_age(void **state)
{
    (void)state;
    struct addresses a;
    char why[RESOLVER_WHY];
    struct resolver *r = resolver_new("kms.example.org", "9000");
    const int fd = eventfd(0, EFD_NONBLOCK);
    assert_true(resolver_watch(r, fd));
    set(false, 0, 11);
    const unsigned before = times_asked();
    assert_int_equal(resolver_get(r, &a, why), RESOLVER_ASKED);
    wait_woken(fd);
    assert_int_equal(resolver_get(r, &a, why), RESOLVER_KNOWN);
    assert_int_equal(port_of(&a), 11);
    now_us += RESOLVER_FRESH_S * US_PER_S - 1;
    assert_int_equal(resolver_get(r, &a, why), RESOLVER_KNOWN);
    assert_int_equal(times_asked(), before + 1);
    set(true, 0, 12);
    now_us += 1; /* old: handed out, and asked for again, once */
    for (int i = 0; i < 10; i++)
        assert_int_equal(resolver_get(r, &a, why), RESOLVER_KNOWN);
    assert_int_equal(port_of(&a), 11);
    wait_asked(before + 2);
    set(false, 0, 12);
    wait_woken(fd);
    assert_int_equal(resolver_get(r, &a, why), RESOLVER_KNOWN);
    assert_int_equal(port_of(&a), 12);
    assert_int_equal(times_asked(), before + 2);
    set(false, EAI_AGAIN, 0); /* a failure leaves the old */
    now_us += RESOLVER_FRESH_S * US_PER_S;
    assert_int_equal(resolver_get(r, &a, why), RESOLVER_KNOWN);
    wait_woken(fd);
    assert_int_equal(resolver_get(r, &a, why), RESOLVER_KNOWN);
    assert_int_equal(port_of(&a), 12);
    resolver_free(r);
    close(fd);
}

static void doubt_asks_again(void **state)
{
    (void)state;
    struct addresses a, b;
    char why[RESOLVER_WHY];
    struct resolver *r = resolver_new("kms.example.org", "9000");
    const int fd = eventfd(0, EFD_NONBLOCK);
    assert_true(resolver_watch(r, fd));
    set(false, 0, 21);
    assert_int_equal(resolver_get(r, &a, why), RESOLVER_ASKED);
    wait_woken(fd);
    assert_int_equal(resolver_get(r, &a, why), RESOLVER_KNOWN);
    assert_false(resolver_doubt(r, &a)); /* just answered: there is no better */
    now_us += RESOLVER_AGAIN_S * US_PER_S + 1;
    set(false, 0, 22);
    assert_true(resolver_doubt(r, &a));
    assert_int_equal(resolver_get(r, &b, why), RESOLVER_ASKED);
    wait_woken(fd);
    assert_true(resolver_doubt(r, &a)); /* another call, which had the old one, takes the new one */
    assert_int_equal(resolver_get(r, &b, why), RESOLVER_KNOWN);
    assert_int_equal(port_of(&b), 22);
    resolver_free(r);
    close(fd);
}

static void failures_are_told_and_remembered(void **state)
{
    (void)state;
    struct addresses a;
    char why[RESOLVER_WHY];
    struct resolver *r = resolver_new("kms.example.org", "9000");
    const int fd = eventfd(0, EFD_NONBLOCK);
    assert_true(resolver_watch(r, fd));
    set(false, EAI_NONAME, 0);
    const unsigned before = times_asked();
    assert_int_equal(resolver_get(r, &a, why), RESOLVER_ASKED);
    wait_woken(fd);
    for (int i = 0; i < 10; i++)
        assert_int_equal(resolver_get(r, &a, why), RESOLVER_FAILED);
    assert_non_null(strstr(why, "kms.example.org: Name or service not known"));
    assert_int_equal(times_asked(), before + 1);
    set(false, 0, 31);
    now_us += RESOLVER_AGAIN_S * US_PER_S;
    assert_int_equal(resolver_get(r, &a, why), RESOLVER_ASKED);
    wait_woken(fd);
    assert_int_equal(resolver_get(r, &a, why), RESOLVER_KNOWN);
    resolver_unwatch(r, fd);
    now_us += RESOLVER_FRESH_S * US_PER_S;
    assert_int_equal(resolver_get(r, &a, why), RESOLVER_KNOWN);
    wait_asked(before + 3);
    resolver_free(r);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses_need_nobody),
        cmocka_unit_test(a_mute_server_holds_up_nobody),
        cmocka_unit_test(answers_age),
        cmocka_unit_test(doubt_asks_again),
        cmocka_unit_test(failures_are_told_and_remembered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
