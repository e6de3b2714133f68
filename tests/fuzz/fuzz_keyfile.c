/*
 * Any file as a key file: all or nothing, no fault with a key's value; what is taken over is found again, with the same
 * bytes, after another opening of the store. Bytes that are no such file are the values of one: users, IDs, states.
 */
#include "fuzz.h"

#include <unistd.h>

#include "base/json.h"
#include "keys/keyfile.h"

enum { ROOM = 1 << 18, LINES_MAX = 24 };

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

/* No key comes to more than it was: what is offered, or active, is retiring where a later one took its place. */
static int spent(enum key_state s)
{
    return s == KEY_REVOKED ? 2 : s == KEY_RETIRING ? 1 : 0;
}

/* False: some are not there, since of a user's keys that are of no use any more the newest stay. */
static bool check_stored(const struct keyfile *file, const struct keystore *keys)
{
    const int64_t now = time_now_us();
    bool whole = true;
    for (size_t i = 0; i < file->n; i++) {
        const struct key_entry *e = &file->v[i];
        struct keyring ring;
        struct secret_key clear SECRET_CLEANUP = {{0}};
        must(keystore_user(keys, e->user, &ring) == KEYSTORE_OK, "entry %zu is not there", i);
        const struct key *key = keyring_find(&ring, e->id);
        const bool usable = e->state != KEY_REVOKED && (e->not_after == TIME_NONE || e->not_after >= now);
        must(key || !usable || e->state == KEY_RETIRING, "entry %zu is gone", i);
        must(!key || (key->type == e->type && spent(key->state) >= spent(e->state) &&
                      keyring_open(&ring, key, &clear) && secret_equal(clear.b, e->key.b, KEY_BYTES)),
             "entry %zu is another", i);
        whole = whole && key;
        keyring_clear(&ring);
    }
    return whole;
}

/* Whether it was. */
static bool take_over(const struct keyfile *file, struct str text)
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
        const bool whole = check_stored(file, keys);
        must(!whole || keystore_put(keys, file->v, file->n, false, counts, &at, &faults), "again: %s",
             faults.v[0].text);
        must(!whole || counts[KEY_SAME] == file->n, "the same file again changes something");
    } else {
        size_t n[2][KEY_STATES];
        keystore_count(keys, 0, n);
        for (int i = 0; i < 6; i++)
            must(n[i / 3][i % 3] == 0, "a part was taken over");
    }
    keystore_close(keys);
    faults_free(&faults);
    return put;
}

/* Whether it was read, and taken over. */
static bool look(struct str text)
{
    char name[64];
    struct keyfile file;
    struct faults faults = {0};
    const int fd = fuzz_file(text, name);
    const bool read = keyfile_read(name, &file, &faults);
    must(read == (faults.errors == 0), "faults, and it was read");
    check_faults(&faults, text);
    const bool taken = read && file.n > 0 && take_over(&file, text);
    keyfile_free(&file);
    faults_free(&faults);
    close(fd);
    return taken;
}

/* Mostly another for another key; the same for who asks again. */
static void make_key(struct str id, bool trk, struct buf *hex)
{
    uint8_t octets[KEY_BYTES];
    uint32_t mixed = trk ? 0x5bd1e995 : 0x1b873593;
    for (size_t i = 0; i < id.n; i++)
        mixed = (mixed ^ (uint8_t)id.p[i]) * 16777619u;
    for (size_t i = 0; i < KEY_BYTES; i++) {
        mixed = (mixed ^ mixed >> 15) * 2246822519u + 97;
        octets[i] = (uint8_t)(mixed >> 16);
    }
    buf_hex(hex, octets, KEY_BYTES, false);
}

/* As it is where it is odd; else of harmless characters: a user is a URI, and an ID can be shown. */
static void put_text(struct str text, bool odd, struct buf *out)
{
    for (size_t i = 0; i < text.n; i++)
        buf_char(out, odd || (text.p[i] >= 'a' && text.p[i] <= 'z') ? text.p[i] : '.');
}

static void make_line(struct str *s, size_t number, struct buf *out)
{
    static const struct str USERS[] = {{"sip:a@example.org", 17}, {"sip:b@example.org", 17}, {"tel:+1", 6}};
    static const char *const TIMES[] = {"2027-01-01T00:00:00Z", "2020-01-01T00:00:00+01:00", "2027-01-01"};
    enum { USER_COUNT = 3, STATES = 6, ENDS = 8, ID_MOST = 16 };
    struct buf hex BUF_CLEANUP = BUF_INIT(256), id BUF_CLEANUP = BUF_INIT(1024);
    struct buf user BUF_CLEANUP = BUF_INIT(1024);
    const struct str own = fuzz_next(s), name = fuzz_next(s);
    const unsigned which = fuzz_choice(s, USER_COUNT), state = fuzz_choice(s, STATES), ends = fuzz_choice(s, ENDS);
    const bool trk = fuzz_choice(s, 2);
    const bool odd = fuzz_choice(s, LINES_MAX) == 1;
    struct json j = {.out = out};
    buf_z(&user, odd ? "" : "sip:");
    put_text(own, odd, &user);
    put_text(name.n > ID_MOST ? (struct str){name.p, ID_MOST} : name, odd, &id);
    if (fuzz_choice(s, LINES_MAX)) /* else it may be there already */
        buf_printf(&id, "%s%zu", trk ? "trk." : "ink.", number);
    make_key(buf_view(&id), trk, &hex);
    json_object(&j, NULL);
    json_string(&j, "user", own.n ? buf_view(&user) : USERS[which], 0);
    json_string(&j, "type", trk ? STR("trk") : STR("ink"), 0);
    json_string(&j, "id", buf_view(&id), 0);
    json_string(&j, "key", buf_view(&hex), 0);
    if (state < KEY_STATES)
        json_string(&j, "state", str_z(key_state_name(state)), 0);
    if (ends < sizeof TIMES / sizeof *TIMES)
        json_string(&j, "not_after", str_z(TIMES[ends]), 0);
    json_end(&j);
    buf_char(out, '\n');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str rest = fuzz_view(data, size);
    bool taken = look(rest);
    if (!taken) {
        struct buf made BUF_CLEANUP = BUF_INIT(ROOM);
        for (size_t i = 0; i < LINES_MAX && (i == 0 || rest.n); i++)
            make_line(&rest, i, &made);
        must(!made.failed, "room");
        taken = look(buf_view(&made));
    }
    fuzz_arrived(taken);
    return 0;
}
