/* Whoever can write the file, but has no master key, can only make the gateway refuse it. */
#include "fixture.h"

/* The store must open as it is, and must not after the change. */
static void refused_after(void **state, const char *change, const char *reason)
{
    struct fixture *f = *state;
    fill_store(f);
    struct keystore *ks = keystore_open(f->path, &f->master, false, &f->faults);
    assert_non_null(ks);
    keystore_close(ks);
    sql(f, change);
    ks = keystore_open(f->path, &f->master, false, &f->faults);
    assert_null(ks);
    assert_true(told(f, reason));
    assert_true(told(f, f->path));
}

#define CASE(name, change, reason)         \
    static void name(void **state)         \
    {                                      \
        refused_after(state, change, reason); \
    }

CASE(user_changed, "UPDATE keys SET user = 'sip:carol@example.org' WHERE id = 'ink.1.bob'", "does not verify")
CASE(id_changed, "UPDATE keys SET id = 'ink.2.bob' WHERE id = 'ink.1.bob'", "does not verify")
CASE(type_changed, "UPDATE keys SET type = 1 WHERE id = 'ink.1.bob'", "does not verify")
CASE(type_unknown, "UPDATE keys SET type = 2 WHERE id = 'ink.1.bob'", "not as kmsgate writes it")
CASE(state_changed, "UPDATE keys SET state = 1 WHERE id = 'ink.1.bob'", "does not verify")
CASE(state_unknown, "UPDATE keys SET state = 5 WHERE id = 'ink.1.bob'", "not as kmsgate writes it")
CASE(not_after_changed, "UPDATE keys SET not_after = 4102444800000000 WHERE id = 'ink.1.bob'", "does not verify")
CASE(seq_changed, "UPDATE keys SET seq = seq + 100 WHERE id = 'ink.1.bob'", "does not verify")
CASE(seq_swapped,
     "UPDATE keys SET seq = -seq WHERE user = 'sip:bob@example.org';"
     "UPDATE keys SET seq = CASE seq WHEN -3 THEN 4 ELSE 3 END WHERE user = 'sip:bob@example.org'", "does not verify")
CASE(nonce_changed, "UPDATE keys SET sealed = CAST(x'00' || substr(sealed, 2) AS BLOB) WHERE id = 'ink.1.bob'",
     "does not verify")
CASE(ciphertext_changed,
     "UPDATE keys SET sealed = CAST(substr(sealed, 1, 20) || x'0000' || substr(sealed, 23) AS BLOB) "
     "WHERE id = 'ink.1.bob'", "does not verify")
CASE(tag_changed, "UPDATE keys SET sealed = CAST(substr(sealed, 1, 58) || x'0000' AS BLOB) WHERE id = 'ink.1.bob'",
     "does not verify")
CASE(sealed_cut, "UPDATE keys SET sealed = substr(sealed, 1, 59) WHERE id = 'ink.1.bob'", "not as kmsgate writes it")
CASE(sealed_swapped_between_users,
     "UPDATE keys SET sealed = (SELECT sealed FROM keys WHERE id = 'ink.1.alice') WHERE id = 'ink.1.bob'",
     "does not verify")
CASE(rows_swapped,
     "UPDATE keys SET id = 'x' WHERE id = 'ink.1.bob'; UPDATE keys SET id = 'ink.1.bob' WHERE id = 'trk.1.bob';"
     "UPDATE keys SET id = 'trk.1.bob' WHERE id = 'x'", "does not verify")
CASE(row_deleted, "DELETE FROM keys WHERE id = 'ink.1.bob'", "3 keys where there were 4")
CASE(last_row_deleted, "DELETE FROM keys WHERE seq = (SELECT max(seq) FROM keys)", "3 keys where there were 4")
CASE(all_rows_deleted, "DELETE FROM keys", "0 keys where there were 4")
CASE(since_changed, "UPDATE keys SET since = since + 1000000 WHERE id = 'ink.1.bob'", "does not verify")
CASE(since_odd, "UPDATE keys SET since = -1 WHERE id = 'ink.1.bob'", "not as kmsgate writes it")
CASE(origin_changed, "UPDATE keys SET origin = 1 WHERE id = 'ink.1.bob'", "does not verify")
CASE(origin_unknown, "UPDATE keys SET origin = 4 WHERE id = 'ink.1.bob'", "not as kmsgate writes it")
CASE(due_changed, "UPDATE keys SET due = 1 WHERE id = 'ink.1.bob'", "does not verify")
CASE(keep_old_changed, "UPDATE keys SET keep_old = 5 WHERE id = 'ink.1.bob'", "does not verify")
CASE(sent_changed, "UPDATE keys SET sent = 'trk.1.bob' || char(10) WHERE id = 'ink.1.bob'", "does not verify")
CASE(state_offered, "UPDATE keys SET state = 3 WHERE id = 'ink.1.bob'", "does not verify")
CASE(made_a_tombstone, "UPDATE keys SET state = 4 WHERE id = 'ink.1.bob'", "does not verify")
CASE(master_changed, "UPDATE keys SET master = master + 1 WHERE id = 'ink.1.bob'", "not listed")
CASE(row_doubled, "INSERT INTO keys SELECT user, 'ink.9.bob', type, state, not_after, since, origin, due, keep_old, "
                  "sent, master, 9, sealed FROM keys WHERE id = 'ink.1.bob'", "does not verify")
