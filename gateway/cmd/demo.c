#include "cmd/demo.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/limits.h"
#include "base/log.h"
#include "base/timestamp.h"
#include "cmd/client.h"
#include "cmd/cmd.h"
#include "cmd/options.h"

enum { RENEWAL_SECONDS = 20, RENEWAL_STEP_US = 200000 };

struct demo {
    struct stage stage;
    struct client client;
    const char *bold, *good, *bad, *plain; /* what a terminal takes, else empty */
    char keys[PATH_MAX]; /* the key file */
    unsigned posted; /* to the gateway, and so the lines of its decision log */
    unsigned valid;  /* those that were in order, and so reach the KMS */
    struct buf keyprov; /* the request of step 2, to be sent once more */
};

static void choose_style(struct demo *d)
{
    const char *term = getenv("TERM"), *no_colour = getenv("NO_COLOR");
    const bool colour = isatty(STDOUT_FILENO) && term && !str_eq_z(str_z(term), "dumb") && !(no_colour && *no_colour);
    d->bold = colour ? "\033[1m" : "";
    d->good = colour ? "\033[32m" : "";
    d->bad = colour ? "\033[31m" : "";
    d->plain = colour ? "\033[0m" : "";
}

static void url_of(const struct demo *d, const char *resource, char out[128])
{
    snprintf(out, 128, "http://127.0.0.1:%u" DEMO_BASE "%s", d->stage.port, resource);
}

static bool post(struct demo *d, const char *resource, struct str body, long *status, struct buf *reply)
{
    char url[128];
    url_of(d, resource, url);
    d->posted++;
    return client_post(&(struct client_post){.url = url, .body = body, .stop = stage_stop}, status, reply);
}

/* A signed request for a resource that is accepted, and its reply opened. */
static bool get(struct demo *d, const char *resource, const struct proof_kms *kms, struct buf *body,
                struct client_got *got)
{
    char url[128];
    struct buf reply BUF_CLEANUP = BUF_INIT_SECRET(LIMIT_REPLY_OUT);
    long status = 0;
    url_of(d, resource, url);
    *got = (struct client_got){.result = CLIENT_BROKEN};
    if (!client_compose(&d->client, &(struct client_ask){.url = str_z(url), .kms_uri = STR(DEMO_KMS_URI)}, body) ||
        !post(d, resource, buf_view(body), &status, &reply))
        return false;
    client_open(&d->client, buf_view(&reply),
                &(struct client_expect){.signer = client_signer(&d->client), .url = str_z(url), .now_us = time_now_us(),
                                        .kms = kms, .why_not = "there is no KMS certificate"}, got);
    if (got->result == CLIENT_REFUSED)
        complain("demo: %s: %.*s", resource, STR_FMT(buf_view(&got->head)));
    const bool ok = got->result == CLIENT_OPENED && status == 200;
    d->valid += ok;
    return ok;
}

static bool ask_init(struct demo *d, struct proof_kms *kms)
{
    struct buf body BUF_CLEANUP = BUF_INIT(1 << 16);
    struct client_got got;
    printf("%s1 Alice's device asks for the KMS certificate: /init, signed by ink.1.alice%s\n", d->bold, d->plain);
    const bool came = get(d, "/init", NULL, &body, &got), ok = came && got.kms.known;
    if (came && !ok)
        complain("demo: /init: %s", *got.kms.why ? got.kms.why : "expected a KmsInit");
    if (ok) {
        printf("  %s200%s %s, signed by ink.1.alice: %s, whose keys last %llu days each\n", d->good, d->plain,
               kms_message_name(got.message), got.kms.uri, (unsigned long long)got.kms.period / 86400);
        client_take_kms(&got, kms);
    }
    client_got_free(&got);
    return ok;
}

static bool ask_keys(struct demo *d, const struct proof_kms *kms)
{
    struct client_got got;
    printf("%s2 She asks for her keys: /keyprov%s\n", d->bold, d->plain);
    const bool ok = get(d, "/keyprov", kms, &d->keyprov, &got) && got.sets > 0;
    if (ok)
        printf("  %s200%s %s, signed by ink.1.alice; its keys opened and held against the certificate:\n",
               d->good, d->plain, kms_message_name(got.message));
    if (got.lines.n)
        fwrite(got.lines.p, 1, got.lines.n, stdout);
    if (got.result == CLIENT_OPENED && !got.sets)
        complain("demo: /keyprov: no keys came, expected a KmsKeySet");
    if (ok && got.proven != got.sets)
        complain("demo: keys came that could not be proven right");
    const bool proven = ok && got.proven == got.sets;
    client_got_free(&got);
    return proven;
}

