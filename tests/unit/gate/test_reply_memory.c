/*
 * Memory ends at the n-th allocation while a reply is made, for every n, of ours, libxml2's and OpenSSL's alike: the
 * reply is the one with memory, or a refusal for `internal`, or no body at all; nothing leaks, no key leaves.
 */
#include "judging.h"

#define ENDING_MEMORY_WRAPPED
#include "../ending_memory.h"
#include "../message/replies.h"
#include "base/crypto.h"

#include <libxml/xmlmemory.h>
#include <openssl/crypto.h>

/* libxml2 2.9.14 loses a buffer when it canonicalizes a text of more than 1000 octets and memory ends (c14n.c,
 * growBufferReentrant): not to be held against us, where there is such a text. */
#if defined __has_feature && !defined __SANITIZE_ADDRESS__ /* clang's word for it */
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#else
#define __lsan_disable() (void)0
#define __lsan_enable() (void)0
#endif

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

struct told {
    struct response_rule rule;
    struct buf text;
    enum reason expected;
    int status;
};

/* The whole of it: what is to be learnt is, at once. */
static enum reason make_reply(struct judgement *j, const struct gate_upstream *up, struct gate_response *out)
{
    const struct key_wish *wishes;
    struct key_fate fates[KEYKEEPER_WISHES];
    const enum reason r = gate_reply(j, up, NOW + 1, out);
    if (!out->waits)
        return r;
    const size_t n = gate_wishes(j, &wishes);
    for (size_t i = 0; i < n; i++)
        fates[i] = (struct key_fate){.outcome = KEY_TAKEN_UP, .id = STR("new.2"), .key = wishes[i].key};
    buf_free(&out->body);
    gate_granted(j, fates, n);
    return gate_reply(j, up, NOW + 1, out);
}

/* A judgement is made with memory; then it ends. */
static void ends_at_each(void **state, const struct told *t, const char *resource)
{
    struct world *w = *state;
    long n;
    char url[256];
    snprintf(url, sizeof url, BASE "%s", resource);
    w->rules.responses = (struct response_rule *)&t->rule;
    w->rules.response_count = 1;
    for (n = PLENTY, ended = true; (ended || n < 1) && n < ALLOCATIONS_MAX; n++) {
        assert_int_equal(fresh(state), 0);
        struct ask a = ask_of(w);
        ask_at(&a, resource, url);
        assert_int_equal(judge_ask(w, &a), REASON_OK);
        const struct gate_upstream up = {t->status, buf_view(&t->text)};
        struct gate_response out;
        crypto_thread_end(); /* whose contexts are made by the first who hashes, and then kept */
        ended = false;
        left = n;
        const enum reason r = make_reply(w->j, &up, &out);
        left = PLENTY;
        if (r != t->expected && !(ended && (r == REASON_INTERNAL || r == REASON_KEYS_UNAVAILABLE)))
            fail_msg("memory ends at allocation %ld: %s", n, reason_name(r));
        assert_int_equal(w->j->decision.reason, r);
        assert_int_equal(out.status, r == REASON_OK ? 200 : r == REASON_UPSTREAM_ERROR ? t->status : reason_status(r));
        if (out.body.n > 0) {
            assert_int_equal(kms_response_validate(buf_view(&out.body), r == REASON_OK, NULL), REASON_OK);
            assert_no_clear_key(buf_view(&out.body));
        } else if (!ended) {
            fail_msg("no body at allocation %ld", n);
        }
        buf_free(&out.body);
    }
    assert_true(n > 5 && n < ALLOCATIONS_MAX);
}

static struct told told(enum kms_message m)
{
    static char id[] = "default";
    struct told t = {.expected = REASON_OK, .status = 200};
    t.rule = (struct response_rule){.id = id, .kms_uri = FIELD_RULES, .kms_id = FIELD_RULES, .time = FIELD_NOW};
    put_reply(&t.text, m);
    return t;
}

