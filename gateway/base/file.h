/*
 * Files read whole, and files that are made: written whole, made to last, where they stand, and whom they belong to.
 */
#ifndef KMSGATE_BASE_FILE_H
#define KMSGATE_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/buf.h"

/* Opens the folder that the file stands in (O_CLOEXEC is added; with O_TMPFILE: a file without a name in it). -1 with
 * errno. */
int file_open_folder(const char *path, int flags, mode_t mode);
/* What fd still has, up to `max` octets: how many, or -1 with errno. With a `max` of one more than is wanted, too much
 * is told from enough. */
ssize_t file_read_into(int fd, void *to, size_t max);
/* Appends all that fd still has. False with errno; or with out->failed, where it is more than `out` may hold (which is
 * full then), or there is no memory. */
bool file_read(int fd, struct buf *out);
/* All n octets, however many writes that takes; a signal is no end. False with errno; some may have been written. */
bool file_write_all(int fd, const void *p, size_t n);
/* Makes the name of `path` in its folder last. False with errno. */
bool file_sync_folder(const char *path);
/* What root makes belongs to whom the folder of `path` belongs to: the gateway has to open it, and is not root. Nothing
 * happens where this process is not root, or the folder is root's. False with errno. */
bool file_to_folder_owner(const char *path, int fd);

#endif
