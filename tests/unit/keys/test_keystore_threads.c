/* Readers on several threads while another follows a writer: for ThreadSanitizer, and for what readers may ever see. */
#include "fixture.h"

#include <pthread.h>
#include <stdatomic.h>

enum { READERS = 3, CHANGES = 60, USERS = 50 };

struct shared {
    struct keystore *ks;
    atomic_bool done;
    atomic_size_t reads, wrong;
};

/* Alice always has one active InK or none, and what she has always opens. */
static void *read_keys(void *arg)
{
    struct shared *s = arg;
    do {
        struct keyring ring;
        size_t active = 0, n[2][KEY_STATES];
        bool bad = keystore_user(s->ks, STR(ALICE), &ring) != KEYSTORE_OK;
        for (size_t i = 0; i < ring.n; i++) {
            struct secret_key clear SECRET_CLEANUP = {{0}};
            active += ring.keys[i].type == KEY_INK && ring.keys[i].state == KEY_ACTIVE;
            bad = bad || !keyring_open(&ring, &ring.keys[i], &clear);
        }
        bad = bad || active > 1 || !keyring_has_ink(&ring);
        keyring_clear(&ring);
        keystore_count(s->ks, 0, n);
        bad = bad || n[KEY_INK][KEY_ACTIVE] < 1;
        atomic_fetch_add(&s->wrong, bad);
        atomic_fetch_add(&s->reads, 1);
    } while (!atomic_load(&s->done));
    return NULL;
}

static void *refresh_keys(void *arg)
{
    struct shared *s = arg;
    do {
        bool changed;
        char why[200];
        /* on a busy machine one commit of the writer may outlast the turns after which that is told */
        if (!keystore_refresh(s->ks, &changed, why, sizeof why) && !strstr(why, "another process is writing")) {
            print_error("%s\n", why);
            atomic_fetch_add(&s->wrong, 1);
        }
        usleep(500);
    } while (!atomic_load(&s->done));
    return NULL;
}

static void readers_and_refresh(void **state)
{
    struct fixture *f = *state;
    struct shared s = {0};
    pthread_t threads[READERS + 1];
    char id[32], user[64];
    fill_store(f);
    s.ks = open_store(f);
    struct keystore *writer = open_store(f);
    for (int i = 0; i < READERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, read_keys, &s), 0);
    assert_int_equal(pthread_create(&threads[READERS], NULL, refresh_keys, &s), 0);
    for (int i = 0; i < CHANGES; i++) {
        snprintf(id, sizeof id, "ink.%d", 2 + i % (LIMIT_USER_KEYS - 2));
        snprintf(user, sizeof user, "sip:%d@example.org", i % USERS);
        assert_true(replace(f, writer, entry(ALICE, KEY_INK, id, (uint8_t)(i + 10))));
        assert_true(replace(f, writer, entry(user, KEY_TRK, "trk", (uint8_t)(i + 10))));
    }
    atomic_store(&s.done, true);
    for (int i = 0; i <= READERS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&s.wrong), 0);
    assert_true(atomic_load(&s.reads) >= READERS);
    bool changed;
    char why[200];
    assert_true(keystore_refresh(s.ks, &changed, why, sizeof why));
    assert_true(has_key(s.ks, ALICE, id, CHANGES - 1 + 10) && has_key(s.ks, user, "trk", CHANGES - 1 + 10));
    keystore_close(s.ks);
    keystore_close(writer);
}

enum { MANY = 400 };

static void user_of(int i, char user[64], char id[64], int number)
{
    snprintf(user, 64, "sip:%03d@example.org", i);
    snprintf(id, 64, "ink.%d.%03d", number, i);
}

/* All users' keys `number`, in one transaction; one change alone is before them, so that theirs, two each, are odd. */
static void import_many(struct fixture *f, struct keystore *ks, int number)
{
    struct key_entry v[MANY + 1];
    char text[MANY][2][64], alone[64];
    snprintf(alone, sizeof alone, "sip:-%d@example.org", number);
    v[0] = entry(alone, KEY_TRK, "trk", 100);
    for (int i = 0; i < MANY; i++) {
        user_of(i, text[i][0], text[i][1], number);
        v[i + 1] = entry(text[i][0], KEY_INK, text[i][1], (uint8_t)number);
    }
    assert_true(keystore_put(ks, v, MANY + 1, false, f->counts, &f->at, &f->faults));
}

