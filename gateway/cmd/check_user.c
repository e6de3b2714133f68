/*
 * Whether `user` can open what a gateway opens once it has become that user. Only the system itself can tell (modes,
 * groups, access lists, mounts): a child process becomes the user and asks.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cmd/check_user.h"
#include "cmd/command.h"
#include "http/sandbox.h"

enum { FILES_MAX = 256 };

struct wanted {
    char *path;
    int mode; /* as access() takes it */
};

struct wants {
    struct wanted v[FILES_MAX];
    size_t n;
};

/* What is not there is another check's to tell. */
static void want(struct wants *w, const char *path, int mode)
{
    struct stat st;
    if (!path || w->n == FILES_MAX || stat(path, &st) != 0)
        return;
    if ((w->v[w->n].path = str_dup(str_z(path))))
        w->v[w->n++].mode = mode;
}

static void want_folder(struct wants *w, const char *path)
{
    const char *slash = path ? strrchr(path, '/') : NULL;
    char *folder = slash ? str_dup((struct str){path, slash == path ? 1 : (size_t)(slash - path)}) : str_dup(STR("."));
    if (path)
        want(w, folder, W_OK | X_OK);
    free(folder);
}

static void want_secret(struct wants *w, const struct secret_source *s)
{
    if (s->kind == SECRET_FILE)
        want(w, s->name, R_OK);
}

static void want_read(void *arg, const char *path)
{
    want(arg, path, R_OK);
}

static void want_all(struct wants *w, const struct config *c)
{
    config_each_reread(c, want_read, w);
    want_secret(w, &c->admin_token);
    want_secret(w, &c->tickets);
    want_secret(w, &c->replay.secret);
    want_secret(w, &c->replay.password);
    want(w, c->keys, R_OK | W_OK);
    want_folder(w, c->keys); /* its journal */
    want(w, c->state, W_OK | X_OK);
    want(w, c->keys_counter, R_OK | W_OK);
    if (c->decisions[0] == '/')
        want(w, c->decisions, W_OK);
}

/* In the child: errno for each file, 0 where it can be opened. */
static void access_look(const struct wants *w, const struct identity *who, int to)
{
    int found[FILES_MAX] = {0};
    if (!identity_take(who))
        _exit(EXIT_NEGATIVE);
    for (size_t i = 0; i < w->n; i++)
        if (faccessat(AT_FDCWD, w->v[i].path, w->v[i].mode, AT_EACCESS) != 0)
            found[i] = errno;
    _exit(write(to, found, w->n * sizeof *found) == (ssize_t)(w->n * sizeof *found) ? EXIT_DONE : EXIT_NEGATIVE);
}

static bool access_ask(const struct wants *w, const struct identity *who, int found[FILES_MAX])
{
    int ends[2], status = 0;
    if (pipe2(ends, O_CLOEXEC) != 0)
        return false;
    const pid_t child = fork();
    if (child == 0)
        access_look(w, who, ends[1]);
    close(ends[1]);
    const ssize_t want_n = (ssize_t)(w->n * sizeof *found);
    const bool ok = child > 0 && read(ends[0], found, (size_t)want_n) == want_n; /* below PIPE_BUF: at once */
    close(ends[0]);
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    return ok && WIFEXITED(status) && WEXITSTATUS(status) == EXIT_DONE;
}

void check_user(const struct config *c, struct faults *faults)
{
    struct identity who;
    const char *why = NULL;
    int found[FILES_MAX] = {0};
    if (!c->user)
        return;
    if (!identity_look_up(c->user, &who, &why)) {
        faults_add(faults, c->file, 0, 0, "`user`: %s %s", c->user, why);
        return;
    }
    if (geteuid() != 0) /* what this process can read, its other checks say */
        return;
    struct wants *w = calloc(1, sizeof *w);
    if (w)
        want_all(w, c);
    if (!w || !access_ask(w, &who, found))
        faults_add(faults, c->file, 0, 0, "`user`: this process cannot become %s to look at files", c->user);
    for (size_t i = 0; w && i < w->n; i++) {
        const int mode = w->v[i].mode;
        if (found[i])
            faults_add(faults, w->v[i].path, 0, 0, "cannot be %s by the user %s: %s",
                       mode == R_OK ? "read" : mode & R_OK ? "read and written" : "written", c->user,
                       strerror(found[i]));
        free(w->v[i].path);
    }
    free(w);
}
