#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/log.h"
#include "cmd/cmd.h"
#include "cmd/keys.h"

enum { LINE_LIMIT = 16 * 1024 };

/* A walk over all keys, or one user's. */
struct walk {
    const struct keys_options *options;
    int64_t now_us;
    bool (*each)(void *arg, const struct keyring *ring, const struct key *key);
    size_t seen;
    bool failed;
};

static bool one_user(struct keystore *ks, struct walk *w)
{
    struct keyring ring;
    enum keystore_result r = keystore_user(ks, w->options->user, &ring);
    for (size_t i = 0; i < ring.n; i++)
        if (!w->each(w, &ring, &ring.keys[i]))
            break;
    keyring_clear(&ring);
    return r != KEYSTORE_FAILED;
}

static int walk(struct keystore *ks, struct walk *w)
{
    bool one = w->options->user.p != NULL;
    w->now_us = time_now_us();
    if (!(one ? one_user(ks, w) : keystore_walk(ks, w->each, w))) {
        complain("out of memory");
        return EXIT_NEGATIVE;
    }
    if (one && !w->seen && !w->failed) {
        complain("there are no keys of %.*s", STR_FMT(w->options->user));
        return EXIT_NEGATIVE;
    }
    return w->failed ? EXIT_NEGATIVE : EXIT_DONE;
}

static bool list_key(void *arg, const struct keyring *ring, const struct key *key)
{
    struct walk *w = arg;
    char end[TIME_TEXT];
    keys_time(key->not_after, end);
    w->seen++;
    printf("%.*s\t%s\t%.*s\t%s\t%s\n", STR_FMT(ring->user), key_type_name(key->type), STR_FMT(key->id),
           key_state_name(key->state), end);
    return !ferror(stdout);
}

int keys_list(struct keystore *ks, const struct keys_options *o)
{
    struct walk w = {.options = o, .each = list_key};
    return walk(ks, &w);
}

static const char *use(const struct keyring *ring, const struct key *key, int64_t now_us)
{
    if (key->state == KEY_REVOKED)
        return "refused";
    if (!key_usable(key, now_us))
        return "expired: refused";
    if (key != keyring_newest(ring, key->type, now_us))
        return key->type == KEY_TRK ? "encrypts where a request names it" : "verifies";
    if (key->type == KEY_INK)
        return "signs and verifies";
    return keyring_has_ink(ring) ? "encrypts" : "encrypts, signs and verifies";
}

static bool show_key(void *arg, const struct keyring *ring, const struct key *key)
{
    struct walk *w = arg;
    char end[TIME_TEXT];
    keys_time(key->not_after, end);
    if (!w->seen++)
        printf("%.*s\n", STR_FMT(ring->user));
    printf("  %s %.*s: %s%s%s; %s\n", key_type_name(key->type), STR_FMT(key->id), key_state_name(key->state),
           key->not_after == TIME_NONE ? "" : " until ", key->not_after == TIME_NONE ? "" : end,
           use(ring, key, w->now_us));
    return !ferror(stdout);
}

int keys_show(struct keystore *ks, const struct keys_options *o)
{
    struct walk w = {.options = o, .each = show_key};
    return walk(ks, &w);
}

/* Past stdio, whose buffers nobody wipes. */
static bool write_out(const struct buf *line)
{
    for (size_t done = 0; done < line->n;) {
        ssize_t n = write(STDOUT_FILENO, line->p + done, line->n - done);
        if (n < 0 && errno != EINTR) {
            complain("keys export: cannot write: %s", strerror(errno));
            return false;
        }
        done += n > 0 ? (size_t)n : 0;
    }
    return true;
}

static bool add_secret(struct json *j, const struct keyring *ring, const struct key *key)
{
    struct secret_key clear SECRET_CLEANUP = {{0}};
    struct buf hex BUF_CLEANUP = BUF_INIT_SECRET(2 * KEY_BYTES + 1);
    if (!keyring_open(ring, key, &clear)) {
        complain("keys export: user %.*s, key %.*s does not verify", STR_FMT(ring->user), STR_FMT(key->id));
        return false;
    }
    buf_hex(&hex, clear.b, sizeof clear.b, false);
    json_string(j, "key", buf_view(&hex), 0);
    return !hex.failed;
}

static bool export_key(void *arg, const struct keyring *ring, const struct key *key)
{
    struct walk *w = arg;
    struct buf line BUF_CLEANUP = BUF_INIT_SECRET(LINE_LIMIT);
    struct json j = {.out = &line};
    char end[TIME_TEXT];
    w->seen++;
    json_object(&j, NULL);
    json_string(&j, "user", ring->user, 0);
    json_string(&j, "type", str_z(key_type_name(key->type)), 0);
    json_string(&j, "id", key->id, 0);
    w->failed = w->options->with_secrets && !add_secret(&j, ring, key);
    json_string(&j, "state", str_z(key_state_name(key->state)), 0);
    keys_time(key->not_after, end);
    if (key->not_after != TIME_NONE)
        json_string(&j, "not_after", str_z(end), 0);
    json_end(&j);
    buf_char(&line, '\n');
    w->failed = w->failed || line.failed || !write_out(&line);
    return !w->failed;
}

int keys_export(struct keystore *ks, const struct keys_options *o)
{
    struct walk w = {.options = o, .each = export_key};
    return walk(ks, &w);
}
