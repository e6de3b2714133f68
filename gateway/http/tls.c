#include "http/tls.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "http/tickets.h"

enum { PEM_MAX = 4 << 20 };

/* A key under a pass phrase would make OpenSSL ask for it on the terminal. */
static int no_pass_phrase(char *out, int size, int writing, void *arg)
{
    (void)out;
    (void)size;
    (void)writing;
    (void)arg;
    return -1;
}

static bool read_pem(const char *path, struct buf *out, char why[TLS_WHY])
{
    struct stat st;
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 || fstat(fd, &st) != 0) {
        snprintf(why, TLS_WHY, "%s: cannot be read: %s", path, strerror(errno));
    } else if (!S_ISREG(st.st_mode)) {
        snprintf(why, TLS_WHY, "%s: not a regular file", path);
    } else {
        char *room = buf_reserve(out, (size_t)st.st_size + 1);
        const ssize_t n = room ? read(fd, room, (size_t)st.st_size + 1) : -1;
        if (n >= 0)
            out->n += (size_t)n;
        if (!room && st.st_size < PEM_MAX)
            snprintf(why, TLS_WHY, "%s: out of memory", path);
        else if (!room)
            snprintf(why, TLS_WHY, "%s: is larger than %d bytes: no PEM file of a certificate or key", path, PEM_MAX);
        else if (n < 0)
            snprintf(why, TLS_WHY, "%s: cannot be read: %s", path, strerror(errno));
        else if (n == 0)
            snprintf(why, TLS_WHY, "%s: is empty; expected PEM text", path);
        else {
            close(fd);
            return true;
        }
    }
    if (fd >= 0)
        close(fd);
    return false;
}

/* Whether what OpenSSL failed in was for want of memory: without any it may not even say so. Forgets its errors. */
static bool lacked_memory(void)
{
    bool any = false, lacked = false;
    for (unsigned long code; (code = ERR_get_error()) != 0; any = true)
        lacked |= ERR_GET_REASON(code) == ERR_R_MALLOC_FAILURE;
    return lacked || !any;
}

/* The certificates of a PEM text, the first one first; NULL when there is none or one cannot be read. */
static STACK_OF(X509) *read_certificates(const char *path, const struct buf *pem, char why[TLS_WHY])
{
    BIO *in = BIO_new_mem_buf(pem->p, (int)pem->n);
    STACK_OF(X509) *all = sk_X509_new_null();
    X509 *one = NULL;
    while (in && all && (one = PEM_read_bio_X509(in, NULL, no_pass_phrase, NULL)) && sk_X509_push(all, one) > 0)
        one = NULL;
    X509_free(one);
    BIO_free(in);
    const unsigned long code = ERR_peek_last_error();
    const bool at_end = ERR_GET_LIB(code) == ERR_LIB_PEM && ERR_GET_REASON(code) == PEM_R_NO_START_LINE;
    const char *reason = code ? ERR_reason_error_string(code) : NULL;
    if (all && sk_X509_num(all) > 0 && at_end) {
        ERR_clear_error();
        return all;
    }
    if (lacked_memory())
        reason = "out of memory";
    snprintf(why, TLS_WHY, "%s: holds no certificate that can be read (%s); expected PEM text with BEGIN CERTIFICATE",
             path, reason ? reason : "OpenSSL does not say why");
    sk_X509_pop_free(all, X509_free);
    return NULL;
}

static EVP_PKEY *read_key(const char *path, char why[TLS_WHY])
{
    struct buf pem BUF_CLEANUP = BUF_INIT_SECRET(PEM_MAX);
    if (!read_pem(path, &pem, why))
        return NULL;
    BIO *in = BIO_new_mem_buf(pem.p, (int)pem.n);
    EVP_PKEY *key = in ? PEM_read_bio_PrivateKey(in, NULL, no_pass_phrase, NULL) : NULL;
    BIO_free(in);
    if (!key && lacked_memory())
        snprintf(why, TLS_WHY, "%s: out of memory", path);
    else if (!key)
        snprintf(why, TLS_WHY, "%s: holds no private key that can be read; expected PEM text without a pass phrase",
                 path);
    ERR_clear_error();
    return key;
}

