/*
 * Load for a gateway: fresh signed requests over keep-alive connections, and the upstream behind it.
 *
 *     load upstream PORT                                       an older KMS that always has its answer ready
 *     load keys USERS > keys.jsonl                             key pairs for USERS users
 *     load run PORT PUBLIC-URL keys.jsonl CONNECTIONS SECONDS  a JSON line: requests a second, latency, errors
 *     load rounds PORT PUBLIC-URL keys.jsonl CONNECTIONS ROUNDS
 *                                                              the same in rounds: each waits for all replies
 *
 * `run` signs each request just before it is sent and opens one reply in 64 (signature and keys), when it is signed.
 * One thread each; the latency is from the first byte sent to the last byte received.
 */
#include <arpa/inet.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <netinet/tcp.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "keys/keyfile.h"
#include "keys/keystore.h"
#include "message/kms_request.h"
#include "message/kms_response.h"

#define RESOURCE "/keymanagement/identity/v1/keyprov"
enum { OPENED_EVERY = 64, MAX_SAMPLES = 4 << 20 };

static void need(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "load: %s failed\n", what);
    exit(1);
}

static struct sockaddr_in loopback(const char *port)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons((uint16_t)strtoul(port, NULL, 10))};
    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return sa;
}

/* The length of the whole message at the front of `in`, its head's length in *head; 0: not complete yet. */
static size_t complete(struct evbuffer *in, size_t *head)
{
    struct evbuffer_ptr end = evbuffer_search(in, "\r\n\r\n", 4, NULL);
    if (end.pos < 0)
        return 0;
    *head = (size_t)end.pos + 4;
    char text[8192];
    const ev_ssize_t n = evbuffer_copyout(in, text, *head < sizeof text - 1 ? *head : sizeof text - 1);
    need(n > 0, "evbuffer_copyout");
    text[n] = 0;
    const char *length = strcasestr(text, "\r\ncontent-length:");
    const size_t total = *head + (length ? strtoul(length + 17, NULL, 10) : 0);
    return evbuffer_get_length(in) < total ? 0 : total;
}

/* ---- upstream ---- */

static struct buf key_set; /* the key contents: random, of the right lengths; the same in each reply */

static void hex_element(struct buf *b, const char *name, size_t octets, bool point)
{
    uint8_t raw[257];
    need(octets <= sizeof raw && RAND_bytes(raw, (int)octets) == 1, "RAND_bytes");
    if (point)
        raw[0] = 4;
    buf_printf(b, "<%s>", name);
    buf_hex(b, raw, octets, true);
    buf_printf(b, "</%s>", name);
}

static void answer(struct bufferevent *bev, const char *user, size_t n)
{
    struct buf b = BUF_INIT(1u << 20);
    buf_printf(&b,
               "<KmsResponse xmlns=\"" NS_KMS "\" Version=\"1.0.0\"><UserUri>%.*s</UserUri>"
               "<KmsUri>kms.example.org</KmsUri><Time>2026-01-01T00:00:00Z</Time>"
               "<ClientReqUrl>http://old" RESOURCE "</ClientReqUrl><KmsMessage><KmsKeyProv Version=\"1.0.0\">"
               "<KmsKeySet Version=\"1.1.0\"><KmsUri>kms.example.org</KmsUri><UserUri>%.*s</UserUri><UserID>",
               (int)n, user, (int)n, user);
    for (int i = 0; i < 8; i++)
        buf_z(&b, "0A1B2C3D");
    buf_z(&b, "</UserID><KeyPeriodNo>1514</KeyPeriodNo>");
    buf_str(&b, buf_view(&key_set));
    buf_z(&b, "</KmsKeySet></KmsKeyProv></KmsMessage></KmsResponse>");
    need(!b.failed, "memory");
    evbuffer_add_printf(bufferevent_get_output(bev),
                        "HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: %zu\r\n\r\n", b.n);
    bufferevent_write(bev, b.p, b.n);
    buf_free(&b);
}

