#include <stdio.h>
#include <unistd.h>

#include "base/log.h"
#include "cmd/cmd.h"
#include "cmd/keys.h"
#include "keys/keylife.h"

enum { SHOW_AFTER_S = 1, SHOW_EACH_MS = 200 };

struct keys_progress keys_progress_new(const char *noun)
{
    return (struct keys_progress){.noun = noun, .begin_us = time_mono_us(), .terminal = isatty(STDERR_FILENO) == 1};
}

void keys_progress(struct keys_progress *p, size_t done, size_t of)
{
    const int64_t now = time_mono_us(), taken = now - p->begin_us;
    if (!p->terminal || taken < SHOW_AFTER_S * US_PER_S || now - p->shown_us < SHOW_EACH_MS * INT64_C(1000))
        return;
    const double rate = (double)done * (double)US_PER_S / (double)taken;
    p->shown_us = now;
    p->shown = true;
    fprintf(stderr, "\r%zu of %zu %s, %.0f a second, %.0f s left  ", done, of, p->noun, rate,
            rate > 0 && of > done ? (double)(of - done) / rate : 0);
    fflush(stderr);
}

void keys_progress_end(struct keys_progress *p)
{
    if (p->shown)
        fputs("\r\033[K", stderr);
}

static int finish(struct faults *faults, bool ok)
{
    faults_print(faults, stderr);
    faults_free(faults);
    return ok ? EXIT_DONE : EXIT_NEGATIVE;
}

struct revoked {
    struct str user;
    size_t n, left;
};

static void tell_revoked(void *arg, struct str id, enum key_type type, bool revoked)
{
    struct revoked *r = arg;
    revoked ? r->n++ : r->left++;
    keys_say(r->user, key_type_name(type), id, "%s",
             revoked ? "revoked"
                     : "was sent under a TrK that is revoked, and is in use; `--cascade` revokes it, too");
}

int keys_revoke(struct keystore *ks, const struct keys_options *o)
{
    struct faults faults = {0};
    struct revoked r = {.user = o->user};
    const bool ok = keystore_revoke(ks, o->user, o->all ? STR_MISSING : o->id, o->cascade, tell_revoked, &r, &faults);
    if (ok && !r.n && !r.left)
        keys_say(o->user, NULL, STR_MISSING, "nothing is left to revoke");
    return finish(&faults, ok);
}

int keys_renew(struct keystore *ks, const struct keys_options *o)
{
    struct faults faults = {0};
    size_t n = 0;
    const bool ok = keystore_make_due(ks, o->user, &n, &faults);
    if (ok)
        keys_say(o->user, NULL, STR_MISSING, "%zu key%s due; the next reply to KmsInit or KmsKeyProv under a rule with "
                 "`renew` offers new ones", n, n == 1 ? " is" : "s are");
    return finish(&faults, ok);
}

static void show_progress(void *arg, size_t done, size_t of)
{
    keys_progress(arg, done, of);
}

int keys_prune(struct keystore *ks, const struct keys_options *o)
{
    struct faults faults = {0};
    size_t n = 0;
    struct keys_progress p = keys_progress_new("users");
    (void)o;
    const bool ok = keystore_prune(ks, &(struct key_telling){.progress = show_progress, .arg = &p}, &n, &faults);
    keys_progress_end(&p);
    if (ok)
        printf("%zu key%s gone\n", n, n == 1 ? "" : "s");
    return finish(&faults, ok);
}

int keys_rekey(struct keystore *ks, const struct keys_options *o)
{
    struct faults faults = {0};
    size_t n = 0;
    struct keys_progress p = keys_progress_new("users");
    (void)o;
    const bool ok = keystore_rekey(ks, &(struct key_telling){.progress = show_progress, .arg = &p}, &n, &faults);
    keys_progress_end(&p);
    if (ok)
        printf("%zu key%s sealed anew; all are under the first master key\n", n, n == 1 ? "" : "s");
    return finish(&faults, ok);
}
