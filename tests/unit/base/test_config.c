#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/config.h"
#include "base/timestamp.h"

extern char **environ;

#define REST \
    "public_url: https://kms.example.org\n" \
    "upstream: { url: \"http://127.0.0.1:9000\" }\n" \
    "rules: rules.yaml\n" \
    "keys: sqlite:keys.db\n" \
    "master_key: file:master.key\n"
#define LISTEN "listen: [{ address: \"127.0.0.1:8080\" }]\n"
#define SMALLEST LISTEN REST

static char folder[] = "/tmp/kmsgate-config-XXXXXX";
static char *path_of(const char *name, char out[200])
{
    snprintf(out, 200, "%s/%s", folder, name);
    return out;
}

static const char *write_file(const char *name, const char *text, mode_t mode)
{
    static char path[200];
    path_of(name, path);
    unlink(path);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    chmod(path, mode);
    return path;
}

static struct config *load(const char *text, struct faults *f)
{
    *f = (struct faults){0};
    return config_load(write_file("gateway.yaml", text, 0600), f);
}

static bool has_fault(const struct faults *f, const char *part)
{
    for (size_t i = 0; i < f->n; i++)
        if (strstr(f->v[i].text, part))
            return true;
    return false;
}

static void assert_good(struct config *c, struct faults *f)
{
    if (!c || f->n)
        fail_msg("%s", f->n ? f->v[0].text : "no config");
    faults_free(f);
}

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    static const char *const NAMES[] = {"gateway.yaml", "value", "master.key", "token"};
    char path[200];
    (void)state;
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
        unlink(path_of(NAMES[i], path));
    return rmdir(folder);
}

static void smallest(void **state)
{
    (void)state;
    struct faults f;
    char path[200];
    struct config *c = load(SMALLEST, &f);
    assert_good(c, &f);
    assert_int_equal(c->listen_count, 1);
    assert_string_equal(c->listen[0].address, "127.0.0.1:8080");
    assert_null(c->listen[0].certificate);
    assert_int_equal(((struct sockaddr_in *)&c->listen[0].sa)->sin_port, htons(8080));
    assert_string_equal(c->admin.address, "127.0.0.1:9090");
    assert_int_equal(c->admin_token.kind, SECRET_NONE);
    assert_int_equal(c->public_url.n, 1);
    assert_string_equal(c->public_url.v[0], "https://kms.example.org");
    assert_string_equal(c->upstream.url, "http://127.0.0.1:9000");
    assert_int_equal(c->upstream.timeout_us, 5 * US_PER_S);
    assert_int_equal(c->upstream.max_reply, 1 << 20);
    assert_string_equal(c->rules, path_of("rules.yaml", path));
    assert_string_equal(c->keys, path_of("keys.db", path));
    assert_int_equal(c->master_key.kind, SECRET_FILE);
    assert_string_equal(c->master_key.name, path_of("master.key", path));
    assert_string_equal(c->decisions, "stdout");
    assert_true(c->workers >= 1);
    assert_int_equal(c->limits.body, 64 << 10);
    assert_int_equal(c->limits.target, 8 << 10);
    assert_int_equal(c->limits.header, 8 << 10);
    assert_int_equal(c->limits.headers, 16 << 10);
    assert_int_equal(c->limits.header_count, 64);
    assert_int_equal(c->limits.connections, 10000);
    assert_int_equal(c->limits.in_flight, 1024);
    assert_int_equal(c->limits.replay_entries, 1048576);
    assert_int_equal(c->limits.memory, 64 << 20);
    assert_int_equal(c->limits.header_timeout_us, 5 * US_PER_S);
    assert_int_equal(c->limits.body_timeout_us, 5 * US_PER_S);
    assert_int_equal(c->limits.idle_timeout_us, 60 * US_PER_S);
    assert_int_equal(c->log_level, LOG_LEVEL_INFO);
    assert_int_equal(c->log_format, LOG_FORMAT_TEXT);
    assert_int_equal(c->drain_delay_us, 0);
    assert_int_equal(c->drain_timeout_us, 10 * US_PER_S);
    assert_true(c->sandbox);
    config_free(c);
    config_free(NULL);
}

