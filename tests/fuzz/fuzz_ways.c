/*
 * Both ways of reading a request, in one pass and by tree and xmlsec1, say the same: of any bytes, of the same with
 * Alice's signature put in, and of a request that the bytes make as dice (tests/unit/message/made.h).
 */
#include "fuzz.h"

#include "../unit/message/made.h"

static struct secret_key key = {{0x4b}};

static void ways_end(void)
{
    xml_shutdown();
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    must(xml_startup(), "libraries");
    atexit(ways_end);
    return 0;
}

/* Whether both accept. */
static bool compare(struct str text)
{
    static const struct xmlsig_policy STRICT = {256, XMLSIG_C14N};
    const char *what;
    const enum request_ways ways = request_ways(text, &STRICT, &key, &what);
    must(ways != REQUEST_WAYS_DIFFER, "%s of %.*s", what, STR_FMT(text));
    return ways == REQUEST_WAYS_ACCEPT;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf text BUF_CLEANUP = BUF_INIT(MADE_ROOM);
    struct dice dice = {.p = data, .n = size}, again = dice;
    bool arrived = compare(fuzz_view(data, size));
    buf_bytes(&text, data, size);
    if (!text.failed) {
        made_sign(&key, &text);
        arrived |= compare(buf_view(&text));
        buf_reset(&text);
        made_request(&dice, &text);
        if (one_in(&dice, 2))
            made_mutate(&dice, &text);
        made_sign(&key, &text);
        arrived |= compare(buf_view(&text));
        if (!arrived) {
            buf_reset(&text);
            made_request(&again, &text);
            made_sign(&key, &text);
            arrived = compare(buf_view(&text));
        }
    }
    fuzz_arrived(arrived);
    return 0;
}