CASE(row_deleted_and_counted_less, "DELETE FROM keys WHERE id = 'ink.1.bob'; UPDATE meta SET keys = 3",
     "meta row does not verify")
CASE(meta_version_changed, "UPDATE meta SET version = 3", "version 3")
CASE(meta_count_changed, "UPDATE meta SET keys = 5", "meta row does not verify")
CASE(meta_last_changed, "UPDATE meta SET last_seq = 5", "meta row does not verify")
CASE(meta_negative, "UPDATE meta SET last_seq = -1", "not as kmsgate writes it")
CASE(meta_salt_changed, "UPDATE meta SET salt = zeroblob(32)", "master key is not the one")
CASE(meta_check_changed, "UPDATE meta SET key_check = zeroblob(32)", "master key is not the one")
CASE(meta_sums_changed, "UPDATE meta SET sums = zeroblob(92)", "meta row does not verify")
CASE(meta_sums_empty, "UPDATE meta SET sums = x''", "not as kmsgate writes it")
CASE(meta_deleted, "DELETE FROM meta", "meta row is gone")
CASE(schema_version, "PRAGMA user_version = 3", "schema version 3")
CASE(another_application, "PRAGMA application_id = 1", "not a key database of kmsgate")
CASE(a_trigger, "CREATE TRIGGER t AFTER UPDATE ON meta BEGIN DELETE FROM keys; END", "`t` in it is not kmsgate's")
CASE(a_view, "CREATE VIEW v AS SELECT * FROM keys", "`v` in it is not kmsgate's")
CASE(a_table, "CREATE TABLE sqlit (a)", "`sqlit` in it is not kmsgate's")
CASE(no_index, "DROP INDEX keys_seq", "tables are missing")
CASE(other_columns, "DROP TABLE keys; CREATE TABLE keys (user, id, type, state, not_after, seq, sealed)",
     "`keys` in it is not kmsgate's")
CASE(a_view_for_a_table,
     "ALTER TABLE keys RENAME TO k2; CREATE VIEW keys AS SELECT * FROM k2 WHERE id <> 'ink.1.bob'; "
     "UPDATE meta SET one = 1",
     "is not kmsgate's")

static void statistics_are_no_tampering(void **state)
{
    struct fixture *f = *state;
    fill_store(f);
    sql(f, "PRAGMA analysis_limit = 0; ANALYZE");
    struct keystore *ks = keystore_open(f->path, &f->master, false, &f->faults);
    assert_non_null(ks);
    assert_true(has_key(ks, BOB, "ink.1.bob", 3));
    keystore_close(ks);
}

static void row_rolled_back(void **state)
{
    struct fixture *f = *state;
    fill_store(f);
    copy_file(f->path, f->copy);
    struct keystore *ks = open_store(f);
    assert_true(keystore_set_state(ks, STR(BOB), STR("ink.1.bob"), KEY_REVOKED, &f->faults));
    keystore_close(ks);
    ks = open_store(f); /* the twin: the same file, untouched */
    assert_int_equal(state_of(ks, BOB, "ink.1.bob"), KEY_REVOKED);
    keystore_close(ks);
    char text[512];
    snprintf(text, sizeof text, "ATTACH '%s' AS old; "
             "INSERT OR REPLACE INTO keys SELECT * FROM old.keys WHERE id = 'ink.1.bob'", f->copy);
    sql(f, text);
    assert_null(keystore_open(f->path, &f->master, false, &f->faults));
    assert_true(told(f, "put back to an earlier state"));
}

