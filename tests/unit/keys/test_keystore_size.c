/*
 * Many users. As a test: all of them are found. As a measurement, in a release build:
 *
 *     KMSGATE_MEASURE_USERS=1000000 build/unit/keys_test_keystore_size
 *
 * prints seconds and resident memory; nothing is asserted about time.
 */
#include "fixture.h"

#include "base/timestamp.h"

enum { USERS = 3000, BATCH = 50000 };

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
    keystore_close(ks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(many_users, set_up, tear_down)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