/* The certificate, what stands below it in the file as its chain, and the key that belongs to it. */
static bool use_certificate(SSL_CTX *ctx, const char *certificate, const char *key_file, char why[TLS_WHY])
{
    struct buf pem BUF_CLEANUP = BUF_INIT(PEM_MAX);
    STACK_OF(X509) *all = read_pem(certificate, &pem, why) ? read_certificates(certificate, &pem, why) : NULL;
    EVP_PKEY *key = all ? read_key(key_file, why) : NULL;
    bool ok = key != NULL;
    if (ok && X509_check_private_key(sk_X509_value(all, 0), key) != 1) {
        if (lacked_memory())
            snprintf(why, TLS_WHY, "%s: out of memory", key_file);
        else
            snprintf(why, TLS_WHY, "%s: is not the key of the certificate in %s", key_file, certificate);
        ok = false;
    }
    if (ok && (SSL_CTX_use_certificate(ctx, sk_X509_value(all, 0)) != 1 || SSL_CTX_use_PrivateKey(ctx, key) != 1)) {
        const char *reason = ERR_reason_error_string(ERR_peek_error());
        if (lacked_memory())
            reason = "out of memory";
        snprintf(why, TLS_WHY, "%s: is refused%s%s", certificate, reason ? ": " : "", reason ? reason : "");
        ok = false;
    }
    for (int i = 1; ok && i < sk_X509_num(all); i++)
        ok = SSL_CTX_add1_chain_cert(ctx, sk_X509_value(all, i)) == 1;
    EVP_PKEY_free(key);
    sk_X509_pop_free(all, X509_free);
    ERR_clear_error();
    return ok;
}

/* `pem` becomes the content of client_ca. */
static bool client_certificates(SSL_CTX *ctx, const struct listen_config *l, struct buf *pem, char why[TLS_WHY])
{
    if (!l->client_ca || l->client_auth == CLIENT_AUTH_NONE)
        return true;
    STACK_OF(X509) *all = read_pem(l->client_ca, pem, why) ? read_certificates(l->client_ca, pem, why) : NULL;
    bool ok = all != NULL;
    for (int i = 0; ok && i < sk_X509_num(all); i++)
        ok = X509_STORE_add_cert(SSL_CTX_get_cert_store(ctx), sk_X509_value(all, i)) == 1 &&
             SSL_CTX_add_client_CA(ctx, sk_X509_value(all, i)) == 1;
    sk_X509_pop_free(all, X509_free);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER |
                       (l->client_auth == CLIENT_AUTH_REQUIRED ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0), NULL);
    ERR_clear_error();
    return ok;
}

/* What a session holds for: another address, client_auth or client_ca makes another binding. */
static bool use_tickets(SSL_CTX *ctx, const struct listen_config *l, const struct buf *client_ca,
                        struct tickets *tickets)
{
    uint8_t binding[TICKETS_BINDING];
    struct buf text BUF_CLEANUP = BUF_INIT(PEM_MAX + 4096);
    buf_printf(&text, "%s\n%d\n", l->address, (int)l->client_auth);
    if (client_ca->n)
        buf_str(&text, buf_view(client_ca));
    _Static_assert(TICKETS_BINDING == SHA256_DIGEST_LENGTH, "a binding is a SHA-256");
    return !text.failed && EVP_Digest(text.p, text.n, binding, NULL, EVP_sha256(), NULL) == 1 &&
           tickets_use(tickets, ctx, binding, l->client_auth == CLIENT_AUTH_REQUIRED);
}

