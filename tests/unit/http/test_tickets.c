/*
 * Sessions that are resumed, over memory alone: a listener's context as the gateway makes it, and a client that brings
 * back what it was given. Each refusal has its positive twin.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "http/tickets.h"
#include "http/tls.h"

static char folder[64];

struct identity {
    X509 *certificate;
    EVP_PKEY *key;
};

static const char *path(const char *name)
{
    static char room[4][128];
    static unsigned at;
    char *p = room[at++ % 4];
    snprintf(p, sizeof room[0], "%s/%s", folder, name);
    return p;
}

/* issuer NULL: an authority that signs itself. */
static struct identity issue(const char *name, const struct identity *issuer, long seconds)
{
    static long serial;
    struct identity i = {X509_new(), EVP_EC_gen("P-256")};
    X509_set_version(i.certificate, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(i.certificate), ++serial);
    X509_gmtime_adj(X509_getm_notBefore(i.certificate), -60);
    X509_gmtime_adj(X509_getm_notAfter(i.certificate), seconds);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(i.certificate), "CN", MBSTRING_ASC, (const uint8_t *)name, -1, -1,
                               0);
    X509_set_issuer_name(i.certificate, X509_get_subject_name(issuer ? issuer->certificate : i.certificate));
    X509_set_pubkey(i.certificate, i.key);
    if (!issuer) {
        X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, NULL, NID_basic_constraints, "critical,CA:TRUE");
        X509_add_ext(i.certificate, e, -1);
        X509_EXTENSION_free(e);
    }
    assert_true(X509_sign(i.certificate, issuer ? issuer->key : i.key, EVP_sha256()) > 0);
    return i;
}

static void identity_free(struct identity *i)
{
    X509_free(i->certificate);
    EVP_PKEY_free(i->key);
}

static void put(const char *name, const struct identity *i, bool key)
{
    FILE *f = fopen(path(name), "w");
    assert_non_null(f);
    if (key)
        PEM_write_PrivateKey(f, i->key, NULL, NULL, 0, NULL, NULL);
    else
        PEM_write_X509(f, i->certificate);
    fclose(f);
}

static struct identity authority, other_authority, server, mine, theirs, brief;
static struct tickets *tickets;

static int set_up(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/kmsgate-tickets-XXXXXX");
    assert_non_null(mkdtemp(folder));
    authority = issue("ca", NULL, 864000);
    other_authority = issue("ca2", NULL, 864000);
    server = issue("server", &authority, 864000);
    mine = issue("mine", &authority, 864000);
    theirs = issue("theirs", &other_authority, 864000);
    brief = issue("brief", &authority, 1800);
    put("ca.pem", &authority, false);
    put("ca2.pem", &other_authority, false);
    put("server.pem", &server, false);
    put("server.key", &server, true);
    tickets = tickets_new(NULL);
    assert_non_null(tickets);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    struct identity *all[] = {&authority, &other_authority, &server, &mine, &theirs, &brief};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        identity_free(all[i]);
    static const char *const files[] = {"ca.pem", "ca2.pem", "server.pem", "server.key"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        unlink(path(files[i]));
    rmdir(folder);
    tickets_free(tickets);
    return 0;
}

static SSL_CTX *listener(const char *address, const char *ca, enum client_auth auth, struct tickets *t)
{
    char why[TLS_WHY], a[64], c[128], p[128], k[128];
    snprintf(a, sizeof a, "%s", address);
    snprintf(c, sizeof c, "%s", ca ? path(ca) : "");
    snprintf(p, sizeof p, "%s", path("server.pem"));
    snprintf(k, sizeof k, "%s", path("server.key"));
    const struct listen_config l = {
        .address = a, .certificate = p, .key = k, .client_ca = ca ? c : NULL, .client_auth = auth};
    SSL_CTX *ctx = tls_context(&l, t, why);
    if (!ctx)
        fail_msg("%s", why);
    return ctx;
}

static SSL_CTX *client(int version, const struct identity *as)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_min_proto_version(ctx, version);
    SSL_CTX_set_max_proto_version(ctx, version);
    if (as) {
        SSL_CTX_use_certificate(ctx, as->certificate);
        SSL_CTX_use_PrivateKey(ctx, as->key);
    }
    return ctx;
}

