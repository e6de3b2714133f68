#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/text.h"
#include "cmd/cmd.h"
#include "cmd/keys.h"
#include "cmd/screen.h"

enum { LINE_LIMIT = 16 * 1024 };

/* A walk over all keys, or one user's. */
struct walk {
    const struct keys_options *options;
    int64_t now_us;
    bool (*each)(void *arg, const struct keyring *ring, const struct key *key);
    size_t seen;
    bool failed;
    struct screen screen; /* list */
    bool headed;
    size_t all; /* export: how many there are, for */
    struct keys_progress progress;
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

static int keys_walk(struct keystore *ks, struct walk *w)
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

static const char *state_now(const struct key *key, int64_t now_us)
{
    return key->state != KEY_REVOKED && !key_usable(key, now_us) ? "expired" : key_state_name(key->state);
}

/* A mark that was left on one that no longer is active says nothing. */
static bool is_due(const struct key *key, int64_t now_us)
{
    return key->due && key->state == KEY_ACTIVE && key_usable(key, now_us);
}

static const char *origin_name(enum key_origin o)
{
    static const char *const NAMES[] = {
        [KEY_IMPORTED] = "imported", [KEY_BY_HAND] = "added", [KEY_RENEWED] = "renewed", [KEY_LEARNT] = "learnt"};
    return NAMES[o];
}

static void age_text(const struct key *key, int64_t now_us, char out[24])
{
    const int64_t s = key->since == TIME_NONE ? -1 : (now_us - key->since) / US_PER_S;
    if (s < 0)
        snprintf(out, 24, "-");
    else if (s < 3600)
        snprintf(out, 24, "%llds", (long long)s);
    else if (s < 2 * 86400)
        snprintf(out, 24, "%lldh", (long long)(s / 3600));
    else
        snprintf(out, 24, "%lldd", (long long)(s / 86400));
}

static bool is_listed(const struct walk *w, const struct key *key)
{
    const struct keys_options *o = w->options;
    if (o->in_state.p && !str_eq_z(o->in_state, state_now(key, w->now_us)))
        return false;
    return !o->expiring_us || (key_usable(key, w->now_us) && key->not_after != TIME_NONE &&
                               key->not_after - w->now_us <= o->expiring_us);
}

static bool list_json(const struct walk *w, const struct keyring *ring, const struct key *key)
{
    struct buf line BUF_CLEANUP = BUF_INIT(LINE_LIMIT);
    struct json j = {.out = &line};
    char at[TIME_TEXT];
    json_object(&j, NULL);
    json_string(&j, "user", ring->user, 0);
    json_string(&j, "type", str_z(key_type_name(key->type)), 0);
    json_string(&j, "id", key->id, 0);
    json_string(&j, "state", str_z(state_now(key, w->now_us)), 0);
    if (key->not_after != TIME_NONE) {
        keys_time(key->not_after, at);
        json_string(&j, "not_after", str_z(at), 0);
    }
    if (key->since != TIME_NONE) {
        keys_time(key->since, at);
        json_string(&j, "since", str_z(at), 0);
        json_int(&j, "age_s", (w->now_us - key->since) / US_PER_S);
    }
    json_string(&j, "origin", str_z(origin_name(key->origin)), 0);
    if (is_due(key, w->now_us))
        json_bool(&j, "due", true);
    json_end(&j);
    buf_char(&line, '\n');
    return !line.failed && fwrite(line.p, 1, line.n, stdout) == line.n;
}

static const struct column LIST_COLUMNS[] = {{"USER", 28, COLUMN_GROWS}, {"TYPE", 4, COLUMN_CUT},
                                             {"KEY", 20, COLUMN_GROWS},  {"STATE", 8, COLUMN_CUT},
                                             {"ENDS", 20, COLUMN_CUT},   {"AGE", 5, COLUMN_CUT},
                                             {"ORIGIN", 14, COLUMN_CUT}};
enum { LIST_COLUMN_COUNT = sizeof LIST_COLUMNS / sizeof *LIST_COLUMNS };

static enum tone state_tone(const struct key *key, int64_t now_us)
{
    if (!key_usable(key, now_us))
        return TONE_BAD;
    return key->state == KEY_ACTIVE ? TONE_GOOD : key->state == KEY_RETIRING ? TONE_WARN : TONE_NONE;
}

static void list_row(struct walk *w, const struct keyring *ring, const struct key *key, const char *end,
                     const char *age, struct buf *out)
{
    char origin[32];
    snprintf(origin, sizeof origin, "%s%s", origin_name(key->origin), is_due(key, w->now_us) ? " (due)" : "");
    const struct cell cells[LIST_COLUMN_COUNT] = {
        {ring->user, TONE_NONE},
        {str_z(key_type_name(key->type)), TONE_NONE},
        {key->id, TONE_NONE},
        {str_z(state_now(key, w->now_us)), state_tone(key, w->now_us)},
        {str_z(end), TONE_NONE},
        {str_z(age), TONE_NONE},
        {str_z(origin), TONE_NONE}};
    if (!w->headed)
        screen_head(&w->screen, LIST_COLUMNS, LIST_COLUMN_COUNT, out);
    w->headed = true;
    screen_row(&w->screen, LIST_COLUMNS, cells, LIST_COLUMN_COUNT, out);
}

static bool list_key(void *arg, const struct keyring *ring, const struct key *key)
{
    struct walk *w = arg;
    char end[TIME_TEXT], age[24];
    w->seen++;
    if (!is_listed(w, key))
        return true;
    if (w->options->json)
        return list_json(w, ring, key);
    keys_time(key->not_after, end);
    age_text(key, w->now_us, age);
    struct buf line BUF_CLEANUP = BUF_INIT(LINE_LIMIT);
    if (w->screen.terminal) {
        list_row(w, ring, key, end, age, &line);
        return !line.failed && fwrite(line.p, 1, line.n, stdout) == line.n;
    }
    text_escape(&line, ring->user); /* a tab in it would be a column */
    buf_printf(&line, "\t%s\t", key_type_name(key->type));
    text_escape(&line, key->id);
    buf_printf(&line, "\t%s\t%s\t%s\t%s%s\n", state_now(key, w->now_us), end, age, origin_name(key->origin),
               is_due(key, w->now_us) ? " (due)" : "");
    return !line.failed && fwrite(line.p, 1, line.n, stdout) == line.n;
}

int keys_list(struct keystore *ks, const struct keys_options *o)
{
    struct walk w = {.options = o, .each = list_key, .screen = screen_of(STDOUT_FILENO)};
    return keys_walk(ks, &w);
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
    struct buf line BUF_CLEANUP = BUF_INIT(LINE_LIMIT);
    keys_time(key->not_after, end);
    if (!w->seen++) {
        text_escape(&line, ring->user);
        buf_char(&line, '\n');
    }
    buf_printf(&line, "  %s ", key_type_name(key->type));
    text_escape(&line, key->id);
    buf_printf(&line, ": %s%s%s; %s\n", key_state_name(key->state), key->not_after == TIME_NONE ? "" : " until ",
               key->not_after == TIME_NONE ? "" : end, use(ring, key, w->now_us));
    return !line.failed && fwrite(line.p, 1, line.n, stdout) == line.n;
}

int keys_show(struct keystore *ks, const struct keys_options *o)
{
    struct walk w = {.options = o, .each = show_key};
    return keys_walk(ks, &w);
}

/* Past stdio, whose buffers nobody wipes. */
static bool write_out(const struct buf *line)
{
    const bool ok = file_write_all(STDOUT_FILENO, line->p, line->n);
    if (!ok)
        complain("keys export: cannot write: %s", strerror(errno));
    return ok;
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
    keys_progress(&w->progress, w->seen, w->all);
    return !w->failed;
}

static size_t count_keys(struct keystore *ks)
{
    size_t counts[2][KEY_STATES], n = 0;
    keystore_count(ks, time_now_us(), counts);
    for (size_t i = 0; i < KEY_STATES; i++)
        n += counts[KEY_INK][i] + counts[KEY_TRK][i];
    return n;
}

int keys_export(struct keystore *ks, const struct keys_options *o)
{
    struct walk w = {.options = o, .each = export_key, .progress = keys_progress_new("keys"), .all = count_keys(ks)};
    w.progress.terminal = w.progress.terminal && !isatty(STDOUT_FILENO); /* where the keys themselves are seen */
    const int code = keys_walk(ks, &w);
    keys_progress_end(&w.progress);
    return code;
}