/* Posts what is not in order to /keyprov; it must be refused for that reason, by the gateway's own log. */
static bool refused(struct demo *d, const char *what, struct str body, const char *want)
{
    struct buf reply BUF_CLEANUP = BUF_INIT(LIMIT_REPLY_OUT), reason BUF_CLEANUP = BUF_INIT(64);
    struct client_got got;
    long status = 0;
    if (!body.p || !post(d, "/keyprov", body, &status, &reply) || !stage_decision(&d->stage, d->posted, &reason))
        return false;
    client_open(&d->client, buf_view(&reply), &(struct client_expect){.now_us = time_now_us()}, &got);
    const bool ok = got.result == CLIENT_REFUSED && status == 403 && got.error_code == 403 &&
                    str_eq_z(buf_view(&reason), want);
    client_got_free(&got);
    printf("  %-52s %s%ld%s  %s\n", what, ok ? d->good : d->bad, status, d->plain, reason.p);
    if (!ok)
        complain("demo: %s: expected to be refused with 403 and %s, found %ld and %s", what, want, status, reason.p);
    return ok;
}

static bool composed(struct demo *d, const char *resource, const char *kms_uri, int64_t time_us, struct buf *out)
{
    char url[128];
    url_of(d, resource, url);
    return client_compose(&d->client,
                          &(struct client_ask){.url = str_z(url), .kms_uri = str_z(kms_uri), .time_us = time_us}, out);
}

/* One hex digit of DeviceId becomes another. */
static bool forge(struct buf *body)
{
    static const char AT[] = "<DeviceId>kmsgate-";
    char *digit = body->n ? memmem(body->p, body->n, AT, sizeof AT - 1) : NULL;
    if (!digit)
        return false;
    digit += sizeof AT - 1;
    *digit = *digit == '0' ? '1' : '0';
    return true;
}

/* The KmsRequest alone, out of its envelope. */
static struct str unsigned_part(const struct buf *body)
{
    static const char BEGIN[] = "<KmsRequest", END[] = "</KmsRequest>";
    const char *from = body->n ? memmem(body->p, body->n, BEGIN, sizeof BEGIN - 1) : NULL;
    const char *to = from ? memmem(from, body->n - (size_t)(from - body->p), END, sizeof END - 1) : NULL;
    return to ? (struct str){from, (size_t)(to - from) + sizeof END - 1} : STR_MISSING;
}

static bool ask_wrongly(struct demo *d)
{
    const int64_t minute_ago = time_now_us() - 60 * US_PER_S;
    struct buf plain BUF_CLEANUP = BUF_INIT(1 << 16), forged BUF_CLEANUP = BUF_INIT(1 << 16);
    struct buf stale BUF_CLEANUP = BUF_INIT(1 << 16), elsewhere BUF_CLEANUP = BUF_INIT(1 << 16);
    struct buf other BUF_CLEANUP = BUF_INIT(1 << 16);
    printf("%s3 Invalid requests never reach the KMS; the decision log shows why%s\n", d->bold, d->plain);
    return composed(d, "/keyprov", DEMO_KMS_URI, 0, &plain) &&
           refused(d, "not signed", unsigned_part(&plain), "signature.missing") &&
           composed(d, "/keyprov", DEMO_KMS_URI, 0, &forged) && forge(&forged) &&
           refused(d, "forged: one digit was changed on the way", buf_view(&forged), "signature.invalid") &&
           composed(d, "/keyprov", DEMO_KMS_URI, minute_ago, &stale) &&
           refused(d, "stale: signed a minute ago", buf_view(&stale), "time.stale") &&
           composed(d, "/init", DEMO_KMS_URI, 0, &elsewhere) &&
           refused(d, "misdirected: its ClientReqUrl is /init", buf_view(&elsewhere), "client_req_url.mismatch") &&
           composed(d, "/keyprov", "kms.elsewhere.example", 0, &other) &&
           refused(d, "misdirected: its KmsUri is kms.elsewhere.example", buf_view(&other), "kms_uri.mismatch") &&
           refused(d, "replayed: the request of step 2 once more", buf_view(&d->keyprov), "replay.seen");
}

/* Until the gateway has seen that her keys are due. */
static bool await_new_keys(struct demo *d, const struct proof_kms *kms, struct client_got *got)
{
    const int64_t until = time_mono_us() + RENEWAL_SECONDS * US_PER_S;
    for (;;) {
        struct buf body BUF_CLEANUP = BUF_INIT(1 << 16);
        if (!get(d, "/init", kms, &body, got) || got->new_count)
            return got->new_count;
        if (stage_stop())
            return false;
        if (time_mono_us() > until) {
            complain("demo: /init: no new keys came, expected a NewTransportKey and a NewIntegrityKey");
            return false;
        }
        client_got_free(got);
        usleep(RENEWAL_STEP_US);
    }
}

