#include <string.h>
#include <time.h>
#include <unistd.h>

#include "keys/keystore_inside.h"

enum {
    WAIT_MS = 2000, /* a gateway looks twice a second */
    LOOK_MS = 20,
};

static struct follower self(const struct keystore *ks)
{
    struct follower f = {.process = getpid(), .last_seq = ks->now.last_seq};
    memcpy(f.name, ks->salt, sizeof f.name);
    memcpy(f.commit, ks->now.commit, sizeof f.commit);
    keydb_identity(ks->db, f.file);
    return f;
}

void keystore_tell(struct keystore *ks, bool in_step)
{
    if (!ks->tells)
        return;
    struct follower now = self(ks);
    now.in_step = in_step;
    followers_tell(&ks->follower, ks->database, &now);
}

void keystore_tell_followers(struct keystore *ks)
{
    pthread_mutex_lock(&ks->locks->db);
    ks->tells = keydb_is_file(ks->db);
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
    if (!f->known)
        faults_add(faults, ks->where, 0, 0,
                   "a running gateway does not say what it follows: what was changed may not be in force there");
    else if (!secret_equal(f->name, ks->salt, sizeof f->name))
        faults_add(faults, ks->where, 0, 0,
                   "the running gateway %ld uses another key database, which this one has replaced: what was changed "
                   "is not in force there. Put that database back, or restart the gateway", f->process);
    else if (there >= here)
        faults_add(faults, ks->where, 0, 0,
                   "the running gateway %ld uses a newer state of this key database (change %llu, here %llu), which "
                   "was put back: what was changed is not in force there. Put the newer one back, or restart the "
                   "gateway", f->process, there, here);
    else
        faults_add(faults, ks->where, 0, 0,
                   "the running gateway %ld does not follow this key database at present: what was changed is not in "
                   "force there. Its log says why", f->process);
}

bool keystore_followed(struct keystore *ks, struct faults *faults)
{
    struct follower v[FOLLOWERS_MAX];
    const struct timespec look = {0, LOOK_MS * 1000000L};
    if (!keydb_is_file(ks->db) || keydb_is_draft(ks->db))
        return true;
    for (int waited = 0;; waited += LOOK_MS) {
        const bool late = waited >= WAIT_MS;
        const size_t n = followers_read(ks->database, v, FOLLOWERS_MAX);
        bool ok = true;
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
