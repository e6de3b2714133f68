#include <errno.h>
#include <getopt.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/config.h"
#include "base/log.h"
#include "cmd/cmd.h"
#include "gate/rules.h"
#include "keys/keystore.h"

static const char USAGE[] =
    "usage: kmsgate check [--strict] [--print] --config GATEWAY.yaml\n"
    "       kmsgate check [--strict] [--print] RULES.yaml\n"
    "\n"
    "Validates the configuration, the files that it names and its rules, or a rules file alone. Prints every fault as\n"
    "FILE:LINE:COLUMN: message, then the lints: what is right but deserves a look.\n"
    "\n"
    "  --config FILE  the gateway's configuration\n"
    "  --strict       lints count as faults\n"
    "  --print        print what is in effect and where from; secrets are not shown\n"
    "\n"
    "Exit: 0 no fault, 1 faults (or lints with --strict), 2 wrong usage.\n";

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
    struct secret_key key SECRET_CLEANUP = {{0}};
    const bool master = config_read_master_key(&c->master_key, &key, faults);
    if (access(c->keys, F_OK) != 0)
        return;
    if (access(c->keys, R_OK | W_OK) != 0)
        faults_add(faults, c->keys, 0, 0, "the keys' database cannot be read and written: %s", strerror(errno));
    else if (master)
        keystore_close(keystore_open(c->keys, &key, false, faults));
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

int cmd_check(int argc, char **argv)
{
    enum { CONFIG = 1, STRICT, PRINT, HELP };
    static const struct option OPTIONS[] = {{"config", required_argument, NULL, CONFIG},
                                            {"strict", no_argument, NULL, STRICT},
                                            {"print", no_argument, NULL, PRINT},
                                            {"help", no_argument, NULL, HELP},
                                            {NULL, 0, NULL, 0}};
    const char *config = NULL;
    bool strict = false, print = false;
    int o;
    opterr = 0;
    optind = 1;
    while ((o = getopt_long(argc, argv, "", OPTIONS, NULL)) != -1) {
        switch (o) {
        case CONFIG:
            config = optarg;
            break;
        case STRICT:
            strict = true;
            break;
        case PRINT:
            print = true;
            break;
        case HELP:
            fputs(USAGE, stdout);
            return EXIT_DONE;
        default:
            complain("check: wrong option `%s`; `kmsgate check --help` explains", argv[optind - 1]);
            return EXIT_USAGE;
        }
    }
    if (argc - optind != (config ? 0 : 1)) {
        complain("check: expected --config GATEWAY.yaml or one RULES.yaml; `kmsgate check --help` explains");
        return EXIT_USAGE;
    }
    return check(config, config ? NULL : argv[optind], strict, print);
}
