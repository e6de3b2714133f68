#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "keys/keyfile.h"
#include "load.h"
#include "message/kms_request.h"

enum { OPENED_EVERY = 64, MAX_SAMPLES = 4 << 20, SCRATCH = 1 << 17, TURN = 512, TICK_US = 500, IN_MAX = 4 << 20 };

struct pair {
    char user[64], ink_id[64], trk_id[64];
    struct secret_key ink, trk;
};
struct client {
    int fd;
    struct client *next; /* while it is free */
    struct pair *pair;   /* of the request under way */
    int64_t began;
    struct buf in;       /* of a reply that is not complete */
};
struct run {
    int epoll;
    const char *url, *target;
    struct pair *pairs;
    size_t pair_count, next;
    bool same, hold;
    size_t pad, count, active; /* active: so many under way, over all connections in turn; 0: one each */
    struct client *clients;
    size_t client_count, answered; /* the last: in this round */
    bool rounds;
    double rate; /* 0: as fast as replies come */
    struct buf text, message;
    const char *upstream;
    unsigned sets;
    bool hang;
    struct client *free, **free_end;
    uint64_t serial, sent, done, errors, opened, open_failed, due_taken;
    int64_t start, end;
    uint32_t *us;
    size_t samples;
};

static void make_request(struct run *r, struct pair *pair)
{
    char time[TIME_TEXT];
    struct buf device BUF_CLEANUP = BUF_INIT(1u << 20), signed_text BUF_CLEANUP = BUF_INIT(1u << 20);
    buf_printf(&device, "d%llx", (unsigned long long)r->serial++);
    for (size_t i = 0; i < r->pad; i++)
        buf_char(&device, 'p');
    time_format(time_now_us(), false, time);
    const struct kms_request q = {.id = STR("xmldoc"), .version = STR("1.1.0"), .user_uri = str_z(pair->user),
                                  .kms_uri = STR("kms.example.org"), .time = str_z(time), .client_id = STR("load"),
                                  .device_id = buf_view(&device), .client_req_url = str_z(r->url),
                                  .trk_id = str_z(pair->trk_id), .signature_id = str_z(pair->ink_id)};
    buf_reset(&r->text);
    kms_request_write(&q, &r->text);
    need(!r->text.failed && xmlsig_sign(buf_view(&r->text), str_z(pair->ink_id), &pair->ink, &signed_text),
         "xmlsig_sign");
    buf_reset(&r->message);
    buf_printf(&r->message, "POST %s HTTP/1.1\r\nHost: kms.example.org\r\nContent-Type: application/xml\r\n"
               "Content-Length: %zu\r\n\r\n", r->target, signed_text.n);
    buf_str(&r->message, buf_view(&signed_text));
    need(!r->message.failed, "memory for a request");
}

/* since: when it was due, where it had to wait; 0: it is due now. */
static void send_one(struct run *r, struct client *c, int64_t since)
{
    c->pair = &r->pairs[r->next++ % r->pair_count];
    if (!r->same || !r->message.n)
        make_request(r, c->pair);
    c->began = since ? since : time_mono_us();
    r->sent++;
    size_t at = 0;
    while (at < r->message.n) { /* a request fits into a socket's buffer */
        const ssize_t n = send(c->fd, r->message.p + at, r->message.n - at, MSG_NOSIGNAL);
        need(n > 0, "sending a request");
        at += (size_t)n;
    }
}

static bool trk_of(void *arg, struct str id, struct secret_key *out)
{
    const struct pair *pair = arg;
    *out = pair->trk;
    return str_eq_z(id, pair->trk_id);
}

static void count_key(void *arg, const struct kms_key_content *key)
{
    (void)arg, (void)key;
}

static bool opens(struct pair *pair, struct str body)
{
    static const struct xmlsig_policy policy = {256, XMLSIG_C14N};
    struct xml_doc *doc;
    struct xmlsig_info info;
    const struct xml_signed *proof = NULL;
    struct kms_response response;
    struct detail why;
    const struct kms_reader reader = {trk_of, count_key, NULL, pair};
    if (xml_parse(body, &XML_LIMITS_REPLY, &doc, &why) != REASON_OK)
        return false;
    const bool ok = xmlsig_read(doc, &policy, &info, &why) == REASON_OK &&
                    xmlsig_verify(doc, &policy, &pair->ink, &proof, &why) == REASON_OK &&
                    kms_response_open(proof, &reader, &response, &why) == REASON_OK;
    xml_free(doc);
    return ok;
}

static bool is_over(const struct run *r)
{
    return r->count ? r->sent >= r->count : time_mono_us() >= r->end;
}

/* How many should have been sent by now, but were not. */
static uint64_t waiting(const struct run *r)
{
    const uint64_t due = (uint64_t)((double)(time_mono_us() - r->start) * r->rate / US_PER_S);
    return due > r->due_taken ? due - r->due_taken : 0;
}

static void line_up(struct run *r, struct client *c)
{
    c->next = NULL;
    *r->free_end = c;
    r->free_end = &c->next;
}

