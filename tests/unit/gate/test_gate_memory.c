/*
 * Memory ends at the n-th allocation of libxml2 and OpenSSL, for every n: the verdict is the one with memory, or
 * "internal" (the replay memory's want is replay.full). Want of memory proves nothing, and is in no mode let through.
 */
#include "judging.h"

#include "../ending_memory.h"
#include "base/crypto.h"

#include <libxml/xmlmemory.h>
#include <openssl/crypto.h>

enum { PLENTY = -1, ALLOCATIONS_MAX = 20000 };
static long left = PLENTY; /* allocations until memory ends, and stays so */
static bool ended;

static bool denied(void)
{
    if (left == PLENTY)
        return false;
    ended |= left == 0;
    return left == 0 || left-- == 0;
}

/* Where memory ends within xmlsec, it leaks what it had. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libxmlsec1\nleak:xmlXPathNodeSet\n";
}

static void ends_at_each(void **state, const struct ask *a, enum reason expected, enum mode signature)
{
    struct world *w = *state;
    struct buf body BUF_CLEANUP = BUF_INIT(1u << 20);
    long n;
    ask_write(a, &body);
    for (n = PLENTY, ended = true; (ended || n < 1) && n < ALLOCATIONS_MAX; n++) {
        assert_int_equal(fresh(state), 0);
        w->rule[0].checks.mode[CHECK_SIGNATURE] = signature;
        crypto_thread_end(); /* whose contexts are made by the first who hashes, and then kept */
        ended = false;
        left = n;
        const enum reason r = judge_text(w, a, buf_view(&body));
        left = PLENTY;
        const bool want = r == REASON_INTERNAL || (expected == REASON_OK && r == REASON_REPLAY_FULL);
        if (r != expected && !(ended && want))
            fail_msg("memory ends at allocation %ld: %s", n, reason_name(r));
        if (expected == REASON_OK)
            assert_true(r != REASON_OK || (w->j->proven && w->j->ring_loaded));
        assert_int_equal(replay_count(w->gate.replay), r == REASON_OK);
    }
    assert_true(n > 1 && n < ALLOCATIONS_MAX);
}

static void test_judging(void **state)
{
    struct world *w = *state;
    struct ask a = ask_of(w);
    ends_at_each(state, &a, REASON_OK, MODE_ENFORCE);
    ends_at_each(state, &a, REASON_OK, MODE_SHADOW);
    ends_at_each(state, &a, REASON_OK, MODE_OFF);
    a.key = &w->stranger;
    ends_at_each(state, &a, REASON_SIGNATURE_INVALID, MODE_ENFORCE);
    a.key_id = "ink.9";
    ends_at_each(state, &a, REASON_KEY_UNKNOWN, MODE_ENFORCE);
    a = ask_of(w);
    a.fields.kms_uri = STR("elsewhere");
    ends_at_each(state, &a, REASON_KMS_URI_MISMATCH, MODE_ENFORCE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_judging)};
    if (CRYPTO_set_mem_functions(crypto_malloc, crypto_realloc, crypto_free) != 1 ||
        xmlMemSetup(free, limited_malloc, limited_realloc, limited_strdup) != 0 || !xml_startup())
        return 1;
    const int failed = cmocka_run_group_tests(tests, world_begin, world_end);
    xml_shutdown();
    return failed;
}
