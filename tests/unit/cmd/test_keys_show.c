/* What `kmsgate keys` shows of names that import refuses today, and that an older database may hold. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "cmd/cmd.h"
#include "cmd/keys.h"

#define STRANGE "sip:a\xc2\x9b" "31m\xe2\x80\xae" "b\tc@example.org"
#define STRANGE_SHOWN "sip:a\\u009b31m\\u202eb\\x09c@example.org"

typedef int shows(struct keystore *ks, const struct keys_options *o);

/* What it writes to stdout. */
static const char *shown(shows *show, struct keystore *ks, const struct keys_options *o)
{
    static char text[4096];
    FILE *to = tmpfile();
    const int before = dup(STDOUT_FILENO);
    assert_true(to && before >= 0 && fflush(stdout) == 0 && dup2(fileno(to), STDOUT_FILENO) >= 0);
    const int code = show(ks, o);
    assert_true(fflush(stdout) == 0 && dup2(before, STDOUT_FILENO) >= 0);
    close(before);
    assert_int_equal(code, EXIT_DONE);
    rewind(to);
    text[fread(text, 1, sizeof text - 1, to)] = '\0';
    fclose(to);
    return text;
}

static int say(struct keystore *ks, const struct keys_options *o)
{
    (void)ks;
    return keys_say(o->user, "key", o->user, "%s", "added") ? EXIT_DONE : EXIT_NEGATIVE;
}

static void strange_names(void **state)
{
    (void)state;
    struct key_entry e = {.user = STR(STRANGE), .id = STR("k\x1b[2J\xe2\x80\xa8"), .type = KEY_INK, .state = KEY_ACTIVE,
                          .not_after = TIME_NONE};
    memset(e.key.b, 7, sizeof e.key.b);
    struct keystore *ks = keystore_scratch(&e, 1);
    assert_non_null(ks);
    struct keys_options o = {.user = STR_MISSING, .in_state = STR_MISSING};
    const char *list = shown(keys_list, ks, &o);
    assert_ptr_equal(strstr(list, STRANGE_SHOWN "\tink\tk\\x1b[2J\\u2028\tactive\t-\t0s\timported\n"), list);
    o.json = true;
    list = shown(keys_list, ks, &o);
    assert_non_null(strstr(list, "{\"user\":\"sip:a\\u009b31m\\u202eb\\tc@example.org\",\"type\":\"ink\""));
    o.user = e.user;
    assert_string_equal(shown(keys_show, ks, &o),
                        STRANGE_SHOWN "\n  ink k\\x1b[2J\\u2028: active; signs and verifies\n");
    assert_string_equal(shown(say, ks, &o), "user " STRANGE_SHOWN ", key " STRANGE_SHOWN ": added\n");
    keystore_close(ks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(strange_names)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