static struct client *first_in_line(struct run *r)
{
    struct client *c = r->free;
    r->free = c->next;
    if (!r->free)
        r->free_end = &r->free;
    return c;
}

/* The last one of all starts the next round. */
static void round_goes_on(struct run *r)
{
    if (++r->answered < r->client_count)
        return;
    r->answered = 0;
    for (size_t i = 0; i < r->client_count; i++)
        send_one(r, &r->clients[i], 0);
}

static void go_on(struct run *r, struct client *c)
{
    if (is_over(r))
        return;
    if (r->rounds) {
        round_goes_on(r);
    } else if (r->active) {
        line_up(r, c);
        if (r->sent - r->done < r->active)
            send_one(r, first_in_line(r), 0);
    } else if (!r->rate) {
        send_one(r, c, 0);
    } else if (waiting(r)) {
        send_one(r, c, r->start + (int64_t)((double)r->due_taken * US_PER_S / r->rate));
        r->due_taken++;
    } else {
        line_up(r, c);
    }
}

static void take_reply(struct run *r, struct client *c, const char *text, size_t n, size_t head)
{
    const struct str body = {text + head, n - head};
    if (r->samples < MAX_SAMPLES)
        r->us[r->samples++] = (uint32_t)(time_mono_us() - c->began);
    r->done++;
    if (memcmp(text, "HTTP/1.1 200", 12) != 0)
        r->errors++;
    else if (r->done % OPENED_EVERY == 0 && memmem(body.p, body.n, "SignedKmsResponse", 17)) {
        r->opened++;
        r->open_failed += !opens(c->pair, body);
    }
}

static void client_read(struct run *r, struct client *c)
{
    static char scratch[SCRATCH];
    size_t head, whole;
    for (;;) {
        const ssize_t n = recv(c->fd, scratch, sizeof scratch, 0);
        need(n > 0 || (n < 0 && errno == EAGAIN), "a connection (closed by the other side)");
        if (n < 0)
            return;
        struct str text = {scratch, (size_t)n};
        if (c->in.n) {
            buf_str(&c->in, text);
            text = buf_view(&c->in);
        }
        whole = load_complete(text.p, text.n, &head);
        if (whole) {
            take_reply(r, c, text.p, whole, head);
            buf_reset(&c->in);
            go_on(r, c);
            return;
        }
        if (!c->in.n)
            buf_str(&c->in, text);
        need(!c->in.failed, "memory for a reply");
    }
}

static void tick(struct run *r, int timer)
{
    uint64_t expired;
    (void)!read(timer, &expired, sizeof expired);
    for (uint64_t n = waiting(r); n && r->free && !is_over(r); n--) {
        send_one(r, first_in_line(r), 0);
        r->due_taken++;
    }
}

static void take_key(struct run *r, const struct key_entry *entry)
{
    struct pair *last = r->pair_count ? &r->pairs[r->pair_count - 1] : NULL;
    if (!last || !str_eq_z(entry->user, last->user)) {
        if (!(r->pair_count & (r->pair_count - 1)))
            need((r->pairs = realloc(r->pairs, (2 * r->pair_count + 1) * sizeof *r->pairs)) != NULL, "memory");
        last = &r->pairs[r->pair_count++];
        memset(last, 0, sizeof *last);
        snprintf(last->user, sizeof last->user, "%.*s", STR_FMT(entry->user));
    }
    const bool ink = entry->type == KEY_INK;
    snprintf(ink ? last->ink_id : last->trk_id, sizeof last->ink_id, "%.*s", STR_FMT(entry->id));
    *(ink ? &last->ink : &last->trk) = entry->key;
}

