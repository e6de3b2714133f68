/*
 * Key files: one JSON object a line, {"user":…,"type":"ink"|"trk","id":…,"key":"<64 hex>"[,"state":…][,"not_after":…]}.
 */
#ifndef KMSGATE_KEYS_KEYFILE_H
#define KMSGATE_KEYS_KEYFILE_H

#include "keys/keystore.h"

struct keyfile {
    struct key_entry *v; /* in locked memory where the limit allows; texts point into `text` */
    size_t n;
    char *text;
    size_t text_n;
    size_t *line; /* line number of each entry */
    size_t cap;   /* of v and line */
    bool whole;   /* read to its end: there is an entry of each good line, whatever the others' faults are */
};
/* Reads a whole file ("-": standard input). Every bad line is a fault with FILE:LINE:COLUMN that names the member at
 * fault and never repeats a value of "key". False when there was any. The caller calls keyfile_free() either way. */
bool keyfile_read(const char *path, struct keyfile *out, struct faults *faults);
void keyfile_free(struct keyfile *f);

#endif