static void rows_rolled_back_with_their_meta(void **state)
{
    struct fixture *f = *state;
    fill_store(f);
    copy_file(f->path, f->copy);
    struct keystore *ks = open_store(f);
    assert_true(keystore_set_state(ks, STR(BOB), STR("ink.1.bob"), KEY_REVOKED, &f->faults));
    assert_true(keystore_set_state(ks, STR(ALICE), STR("ink.1.alice"), KEY_RETIRING, &f->faults));
    keystore_close(ks);
    char text[512]; /* alice's new row stays: that mixture never was */
    snprintf(text, sizeof text, "ATTACH '%s' AS old; "
             "INSERT OR REPLACE INTO keys SELECT * FROM old.keys WHERE id = 'ink.1.bob';"
             "INSERT OR REPLACE INTO meta SELECT * FROM old.meta", f->copy);
    sql(f, text);
    assert_null(keystore_open(f->path, &f->master, false, &f->faults));
    assert_true(told(f, "put back to an earlier state"));
}

static void row_of_another_database(void **state)
{
    struct fixture *f = *state, *g = NULL;
    fill_store(f);
    assert_int_equal(set_up((void **)&g), 0);
    g->master = f->master; /* even with the same master key */
    fill_store(g);
    char text[512];
    snprintf(text, sizeof text, "ATTACH '%s' AS other; "
             "INSERT OR REPLACE INTO keys SELECT * FROM other.keys WHERE id = 'ink.1.bob'", g->path);
    sql(f, text);
    assert_null(keystore_open(f->path, &f->master, false, &f->faults));
    assert_true(told(f, "does not verify"));
    assert_int_equal(tear_down((void **)&g), 0);
}

static void wrong_master_key(void **state)
{
    struct fixture *f = *state;
    fill_store(f);
    struct secret_key other = f->master;
    other.b[31] ^= 1;
    assert_null(keystore_open(f->path, &other, false, &f->faults));
    assert_true(told(f, "master key is not the one"));
    assert_int_equal(f->faults.n, 1);
    struct keystore *ks = keystore_open(f->path, &f->master, false, &f->faults);
    assert_non_null(ks);
    keystore_close(ks);
}

static void truncated(void **state)
{
    struct fixture *f = *state;
    struct stat st;
    fill_store(f);
    assert_int_equal(stat(f->path, &st), 0);
    copy_file(f->path, f->copy);
    const off_t sizes[] = {st.st_size - 1, st.st_size - 4096, st.st_size / 2, 4096, 100, 1, 0};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        copy_file(f->copy, f->path);
        assert_int_equal(truncate(f->path, sizes[i]), 0);
        assert_null(keystore_open(f->path, &f->master, i % 2, &f->faults));
        assert_true(told(f, "damaged"));
        forget_faults(f);
    }
    copy_file(f->copy, f->path);
    struct keystore *ks = keystore_open(f->path, &f->master, false, &f->faults);
    assert_non_null(ks);
    keystore_close(ks);
}

/* Any byte of the file may be wrong: what opens then is exactly what was there, or nothing. */
static void every_block_damaged(void **state)
{
    struct fixture *f = *state;
    struct stat st;
    size_t opened = 0, refused = 0;
    fill_store(f);
    assert_int_equal(stat(f->path, &st), 0);
    copy_file(f->path, f->copy);
    for (off_t at = 0; at < st.st_size; at += at < 200 ? 1 : 23) {
        uint8_t b;
        int fd = open(f->path, O_RDWR);
        assert_int_equal(pread(fd, &b, 1, at), 1);
        b ^= 0x41;
        assert_int_equal(pwrite(fd, &b, 1, at), 1);
        close(fd);
        struct keystore *ks = keystore_open(f->path, &f->master, false, &f->faults);
        if (ks) {
            opened++;
            assert_true(has_key(ks, ALICE, "ink.1.alice", 1) && has_key(ks, ALICE, "trk.1.alice", 2));
            assert_true(has_key(ks, BOB, "ink.1.bob", 3) && has_key(ks, BOB, "trk.1.bob", 4));
            assert_int_equal(state_of(ks, BOB, "ink.1.bob"), KEY_ACTIVE);
        } else {
            refused++;
            assert_true(f->faults.n > 0);
        }
        keystore_close(ks);
        forget_faults(f);
        copy_file(f->copy, f->path);
    }
    assert_true(opened > 0 && refused > 0);
}

/* An older copy is written over it, somebody changes that, and the newer one is written back: to SQLite, which counts
 * commits, the last two are the same. */
