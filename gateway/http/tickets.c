#include "http/tickets.h"

#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/crypto.h"
#include "base/timestamp.h"

enum { HOUR = 3600, NAME = 16, OPEN = 2 };

struct tickets {
    pthread_mutex_t lock;
    bool shared;             /* the hours' secrets are derived from `fleet` */
    struct secret_key fleet;
    struct {
        int64_t hour;
        struct secret_key secret;
    } hours[OPEN];           /* the newest first */
    EVP_CIPHER *cipher;      /* found once */
    int64_t shift_us;
};

/* What a context has of its own; freed with it. */
struct bound {
    struct tickets *tickets;
    uint8_t binding[TICKETS_BINDING];
    bool certain;
};

/* What a ticket is sealed with. */
struct ticket_keys {
    uint8_t name[32], cipher[32], mac[32]; /* of name the first NAME octets */
};

/* In the ticket, beside the session. */
struct origin {
    int64_t made_us; /* when the client proved itself, by the wall clock */
};

static pthread_once_t index_once = PTHREAD_ONCE_INIT;
static int context_index = -1;

static void bound_free(void *parent, void *p, CRYPTO_EX_DATA *ad, int index, long argl, void *argp)
{
    (void)parent;
    (void)ad;
    (void)index;
    (void)argl;
    (void)argp;
    free(p);
}

static void make_index(void)
{
    context_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, bound_free);
}

static int64_t tickets_now(const struct tickets *t)
{
    return (t->shared ? time_now_us() : time_mono_us()) + t->shift_us;
}

static bool hour_secret(const struct tickets *t, int64_t hour, struct secret_key *out)
{
    char text[32];
    const int n = snprintf(text, sizeof text, "hour %lld", (long long)hour);
    return t->shared ? crypto_hmac_sha256(t->fleet.b, text, (size_t)n, out->b) : RAND_bytes(out->b, sizeof out->b) == 1;
}

/* The hour's secret in place; what is older than the one before is wiped. Under the lock. */
static bool tickets_turn(struct tickets *t)
{
    const int64_t hour = tickets_now(t) / (HOUR * US_PER_S);
    if (t->hours[0].hour == hour)
        return true;
    struct secret_key fresh SECRET_CLEANUP = {{0}}, before SECRET_CLEANUP = {{0}};
    const bool follows = t->hours[0].hour == hour - 1;
    if (!hour_secret(t, hour, &fresh) || (t->shared && !hour_secret(t, hour - 1, &before)))
        return false;
    if (follows)
        before = t->hours[0].secret;
    t->hours[1].hour = t->shared || follows ? hour - 1 : -1;
    t->hours[1].secret = before;
    t->hours[0].hour = hour;
    t->hours[0].secret = fresh;
    return true;
}

static bool tickets_derive(const struct secret_key *secret, const struct bound *b, struct ticket_keys *out)
{
    uint8_t label[1 + TICKETS_BINDING];
    memcpy(label + 1, b->binding, TICKETS_BINDING);
    label[0] = 'n';
    bool ok = crypto_hmac_sha256(secret->b, label, sizeof label, out->name);
    label[0] = 'c';
    ok = ok && crypto_hmac_sha256(secret->b, label, sizeof label, out->cipher);
    label[0] = 'm';
    return ok && crypto_hmac_sha256(secret->b, label, sizeof label, out->mac);
}

/* The keys by which a ticket of this name was sealed: 0 none, 1 the hour's, 2 those of the hour before. */
static int find_keys(const struct bound *b, const uint8_t name[NAME], struct ticket_keys *out)
{
    struct tickets *t = b->tickets;
    int found = 0;
    pthread_mutex_lock(&t->lock);
    bool ok = tickets_turn(t);
    for (int i = 0; ok && !found && i < OPEN; i++) {
        if (t->hours[i].hour < 0)
            continue;
        ok = tickets_derive(&t->hours[i].secret, b, out);
        if (ok && (!name || secret_equal(out->name, name, NAME)))
            found = i + 1;
    }
    pthread_mutex_unlock(&t->lock);
    return found;
}

static const struct bound *bound_of(SSL *ssl)
{
    return SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), context_index);
}

/* AES-256-CBC and HMAC-SHA256 over it, as RFC 5077 recommends and OpenSSL expects. */
static int on_keys(SSL *ssl, unsigned char name[NAME], unsigned char *iv, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac,
                   int sealing)
{
    struct ticket_keys keys;
    const struct bound *b = bound_of(ssl);
    const int found = find_keys(b, sealing ? NULL : name, &keys);
    int result = 0;
    if (found) {
        OSSL_PARAM params[] = {OSSL_PARAM_octet_string(OSSL_MAC_PARAM_KEY, keys.mac, sizeof keys.mac),
                               OSSL_PARAM_utf8_string(OSSL_MAC_PARAM_DIGEST, (char[]){"SHA256"}, 6), OSSL_PARAM_END};
        if (sealing)
            memcpy(name, keys.name, NAME);
        const bool ok = (!sealing || RAND_bytes(iv, EVP_CIPHER_get_iv_length(b->tickets->cipher)) == 1) &&
                        EVP_CipherInit_ex2(cipher, b->tickets->cipher, keys.cipher, iv, sealing, NULL) == 1 &&
                        EVP_MAC_CTX_set_params(mac, params) == 1;
        const bool renew = found > 1 || SSL_version(ssl) == TLS1_3_VERSION; /* there each one is used but once */
        result = !ok ? 0 : !sealing && renew ? 2 : 1;
    }
    secret_wipe(&keys, sizeof keys);
    return result; /* 0: no ticket is given, or this one does not open: a full handshake follows */
}

