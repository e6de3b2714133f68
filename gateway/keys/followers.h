/*
 * Who follows a key database, and what of it: a small file beside it, "<database>.followers", in which each running
 * gateway holds a slot, a line of text under a lock that ends with its process, however that ends. By it `kmsgate keys`
 * knows when what it changed is not what a gateway uses: the database was replaced, made anew or put back to an older
 * state meanwhile. The file says nothing of keys, and decides nothing: it is for people.
 *
 *     struct followers_slot slot = {.fd = -1};
 *     followers_tell(&slot, "/var/lib/kmsgate/kmsgate.db", &now);        a gateway, at each turn
 *     n = followers_read("/var/lib/kmsgate/kmsgate.db", v, FOLLOWERS_MAX);    who asks
 */
#ifndef KMSGATE_KEYS_FOLLOWERS_H
#define KMSGATE_KEYS_FOLLOWERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FOLLOWERS_MAX = 64, FOLLOWER_NAME = 16, FOLLOWER_COMMIT = 8 };

struct follower {
    long process;
    uint8_t name[FOLLOWER_NAME]; /* the beginning of the database's salt */
    uint64_t file[2];            /* what it has open: keydb_identity() */
    uint64_t last_seq;           /* the last change that it knows */
    uint8_t commit[FOLLOWER_COMMIT]; /* by which the number stands: two histories may have the same number */
    bool in_step;                /* it could read the database at its last turn */
    bool known;                  /* false: its line could not be read, only that it is there */
};

struct followers_slot {
    int fd; /* -1: none is held */
    unsigned number;
    uint64_t file[2]; /* of the followers' file */
    struct follower told;
};

/* Takes a slot where none is held, or the file is not the one that stands there now, and writes what is new. Where the
 * file cannot be made or written nothing happens, and the next call tries again. */
void followers_tell(struct followers_slot *slot, const char *database, const struct follower *now);
void followers_leave(struct followers_slot *slot);
/* The slots that other processes hold now, at most `max`; how many. */
size_t followers_read(const char *database, struct follower *out, size_t max);

#endif