static void the_newer_one_is_written_back(void **state)
{
    struct fixture *f = *state;
    char why[200], newer[110];
    bool changed;
    snprintf(newer, sizeof newer, "%s.newer", f->path);
    fill_store(f);
    copy_file(f->path, f->copy);
    struct keystore *mine = open_store(f), *other = open_store(f);
    assert_true(put(f, other, entry(ALICE, KEY_INK, "ink.2.alice", 22)));
    keystore_close(other);
    assert_true(keystore_refresh(mine, &changed, why, sizeof why) && changed);
    copy_file(f->path, newer);
    copy_file(f->copy, f->path);
    assert_false(keystore_refresh(mine, &changed, why, sizeof why));
    other = open_store(f);
    assert_true(put(f, other, entry(BOB, KEY_INK, "ink.2.bob", 23)));
    keystore_close(other);
    for (int turn = 0; turn < 2; turn++)
        assert_false(keystore_refresh(mine, &changed, why, sizeof why));
    copy_file(newer, f->path);
    assert_true(keystore_refresh(mine, &changed, why, sizeof why));
    assert_true(has_key(mine, ALICE, "ink.2.alice", 22) && !has_key(mine, BOB, "ink.2.bob", 23));
    assert_true(put(f, mine, entry(BOB, KEY_INK, "ink.3.bob", 24)));
    assert_true(has_key(mine, BOB, "ink.3.bob", 24));
    keystore_close(mine);
    keystore_close(open_store(f));
    unlink(newer);
}

/* The file is emptied for a while, as by a disk that is full: SQLite reads no commits of it, and forgets none. */
static void the_emptied_one_is_written_back(void **state)
{
    struct fixture *f = *state;
    char why[200];
    bool changed;
    fill_store(f);
    copy_file(f->path, f->copy);
    struct keystore *mine = open_store(f);
    assert_int_equal(truncate(f->path, 0), 0);
    for (int turn = 0; turn < 2; turn++)
        assert_false(keystore_refresh(mine, &changed, why, sizeof why));
    assert_true(has_key(mine, ALICE, "ink.1.alice", 1));
    copy_file(f->copy, f->path);
    bool follows = false;
    for (int turn = 0; turn < 600 && !follows; turn++) { /* it is opened again every few seconds */
        follows = keystore_refresh(mine, &changed, why, sizeof why);
        usleep(follows ? 0 : 100000);
    }
    assert_true(follows);
    assert_true(put(f, mine, entry(BOB, KEY_INK, "ink.2.bob", 23)));
    keystore_close(mine);
    keystore_close(open_store(f));
}

static void foreign_files(void **state)
{
    struct fixture *f = *state;
    int fd = open(f->path, O_WRONLY | O_CREAT, 0600);
    assert_int_equal(write(fd, "keys: none\n", 11), 11);
    close(fd);
    assert_null(keystore_open(f->path, &f->master, true, &f->faults));
    assert_true(told(f, "no database"));
    unlink(f->path);
    sql(f, "CREATE TABLE t (a)");
    chmod(f->path, 0600);
    assert_null(keystore_open(f->path, &f->master, true, &f->faults));
    assert_true(told(f, "not a key database of kmsgate"));
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(user_changed), T(since_changed), T(since_odd), T(origin_changed), T(origin_unknown), T(due_changed),
        T(keep_old_changed), T(sent_changed), T(state_offered), T(made_a_tombstone), T(master_changed),
        T(id_changed), T(type_changed), T(type_unknown), T(state_changed), T(state_unknown),
        T(not_after_changed), T(seq_changed), T(seq_swapped), T(nonce_changed), T(ciphertext_changed), T(tag_changed),
        T(sealed_cut), T(sealed_swapped_between_users), T(rows_swapped), T(row_deleted), T(last_row_deleted),
        T(all_rows_deleted), T(row_doubled), T(row_deleted_and_counted_less), T(meta_version_changed),
        T(meta_count_changed), T(meta_last_changed), T(meta_negative), T(meta_salt_changed),
        T(meta_check_changed), T(meta_sums_changed), T(meta_sums_empty), T(meta_deleted), T(schema_version),
        T(another_application), T(a_trigger), T(a_view), T(a_table), T(no_index), T(other_columns),
        T(a_view_for_a_table), T(statistics_are_no_tampering), T(row_rolled_back), T(rows_rolled_back_with_their_meta),
        T(row_of_another_database), T(wrong_master_key), T(truncated), T(every_block_damaged),
        T(the_newer_one_is_written_back), T(the_emptied_one_is_written_back), T(foreign_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
