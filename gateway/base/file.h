/*
 * Files that are made: written whole, made to last, where they stand, and whom they belong to.
 */
#ifndef KMSGATE_BASE_FILE_H
#define KMSGATE_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Opens the folder that the file stands in (O_CLOEXEC is added; with O_TMPFILE: a file without a name in it). -1 with
 * errno. */
int file_open_folder(const char *path, int flags, mode_t mode);
/* All n octets, however many writes that takes; a signal is no end. False with errno; some may have been written. */
bool file_write_all(int fd, const void *p, size_t n);
/* Makes the name of `path` in its folder last. False with errno. */
bool file_sync_folder(const char *path);
/* What root makes belongs to whom the folder of `path` belongs to: the gateway has to open it, and is not root. Nothing
 * happens where this process is not root, or the folder is root's. False with errno. */
bool file_to_folder_owner(const char *path, int fd);

#endif