/* How long the client's certificate is still good; INT64_MAX: there is none. */
static int64_t certificate_seconds(SSL_SESSION *session)
{
    int days = 0, seconds = 0;
    const X509 *x = SSL_SESSION_get0_peer(session);
    if (!x)
        return INT64_MAX;
    if (ASN1_TIME_diff(&days, &seconds, NULL, X509_get0_notAfter(x)) != 1)
        return 0;
    return days * INT64_C(86400) + seconds;
}

static bool origin_of(SSL_SESSION *session, struct origin *out)
{
    void *data = NULL;
    size_t n = 0;
    if (SSL_SESSION_get0_ticket_appdata(session, &data, &n) != 1 || n != sizeof *out)
        return false;
    memcpy(out, data, sizeof *out);
    return true;
}

/* Before a ticket is made. A session that was itself resumed keeps its origin, so that renewing does not prolong it. */
static int on_make(SSL *ssl, void *arg)
{
    const struct tickets *t = arg;
    SSL_SESSION *session = SSL_get_session(ssl);
    const int64_t now = time_now_us() + t->shift_us;
    struct origin origin;
    if (!SSL_session_reused(ssl) || !origin_of(session, &origin))
        origin.made_us = now;
    int64_t left = TICKETS_SECONDS - (now - origin.made_us) / US_PER_S;
    const int64_t certificate = certificate_seconds(session);
    left = certificate < left ? certificate : left;
    SSL_SESSION_set_timeout(session, left > 1 ? (long)left : 1);
    return SSL_SESSION_set1_ticket_appdata(session, &origin, sizeof origin);
}

/* A ticket has opened: whether its session is still good. */
static SSL_TICKET_RETURN on_open(SSL *ssl, SSL_SESSION *session, const unsigned char *name, size_t name_length,
                                 SSL_TICKET_STATUS status, void *arg)
{
    (void)name;
    (void)name_length;
    const struct tickets *t = arg;
    struct origin origin;
    if (status == SSL_TICKET_EMPTY || status == SSL_TICKET_NO_DECRYPT)
        return SSL_TICKET_RETURN_IGNORE_RENEW;
    if (status != SSL_TICKET_SUCCESS && status != SSL_TICKET_SUCCESS_RENEW)
        return SSL_TICKET_RETURN_ABORT;
    const int64_t age_us = origin_of(session, &origin) ? time_now_us() + t->shift_us - origin.made_us : -1;
    const bool old = age_us < 0 || age_us >= TICKETS_SECONDS * US_PER_S || certificate_seconds(session) <= 0;
    if (old || (bound_of(ssl)->certain && !SSL_SESSION_get0_peer(session)))
        return SSL_TICKET_RETURN_IGNORE_RENEW;
    return status == SSL_TICKET_SUCCESS ? SSL_TICKET_RETURN_USE : SSL_TICKET_RETURN_USE_RENEW;
}

struct tickets *tickets_new(const struct secret_key *fleet)
{
    pthread_once(&index_once, make_index);
    struct tickets *t = context_index >= 0 ? secret_alloc(sizeof *t) : NULL;
    if (!t)
        return NULL;
    t->cipher = EVP_CIPHER_fetch(NULL, "AES-256-CBC", NULL);
    if (!t->cipher) {
        ERR_clear_error();
        secret_free(t, sizeof *t);
        return NULL;
    }
    pthread_mutex_init(&t->lock, NULL);
    t->shared = fleet != NULL;
    if (fleet)
        t->fleet = *fleet;
    t->hours[0].hour = t->hours[1].hour = -1;
    return t;
}

void tickets_free(struct tickets *t)
{
    if (!t)
        return;
    pthread_mutex_destroy(&t->lock);
    EVP_CIPHER_free(t->cipher);
    secret_free(t, sizeof *t);
}

void tickets_shift(struct tickets *t, int64_t seconds)
{
    t->shift_us += seconds * US_PER_S;
}

bool tickets_use(struct tickets *t, SSL_CTX *ctx, const uint8_t binding[TICKETS_BINDING], bool certain)
{
    struct bound *b = malloc(sizeof *b);
    if (!b)
        return false;
    *b = (struct bound){.tickets = t, .certain = certain};
    memcpy(b->binding, binding, TICKETS_BINDING);
    if (SSL_CTX_set_ex_data(ctx, context_index, b) != 1) {
        free(b);
        return false;
    }
    SSL_CTX_clear_options(ctx, SSL_OP_NO_TICKET);
    SSL_CTX_set_timeout(ctx, TICKETS_SECONDS);
    return SSL_CTX_set_session_id_context(ctx, binding, TICKETS_BINDING) == 1 && SSL_CTX_set_num_tickets(ctx, 1) == 1 &&
           SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, on_keys) == 1 &&
           SSL_CTX_set_session_ticket_cb(ctx, on_make, on_open, t) == 1;
}
