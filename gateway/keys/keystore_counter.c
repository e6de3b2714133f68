#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"
#include "keys/keystore_inside.h"

/* One line of a fixed length, so that a write replaces it whole: the database's name, then the count. */
#define COUNTER_HEAD "kmsgate keys counter 1 "
enum {
    NAME_DIGITS = 32,
    COUNT_DIGITS = 20,
    COUNTER_LINE = sizeof COUNTER_HEAD - 1 + NAME_DIGITS + 1 + COUNT_DIGITS + 1
};

static bool counter_line(const struct keystore *ks, uint64_t count, struct buf *out)
{
    buf_z(out, COUNTER_HEAD);
    buf_hex(out, ks->salt, NAME_DIGITS / 2, false);
    buf_printf(out, " %020llu\n", (unsigned long long)count);
    return !out->failed && out->n == COUNTER_LINE;
}

/* *count of a well-formed line; an empty file counts 0. False with the reason. */
static bool read_counter(const struct keystore *ks, int fd, uint64_t *count, struct detail *why)
{
    struct buf want BUF_CLEANUP = BUF_INIT(2 * COUNTER_LINE);
    char line[COUNTER_LINE + 1] = "";
    const ssize_t n = pread(fd, line, sizeof line - 1, 0);
    const size_t name = COUNTER_LINE - COUNT_DIGITS - 1;
    *count = 0;
    if (n == 0)
        return true;
    for (size_t i = name; i < COUNTER_LINE - 1 && line[i] >= '0' && line[i] <= '9'; i++)
        *count = *count * 10 + (uint64_t)(line[i] - '0');
    if (n < 0)
        detail_set(why, "cannot be read: %s", strerror(errno));
    else if (!counter_line(ks, *count, &want) || n != COUNTER_LINE ||
             !str_eq((struct str){line, sizeof COUNTER_HEAD - 1}, STR(COUNTER_HEAD)) ||
             line[COUNTER_LINE - 1] != '\n')
        detail_set(why, "is not a counter of keys: found %zd bytes of another kind. Put the right file back; where the "
                        "database is known to be the newest, remove this file, and it is made anew", n);
    else if (!str_eq((struct str){line, name}, (struct str){want.p, name}))
        detail_set(why, "counts the changes of another key database; remove it if that database is meant to be new");
    else
        return true;
    return false;
}

static bool write_counter(const struct keystore *ks, int fd, struct detail *why)
{
    struct buf line BUF_CLEANUP = BUF_INIT(2 * COUNTER_LINE);
    if (counter_line(ks, ks->now.last_seq, &line) && pwrite(fd, line.p, line.n, 0) == (ssize_t)line.n &&
        fsync(fd) == 0)
        return true;
    detail_set(why, "cannot be written: %s", strerror(errno));
    return false;
}

/* False. */
static bool is_older(const struct keystore *ks, uint64_t count, struct detail *why)
{
    detail_set(why, "counts %llu changes of the keys, and the database holds %llu: it was put back to an earlier "
                    "state, and what was revoked since would live again. Put the newer database back; to take this "
                    "one all the same, remove this file",
               (unsigned long long)count, (unsigned long long)ks->now.last_seq);
    return false;
}

/* Reads it, and writes it where the table is further; `refuse_older`: a table that is not as far is a fault. */
static bool hold_against(const struct keystore *ks, const char *path, bool refuse_older, struct detail *why)
{
    uint64_t count;
    const int how = O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
    int fd = open(path, how);
    if (fd < 0 && errno == ENOENT && keydb_is_draft(ks->db))
        return true; /* the first change makes it, as it makes the database */
    if (fd < 0 && errno == ENOENT && (fd = open(path, how | O_CREAT, 0600)) >= 0 && !file_to_folder_owner(path, fd)) {
        close(fd);
        fd = -1;
    }
    if (fd < 0 || flock(fd, LOCK_EX) != 0) {
        detail_set(why, "cannot be opened: %s", strerror(errno));
        if (fd >= 0)
            close(fd);
        return false;
    }
    bool ok = read_counter(ks, fd, &count, why);
    if (ok && refuse_older && count > ks->now.last_seq) {
        ok = is_older(ks, count, why);
    } else if (ok && count < ks->now.last_seq) {
        ok = write_counter(ks, fd, why);
    }
    close(fd); /* and the lock with it */
    return ok;
}

bool keystore_use_counter(struct keystore *ks, const char *path, struct faults *faults)
{
    struct detail why = {{0}};
    pthread_mutex_lock(&ks->locks->db);
    bool ok = hold_against(ks, path, true, &why);
    if (ok && !(ks->counter = str_dup(str_z(path)))) {
        detail_set(&why, "out of memory");
        ok = false;
    }
    pthread_mutex_unlock(&ks->locks->db);
    if (!ok)
        faults_add(faults, path, 0, 0, "%s", why.text);
    return ok;
}

bool keystore_look_at_counter(const struct keystore *ks, const char *path, struct faults *faults)
{
    struct detail why = {{0}};
    uint64_t count = 0;
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT)
        return true;
    bool ok = fd >= 0 && flock(fd, LOCK_SH) == 0;
    if (!ok)
        detail_set(&why, "cannot be opened: %s", strerror(errno));
    ok = ok && read_counter(ks, fd, &count, &why) && (count <= ks->now.last_seq || is_older(ks, count, &why));
    if (fd >= 0)
        close(fd);
    if (!ok)
        faults_add(faults, path, 0, 0, "%s", why.text);
    return ok;
}

bool keystore_count_up(struct keystore *ks, struct detail *why)
{
    struct detail d = {{0}};
    if (!ks->counter || ks->counted == ks->now.last_seq)
        return true;
    if (!hold_against(ks, ks->counter, false, &d)) {
        detail_set(why, "keys_counter %.100s: %.200s", ks->counter, d.text);
        return false;
    }
    ks->counted = ks->now.last_seq;
    return true;
}

bool keystore_counted(struct keystore *ks, struct faults *faults)
{
    struct detail why = {{0}};
    pthread_mutex_lock(&ks->locks->db);
    const bool ok = keystore_count_up(ks, &why);
    pthread_mutex_unlock(&ks->locks->db);
    if (!ok)
        faults_add(faults, ks->where, 0, 0, "%s", why.text);
    return ok;
}