/* Whatever is being changed, each has one active InK. */
static void *read_many(void *arg)
{
    struct shared *s = arg;
    char user[64], id[64];
    for (int i = 0; !atomic_load(&s->done); i = (i + 1) % MANY) {
        struct keyring ring;
        size_t active = 0;
        user_of(i, user, id, 1);
        const bool there = keystore_user(s->ks, str_z(user), &ring) == KEYSTORE_OK;
        for (size_t k = 0; k < ring.n; k++)
            active += ring.keys[k].type == KEY_INK && ring.keys[k].state == KEY_ACTIVE;
        atomic_fetch_add(&s->wrong, !there || active != 1);
        atomic_fetch_add(&s->reads, 1);
        keyring_clear(&ring);
    }
    return NULL;
}

enum { NEW = 3000 };

/* More users than the table has room for, all in one change. */
static void import_new(struct fixture *f, struct keystore *writer, struct keystore *ks, char part)
{
    struct key_entry *v = calloc(NEW, sizeof *v);
    char(*users)[32] = calloc(NEW, sizeof *users), why[200];
    bool changed;
    assert_non_null(v);
    assert_non_null(users);
    for (int i = 0; i < NEW; i++) {
        snprintf(users[i], sizeof users[i], "sip:%c%04d@example.org", part, i);
        v[i] = entry(users[i], KEY_INK, "ink", (uint8_t)(i % 255 + 1)); /* an all-zero key is none */
    }
    assert_true(keystore_put(writer, v, NEW, false, f->counts, &f->at, &f->faults));
    assert_true(keystore_refresh(ks, &changed, why, sizeof why) && changed);
    for (int i = 0; i < NEW; i++)
        assert_true(has_key(ks, users[i], "ink", (uint8_t)(i % 255 + 1)));
    free(users);
    free(v);
}

static void many_changes_at_once(void **state)
{
    struct fixture *f = *state;
    struct shared s = {0};
    pthread_t threads[READERS];
    char why[200];
    bool changed;
    fill_store(f);
    struct keystore *writer = open_store(f);
    import_many(f, writer, 1);
    s.ks = open_store(f);
    for (int i = 0; i < READERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, read_many, &s), 0);
    for (int number = 2; number < 30; number++) {
        import_many(f, writer, number);
        assert_true(keystore_refresh(s.ks, &changed, why, sizeof why) && changed);
        for (int i = 0; i < MANY; i++) {
            char user[64], id[64];
            user_of(i, user, id, number);
            assert_int_equal(state_of(s.ks, user, id), KEY_ACTIVE);
        }
    }
    for (char part = 'a'; part < 'd'; part++)
        import_new(f, writer, s.ks, part);
    atomic_store(&s.done, true);
    for (int i = 0; i < READERS; i++)
        pthread_join(threads[i], NULL);
    assert_true(atomic_load(&s.reads) > 0);
    assert_int_equal(atomic_load(&s.wrong), 0);
    keystore_close(s.ks);
    keystore_close(writer);
}

struct one_writer {
    struct fixture *f;
    int number;
    bool ok;
};

static void *write_keys(void *arg)
{
    struct one_writer *w = arg;
    struct fixture own = *w->f;
    own.faults = (struct faults){0};
    struct keystore *ks = keystore_open(own.path, &own.master, true, &own.faults);
    char user[64];
    w->ok = ks != NULL;
    for (int i = 0; w->ok && i < 10; i++) {
        snprintf(user, sizeof user, "sip:%d.%d@example.org", w->number, i);
        w->ok = put(&own, ks, entry(user, KEY_INK, "ink", (uint8_t)(w->number + 1)));
    }
    faults_print(&own.faults, stderr);
    faults_free(&own.faults);
    keystore_close(ks);
    return NULL;
}

/* As so many `kmsgate keys` at once, none of which finds a database: no write is lost. */
static void writers_at_once(void **state)
{
    struct fixture *f = *state;
    pthread_t threads[4];
    struct one_writer w[4];
    char user[64];
    for (int i = 0; i < 4; i++) {
        w[i] = (struct one_writer){.f = f, .number = i};
        assert_int_equal(pthread_create(&threads[i], NULL, write_keys, &w[i]), 0);
    }
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    struct keystore *ks = open_store(f);
    for (int i = 0; i < 40; i++) {
        assert_true(w[i / 10].ok);
        snprintf(user, sizeof user, "sip:%d.%d@example.org", i / 10, i % 10);
        assert_true(has_key(ks, user, "ink", (uint8_t)(i / 10 + 1)));
    }
    keystore_close(ks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(readers_and_refresh, set_up, tear_down),
        cmocka_unit_test_setup_teardown(many_changes_at_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(writers_at_once, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
