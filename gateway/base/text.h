/*
 * Text for people: what strangers wrote is shown so that no terminal obeys it, and no reader of a log is misled by it.
 * One table of ranges says which characters are never shown as they are; text and JSON escape the same ones.
 *
 *     struct buf line BUF_CLEANUP = BUF_INIT(4096);
 *     text_escape(&line, user);   // "sip:\u202eevil@example.org"
 */
#ifndef KMSGATE_BASE_TEXT_H
#define KMSGATE_BASE_TEXT_H

#include <stdio.h>

#include "base/buf.h"

/* True for every C0 and C1 control, U+2028 and U+2029, each format character (general category Cf: bidi marks, zero
 * width, tags) and what is displayed as nothing (Default_Ignorable_Code_Point), and noncharacters. */
bool text_is_hidden(uint32_t code);
/* The code point of the character that s begins with, *n its bytes; without one (not UTF-8, empty) *n is 0. */
uint32_t text_code(struct str s, size_t *n);
/* True when s is UTF-8 and holds no hidden character: it can be shown as it is. */
bool text_is_plain(struct str s);
/* False when s begins or ends with white space: by Unicode's property White_Space, and what libraries trim besides it
 * (zero-width space, byte order mark). A server that trims would read another value than the one that rules matched and
 * signatures prove. */
bool text_is_trimmed(struct str s);
/* Appends s on one line: hidden characters as \xNN (C0, DEL), \uNNNN or \UNNNNNNNN, bytes that are no UTF-8 as \xNN. */
void text_escape(struct buf *out, struct str s);
/* The same, but line feeds stay. */
void text_escape_lines(struct buf *out, struct str s);
/* At most how many of the first `max` bytes of s can be taken without cutting a character in two. */
size_t text_cut(struct str s, size_t max);
/* Writes s by text_escape_lines(); false when it could not be written. */
bool text_write(struct str s, FILE *to);

#endif