static bool renew(struct demo *d, const struct proof_kms *kms)
{
    struct buf body BUF_CLEANUP = BUF_INIT(1 << 16);
    struct client_got got;
    if (!stage_make_due(&d->stage))
        return false;
    bool ok = await_new_keys(d, kms, &got);
    if (ok) {
        printf("%s4 Her keys have grown old: the next reply brings", d->bold);
        for (size_t i = 0; i < got.new_count; i++)
            printf("%s %.*s", i ? " and" : "", STR_FMT(got.new_keys[i].id));
        printf("%s\n", d->plain);
        ok = client_keep(&d->client, d->keys, &got);
    }
    client_got_free(&got);
    if (!ok)
        return false;
    ok = get(d, "/keyprov", kms, &body, &got) && got.sets > 0 && got.proven == got.sets;
    if (ok)
        printf("  %s200%s %s, signed by %.*s, for her next request, which was signed by it, too\n", d->good, d->plain,
               kms_message_name(got.message), STR_FMT(client_signer(&d->client)->id));
    else
        complain("demo: /keyprov: signed by the new key, no keys came");
    client_got_free(&got);
    return ok;
}

static bool tell_end(const struct demo *d)
{
    unsigned seen = 0;
    bool is_signed = false;
    if (!stage_seen(&d->stage, &seen, &is_signed))
        return false;
    if (seen != d->valid || is_signed) {
        complain("demo: the KMS saw %u requests, %s; expected %u, none signed", seen,
                 is_signed ? "some signed" : "none signed", d->valid);
        return false;
    }
    printf("%sAll steps succeeded.%s The KMS received the valid requests alone, without signatures.\n",
           d->good, d->plain);
    return true;
}

static bool demo_tell(struct demo *d)
{
    struct proof_kms kms = {.known = false};
    printf("%skmsgate demo%s: an older KMS, kmsgate in front of it, a client; all on this machine alone\n\n"
           "  client  -- signed request ------>  gateway          -- plain request ->  legacy KMS\n"
           "          <-- signed, encrypted ---  127.0.0.1:%-5u  <-- keys in clear -  %s\n\n",
           d->bold, d->plain, d->stage.port, d->stage.kms_url + sizeof "http://" - 1);
    const bool ok = ask_init(d, &kms) && ask_keys(d, &kms) && ask_wrongly(d) && renew(d, &kms) && tell_end(d);
    proof_kms_free(&kms);
    return ok;
}

static void tell_what_runs(const struct demo *d)
{
    const struct stage *s = &d->stage;
    printf("\nIt runs until Ctrl-C. Then all of %s is removed.\n"
           "   gateway   http://127.0.0.1:%u        console  http://127.0.0.1:%u/\n"
           "   files     gateway.yaml, rules.yaml, keys.jsonl, decisions.jsonl, gateway.log, legacy.jsonl\n"
           "Try:\n"
           "%s request --url http://127.0.0.1:%u" DEMO_BASE "/keyprov \\\n"
           "    --user " DEMO_USER " --kms-uri " DEMO_KMS_URI " --keys %s/keys.jsonl\n",
           s->folder, s->port, s->admin_port, s->program, s->port, s->folder);
}

static bool play(struct demo *d, bool keep)
{
    if (!stage_begin(&d->stage))
        return false;
    snprintf(d->keys, sizeof d->keys, "%s/keys.jsonl", d->stage.folder);
    bool ok = client_load(&d->client, DEMO_USER, d->keys) && demo_tell(d);
    if (ok && keep) {
        tell_what_runs(d);
        ok = fflush(stdout) == 0 && stage_wait(&d->stage);
    }
    if (fflush(stdout) != 0 || ferror(stdout)) {
        complain("demo: cannot write to standard output");
        ok = false;
    }
    return ok;
}

struct demo_options {
    bool keep;
};

static int demo_run(const void *given)
{
    const struct demo_options *q = given;
    struct demo d = {.keyprov = BUF_INIT(1 << 16)};
    choose_style(&d);
    if (!client_startup()) {
        complain("demo: a library does not start");
        return EXIT_NEGATIVE;
    }
    const bool ok = play(&d, q->keep), stopped = !ok && stage_stop();
    stage_end(&d.stage);
    client_free(&d.client);
    buf_free(&d.keyprov);
    client_shutdown();
    if (stopped)
        complain("demo: interrupted; all files were removed");
    return ok ? EXIT_DONE : EXIT_NEGATIVE;
}

static const struct command_option DEMO_OPTIONS[] = {
    {.name = "keep", .at = offsetof(struct demo_options, keep),
     .help = "Keep running until interrupted, and print addresses, files and a command to try."}};
const struct command COMMAND_DEMO = {
    .name = "demo", .does = "run a self-contained demonstration on loopback",
    .about = "Starts an older KMS and a gateway in front of it on loopback addresses. A client then requests its KMS "
             "certificate and its keys and verifies them; after that, invalid requests are sent, and the reason why "
             "each is refused is shown; at last its keys are renewed, and it signs with the new one. No privileges are "
             "required, and all files are removed at the end.",
    .exits = "0 all steps succeeded; 1 a step failed",
    COMMAND_OPTIONS(DEMO_OPTIONS), .size = sizeof(struct demo_options), .run = demo_run};
