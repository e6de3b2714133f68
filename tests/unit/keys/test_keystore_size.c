/*
 * Many users. As a test: all of them are found. As a measurement, in a release build:
 *
 *     KMSGATE_MEASURE_USERS=1000000 build/unit/keys_test_keystore_size
 *
 * prints seconds and resident memory; nothing is asserted about time.
 */
#include "fixture.h"

#include <malloc.h>
#include <time.h>

#include "base/heap.h"
#include "base/timestamp.h"
#include "keys/keylife.h"
#include "keys/seal.h"
#include "keys/table.h"

enum { USERS = 3000, BATCH = 50000, CHANGES = 200 };

/* Of this process, us: what other programs do to the clock is left out. */
static double cpu_us(void)
{
    struct timespec t;
    assert_int_equal(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t), 0);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static double resident_mb(void)
{
    long pages = 0, resident = 0;
    FILE *in = fopen("/proc/self/statm", "r");
    if (!in || fscanf(in, "%ld %ld", &pages, &resident) != 2)
        resident = 0;
    if (in)
        fclose(in);
    return (double)resident * (double)sysconf(_SC_PAGESIZE) / 1e6;
}

static void name(size_t i, char user[48], char ink[48], char trk[48])
{
    snprintf(user, 48, "sip:user%07zu@field.example.org", i);
    snprintf(ink, 48, "ink.1.user%07zu@example.org", i);
    snprintf(trk, 48, "trk.1.user%07zu@example.org", i);
}

static void fill_many(struct fixture *f, size_t users)
{
    struct texts {
        char user[48], ink[48], trk[48];
    } *t = calloc(BATCH, sizeof *t);
    struct key_entry *v = calloc(2 * BATCH, sizeof *v);
    struct keystore *ks = open_store(f);
    assert_true(t && v);
    for (size_t done = 0; done < users;) {
        size_t n = users - done < BATCH ? users - done : BATCH;
        for (size_t i = 0; i < n; i++) {
            name(done + i, t[i].user, t[i].ink, t[i].trk);
            v[2 * i] = entry(t[i].user, KEY_INK, t[i].ink, (uint8_t)((done + i) % 120 + 1));
            v[2 * i + 1] = entry(t[i].user, KEY_TRK, t[i].trk, (uint8_t)((done + i) % 120 + 121));
        }
        assert_true(keystore_put(ks, v, 2 * n, false, f->counts, &f->at, &f->faults));
        done += n;
    }
    keystore_close(ks);
    free(v);
    free(t);
}

/* New keys are offered to so many users, one change each, by one store; another follows each. */
static void change_many(struct keystore *writer, struct keystore *reader, size_t users)
{
    double wrote = 0, followed = 0;
    char user[48], ink[48], trk[48], why[200];
    bool changed;
    for (size_t i = 0; i < CHANGES; i++) {
        struct key_fate f;
        name(i * 104729 % users, user, ink, trk);
        const struct key_wish w = {.deed = KEY_OFFER, .type = KEY_INK, .user = str_z(user), .id = str_z(ink),
                                   .trk = str_z(trk), .keep_old_us = US_PER_S};
        double at = cpu_us();
        keystore_do(writer, &w, 1, 0, &f);
        wrote += cpu_us() - at;
        assert_int_equal(f.outcome, KEY_OFFERED_NEW);
        key_fates_free(&f, 1);
        at = cpu_us();
        assert_true(keystore_refresh(reader, &changed, why, sizeof why) && changed);
        followed += cpu_us() - at;
    }
    print_message("a change: %.0f us of CPU to make it durable, %.0f us to follow it\n", wrote / CHANGES,
                  followed / CHANGES);
}

