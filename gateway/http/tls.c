#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <time.h>

#include "base/log.h"
#include "base/metrics.h"
#include "http/server.h"

static bool client_certificates(SSL_CTX *ctx, const struct listen_config *l)
{
    if (!l->client_ca || l->client_auth == CLIENT_AUTH_NONE)
        return true;
    STACK_OF(X509_NAME) *names = SSL_load_client_CA_file(l->client_ca);
    if (!names || SSL_CTX_load_verify_file(ctx, l->client_ca) != 1) {
        sk_X509_NAME_pop_free(names, X509_NAME_free);
        return false;
    }
    SSL_CTX_set_client_CA_list(ctx, names);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER |
                       (l->client_auth == CLIENT_AUTH_REQUIRED ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0), NULL);
    return true;
}

/* Sessions are not resumed: a resumed one would not show the client's certificate again. */
SSL_CTX *tls_context(const struct listen_config *l)
{
    const char *file = l->certificate;
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    bool ok = ctx && SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) == 1 &&
              SSL_CTX_set_cipher_list(ctx, "ECDHE+AESGCM:ECDHE+CHACHA20") == 1 && SSL_CTX_set_num_tickets(ctx, 0) == 1;
    if (ok) {
        SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_NO_TICKET |
                            SSL_OP_CIPHER_SERVER_PREFERENCE);
        SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
        SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
        ok = SSL_CTX_use_certificate_chain_file(ctx, file) == 1;
    }
    if (ok) {
        file = l->key;
        ok = SSL_CTX_use_PrivateKey_file(ctx, file, SSL_FILETYPE_PEM) == 1 && SSL_CTX_check_private_key(ctx) == 1;
    }
    if (ok) {
        file = l->client_ca;
        ok = client_certificates(ctx, l);
    }
    if (ok)
        return ctx;
    const unsigned long code = ERR_peek_error();
    const char *why = code ? ERR_reason_error_string(code) : NULL;
    log_error("certificate", file, "not usable for listener %s: %s", l->address, why ? why : "cannot be read");
    ERR_clear_error();
    SSL_CTX_free(ctx);
    return NULL;
}

static void count_file(const char *path)
{
    FILE *f = path ? fopen(path, "re") : NULL;
    X509 *cert = f ? PEM_read_X509(f, NULL, NULL, NULL) : NULL;
    int days = 0, seconds = 0;
    if (cert && ASN1_TIME_diff(&days, &seconds, NULL, X509_get0_notAfter(cert))) {
        struct buf label BUF_CLEANUP = BUF_INIT(8192);
        metric_label(&label, "file", str_z(path));
        if (!label.failed)
            metric_set(METRIC_CERTIFICATE_EXPIRY, label.p, days * 86400.0 + seconds);
    }
    X509_free(cert);
    if (f)
        fclose(f);
    ERR_clear_error();
}

void tls_count_expiry(const struct config *config)
{
    for (size_t i = 0; i < config->listen_count; i++)
        count_file(config->listen[i].certificate);
    count_file(config->upstream.certificate);
}
