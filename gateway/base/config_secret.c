#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/config.h"
#include "base/file.h"

enum { SECRET_MAX = 4096 };

/* The bytes of a regular file, at most SECRET_MAX, without one trailing line end. -1 with a fault. */
static ssize_t read_file(const char *path, char out[SECRET_MAX + 1], bool refuse_others, struct faults *faults)
{
    struct stat st;
    ssize_t n = -1;
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 || fstat(fd, &st) != 0)
        faults_add(faults, path, 0, 0, "cannot be read: %s", strerror(errno));
    else if (!S_ISREG(st.st_mode))
        faults_add(faults, path, 0, 0, "is not a regular file");
    else if (refuse_others && (st.st_mode & S_IRWXO))
        faults_add(faults, path, 0, 0,
                   "is open to all users of this machine (mode %04o); `chmod o=` it, expected 0600 or 0640",
                   (unsigned)st.st_mode & 07777);
    else {
        n = file_read_into(fd, out, SECRET_MAX + 1);
        if (n < 0)
            faults_add(faults, path, 0, 0, "cannot be read: %s", strerror(errno));
        else if (n > SECRET_MAX)
            faults_add(faults, path, 0, 0, "is larger than %d bytes: no secret", SECRET_MAX);
        n = n > SECRET_MAX ? -1 : n;
    }
    if (fd >= 0)
        close(fd);
    return n;
}

/* What the environment held: moved into locked memory at the first reading, and overwritten where it stood, which is
 * the stack's end and /proc/PID/environ. A reload reads it again from here. `environ` itself does not change: other
 * threads look for names of their own. */
static struct {
    pthread_mutex_t lock;
    size_t n;
    struct {
        char name[64], value[SECRET_MAX + 1];
    } *v;
} taken = {.lock = PTHREAD_MUTEX_INITIALIZER};
enum { TAKEN_MAX = 16 };

/* NULL: it is not set. What there is no room for stays where it is. */
static const char *take_variable(const char *name)
{
    char *value = getenv(name);
    const char *found = value;
    pthread_mutex_lock(&taken.lock);
    for (size_t i = 0; i < taken.n; i++)
        if (strcmp(taken.v[i].name, name) == 0)
            found = taken.v[i].value;
    if (!taken.v)
        taken.v = secret_alloc(TAKEN_MAX * sizeof *taken.v);
    if (value && found == value && taken.v && taken.n < TAKEN_MAX && strlen(name) < sizeof taken.v->name &&
        strlen(value) <= SECRET_MAX) {
        memcpy(taken.v[taken.n].name, name, strlen(name) + 1);
        memcpy(taken.v[taken.n].value, value, strlen(value) + 1);
        found = taken.v[taken.n++].value;
        secret_wipe(value, strlen(value));
    }
    pthread_mutex_unlock(&taken.lock);
    return found;
}

/* Into `out`; where says what to call the source in faults. */
static bool read_source(const struct secret_source *from, bool refuse_others, char out[SECRET_MAX + 1],
                        struct str *text, struct faults *faults)
{
    if (from->kind == SECRET_FILE) {
        const ssize_t n = read_file(from->name, out, refuse_others, faults);
        *text = (struct str){out, n < 0 ? 0 : (size_t)n};
        if (n < 0)
            return false;
    } else {
        const char *value = from->kind == SECRET_ENV && from->name ? take_variable(from->name) : NULL;
        if (!value) {
            faults_add(faults, from->name ? from->name : "secret", 0, 0, "this environment variable is not set");
            return false;
        }
        *text = str_z(value);
        if (text->n > SECRET_MAX) {
            faults_add(faults, from->name, 0, 0, "holds more than %d bytes: no secret", SECRET_MAX);
            return false;
        }
    }
    if (text->n && text->p[text->n - 1] == '\n')
        text->n--;
    if (text->n && text->p[text->n - 1] == '\r')
        text->n--;
    return true;
}

bool config_read_key(const struct secret_source *from, const char *what, struct secret_key *out, struct faults *faults)
{
    char room[SECRET_MAX + 1];
    struct secret_key key SECRET_CLEANUP = {{0}};
    const struct secret_key zero = {{0}};
    struct str text;
    size_t n = 0;
    bool ok = read_source(from, true, room, &text, faults);
    if (ok && (text.n != 2 * KEY_BYTES || !hex_decode(text, key.b, sizeof key.b, &n) || n != KEY_BYTES)) {
        faults_add(faults, from->name, 0, 0,
                   "is not a valid %s: expected %d hex digits, found %zu bytes of another kind or number", what,
                   2 * KEY_BYTES, text.n);
        ok = false;
    } else if (ok && secret_equal(key.b, zero.b, sizeof key.b)) {
        faults_add(faults, from->name, 0, 0, "is not a valid %s: all zero", what);
        ok = false;
    }
    if (ok)
        *out = key;
    secret_wipe(room, sizeof room);
    return ok;
}

bool config_read_master_key(const struct secret_source *from, struct secret_key *out, struct faults *faults)
{
    return config_read_key(from, "master key", out, faults);
}

bool config_read_tickets(const struct config *c, struct secret_key *out, struct faults *faults)
{
    return config_read_key(&c->tickets, "key of tickets", out, faults);
}

void master_keys_clear(struct master_keys *m)
{
    secret_wipe(m, sizeof *m);
}

bool config_read_master_keys(const struct config *c, struct master_keys *out, struct faults *faults)
{
    bool ok = config_read_master_key(&c->master_key, &out->v[0], faults);
    out->n = 1 + c->master_more_n;
    for (size_t i = 0; i < c->master_more_n; i++)
        ok = config_read_master_key(&c->master_more[i], &out->v[i + 1], faults) && ok;
    return ok;
}

static bool is_token(struct str s)
{
    for (size_t i = 0; i < s.n; i++)
        if ((unsigned char)s.p[i] <= 0x20 || (unsigned char)s.p[i] >= 0x7f)
            return false;
    return s.n > 0;
}

char *config_read_token(const struct secret_source *from, struct faults *faults)
{
    char room[SECRET_MAX + 1];
    struct str text;
    char *token = NULL;
    if (read_source(from, false, room, &text, faults)) {
        if (!is_token(text))
            faults_add(faults, from->name, 0, 0,
                       "is not a valid token: expected visible ASCII characters without spaces");
        else if (!(token = str_dup(text)))
            faults_add(faults, from->name, 0, 0, "out of memory");
    }
    secret_wipe(room, sizeof room);
    return token;
}
