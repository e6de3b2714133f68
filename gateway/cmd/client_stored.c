#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/text.h"
#include "cmd/client.h"
#include "cmd/cmd.h"

bool client_read(const char *path, struct buf *out)
{
    const bool standard = str_eq_z(str_z(path), "-");
    const int fd = standard ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    const bool whole = fd >= 0 && file_read(fd, out);
    if (!whole && out->failed)
        complain("%s: is larger than %zu octets", path, out->max);
    else if (!whole)
        complain("%s: cannot be read: %s", path, strerror(errno));
    if (fd >= 0 && !standard)
        close(fd);
    return whole;
}

void client_take_kms(struct client_got *got, struct proof_kms *out)
{
    const int n = (int)(got->head.n < 100 ? got->head.n : 100);
    proof_kms_free(out);
    if (got->result == CLIENT_OPENED && got->message == KMS_MESSAGE_INIT) {
        *out = got->kms;
        got->kms = (struct proof_kms){.known = false};
    } else if (got->result == CLIENT_BROKEN) {
        snprintf(out->why, sizeof out->why, "no KMS certificate: the reply to init failed verification");
    } else {
        snprintf(out->why, sizeof out->why, "no KMS certificate could be had: to init came %.*s", n, got->head.p);
    }
}

bool client_stored_kms(const struct client *c, const char *file, struct proof_kms *out)
{
    struct buf text BUF_CLEANUP = BUF_INIT(LIMIT_REPLY_OUT);
    struct client_got got;
    if (!client_read(file, &text))
        return false;
    client_open(c, buf_view(&text), &(struct client_expect){.signer = NULL}, &got);
    client_take_kms(&got, out);
    const bool init = got.result == CLIENT_OPENED && got.message == KMS_MESSAGE_INIT;
    client_got_free(&got);
    if (!init)
        complain("%s: expected a reply to init that is signed for this user", file);
    else if (!out->known)
        complain("%s: %s", file, out->why);
    return out->known;
}

int client_tell(const char *command, const struct client_got *got)
{
    if (got->result == CLIENT_REFUSED)
        complain("%s: refused: %.*s", command, STR_FMT(buf_view(&got->head)));
    if (got->result != CLIENT_OPENED && got->result != CLIENT_WRONG)
        return EXIT_NEGATIVE;
    (void)!text_write(buf_view(&got->head), stdout); /* whoever flushes it tells what could not be written */
    putchar('\n');
    (void)!text_write(buf_view(&got->lines), stdout);
    return got->result == CLIENT_OPENED ? EXIT_DONE : EXIT_NEGATIVE;
}
