/*
 * The octets of a file, or of standard input, as they come: what gzip compressed is unpacked, all else is given as it
 * is. Unlike zlib's own reading of files it never waits for more than there is, so that a log can be followed through a
 * pipe (`docker logs -f … | kmsgate decisions -`).
 *
 *     struct unpack *u = unpack_open("-", &why);
 *     while ((c = unpack_octet(u)) >= 0) ...
 *     if (c == UNPACK_FAILED) complain("%s", unpack_why(u));
 *     unpack_close(u);
 */
#ifndef KMSGATE_STUDY_UNPACK_H
#define KMSGATE_STUDY_UNPACK_H

struct unpack;
enum { UNPACK_END = -1, UNPACK_FAILED = -2 };
/* `-` is standard input. NULL: *why (a string that stays) is set. */
struct unpack *unpack_open(const char *name, const char **why);
/* The next octet; UNPACK_END; or UNPACK_FAILED, for which unpack_why() has the reason. */
int unpack_octet(struct unpack *u);
const char *unpack_why(const struct unpack *u);
void unpack_close(struct unpack *u); /* NULL is fine */

#endif
