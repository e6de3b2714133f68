/*
 * Both ways of reading an upstream's reply, in one pass and by tree, make the same of it: of any bytes, and of a reply
 * that the bytes make as dice (tests/unit/gate/made_reply.h). Under the default rule, one that keeps all that can be
 * kept, and one that encrypts whole messages.
 */
#include "asking.h"

#include "../unit/gate/made_reply.h"
#include "base/log.h"

static const char *const RULES[] = {
    RULES_BEGIN "responses: [{ id: default }]\n",
    RULES_BEGIN "responses: [{ id: keeps, extensions: keep, set: { UserUri: keep, KmsUri: keep, KmsId: keep, "
                "Time: keep, ClientReqUrl: keep } }]\n",
    RULES_BEGIN "responses: [{ id: whole, encrypt: { content: message } }]\n",
};
enum { WHOLE = 2, RULE_SETS };
static struct rules *rules[RULE_SETS];

static void close_all(void)
{
    for (int i = 0; i < RULE_SETS; i++)
        rules_unref(rules[i]);
    asking_end();
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT);
    asking_begin();
    for (int i = 0; i < RULE_SETS; i++)
        rules[i] = asking_rules(RULES[i]);
    atexit(close_all);
    return 0;
}

static void compare(struct str reply)
{
    for (int i = 0; i < RULE_SETS; i++) {
        struct judgement *j = asked(rules[i], reply);
        const struct gate_upstream up = {.status = 200, .body = reply};
        struct gate_response out[2];
        const char *what;
        must(reply_ways(&asking.gate, j, &up, asking.now_us + 1, i == WHOLE, out, &what) != REPLY_WAYS_DIFFER,
             "%s of %.*s", what, STR_FMT(reply));
        buf_free(&out[0].body);
        buf_free(&out[1].body);
        judgement_free(j);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf text BUF_CLEANUP = BUF_INIT(ASKING_ROOM);
    struct dice dice = {.p = data, .n = size};
    compare(fuzz_view(data, size));
    made_reply(&dice, KMS_MESSAGE_INIT + roll(&dice, 3), &text);
    if (one_in(&dice, 2))
        made_mutate(&dice, &text);
    if (!text.failed)
        compare(buf_view(&text));
    return 0;
}
