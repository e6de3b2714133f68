#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/text.h"
#include "cmd/client.h"

enum { FILE_BYTES = 256 << 20, LOCK_TRIES = 100 };

void client_note_new(struct client_got *got, const struct key_entry *e)
{
    char *id = got->new_count < CLIENT_NEW_KEYS ? str_dup(e->id) : NULL;
    if (!id) {
        got->lines.failed = true;
        return;
    }
    struct key_entry *to = &got->new_keys[got->new_count++];
    *to = *e;
    to->id = (struct str){id, e->id.n};
}

void client_forget_new(struct client_got *got)
{
    for (size_t i = 0; i < got->new_count; i++)
        free((char *)got->new_keys[i].id.p);
    secret_wipe(got->new_keys, sizeof got->new_keys);
    got->new_count = 0;
}

/* Opens and locks the file that `path` names now: another may have been put in its place while the lock was waited
 * for. */
static int open_locked(const char *path)
{
    for (int i = 0; i < LOCK_TRIES; i++) {
        struct stat own, named;
        const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
        if (fd < 0)
            return -1;
        if (flock(fd, LOCK_EX) == 0 && fstat(fd, &own) == 0 && stat(path, &named) == 0 && own.st_ino == named.st_ino &&
            own.st_dev == named.st_dev)
            return fd;
        close(fd);
    }
    errno = EAGAIN;
    return -1;
}

/* Puts a file with that text in the place of the one at `path` (absolute, and no link), with its mode and owner. */
static bool kept_replace(const char *path, int old, const struct buf *text)
{
    char fresh[PATH_MAX + 8];
    struct stat was;
    snprintf(fresh, sizeof fresh, "%s.XXXXXX", path);
    const int fd = mkstemp(fresh); /* 0600 */
    if (fd < 0)
        return false;
    bool ok = fstat(old, &was) == 0 && fchmod(fd, was.st_mode & 0777) == 0;
    if (ok && (was.st_uid != geteuid() || was.st_gid != getegid()))
        ok = fchown(fd, was.st_uid, was.st_gid) == 0;
    ok = ok && file_write_all(fd, text->p, text->n) && fsync(fd) == 0;
    ok = close(fd) == 0 && ok;
    ok = ok && rename(fresh, path) == 0;
    if (!ok) {
        const int why = errno;
        unlink(fresh);
        errno = why;
    }
    return ok && file_sync_folder(path);
}

static void write_line(const struct key_entry *e, struct buf *out)
{
    struct buf hex BUF_CLEANUP = BUF_INIT_SECRET(2 * KEY_BYTES + 1);
    struct json j = {.out = out};
    buf_hex(&hex, e->key.b, sizeof e->key.b, false);
    if (out->n && out->p[out->n - 1] != '\n')
        buf_char(out, '\n');
    json_object(&j, NULL);
    json_string(&j, "user", e->user, 0);
    json_string(&j, "type", str_z(key_type_name(e->type)), 0);
    json_string(&j, "id", e->id, 0);
    json_string(&j, "key", buf_view(&hex), 0);
    json_end(&j);
    buf_char(out, '\n');
    out->failed |= hex.failed;
}

/* Whether the file has it already. *differs: under that ID, with other bytes. */
static bool has(const struct keyfile *f, const struct key_entry *e, bool *differs)
{
    for (size_t i = 0; i < f->n; i++)
        if (str_eq(f->v[i].user, e->user) && str_eq(f->v[i].id, e->id)) {
            *differs |= f->v[i].type != e->type || !secret_equal(f->v[i].key.b, e->key.b, KEY_BYTES);
            return true;
        }
    return false;
}

/* Under the lock: what the file lacks of the new keys goes behind what it has. */
static bool kept_add(struct client *c, char *path, int fd, const struct client_got *got)
{
    struct buf text BUF_CLEANUP = BUF_INIT_SECRET(FILE_BYTES);
    struct faults faults = {0};
    struct keyfile now;
    bool differs = false, ok = keyfile_read(path, &now, &faults) && file_read(fd, &text);
    const size_t before = text.n;
    for (size_t i = 0; ok && i < got->new_count; i++)
        if (!has(&now, &got->new_keys[i], &differs))
            write_line(&got->new_keys[i], &text);
    keyfile_free(&now);
    faults_free(&faults);
    faults = (struct faults){0};
    if (differs) {
        complain("%s: has another key under the ID of a new one: nothing was kept", path);
        return false;
    }
    ok = ok && !text.failed && (text.n == before || kept_replace(path, fd, &text));
    if (!ok)
        return false;
    struct client fresh = {.user = c->user};
    if (!keyfile_read(path, &fresh.file, &faults)) { /* somebody else's doing */
        keyfile_free(&fresh.file);
        faults_free(&faults);
        return false;
    }
    client_free(c);
    *c = fresh;
    return true;
}

bool client_keep(struct client *c, const char *file, struct client_got *got)
{
    char path[PATH_MAX];
    if (got->result != CLIENT_OPENED || got->new_count == 0)
        return true;
    if (str_eq_z(str_z(file), "-")) {
        complain("the reply brought new keys, which cannot be kept: --keys is standard input");
        return false;
    }
    const int fd = realpath(file, path) ? open_locked(path) : -1;
    errno = fd < 0 ? errno : 0;
    const bool ok = fd >= 0 && kept_add(c, path, fd, got);
    if (!ok)
        complain("%s: the new keys cannot be kept%s%s", file, errno ? ": " : "", errno ? strerror(errno) : "");
    if (fd >= 0)
        close(fd);
    for (size_t i = 0; ok && i < got->new_count; i++) {
        buf_printf(&got->lines, "  kept in ");
        text_escape(&got->lines, str_z(file));
        buf_printf(&got->lines, ": %s ", key_type_name(got->new_keys[i].type));
        text_escape(&got->lines, got->new_keys[i].id);
        buf_char(&got->lines, '\n');
    }
    return ok;
}
