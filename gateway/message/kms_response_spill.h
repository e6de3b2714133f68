/*
 * Keys beside their place. A key content that is wrapped may stand in the same reply once more: in an Issuer, in an
 * attribute, in an extension that is kept. It would leave in clear, and the rule said that it must not.
 *
 *     spill_init(&s);
 *     spill_key(&s, octets, n);      each key that leaves encrypted
 *     spill_text(&s, text);          each text of the upstream's that leaves in clear
 *     if (spill_look(&s) != SPILL_NONE) ...
 *     spill_free(&s);                wipes
 *
 * Found are fifteen octets in a row or more in hex, base64, base32, base64 of hex, or as a list of decimal or octal
 * numbers, whatever stands between digits (`07 13`, `07.13`, `0x07, 0x13`, `\\x07\\x13`); and a key, whole, as one
 * number, decimal or octal. Not found is what was meant to be hidden, such as a key written backwards: an older KMS is
 * careless, not an accomplice.
 */
#ifndef KMSGATE_MESSAGE_KMS_RESPONSE_SPILL_H
#define KMSGATE_MESSAGE_KMS_RESPONSE_SPILL_H

#include "base/buf.h"
#include "base/reason.h"

/* What nearly every reply needs is in it; more is put where there is room. */
enum { SPILL_PIECES = 64, SPILL_TEXT = 512 };
struct spill {
    uint64_t some_pieces[SPILL_PIECES];
    char some_texts[SPILL_TEXT];
    size_t some_pieces_n, some_texts_n;
    struct buf pieces, texts;
    struct str lasting;
};
void spill_init(struct spill *s);
void spill_key(struct spill *s, const uint8_t *octets, size_t n);
void spill_text(struct spill *s, struct str text);
/* Several, each with a NUL behind it, which last longer than the spill. Once. */
void spill_texts(struct spill *s, struct str texts);
/* FAILED: no memory. */
enum spill_result { SPILL_NONE, SPILL_FOUND, SPILL_FAILED };
enum spill_result spill_look(struct spill *s) MUST_CHECK;
void spill_free(struct spill *s);

#endif
