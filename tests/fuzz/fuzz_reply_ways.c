/*
 * Both ways of reading an upstream's reply, in one pass and by tree, make the same of it: of any bytes, and of a reply
 * that the bytes make as dice (tests/unit/gate/made_reply.h). Under the default rule, one that keeps all that can be
 * kept, and one that encrypts whole messages.
 */
#include "asking.h"

#include "../unit/gate/made_reply.h"

static const char *const RULES[] = {
    RULES_BEGIN "responses: [{ id: default }]\n",
    RULES_BEGIN "responses: [{ id: keeps, extensions: keep, set: { UserUri: keep, KmsUri: keep, KmsId: keep, "
                "Time: keep, ClientReqUrl: keep } }]\n",
    RULES_BEGIN "responses: [{ id: whole, encrypt: { content: message } }]\n",
};
enum { WHOLE = 2, RULE_SETS };
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    asking_begin(RULES, RULE_SETS);
    atexit(asking_end);
    return 0;
}

/* Whether both make a reply of it, under one of the rules. */
static bool compare(struct str reply)
{
    bool arrived = false;
    for (int i = 0; i < RULE_SETS; i++) {
        struct judgement *j = asked(asking.rules[i], reply);
        const struct gate_upstream up = {.status = 200, .body = reply};
        struct gate_response out[2];
        const char *what;
        const enum reply_ways ways = reply_ways(&asking.gate, j, &up, asking.now_us + 1, i == WHOLE, out, &what);
        must(ways != REPLY_WAYS_DIFFER, "%s of %.*s", what, STR_FMT(reply));
        arrived |= ways == REPLY_WAYS_ACCEPT;
        buf_free(&out[0].body);
        buf_free(&out[1].body);
        judgement_free(j);
    }
    return arrived;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf text BUF_CLEANUP = BUF_INIT(ASKING_ROOM);
    struct dice dice = {.p = data, .n = size};
    bool arrived = compare(fuzz_view(data, size));
    made_reply(&dice, KMS_MESSAGE_INIT + roll(&dice, 3), &text);
    if (one_in(&dice, 2))
        made_mutate(&dice, &text);
    if (!text.failed)
        arrived |= compare(buf_view(&text));
    if (!arrived) { /* the same, as it was rolled */
        dice = (struct dice){.p = data, .n = size};
        buf_reset(&text);
        made_reply(&dice, KMS_MESSAGE_INIT + roll(&dice, 3), &text);
        arrived = !text.failed && compare(buf_view(&text));
    }
    fuzz_arrived(arrived);
    return 0;
}
