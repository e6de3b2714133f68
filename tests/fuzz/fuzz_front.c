/*
 * The whole gateway, by its sockets: `kmsgate serve` runs in a thread of this process, with an upstream beside it. The
 * bytes choose a connection's requests, one behind the other: right ones, signed just now, by their length or in
 * chunks; the same bytes again; tampered ones; frames with other values; anything. They are written in pieces, which
 * the bytes choose as well; then the client ends its side and reads to the end.
 *
 * What must hold: replies come in the order of the requests, one each, none after the one that ends the connection; a
 * right request is answered with 200, once; nothing else is; a second reading of all that was sent, by the guard alone
 * and in one piece, finds as many requests; and the upstream got exactly those that were answered with 200, each
 * framed as one request of its user.
 */
#include "framed.h"

#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/crypto.h"
#include "cmd/command.h"
#include "http/guard.h"
#include "http/upstream_reply.h"
#include "keys/keystore.h"
#include "message/kms_request.h"

#define RESOURCE "/keymanagement/identity/v1/keyprov"
#define BASE "http://kms.example.org"
enum { USERS = 256, REQUESTS_MAX = 12, ROOM = 1 << 18, REPLY_MAX = 1 << 20, PEERS = 64, PATIENCE_MS = 120000 };

static const struct limits_config LIMITS = {.body = 4096, .target = 512, .header = 512, .headers = 1024,
                                            .header_count = 16};
static char folder[] = "/tmp/kmsgate-fuzz-XXXXXX";
static struct secret_key keys[USERS];
static pthread_t gateway, upstream_thread;
static int upstream_socket;
static atomic_ulong forwarded; /* requests that the upstream has answered */
static atomic_bool gateway_ended;

static void user_name(unsigned i, char out[40])
{
    snprintf(out, 40, "sip:user%u@example.org", i);
}

/* One request of the gateway's, and nothing else in it: who asks, in the only reading that there is. */
static void answer(int fd, const struct guard *g)
{
    static const char BEGIN[] = "<UserUri>", END[] = "</UserUri>";
    struct buf body BUF_CLEANUP = BUF_INIT(ROOM), out BUF_CLEANUP = BUF_INIT(ROOM);
    const struct str request = buf_view(&g->body);
    must(str_eq(g->method, STR("POST")) && str_eq(g->target, STR(RESOURCE)), "%.*s", STR_FMT(g->target));
    const char *from = request.n ? memmem(request.p, request.n, BEGIN, sizeof BEGIN - 1) : NULL;
    const char *to = from ? memmem(from, (size_t)(request.p + request.n - from), END, sizeof END - 1) : NULL;
    must(to && str_starts(request, STR("<KmsRequest")), "%.*s", STR_FMT(request));
    from += sizeof BEGIN - 1;
    buf_printf(&body, "<KmsResponse xmlns=\"urn:3gpp:ns:mcsecKMSInterface:1.0\"><UserUri>%.*s</UserUri><KmsMessage>"
                      "<KmsKeyProv Version=\"1.0.0\"/></KmsMessage></KmsResponse>", (int)(to - from), from);
    buf_printf(&out, "HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: %zu\r\n\r\n", body.n);
    buf_str(&out, buf_view(&body));
    atomic_fetch_add(&forwarded, 1);
    must(send(fd, out.p, out.n, MSG_NOSIGNAL) == (ssize_t)out.n, "the gateway does not listen");
}

/* False: the connection is over. */
static bool serve_peer(int fd, struct guard *g)
{
    char bytes[4096];
    const ssize_t n = recv(fd, bytes, sizeof bytes, 0);
    for (size_t at = 0; n > 0 && at < (size_t)n;) {
        at += guard_feed(g, bytes + at, (size_t)n - at);
        must(g->state != GUARD_REFUSED, "the gateway asks badly: %s", reason_name(g->reason));
        if (g->state == GUARD_DONE) {
            answer(fd, g);
            guard_next(g);
        }
    }
    return n > 0;
}

