#include "cmd/keys.h"

#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/resource.h>

#include "base/config.h"
#include "base/log.h"
#include "base/text.h"
#include "base/yaml.h"
#include "cmd/cmd.h"
#include "cmd/options.h"

bool keys_type(struct str text, enum key_type *out)
{
    *out = str_eq_z(text, "trk") ? KEY_TRK : KEY_INK;
    if (!text.p || *out == KEY_TRK || str_eq_z(text, "ink"))
        return true;
    complain("--type must be ink or trk");
    return false;
}

bool keys_end(struct str text, int64_t *out)
{
    bool zone = false;
    *out = TIME_NONE;
    if (!text.p || (time_parse(text, out, &zone) && zone))
        return true;
    complain("--not-after must be a time with a zone, such as 2027-01-01T00:00:00Z");
    return false;
}

void keys_time(int64_t us, char out[TIME_TEXT])
{
    if (us == TIME_NONE)
        snprintf(out, TIME_TEXT, "-");
    else
        time_format(us, us % US_PER_S != 0, out);
}

bool keys_say(struct str user, const char *noun, struct str id, const char *format, ...)
{
    enum { LINE_LIMIT = 32 << 10 };
    struct buf line BUF_CLEANUP = BUF_INIT(LINE_LIMIT);
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    buf_z(&line, "user ");
    text_escape(&line, user);
    if (id.p) {
        buf_printf(&line, ", %s ", noun);
        text_escape(&line, id);
    }
    buf_printf(&line, ": %s\n", text);
    return !line.failed && fwrite(line.p, 1, line.n, stdout) == line.n;
}

/* Where a type was given, the key must be of it. */
static bool is_of_type(struct keystore *ks, const struct keys_options *o)
{
    enum key_type type;
    struct keyring ring;
    if (!keys_type(o->type, &type))
        return false;
    if (!o->type.p || !o->id.p)
        return true;
    enum keystore_result r = keystore_user(ks, o->user, &ring);
    const struct key *key = r == KEYSTORE_OK ? keyring_find(&ring, o->id) : NULL;
    const bool other = key && key->type != type;
    keyring_clear(&ring);
    if (other)
        complain("user %.*s, key %.*s: is of the other type", STR_FMT(o->user), STR_FMT(o->id));
    return !other;
}

static int keys_retire(struct keystore *ks, const struct keys_options *o)
{
    if (!is_of_type(ks, o))
        return EXIT_NEGATIVE;
    struct faults faults = {0};
    bool ok = keystore_set_state(ks, o->user, o->id, KEY_RETIRING, &faults);
    faults_print(&faults, stderr);
    faults_free(&faults);
    if (!ok)
        return EXIT_NEGATIVE;
    return keys_say(o->user, "key", o->id, "retiring") ? EXIT_DONE : EXIT_NEGATIVE;
}

static int keys_revoke_one(struct keystore *ks, const struct keys_options *o)
{
    return is_of_type(ks, o) ? keys_revoke(ks, o) : EXIT_NEGATIVE;
}

/* --- the commands --- */

/* What the parser fills in for any of them. */
struct keys_given {
    const char *config, *user, *id, *type, *not_after, *file, *in_state, *expiring, *format;
    bool replace, force, dry, with_secrets, key_stdin, generate, all, cascade, first;
};
typedef int keys_work(struct keystore *ks, const struct keys_options *o);

/* What the work does to the database: READS nothing, CHANGES it, MAKES it where there is none. */
enum keys_deed { KEYS_READS, KEYS_CHANGES, KEYS_MAKES };

/* Who only reads, or only asks what would be done, leaves one of an earlier version to the program that serves it. */
static enum keystore_opening keys_opening(enum keys_deed deed, bool dry)
{
    static const enum keystore_opening OPENINGS[] = {
        [KEYS_READS] = KEYSTORE_READ, [KEYS_CHANGES] = KEYSTORE_CHANGE, [KEYS_MAKES] = KEYSTORE_DRAFT};
    return dry ? KEYSTORE_TRY : OPENINGS[deed];
}

/* Work on all keys, beside a gateway that serves, goes last. Who was started with a priority of its own keeps that: so
 * it can have a share of a machine that has no time to spare, where all others who change keys wait for this one. */
static void give_way(void)
{
    enum { LAST = 19 };
    if (sched_getscheduler(0) != SCHED_OTHER || getpriority(PRIO_PROCESS, 0) != 0)
        return;
    (void)setpriority(PRIO_PROCESS, 0, LAST); /* may fail: it is as it would be without */
    (void)sched_setscheduler(0, SCHED_BATCH, &(struct sched_param){0});
}

