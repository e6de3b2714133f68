#include "keys/keycopy.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/log.h"
#include "keys/keystore_inside.h"

enum { EACH_S = 3, TELL_EACH_S = 60, ROWS_EACH = 20000 };

/* One line of a fixed length: the database's name, the count of its changes, when (us), and who says so. */
#define STAMP_HEAD "kmsgate keys copy 1 "
enum { NAME_BYTES = 16, STAMP_TEXT = sizeof STAMP_HEAD - 1 + 2 * NAME_BYTES + 1 + 20 + 1 + 20, MAC = 32,
       STAMP_LINE = STAMP_TEXT + 1 + 2 * MAC + 1 };

struct keycopy {
    struct keystore *ks;
    struct keydb *db;   /* the shared one, by a connection of its own */
    char path[PATH_MAX], fresh[PATH_MAX], stamp[PATH_MAX];
    int64_t told_us;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool ends;
};

static bool keycopy_place(char out[PATH_MAX], const char *folder, const char *name)
{
    const int n = snprintf(out, PATH_MAX, "%s/%s", folder, name);
    return n > 0 && n < PATH_MAX;
}

/* --- the stamp --- */

static bool stamp_text(const struct keystore *ks, uint64_t seq, uint64_t us, char out[STAMP_TEXT + 1])
{
    struct buf b BUF_CLEANUP = BUF_INIT(2 * STAMP_LINE);
    buf_z(&b, STAMP_HEAD);
    buf_hex(&b, ks->salt, NAME_BYTES, false);
    buf_printf(&b, " %020llu %020llu", (unsigned long long)seq, (unsigned long long)us);
    if (b.failed || b.n != STAMP_TEXT)
        return false;
    memcpy(out, b.p, STAMP_TEXT + 1);
    return true;
}

static bool write_stamp(struct keycopy *c, uint64_t seq, int64_t us, struct detail *why)
{
    struct buf line BUF_CLEANUP = BUF_INIT(2 * STAMP_LINE);
    char text[STAMP_TEXT + 1];
    uint8_t mac[MAC];
    if (!stamp_text(c->ks, seq, (uint64_t)us, text) || !keystore_mac(c->ks, text, STAMP_TEXT, mac)) {
        detail_set(why, "out of memory");
        return false;
    }
    buf_printf(&line, "%s ", text);
    buf_hex(&line, mac, MAC, false);
    buf_char(&line, '\n');
    const int fd = open(c->stamp, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    const bool ok = fd >= 0 && !line.failed && pwrite(fd, line.p, line.n, 0) == (ssize_t)line.n;
    if (!ok)
        detail_set(why, "%s cannot be written: %s", KEYCOPY_STAMP, strerror(errno));
    if (fd >= 0)
        close(fd);
    return ok;
}

static uint64_t keycopy_digits(const char *p)
{
    uint64_t v = 0;
    for (int i = 0; i < 20 && p[i] >= '0' && p[i] <= '9'; i++)
        v = v * 10 + (uint64_t)(p[i] - '0');
    return v;
}

bool keycopy_stamp(const struct keystore *ks, const char *folder, uint64_t *seq, int64_t *us)
{
    char path[PATH_MAX], line[STAMP_LINE + 1] = "", text[STAMP_TEXT + 1];
    uint8_t mac[MAC];
    size_t n = 0;
    const int fd = keycopy_place(path, folder, KEYCOPY_STAMP)
        ? open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK) : -1;
    const ssize_t got = fd >= 0 ? read(fd, line, sizeof line) : -1;
    if (fd >= 0)
        close(fd);
    if (got != STAMP_LINE || line[STAMP_LINE - 1] != '\n')
        return false;
    *seq = keycopy_digits(line + STAMP_TEXT - 41);
    const uint64_t at = keycopy_digits(line + STAMP_TEXT - 20);
    *us = (int64_t)(at & INT64_MAX);
    return stamp_text(ks, *seq, at, text) && str_eq((struct str){line, STAMP_TEXT}, str_z(text)) &&
           hex_decode((struct str){line + STAMP_TEXT + 1, 2 * MAC}, mac, MAC, &n) && n == MAC &&
           keystore_mac_holds(ks, text, STAMP_TEXT, mac);
}

/* --- the copy --- */

static bool is_ended(struct keycopy *c)
{
    pthread_mutex_lock(&c->lock);
    const bool ends = c->ends;
    pthread_mutex_unlock(&c->lock);
    return ends;
}

/* Rows on their way into the file. */
struct pouring {
    struct keycopy *c;
    struct keydb *to;
    size_t n;
    uint64_t seq; /* of removals, which are only there to be counted */
    enum keydb_result r;
};

static bool pour(void *arg, const struct key_row *row, struct detail *why)
{
    struct pouring *p = arg;
    p->r = keydb_put(p->to, row, why);
    if (p->r == KEYDB_OK && ++p->n % ROWS_EACH == 0) { /* nobody reads it yet: its memory is let go now and then */
        p->r = keydb_commit(p->to, why);
        if (p->r == KEYDB_OK)
            p->r = keydb_begin(p->to, true, why);
    }
    return p->r == KEYDB_OK && !is_ended(p->c);
}

static bool pour_changed(void *arg, const struct key_row *row, struct detail *why)
{
    struct pouring *p = arg;
    return (p->r = keydb_put(p->to, row, why)) == KEYDB_OK;
}

static bool pour_removed(void *arg, struct str user, struct str id, struct detail *why)
{
    struct pouring *p = arg;
    const struct key_row row = {.user = user, .key = {.id = id, .seq = ++p->seq}};
    return (p->r = keydb_remove(p->to, &row, why)) == KEYDB_OK;
}

