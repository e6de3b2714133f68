#include "http/captures.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/timestamp.h"

enum {
    WAITING_BYTES = 4 << 20, /* of those not yet written */
    BLOCK = 4096,            /* the least that a file takes: so that small ones are counted, too */
    CLOSE_US = 1000000,
    NAME = CAPTURE_ID + sizeof ".json",
};

struct waiting {
    struct waiting *next;
    char id[CAPTURE_ID + 1];
    size_t n;      /* octets of the body, behind which is the note */
    size_t note_n;
    char text[];
};

/* On disk; oldest first. */
struct kept {
    char id[CAPTURE_ID + 1];
    int64_t time_us;
    uint64_t bytes;
};

struct captures {
    char *folder;
    int fd; /* of the folder */
    uint64_t max;
    pthread_t thread;

    pthread_mutex_t lock; /* of what waits */
    pthread_cond_t asked;
    struct waiting *first, **last;
    size_t bytes;
    bool closing;
    int64_t deadline_us;

    struct kept *kept; /* from here on the thread's: a ring */
    size_t head, n, cap;
    uint64_t total;
    bool failing;
};

static uint64_t blocks(uint64_t n)
{
    return (n + BLOCK - 1) / BLOCK * BLOCK;
}

bool capture_is_id(struct str id)
{
    size_t n = 0;
    while (n < id.n && ((id.p[n] >= '0' && id.p[n] <= '9') || (id.p[n] >= 'a' && id.p[n] <= 'f')))
        n++;
    return id.n == CAPTURE_ID && n == id.n;
}

static bool is_body(const char *name)
{
    const struct str s = str_z(name);
    return str_ends(s, STR(".xml")) && capture_is_id((struct str){s.p, s.n - strlen(".xml")});
}

static bool kept_push(struct captures *c, const char *id, int64_t time_us, uint64_t bytes)
{
    if (c->n == c->cap) {
        const size_t cap = c->cap ? 2 * c->cap : 64;
        struct kept *more = malloc(cap * sizeof *more);
        if (!more)
            return false;
        for (size_t i = 0; i < c->n; i++)
            more[i] = c->kept[(c->head + i) % c->cap];
        free(c->kept);
        c->kept = more;
        c->cap = cap;
        c->head = 0;
    }
    struct kept *k = &c->kept[(c->head + c->n++) % c->cap];
    memcpy(k->id, id, CAPTURE_ID);
    k->id[CAPTURE_ID] = '\0';
    k->time_us = time_us;
    k->bytes = bytes;
    c->total += bytes;
    return true;
}

static void remove_both(const struct captures *c, const char *id)
{
    char name[NAME];
    snprintf(name, sizeof name, "%.*s.xml", CAPTURE_ID, id);
    unlinkat(c->fd, name, 0);
    snprintf(name, sizeof name, "%.*s.json", CAPTURE_ID, id);
    unlinkat(c->fd, name, 0);
}

/* The oldest go until `more` octets have room. */
static void make_room(struct captures *c, uint64_t more)
{
    while (c->n > 0 && c->total + more > c->max) {
        struct kept *k = &c->kept[c->head];
        remove_both(c, k->id);
        c->total -= k->bytes;
        c->head = (c->head + 1) % c->cap;
        c->n--;
    }
}

static void captures_fail(struct captures *c, const char *what)
{
    if (!c->failing)
        log_error("captures", c->folder, "%s: %s; bodies are not kept", what, strerror(errno));
    c->failing = true;
    metric_add(METRIC_CAPTURES_DROPPED, NULL, 1);
}