static void *upstream_run(void *arg)
{
    static struct guard guards[PEERS];
    static struct pollfd fds[PEERS + 1];
    size_t n = 1;
    fds[0] = (struct pollfd){.fd = upstream_socket, .events = POLLIN};
    for (;;) {
        if (poll(fds, n, -1) < 0)
            continue;
        for (size_t i = n; i > 1; i--)
            if (fds[i - 1].revents && !serve_peer(fds[i - 1].fd, &guards[i - 1])) {
                close(fds[i - 1].fd);
                guard_free(&guards[i - 1]);
                guards[i - 1] = guards[n - 1];
                fds[i - 1] = fds[--n];
            }
        if (fds[0].revents & (POLLHUP | POLLERR | POLLNVAL))
            return arg;
        const int fd = fds[0].revents && n <= PEERS - 1 ? accept(upstream_socket, NULL, NULL) : -1;
        if (fd >= 0) {
            guard_init(&guards[n], &LIMITS);
            fds[n++] = (struct pollfd){.fd = fd, .events = POLLIN};
        }
    }
}

/* On a port of loopback that nobody has. */
static int bound(unsigned *port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must(fd >= 0 && bind(fd, (struct sockaddr *)&a, n) == 0 && getsockname(fd, (struct sockaddr *)&a, &n) == 0,
         "no socket");
    *port = ntohs(a.sin_port);
    return fd;
}

static unsigned free_port(void)
{
    unsigned port;
    close(bound(&port));
    return port;
}

static unsigned upstream_start(void)
{
    unsigned port;
    upstream_socket = bound(&port);
    must(listen(upstream_socket, PEERS) == 0, "no socket");
    must(pthread_create(&upstream_thread, NULL, upstream_run, NULL) == 0, "no thread");
    return port;
}

static const char *in_folder(const char *name)
{
    static char path[8][100];
    static unsigned turn;
    char *p = path[turn++ % 8];
    snprintf(p, 100, "%s/%s", folder, name);
    return p;
}

static void write_file(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void write_file(const char *name, const char *format, ...)
{
    va_list args;
    FILE *f = fopen(in_folder(name), "w");
    must(f && fchmod(fileno(f), 0600) == 0, "no file");
    va_start(args, format);
    vfprintf(f, format, args);
    va_end(args);
    must(fclose(f) == 0, "no file");
}

static void make_keys(void)
{
    static const struct secret_key MASTER = {{0x11}};
    static char names[USERS][40];
    struct key_entry e[2 * USERS];
    struct faults faults = {0};
    size_t counts[3], at;
    for (unsigned i = 0; i < USERS; i++) {
        keys[i] = (struct secret_key){{1, (uint8_t)i}};
        user_name(i, names[i]);
        e[2 * i] = (struct key_entry){str_z(names[i]), STR("ink.1"), KEY_INK, KEY_ACTIVE, TIME_NONE, keys[i]};
        e[2 * i + 1] = (struct key_entry){str_z(names[i]), STR("trk.1"), KEY_TRK, KEY_ACTIVE, TIME_NONE,
                                          {{2, (uint8_t)i}}};
    }
    struct keystore *ks = keystore_open(in_folder("k.db"), &MASTER, true, &faults);
    must(ks && keystore_put(ks, e, 2 * (size_t)USERS, false, counts, &at, &faults), "no keys");
    keystore_close(ks);
    write_file("master.key", "11%062d\n", 0);
}

static void *gateway_run(void *arg)
{
    char *words[] = {(char[]){"kmsgate"}, (char[]){"serve"}, (char[]){"--config"}, (char *)in_folder("gateway.yaml"),
                     (char[]){"--allow-root"}, NULL};
    must(command_main(5, words) == 0, "the gateway does not start");
    atomic_store(&gateway_ended, true);
    return arg;
}

static void close_all(void)
{
    pthread_kill(gateway, SIGTERM);
    pthread_join(gateway, NULL);
    shutdown(upstream_socket, SHUT_RDWR);
    pthread_join(upstream_thread, NULL);
    close(upstream_socket);
    crypto_thread_end();
    static const char *const FILES[] = {"k.db", "k.db-wal", "k.db-shm", "k.db.followers", "master.key", "rules.yaml",
                                        "gateway.yaml", "replay.mark", "front.sock"};
    for (size_t i = 0; i < sizeof FILES / sizeof *FILES; i++)
        unlink(in_folder(FILES[i]));
    rmdir(folder);
}

static int dial(void)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "%s/front.sock", folder);
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must(fd >= 0, "no socket");
    if (connect(fd, (struct sockaddr *)&a, sizeof a) == 0)
        return fd;
    close(fd);
    return -1;
}