/* Into a file of another name, which then takes the name. */
static bool make_whole(struct keycopy *c, const struct keydb_meta *meta, struct detail *why)
{
    char journal[PATH_MAX + 16];
    struct pouring p = {.c = c};
    snprintf(journal, sizeof journal, "%s-journal", c->fresh);
    unlink(c->fresh);
    unlink(journal);
    bool ok = keydb_create(c->fresh, meta, why) == KEYDB_OK && (p.to = keydb_open(c->fresh, why)) &&
              keydb_begin(p.to, true, why) == KEYDB_OK && keydb_all(c->db, pour, &p, why) == KEYDB_OK &&
              keydb_commit(p.to, why) == KEYDB_OK;
    if (p.to)
        keydb_close(p.to);
    if (ok && rename(c->fresh, c->path) != 0) {
        detail_set(why, "%s cannot be renamed: %s", KEYCOPY_FILE, strerror(errno));
        ok = false;
    }
    if (!ok)
        unlink(c->fresh);
    return ok;
}

/* What has changed since; *whole where the file is of no use for that. */
static bool bring_up(struct keycopy *c, const struct keydb_meta *meta, bool *whole, struct detail *why)
{
    struct keydb_meta mine;
    struct detail unusable;
    struct keydb *to = access(c->path, F_OK) == 0 ? keydb_open(c->path, &unusable) : NULL;
    bool ok = true;
    *whole = !to || keydb_begin(to, true, &unusable) != KEYDB_OK || keydb_meta(to, &mine, &unusable) != KEYDB_OK ||
             !secret_equal(mine.salt, meta->salt, sizeof mine.salt) || mine.last_seq > meta->last_seq ||
             meta->last_seq - mine.last_seq >= KEYDB_REMOVALS;
    if (!*whole && !secret_equal(mine.sums, meta->sums, sizeof mine.sums)) {
        struct pouring p = {.c = c, .to = to, .seq = mine.last_seq};
        ok = keydb_since(c->db, mine.last_seq, pour_changed, &p, why) == KEYDB_OK &&
             keydb_removed(c->db, mine.last_seq, pour_removed, &p, why) == KEYDB_OK &&
             keydb_set_meta(to, meta, why) == KEYDB_OK && keydb_commit(to, why) == KEYDB_OK;
    }
    if (to) {
        keydb_rollback(to);
        keydb_close(to);
    }
    return ok;
}

/* Only of a state that the gateway has verified and uses. */
static bool turn(struct keycopy *c, struct detail *why)
{
    const int64_t now = time_now_us();
    struct keydb_meta meta;
    int64_t version = 0;
    bool whole = false, ok = true; /* that the database is away is told by who follows it */
    if (keydb_begin(c->db, false, why) == KEYDB_OK && keydb_version(c->db, &version, why) == KEYDB_OK &&
        keydb_meta(c->db, &meta, why) == KEYDB_OK && keystore_is_at(c->ks, version))
        ok = bring_up(c, &meta, &whole, why) && (!whole || make_whole(c, &meta, why)) &&
             write_stamp(c, meta.last_seq, now, why);
    keydb_rollback(c->db);
    return ok;
}

static void *keep_copy(void *arg)
{
    struct keycopy *c = arg;
    while (!is_ended(c)) {
        struct detail why = {{0}};
        if (!turn(c, &why) && !is_ended(c) && time_mono_us() - c->told_us >= TELL_EACH_S * US_PER_S) {
            log_warn("keys", c->path, "the sealed copy cannot be kept in step: %s", why.text);
            c->told_us = time_mono_us();
        }
        pthread_mutex_lock(&c->lock);
        const int64_t until_us = time_mono_us() + EACH_S * US_PER_S;
        const struct timespec until = {until_us / US_PER_S, until_us % US_PER_S * 1000};
        while (!c->ends && pthread_cond_timedwait(&c->wake, &c->lock, &until) == 0)
            ;
        pthread_mutex_unlock(&c->lock);
    }
    return NULL;
}

struct keycopy *keycopy_start(struct keystore *ks, const char *folder)
{
    struct keycopy *c = calloc(1, sizeof *c);
    struct detail why;
    pthread_condattr_t attr;
    if (!c)
        return NULL;
    c->ks = ks;
    c->told_us = time_mono_us() - TELL_EACH_S * US_PER_S;
    pthread_mutex_init(&c->lock, NULL); /* these cannot fail on Linux but for their arguments */
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&c->wake, &attr);
    pthread_condattr_destroy(&attr);
    if (keycopy_place(c->path, folder, KEYCOPY_FILE) && keycopy_place(c->fresh, folder, KEYCOPY_FILE ".new") &&
        keycopy_place(c->stamp, folder, KEYCOPY_STAMP) && (c->db = keydb_open(ks->database, &why)) &&
        pthread_create(&c->thread, NULL, keep_copy, c) == 0)
        return c;
    keydb_close(c->db);
    pthread_cond_destroy(&c->wake);
    pthread_mutex_destroy(&c->lock);
    free(c);
    return NULL;
}

void keycopy_stop(struct keycopy *c)
{
    if (!c)
        return;
    pthread_mutex_lock(&c->lock);
    c->ends = true;
    pthread_cond_signal(&c->wake);
    pthread_mutex_unlock(&c->lock);
    pthread_join(c->thread, NULL);
    keydb_close(c->db);
    pthread_cond_destroy(&c->wake);
    pthread_mutex_destroy(&c->lock);
    free(c);
}
