/* Several workers judge and sign at once: each gets what it would get alone. Run under ThreadSanitizer, too. */
#include "fixture.h"

#include <pthread.h>

enum { THREADS = 8, ROUNDS = 40, ROOM = 1u << 20, CASES = 6 };

/* A case and its verdict under the strict profile. */
static const struct {
    const char *path;
    enum reason reason;
} CASE[CASES] = {{"cases/requests/plain.xml", REASON_OK},
                 {"cases/requests/forged-user.xml", REASON_SIGNATURE_INVALID},
                 {"cases/requests/prefixed.xml", REASON_OK},
                 {"cases/requests/relative-namespace-word.xml", REASON_XML_FORBIDDEN},
                 {"cases/requests/unbound-prefix.xml", REASON_XML_MALFORMED},
                 {"cases/requests/profile-xpath.xml", REASON_SIGNATURE_PROFILE}};
static struct buf text[CASES];
static struct secret_key ink;

struct worker {
    pthread_t thread;
    unsigned number;
    size_t wrong; /* cmocka's asserts may not be used off the main thread */
};

static size_t sign_and_judge(unsigned number, unsigned round)
{
    char device[32];
    struct buf request = BUF_INIT(ROOM), out = BUF_INIT(ROOM);
    struct request_doc *doc = NULL;
    struct kms_request f;
    const struct options strict = STRICT;
    snprintf(device, sizeof device, "device-%u-%u", number, round);
    const struct kms_request fields = {.user_uri = STR("sip:alice@example.org"),
                                       .kms_uri = STR("kms.example.org"),
                                       .time = STR("2026-11-23T18:00:00Z"),
                                       .device_id = str_z(device),
                                       .client_req_url = STR("https://kms.example.org/"),
                                       .signature_id = STR("ink.1.alice")};
    kms_request_write(&fields, &request);
    bool ok = xmlsig_sign(buf_view(&request), STR("ink.1.alice"), &ink, &out);
    ok = ok && judge(buf_view(&out), &strict, &ink, &doc, &f, NULL) == REASON_OK && str_eq_z(f.device_id, device);
    request_doc_free(doc);
    buf_free(&request);
    buf_free(&out);
    return !ok;
}

static void *work(void *arg)
{
    struct worker *w = arg;
    const struct options strict = STRICT;
    for (unsigned round = 0; round < ROUNDS; round++) {
        for (unsigned i = 0; i < CASES; i++) {
            struct request_doc *doc = NULL;
            struct kms_request f;
            struct detail why;
            const unsigned k = (i + w->number) % CASES;
            w->wrong += judge(buf_view(&text[k]), &strict, &ink, &doc, &f, &why) != CASE[k].reason;
            request_doc_free(doc);
        }
        w->wrong += sign_and_judge(w->number, round);
    }
    return NULL;
}

static void test_workers(void **state)
{
    struct worker workers[THREADS] = {0};
    (void)state;
    ink = key_of(ALICE_INK);
    for (unsigned i = 0; i < CASES; i++)
        read_case(CASE[i].path, &text[i]);
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i].number = i;
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    size_t wrong = 0;
    for (unsigned i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(workers[i].thread, NULL), 0);
        wrong += workers[i].wrong;
    }
    assert_int_equal(wrong, 0);
    for (unsigned i = 0; i < CASES; i++)
        buf_free(&text[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_workers)};
    return cmocka_run_group_tests(tests, start_libraries, stop_libraries);
}
