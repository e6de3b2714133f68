#include "cmd/keys.h"

#include <stdio.h>
#include <string.h>

#include "base/config.h"
#include "base/log.h"
#include "cmd/cmd.h"

static int keys_retire(struct keystore *ks, const struct keys_options *o);
static int keys_revoke(struct keystore *ks, const struct keys_options *o);

enum needs { USER = 1, ID = 2, TYPE = 4, FILE_NAME = 8, REPLACE = 16, SECRETS = 32, SOURCE = 64, NOT_AFTER = 128 };

/* A subcommand, what it requires and what it may have besides. */
static const struct subcommand {
    const char *name;
    int (*run)(struct keystore *ks, const struct keys_options *o);
    unsigned required, allowed;
    bool creates; /* makes the database where there is none */
    const char *usage, *does;
} SUBCOMMANDS[] = {
    {"import", keys_import, FILE_NAME, REPLACE, true, "[--replace] FILE|-",
     "Takes over a key file (JSON lines), all or nothing; `-` is standard input.\n"
     "  --replace  overwrites a known ID that has other bytes, and takes over a stricter state or another not_after\n"},
    {"export", keys_export, 0, USER | SECRETS, false, "[--user U] [--with-secrets]",
     "Writes the keys as JSON lines to standard output, without the members `key` unless asked.\n"
     "  --user U        only this user's\n"
     "  --with-secrets  with the clear keys: what comes out is a key file, to be kept like one\n"},
    {"list", keys_list, 0, USER, false, "[--user U]",
     "A line a key: user, type, ID, state, not_after, separated by tabs. Never a key's value.\n"},
    {"show", keys_show, USER, 0, false, "--user U",
     "A user's keys, and which of them sign and encrypt now.\n"},
    {"add", keys_add, USER | TYPE | ID | SOURCE, NOT_AFTER, true,
     "--user U --type ink|trk --id ID [--not-after TIME] --key-stdin|--generate",
     "Adds one active key; the active one of that type, if there is one, becomes retiring.\n"
     "  --key-stdin  reads the key, 64 hex digits, from standard input (never from the command line, which all users\n"
     "               of the machine can see)\n"
     "  --generate   makes a random key; `kmsgate keys export --with-secrets --user U` tells it\n"},
    {"retire", keys_retire, USER | ID, TYPE, false, "--user U --id ID [--type ink|trk]",
     "The key still verifies, and nothing new is made with it.\n"},
    {"revoke", keys_revoke, USER | ID, TYPE, false, "--user U --id ID [--type ink|trk]",
     "The key is worth nothing any more, for good.\n"},
};

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

static void usage(FILE *to, const struct subcommand *of)
{
    if (of) {
        fprintf(to, "usage: kmsgate keys %s --config gateway.yaml %s\n\n%s", of->name, of->usage, of->does);
        return;
    }
    fputs("usage: kmsgate keys SUBCOMMAND --config gateway.yaml [OPTION]...\n\n", to);
    for (size_t i = 0; i < sizeof SUBCOMMANDS / sizeof *SUBCOMMANDS; i++)
        fprintf(to, "  %-7s %s\n", SUBCOMMANDS[i].name, SUBCOMMANDS[i].usage);
    fputs("\n`kmsgate keys SUBCOMMAND --help` explains one. A running gateway follows changes within a second.\n", to);
}

static bool wrong(const struct subcommand *of, const char *before, const char *what, const char *after)
{
    complain("keys %s: %s%s%s", of->name, before, what, after);
    return false;
}

/* The value of an option: in the same word after `=`, or the next word. NULL when there is none. */
static const char *value(int *i, int argc, char **argv)
{
    const char *equals = strchr(argv[*i], '=');
    if (equals)
        return equals + 1;
    return *i + 1 < argc ? argv[++*i] : NULL;
}

