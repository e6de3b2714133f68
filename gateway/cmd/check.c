#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/config.h"
#include "base/log.h"
#include "cmd/cmd.h"
#include "cmd/options.h"
#include "gate/rules.h"
#include "keys/keystore.h"

static X509 *certificate(const char *path, struct faults *faults)
{
    FILE *f = fopen(path, "re");
    if (!f) {
        faults_add(faults, path, 0, 0, "the certificate cannot be read: %s", strerror(errno));
        return NULL;
    }
    X509 *x = PEM_read_X509(f, NULL, NULL, NULL);
    if (!x)
        faults_add(faults, path, 0, 0, "holds no certificate in PEM form");
    else if (X509_cmp_current_time(X509_get0_notAfter(x)) < 0)
        faults_lint(faults, path, 0, 0, "certificate-expired: this certificate has expired");
    fclose(f);
    return x;
}

static int no_passphrase(char *buf, int size, int writing, void *arg)
{
    (void)buf;
    (void)size;
    (void)writing;
    (void)arg;
    return -1; /* nobody is there to be asked */
}

static EVP_PKEY *private_key(const char *path, struct faults *faults)
{
    FILE *f = fopen(path, "re");
    if (!f) {
        faults_add(faults, path, 0, 0, "the private key cannot be read: %s", strerror(errno));
        return NULL;
    }
    EVP_PKEY *key = PEM_read_PrivateKey(f, NULL, no_passphrase, NULL);
    if (!key)
        faults_add(faults, path, 0, 0, "holds no private key in PEM form without a passphrase");
    fclose(f);
    return key;
}

static void check_pair(const char *certificate_path, const char *key_path, struct faults *faults)
{
    X509 *x = certificate_path ? certificate(certificate_path, faults) : NULL;
    EVP_PKEY *key = key_path ? private_key(key_path, faults) : NULL;
    if (x && key && X509_check_private_key(x, key) != 1)
        faults_add(faults, key_path, 0, 0, "is not the private key of %s", certificate_path);
    X509_free(x);
    EVP_PKEY_free(key);
    ERR_clear_error();
}

/* A database that is not there yet is none that is at fault. What `serve` would refuse is found here: another master
 * key, damage, a tampered row. */
static void check_keys(const struct config *c, struct faults *faults)
{
    struct master_keys masters MASTERS_CLEANUP = {.n = 0};
    const bool master = config_read_master_keys(c, &masters, faults);
    if (access(c->keys, F_OK) != 0)
        return;
    if (access(c->keys, R_OK | W_OK) != 0)
        faults_add(faults, c->keys, 0, 0, "the keys' database cannot be read and written: %s", strerror(errno));
    else if (master)
        keystore_close(keystore_open_under(c->keys, masters.v, masters.n, false, faults));
}

/* What the configuration names must be there and readable by the user who checks. */
static void check_files(const struct config *c, struct faults *faults)
{
    for (size_t i = 0; i < c->listen_count; i++) {
        const struct listen_config *l = c->listen + i;
        check_pair(l->certificate, l->key, faults);
        if (l->client_ca)
            check_pair(l->client_ca, NULL, faults);
    }
    check_pair(c->upstream.certificate, c->upstream.key, faults);
    if (c->upstream.ca)
        check_pair(c->upstream.ca, NULL, faults);
    check_keys(c, faults);
    if (c->admin_token.kind != SECRET_NONE) {
        char *token = config_read_token(&c->admin_token, faults);
        if (token)
            secret_wipe(token, strlen(token));
        free(token);
    }
}

static bool print_rules(const struct rules *r)
{
    struct buf out BUF_CLEANUP = BUF_INIT(64 << 20);
    rules_describe(r, &out);
    if (out.failed || !out.p) {
        complain("out of memory");
        return false;
    }
    fwrite(out.p, 1, out.n, stdout);
    return true;
}

static int check(const char *config_path, const char *rules_path, bool strict, bool print)
{
    struct faults faults = {0};
    struct rules *r = NULL;
    struct config *c = config_path ? config_load(config_path, &faults) : NULL;
    if (c) {
        check_files(c, &faults);
        rules_path = c->rules;
    }
    if (rules_path)
        r = rules_load(rules_path, &faults);
    if (print && c)
        fputs(c->text, stdout);
    bool ok = !print || !r || print_rules(r);
    const size_t lints = faults.n - faults.errors;
    faults_print(&faults, stderr);
    ok = ok && !faults.errors && !(strict && lints);
    if (!print)
        printf("%s: %zu fault%s, %zu lint%s\n", config_path ? config_path : rules_path, faults.errors,
               faults.errors == 1 ? "" : "s", lints, lints == 1 ? "" : "s");
    rules_unref(r);
    config_free(c);
    faults_free(&faults);
    return ok && fflush(stdout) == 0 ? EXIT_DONE : EXIT_NEGATIVE;
}

struct check_options {
    const char *config, *rules;
    bool strict, print;
};

static int check_run(const void *given)
{
    const struct check_options *q = given;
    if (q->config && q->rules)
        return usage_error(&COMMAND_CHECK, "found both --config and `%s`, expected one of them", q->rules);
    return check(q->rules ? NULL : q->config ? q->config : config_default(), q->rules, q->strict, q->print);
}

static const struct command_option CHECK_OPTIONS[] = {
    {.name = "config", .letter = 'c', .argument = "FILE", .type = VALUE_FILE,
     .at = offsetof(struct check_options, config),
     .help = "The configuration of the gateway. Without it and without a RULES.yaml: `$KMSGATE_CONFIG`, else "
             "`" CONFIG_DEFAULT "`."},
    {.name = "strict", .at = offsetof(struct check_options, strict), .help = "Count lints as faults."},
    {.name = "print", .at = offsetof(struct check_options, print),
     .help = "Print every setting in effect and where it comes from. Secrets are masked."}};
static const struct command_operand CHECK_OPERANDS[] = {
    {.name = "RULES.yaml", .type = VALUE_FILE, .optional = true, .at = offsetof(struct check_options, rules),
     .help = "Check this rules file alone."}};
const struct command COMMAND_CHECK = {
    .name = "check", .does = "validate configuration and rules",
    .about = "Validates a configuration, the files that it names and its rules, or a rules file alone. All faults are "
             "printed as FILE:LINE:COLUMN: message, followed by the lints: settings that are valid but deserve a look.",
    .exits = "0 no faults; 1 faults, or lints with `--strict`",
    .examples = "kmsgate check --config gateway.yaml\nkmsgate check --strict rules.yaml\n",
    COMMAND_TAKES(CHECK_OPTIONS, CHECK_OPERANDS, struct check_options), .run = check_run};