static void everything(void **state)
{
    (void)state;
    struct faults f;
    char path[200];
    struct config *c = load(
        "listen:\n"
        "  - address: \"[::1]:8443\"\n"
        "    tls: { certificate: c.pem, key: /k.pem, client_ca: ca.pem }\n"
        "  - address: unix:run.sock\n"
        "    trusted_proxies: [127.0.0.1/32, 10.0.0.0/8]\n"
        "  - { address: \"0.0.0.0:443\", tls: { certificate: c, key: k, client_ca: a, client_auth: optional } }\n"
        "admin: 0.0.0.0:9999\n"
        "admin_token: env:TOKEN\n"
        "public_url: [\"https://kms.example.org/\", \"http://[::1]:8080/base/\"]\n"
        "upstream: { url: \"https://up.example:1/pre/\", timeout: 2s, connections: 3, max_reply: 64KiB,\n"
        "            idle_timeout: 4s, lifetime: 1m, breaker: { failures: 7, probe: 200ms },\n"
        "            tls: { ca: ca.pem, certificate: c.pem, key: k.pem } }\n"
        "rules: /etc/rules.yaml\nkeys: sqlite:/var/k.db\nmaster_key: env:MASTER\nreplay: memory\ndecisions: d.jsonl\n"
        "workers: 3\n"
        "limits: { body: 1KiB, target: 1KiB, header: 1KiB, headers: 2KiB, header_count: 10, connections: 20, "
        "in_flight: 5,\n"
        "          header_timeout: 1s, body_timeout: 2s, idle_timeout: 3s, replay_entries: 100 }\n"
        "log: { level: debug, format: json }\ndrain_delay: 1s\ndrain_timeout: 2s\nsandbox: off\n",
        &f);
    assert_good(c, &f);
    assert_int_equal(c->listen_count, 3);
    assert_int_equal(c->listen[0].sa.ss_family, AF_INET6);
    assert_string_equal(c->listen[0].certificate, path_of("c.pem", path));
    assert_string_equal(c->listen[0].key, "/k.pem");
    assert_string_equal(c->listen[0].client_ca, path_of("ca.pem", path));
    assert_int_equal(c->listen[0].client_auth, CLIENT_AUTH_REQUIRED);
    assert_int_equal(c->listen[1].sa.ss_family, AF_UNIX);
    assert_string_equal(((struct sockaddr_un *)&c->listen[1].sa)->sun_path, path_of("run.sock", path));
    assert_int_equal(c->listen[1].trusted_proxy_count, 2);
    assert_int_equal(c->listen[1].trusted_proxies[1].bits, 96 + 8);
    assert_int_equal(c->listen[2].client_auth, CLIENT_AUTH_OPTIONAL);
    assert_int_equal(c->admin_token.kind, SECRET_ENV);
    assert_string_equal(c->admin_token.name, "TOKEN");
    assert_string_equal(c->public_url.v[0], "https://kms.example.org");
    assert_string_equal(c->public_url.v[1], "http://[::1]:8080/base");
    assert_string_equal(c->upstream.url, "https://up.example:1/pre");
    assert_int_equal(c->upstream.connections, 3);
    assert_int_equal(c->upstream.idle_timeout_us, 4 * US_PER_S);
    assert_int_equal(c->upstream.lifetime_us, 60 * US_PER_S);
    assert_int_equal(c->upstream.breaker_failures, 7);
    assert_int_equal(c->upstream.breaker_probe_us, 200000);
    assert_string_equal(c->upstream.ca, path_of("ca.pem", path));
    assert_string_equal(c->rules, "/etc/rules.yaml");
    assert_string_equal(c->keys, "/var/k.db");
    assert_string_equal(c->decisions, path_of("d.jsonl", path));
    assert_int_equal(c->workers, 3);
    assert_int_equal(c->limits.replay_entries, 100);
    assert_int_equal(c->limits.idle_timeout_us, 3 * US_PER_S);
    assert_int_equal(c->log_level, LOG_LEVEL_DEBUG);
    assert_int_equal(c->log_format, LOG_FORMAT_JSON);
    assert_false(c->sandbox);
    config_free(c);
}

