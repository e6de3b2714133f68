#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "load.h"

enum { BACKLOG = 4096, TURN = 256, SCRATCH = 1 << 17, REPLY_MAX = 1 << 20 };

struct peer {
    int fd;
    struct buf in, out; /* of a request that is not complete; of a reply that the socket did not take */
};

static struct {
    bool hang;
    int listener;
    struct buf sets;   /* key sets, with USER where the user's URI is to stand: the same in each reply */
    struct buf answer; /* the last one, and for whom */
    struct buf user;
} the_kms;

#define USER "\1"

static void make_sets(unsigned sets)
{
    struct buf *b = &the_kms.sets;
    *b = BUF_INIT(REPLY_MAX);
    for (unsigned i = 0; i < sets; i++) {
        buf_z(b, "<KmsKeySet Version=\"1.1.0\"><KmsUri>kms.example.org</KmsUri><UserUri>" USER "</UserUri><UserID>");
        for (int k = 0; k < 8; k++)
            buf_z(b, "0A1B2C3D");
        buf_printf(b, "</UserID><KeyPeriodNo>%u</KeyPeriodNo>", 1514 + i);
        hex_element(b, "UserDecryptKey", 257, true);
        hex_element(b, "UserSigningKeySSK", 32, false);
        hex_element(b, "UserPubTokenPVT", 65, true);
        buf_z(b, "</KmsKeySet>");
    }
    need(!b->failed, "memory for key sets");
}

static void put(struct buf *b, const char *p, size_t n, struct str user)
{
    for (const char *at; (at = memchr(p, *USER, n)); n -= (size_t)(at + 1 - p), p = at + 1) {
        buf_bytes(b, p, (size_t)(at - p));
        buf_str(b, user);
    }
    buf_bytes(b, p, n);
}

/* Where it is for the same user as the one before, it is the same. */
static struct str answer_for(struct str user)
{
    static const char BEGIN[] = "<KmsResponse xmlns=\"" NS_KMS "\" Version=\"1.0.0\"><UserUri>" USER "</UserUri>"
                                "<KmsUri>kms.example.org</KmsUri><Time>2026-01-01T00:00:00Z</Time><ClientReqUrl>"
                                "http://old/keymanagement/identity/v1/keyprov</ClientReqUrl><KmsMessage>"
                                "<KmsKeyProv Version=\"1.0.0\">";
    static const char END[] = "</KmsKeyProv></KmsMessage></KmsResponse>";
    static struct buf body = BUF_INIT(REPLY_MAX);
    if (str_eq(user, buf_view(&the_kms.user)))
        return buf_view(&the_kms.answer);
    buf_reset(&body);
    put(&body, BEGIN, sizeof BEGIN - 1, user);
    put(&body, the_kms.sets.p, the_kms.sets.n, user);
    buf_z(&body, END);
    buf_reset(&the_kms.user);
    buf_str(&the_kms.user, user);
    buf_reset(&the_kms.answer);
    buf_printf(&the_kms.answer, "HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: %zu\r\n\r\n",
               body.n);
    buf_str(&the_kms.answer, buf_view(&body));
    need(!body.failed && !the_kms.answer.failed, "memory for an answer");
    return buf_view(&the_kms.answer);
}

static void peer_end(struct peer *p)
{
    close(p->fd);
    buf_free(&p->in);
    buf_free(&p->out);
    free(p);
}

static void peer_answer(struct peer *p, const char *text, size_t n)
{
    const char *user = memmem(text, n, "<UserUri>", 9);
    const char *end = user ? memchr(user + 9, '<', n - (size_t)(user + 9 - text)) : NULL;
    const char *target = memmem(text, n, "/init HTTP/1.1\r\n", 16);
    if (the_kms.hang && target)
        return;
    need(end, "finding UserUri");
    const struct str a = answer_for((struct str){user + 9, (size_t)(end - user - 9)});
    const ssize_t sent = p->out.n ? 0 : send(p->fd, a.p, a.n, MSG_NOSIGNAL);
    if (sent < (ssize_t)a.n)
        buf_bytes(&p->out, a.p + (sent > 0 ? sent : 0), a.n - (size_t)(sent > 0 ? sent : 0));
}

static void peer_flush(struct peer *p)
{
    if (!p->out.n)
        return;
    const ssize_t sent = send(p->fd, p->out.p, p->out.n, MSG_NOSIGNAL);
    if (sent <= 0)
        return;
    memmove(p->out.p, p->out.p + sent, p->out.n - (size_t)sent);
    p->out.n -= (size_t)sent;
}

/* False: it has ended. */
static bool peer_read(struct peer *p)
{
    static char scratch[SCRATCH];
    for (;;) {
        const ssize_t n = recv(p->fd, scratch, sizeof scratch, 0);
        if (n == 0 || (n < 0 && errno != EAGAIN))
            return false;
        if (n < 0)
            return true;
        const char *text = scratch;
        size_t left = (size_t)n, head, whole;
        if (p->in.n) {
            buf_bytes(&p->in, scratch, left);
            text = p->in.p;
            left = p->in.n;
        }
        for (; (whole = load_complete(text, left, &head)); text += whole, left -= whole)
            peer_answer(p, text, whole);
        struct buf rest = BUF_INIT(REPLY_MAX);
        if (left)
            buf_bytes(&rest, text, left);
        buf_free(&p->in);
        p->in = rest;
        if ((size_t)n < sizeof scratch)
            return true; /* there is an event for what comes next */
    }
}

static void peers_accept(int listener, int epoll)
{
    for (int fd; (fd = accept(listener, NULL, NULL)) >= 0;) {
        struct peer *p = calloc(1, sizeof *p);
        need(p, "memory");
        *p = (struct peer){fd, BUF_INIT(REPLY_MAX), BUF_INIT(REPLY_MAX)};
        load_prepare(fd);
        struct epoll_event e = {EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, {.ptr = p}};
        need(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e) == 0, "epoll_ctl");
    }
}

int load_upstream_open(const char *port, unsigned sets, bool hang)
{
    const struct sockaddr_in sa = load_loopback(port);
    const int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), epoll = epoll_create1(0);
    struct epoll_event e = {EPOLLIN, {.ptr = NULL}};
    the_kms.hang = hang;
    the_kms.answer = BUF_INIT(REPLY_MAX);
    the_kms.user = BUF_INIT(4096);
    make_sets(sets);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    need(bind(listener, (const struct sockaddr *)&sa, sizeof sa) == 0 && listen(listener, BACKLOG) == 0, "listening");
    need(epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &e) == 0, "epoll_ctl");
    the_kms.listener = listener;
    return epoll;
}

void load_upstream_turn(int epoll, int ms)
{
    struct epoll_event ready[TURN];
    const int n = epoll_wait(epoll, ready, TURN, ms);
    for (int i = 0; i < n; i++) {
        struct peer *p = ready[i].data.ptr;
        if (!p) {
            peers_accept(the_kms.listener, epoll);
            continue;
        }
        if (ready[i].events & EPOLLOUT)
            peer_flush(p);
        if (ready[i].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR) && !peer_read(p))
            peer_end(p);
    }
}
