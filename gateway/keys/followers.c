#include "keys/followers.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/secret.h"

#define FOLLOWER_LINE "follower %010ld database %s file %016" PRIx64 ":%016" PRIx64 " change %020" PRIu64 ":%s %s"
enum { LINE = 192, PATH_LIMIT = 4096 };

static int followers_open(const char *database, int flags)
{
    struct buf path BUF_CLEANUP = BUF_INIT(PATH_LIMIT);
    buf_printf(&path, "%s.followers", database);
    return path.failed ? -1 : open(path.p, flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0600);
}

static bool followers_stand(const char *database, const uint64_t file[2])
{
    struct buf path BUF_CLEANUP = BUF_INIT(PATH_LIMIT);
    struct stat st;
    buf_printf(&path, "%s.followers", database);
    return !path.failed && lstat(path.p, &st) == 0 && st.st_dev == file[0] && st.st_ino == file[1];
}

static struct flock slot_range(short type, unsigned number)
{
    return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)number * LINE, .l_len = LINE};
}

/* As long as a line is, the rest blanks, a line end last: each write replaces it whole. */
static bool slot_line(const struct follower *f, char out[LINE + 1])
{
    struct buf name BUF_CLEANUP = BUF_INIT(2 * FOLLOWER_NAME + 1);
    struct buf commit BUF_CLEANUP = BUF_INIT(2 * FOLLOWER_COMMIT + 1);
    buf_hex(&name, f->name, FOLLOWER_NAME, false);
    buf_hex(&commit, f->commit, FOLLOWER_COMMIT, false);
    if (name.failed || commit.failed)
        return false;
    const int n = snprintf(out, LINE, FOLLOWER_LINE, f->process, name.p, f->file[0], f->file[1], f->last_seq, commit.p,
                           f->in_step ? "follows" : "behind");
    if (n <= 0 || n >= LINE)
        return false;
    memset(out + n, ' ', (size_t)(LINE - 1 - n));
    out[LINE - 1] = '\n';
    out[LINE] = '\0';
    return true;
}

/* What was read must be what would be written: half a line is none. */
static bool slot_parse(const char line[LINE + 1], struct follower *out)
{
    char name[2 * FOLLOWER_NAME + 1] = "", commit[2 * FOLLOWER_COMMIT + 1] = "", state[8] = "", again[LINE + 1];
    size_t n = 0, m = 0;
    /* NOLINTNEXTLINE(cert-err34-c): a number out of range is not written again as it was read */
    if (sscanf(line, "follower %ld database %32s file %" SCNx64 ":%" SCNx64 " change %" SCNu64 ":%16s %7s",
               &out->process, name, &out->file[0], &out->file[1], &out->last_seq, commit, state) != 7 ||
        !hex_decode(str_z(name), out->name, FOLLOWER_NAME, &n) || n != FOLLOWER_NAME ||
        !hex_decode(str_z(commit), out->commit, FOLLOWER_COMMIT, &m) || m != FOLLOWER_COMMIT)
        return false;
    out->in_step = str_eq_z(str_z(state), "follows");
    return slot_line(out, again) && str_eq(str_z(line), str_z(again));
}

/* Whoever follows the database may write beside it, too: owner and mode are the database's. */
static void like_the_database(const char *database, int fd)
{
    struct stat st;
    if (stat(database, &st) != 0)
        return;
    (void)!fchmod(fd, st.st_mode & (S_IRUSR | S_IWUSR | S_IRGRP | S_IWGRP));
    if (geteuid() == 0)
        (void)!fchown(fd, st.st_uid, st.st_gid);
}

static void slot_take(struct followers_slot *slot, const char *database)
{
    struct stat st;
    slot->fd = followers_open(database, O_RDWR);
    if (slot->fd < 0 && (slot->fd = followers_open(database, O_RDWR | O_CREAT | O_EXCL)) >= 0)
        like_the_database(database, slot->fd);
    if (slot->fd < 0)
        return;
    if (fstat(slot->fd, &st) == 0 && S_ISREG(st.st_mode))
        for (unsigned i = 0; i < FOLLOWERS_MAX; i++) {
            struct flock range = slot_range(F_WRLCK, i);
            if (fcntl(slot->fd, F_OFD_SETLK, &range) != 0)
                continue;
            slot->number = i;
            slot->file[0] = st.st_dev;
            slot->file[1] = st.st_ino;
            slot->told = (struct follower){.process = -1};
            return;
        }
    followers_leave(slot);
}

static bool same_told(const struct follower *a, const struct follower *b)
{
    return a->process == b->process && secret_equal(a->name, b->name, FOLLOWER_NAME) && a->file[0] == b->file[0] &&
           a->file[1] == b->file[1] && a->last_seq == b->last_seq &&
           secret_equal(a->commit, b->commit, FOLLOWER_COMMIT) && a->in_step == b->in_step;
}

void followers_tell(struct followers_slot *slot, const char *database, const struct follower *now)
{
    char line[LINE + 1];
    if (slot->fd >= 0 && !followers_stand(database, slot->file))
        followers_leave(slot);
    if (slot->fd < 0)
        slot_take(slot, database);
    if (slot->fd < 0 || same_told(&slot->told, now) || !slot_line(now, line))
        return;
    if (pwrite(slot->fd, line, LINE, (off_t)slot->number * LINE) == LINE)
        slot->told = *now;
}

void followers_leave(struct followers_slot *slot)
{
    if (slot->fd >= 0)
        close(slot->fd);
    slot->fd = -1;
}

size_t followers_read(const char *database, struct follower *out, size_t max)
{
    size_t n = 0;
    const int fd = followers_open(database, O_RDONLY);
    for (unsigned i = 0; fd >= 0 && i < FOLLOWERS_MAX && n < max; i++) {
        char line[LINE + 1] = "";
        struct flock range = slot_range(F_WRLCK, i);
        if (fcntl(fd, F_OFD_GETLK, &range) != 0 || range.l_type == F_UNLCK)
            continue;
        out[n] = (struct follower){.process = 0};
        out[n].known = pread(fd, line, LINE, (off_t)i * LINE) == LINE && slot_parse(line, &out[n]);
        n++;
    }
    if (fd >= 0)
        close(fd);
    return n;
}