/* Lines added to the smallest file: the fault, and the twin without it. */
static void faults_and_twins(void **state)
{
    static const struct {
        const char *bad, *message, *good;
#define SHARED(bad, message, good) \
    {"replay: { secret: file:s, " bad " }\n", message, "replay: { secret: file:s, " good " }\n"}
    } CASES[] = {
        {"upsteam: 1\n", "7:1: unknown key `upsteam`; did you mean `upstream`?", ""},
        {"limits: { boddy: 1KiB }\n", "7:11: unknown key `boddy`; did you mean `body`?", "limits: { body: 1KiB }\n"},
        {"limits: 5\n", "7:9: found `5`, expected a mapping", "limits: {}\n"},
        {"limits: { body: { a: 1 } }\n", "found a mapping, expected a single value", "limits: { body: 64B }\n"},
        {"limits: { body: 64KB }\n", "7:17: found `64KB`, expected a size", "limits: { body: 64KiB }\n"},
        {"limits: { body: 65MiB }\n", "from 64B to 64MiB", "limits: { body: 64MiB }\n"},
        {"limits: { header_count: \"7\" }\n", "7:25: found a text in quotes", "limits: { header_count: 7 }\n"},
        {"limits: { in_flight: 0 }\n", "from 1 to 1000000", "limits: { in_flight: 1 }\n"},
        {"limits: { idle_timeout: 0s }\n", "from 1ms to 1h", "limits: { idle_timeout: 1ms }\n"},
        {"limits: { replay_entries: 15 }\n", "from 16", "limits: { replay_entries: 16 }\n"},
        {"limits: { memory: 1000KiB }\n", "from 1MiB", "limits: { memory: 4GiB }\n"},
        {"workers: 257\n", "from 1 to 256", "workers: 256\n"},
        {"log: { level: inf }\n", "expected one of error, warn, info, debug", "log: { level: info }\n"},
        {"log: { format: xml }\n", "expected one of text, json", "log: { format: json }\n"},
        {"sandbox: maybe\n", "7:10: found `maybe`, expected on or off", "sandbox: off\n"},
        {"sandbox: \"off\"\n", "quotes", "sandbox: false\n"},
        {"drain_delay: 5\n", "7:14: found `5`, expected a duration", "drain_delay: 5s\n"},
        {"replay: disk\n", "expected memory", "replay: memory\n"},
#ifdef KMSGATE_FLEET
        {"replay: redis\n", "expected memory, redis://HOST:PORT", "replay: memory\n"},
        SHARED("url: \"redis://h:0\"", "expected memory, redis://HOST:PORT", "url: \"redis://127.0.0.1:1\""),
        SHARED("url: redis://u@h", "value hidden", "url: rediss://h"),
        SHARED("url: redis://h/1", "expected memory", "url: rediss://h"),
        SHARED("url: \"redis+sentinel://a,,b/n\"", "expected memory",
               "url: \"redis+sentinel://localhost,[::1]:9,127.0.0.1:1/n\""),
        SHARED("url: \"redis+sentinel://a,b\"", "expected memory", "url: redis+sentinel://localhost/n"),
        {"replay: { url: rediss://h }\n", "7:16: a shared replay memory needs `secret`",
         "replay: { url: rediss://h, secret: env:S }\n"},
        SHARED("url: redis://localhost, ca: a.pem", "`ca` is given, but the URL is redis://",
               "url: rediss://h, ca: a.pem"),
        SHARED("url: rediss://h, user: u", "`user` needs `password`", "url: rediss://h, user: u, password: file:p"),
        SHARED("url: rediss://h, timeout: 1ms", "from 10ms to 10s", "url: rediss://h, timeout: 10ms"),
        SHARED("url: rediss://h, clock_difference: 0s", "from 100ms to 1m", "url: rediss://h, clock_difference: 1m"),
        SHARED("url: rediss://h, wait_replica: 1", "did you mean `wait_replicas`", "url: rediss://h, wait_replicas: 0"),
#else
        {"replay: redis://127.0.0.1\n", "expected memory: this kmsgate was built without KMSGATE_FLEET",
         "replay: memory\n"},
#endif
        {"replay: { secret: file:s }\n", "7:19: is for a shared replay memory, and `replay` is", "replay: memory\n"},
        {"decisions: \"\"\n", "expected stdout, none, the path", "decisions: none\n"},
        {"admin: 0.0.0.0:9090\n", "7:8: an admin address other than loopback needs `admin_token`",
         "admin: 0.0.0.0:9090\nadmin_token: file:t\n"},
        {"admin: \"[::]:9090\"\n", "needs `admin_token`", "admin: \"[::1]:9090\"\n"},
        {"admin: 10.1.2.3:9090\n", "needs `admin_token`", "admin: 127.9.9.9:9090\n"},
        {"admin: localhost:9090\n", "expected ADDRESS:PORT", "admin: 127.0.0.1:9091\n"},
        {"admin: 127.0.0.1:8080\n", "a listener's address, too", "admin: 127.0.0.1:8081\n"},
        {"admin: 127.0.0.1:65536\n", "expected ADDRESS:PORT", "admin: 127.0.0.1:65535\n"},
        {"admin: 127.0.0.1:080\n", "expected ADDRESS:PORT", "admin: 127.0.0.1:80\n"},
        {"admin: 127.1:80\n", "expected ADDRESS:PORT", "admin: 127.0.0.1:80\n"},
        {"admin: { address: \"localhost:1\" }\n", "7:19: found `localhost:1`, expected ADDRESS:PORT",
         "admin: { address: \"127.0.0.1:1\" }\n"},
        {"admin: { adress: \"127.0.0.1:1\" }\n",
         "unknown key `adress`; did you mean `address`? Known here: address, tls",
         "admin: { address: \"127.0.0.1:1\" }\n"},
        {"admin: { address: \"0.0.0.0:9090\", tls: { certificate: a, key: b } }\n", "needs `admin_token`",
         "admin: { address: \"127.0.0.1:9090\", tls: { certificate: a, key: b } }\n"},
        {"admin: { tls: { certificate: a } }\n", "7:30: `certificate` and `key` of admin.tls belong together",
         "admin: { tls: { certificate: a, key: b } }\n"},
        {"admin: { tls: { client_ca: a } }\n", "no certificate of its own",
         "admin: { tls: { certificate: a, key: b, client_ca: c } }\n"},
        {"admin: { tls: { certificate: a, key: b, client_auth: optional } }\n", "`client_auth` without `client_ca`",
         "admin: { tls: { certificate: a, key: b, client_ca: c, client_auth: optional } }\n"},
        {"admin: { tls: { certificate: a, key: b, client_ca: c, client_auth: none } }\n",
         "expected one of required, optional",
         "admin: { tls: { certificate: a, key: b, client_ca: c, client_auth: required } }\n"},
        {"admin: [a]\n", "found a list", "admin: 127.0.0.1:9091\n"},
        {"admin_token: secret-token\n", "value hidden (may be secret), expected file:PATH or env:NAME",
         "admin_token: env:T\n"},
        {"admin_token: env:1T\n", "env:NAME", "admin_token: env:T1\n"},
        {"admin_token: [a]\n", "found a list", "admin_token: file:a\n"},
        {"workers: 2\nworkers: 3\n", "8:1: duplicate key `workers`", "workers: 2\n"},
        {"workers: &a 2\n", "anchors", "workers: 2\n"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        char text[4000];
        struct faults f;
        snprintf(text, sizeof text, "%s%s", SMALLEST, CASES[i].bad);
        struct config *c = load(text, &f);
        if (c || !has_fault(&f, CASES[i].message))
            fail_msg("%s: %s", CASES[i].bad, f.n ? f.v[0].text : "no fault");
        assert_false(has_fault(&f, "secret-token"));
        faults_free(&f);
        snprintf(text, sizeof text, "%s%s", SMALLEST, CASES[i].good);
        c = load(text, &f);
        assert_good(c, &f);
        config_free(c);
    }
}

static void listeners(void **state)
{
    static const struct {
        const char *listen, *message; /* NULL: good */
    } CASES[] = {
        {"listen: [{ address: \"127.0.0.1:0\" }]\n", NULL},
        {"listen: [{ address: \"[::]:1\" }, { address: \"0.0.0.0:1\" }]\n", NULL},
        {"listen: []\n", "found 0 listeners"},
        {"listen: 127.0.0.1:1\n", "expected a list"},
        {"listen: [127.0.0.1]\n", "expected a mapping"},
        {"listen: [{ tls: { certificate: c, key: k } }]\n", "the key `address` is missing"},
        {"listen: [{ address: \"127.0.0.1:1\", tls: { certificate: c } }]\n", "the key `key` is missing"},
        {"listen: [{ address: \"127.0.0.1:1\", tls: { certificate: c, key: k, client_auth: optional } }]\n",
         "`client_auth` without `client_ca`"},
        {"listen: [{ address: \"127.0.0.1:1\", tls: { certificate: c, key: k, client_ca: a, client_auth: no } }]\n",
         "expected required or optional"},
        {"listen: [{ address: \"127.0.0.1:1\" }, { address: \"127.0.0.1:1\" }]\n", "duplicate"},
        {"listen: [{ address: \"::1:8080\" }]\n", "expected ADDRESS:PORT"},
        {"listen: [{ address: \"[127.0.0.1]:8080\" }]\n", "expected ADDRESS:PORT"},
        {"listen: [{ address: \"[::1]\" }]\n", "expected ADDRESS:PORT"},
        {"listen: [{ address: \"127.0.0.1:\" }]\n", "expected ADDRESS:PORT"},
        {"listen: [{ address: \"127.0.0.1:http\" }]\n", "expected ADDRESS:PORT"},
        {"listen: [{ address: \"127.0.0.1:-1\" }]\n", "expected ADDRESS:PORT"},
        {"listen: [{ address: \"unix:\" }]\n", "unix:PATH"},
        {"listen: [{ address: \"127.0.0.1:1\", trusted_proxies: [10.0.0.1/8] }]\n", "host bits"},
        {"listen: [{ address: \"127.0.0.1:1\", trusted_proxy: [10.0.0.0/8] }]\n", "did you mean `trusted_proxies`?"},
        {"", "the key `listen` is missing"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        char text[4000];
        struct faults f;
        snprintf(text, sizeof text, "%s%s", CASES[i].listen, REST);
        struct config *c = load(text, &f);
        if (!CASES[i].message)
            assert_good(c, &f);
        else if (c || !has_fault(&f, CASES[i].message))
            fail_msg("%s: %s", CASES[i].listen, f.n ? f.v[0].text : "no fault");
        faults_free(&f);
        config_free(c);
    }
}

static void urls(void **state)
{
    static const struct {
        const char *url;
        bool good;
    } CASES[] = {
        {"http://a", true},
        {"https://a.example:8443", true},
        {"http://[::1]:80/x/y", true},
        {"http://127.0.0.1/", true},
        {"ftp://a", false},
        {"a", false},
        {"http://", false},
        {"http:///x", false},
        {"http://a:0", false},
        {"http://a:65536", false},
        {"http://a:x", false},
        {"http://a:", false},
        {"http://u@a", false},
        {"http://u:letmein@a", false},
        {"http://a/?q", false},
        {"http://a?q", false},
        {"http://a/#f", false},
        {"http://[::1", false},
        {"http://[zz]:1", false},
        {"http://[::1]x", false},
        {"HTTP://a", false},
        {"http://a b", false},
        {"http://a^b", false},
        {"", false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++)
        for (int which = 0; which < 2; which++) {
            char text[4000];
            struct faults f;
            snprintf(text, sizeof text,
                     "%spublic_url: \"%s\"\nupstream: { url: \"%s\" }\nrules: r\nkeys: sqlite:k\n"
                     "master_key: file:m\n",
                     LISTEN, which ? CASES[i].url : "http://a", which ? "http://a" : CASES[i].url);
            struct config *c = load(text, &f);
            if (!c == CASES[i].good)
                fail_msg("%s: %s", CASES[i].url, f.n ? f.v[0].text : "no fault");
            assert_false(has_fault(&f, "letmein"));
            faults_free(&f);
            config_free(c);
        }
}

static void all_faults_in_one_run(void **state)
{
    (void)state;
    struct faults f;
    assert_null(load("listen: []\nupstream: { url: x, timeout: 5 }\nkeys: file:x\nfoo: 1\nsandbox: 7\n", &f));
    static const char *const PARTS[] = {":1:1: the key `public_url` is missing",
                                        ":1:1: the key `rules` is missing",
                                        ":1:1: the key `master_key` is missing",
                                        ":1:9: found 0 listeners",
                                        ":2:18: found `x`",
                                        ":2:30: found `5`",
                                        ":3:7: found `file:x`, expected sqlite:PATH",
                                        ":4:1: unknown key `foo`",
                                        ":5:10: found `7`"};
    for (size_t i = 0; i < sizeof PARTS / sizeof *PARTS; i++)
        assert_true(has_fault(&f, PARTS[i]));
    assert_int_equal(f.errors, sizeof PARTS / sizeof *PARTS);
    faults_free(&f);
}

static void tls_to_the_upstream(void **state)
{
    static const struct {
        const char *upstream, *message;
    } CASES[] = {
        {"{ url: \"https://a\", tls: { ca: x } }", NULL},
        {"{ url: \"https://a\", tls: { certificate: c, key: k } }", NULL},
        {"{ url: \"https://a\", tls: { certificate: c } }", "belong together"},
        {"{ url: \"https://a\", tls: { key: k } }", "belong together"},
        {"{ url: \"http://a\", tls: { ca: x } }", "not an https URL"},
        {"{ url: \"https://a\", tls: { cert: x } }", "did you mean `certificate`?"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        char text[4000];
        struct faults f;
        snprintf(text, sizeof text,
                 "%spublic_url: http://a\nupstream: %s\nrules: r\nkeys: sqlite:k\nmaster_key: file:m\n", LISTEN,
                 CASES[i].upstream);
        struct config *c = load(text, &f);
        if (!CASES[i].message)
            assert_good(c, &f);
        else if (c || !has_fault(&f, CASES[i].message))
            fail_msg("%s: %s", CASES[i].upstream, f.n ? f.v[0].text : "no fault");
        faults_free(&f);
        config_free(c);
    }
}

/* The file's text under an environment of one or two variables. */
static struct config *load_with(const char *one, const char *two, const char *text, struct faults *f)
{
    char *entries[3] = {(char *)(uintptr_t)one, (char *)(uintptr_t)two, NULL};
    char **before = environ;
    environ = entries;
    struct config *c = load(text, f);
    environ = before;
    return c;
}

static void the_environment_wins(void **state)
{
    (void)state;
    struct faults f;
    struct config *c = load_with("KMSGATE_UPSTREAM_URL=https://other:1/", "KMSGATE_LIMITS_BODY=1MiB", SMALLEST, &f);
    assert_good(c, &f);
    assert_string_equal(c->upstream.url, "https://other:1");
    assert_int_equal(c->limits.body, 1 << 20);
    assert_non_null(strstr(c->text, "# KMSGATE_UPSTREAM_URL\n"));
    config_free(c);
    c = load_with("KMSGATE_PUBLIC_URL=http://one", "KMSGATE_RULES=r.yaml", SMALLEST, &f);
    assert_good(c, &f);
    assert_int_equal(c->public_url.n, 1);
    assert_string_equal(c->public_url.v[0], "http://one");
    assert_string_equal(c->rules, "r.yaml"); /* relative to the working directory */
    config_free(c);
    c = load_with("KMSGATE_MASTER_KEY=env:M", "KMSGATE_SANDBOX=off", SMALLEST, &f);
    assert_good(c, &f);
    assert_int_equal(c->master_key.kind, SECRET_ENV);
    assert_false(c->sandbox);
    config_free(c);
    /* what the file lacks may stand here */
    c = load_with("KMSGATE_UPSTREAM_URL=http://up", NULL,
                  LISTEN "public_url: http://a\nrules: r\nkeys: sqlite:k\nmaster_key: file:m\n", &f);
    assert_good(c, &f);
    config_free(c);
    /* others' variables */
    c = load_with("KMSGATE_PORT_8443_TCP=tcp://10.0.0.1:8443", "KMSGATE_LISTEN=0.0.0.0:1", SMALLEST, &f);
    assert_good(c, &f);
    assert_int_equal(c->listen_count, 1);
    config_free(c);
}

static void faults_of_the_environment(void **state)
{
    static const struct {
        const char *one, *two, *message;
    } CASES[] = {
        {"KMSGATE_WORKERS=many", NULL, "KMSGATE_WORKERS: found `many`, expected a number"},
        {"KMSGATE_WORKERS=", NULL, "KMSGATE_WORKERS: found an empty text"},
        {"KMSGATE_MASTER_KEY=0011223344", NULL, "KMSGATE_MASTER_KEY: value hidden (may be secret)"},
        {"KMSGATE_UPSTREAM_URL=http://u:0011223344@a", NULL, "KMSGATE_UPSTREAM_URL: value hidden (may be secret)"},
        {"KMSGATE_ADMIN=0.0.0.0:1", NULL, "KMSGATE_ADMIN: an admin address other than loopback"},
        {"KMSGATE_ADMIN_ADDRESS=0.0.0.0:1", NULL, "KMSGATE_ADMIN_ADDRESS: an admin address other than loopback"},
        {"KMSGATE_ADMIN=127.0.0.1:1", "KMSGATE_ADMIN_ADDRESS=127.0.0.1:2", "is set, and so is KMSGATE_ADMIN_ADDRESS"},
        {"KMSGATE_RULES=a", "KMSGATE_RULES_FILE=/dev/null", "is set, and so is KMSGATE_RULES_FILE"},
        {"KMSGATE_RULES_FILE=/nonexistent/x", NULL, "cannot be read: No such file"},
        {"KMSGATE_WORKERS_FILE=/dev/null", NULL, "KMSGATE_WORKERS_FILE: found an empty text"},
        {"KMSGATE_WORKERS_FILE=/dev/zero", NULL, "larger than 64KiB"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct faults f;
        struct config *c = load_with(CASES[i].one, CASES[i].two, SMALLEST, &f);
        if (c || !has_fault(&f, CASES[i].message))
            fail_msg("%s: %s", CASES[i].one, f.n ? f.v[0].text : "no fault");
        assert_false(has_fault(&f, "0011223344"));
        faults_free(&f);
    }
}

static void values_from_files(void **state)
{
    (void)state;
    struct faults f;
    char entry[300], path[200];
    snprintf(entry, sizeof entry, "KMSGATE_UPSTREAM_URL_FILE=%s", path_of("value", path));
    write_file("value", "http://from-file:1\n", 0644);
    struct config *c = load_with(entry, NULL, SMALLEST, &f);
    assert_good(c, &f);
    assert_string_equal(c->upstream.url, "http://from-file:1");
    assert_non_null(strstr(c->text, "# KMSGATE_UPSTREAM_URL_FILE\n"));
    config_free(c);
    write_file("value", "http://from-file:1\n\n", 0644); /* one line end is cut, not two */
    assert_null(load_with(entry, NULL, SMALLEST, &f));
    faults_free(&f);
    /* a secret's file is the file that holds the secret */
    snprintf(entry, sizeof entry, "KMSGATE_MASTER_KEY_FILE=%s", path);
    write_file("value", "00112233\n", 0600);
    c = load_with(entry, NULL, SMALLEST, &f);
    assert_good(c, &f);
    assert_int_equal(c->master_key.kind, SECRET_FILE);
    assert_string_equal(c->master_key.name, path);
    assert_null(strstr(c->text, "00112233"));
    config_free(c);
    /* ... or that names it */
    write_file("value", "env:MASTER\n", 0600);
    c = load_with(entry, NULL, SMALLEST, &f);
    assert_good(c, &f);
    assert_int_equal(c->master_key.kind, SECRET_ENV);
    config_free(c);
}

/* What systemd's LoadCredential and `podman secret` leave: a folder, a file named like the key. */
static void credentials(void **state)
{
    static const char WITHOUT[] =
        LISTEN "public_url: http://a\nupstream: { url: \"http://b\" }\nrules: r\nkeys: sqlite:k\n";
    (void)state;
    struct faults f;
    char entry[300], relative[300], path[200];
    snprintf(entry, sizeof entry, "CREDENTIALS_DIRECTORY=%s", folder);
    snprintf(relative, sizeof relative, "CREDENTIALS_DIRECTORY=%s", folder + 1);
    write_file("master_key", "00112233\n", 0400);
    /* there, and nowhere else */
    struct config *c = load_with(entry, NULL, WITHOUT, &f);
    assert_good(c, &f);
    assert_int_equal(c->master_key.kind, SECRET_FILE);
    assert_string_equal(c->master_key.name, path_of("master_key", path));
    assert_int_equal(c->admin_token.kind, SECRET_NONE);
    assert_non_null(strstr(c->text, "# CREDENTIALS_DIRECTORY\n"));
    assert_null(strstr(c->text, "00112233"));
    config_free(c);
    /* it wins over the file, and a variable over it */
    c = load_with(entry, NULL, SMALLEST, &f);
    assert_good(c, &f);
    assert_string_equal(c->master_key.name, path_of("master_key", path));
    config_free(c);
    c = load_with(entry, "KMSGATE_MASTER_KEY=env:M", SMALLEST, &f);
    assert_good(c, &f);
    assert_int_equal(c->master_key.kind, SECRET_ENV);
    config_free(c);
    /* the twins: a folder without it, a folder that depends on where one stands, none */
    static const char *const NONE[] = {"CREDENTIALS_DIRECTORY=/nonexistent", "CREDENTIALS_DIRECTORY=", "OTHER=1"};
    for (size_t i = 0; i < sizeof NONE / sizeof *NONE + 1; i++) {
        assert_null(load_with(i < sizeof NONE / sizeof *NONE ? NONE[i] : relative, NULL, WITHOUT, &f));
        assert_true(has_fault(&f, "the key `master_key` is missing"));
        faults_free(&f);
    }
    unlink(path);
}

#define HEX "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF"
static void master_key(void **state)
{
    static const struct {
        const char *text;
        mode_t mode;
        const char *message; /* NULL: good */
    } CASES[] = {
        {HEX, 0600, NULL},
        {HEX "\n", 0600, NULL},
        {HEX "\n", 0640, NULL},
        {HEX "\r\n", 0400, NULL},
        {HEX "\n", 0604, "open to all users"},
        {HEX "\n", 0644, "open to all users"},
        {HEX "\n", 0602, "open to all users"},
        {HEX "\n\n", 0600, "is not a valid master key"},
        {" " HEX, 0600, "is not a valid master key"},
        {HEX "0", 0600, "is not a valid master key"},
        {"0" HEX "0", 0600, "is not a valid master key"},
        {"", 0600, "is not a valid master key"},
        {"\n", 0600, "is not a valid master key"},
        {"g0112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF", 0600, "is not a valid master key"},
        {"0000000000000000000000000000000000000000000000000000000000000000", 0600, "all zero"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct faults f = {0};
        struct secret_key key = {{0}};
        char path[200];
        write_file("master.key", CASES[i].text, CASES[i].mode);
        const struct secret_source from = {SECRET_FILE, path_of("master.key", path)};
        assert_int_equal(config_read_master_key(&from, &key, &f), !CASES[i].message);
        assert_true(!CASES[i].message || has_fault(&f, CASES[i].message));
        assert_false(has_fault(&f, "8899"));
        assert_int_equal(key.b[1], CASES[i].message ? 0 : 0x11);
        assert_int_equal(key.b[31], CASES[i].message ? 0 : 0xff);
        faults_free(&f);
    }
}

static void master_key_elsewhere(void **state)
{
    (void)state;
    struct faults f = {0};
    struct secret_key key;
    char variable[] = "MASTER", path[] = "/nonexistent/key", folder_path[] = "/";
    char entry[] = "MASTER=" HEX, *entries[] = {entry, NULL}, **before = environ;
    const struct secret_source from_env = {SECRET_ENV, variable}, nowhere = {SECRET_FILE, path},
                               dir = {SECRET_FILE, folder_path}, none = {SECRET_NONE, NULL};
    assert_false(config_read_master_key(&from_env, &key, &f));
    assert_true(has_fault(&f, "MASTER: this environment variable is not set"));
    environ = entries;
    assert_true(config_read_master_key(&from_env, &key, &f));
    environ = before;
    assert_int_equal(key.b[1], 0x11);
    assert_string_equal(entry, "MASTER="); /* overwritten to its end */
    assert_int_equal(entry[sizeof entry - 2], 0);
    memset(&key, 0, sizeof key);
    assert_true(config_read_master_key(&from_env, &key, &f)); /* a reload */
    assert_int_equal(key.b[1], 0x11);
    assert_false(config_read_master_key(&nowhere, &key, &f));
    assert_true(has_fault(&f, "No such file"));
    assert_false(config_read_master_key(&dir, &key, &f));
    assert_true(has_fault(&f, "not a regular file"));
    assert_false(config_read_master_key(&none, &key, &f));
    faults_free(&f);
}

static void token(void **state)
{
    static const struct {
        const char *text, *token;
    } CASES[] = {{"abc-123\n", "abc-123"}, {"abc", "abc"}, {"a b", NULL}, {"", NULL}, {"\n", NULL}, {"a\nb\n", NULL},
                 {"a\x7f", NULL}, {"\xc3\xa9", NULL}};
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct faults f = {0};
        char path[200];
        write_file("token", CASES[i].text, 0600);
        const struct secret_source from = {SECRET_FILE, path_of("token", path)};
        char *t = config_read_token(&from, &f);
        assert_int_equal(!t, !CASES[i].token);
        assert_int_equal(f.errors, !CASES[i].token);
        if (t)
            assert_string_equal(t, CASES[i].token);
        free(t);
        faults_free(&f);
    }
}

static void print_tells_origin(void **state)
{
    (void)state;
    struct faults f;
    struct config *c = load(SMALLEST "drain_delay: 2s\n", &f);
    assert_good(c, &f);
    char line[400];
    snprintf(line, sizeof line, "# %s/gateway.yaml:7\n", folder);
    const char *at = strstr(c->text, "\ndrain_delay: 2s ");
    assert_non_null(at);
    assert_non_null(strstr(at, line));
    at = strstr(c->text, "\ndrain_timeout: 10s ");
    assert_non_null(at);
    assert_non_null(strstr(at, "# default\n"));
    assert_non_null(strstr(c->text, "listen[0].address: \"127.0.0.1:8080\""));
    config_free(c);
}

struct seen {
    char keys[600];
};

static void see(void *arg, const struct config_change *change)
{
    struct seen *s = arg;
    const size_t n = strlen(s->keys);
    snprintf(s->keys + n, sizeof s->keys - n, "%s%s%s%s ", change->key, change->live ? "+" : "-",
             change->before ? change->before : "", change->after ? change->after : "");
}

static void compared(void **state)
{
    (void)state;
    static const struct {
        const char *before, *after, *keys;
    } CASES[] = {
        {"", "", ""},
        {"drain_delay: 2s\n", "", "drain_delay+2s0s "},
        {"", "limits: { body: 1KiB }\nlog: { level: debug }\n", "limits.body+64KiB1KiB log.level+infodebug "},
        {"workers: 3\n", "workers: 4\n", "workers- "},
        {"admin_token: file:a\n", "admin_token: file:b\n", "admin_token- "},
        {"", "admin_token: env:A\n", "admin_token- "},
        {"", "upstream_is: no key\n", NULL},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        char text[2000];
        struct faults f;
        struct seen seen = {""};
        snprintf(text, sizeof text, SMALLEST "%s", CASES[i].before);
        struct config *before = load(text, &f);
        assert_good(before, &f);
        snprintf(text, sizeof text, SMALLEST "%s", CASES[i].after);
        struct config *after = load(text, &f);
        assert_int_equal(after != NULL, CASES[i].keys != NULL);
        faults_free(&f);
        if (after) {
            config_compare(before, after, see, &seen);
            assert_string_equal(seen.keys, CASES[i].keys);
        }
        config_free(after);
        config_free(config_ref(before));
        assert_non_null(config_listener(before, "127.0.0.1:8080"));
        assert_null(config_listener(before, "127.0.0.1:8081"));
        config_free(before);
    }
}

#ifdef KMSGATE_FLEET
static void a_shared_replay_memory(void **state)
{
    static const struct {
        const char *replay, *lint; /* NULL: none */
        unsigned wait;
        bool tls;
    } CASES[] = {
        {"{ url: redis://127.0.0.1, secret: file:s }", NULL, 0, false},
        {"{ url: \"redis://[::1]:7000\", secret: file:s }", NULL, 0, false},
        {"{ url: redis://10.0.0.1, secret: file:s }", "plain-redis", 0, false},
        {"{ url: rediss://10.0.0.1, secret: file:s }", NULL, 0, true},
        {"{ url: redis+sentinel://localhost/kms, secret: file:s }", NULL, 1, false},
        {"{ url: redis+sentinel://localhost/kms, secret: file:s, wait_replicas: 2 }", NULL, 2, false},
        {"{ url: redis+sentinel://localhost/kms, secret: file:s, wait_replicas: 0 }", "no-replicas", 0, false},
        {"{ url: \"redis+sentinel://a,b,c/kms\", secret: file:s }", "plain-redis", 1, false},
        {"{ url: \"redis+sentinel://a,b,c/kms\", secret: file:s, ca: c.pem }", NULL, 1, true},
    };
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        char text[4000];
        struct faults f;
        snprintf(text, sizeof text, "%sreplay: %s\n", SMALLEST, CASES[i].replay);
        struct config *c = load(text, &f);
        assert_non_null(c);
        assert_int_equal(f.errors, 0);
        assert_int_equal(f.n, CASES[i].lint != NULL);
        assert_true(!CASES[i].lint || has_fault(&f, CASES[i].lint));
        assert_int_equal(c->replay.wait_replicas, CASES[i].wait);
        char printed[60];
        snprintf(printed, sizeof printed, "replay.wait_replicas: %u ", CASES[i].wait);
        assert_non_null(strstr(c->text, printed));
        assert_int_equal(c->replay.tls, CASES[i].tls);
        assert_int_equal(c->replay.timeout_us, 200000);
        assert_int_equal(c->replay.clock_difference_us, 1000000);
        faults_free(&f);
        config_free(c);
    }
    struct faults f;
    char text[4000];
    snprintf(text, sizeof text, "%sreplay: { url: \"redis+sentinel://localhost:1,[::1]/kms\", secret: file:s }\n",
             SMALLEST);
    struct config *c = load(text, &f);
    assert_int_equal(c->replay.host_count, 2);
    assert_string_equal(c->replay.hosts[0].port, "1");
    assert_string_equal(c->replay.hosts[1].name, "::1");
    assert_string_equal(c->replay.hosts[1].port, "26379");
    assert_string_equal(c->replay.master, "kms");
    config_free(c);
    faults_free(&f);
}
#endif

int main(void)
{
    char *none[] = {NULL};
    environ = none; /* the tests' own variables only */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(smallest), cmocka_unit_test(everything),
        cmocka_unit_test(faults_and_twins),
#ifdef KMSGATE_FLEET
        cmocka_unit_test(a_shared_replay_memory),
#endif
        cmocka_unit_test(listeners),
        cmocka_unit_test(urls), cmocka_unit_test(all_faults_in_one_run),
        cmocka_unit_test(tls_to_the_upstream), cmocka_unit_test(the_environment_wins),
        cmocka_unit_test(faults_of_the_environment), cmocka_unit_test(values_from_files),
        cmocka_unit_test(credentials),
        cmocka_unit_test(master_key), cmocka_unit_test(master_key_elsewhere),
        cmocka_unit_test(token), cmocka_unit_test(print_tells_origin),
        cmocka_unit_test(compared),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