static void upstream_read(struct bufferevent *bev, void *arg)
{
    (void)arg;
    struct evbuffer *in = bufferevent_get_input(bev);
    size_t head, n;
    while ((n = complete(in, &head)) != 0) {
        const char *text = (const char *)evbuffer_pullup(in, (ev_ssize_t)n);
        const char *user = memmem(text, n, "<UserUri>", 9), *end = user
            ? memchr(user + 9, '<', n - (size_t)(user + 9 - text)) : NULL;
        need(end, "finding UserUri");
        answer(bev, user + 9, (size_t)(end - user - 9));
        evbuffer_drain(in, n);
    }
}

static void upstream_event(struct bufferevent *bev, short what, void *arg)
{
    (void)arg;
    if (what & (BEV_EVENT_EOF | BEV_EVENT_ERROR))
        bufferevent_free(bev);
}

static void upstream_accept(struct evconnlistener *l, evutil_socket_t fd, struct sockaddr *sa, int n, void *base)
{
    (void)l, (void)sa, (void)n;
    struct bufferevent *bev = bufferevent_socket_new(base, fd, BEV_OPT_CLOSE_ON_FREE);
    need(bev, "bufferevent_socket_new");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    bufferevent_setcb(bev, upstream_read, NULL, upstream_event, NULL);
    bufferevent_enable(bev, EV_READ | EV_WRITE);
}

static int upstream(const char *port)
{
    struct sockaddr_in sa = loopback(port);
    struct event_base *base = event_base_new();
    key_set = BUF_INIT(1u << 20);
    hex_element(&key_set, "UserDecryptKey", 257, true);
    hex_element(&key_set, "UserSigningKeySSK", 32, false);
    hex_element(&key_set, "UserPubTokenPVT", 65, true);
    need(evconnlistener_new_bind(base, upstream_accept, base, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_REUSEABLE, 512,
                                 (struct sockaddr *)&sa, sizeof sa) != NULL, "bind");
    return event_base_dispatch(base);
}

/* ---- keys ---- */