/* Opens the store and does the work with it. */
static int keys_run(const void *given, keys_work *work, enum keys_deed deed)
{
    const struct keys_given *g = given;
    struct keys_options o = {
        .config = g->config, .user = str_z(g->user), .id = str_z(g->id), .type = str_z(g->type),
        .not_after = str_z(g->not_after), .file = g->file, .replace = g->replace, .force = g->force,
        .in_state = str_z(g->in_state), .dry = g->dry, .all = g->all, .cascade = g->cascade,
        .json = g->format && format_is_json(g->format), .with_secrets = g->with_secrets,
        .key_stdin = g->key_stdin, .generate = g->generate, .first = g->first};
    if (g->expiring && (!duration_parse(str_z(g->expiring), &o.expiring_us) || !o.expiring_us)) {
        complain("keys list: --expiring must be a duration such as 30d");
        return EXIT_USAGE;
    }
    struct faults faults = {0};
    struct master_keys masters MASTERS_CLEANUP = {.n = 0};
    struct keystore *ks = NULL;
    struct config *c = config_load(o.config, &faults);
    if (c && config_read_master_keys(c, &masters, &faults))
        ks = keystore_open_under(c->keys, masters.v, masters.n, keys_opening(deed, o.dry), &faults);
    /* one of an earlier version may be changed by the program that serves it: its count is that one's */
    const bool ok = ks && (!c->keys_counter || (keystore_is_earlier(ks)
                                                    ? keystore_look_at_counter(ks, c->keys_counter, &faults)
                                                    : keystore_use_counter(ks, c->keys_counter, &faults)));
    o.state = c ? c->state : NULL;
    int code = ok ? work(ks, &o) : EXIT_NEGATIVE;
    if (ok && !keystore_counted(ks, &faults))
        code = EXIT_NEGATIVE;
    if (code == EXIT_DONE && deed != KEYS_READS && !o.dry && !keystore_followed(ks, &faults))
        code = EXIT_NEGATIVE;
    faults_print(&faults, stderr);
    faults_free(&faults);
    keystore_close(ks);
    config_free(c);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        complain("keys: cannot write to standard output");
        return EXIT_NEGATIVE;
    }
    return code;
}

#define OPTION_USER(must, says)                                                                                  \
    {.name = "user", .argument = "URI", .required = (must), .at = offsetof(struct keys_given, user), .help = (says)}
#define OPTION_ID                                                                                                \
    {.name = "id", .argument = "ID", .required = true, .at = offsetof(struct keys_given, id),         \
     .help = "The ID of the key."}
#define OPTION_TYPE(must)                                                                                        \
    {.name = "type", .argument = "ink|trk", .type = VALUE_CHOICE, .required = (must),                            \
     .at = offsetof(struct keys_given, type), .help = "The type of the key."}

#define OPTION_FORCE                                                                                             \
    {.name = "force", .at = offsetof(struct keys_given, force),                                                  \
     .help = "Accept a key value that was revoked or has expired under another ID."}

static int keys_run_import(const void *given)
{
    give_way();
    return keys_run(given, keys_import, KEYS_MAKES);
}

static const struct command_option IMPORT_OPTIONS[] = {
    OPTION_CONFIG(struct keys_given, config),
    {.name = "replace", .at = offsetof(struct keys_given, replace),
     .help = "Overwrite a key whose ID is known but whose value differs, and apply a stricter state or another "
             "not_after."},
    {.name = "first", .at = offsetof(struct keys_given, first),
     .help = "These are the first keys of a new gateway, and no gateway has ever accepted a request under them: it "
             "need not wait at its first start until all that could have been accepted is past. Refused where there "
             "are keys, or a gateway has started before. Wrong after a loss of the `state` folder: requests that were "
             "captured could then be replayed."},
    {.name = "dry-run", .at = offsetof(struct keys_given, dry),
     .help = "Only report what would be done, and every fault; change nothing."},
    OPTION_FORCE};
static const struct command_operand IMPORT_OPERANDS[] = {
    {.name = "FILE", .type = VALUE_FILE, .at = offsetof(struct keys_given, file),
     .help = "The key file, one JSON object a line; `-` is standard input."}};
static const struct command KEYS_IMPORT = {
    .name = "import", .group = "keys", .does = "import keys from a file",
    .about = "Imports a key file. Either all of its keys are imported, or none.\n"
             "It runs at the lowest priority, so that a gateway beside it is not kept from its work, unless it is "
             "started under nice(1). Until it ends, nobody else can change keys.",
    .exits = "0 done; 1 nothing was imported", .examples = "kmsgate keys import keys.jsonl\n",
    COMMAND_TAKES(IMPORT_OPTIONS, IMPORT_OPERANDS, struct keys_given), .run = keys_run_import};