/* A right request's body, of a user of its own turn; no two are the same. */
static void make_body(bool tampered, struct buf *out)
{
    static unsigned long number;
    char user[40], time[TIME_TEXT], device[40];
    struct buf request BUF_CLEANUP = BUF_INIT(ROOM);
    const unsigned who = (unsigned)(number % USERS);
    user_name(who, user);
    time_format(time_now_us(), true, time);
    snprintf(device, sizeof device, "device-%d-%lu", (int)getpid(), number++);
    const struct kms_request fields = {.user_uri = str_z(user), .kms_uri = STR("kms.example.org"),
                                       .time = str_z(time), .device_id = str_z(device),
                                       .client_req_url = STR(BASE RESOURCE), .trk_id = STR("trk.1"),
                                       .signature_id = STR("ink.1")};
    kms_request_write(&fields, &request);
    must(xmlsig_sign(buf_view(&request), STR("ink.1"), &keys[who], out), "not signed");
    char *at = tampered ? memmem(out->p, out->n, "device-", 7) : NULL;
    if (at)
        at[0] = 'D';
}

/* POST, the body by its length or in chunks of many sizes. */
static void frame(struct str body, struct str *rest, struct buf *out)
{
    const bool chunks = fuzz_choice(rest, 2);
    buf_z(out, "POST " RESOURCE " HTTP/1.1\r\nHost: kms.example.org\r\nContent-Type: application/xml\r\n");
    if (!chunks) {
        buf_printf(out, "Content-Length: %zu\r\n\r\n", body.n);
        buf_str(out, body);
        return;
    }
    buf_z(out, "Transfer-Encoding: chunked\r\n\r\n");
    while (body.n) {
        const size_t most = 1 + 16 * fuzz_choice(rest, 64), n = most < body.n ? most : body.n;
        buf_printf(out, "%zx\r\n", n);
        buf_bytes(out, body.p, n);
        buf_z(out, "\r\n");
        body = (struct str){body.p + n, body.n - n};
    }
    buf_z(out, "0\r\n\r\n");
}

/* The requests of a connection; which are right ones, by the offset at which they begin, and the same bytes again. */
struct plan {
    struct buf bytes;
    struct {
        size_t at;
        int number; /* of its bytes */
    } right[REQUESTS_MAX];
    size_t n;
};

static void make_plan(struct str *rest, struct plan *p)
{
    enum { RIGHT, RIGHT_TOO, AGAIN, TAMPERED, FRAMED, ANYTHING, KINDS };
    struct buf last BUF_CLEANUP = BUF_INIT(ROOM);
    bool last_is_right = false;
    for (int i = 0, number = 0; i < REQUESTS_MAX && (i == 0 || rest->n); i++) {
        const unsigned kind = fuzz_choice(rest, KINDS);
        if (kind == FRAMED) {
            framed_request(rest, &p->bytes);
        } else if (kind == ANYTHING) {
            buf_str(&p->bytes, fuzz_next(rest));
        } else {
            if (kind != AGAIN || !last.n) {
                struct buf body BUF_CLEANUP = BUF_INIT(ROOM);
                make_body(kind == TAMPERED, &body);
                buf_reset(&last);
                frame(buf_view(&body), rest, &last);
                last_is_right = kind != TAMPERED;
                number++;
            }
            if (last_is_right) {
                p->right[p->n].at = p->bytes.n;
                p->right[p->n++].number = number;
            }
            buf_str(&p->bytes, buf_view(&last));
        }
    }
    must(!p->bytes.failed, "room");
}