static int keys(const char *count)
{
    const unsigned long n = strtoul(count, NULL, 10);
    for (unsigned long i = 0; i < n; i++)
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

/* ---- run ---- */

struct pair {
    char user[64], ink_id[64], trk_id[64];
    struct secret_key ink, trk;
};
struct client {
    struct run *run;
    struct bufferevent *bev;
    struct pair *pair; /* of the request under way */
    int64_t began;
};
struct run {
    struct event_base *base;
    struct sockaddr_in to;
    struct client *clients;
    size_t client_count, open, answered; /* the last: in this round */
    long rounds;                         /* that are left; without them it is the clock that ends */
    const char *url;
    struct pair *pairs;
    size_t pair_count, next;
    uint64_t serial, done, errors, opened, open_failed;
    int64_t end;
    uint32_t *us;
    size_t samples;
};

static void send_one(struct client *c)
{
    struct run *r = c->run;
    char device[32], time[TIME_TEXT];
    struct buf text = BUF_INIT(1u << 16), signed_text = BUF_INIT(1u << 16);
    c->pair = &r->pairs[r->next++ % r->pair_count];
    snprintf(device, sizeof device, "d%llx", (unsigned long long)r->serial++);
    time_format(time_now_us(), false, time);
    const struct kms_request q = {.id = STR("xmldoc"), .version = STR("1.1.0"), .user_uri = str_z(c->pair->user),
                                  .kms_uri = STR("kms.example.org"), .time = str_z(time), .client_id = STR("load"),
                                  .device_id = str_z(device), .client_req_url = str_z(r->url),
                                  .trk_id = str_z(c->pair->trk_id), .signature_id = str_z(c->pair->ink_id)};
    kms_request_write(&q, &text);
    need(!text.failed && xmlsig_sign(buf_view(&text), str_z(c->pair->ink_id), &c->pair->ink, &signed_text),
         "xmlsig_sign");
    c->began = time_mono_us();
    evbuffer_add_printf(bufferevent_get_output(c->bev),
                        "POST " RESOURCE " HTTP/1.1\r\nHost: kms.example.org\r\nContent-Type: application/xml\r\n"
                        "Content-Length: %zu\r\n\r\n", signed_text.n);
    bufferevent_write(c->bev, signed_text.p, signed_text.n);
    buf_free(&text);
    buf_free(&signed_text);
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

/* The last one of all starts the next round. */
static void round_goes_on(struct run *r, size_t *count)
{
    if (++*count < r->client_count)
        return;
    *count = 0;
    if (--r->rounds == 0) {
        event_base_loopbreak(r->base);
        return;
    }
    for (size_t i = 0; i < r->client_count; i++)
        send_one(&r->clients[i]);
}

static void run_read(struct bufferevent *bev, void *arg)
{
    struct client *c = arg;
    struct run *r = c->run;
    struct evbuffer *in = bufferevent_get_input(bev);
    size_t head;
    const size_t n = complete(in, &head);
    if (!n)
        return;
    const char *text = (const char *)evbuffer_pullup(in, (ev_ssize_t)n);
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
    evbuffer_drain(in, n);
    if (r->rounds)
        round_goes_on(r, &r->answered);
    else if (time_mono_us() < r->end)
        send_one(c);
    else
        event_base_loopbreak(r->base);
}

static void run_event(struct bufferevent *bev, short what, void *arg)
{
    (void)bev;
    struct client *c = arg;
    need(!(what & (BEV_EVENT_EOF | BEV_EVENT_ERROR)), "a connection (closed by the other side)");
    if (!(what & BEV_EVENT_CONNECTED))
        return;
    if (c->run->rounds)
        round_goes_on(c->run, &c->run->open);
    else
        send_one(c);
}

static void take_key(struct run *r, const struct key_entry *entry)
{
    struct pair *last = r->pair_count ? &r->pairs[r->pair_count - 1] : NULL;
    if (!last || !str_eq_z(entry->user, last->user)) {
        need((r->pairs = realloc(r->pairs, (r->pair_count + 1) * sizeof *r->pairs)) != NULL, "memory");
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

static int run(char **argv, bool in_rounds)
{
    struct run r = {.base = event_base_new(), .to = loopback(argv[0]), .url = argv[1]};
    const long connections = strtol(argv[3], NULL, 10), seconds = strtol(argv[4], NULL, 10);
    struct keyfile file;
    struct faults faults = {0};
    need(connections > 0 && seconds > 0 && xml_startup() && r.base, "starting");
    r.serial = (uint64_t)time_now_us() << 8; /* the next run in the same second must not repeat a request */
    if (!keyfile_read(argv[2], &file, &faults)) {
        faults_print(&faults, stderr);
        return 1;
    }
    for (size_t i = 0; i < file.n; i++)
        take_key(&r, &file.v[i]);
    keyfile_free(&file);
    struct client *clients = calloc((size_t)connections, sizeof *clients);
    r.clients = clients;
    r.client_count = (size_t)connections;
    r.rounds = in_rounds ? seconds + 1 : 0; /* that all are connected is one, too */
    need(r.pair_count && clients && (r.us = malloc(MAX_SAMPLES * sizeof *r.us)), "memory");
    const int64_t began = time_mono_us();
    r.end = began + seconds * US_PER_S;
    for (long i = 0; i < connections; i++) {
        struct client *c = &clients[i];
        *c = (struct client){.run = &r, .bev = bufferevent_socket_new(r.base, -1, BEV_OPT_CLOSE_ON_FREE)};
        need(c->bev, "bufferevent_socket_new");
        bufferevent_setcb(c->bev, run_read, NULL, run_event, c);
        bufferevent_enable(c->bev, EV_READ | EV_WRITE);
        need(bufferevent_socket_connect(c->bev, (struct sockaddr *)&r.to, sizeof r.to) == 0, "connect");
    }
    event_base_dispatch(r.base);
    report(&r, (double)(time_mono_us() - began) / 1e6);
    return r.open_failed ? 1 : 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "upstream") == 0)
        return upstream(argv[2]);
    if (argc == 3 && strcmp(argv[1], "keys") == 0)
        return keys(argv[2]);
    if (argc == 7 && (strcmp(argv[1], "run") == 0 || strcmp(argv[1], "rounds") == 0))
        return run(argv + 2, strcmp(argv[1], "rounds") == 0);
    fputs("usage: load upstream PORT | load keys USERS | load run PORT PUBLIC-URL KEYS CONNECTIONS SECONDS |\n"
          "       load rounds PORT PUBLIC-URL KEYS CONNECTIONS ROUNDS\n", stderr);
    return 2;
}