/* Nobody ever sees half of it under its name. */
static bool put_file(const struct captures *c, const char *id, const char *ending, const char *p, size_t n)
{
    char name[NAME], part[NAME + 8];
    snprintf(name, sizeof name, "%s%s", id, ending);
    snprintf(part, sizeof part, ".%s.part", name);
    const int fd = openat(c->fd, part, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return false;
    bool ok = file_write_all(fd, p, n);
    ok = close(fd) == 0 && ok && renameat(c->fd, part, c->fd, name) == 0;
    const int error = errno;
    if (!ok)
        unlinkat(c->fd, part, 0);
    errno = error;
    return ok;
}

static void put_capture(struct captures *c, const struct waiting *w)
{
    const uint64_t bytes = blocks(w->n) + blocks(w->note_n);
    if (bytes > c->max) {
        errno = EFBIG;
        captures_fail(c, "larger than `captures.max`");
        return;
    }
    make_room(c, bytes);
    if (!put_file(c, w->id, ".json", w->text + w->n, w->note_n) || !put_file(c, w->id, ".xml", w->text, w->n) ||
        !kept_push(c, w->id, 0, bytes)) {
        captures_fail(c, "cannot write");
        remove_both(c, w->id);
        return;
    }
    if (c->failing)
        log_info("captures", c->folder, "bodies are kept again");
    c->failing = false;
}

static struct waiting *next_waiting(struct captures *c)
{
    pthread_mutex_lock(&c->lock);
    while (!c->first && !c->closing)
        pthread_cond_wait(&c->asked, &c->lock);
    struct waiting *w = c->first;
    if (w && c->closing && time_mono_us() >= c->deadline_us)
        w = NULL;
    if (w) {
        c->first = w->next;
        c->bytes -= w->n + w->note_n;
    }
    if (!c->first)
        c->last = &c->first;
    pthread_mutex_unlock(&c->lock);
    return w;
}

static void *captures_run(void *arg)
{
    struct captures *c = arg;
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    for (struct waiting *w; (w = next_waiting(c)); free(w))
        put_capture(c, w);
    return NULL;
}

static int captures_older(const void *a, const void *b)
{
    const struct kept *x = a, *y = b;
    return x->time_us < y->time_us ? -1 : x->time_us > y->time_us;
}

static bool look_at(struct captures *c, const char *name)
{
    struct stat body, note;
    char other[NAME];
    if (!is_body(name)) {
        if (name[0] == '.' && strlen(name) > CAPTURE_ID && strstr(name, ".part"))
            unlinkat(c->fd, name, 0); /* of a process that was killed */
        return true;
    }
    snprintf(other, sizeof other, "%.*s.json", CAPTURE_ID, name);
    if (fstatat(c->fd, name, &body, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(body.st_mode))
        return true;
    const bool noted = fstatat(c->fd, other, &note, AT_SYMLINK_NOFOLLOW) == 0;
    return kept_push(c, name, body.st_mtim.tv_sec * US_PER_S + body.st_mtim.tv_nsec / 1000,
                     blocks((uint64_t)body.st_size) + (noted ? blocks((uint64_t)note.st_size) : 0));
}

static bool look_around(struct captures *c)
{
    const int fd = openat(c->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    if (!d) {
        if (fd >= 0)
            close(fd);
        return false;
    }
    bool ok = true;
    for (const struct dirent *e; ok && (e = readdir(d));) // NOLINT(concurrency-mt-unsafe): the stream is this one's
        ok = look_at(c, e->d_name);
    closedir(d);
    if (c->n)
        qsort(c->kept, c->n, sizeof *c->kept, captures_older); /* head is 0 */
    make_room(c, 0);
    return ok;
}

static void captures_free(struct captures *c)
{
    for (struct waiting *w = c->first, *next; w; w = next) {
        next = w->next;
        free(w);
    }
    if (c->fd >= 0)
        close(c->fd);
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->asked);
    free(c->kept);
    free(c->folder);
    free(c);
}

bool captures_prepare(const char *folder, char *why, size_t why_size)
{
    struct stat st;
    if ((mkdir(folder, 0700) == 0 || errno == EEXIST) && stat(folder, &st) == 0) {
        errno = ENOTDIR;
        if (S_ISDIR(st.st_mode) && faccessat(AT_FDCWD, folder, R_OK | W_OK | X_OK, AT_EACCESS) == 0)
            return true;
    }
    snprintf(why, why_size, "cannot be used as the folder of captures: %s", strerror(errno));
    return false;
}

static bool open_folder(struct captures *c)
{
    c->fd = open(c->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return c->fd >= 0 && look_around(c);
}

struct captures *captures_open(const char *folder, uint64_t max, char *why, size_t why_size)
{
    struct captures *c = calloc(1, sizeof *c);
    if (!c) {
        snprintf(why, why_size, "out of memory");
        return NULL;
    }
    c->fd = -1;
    c->max = max;
    c->last = &c->first;
    c->folder = strdup(folder);
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->asked, NULL);
    if (c->folder && open_folder(c) && (errno = pthread_create(&c->thread, NULL, captures_run, c)) == 0)
        return c;
    snprintf(why, why_size, "cannot be used as the folder of captures: %s", strerror(errno));
    captures_free(c);
    return NULL;
}

static void write_note(const struct capture *what, struct buf *out)
{
    char time[TIME_TEXT], source[IP_TEXT];
    struct json j = {.out = out};
    time_format(what->time_us, true, time);
    ip_format(&what->source, source);
    json_object(&j, NULL);
    json_string(&j, "time", str_z(time), 0);
    json_string(&j, "source", what->source.known ? str_z(source) : STR_MISSING, 0);
    json_string(&j, "target", what->target, 0);
    json_end(&j);
    buf_char(out, '\n');
}

static bool enqueue(struct captures *c, struct waiting *w)
{
    pthread_mutex_lock(&c->lock);
    const bool fits = c->bytes + w->n + w->note_n <= WAITING_BYTES && !c->closing;
    if (fits) {
        *c->last = w;
        c->last = &w->next;
        c->bytes += w->n + w->note_n;
        pthread_cond_signal(&c->asked);
    }
    pthread_mutex_unlock(&c->lock);
    return fits;
}

bool captures_keep(struct captures *c, const struct capture *what)
{
    struct buf note BUF_CLEANUP = BUF_INIT(256 << 10);
    if (!c)
        return false;
    write_note(what, &note);
    struct waiting *w = note.failed ? NULL : malloc(sizeof *w + what->body.n + note.n);
    if (w) {
        w->next = NULL;
        w->n = what->body.n;
        w->note_n = note.n;
        snprintf(w->id, sizeof w->id, "%s", what->id);
        memcpy(w->text, what->body.p, w->n);
        memcpy(w->text + w->n, note.p, w->note_n);
        if (enqueue(c, w))
            return true;
    }
    free(w);
    metric_add(METRIC_CAPTURES_DROPPED, NULL, 1);
    return false;
}

void captures_close(struct captures *c)
{
    if (!c)
        return;
    pthread_mutex_lock(&c->lock);
    c->closing = true;
    c->deadline_us = time_mono_us() + CLOSE_US;
    pthread_cond_signal(&c->asked);
    pthread_mutex_unlock(&c->lock);
    pthread_join(c->thread, NULL);
    captures_free(c);
}