static bool read_options(const struct subcommand *of, int argc, char **argv, struct keys_options *o)
{
    const struct {
        const char *name;
        unsigned need;
        struct str *text;
        bool *flag;
    } options[] = {
        {"--user", USER, &o->user, NULL},         {"--id", ID, &o->id, NULL},
        {"--type", TYPE, &o->type, NULL},         {"--not-after", NOT_AFTER, &o->not_after, NULL},
        {"--replace", REPLACE, NULL, &o->replace}, {"--with-secrets", SECRETS, NULL, &o->with_secrets},
        {"--key-stdin", SOURCE, NULL, &o->key_stdin}, {"--generate", SOURCE, NULL, &o->generate},
        {"--help", ~0u, NULL, &o->help},
    };
    struct str config = STR_MISSING;
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        struct str name = {word, strcspn(word, "=")};
        struct str *text = str_eq_z(name, "--config") ? &config : NULL;
        bool *flag = NULL;
        for (size_t k = 0; k < sizeof options / sizeof *options; k++)
            if (str_eq_z(name, options[k].name) && ((of->required | of->allowed) & options[k].need)) {
                text = options[k].text;
                flag = options[k].flag;
            }
        if (text) {
            const char *v = value(&i, argc, argv);
            if (!v)
                return wrong(of, "", word, " needs a value");
            if (text->p)
                return wrong(of, "", word, " is given twice");
            *text = str_z(v);
        } else if (flag && !word[name.n]) {
            *flag = true;
        } else if ((word[0] != '-' || !word[1]) && (of->required & FILE_NAME) && !o->file) {
            o->file = word;
        } else {
            return wrong(of, "cannot take `", word, "`");
        }
    }
    o->config = config.p;
    return true;
}

static bool check_options(const struct subcommand *of, const struct keys_options *o)
{
    const char *missing = !o->config                             ? "--config gateway.yaml"
                          : (of->required & USER) && !o->user.n  ? "--user U"
                          : (of->required & TYPE) && !o->type.n  ? "--type ink|trk"
                          : (of->required & ID) && !o->id.n      ? "--id ID"
                          : (of->required & FILE_NAME) && !o->file ? "a FILE, or - for standard input"
                          : (of->required & SOURCE) && o->key_stdin == o->generate ? "either --key-stdin or --generate"
                                                                                   : NULL;
    if (missing)
        return wrong(of, "wants ", missing, "");
    enum key_type type;
    int64_t us;
    return keys_type(o->type, &type) && keys_end(o->not_after, &us);
}

static int run(const struct subcommand *of, const struct keys_options *o)
{
    struct faults faults = {0};
    struct secret_key master SECRET_CLEANUP = {{0}};
    struct keystore *ks = NULL;
    struct config *c = config_load(o->config, &faults);
    if (c && config_read_master_key(&c->master_key, &master, &faults))
        ks = keystore_open(c->keys, &master, of->creates, &faults);
    secret_key_clear(&master);
    faults_print(&faults, stderr);
    faults_free(&faults);
    int code = ks ? of->run(ks, o) : EXIT_NEGATIVE;
    keystore_close(ks);
    config_free(c);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        complain("keys %s: cannot write to standard output", of->name);
        return EXIT_NEGATIVE;
    }
    return code;
}

int cmd_keys(int argc, char **argv)
{
    const struct subcommand *of = NULL;
    if (argc < 2) {
        usage(stderr, NULL);
        return EXIT_USAGE;
    }
    if (str_eq_z(str_z(argv[1]), "--help")) {
        usage(stdout, NULL);
        return EXIT_DONE;
    }
    for (size_t i = 0; i < sizeof SUBCOMMANDS / sizeof *SUBCOMMANDS; i++)
        if (str_eq_z(str_z(argv[1]), SUBCOMMANDS[i].name))
            of = &SUBCOMMANDS[i];
    if (!of) {
        complain("keys: no subcommand `%s`; `kmsgate keys --help` lists them", argv[1]);
        return EXIT_USAGE;
    }
    struct keys_options o = {0};
    if (!read_options(of, argc - 1, argv + 1, &o))
        return EXIT_USAGE;
    if (o.help) {
        usage(stdout, of);
        return EXIT_DONE;
    }
    return check_options(of, &o) ? run(of, &o) : EXIT_USAGE;
}