struct outcome {
    bool done, resumed, certified; /* certified: the server holds the client's certificate */
    long timeout;                  /* of the session, as the server sees it */
    SSL_SESSION *session;          /* what the client may bring back */
};

static int keep_session(SSL *ssl, SSL_SESSION *session)
{
    struct outcome *o = SSL_get_app_data(ssl);
    SSL_SESSION_free(o->session);
    o->session = session;
    return 1;
}

/* A whole handshake, a byte each way, and a proper end. */
static struct outcome shake(SSL_CTX *at, int version, const struct identity *as, SSL_SESSION *bring)
{
    struct outcome o = {0};
    SSL_CTX *from = client(version, as);
    SSL_CTX_set_session_cache_mode(from, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(from, keep_session);
    SSL *s = SSL_new(at), *c = SSL_new(from);
    BIO *up = BIO_new(BIO_s_mem()), *down = BIO_new(BIO_s_mem());
    BIO_up_ref(up);
    BIO_up_ref(down);
    SSL_set_bio(s, up, down);
    SSL_set_bio(c, down, up);
    SSL_set_accept_state(s);
    SSL_set_connect_state(c);
    SSL_set_app_data(c, &o);
    if (bring)
        SSL_set_session(c, bring);
    char byte = 'x';
    bool told = false, back = false;
    for (int i = 0; i < 20 && !back; i++) {
        ERR_clear_error();
        if (!told && SSL_do_handshake(c) == 1)
            told = SSL_write(c, &byte, 1) == 1;
        if (SSL_read(s, &byte, 1) == 1)
            SSL_write(s, &byte, 1);
        back = told && SSL_read(c, &byte, 1) == 1;
    }
    o.done = back;
    o.resumed = back && SSL_session_reused(s);
    o.certified = back && as && SSL_get0_peer_certificate(s) &&
                  X509_cmp(SSL_get0_peer_certificate(s), as->certificate) == 0;
    o.timeout = back ? SSL_SESSION_get_timeout(SSL_get_session(s)) : 0;
    if (back && version == TLS1_2_VERSION) { /* whose renewed ticket is told to nobody */
        SSL_SESSION_free(o.session);
        o.session = SSL_get1_session(c);
    }
    ERR_clear_error();
    SSL_set_shutdown(c, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    SSL_free(c);
    SSL_free(s);
    SSL_CTX_free(from);
    return o;
}

static const int VERSIONS[] = {TLS1_2_VERSION, TLS1_3_VERSION};

/* Made at `first` by `as`, brought to `second` by the same client: what becomes of it there. */
static struct outcome bring_to(SSL_CTX *first, SSL_CTX *second, int version, const struct identity *as)
{
    struct outcome made = shake(first, version, as, NULL);
    assert_true(made.done && !made.resumed);
    assert_non_null(made.session);
    struct outcome again = shake(second, version, as, made.session);
    SSL_SESSION_free(made.session);
    SSL_SESSION_free(again.session);
    return again;
}

static void test_resumed(void **state)
{
    (void)state;
    SSL_CTX *plain = listener("a:1", NULL, CLIENT_AUTH_NONE, tickets);
    SSL_CTX *sure = listener("a:2", "ca.pem", CLIENT_AUTH_REQUIRED, tickets);
    SSL_CTX *maybe = listener("a:3", "ca.pem", CLIENT_AUTH_OPTIONAL, tickets);
    for (size_t i = 0; i < 2; i++) {
        struct outcome o = bring_to(plain, plain, VERSIONS[i], NULL);
        assert_true(o.done && o.resumed);
        assert_in_range(o.timeout, TICKETS_SECONDS - 5, TICKETS_SECONDS);
        o = bring_to(sure, sure, VERSIONS[i], &mine);
        assert_true(o.done && o.resumed && o.certified); /* it counts as the client that it was made with */
        o = bring_to(maybe, maybe, VERSIONS[i], &mine);
        assert_true(o.done && o.resumed && o.certified);
        o = bring_to(maybe, maybe, VERSIONS[i], NULL);
        assert_true(o.done && o.resumed && !o.certified);
    }
    SSL_CTX_free(plain);
    SSL_CTX_free(sure);
    SSL_CTX_free(maybe);
}

static void test_without_tickets(void **state)
{
    (void)state;
    SSL_CTX *plain = listener("a:1", NULL, CLIENT_AUTH_NONE, NULL);
    for (size_t i = 0; i < 2; i++) {
        struct outcome made = shake(plain, VERSIONS[i], NULL, NULL);
        assert_true(made.done);
        struct outcome again = shake(plain, VERSIONS[i], NULL, made.session);
        assert_true(again.done && !again.resumed);
        SSL_SESSION_free(made.session);
        SSL_SESSION_free(again.session);
    }
    SSL_CTX_free(plain);
}

/* Nobody gets in by a session that was made where nothing, or less, was asked for. */
static void test_bound_to_where_it_was_made(void **state)
{
    (void)state;
    const struct {
        const char *address, *ca;
        enum client_auth auth;
    } FROM[] = {{"a:1", NULL, CLIENT_AUTH_NONE}, {"a:2", NULL, CLIENT_AUTH_NONE},
                {"a:2", "ca.pem", CLIENT_AUTH_OPTIONAL},
                {"a:1", "ca.pem", CLIENT_AUTH_REQUIRED}, {"a:2", "ca2.pem", CLIENT_AUTH_OPTIONAL}};
    SSL_CTX *sure = listener("a:2", "ca.pem", CLIENT_AUTH_REQUIRED, tickets);
    for (size_t i = 0; i < 2; i++)
        for (size_t k = 0; k < sizeof FROM / sizeof *FROM; k++) {
            SSL_CTX *from = listener(FROM[k].address, FROM[k].ca, FROM[k].auth, tickets);
            struct outcome made = shake(from, VERSIONS[i], FROM[k].auth == CLIENT_AUTH_REQUIRED ? &mine : NULL, NULL);
            assert_true(made.done);
            assert_non_null(made.session);
            struct outcome again = shake(sure, VERSIONS[i], NULL, made.session);
            assert_false(again.done); /* a full handshake, and that lacks the certificate */
            SSL_SESSION_free(again.session);
            again = shake(sure, VERSIONS[i], &mine, made.session);
            assert_true(again.done && !again.resumed && again.certified);
            SSL_SESSION_free(again.session);
            SSL_SESSION_free(made.session);
            SSL_CTX_free(from);
        }
    SSL_CTX_free(sure);
}

/* Other tickets, sealed by the very same keys, but made without a certificate: the last line of defence. */
static void test_certain(void **state)
{
    (void)state;
    const uint8_t binding[TICKETS_BINDING] = {1};
    for (size_t i = 0; i < 2; i++) {
        SSL_CTX *maybe = listener("a:2", "ca.pem", CLIENT_AUTH_OPTIONAL, NULL);
        SSL_CTX *sure = listener("a:2", "ca.pem", CLIENT_AUTH_REQUIRED, NULL);
        assert_true(tickets_use(tickets, maybe, binding, false) && tickets_use(tickets, sure, binding, true));
        struct outcome made = shake(maybe, VERSIONS[i], NULL, NULL), held = shake(maybe, VERSIONS[i], &mine, NULL);
        struct outcome again = shake(sure, VERSIONS[i], NULL, made.session);
        assert_true(made.done && held.done && !again.done);
        SSL_SESSION_free(again.session);
        again = shake(sure, VERSIONS[i], &mine, held.session);
        assert_true(again.done && again.resumed && again.certified);
        SSL_SESSION_free(again.session);
        SSL_SESSION_free(made.session);
        SSL_SESSION_free(held.session);
        SSL_CTX_free(maybe);
        SSL_CTX_free(sure);
    }
}

/* As a reload makes it: the same listener, with what its client_ca holds now. */
static void test_another_client_ca(void **state)
{
    (void)state;
    SSL_CTX *before = listener("a:2", "ca.pem", CLIENT_AUTH_REQUIRED, tickets);
    SSL_CTX *same = listener("a:2", "ca.pem", CLIENT_AUTH_REQUIRED, tickets);
    SSL_CTX *after = listener("a:2", "ca2.pem", CLIENT_AUTH_REQUIRED, tickets);
    for (size_t i = 0; i < 2; i++) {
        struct outcome made = shake(before, VERSIONS[i], &mine, NULL);
        struct outcome kept = shake(same, VERSIONS[i], &mine, made.session);
        assert_true(made.done && kept.done && kept.resumed && kept.certified);
        struct outcome ended = shake(after, VERSIONS[i], &mine, made.session);
        assert_false(ended.done);
        SSL_SESSION_free(made.session);
        SSL_SESSION_free(kept.session);
        SSL_SESSION_free(ended.session);
    }
    SSL_CTX_free(before);
    SSL_CTX_free(same);
    SSL_CTX_free(after);
}

/* Two hours from the full handshake, however often it was renewed meanwhile; and no longer than the certificate. */
static void test_its_end(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct tickets *t = tickets_new(NULL);
        SSL_CTX *sure = listener("a:2", "ca.pem", CLIENT_AUTH_REQUIRED, t);
        struct outcome o = shake(sure, VERSIONS[i], &mine, NULL), next;
        for (int turn = 0; turn < 3; turn++) {
            tickets_shift(t, 2300); /* within the last two hours' keys */
            next = shake(sure, VERSIONS[i], &mine, o.session);
            assert_true(next.done && next.resumed && next.certified);
            assert_non_null(next.session);
            SSL_SESSION_free(o.session);
            o.session = next.session;
        }
        tickets_shift(t, 400); /* 7300 s */
        next = shake(sure, VERSIONS[i], &mine, o.session);
        assert_true(next.done && !next.resumed);
        SSL_SESSION_free(next.session);
        SSL_SESSION_free(o.session);
        o = shake(sure, VERSIONS[i], &brief, NULL);
        assert_true(o.done && o.timeout <= 1800);
        SSL_SESSION_free(o.session);
        SSL_CTX_free(sure);
        tickets_free(t);
    }
}

/* New each hour, the last two open: made five minutes before an hour's end, it opens in the next hour, and not in the
 * one after that, though the session would still be good. */
static void test_the_hours(void **state)
{
    (void)state;
    struct tickets *t = tickets_new(NULL);
    SSL_CTX *plain = listener("a:1", NULL, CLIENT_AUTH_NONE, t);
    tickets_shift(t, 3600 - time_mono_us() / US_PER_S % 3600 - 300);
    struct outcome made = shake(plain, TLS1_3_VERSION, NULL, NULL);
    tickets_shift(t, 3600);
    struct outcome again = shake(plain, TLS1_3_VERSION, NULL, made.session);
    assert_true(again.done && again.resumed);
    SSL_SESSION_free(again.session);
    tickets_shift(t, 600);
    again = shake(plain, TLS1_3_VERSION, NULL, made.session);
    assert_true(again.done && !again.resumed);
    SSL_SESSION_free(again.session);
    SSL_SESSION_free(made.session);
    SSL_CTX_free(plain);
    tickets_free(t);
}

static void test_a_fleet(void **state)
{
    (void)state;
    const struct secret_key secret = {{7}}, foreign = {{8}};
    struct tickets *one = tickets_new(&secret), *two = tickets_new(&secret), *three = tickets_new(&foreign);
    SSL_CTX *a = listener("a:2", "ca.pem", CLIENT_AUTH_REQUIRED, one);
    SSL_CTX *b = listener("a:2", "ca.pem", CLIENT_AUTH_REQUIRED, two);
    SSL_CTX *c = listener("a:2", "ca.pem", CLIENT_AUTH_REQUIRED, three);
    for (size_t i = 0; i < 2; i++) {
        struct outcome o = bring_to(a, b, VERSIONS[i], &mine);
        assert_true(o.done && o.resumed && o.certified);
        o = bring_to(a, c, VERSIONS[i], &mine);
        assert_true(o.done && !o.resumed && o.certified);
    }
    SSL_CTX_free(a);
    SSL_CTX_free(b);
    SSL_CTX_free(c);
    tickets_free(one);
    tickets_free(two);
    tickets_free(three);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resumed),
        cmocka_unit_test(test_without_tickets),
        cmocka_unit_test(test_bound_to_where_it_was_made),
        cmocka_unit_test(test_certain),
        cmocka_unit_test(test_another_client_ca),
        cmocka_unit_test(test_its_end),
        cmocka_unit_test(test_the_hours),
        cmocka_unit_test(test_a_fleet),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