static int keys_run_export(const void *given)
{
    give_way();
    return keys_run(given, keys_export, KEYS_READS);
}

static const struct command_option EXPORT_OPTIONS[] = {
    OPTION_CONFIG(struct keys_given, config),
    OPTION_USER(false, "Export the keys of this user only."),
    {.name = "with-secrets", .at = offsetof(struct keys_given, with_secrets),
     .help = "Include the key values. The output is then a key file, and must be protected like one."}};
static const struct command KEYS_EXPORT = {
    .name = "export", .group = "keys", .does = "export keys as a file",
    .about = "Writes the keys to standard output, one JSON object a line, without their values unless requested.",
    .exits = "0 done; 1 an error occurred",
    COMMAND_OPTIONS(EXPORT_OPTIONS), .size = sizeof(struct keys_given), .run = keys_run_export};

static int keys_run_list(const void *given)
{
    return keys_run(given, keys_list, KEYS_READS);
}

static const struct command_option LIST_OPTIONS[] = {
    OPTION_CONFIG(struct keys_given, config), OPTION_USER(false, "List the keys of this user only."),
    {.name = "state", .argument = "active|retiring|offered|expired|revoked", .type = VALUE_CHOICE,
     .at = offsetof(struct keys_given, in_state), .help = "List the keys of this state only."},
    {.name = "expiring", .argument = "DURATION", .at = offsetof(struct keys_given, expiring),
     .help = "List the usable keys that expire within this time, such as `30d`."},
    OPTION_FORMAT(struct keys_given, format)};
static const struct command KEYS_LIST = {
    .name = "list", .group = "keys", .does = "list keys",
    .about = "Lists the keys, one on a line: user, type, ID, state, not_after, age (since the key became active) and "
             "origin, separated by tabs. The state is the present one: a key whose not_after has passed is `expired`. "
             "Key values are never printed.",
    .exits = "0 done; 1 the user has no keys, or an error occurred",
    COMMAND_OPTIONS(LIST_OPTIONS), .size = sizeof(struct keys_given), .run = keys_run_list};

static int keys_run_show(const void *given)
{
    return keys_run(given, keys_show, KEYS_READS);
}

static const struct command_option SHOW_OPTIONS[] = {
    OPTION_CONFIG(struct keys_given, config), OPTION_USER(true, "The user whose keys are shown.")};
static const struct command KEYS_SHOW = {
    .name = "show", .group = "keys", .does = "show the keys of a user and their use",
    .about = "Shows the keys of a user, and which of them sign and encrypt at present.",
    .exits = "0 done; 1 the user has no keys, or an error occurred",
    COMMAND_OPTIONS(SHOW_OPTIONS), .size = sizeof(struct keys_given), .run = keys_run_show};

static const struct command KEYS_ADD;

static int keys_run_add(const void *given)
{
    const struct keys_given *g = given;
    if (g->key_stdin == g->generate)
        return usage_error(&KEYS_ADD, "expected either --key-stdin or --generate");
    return keys_run(given, keys_add, KEYS_MAKES);
}

static const struct command_option ADD_OPTIONS[] = {
    OPTION_CONFIG(struct keys_given, config), OPTION_USER(true, "The owner of the key."), OPTION_TYPE(true), OPTION_ID,
    {.name = "not-after", .argument = "TIME", .type = VALUE_TIME, .at = offsetof(struct keys_given, not_after),
     .help = "When the key expires, with a zone, such as 2027-01-01T00:00:00Z. Default: never."},
    {.name = "key-stdin", .at = offsetof(struct keys_given, key_stdin),
     .help = "Read the key, 64 hex digits, from standard input. A key is never given on the command line, which other "
             "users of the machine can see."},
    {.name = "generate", .at = offsetof(struct keys_given, generate),
     .help = "Generate a random key; `kmsgate keys export --with-secrets --user URI` prints it."},
    OPTION_FORCE};
static const struct command KEYS_ADD = {
    .name = "add", .group = "keys", .does = "add a key",
    .about = "Adds an active key. If the user has an active key of this type, that key becomes retiring.",
    .exits = "0 done; 1 the key was not added",
    .examples = "kmsgate keys add --user sip:alice@example.org --type trk --id trk.2 --generate\n",
    COMMAND_OPTIONS(ADD_OPTIONS), .size = sizeof(struct keys_given), .run = keys_run_add};

static int keys_run_retire(const void *given)
{
    return keys_run(given, keys_retire, KEYS_CHANGES);
}

static const struct command_option STATE_OPTIONS[] = {
    OPTION_CONFIG(struct keys_given, config), OPTION_USER(true, "The owner of the key."), OPTION_ID,
    OPTION_TYPE(false)};