/* What vouches for all rows is a sum modulo 2^256: it wraps, and taking away brings back what was, for however many. */
static void sums_never_overflow(void **state)
{
    enum { KEYS = 20000000 };
    struct seal_sum sum = {{0}}, largest, zero = {{0}};
    (void)state;
    memset(&largest, 0xff, sizeof largest);
    for (int i = 0; i < KEYS; i++)
        seal_sum_add(&sum, &largest);
    assert_true(sum.w[0] == (uint64_t)0 - KEYS && sum.w[1] == UINT64_MAX && sum.w[2] == UINT64_MAX &&
                sum.w[3] == UINT64_MAX);
    assert_false(seal_sum_equal(&sum, &zero));
    for (int i = 0; i < KEYS; i++)
        seal_sum_take(&sum, &largest);
    assert_true(seal_sum_equal(&sum, &zero));
}

static void many_users(void **state)
{
    struct fixture *f = *state;
    const char *wanted = getenv("KMSGATE_MEASURE_USERS");
    size_t users = wanted ? strtoul(wanted, NULL, 10) : USERS, found = 0;
    char user[48], ink[48], trk[48], why[200];
    bool changed;
    int64_t at = time_mono_us();
    fill_many(f, users);
    double written = (double)(time_mono_us() - at) / 1e6, before = resident_mb();
    at = time_mono_us();
    struct keystore *ks = open_store(f);
    double loaded = (double)(time_mono_us() - at) / 1e6, after = resident_mb();
    at = time_mono_us();
    for (size_t i = 0; i < users; i++) {
        struct keyring ring;
        name(i * 7919 % users, user, ink, trk);
        found += keystore_user(ks, str_z(user), &ring) == KEYSTORE_OK && ring.n == 2 && keyring_find(&ring, str_z(ink));
        keyring_clear(&ring);
    }
    double each = (double)(time_mono_us() - at) / (double)users;
    assert_int_equal(found, users);
    assert_true(has_key(ks, user, ink, (uint8_t)((users - 1) * 7919 % users % 120 + 1)));
    struct keystore *other = open_store(f);
    assert_true(keystore_set_state(other, str_z(user), str_z(ink), KEY_REVOKED, &f->faults));
    keystore_close(other);
    at = time_mono_us();
    assert_true(keystore_refresh(ks, &changed, why, sizeof why) && changed);
    double refreshed = (double)(time_mono_us() - at) / 1e3;
    assert_int_equal(state_of(ks, user, ink), KEY_REVOKED);
    print_message("%zu users: written in %.1f s, loaded in %.2f s, resident %.0f MB (before the load %.0f), a look-up "
                  "%.2f us, one change followed in %.1f ms\n", users, written, loaded, after, before, each, refreshed);
    other = open_store(f);
    change_many(other, ks, users);
    keystore_close(other);
    keystore_close(ks);
}

static bool fill_table(struct table *t, size_t users)
{
    char user[48], ink[48], trk[48];
    bool ok = t != NULL;
    for (size_t i = 0; ok && i < users; i++) {
        name(i, user, ink, trk);
        struct key_row row = {.user = str_z(user), .key = {.type = KEY_INK, .id = str_z(ink), .seq = i + 1,
                                                          .since = TIME_NONE, .not_after = TIME_NONE,
                                                          .keep_old = TIME_NONE}};
        ok = table_set(t, &row);
    }
    return ok;
}

/* What a table takes is pages of its own, which go with it: nobody has to ask the allocator for them. */
static void a_table_that_goes_leaves_nothing(void **state)
{
    enum { MANY = 100000, OF_EACH = 120 };
    (void)state;
    heap_setup();
    void *volatile probe = malloc(2 << 20); /* else it is left out */
    const size_t before = mallinfo2().hblkhd;
    if (!before) { /* another allocator, such as a sanitizer's */
        free(probe);
        skip();
    }
    struct table *t = table_new(0);
    assert_true(fill_table(t, MANY));
    assert_true(mallinfo2().hblkhd - before >= (size_t)MANY * OF_EACH);
    assert_true(mallinfo2().hblkhd - before <= (size_t)MANY * 2 * OF_EACH);
    table_free(t);
    assert_int_equal(mallinfo2().hblkhd, before);
    free(probe);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_table_that_goes_leaves_nothing), /* while the heap is small */
                                       cmocka_unit_test_setup_teardown(many_users, set_up, tear_down),
                                       cmocka_unit_test(sums_never_overflow)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
