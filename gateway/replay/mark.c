#include "replay/mark.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "base/file.h"

/*
 * One line of text, so that people can read it:
 *
 *     kmsgate replay mark 2 latest 1795000000000000 clock 1795000000000000 walls 0 east 3600000000 end open mac 0123…
 *
 * Version 1 has nothing of Times without a zone; it is read, so that an upgrade is no restart without a mark.
 */
#define MARK_FORMAT                                                                                                   \
    "kmsgate replay mark 2 latest %" PRId64 " clock %" PRId64 " walls %" PRId64 " east %" PRId64 " end %s"
#define MARK_FORMAT_1 "kmsgate replay mark 1 latest %" PRId64 " clock %" PRId64 " end %s"
enum { MARK_TEXT = 200, MARK_MAC = 32 };

static bool mark_text(const struct secret_key *key, const struct mark *m, int version,
                      char out[MARK_TEXT + 2 * MARK_MAC + 8])
{
    uint8_t mac[EVP_MAX_MD_SIZE];
    unsigned mac_n = 0;
    const char *end = m->clean ? "clean" : "open";
    const int n = version == 1 ? snprintf(out, MARK_TEXT, MARK_FORMAT_1, m->latest_us, m->clock_us, end)
                               : snprintf(out, MARK_TEXT, MARK_FORMAT, m->latest_us, m->clock_us, m->walls_us,
                                          m->east_us, end);
    if (n < 0 || n >= MARK_TEXT ||
        !HMAC(EVP_sha256(), key->b, sizeof key->b, (const unsigned char *)out, (size_t)n, mac, &mac_n) ||
        mac_n != MARK_MAC)
        return false;
    char *at = out + n;
    at += snprintf(at, 8, " mac ");
    for (unsigned i = 0; i < mac_n; i++)
        at += snprintf(at, 3, "%02x", mac[i]);
    snprintf(at, 2, "\n");
    return true;
}

static bool mark_path(const char *folder, const char *suffix, char out[PATH_MAX], struct detail *why)
{
    const int n = snprintf(out, PATH_MAX, "%s/" MARK_FILE "%s", folder, suffix);
    if (n > 0 && n < PATH_MAX)
        return true;
    detail_set(why, MARK_FILE " has a name that is too long");
    return false;
}

/* What was written, written again, must be what was read: nothing else is taken. */
static bool mark_parse(const char *text, const struct secret_key *key, struct mark *out)
{
    char end[8] = "", again[MARK_TEXT + 2 * MARK_MAC + 8] = "";
    struct mark m = {.east_us = TIME_NONE};
    const int version = str_starts(str_z(text), STR("kmsgate replay mark 1 ")) ? 1 : 2;
    /* NOLINTBEGIN(cert-err34-c): a number out of range is not written again as it was read */
    const int n =
        version == 1
            ? sscanf(text, "kmsgate replay mark 1 latest %" SCNd64 " clock %" SCNd64 " end %7s mac ", &m.latest_us,
                     &m.clock_us, end)
            : sscanf(text, "kmsgate replay mark 2 latest %" SCNd64 " clock %" SCNd64 " walls %" SCNd64 " east %" SCNd64
                     " end %7s mac ", &m.latest_us, &m.clock_us, &m.walls_us, &m.east_us, end);
    /* NOLINTEND(cert-err34-c) */
    if (n != (version == 1 ? 3 : 5))
        return false;
    m.clean = str_eq_z(str_z(end), "clean");
    if (!mark_text(key, &m, version, again) || strlen(again) != strlen(text) ||
        !secret_equal(again, text, strlen(text)))
        return false;
    *out = m;
    return true;
}

enum mark_found mark_read(const char *folder, const struct secret_key *key, struct mark *out, struct detail *why)
{
    char path[PATH_MAX], text[512];
    if (!mark_path(folder, "", path, why))
        return MARK_FOREIGN;
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT)
        return MARK_NONE;
    const ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (n < 0)
        detail_set(why, MARK_FILE " cannot be read: %s", strerror(errno));
    if (fd >= 0)
        close(fd);
    if (n < 0)
        return MARK_FOREIGN;
    text[n] = '\0';
    if (mark_parse(text, key, out))
        return MARK_FOUND;
    detail_set(why, MARK_FILE " is damaged, or was made under other keys");
    return MARK_FOREIGN;
}

static bool mark_fill(const char *path, int fd, const char *text)
{
    const size_t n = strlen(text);
    return write(fd, text, n) == (ssize_t)n && file_to_folder_owner(path, fd) && fsync(fd) == 0;
}

static bool mark_sync_folder(const char *folder)
{
    const int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const bool ok = fd >= 0 && fsync(fd) == 0;
    if (fd >= 0)
        close(fd);
    return ok;
}

bool mark_write(const char *folder, const struct secret_key *key, const struct mark *m, struct detail *why)
{
    char path[PATH_MAX], fresh[PATH_MAX], text[MARK_TEXT + 2 * MARK_MAC + 8];
    if (!mark_path(folder, "", path, why) || !mark_path(folder, ".new", fresh, why))
        return false;
    if (!mark_text(key, m, 2, text)) {
        detail_set(why, MARK_FILE ": OpenSSL failed");
        return false;
    }
    const int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    bool ok = fd >= 0 && mark_fill(path, fd, text);
    if (fd >= 0)
        ok = close(fd) == 0 && ok;
    ok = ok && rename(fresh, path) == 0 && mark_sync_folder(folder);
    if (!ok)
        detail_set(why, MARK_FILE " cannot be written: %s", strerror(errno));
    return ok;
}
