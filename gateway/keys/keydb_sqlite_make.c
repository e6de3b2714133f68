#include "keys/keydb_sqlite.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"

enum { MAKERS_WAIT_MS = 10000, MAKERS_LOOK_MS = 20, PATH_LIMIT = 4096 };

/* A database with empty tables, in memory. */
static struct keydb_sqlite *make_empty(const struct keydb_meta *meta, struct detail *why)
{
    struct keydb_sqlite *db = sqlite_attach_name(":memory:", why);
    if (!db)
        return NULL;
    enum keydb_result r = sqlite_settle(db, why);
    if (r == KEYDB_OK)
        r = sqlite_execute(db, "BEGIN", "make the tables", why);
    if (r == KEYDB_OK)
        r = sqlite_make_tables(db, why);
    if (r == KEYDB_OK)
        r = sqlite_prepare(db, why);
    if (r == KEYDB_OK)
        r = keydb_set_meta(&db->db, meta, why);
    if (r == KEYDB_OK)
        r = keydb_commit(&db->db, why);
    if (r == KEYDB_OK)
        return db;
    sqlite_close(&db->db);
    return NULL;
}

/* Where files without a name are not to be had (some network and shared folders), it has one for a moment. */
static int open_new(const char *path, bool nameless, struct buf *name)
{
    const int fd = nameless ? file_open_folder(path, O_TMPFILE | O_RDWR, 0600) : -1;
    if (fd >= 0) {
        buf_printf(name, "/proc/self/fd/%d", fd);
        return fd;
    }
    if (nameless && errno != EOPNOTSUPP && errno != EISDIR)
        return -1;
    buf_printf(name, "%s.new-XXXXXX", path);
    return name->failed ? -1 : mkostemp(name->p, O_CLOEXEC); /* mode 0600 */
}

/* False: errno says why, and nothing is left. */
static bool write_new(const char *path, bool nameless, const unsigned char *bytes, size_t n)
{
    struct buf name BUF_CLEANUP = BUF_INIT(PATH_LIMIT);
    const int fd = open_new(path, nameless, &name);
    if (fd < 0)
        return false;
    const bool named = !str_starts(buf_view(&name), STR("/proc/self/fd/"));
    const bool ok = file_write_all(fd, bytes, n) && fsync(fd) == 0 && file_to_folder_owner(path, fd) &&
                    linkat(AT_FDCWD, name.p, AT_FDCWD, path, named ? 0 : AT_SYMLINK_FOLLOW) == 0;
    const int error = errno;
    if (named)
        unlink(name.p);
    close(fd);
    errno = error;
    return ok;
}

/* Written to a file without a name, which then gets one: nobody ever sees half a database, whoever is killed meanwhile
 * leaves nothing behind, and of two makers one wins. */
static enum keydb_result keydb_sqlite_make_publish(struct keydb_sqlite *db, const char *path, struct detail *why)
{
    sqlite3_int64 n = 0;
    unsigned char *bytes = sqlite3_serialize(db->sql, "main", &n, 0);
    if (!bytes) {
        detail_set(why, "out of memory");
        return KEYDB_FAILED;
    }
    /* Landlock takes a file without a name for one of another folder. */
    const bool ok = write_new(path, true, bytes, (size_t)n) ||
                    ((errno == EXDEV || errno == EACCES || errno == EPERM) && write_new(path, false, bytes, (size_t)n));
    const int error = errno;
    sqlite3_free(bytes);
    if (ok) {
        (void)!file_sync_folder(path);
        return KEYDB_OK;
    }
    detail_set(why, "cannot make it: %s", strerror(error));
    return error == EEXIST ? KEYDB_REFUSED : KEYDB_FAILED;
}

enum keydb_result sqlite_create(const char *path, const struct keydb_meta *meta, struct detail *why)
{
    if (access(path, F_OK) == 0)
        return KEYDB_REFUSED;
    struct keydb_sqlite *db = make_empty(meta, why);
    if (!db)
        return KEYDB_FAILED;
    const enum keydb_result r = keydb_sqlite_make_publish(db, path, why);
    sqlite_close(&db->db);
    return r;
}

/* One process at a time makes a database in a folder; the others wait and find it made. Where a folder cannot be locked
 * (some network ones) two may try: one of them then fails at the end, and has made nothing. */
static int lock_folder(const char *path, struct detail *why)
{
    const struct timespec look = {0, MAKERS_LOOK_MS * 1000000L};
    const int folder = file_open_folder(path, O_RDONLY | O_DIRECTORY, 0);
    if (folder < 0 || faccessat(folder, ".", W_OK | X_OK, AT_EACCESS) != 0) {
        detail_set(why, "cannot make it: %s", strerror(errno));
        if (folder >= 0)
            close(folder);
        return -1;
    }
    for (int waited = 0; flock(folder, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK; waited += MAKERS_LOOK_MS) {
        if (waited >= MAKERS_WAIT_MS) {
            detail_set(why, "another process is making it");
            close(folder);
            return -1;
        }
        nanosleep(&look, NULL);
    }
    return folder;
}

struct keydb *sqlite_draft(const char *path, const struct keydb_meta *meta, bool *there, struct detail *why)
{
    *there = access(path, F_OK) == 0;
    if (*there)
        return NULL;
    const int folder = lock_folder(path, why);
    if (folder < 0)
        return NULL;
    *there = access(path, F_OK) == 0;
    struct keydb_sqlite *db = *there ? NULL : make_empty(meta, why);
    if (db && !(db->draft = str_dup(str_z(path)))) {
        detail_set(why, "out of memory");
        sqlite_close(&db->db);
        db = NULL;
    }
    if (!db) {
        close(folder);
        return NULL;
    }
    db->folder = folder;
    return &db->db;
}

enum keydb_result sqlite_publish(struct keydb_sqlite *db, struct detail *why)
{
    struct detail later;
    const enum keydb_result r = keydb_sqlite_make_publish(db, db->draft, why);
    if (r == KEYDB_REFUSED)
        detail_set(why, "another process has made it meanwhile; nothing was written, run this again");
    if (r != KEYDB_OK)
        return KEYDB_FAILED;
    struct keydb_sqlite *file = (struct keydb_sqlite *)sqlite_open(db->draft, &later);
    if (!file) /* the next change is refused, since the draft can be published once */
        return KEYDB_OK;
    const struct keydb_sqlite draft = *db;
    *db = *file;
    *file = draft;
    sqlite_close(&file->db);
    return KEYDB_OK;
}

bool sqlite_is_draft(const struct keydb *db)
{
    return ((const struct keydb_sqlite *)db)->draft != NULL;
}
