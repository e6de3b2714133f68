/*
 * `kmsgate keys`: what its subcommands share.
 */
#ifndef KMSGATE_CMD_KEYS_H
#define KMSGATE_CMD_KEYS_H

#include "keys/keystore.h"

/* What was given; a text that was not is missing. */
struct keys_options {
    const char *config;
    struct str user, id, type, not_after, in_state;
    int64_t expiring_us; /* list: only keys that end within it; 0: all */
    const char *file;
    bool replace, force, dry, with_secrets, key_stdin, generate, all, cascade, json;
    bool first;        /* nobody has accepted anything under these keys */
    const char *state; /* folder of the replay memory's mark */
};

/* Each gets the open store and returns an exit code. */
int keys_import(struct keystore *ks, const struct keys_options *o);
int keys_add(struct keystore *ks, const struct keys_options *o);
int keys_export(struct keystore *ks, const struct keys_options *o);
int keys_list(struct keystore *ks, const struct keys_options *o);
int keys_show(struct keystore *ks, const struct keys_options *o);
int keys_revoke(struct keystore *ks, const struct keys_options *o);
int keys_renew(struct keystore *ks, const struct keys_options *o);
int keys_prune(struct keystore *ks, const struct keys_options *o);
int keys_rekey(struct keystore *ks, const struct keys_options *o);

/* How far a long command has come, on a terminal's stderr after a second: count, rate, time left. */
struct keys_progress {
    const char *noun;  /* "keys" */
    int64_t begin_us, shown_us; /* monotonic; 0 at first */
    bool terminal, shown;
};
struct keys_progress keys_progress_new(const char *noun);
void keys_progress(struct keys_progress *p, size_t done, size_t of);
void keys_progress_end(struct keys_progress *p);

/* On stdout: "user U, NOUN ID: " and the text, with a line end; without an ID "user U: …". Names come from whoever made
 * the keys, and are escaped. False when it could not be written. */
bool keys_say(struct str user, const char *noun, struct str id, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* Warns of a key file that all users of the machine can read. */
void keys_warn_if_open(const char *path);
/* False, told on stderr, when the text is there and no type. */
bool keys_type(struct str text, enum key_type *out);
/* The same for a time with a zone; TIME_NONE when the text is not there. */
bool keys_end(struct str text, int64_t *out);
/* "2027-01-01T00:00:00Z", with milliseconds where there are any; "-" for no end. */
void keys_time(int64_t us, char out[TIME_TEXT]);

#endif
