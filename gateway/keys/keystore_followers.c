#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "keys/keystore_inside.h"

enum {
    WAIT_MS = 2000, /* a gateway looks twice a second */
    LOOK_MS = 20,
    LOOK_SHARED_MS = 100,
};
/* What followers.c writes into a file, where there is none: "kmsgate + NAME COMMIT CHANGE", + or - for in_step. */
#define FOLLOWER_WORD "kmsgate %c %016" PRIx64 " %016" PRIx64 " %" PRIx64

static struct follower self(const struct keystore *ks)
{
    struct follower f = {.process = getpid(), .last_seq = ks->now.last_seq};
    memcpy(f.name, ks->salt, sizeof f.name);
    memcpy(f.commit, ks->now.commit, sizeof f.commit);
    keydb_identity(ks->db, f.file);
    return f;
}

/* The beginning of a name, or a commit. */
static uint64_t word_number(const uint8_t octets[8])
{
    uint64_t v = 0;
    for (size_t i = 0; i < 8; i++)
        v = v << 8 | octets[i];
    return v;
}

static void word_write(char in_step, uint64_t name, uint64_t commit, uint64_t change, char out[KEYDB_WORD + 1])
{
    snprintf(out, KEYDB_WORD + 1, FOLLOWER_WORD, in_step, name, commit, change);
}

void keystore_tell(struct keystore *ks, bool in_step)
{
    if (!ks->tells)
        return;
    struct follower now = self(ks);
    now.in_step = in_step;
    if (keydb_is_file(ks->db)) {
        followers_tell(&ks->follower, ks->database, &now);
        return;
    }
    char word[KEYDB_WORD + 1];
    word_write(in_step ? '+' : '-', word_number(now.name), word_number(now.commit), now.last_seq, word);
    keydb_say(ks->db, word);
}

void keystore_tell_followers(struct keystore *ks)
{
    pthread_mutex_lock(&ks->locks->db);
    ks->tells = true;
    keystore_tell(ks, true);
    pthread_mutex_unlock(&ks->locks->db);
}

/* It has what was there before this process changed anything, or what is there now, and could read it just now: what
 * was changed is in force there, or comes within a second. `late`: it has had that second, and others may have changed
 * more since. */
static bool follows(const struct keystore *ks, const struct follower *f, bool late)
{
    const struct follower mine = self(ks);
    if (!f->known || !f->in_step || !secret_equal(f->name, mine.name, sizeof f->name) || f->file[0] != mine.file[0] ||
        f->file[1] != mine.file[1])
        return false;
    return secret_equal(f->commit, mine.commit, sizeof f->commit) ||
           secret_equal(f->commit, ks->opened, sizeof f->commit) || (late && f->last_seq > mine.last_seq);
}

static void say_why(const struct keystore *ks, const struct follower *f, struct faults *faults)
{
    const unsigned long long there = f->last_seq, here = ks->now.last_seq;
    char who[64];
    snprintf(who, sizeof who, keydb_is_file(ks->db) ? "%ld" : "of PostgreSQL's process %ld", f->process);
    if (!f->known)
        faults_add(faults, ks->where, 0, 0,
                   "a running gateway does not say what it follows: what was changed may not be in force there");
    else if (!secret_equal(f->name, ks->salt, sizeof f->name))
        faults_add(faults, ks->where, 0, 0,
                   "the running gateway %s uses another key database, which this one has replaced: what was changed "
                   "is not in force there. Put that database back, or restart the gateway", who);
    else if (there >= here)
        faults_add(faults, ks->where, 0, 0,
                   "the running gateway %s uses a newer state of this key database (change %llu, here %llu), which "
                   "was put back: what was changed is not in force there. Put the newer one back, or restart the "
                   "gateway%s", who, there, here, keydb_is_file(ks->db) ? "" : " without its sealed copy");
    else
        faults_add(faults, ks->where, 0, 0,
                   "the running gateway %s does not follow this key database at present: what was changed is not in "
                   "force there. Its log says why", who);
}

struct hearing {
    const struct keystore *ks;
    struct follower *v; /* FOLLOWERS_MAX */
    size_t n;
};

/* What was read must be what would be written: other words are nobody's of ours. */
static void hear_word(void *arg, long process, const char *word)
{
    struct hearing *h = arg;
    struct follower f = self(h->ks);
    uint64_t name = 0, commit = 0, change = 0;
    char in_step = 0, again[KEYDB_WORD + 1];
    /* NOLINTNEXTLINE(cert-err34-c): a number out of range is not written again as it was read */
    if (h->n == FOLLOWERS_MAX || sscanf(word, "kmsgate %c %16" SCNx64 " %16" SCNx64 " %16" SCNx64, &in_step, &name,
                                        &commit, &change) != 4)
        return;
    word_write(in_step, name, commit, change, again);
    if (!str_eq_z(str_z(word), again) || (in_step != '+' && in_step != '-'))
        return;
    if (name != word_number(f.name))
        memset(f.name, 0, sizeof f.name);
    for (size_t i = 0; i < sizeof f.commit; i++)
        f.commit[i] = (uint8_t)(commit >> 8 * (sizeof f.commit - 1 - i));
    f.process = process;
    f.last_seq = change;
    f.in_step = in_step == '+';
    f.known = true;
    h->v[h->n++] = f;
}

static bool read_followers(const struct keystore *ks, struct follower v[FOLLOWERS_MAX], size_t *n, struct detail *why)
{
    if (keydb_is_file(ks->db)) {
        *n = followers_read(ks->database, v, FOLLOWERS_MAX);
        return true;
    }
    struct hearing h = {ks, v, 0};
    const enum keydb_result r = keydb_words(ks->db, hear_word, &h, why);
    *n = h.n;
    return r == KEYDB_OK;
}

bool keystore_followed(struct keystore *ks, struct faults *faults)
{
    struct follower v[FOLLOWERS_MAX];
    struct detail unheard;
    const int look_ms = keydb_is_file(ks->db) ? LOOK_MS : LOOK_SHARED_MS;
    const struct timespec look = {0, look_ms * 1000000L};
    if (keydb_is_draft(ks->db))
        return true;
    for (int waited = 0;; waited += look_ms) {
        const bool late = waited >= WAIT_MS;
        size_t n = 0;
        bool ok = true;
        if (!read_followers(ks, v, &n, &unheard)) {
            faults_add(faults, ks->where, 0, 0, "%s; what was changed may not be in force at every gateway",
                       unheard.text);
            return false;
        }
        for (size_t i = 0; i < n; i++) {
            if (follows(ks, &v[i], late))
                continue;
            ok = false;
            if (late)
                say_why(ks, &v[i], faults);
        }
        if (ok || late)
            return ok;
        nanosleep(&look, NULL);
    }
}
