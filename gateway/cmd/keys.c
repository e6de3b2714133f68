#include "cmd/keys.h"

#include <stdio.h>

#include "base/config.h"
#include "base/log.h"
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

static int set_state(struct keystore *ks, const struct keys_options *o, enum key_state state)
{
    enum key_type type;
    if (keys_type(o->type, &type) && o->type.p) {
        struct keyring ring;
        enum keystore_result r = keystore_user(ks, o->user, &ring);
        const struct key *key = r == KEYSTORE_OK ? keyring_find(&ring, o->id) : NULL;
        bool other = key && key->type != type;
        keyring_clear(&ring);
        if (other) {
            complain("user %.*s, key %.*s: is of the other type", STR_FMT(o->user), STR_FMT(o->id));
            return EXIT_NEGATIVE;
        }
    }
    struct faults faults = {0};
    bool ok = keystore_set_state(ks, o->user, o->id, state, &faults);
    faults_print(&faults, stderr);
    faults_free(&faults);
    if (!ok)
        return EXIT_NEGATIVE;
    printf("user %.*s, key %.*s: %s\n", STR_FMT(o->user), STR_FMT(o->id), key_state_name(state));
    return EXIT_DONE;
}

static int keys_retire(struct keystore *ks, const struct keys_options *o)
{
    return set_state(ks, o, KEY_RETIRING);
}

static int keys_revoke(struct keystore *ks, const struct keys_options *o)
{
    return set_state(ks, o, KEY_REVOKED);
}

/* --- the commands --- */

/* What the parser fills in for any of them. */
struct keys_given {
    const char *config, *user, *id, *type, *not_after, *file;
    bool replace, with_secrets, key_stdin, generate, first;
};
typedef int keys_work(struct keystore *ks, const struct keys_options *o);

/* Opens the store, made where there is none with `create`, and does the work with it. */
static int keys_run(const void *given, keys_work *work, bool create)
{
    const struct keys_given *g = given;
    struct keys_options o = {
        .config = g->config, .user = str_z(g->user), .id = str_z(g->id), .type = str_z(g->type),
        .not_after = str_z(g->not_after), .file = g->file, .replace = g->replace, .with_secrets = g->with_secrets,
        .key_stdin = g->key_stdin, .generate = g->generate, .first = g->first};
    struct faults faults = {0};
    struct secret_key master SECRET_CLEANUP = {{0}};
    struct keystore *ks = NULL;
    struct config *c = config_load(o.config, &faults);
    if (c && config_read_master_key(&c->master_key, &master, &faults))
        ks = keystore_open(c->keys, &master, create, &faults);
    secret_key_clear(&master);
    faults_print(&faults, stderr);
    faults_free(&faults);
    o.state = c ? c->state : NULL;
    int code = ks ? work(ks, &o) : EXIT_NEGATIVE;
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

static int keys_run_import(const void *given)
{
    return keys_run(given, keys_import, true);
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
             "captured could then be replayed."}};
static const struct command_operand IMPORT_OPERANDS[] = {
    {.name = "FILE", .type = VALUE_FILE, .at = offsetof(struct keys_given, file),
     .help = "The key file, one JSON object a line; `-` is standard input."}};
static const struct command KEYS_IMPORT = {
    .name = "import", .group = "keys", .does = "import keys from a file",
    .about = "Imports a key file. Either all of its keys are imported, or none.",
    .exits = "0 done; 1 nothing was imported", .examples = "kmsgate keys import keys.jsonl\n",
    COMMAND_TAKES(IMPORT_OPTIONS, IMPORT_OPERANDS, struct keys_given), .run = keys_run_import};

static int keys_run_export(const void *given)
{
    return keys_run(given, keys_export, false);
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
    return keys_run(given, keys_list, false);
}

static const struct command_option LIST_OPTIONS[] = {
    OPTION_CONFIG(struct keys_given, config), OPTION_USER(false, "List the keys of this user only.")};
static const struct command KEYS_LIST = {
    .name = "list", .group = "keys", .does = "list keys",
    .about = "Lists the keys, one a line: user, type, ID, state and not_after, separated by tabs. Key values are never "
             "printed.",
    .exits = "0 done; 1 the user has no keys, or an error occurred",
    COMMAND_OPTIONS(LIST_OPTIONS), .size = sizeof(struct keys_given), .run = keys_run_list};

static int keys_run_show(const void *given)
{
    return keys_run(given, keys_show, false);
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
    return keys_run(given, keys_add, true);
}

static const struct command_option ADD_OPTIONS[] = {
    OPTION_CONFIG(struct keys_given, config), OPTION_USER(true, "The owner of the key."), OPTION_TYPE(true), OPTION_ID,
    {.name = "not-after", .argument = "TIME", .type = VALUE_TIME, .at = offsetof(struct keys_given, not_after),
     .help = "When the key expires, with a zone, such as 2027-01-01T00:00:00Z. Default: never."},
    {.name = "key-stdin", .at = offsetof(struct keys_given, key_stdin),
     .help = "Read the key, 64 hex digits, from standard input. A key is never given on the command line, which other "
             "users of the machine can see."},
    {.name = "generate", .at = offsetof(struct keys_given, generate),
     .help = "Generate a random key; `kmsgate keys export --with-secrets --user URI` prints it."}};
static const struct command KEYS_ADD = {
    .name = "add", .group = "keys", .does = "add a key",
    .about = "Adds an active key. If the user has an active key of this type, that key becomes retiring.",
    .exits = "0 done; 1 the key was not added",
    .examples = "kmsgate keys add --user sip:alice@example.org --type trk --id trk.2 --generate\n",
    COMMAND_OPTIONS(ADD_OPTIONS), .size = sizeof(struct keys_given), .run = keys_run_add};

static int keys_run_retire(const void *given)
{
    return keys_run(given, keys_retire, false);
}

static const struct command_option STATE_OPTIONS[] = {
    OPTION_CONFIG(struct keys_given, config), OPTION_USER(true, "The owner of the key."), OPTION_ID,
    OPTION_TYPE(false)};
static const struct command KEYS_RETIRE = {
    .name = "retire", .group = "keys", .does = "retire a key",
    .about = "Retires a key: requests that it signed are still verified, but it is no longer used for anything new.",
    .exits = "0 done; 1 the key was not retired",
    COMMAND_OPTIONS(STATE_OPTIONS), .size = sizeof(struct keys_given), .run = keys_run_retire};

static int keys_run_revoke(const void *given)
{
    return keys_run(given, keys_revoke, false);
}

static const struct command KEYS_REVOKE = {
    .name = "revoke", .group = "keys", .does = "revoke a key permanently",
    .about = "Revokes a key. It is never accepted again; this cannot be undone.",
    .exits = "0 done; 1 the key was not revoked",
    COMMAND_OPTIONS(STATE_OPTIONS), .size = sizeof(struct keys_given), .run = keys_run_revoke};

static const struct command *const KEYS_COMMANDS[] = {
    &KEYS_IMPORT, &KEYS_EXPORT, &KEYS_LIST, &KEYS_SHOW, &KEYS_ADD, &KEYS_RETIRE, &KEYS_REVOKE, NULL};
const struct command COMMAND_KEYS = {
    .name = "keys", .does = "manage the keys of the users",
    .about = "Manages the key database of a gateway. A running gateway follows changes within a second.",
    .sub = KEYS_COMMANDS};
