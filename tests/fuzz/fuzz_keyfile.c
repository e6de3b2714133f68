/*
 * Any file as a key file: all or nothing, no fault with a key's value; what is taken over is found again, with the same
 * bytes, after another opening of the store.
 */
#include "fuzz.h"

#include <unistd.h>

#include "keys/keyfile.h"

static const struct secret_key MASTER = {{7}};
static char folder[] = "/tmp/kmsgate-fuzz-XXXXXX", path[64];

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    must(mkdtemp(folder), "no folder");
    snprintf(path, sizeof path, "%s/k.db", folder);
    return 0;
}

/* The text of what seems to be a key is in no fault, unless it stands elsewhere in the file, too. */
static void check_faults(const struct faults *f, struct str text)
{
    static const struct str mark = {"\"key\":\"", 7};
    enum { SHOWN = 16 };
    for (const char *p = text.p, *end = text.p + text.n; (p = memmem(p, (size_t)(end - p), mark.p, mark.n));) {
        p += mark.n;
        if (end - p < SHOWN || memchr(p, '\0', SHOWN) || memchr(p, '"', SHOWN))
            continue;
        const char *first = memmem(text.p, text.n, p, SHOWN), *rest = p + 1;
        if (first != p || memmem(rest, (size_t)(end - rest), p, SHOWN))
            continue;
        for (size_t i = 0; i < f->n; i++)
            must(!memmem(f->v[i].text, strlen(f->v[i].text), p, SHOWN), "a key in: %s", f->v[i].text);
    }
    for (size_t i = 0; i < f->n; i++)
        for (const char *c = f->v[i].text; *c; c++)
            must((unsigned char)*c >= 0x20 && *c != 0x7f, "a control character in: %s", f->v[i].text);
}

static void check_stored(const struct keyfile *file, const struct keystore *keys)
{
    for (size_t i = 0; i < file->n; i++) {
        const struct key_entry *e = &file->v[i];
        struct keyring ring;
        struct secret_key clear SECRET_CLEANUP = {{0}};
        must(keystore_user(keys, e->user, &ring) == KEYSTORE_OK, "entry %zu is not there", i);
        const struct key *key = keyring_find(&ring, e->id);
        must(key && key->type == e->type && key->state >= e->state, "entry %zu is another", i);
        must(keyring_open(&ring, key, &clear) && secret_equal(clear.b, e->key.b, KEY_BYTES), "entry %zu is another", i);
        keyring_clear(&ring);
    }
}

static void take_over(const struct keyfile *file, struct str text)
{
    struct faults faults = {0};
    size_t counts[3], at;
    unlink(path);
    struct keystore *keys = keystore_open(path, &MASTER, true, &faults);
    must(keys, "no store");
    const bool put = keystore_put(keys, file->v, file->n, false, counts, &at, &faults);
    must(put == (faults.errors == 0), "faults, and it was taken over");
    check_faults(&faults, text);
    if (put) {
        keystore_close(keys);
        keys = keystore_open(path, &MASTER, false, &faults);
        must(keys, "%s", faults.n ? faults.v[0].text : "");
        check_stored(file, keys);
        must(keystore_put(keys, file->v, file->n, false, counts, &at, &faults), "again: %s", faults.v[0].text);
        must(counts[KEY_SAME] == file->n, "the same file again changes something");
    } else {
        size_t n[2][KEY_STATES];
        keystore_count(keys, 0, n);
        for (int i = 0; i < 6; i++)
            must(n[i / 3][i % 3] == 0, "a part was taken over");
    }
    keystore_close(keys);
    faults_free(&faults);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char name[64];
    struct keyfile file;
    struct faults faults = {0};
    const struct str text = fuzz_view(data, size);
    const int fd = fuzz_file(text, name);
    const bool read = keyfile_read(name, &file, &faults);
    must(read == (faults.errors == 0), "faults, and it was read");
    check_faults(&faults, text);
    fuzz_arrived(read);
    if (read)
        take_over(&file, text);
    keyfile_free(&file);
    faults_free(&faults);
    close(fd);
    return 0;
}