static int by_value(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void report(struct run *r, double seconds)
{
    qsort(r->us, r->samples, sizeof *r->us, by_value);
    const size_t n = r->samples ? r->samples : 1;
    printf("{\"bench\":\"load\",\"requests\":%llu,\"seconds\":%.2f,\"per_second\":%.0f,\"errors\":%llu,\"opened\":%llu,"
           "\"open_failed\":%llu,\"us_p50\":%u,\"us_p90\":%u,\"us_p99\":%u,\"us_p999\":%u,\"us_max\":%u}\n",
           (unsigned long long)r->done, seconds, (double)r->done / seconds, (unsigned long long)r->errors,
           (unsigned long long)r->opened, (unsigned long long)r->open_failed, r->us[n / 2], r->us[n - 1 - n / 10],
           r->us[n - 1 - n / 100], r->us[n - 1 - n / 1000], r->us[n - 1]);
}

static void read_words(struct run *r, int argc, char **argv)
{
    for (int i = 5; i < argc; i++) {
        const char *value = strchr(argv[i], '=');
        const unsigned long n = value ? strtoul(value + 1, NULL, 10) : 0;
        if (strncmp(argv[i], "count=", 6) == 0)
            r->count = n;
        else if (strncmp(argv[i], "rate=", 5) == 0)
            r->rate = (double)n;
        else if (strncmp(argv[i], "pad=", 4) == 0)
            r->pad = n;
        else if (strncmp(argv[i], "active=", 7) == 0)
            r->active = n;
        else if (strncmp(argv[i], "upstream=", 9) == 0)
            r->upstream = argv[i] + 9;
        else if (strncmp(argv[i], "sets=", 5) == 0)
            r->sets = (unsigned)n;
        else if (strcmp(argv[i], "hang") == 0)
            r->hang = true;
        else if (strcmp(argv[i], "hold") == 0)
            r->hold = true;
        else
            need(strcmp(argv[i], "same") == 0 && (r->same = true), argv[i]);
    }
}

static void connect_all(struct run *r, struct client *clients, size_t n, const struct sockaddr_in *to)
{
    struct rlimit files;
    need(getrlimit(RLIMIT_NOFILE, &files) == 0, "getrlimit");
    files.rlim_cur = files.rlim_max;
    need(setrlimit(RLIMIT_NOFILE, &files) == 0, "setrlimit");
    for (size_t i = 0; i < n; i++) {
        struct client *c = &clients[i];
        *c = (struct client){.fd = socket(AF_INET, SOCK_STREAM, 0), .in = BUF_INIT(IN_MAX)};
        need(c->fd >= 0 && connect(c->fd, (const struct sockaddr *)to, sizeof *to) == 0, "connect");
        load_prepare(c->fd);
        struct epoll_event e = {EPOLLIN | EPOLLET, {.ptr = c}};
        need(epoll_ctl(r->epoll, EPOLL_CTL_ADD, c->fd, &e) == 0, "epoll_ctl");
    }
}

static int start_timer(struct run *r)
{
    const struct itimerspec every = {{0, TICK_US * 1000}, {0, TICK_US * 1000}};
    const int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event e = {EPOLLIN, {.ptr = NULL}};
    need(timer >= 0 && timerfd_settime(timer, 0, &every, NULL) == 0, "timerfd");
    need(epoll_ctl(r->epoll, EPOLL_CTL_ADD, timer, &e) == 0, "epoll_ctl");
    return timer;
}

static void read_keys(struct run *r, const char *path)
{
    struct keyfile file;
    struct faults faults = {0};
    if (!keyfile_read(path, &file, &faults)) {
        faults_print(&faults, stderr);
        exit(1);
    }
    for (size_t i = 0; i < file.n; i++)
        take_key(r, &file.v[i]);
    keyfile_free(&file);
}

/* A request that never gets its answer ends the run a while after its time. */
static void serve_all(struct run *r, int timer, int upstream)
{
    struct epoll_event ready[TURN];
    const int64_t latest = r->count ? INT64_MAX : r->end + 2 * US_PER_S;
    while ((!is_over(r) || r->done < r->sent) && time_mono_us() < latest) {
        if (upstream >= 0)
            load_upstream_turn(upstream, 0);
        const int n = epoll_wait(r->epoll, ready, TURN, upstream >= 0 ? 0 : 1000);
        for (int i = 0; i < n; i++)
            if (ready[i].data.ptr)
                client_read(r, ready[i].data.ptr);
            else
                tick(r, timer);
    }
}

int load_run(int argc, char **argv, bool in_rounds)
{
    struct run r = {.epoll = epoll_create1(0), .url = argv[1], .text = BUF_INIT(1u << 20),
                    .message = BUF_INIT(1u << 20)};
    const struct sockaddr_in to = load_loopback(argv[0]);
    const long connections = strtol(argv[3], NULL, 10), seconds = strtol(argv[4], NULL, 10);
    const char *host = strstr(r.url, "://");
    r.free_end = &r.free;
    r.sets = 1;
    r.target = host ? strchr(host + 3, '/') : NULL;
    read_words(&r, argc, argv);
    need(connections > 0 && seconds > 0 && r.target && xml_startup() && r.epoll >= 0, "starting");
    r.serial = (uint64_t)time_now_us() << 8; /* the next run in the same second must not repeat a request */
    read_keys(&r, argv[2]);
    struct client *clients = calloc((size_t)connections, sizeof *clients);
    need(r.pair_count && clients && (r.us = malloc(MAX_SAMPLES * sizeof *r.us)), "memory");
    const int upstream = r.upstream ? load_upstream_open(r.upstream, r.sets, r.hang) : -1;
    connect_all(&r, clients, (size_t)connections, &to);
    r.clients = clients;
    r.client_count = (size_t)connections;
    if (in_rounds)
        r.count = r.client_count * (size_t)seconds;
    r.rounds = in_rounds;
    r.start = time_mono_us();
    r.end = r.start + seconds * US_PER_S;
    const int timer = r.rate > 0 ? start_timer(&r) : -1;
    for (long i = 0; i < connections; i++)
        go_on(&r, &clients[i]);
    serve_all(&r, timer, upstream);
    report(&r, (double)(time_mono_us() - r.start) / 1e6);
    fflush(stdout);
    for (char end; r.hold && read(STDIN_FILENO, &end, 1) > 0;)
        ;
    return r.open_failed ? 1 : 0;
}
