/*
 * A KMS of the older kind, for the demo and the tests: the unsigned protocol on all resources, one thread, libevent.
 */
#include <errno.h>
#include <event2/bufferevent_ssl.h>
#include <event2/event.h>
#include <event2/http.h>
#include <getopt.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "answer.h"
#include "keys_issue.h"

static const char USAGE[] =
    "usage: legacy_kms [OPTION]...\n"
    "  --listen ADDRESS:PORT  where (127.0.0.1:0: any free port); printed once it listens\n"
    "  --kms-uri URI          who it is (kms.example.org)\n"
    "  --user-sets N          KmsKeySets in a KmsKeyProv (1)\n"
    "  --delay MS             answers so much later\n"
    "  --fail MODE            every answer is broken: error-403, error-500, plain-text, wrong-user, extra-element,\n"
    "                         key-in-comment, dtd, truncated, oversized, redirect, empty, silent, reset, bad-length,\n"
    "                         kms-error; a key of another user: wrong-rsk, wrong-ssk, wrong-pvt, wrong-uid; another\n"
    "                         KeyPeriodNo: wrong-period; keys of an old period: old-period; another KmsUri in the\n"
    "                         KmsKeySet: wrong-kms; a revoked KMS certificate: revoked\n"
    "  --log FILE             appends a JSON line a request\n"
    "  --tls CERT KEY         speaks TLS\n";

struct options {
    char *address;
    int port;
    SSL_CTX *tls;
};

static void on_signal(evutil_socket_t sig, short what, void *base)
{
    (void)sig;
    (void)what;
    event_base_loopbreak(base);
}

static struct bufferevent *tls_connection(struct event_base *base, void *ctx)
{
    SSL *ssl = SSL_new(ctx);
    return ssl ? bufferevent_openssl_socket_new(base, -1, ssl, BUFFEREVENT_SSL_ACCEPTING, BEV_OPT_CLOSE_ON_FREE) : NULL;
}

static bool number(const char *text, unsigned long max, unsigned *out)
{
    char *end;
    errno = 0;
    const unsigned long v = strtoul(text, &end, 10);
    *out = (unsigned)v;
    return *text >= '0' && *text <= '9' && !*end && !errno && v <= max;
}

static bool split_address(char *text, struct options *o)
{
    char *colon = strrchr(text, ':');
    unsigned port = 0;
    if (!colon || !number(colon + 1, 65535, &port))
        return false;
    *colon = 0;
    o->address = text;
    o->port = (int)port;
    return true;
}

static SSL_CTX *tls_setup(const char *certificate, const char *key)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    if (ctx && SSL_CTX_use_certificate_chain_file(ctx, certificate) == 1 &&
        SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) == 1 && SSL_CTX_check_private_key(ctx) == 1)
        return ctx;
    SSL_CTX_free(ctx);
    return NULL;
}

/* 0: go on; else the exit code + 1 */
static int parse_options(int argc, char **argv, struct options *o, struct answers *a)
{
    static const struct option LONG[] = {
        {"listen", required_argument, NULL, 'l'}, {"kms-uri", required_argument, NULL, 'k'},
        {"user-sets", required_argument, NULL, 'n'}, {"delay", required_argument, NULL, 'd'},
        {"fail", required_argument, NULL, 'f'}, {"log", required_argument, NULL, 'o'},
        {"tls", required_argument, NULL, 't'}, {"help", no_argument, NULL, 'h'}, {0}};
    int c;
    while ((c = getopt_long(argc, argv, "", LONG, NULL)) != -1) {
        bool ok = true;
        switch (c) {
        case 'l': ok = split_address(optarg, o); break;
        case 'k': a->style.kms_uri = optarg; break;
        case 'n': ok = number(optarg, 10000, &a->style.user_sets); break;
        case 'd': ok = number(optarg, 3600000, &a->delay_ms); break;
        case 'f': ok = fault_parse(optarg, &a->style.fault); break;
        case 'o': ok = (a->log = fopen(optarg, "a")) != NULL; break;
        case 't':
            ok = optind < argc && !o->tls && (o->tls = tls_setup(optarg, argv[optind]));
            optind++;
            break;
        case 'h': fputs(USAGE, stdout); return 1;
        default: fputs(USAGE, stderr); return 3;
        }
        if (!ok) {
            fprintf(stderr, "legacy_kms: %s: cannot be used\n%s", optarg, USAGE);
            return 3;
        }
    }
    if (optind != argc)
        fputs(USAGE, stderr);
    return optind == argc ? 0 : 3;
}

/* Prints where it listens; false when the system does not know. */
static bool announce(struct evhttp_bound_socket *bound, const struct options *o)
{
    struct sockaddr_storage sa = {0};
    socklen_t n = sizeof sa;
    if (getsockname(evhttp_bound_socket_get_fd(bound), (struct sockaddr *)&sa, &n) != 0)
        return false;
    const int port = ntohs(sa.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&sa)->sin6_port
                                                    : ((struct sockaddr_in *)&sa)->sin_port);
    printf("legacy_kms: listening on %s://%s:%d\n", o->tls ? "https" : "http", o->address, port);
    return fflush(stdout) == 0;
}

static int serve(struct event_base *base, struct evhttp *http, const struct options *o, struct answers *a)
{
    if (o->tls)
        evhttp_set_bevcb(http, tls_connection, o->tls);
    /* a gateway is to be seen with whatever it sends */
    evhttp_set_allowed_methods(http, EVHTTP_REQ_GET | EVHTTP_REQ_POST | EVHTTP_REQ_PUT | EVHTTP_REQ_DELETE);
    evhttp_set_max_body_size(http, 1 << 20);
    evhttp_set_gencb(http, answer, a);
    struct evhttp_bound_socket *bound = evhttp_bind_socket_with_handle(http, o->address, (ev_uint16_t)o->port);
    if (!bound) {
        fprintf(stderr, "legacy_kms: %s:%d: %s\n", o->address, o->port, strerror(errno));
        return 1;
    }
    struct event *term = evsignal_new(base, SIGTERM, on_signal, base),
        *intr = evsignal_new(base, SIGINT, on_signal, base);
    int code = 1;
    if (term && intr && event_add(term, NULL) == 0 && event_add(intr, NULL) == 0 && announce(bound, o))
        code = event_base_dispatch(base) < 0;
    if (term)
        event_free(term);
    if (intr)
        event_free(intr);
    return code;
}

int main(int argc, char **argv)
{
    char standard[] = "127.0.0.1:0";
    struct options o = {0};
    struct answers a = {.style = {.kms_uri = "kms.example.org", .user_sets = 1}};
    if (!split_address(standard, &o))
        return 1;
    int code = parse_options(argc, argv, &o, &a);
    if (code)
        return code - 1;
    signal(SIGPIPE, SIG_IGN);
    struct event_base *base = event_base_new();
    struct evhttp *http = base ? evhttp_new(base) : NULL;
    a.base = base;
    code = 1;
    if (http && keys_startup(a.style.kms_uri))
        code = serve(base, http, &o, &a);
    else
        fputs("legacy_kms: cannot start: a library failed\n", stderr);
    answers_end(&a);
    if (http)
        evhttp_free(http);
    if (base)
        event_base_free(base);
    keys_shutdown();
    SSL_CTX_free(o.tls);
    if (a.log)
        fclose(a.log);
    libevent_global_shutdown();
    return code;
}