static const struct command KEYS_RETIRE = {
    .name = "retire", .group = "keys", .does = "retire a key",
    .about = "Retires a key: requests that it signed are still verified, but it is no longer used for anything new.",
    .exits = "0 done; 1 the key was not retired",
    COMMAND_OPTIONS(STATE_OPTIONS), .size = sizeof(struct keys_given), .run = keys_run_retire};

static const struct command KEYS_REVOKE;

static int keys_run_revoke(const void *given)
{
    const struct keys_given *g = given;
    if (g->all == (g->id != NULL))
        return usage_error(&KEYS_REVOKE, "expected either --id or --all");
    return keys_run(given, keys_revoke_one, KEYS_CHANGES);
}

static const struct command_option REVOKE_OPTIONS[] = {
    OPTION_CONFIG(struct keys_given, config), OPTION_USER(true, "The owner of the key."),
    {.name = "id", .argument = "ID", .at = offsetof(struct keys_given, id), .help = "The ID of the key."},
    OPTION_TYPE(false),
    {.name = "all", .at = offsetof(struct keys_given, all),
     .help = "Revoke all keys of the user, as for a stolen device."},
    {.name = "cascade", .at = offsetof(struct keys_given, cascade),
     .help = "With a TrK, also revoke the keys in use that were sent under it. Keys that were sent under it and not "
             "used yet are always revoked."}};
static const struct command KEYS_REVOKE = {
    .name = "revoke", .group = "keys", .does = "revoke keys permanently",
    .about = "Revokes a key, or all keys of a user. They are never accepted again; this cannot be undone.",
    .exits = "0 done; 1 nothing was revoked",
    .examples = "kmsgate keys revoke --user sip:alice@example.org --all\n",
    COMMAND_OPTIONS(REVOKE_OPTIONS), .size = sizeof(struct keys_given), .run = keys_run_revoke};

static int keys_run_renew(const void *given)
{
    return keys_run(given, keys_renew, KEYS_CHANGES);
}

static const struct command_option RENEW_OPTIONS[] = {
    OPTION_CONFIG(struct keys_given, config), OPTION_USER(true, "The user whose keys are renewed.")};
static const struct command KEYS_RENEW = {
    .name = "renew", .group = "keys", .does = "mark the keys of a user as due",
    .about = "Marks the active keys of a user as due, whatever their age. The next reply under a response rule with "
             "`renew` offers new ones.",
    .exits = "0 done; 1 the user has no active key",
    COMMAND_OPTIONS(RENEW_OPTIONS), .size = sizeof(struct keys_given), .run = keys_run_renew};

static const struct command_option CONFIG_OPTIONS[] = {OPTION_CONFIG(struct keys_given, config)};

static int keys_run_prune(const void *given)
{
    give_way();
    return keys_run(given, keys_prune, KEYS_CHANGES);
}

static const struct command KEYS_PRUNE = {
    .name = "prune", .group = "keys", .does = "remove keys that are no longer needed",
    .about = "Removes expired and revoked keys of all users beyond the newest two of each type, as each change does "
             "for its user. What was revoked stays refused.",
    .exits = "0 done; 1 an error occurred",
    COMMAND_OPTIONS(CONFIG_OPTIONS), .size = sizeof(struct keys_given), .run = keys_run_prune};

static int keys_run_rekey(const void *given)
{
    give_way();
    return keys_run(given, keys_rekey, KEYS_CHANGES);
}

static const struct command KEYS_REKEY = {
    .name = "rekey", .group = "keys", .does = "seal all keys under the first master key",
    .about = "Seals under the first key of `master_key` what is sealed under another of its list, beside serving "
             "gateways. It can be interrupted at any moment and run again.\n"
             "To change the master key: list the new key behind the old one at all gateways and send SIGHUP; list it "
             "in front at all and send SIGHUP; run this command; take the old key out and send SIGHUP.",
    .exits = "0 done; 1 an error occurred: run it again",
    COMMAND_OPTIONS(CONFIG_OPTIONS), .size = sizeof(struct keys_given), .run = keys_run_rekey};

static const struct command *const KEYS_COMMANDS[] = {
    &KEYS_IMPORT, &KEYS_EXPORT, &KEYS_LIST, &KEYS_SHOW, &KEYS_ADD, &KEYS_RETIRE, &KEYS_REVOKE,
    &KEYS_RENEW, &KEYS_PRUNE, &KEYS_REKEY, NULL};
const struct command COMMAND_KEYS = {
    .name = "keys", .does = "manage the keys of the users",
    .about = "Manages the key database of a gateway. A running gateway follows changes within a second. A command "
             "whose change is not in force at a running gateway, since the database was replaced or put back to an "
             "older state under it, says so and exits with 1.",
    .sub = KEYS_COMMANDS};