SSL_CTX *tls_context(const struct listen_config *l, struct tickets *tickets, char why[TLS_WHY])
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    struct buf client_ca BUF_CLEANUP = BUF_INIT(PEM_MAX);
    snprintf(why, TLS_WHY, "%s: out of memory", l->certificate);
    if (ctx && SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) == 1 &&
        SSL_CTX_set_cipher_list(ctx, "ECDHE+AESGCM:ECDHE+CHACHA20") == 1 && SSL_CTX_set_num_tickets(ctx, 0) == 1) {
        SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_NO_TICKET |
                            SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_CLEANSE_PLAINTEXT);
        SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
        SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                         SSL_MODE_RELEASE_BUFFERS);
        SSL_CTX_set_read_ahead(ctx, 1); /* as much as there is, not header and body of each record by itself */
        if (use_certificate(ctx, l->certificate, l->key, why) && client_certificates(ctx, l, &client_ca, why)) {
            if (!tickets || use_tickets(ctx, l, &client_ca, tickets))
                return ctx;
            snprintf(why, TLS_WHY, "%s: out of memory", l->certificate);
        }
    }
    ERR_clear_error();
    SSL_CTX_free(ctx);
    return NULL;
}

static bool take_only(SSL_CTX *ctx, const struct listen_config *l, char why[TLS_WHY])
{
    struct buf pem BUF_CLEANUP = BUF_INIT(PEM_MAX);
    STACK_OF(X509) *all = read_pem(l->certificate, &pem, why) ? read_certificates(l->certificate, &pem, why) : NULL;
    X509_STORE *store = all ? X509_STORE_new() : NULL;
    const bool ok = store && X509_STORE_add_cert(store, sk_X509_value(all, 0)) == 1;
    if (ok) {
        SSL_CTX_set_cert_store(ctx, store);
        X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(ctx), X509_V_FLAG_PARTIAL_CHAIN);
        SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    } else {
        X509_STORE_free(store);
    }
    sk_X509_pop_free(all, X509_free);
    ERR_clear_error();
    return ok;
}

bool tls_client_of(SSL_CTX *ctx, const struct listen_config *l, bool only, char why[TLS_WHY])
{
    snprintf(why, TLS_WHY, "%s: out of memory", l->certificate);
    return SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) == 1 && (!only || take_only(ctx, l, why)) &&
           (l->client_auth != CLIENT_AUTH_REQUIRED || use_certificate(ctx, l->certificate, l->key, why));
}

const char *tls_failure(unsigned long code)
{
    static const struct {
        int reason;
        const char *why;
    } FAILURES[] = {
        {SSL_R_HTTP_REQUEST, "plain_http"}, {SSL_R_HTTPS_PROXY_REQUEST, "plain_http"},
        {SSL_R_WRONG_VERSION_NUMBER, "not_tls"}, {SSL_R_UNKNOWN_PROTOCOL, "not_tls"},
        {SSL_R_UNSUPPORTED_PROTOCOL, "version"}, {SSL_R_NO_PROTOCOLS_AVAILABLE, "version"},
        {SSL_R_TLSV1_ALERT_PROTOCOL_VERSION, "version"}, {SSL_R_NO_SHARED_CIPHER, "cipher"},
        {SSL_R_NO_SHARED_SIGNATURE_ALGORITHMS, "cipher"}, {SSL_R_NO_SUITABLE_KEY_SHARE, "cipher"},
        {SSL_R_NO_SUITABLE_GROUPS, "cipher"}, {SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE, "no_client_certificate"},
        {SSL_R_CERTIFICATE_VERIFY_FAILED, "client_certificate"}, {SSL_R_TLSV1_ALERT_UNKNOWN_CA, "refused_by_client"},
        {SSL_R_SSLV3_ALERT_BAD_CERTIFICATE, "refused_by_client"},
        {SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN, "refused_by_client"},
        {SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED, "refused_by_client"},
        {SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE, "refused_by_client"}, {SSL_R_UNEXPECTED_EOF_WHILE_READING, "closed"}};
    if (!code || ERR_GET_LIB(code) != ERR_LIB_SSL)
        return code && !ERR_SYSTEM_ERROR(code) ? "other" : "closed";
    for (size_t i = 0; i < sizeof FAILURES / sizeof *FAILURES; i++)
        if (FAILURES[i].reason == ERR_GET_REASON(code))
            return FAILURES[i].why;
    return "other";
}