static void test_keys(void **state)
{
    struct told t = told(KMS_MESSAGE_KEYPROV);
    ends_at_each(state, &t, V1 "/keyprov");
    t.rule.encrypt.content = ENCRYPT_MESSAGE;
    __lsan_disable();
    ends_at_each(state, &t, V1 "/keyprov");
    __lsan_enable();
    buf_free(&t.text);
}

/* Without memory no reply goes out without the key. */
static void test_learning(void **state)
{
    struct world *w = *state;
    struct told t = told(KMS_MESSAGE_KEYPROV);
    struct buf key = BUF_INIT(4096);
    put_hex(&key, "NewIntegrityKey", 's', SSK_OCTETS);
    buf_z(&key, "</KmsKeyProv>");
    replace(&t.text, "</KmsKeyProv>", key.p);
    w->gate.asks_keeper = true;
    t.rule.carried_key_name = true;
    t.rule.new_keys = (struct new_keys){NEW_KEYS_LEARN, US_PER_S};
    ends_at_each(state, &t, V1 "/keyprov");
    assert_true(str_eq_z(w->j->decision.response.renewed[0], "new.2"));
    t.rule.new_keys.what = NEW_KEYS_REPLACE;
    ends_at_each(state, &t, V1 "/keyprov");
    assert_true(str_eq_z(w->j->decision.response.renewed[0], "new.2"));
    w->gate.asks_keeper = false; /* nobody could commit it */
    t.rule.new_keys.what = NEW_KEYS_LEARN;
    t.expected = REASON_KEYS_UNAVAILABLE;
    ends_at_each(state, &t, V1 "/keyprov");
    t.rule.new_keys.what = NEW_KEYS_REPLACE;
    t.expected = REASON_OK;
    ends_at_each(state, &t, V1 "/keyprov");
    assert_false(w->j->decision.response.renewed[0].n);
    buf_free(&key);
    buf_free(&t.text);
}

static void test_extensions_and_fields(void **state)
{
    struct told t = told(KMS_MESSAGE_KEYPROV);
    replace(&t.text, "</KmsKeyProv>", "<x:e xmlns:x=\"urn:x\" a=\"1\">t</x:e></KmsKeyProv>");
    t.rule.keep_extensions = true;
    t.rule.kms_uri = t.rule.kms_id = t.rule.time = t.rule.client_req_url = t.rule.user_uri = FIELD_KEEP;
    ends_at_each(state, &t, V1 "/keyprov");
    buf_free(&t.text);
}

static void test_errors(void **state)
{
    struct told t = told(KMS_MESSAGE_ERROR);
    ends_at_each(state, &t, V1 "/keyprov");
    t.status = 404;
    t.expected = REASON_UPSTREAM_ERROR;
    ends_at_each(state, &t, V1 "/keyprov");
    t.status = 302;
    t.expected = REASON_UPSTREAM_INVALID;
    ends_at_each(state, &t, V1 "/keyprov");
    buf_free(&t.text);
    t = told(KMS_MESSAGE_KEYPROV);
    replace(&t.text, "<UserUri>" ALICE "</UserUri><UserID>", "<UserUri>" BOB "</UserUri><UserID>");
    t.expected = REASON_UPSTREAM_WRONG_USER;
    ends_at_each(state, &t, V1 "/keyprov");
    buf_free(&t.text);
}

static void test_the_others(void **state)
{
    struct told t = told(KMS_MESSAGE_INIT);
    ends_at_each(state, &t, V1 "/init");
    buf_free(&t.text);
    t = told(KMS_MESSAGE_LOOKUP);
    ends_at_each(state, &t, V1 "/lookup/sip%3Abob%40example.org");
    buf_free(&t.text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_keys), cmocka_unit_test(test_learning),
                                       cmocka_unit_test(test_extensions_and_fields),
                                       cmocka_unit_test(test_errors), cmocka_unit_test(test_the_others)};
    if (CRYPTO_set_mem_functions(crypto_malloc, crypto_realloc, crypto_free) != 1 ||
        xmlMemSetup(free, limited_malloc, limited_realloc, limited_strdup) != 0 || !xml_startup())
        return 1;
    const int failed = cmocka_run_group_tests(tests, world_begin, world_end);
    xml_shutdown();
    return failed;
}