/* Where each request begins, as the guard reads them in one piece; *cut: what is behind the last is none. */
static size_t read_plan(const struct plan *p, size_t begins[2 * REQUESTS_MAX], bool *cut)
{
    struct guard g;
    size_t n = 0, at = 0;
    guard_init(&g, &LIMITS);
    begins[0] = 0;
    while (at < p->bytes.n && n < 2 * REQUESTS_MAX - 1) {
        at += guard_feed(&g, p->bytes.p + at, p->bytes.n - at);
        if (g.state == GUARD_REFUSED)
            break;
        if (g.state == GUARD_DONE) {
            begins[++n] = at;
            guard_next(&g);
        }
    }
    for (size_t i = 0; i <= n; i++) /* an empty line before a request is forgiven */
        begins[i] += str_starts((struct str){p->bytes.p + begins[i], p->bytes.n - begins[i]}, STR("\r\n")) ? 2 : 0;
    *cut = g.state == GUARD_REFUSED || guard_begun(&g);
    guard_free(&g);
    return n;
}

/* In pieces; what comes meanwhile is taken, so that nobody waits for the other. */
static void converse(int fd, struct str bytes, struct str *rest, struct buf *in)
{
    size_t at = 0;
    bool open = true, ended = false;
    while (!ended) {
        struct pollfd p = {.fd = fd, .events = (short)(POLLIN | (open ? POLLOUT : 0))};
        must(poll(&p, 1, PATIENCE_MS) == 1, "the gateway says nothing for two minutes");
        if (p.revents & (POLLIN | POLLHUP | POLLERR)) {
            char *room = buf_reserve(in, 4096);
            must(room, "too much is answered");
            const ssize_t n = recv(fd, room, 4096, 0);
            ended = n <= 0;
            in->n += n > 0 ? (size_t)n : 0;
        }
        if (open && p.revents & POLLOUT) {
            const unsigned choice = fuzz_choice(rest, 256);
            const size_t most = choice ? choice * choice / 4 + 1 : bytes.n - at, n = most < bytes.n - at ? most
                                                                                                        : bytes.n - at;
            const ssize_t sent = n ? send(fd, bytes.p + at, n, MSG_NOSIGNAL) : 0;
            at += sent > 0 ? (size_t)sent : 0;
            open = sent >= 0 && at < bytes.n;
            if (!open)
                shutdown(fd, SHUT_WR);
            else if (choice % 8 == 1)
                poll(NULL, 0, 1); /* so that it comes in two pieces */
        }
    }
}

