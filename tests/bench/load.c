/*
 * Load for a gateway: fresh signed requests over keep-alive connections, and the upstream behind it.
 *
 *     load upstream PORT [SETS] [hang]                         an older KMS that always has its answer ready
 *     load keys USERS [FROM] > keys.jsonl                      key pairs for USERS users, from number FROM on
 *     load run PORT PUBLIC-URL keys.jsonl CONNECTIONS SECONDS [WORD]...
 *                                                              a JSON line: requests a second, latency, errors
 *     load rounds PORT PUBLIC-URL keys.jsonl CONNECTIONS ROUNDS [WORD]...
 *                                                              the same in rounds: each waits for all replies
 *     load tls PORT COUNT full|resume                          handshakes; a JSON line
 *
 * `run` signs each request just before it is sent and opens one reply in 64 (signature and keys), when it is signed.
 * The latency is from the first byte sent to the last byte received. Words:
 *     count=N        so many requests, whatever the time
 *     rate=N         so many a second, whatever the other side does; the latency of one that had to wait for a free
 *                    connection begins when it was due
 *     active=N       so many under way, over all connections in turn, instead of one on each
 *     pad=N          so many octets more in each
 *     same           one request for all, which only a proxy that judges nothing takes
 *     hold           the connections stay open, idle, until its input ends
 *     upstream=PORT  it is the older KMS, too, with sets=N and hang, and never sleeps: whoever sends it something has
 *                    no sleeper to wake, which across virtual cores costs more than sending
 */
#include "load.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/rand.h>
#include <string.h>
#include <sys/socket.h>

#include "keys/keystore.h"

struct sockaddr_in load_loopback(const char *port)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons((uint16_t)strtoul(port, NULL, 10))};
    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return sa;
}

void load_prepare(int fd)
{
    need(fcntl(fd, F_SETFL, O_NONBLOCK) == 0, "fcntl");
    need(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int)) == 0, "setsockopt");
}

size_t load_complete(const char *p, size_t n, size_t *head)
{
    static const char LENGTH[] = "\r\ncontent-length:";
    const char *end = memmem(p, n, "\r\n\r\n", 4);
    if (!end)
        return 0;
    *head = (size_t)(end - p) + 4;
    size_t length = 0;
    for (const char *at = p; (at = memchr(at, '\r', (size_t)(end - at))); at++)
        if (strncasecmp(at, LENGTH, sizeof LENGTH - 1) == 0)
            length = strtoul(at + sizeof LENGTH - 1, NULL, 10);
    return n < *head + length ? 0 : *head + length;
}

static _Noreturn void upstream(const char *port, const char *sets, const char *hang)
{
    const int epoll = load_upstream_open(port, (unsigned)strtoul(sets, NULL, 10), strcmp(hang, "hang") == 0);
    for (;;)
        load_upstream_turn(epoll, -1);
}

static int keys(const char *count, const char *from)
{
    const unsigned long first = strtoul(from, NULL, 10), n = strtoul(count, NULL, 10);
    for (unsigned long i = first; i < first + n; i++)
        for (int type = 0; type < 2; type++) {
            uint8_t raw[KEY_BYTES];
            need(RAND_bytes(raw, sizeof raw) == 1, "RAND_bytes");
            const char *name = type ? "trk" : "ink";
            printf("{\"user\":\"sip:u%lu@example.org\",\"type\":\"%s\",\"id\":\"%s.1.u%lu\",\"key\":\"", i, name, name,
                   i);
            for (size_t k = 0; k < sizeof raw; k++)
                printf("%02x", raw[k]);
            puts("\"}");
        }
    return fflush(stdout) ? 1 : 0;
}

int main(int argc, char **argv)
{
    const char *what = argc > 2 ? argv[1] : "";
    if (strcmp(what, "upstream") == 0 && argc <= 5)
        upstream(argv[2], argc > 3 ? argv[3] : "1", argc > 4 ? argv[4] : "");
    if (strcmp(what, "keys") == 0 && argc <= 4)
        return keys(argv[2], argc > 3 ? argv[3] : "0");
    if ((strcmp(what, "run") == 0 || strcmp(what, "rounds") == 0) && argc >= 7)
        return load_run(argc - 2, argv + 2, strcmp(what, "rounds") == 0);
    if (strcmp(what, "tls") == 0 && argc == 5)
        return load_tls(argv[2], strtoul(argv[3], NULL, 10), strcmp(argv[4], "resume") == 0);
    fputs("usage: load upstream PORT [SETS] [hang] | load keys USERS [FROM] | load tls PORT COUNT full|resume |\n"
          "       load run PORT PUBLIC-URL KEYS CONNECTIONS SECONDS [WORD]... |\n"
          "       load rounds PORT PUBLIC-URL KEYS CONNECTIONS ROUNDS [WORD]...\n", stderr);
    return 2;
}