static int64_t expiry_of(const X509 *x, int64_t before_us)
{
    int days = 0, seconds = 0;
    if (!x || ASN1_TIME_diff(&days, &seconds, NULL, X509_get0_notAfter(x)) != 1)
        return before_us;
    const int64_t us = time_now_us() + (days * INT64_C(86400) + seconds) * US_PER_S;
    return before_us == TIME_NONE || us < before_us ? us : before_us;
}

int64_t tls_context_expiry(SSL_CTX *ctx)
{
    STACK_OF(X509) *chain = NULL;
    int64_t us = ctx ? expiry_of(SSL_CTX_get0_certificate(ctx), TIME_NONE) : TIME_NONE;
    if (ctx && SSL_CTX_get0_chain_certs(ctx, &chain) == 1)
        for (int i = 0; i < sk_X509_num(chain); i++)
            us = expiry_of(sk_X509_value(chain, i), us);
    return us;
}

/* Whom the other side's certificate has to be from: `ca` alone where there is one, else whom the system trusts. */
static bool trust(SSL_CTX *ctx, const char *ca, char why[TLS_WHY])
{
    if (!ca)
        return SSL_CTX_set_default_verify_paths(ctx) == 1;
    struct buf pem BUF_CLEANUP = BUF_INIT(PEM_MAX);
    STACK_OF(X509) *all = read_pem(ca, &pem, why) ? read_certificates(ca, &pem, why) : NULL;
    bool ok = all != NULL;
    for (int i = 0; ok && i < sk_X509_num(all); i++)
        ok = X509_STORE_add_cert(SSL_CTX_get_cert_store(ctx), sk_X509_value(all, i)) == 1;
    sk_X509_pop_free(all, X509_free);
    return ok;
}

/* An intermediate or the server's own certificate may stand as `ca`, too. */
SSL_CTX *tls_client_context(const char *ca, char why[TLS_WHY])
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    snprintf(why, TLS_WHY, "out of memory");
    bool ok = ctx && SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) == 1;
    if (ok) {
        SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
        X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(ctx), X509_V_FLAG_PARTIAL_CHAIN);
        SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CLEANSE_PLAINTEXT);
        SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                         SSL_MODE_RELEASE_BUFFERS);
        ok = trust(ctx, ca, why);
    }
    ERR_clear_error();
    if (ok)
        return ctx;
    SSL_CTX_free(ctx);
    return NULL;
}

static SSL_CTX *upstream_context(const struct upstream_config *c, char why[TLS_WHY])
{
    static const unsigned char HTTP11[] = "\x08http/1.1";
    SSL_CTX *ctx = tls_client_context(c->ca, why);
    const bool ok = ctx && SSL_CTX_set_alpn_protos(ctx, HTTP11, sizeof HTTP11 - 1) == 0 &&
                    (!c->certificate || !c->key || use_certificate(ctx, c->certificate, c->key, why));
    ERR_clear_error();
    if (ok)
        return ctx;
    SSL_CTX_free(ctx);
    return NULL;
}

struct upstream_tls *upstream_tls_load(const struct upstream_config *c, char why[TLS_WHY])
{
    struct upstream_tls *t = calloc(1, sizeof *t);
    snprintf(why, TLS_WHY, "out of memory");
    if (!t)
        return NULL;
    *t = (struct upstream_tls){.expiry_us = TIME_NONE, .refs = 1};
    if (!str_starts(str_z(c->url), STR("https:")))
        return t;
    t->ctx = upstream_context(c, why);
    if (t->ctx) {
        t->expiry_us = tls_context_expiry(t->ctx);
        return t;
    }
    upstream_tls_unref(t);
    return NULL;
}

struct upstream_tls *upstream_tls_ref(struct upstream_tls *t)
{
    if (t)
        __atomic_add_fetch(&t->refs, 1, __ATOMIC_RELAXED);
    return t;
}

void upstream_tls_unref(struct upstream_tls *t)
{
    if (!t || __atomic_sub_fetch(&t->refs, 1, __ATOMIC_ACQ_REL) != 0)
        return;
    SSL_CTX_free(t->ctx);
    free(t);
}
