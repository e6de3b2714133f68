#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/config_internal.h"
#include "base/log.h"

enum { NAME_MAX_BYTES = 80, VALUE_MAX = 64 * 1024 };
#define PREFIX "KMSGATE_"
#define CREDENTIALS "CREDENTIALS_DIRECTORY"

/* "upstream.tls.ca" is KMSGATE_UPSTREAM_TLS_CA. */
static void name_of(const char *path, const char *suffix, char name[NAME_MAX_BYTES])
{
    snprintf(name, NAME_MAX_BYTES, PREFIX "%s%s", path, suffix);
    for (char *c = name; *c; c++)
        *c = *c == '.' ? '_' : *c >= 'a' && *c <= 'z' ? (char)(*c - 'a' + 'A') : *c;
}

/* One more, where it is a list. */
static void set_one(struct load *l, size_t i, const char *name, const struct incoming *in)
{
    struct shown expected;
    const struct option *o = OPTIONS + i;
    const bool hide = o->secret || value_is_private(in->text);
    if (!option_set(l, i, in, &expected, name))
        faults_add(l->faults, name, 0, 0, "%s%s, expected %s", hide ? "" : "found ",
                   hide         ? "value hidden (may be secret)"
                   : in->text.n ? show(in->text).z
                                : "an empty text",
                   expected.z);
}

static void set(struct load *l, size_t i, const char *name, const struct incoming *in)
{
    option_clear(l, i);
    set_one(l, i, name, in);
}

/* What the file holds, without one trailing line end. */
static bool read_value(const char *path, struct buf *b)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    ssize_t n = -1;
    while (fd >= 0) {
        char *room = buf_reserve(b, 4096);
        n = room ? read(fd, room, 4096) : -1;
        if (n < 0 && room && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        b->n += (size_t)n;
    }
    if (fd >= 0)
        close(fd);
    if (n == 0 && b->n && b->p[b->n - 1] == '\n')
        b->n--;
    if (n == 0 && b->n && b->p[b->n - 1] == '\r')
        b->n--;
    return n == 0;
}

static void set_from_file(struct load *l, size_t i, const char *name, const char *path)
{
    struct buf b BUF_CLEANUP = BUF_INIT_SECRET(VALUE_MAX);
    if (!read_value(path, &b)) {
        faults_add(l->faults, name, 0, 0, "the file %s cannot be read: %s", show(str_z(path)).z,
                   b.failed ? "larger than 64KiB" : strerror(errno));
        return;
    }
    const struct str text = b.p ? buf_view(&b) : STR("");
    const bool is_source = str_starts(text, STR("file:")) || str_starts(text, STR("env:"));
    if (OPTIONS[i].secret && !is_source) { /* the secret itself: it is read when it is due */
        struct buf source BUF_CLEANUP = BUF_INIT(VALUE_MAX);
        buf_printf(&source, "file:%s", path);
        set(l, i, name, &(struct incoming){source.p ? buf_view(&source) : STR(""), ""});
        return;
    }
    set(l, i, name, &(struct incoming){text, ""});
}

enum { NAMES = 4 };

/* The k-th name of an option: even ones hold its value, odd ones name a file that does. False: it has no such. */
static bool name_at(const struct option *o, unsigned k, char name[NAME_MAX_BYTES])
{
    const char *path = k < 2 ? o->path : o->also;
    if (path)
        name_of(path, k % 2 ? "_FILE" : "", name);
    return path;
}

static bool is_ours(const char *variable, size_t n)
{
    char name[NAME_MAX_BYTES];
    for (size_t i = 0; i < OPTION_COUNT; i++)
        for (unsigned k = 0; k < NAMES && name_at(OPTIONS + i, k, name); k++)
            if (str_eq_z((struct str){variable, n}, name))
                return true;
    return false;
}

static bool is_secret_of(const struct secret_source *s, struct str name)
{
    return s->kind == SECRET_ENV && str_eq_z(name, s->name);
}

static bool is_master(const struct config *c, struct str name)
{
    for (size_t i = 0; i < c->master_more_n; i++)
        if (is_secret_of(&c->master_more[i], name))
            return true;
    return is_secret_of(&c->master_key, name);
}

static void tell_unknown(const struct load *l)
{
    for (char **e = environ; e && *e; e++) {
        const char *equals = strchr(*e, '=');
        const struct str name = {*e, equals ? (size_t)(equals - *e) : strlen(*e)};
        if (!str_starts(name, STR(PREFIX)) || str_eq_z(name, PREFIX "CONFIG") || is_ours(name.p, name.n) ||
            is_master(l->c, name) ||
            is_secret_of(&l->c->admin_token, name))
            continue;
        log_info("environment", NULL, "%s is not a setting of kmsgate: ignored", show(name).z);
    }
}

/* A service manager hands secrets over as files of a folder that only this service sees (systemd's LoadCredential): a
 * file there that is called like a secret's key is that secret. It is there for this very process, so it wins over the
 * file; a variable of ours, which somebody set by hand, wins over it. Of a folder with files 1, 2, … systemd makes
 * NAME_1, NAME_2, …: a list. */
static void set_from_credentials(struct load *l, size_t i)
{
    const char *folder = getenv(CREDENTIALS);
    bool any = false;
    if (!folder || folder[0] != '/' || !OPTIONS[i].secret)
        return;
    for (int k = 0; k <= (OPTIONS[i].list ? MASTER_KEYS_MAX : 0); k++) {
        struct buf source BUF_CLEANUP = BUF_INIT(2 * PATH_MAX);
        buf_printf(&source, "file:%s/%s", folder, OPTIONS[i].path);
        if (k)
            buf_printf(&source, "_%d", k);
        if (source.failed || access(source.p + sizeof "file:" - 1, F_OK) != 0)
            continue;
        if (!any)
            option_clear(l, i);
        any = true;
        set_one(l, i, CREDENTIALS, &(struct incoming){buf_view(&source), ""});
    }
}

/* False where no variable names it. */
static bool set_from_variables(struct load *l, size_t i)
{
    char first[NAME_MAX_BYTES] = "", name[NAME_MAX_BYTES];
    const char *found = NULL;
    bool is_file = false;
    for (unsigned k = 0; k < NAMES && name_at(OPTIONS + i, k, name); k++) {
        const char *value = getenv(name);
        if (value && found) {
            faults_add(l->faults, first, 0, 0, "is set, and so is %s: expected one of them", name);
            return true;
        }
        if (!value)
            continue;
        found = value;
        is_file = k % 2;
        memcpy(first, name, sizeof first);
    }
    if (found && is_file)
        set_from_file(l, i, first, found);
    else if (found)
        set(l, i, first, &(struct incoming){str_z(found), ""});
    return found;
}

void config_environment(struct load *l)
{
    for (size_t i = 0; i < OPTION_COUNT; i++)
        if (!set_from_variables(l, i))
            set_from_credentials(l, i);
    static atomic_flag told = ATOMIC_FLAG_INIT; /* the environment is the same at each reading */
    if (atomic_flag_test_and_set(&told))
        return;
    log_setup(l->c->log_level, l->c->log_format); /* what is told here comes as it will be told later */
    tell_unknown(l);
}