/* The replies, in their order; how many are 200. */
static size_t check_replies(const struct plan *p, struct str in)
{
    size_t begins[2 * REQUESTS_MAX], right = 0, replies = 0, good = 0;
    bool cut, accepted[REQUESTS_MAX + 1] = {false};
    const size_t requests = read_plan(p, begins, &cut);
    struct reply_reader r = {.state = REPLY_STATUS};
    for (bool over = false; in.n; replies++) {
        must(!over, "a reply behind the last: %.*s", STR_FMT(in));
        reply_begin(&r, REPLY_MAX);
        const size_t used = reply_feed(&r, in.p, in.n);
        must(r.state == REPLY_DONE, "reply %zu: %s: %.*s", replies, r.why ? r.why : "cut off", STR_FMT(in));
        must(replies < requests + cut, "%zu replies to %zu requests", replies + 1, requests);
        while (right < p->n && p->right[right].at < begins[replies])
            right++;
        const bool is_right = replies < requests && right < p->n && p->right[right].at == begins[replies];
        const bool due = is_right && !accepted[p->right[right].number];
        if (due)
            accepted[p->right[right].number] = true;
        must((r.status == 200) == due, "%d for request %zu, a %s one: %.*s", r.status, replies, due ? "right" : "wrong",
             STR_FMT(buf_view(&r.body)));
        must(!due || memmem(r.body.p, r.body.n, "<SignedKmsResponse", 18), "not signed");
        good += due;
        over = !reply_keeps(&r);
        in = (struct str){in.p + used, in.n - used};
    }
    reply_free(&r);
    return good;
}

/* Whether a right request was answered. */
static bool connection(struct str input)
{
    struct plan p = {.bytes = BUF_INIT(ROOM)};
    struct buf in BUF_CLEANUP = BUF_INIT(REPLY_MAX);
    const unsigned long before = atomic_load(&forwarded);
    make_plan(&input, &p);
    const int fd = dial();
    must(fd >= 0, "the gateway does not listen");
    converse(fd, buf_view(&p.bytes), &input, &in);
    close(fd);
    const size_t good = check_replies(&p, buf_view(&in));
    must(atomic_load(&forwarded) - before == good, "%lu requests went to the upstream, and %zu were accepted",
         atomic_load(&forwarded) - before, good);
    buf_free(&p.bytes);
    return good > 0;
}

/* A gateway that starts accepts nothing that another could have accepted before it. */
static void wait_until_it_accepts(void)
{
    bool accepts = false;
    for (int i = 0; i < 1200 && !accepts; i++) {
        struct buf body BUF_CLEANUP = BUF_INIT(ROOM), out BUF_CLEANUP = BUF_INIT(ROOM), in BUF_CLEANUP = BUF_INIT(ROOM);
        struct str nothing = {"", 0};
        const int fd = dial();
        if (fd >= 0) { /* and libraries are ready */
            make_body(false, &body);
            frame(buf_view(&body), &nothing, &out);
            converse(fd, buf_view(&out), &nothing, &in);
            close(fd);
            accepts = str_starts(buf_view(&in), STR("HTTP/1.1 200"));
        }
        if (!accepts)
            poll(NULL, 0, 100);
    }
    must(accepts, "the gateway accepts nothing");
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    sigset_t signals;
    (void)argc, (void)argv;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals, NULL); /* it is the gateway's */
    must(mkdtemp(folder), "no folder");
    make_keys();
    write_file("rules.yaml", "version: 1\nkms: { uris: [kms.example.org], id: kms-01 }\nrequests:\n  - id: everyone\n"
                             "    checks: { time: { past: 20s, future: 5s } }\nresponses: [{ id: default }]\n");
    write_file("gateway.yaml", "listen: [{ address: \"unix:front.sock\" }]\nadmin: 127.0.0.1:%u\n"
                               "public_url: " BASE "\nupstream: { url: \"http://127.0.0.1:%u\", timeout: 60s }\n"
                               "rules: rules.yaml\nkeys: \"sqlite:k.db\"\nmaster_key: file:master.key\n"
                               "decisions: none\nworkers: 1\nsandbox: off\nlog: { level: error }\ndrain_timeout: 1s\n"
                               "limits: { body: 4KiB, target: 512B, header: 512B, headers: 1KiB, header_count: 16 }\n",
               free_port(), upstream_start());
    must(pthread_create(&gateway, NULL, gateway_run, NULL) == 0, "no thread");
    atexit(close_all);
    wait_until_it_accepts();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    must(!atomic_load(&gateway_ended), "the gateway has ended");
    fuzz_arrived(connection(fuzz_view(data, size)));
    return 0;
}
