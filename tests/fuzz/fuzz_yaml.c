/*
 * Any file as gateway.yaml and as rules: faults with their place, or what can be described. A fault is one line of
 * printable text. Bytes that are neither choose what stands in files that are right but for their texts.
 */
#include "fuzz.h"

#include <unistd.h>

#include "base/config.h"
#include "gate/rules.h"

enum { ROOM = 1 << 20, ODD = 8 };

static void check_faults(const struct faults *f)
{
    for (size_t i = 0; i < f->n; i++)
        for (const char *c = f->v[i].text; *c; c++)
            must((unsigned char)*c >= 0x20 && *c != 0x7f, "a control character in: %s", f->v[i].text);
}

static bool look_at_config(struct str text)
{
    char path[64];
    struct faults faults = {0};
    const int fd = fuzz_file(text, path);
    struct config *c = config_load(path, &faults);
    const bool ok = c != NULL;
    must(!c == (faults.errors > 0), "a configuration with faults, or none without");
    must(!c || (c->text && c->listen_count > 0 && c->public_url.n > 0 && c->upstream.url && c->rules && c->keys),
         "a configuration that lacks something");
    check_faults(&faults);
    config_free(c);
    faults_free(&faults);
    close(fd);
    return ok;
}

static bool look_at_rules(struct str text)
{
    char path[64];
    struct faults faults = {0};
    const int fd = fuzz_file(text, path);
    struct rules *r = rules_load(path, &faults);
    const bool ok = r != NULL;
    must(!r == (faults.errors > 0), "rules with faults, or none without");
    check_faults(&faults);
    if (r) {
        struct buf described BUF_CLEANUP = BUF_INIT(64u << 20);
        rules_describe(r, &described);
        must(!described.failed, "not described");
    }
    rules_unref(r);
    faults_free(&faults);
    close(fd);
    return ok;
}

/* The next text, in double quotes; as it is in one of eight, else of harmless characters. */
static void put_text(struct str *rest, const char *usual, struct buf *out)
{
    const bool odd = fuzz_choice(rest, ODD) == 1;
    const struct str text = fuzz_next(rest);
    buf_char(out, '"');
    if (!text.n)
        buf_z(out, usual);
    for (size_t i = 0; i < text.n; i++) {
        const unsigned char c = (unsigned char)text.p[i];
        if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || (odd && c > 0x20 && c < 0x7f && c != '"' && c != '\\'))
            buf_char(out, (char)c);
        else if (odd)
            buf_printf(out, "\\x%02x", c);
        else
            buf_char(out, '-');
    }
    buf_char(out, '"');
}

/* Of the list each that its octet chooses, followed by the next text where its last character is a colon; of a key's
 * the first. */
static void put_lines(struct str *rest, const char *const *list, size_t n, const char *indent, struct buf *out)
{
    const char *last = "";
    for (size_t i = 0; i < n; i++) {
        const bool again = strncmp(last, list[i], strcspn(list[i], ":") + 1) == 0;
        if (fuzz_choice(rest, 4) || again)
            continue;
        last = list[i];
        buf_printf(out, "%s%s", indent, list[i]);
        if (list[i][strlen(list[i]) - 1] == ':') {
            buf_char(out, ' ');
            put_text(rest, "x", out);
        }
        buf_char(out, '\n');
    }
}
#define PUT_LINES(rest, list, indent, out) put_lines(rest, list, sizeof(list) / sizeof *(list), indent, out)

static void make_config(struct str *rest, struct buf *out)
{
    static const char *const LINES[] = {
        "admin: 127.0.0.1:9090", "workers: 2", "limits: { body: 64KiB, connections: 10 }", "drain_delay: 0s",
        "log: { level: debug, format: json }", "sandbox: off", "decisions:", "captures:", "state:", "user:",
        "keys_max_age: 10m", "keys_counter: file:count", "drain_timeout: 10s",
        "replay: { url: \"redis+sentinel://a,b:26379/kms\", secret: \"env:X\", wait_replicas: 1 }"};
    buf_z(out, "listen: [{ address: \"127.0.0.1:8080\" }]\npublic_url: [https://kms.example.org]\n"
               "upstream: { url: \"http://127.0.0.1:9000\" }\nkeys: \"sqlite:k.db\"\nmaster_key: \"env:M\"\nrules: ");
    put_text(rest, "rules.yaml", out);
    buf_char(out, '\n');
    PUT_LINES(rest, LINES, "", out);
}

static void make_rules(struct str *rest, struct buf *out)
{
    static const char *const REQUEST[] = {
        "accept: [signed, unsigned, empty]", "match: { path: \"/keymanagement/**\", source: [10.0.0.0/8] }",
        "match: { not: { user: \"sip:x*\" } }",
        "checks: { time: { past: 7d, assume_zone: \"+01:00\" }, schema: shadow }", "deny: on",
        "forward: { body: signed }", "forward: { body: json, headers: { X-User: \"{user}\" }, assert_unproven: true }",
        "until: 2030-01-01"};
    static const char *const RESPONSE[] = {
        "extensions: keep", "encrypt: { content: message }", "dialect: older", "new_keys: replace", "speak: dialect",
        "renew: { trk: 90d, ink: 90d, keep_old: 7d }", "match: { form: signed, message: [KmsInit] }",
        "set: { UserUri: keep, KmsUri: keep }", "carried_key_name: off"};
    static const char *const DIALECT[] = {
        "namespaces: [\"urn:older\", \"\"]", "rename: { KmsKeyset: KmsKeySet }", "key_text: base64",
        "point_prefix: add", "encoding: declared", "user_uri: ignore"};
    buf_z(out, "version: 1\nkms: { uris: [kms.example.org], id: ");
    put_text(rest, "kms-01", out);
    buf_z(out, " }\nrequests:\n");
    for (unsigned i = 0; i <= fuzz_choice(rest, 2); i++) {
        buf_printf(out, "  - id: r%u\n    why: ", i);
        put_text(rest, "since it is so", out);
        buf_char(out, '\n');
        PUT_LINES(rest, REQUEST, "    ", out);
    }
    buf_z(out, "responses:\n");
    for (unsigned i = 0; i <= fuzz_choice(rest, 2); i++) {
        buf_printf(out, "  - id: a%u\n", i);
        PUT_LINES(rest, RESPONSE, "    ", out);
    }
    buf_z(out, "dialects:\n  older:\n    key_octets: numeric\n");
    PUT_LINES(rest, DIALECT, "    ", out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct str text = fuzz_view(data, size);
    const bool config = look_at_config(text);
    bool arrived = look_at_rules(text) || config;
    if (!arrived) {
        struct buf made BUF_CLEANUP = BUF_INIT(ROOM);
        struct str rest = text;
        const bool rules = fuzz_choice(&rest, 2);
        if (rules)
            make_rules(&rest, &made);
        else
            make_config(&rest, &made);
        must(!made.failed, "room");
        arrived = rules ? look_at_rules(buf_view(&made)) : look_at_config(buf_view(&made));
    }
    fuzz_arrived(arrived);
    return 0;
}
