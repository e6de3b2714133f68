#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/rand.h>

#include "base/buf.h"
#include "base/log.h"
#include "cmd/cmd.h"
#include "cmd/keys.h"
#include "keys/keyfile.h"
#include "replay/mark.h"

struct telling {
    const char *name;
    const struct keyfile *file; /* NULL: the keys come from no file */
    size_t n;
    struct faults *faults;
    const char *database; /* what is at fault where no entry is */
    struct keys_progress progress;
};

static void import_tell(void *arg, size_t at, const char *text)
{
    struct telling *t = arg;
    int line = t->file && at < t->n ? (int)t->file->line[at] : 0;
    faults_add(t->faults, at < t->n ? t->name : t->database, line, 0, "%s", text);
}

static void show_import(void *arg, size_t done, size_t of)
{
    keys_progress(&((struct telling *)arg)->progress, done, of);
}

/* What can be read by others is known to others: the keys are taken, since nothing is made better by refusing them. */
void keys_warn_if_open(const char *path)
{
    struct stat st;
    if (stat(path, &st) == 0 && S_ISREG(st.st_mode) && (st.st_mode & S_IROTH))
        complain("warning: %s holds clear keys and is readable by all (mode %04o)", path,
                 (unsigned)st.st_mode & 07777u);
}

static bool any_key(void *arg, const struct keyring *ring, const struct key *key)
{
    (void)ring;
    (void)key;
    *(bool *)arg = true;
    return false;
}

/* Whether nobody can have accepted anything under these keys. */
static bool may_be_first(struct keystore *ks, const struct keys_options *o, const struct secret_key *key)
{
    struct mark mark;
    struct detail why = {""};
    bool any = false;
    if (!keystore_walk(ks, any_key, &any) && !any)
        return false;
    if (any)
        complain("keys import: %s holds keys: --first is for the first ones of a new gateway", keystore_where(ks));
    const bool marked = mark_read(o->state, key, &mark, &why) != MARK_NONE;
    if (marked)
        complain("keys import: %s/%s is there: a gateway has started here before, and may have accepted requests; "
                 "import without --first", o->state, MARK_FILE);
    return !any && !marked;
}

/* After the keys: without them it would mean nothing. */
static bool mark_first(const struct keys_options *o, const struct secret_key *key)
{
    const struct mark m = {.clock_us = time_now_us(), .clean = true, .east_us = TIME_NONE};
    struct detail why = {""};
    if (mark_write(o->state, key, &m, &why))
        return true;
    complain("keys import: the keys were imported, but %s: %s: the first start waits as if there were no --first",
             o->state, why.text);
    return false;
}

static int import_file(struct keystore *ks, const struct keys_options *o)
{
    struct keyfile file;
    struct faults faults = {0};
    size_t counts[3] = {0};
    bool standard = str_eq_z(str_z(o->file), "-");
    if (!standard)
        keys_warn_if_open(o->file);
    const bool read = keyfile_read(o->file, &file, &faults);
    struct telling t = {standard ? "standard input" : o->file, &file, file.n, &faults, keystore_where(ks),
                        keys_progress_new("keys")};
    /* where lines are at fault, what is to be said of the others is said in the same run */
    const bool ok = file.whole &&
                    keystore_import(ks, file.v, file.n,
                                    (o->replace ? KEY_PUT_REPLACE : 0) | (o->force ? KEY_PUT_FORCE : 0) |
                                        (o->dry || !read ? KEY_PUT_DRY : 0),
                                    counts,
                                    &(struct key_telling){.fault = import_tell, .progress = show_import, .arg = &t}) &&
                    read;
    keys_progress_end(&t.progress);
    faults_by_line(&faults, 0);
    keyfile_free(&file);
    faults_print(&faults, stderr);
    faults_free(&faults);
    if (!ok) {
        complain("keys import: nothing was imported");
        return EXIT_NEGATIVE;
    }
    printf("%s%zu added, %zu replaced, %zu unchanged\n", o->dry ? "would be: " : "", counts[KEY_ADDED],
           counts[KEY_REPLACED], counts[KEY_SAME]);
    return EXIT_DONE;
}

int keys_import(struct keystore *ks, const struct keys_options *o)
{
    struct secret_key key SECRET_CLEANUP = {{0}};
    if (!o->first)
        return import_file(ks, o);
    if (!keystore_state_key(ks, &key) || !may_be_first(ks, o, &key)) {
        complain("keys import: nothing was imported");
        return EXIT_NEGATIVE;
    }
    const int code = import_file(ks, o);
    return code == EXIT_DONE && !o->dry && !mark_first(o, &key) ? EXIT_NEGATIVE : code;
}

/* 64 hex digits and at most a line end. */
static bool read_key(struct secret_key *out)
{
    char text[2 * KEY_BYTES + 3];
    size_t n = 0, decoded = 0;
    ssize_t got = 1;
    while (n < sizeof text && got > 0) {
        got = read(STDIN_FILENO, text + n, sizeof text - n);
        if (got > 0)
            n += (size_t)got;
        else if (got < 0 && errno == EINTR)
            got = 1;
    }
    if (n > 0 && n < sizeof text && text[n - 1] == '\n')
        n--;
    bool ok = n == 2 * KEY_BYTES && hex_decode((struct str){text, n}, out->b, sizeof out->b, &decoded) &&
              decoded == KEY_BYTES;
    secret_wipe(text, sizeof text);
    if (!ok)
        complain("keys add: standard input must be %d hex digits", 2 * KEY_BYTES);
    return ok;
}

int keys_add(struct keystore *ks, const struct keys_options *o)
{
    struct key_entry e = {.user = o->user, .id = o->id, .state = KEY_ACTIVE};
    if (!keys_type(o->type, &e.type) || !keys_end(o->not_after, &e.not_after))
        return EXIT_USAGE;
    bool ok = o->generate ? RAND_bytes(e.key.b, sizeof e.key.b) == 1 : read_key(&e.key);
    if (ok) {
        struct faults faults = {0};
        struct telling t = {.n = 1, .faults = &faults, .database = keystore_where(ks)};
        size_t counts[3] = {0};
        ok = keystore_import(ks, &e, 1, KEY_PUT_BY_HAND | (o->force ? KEY_PUT_FORCE : 0), counts,
                             &(struct key_telling){.fault = import_tell, .arg = &t});
        faults_print(&faults, stderr);
        faults_free(&faults);
        if (ok)
            keys_say(e.user, "key", e.id, "%s", counts[KEY_ADDED] ? "added" : "no change");
    }
    secret_key_clear(&e.key);
    return ok ? EXIT_DONE : EXIT_NEGATIVE;
}
