/*
 * Inside config*.c: the options, and one reading of them.
 */
#ifndef KMSGATE_BASE_CONFIG_INTERNAL_H
#define KMSGATE_BASE_CONFIG_INTERNAL_H

#include "base/yaml.h"

struct option;
/* A value on its way in. */
struct incoming {
    struct str text;
    const char *folder; /* what relative paths are relative to; "" for the working directory */
};
/* Text to value. False leaves *to alone and says in `expected` what was due. */
typedef bool option_reader(const struct option *o, const struct incoming *in, void *to, struct shown *expected);

/* One line of the table that drives reading, environment and --print. */
struct option {
    const char *path; /* in gateway.yaml: "upstream.tls.ca"; in capitals the environment's name */
    option_reader *read;
    size_t offset;      /* of struct config */
    const void *arg;
    const char *preset; /* read like any other value; NULL: none */
    bool required;
    bool list;   /* also a list of values; the reader adds one */
    bool secret; /* what was found is never shown; NAME_FILE names the file that holds the secret */
    bool live;   /* SIGHUP changes it in place */
    const char *also; /* a second path, where a mapping may stand in place of the value; NULL: none */
};
extern const struct option OPTIONS[];
enum { OPTION_COUNT = 57, OPTION_PATH = 100 };

/* One reading. */
struct load {
    struct config *c;
    struct faults *faults;
    struct yaml_in in;
    char *folder; /* of the file, with its slash; "" for the working directory */
    struct held { /* what is in effect, for --print */
        char *value;
        char *origin;
        bool given; /* well or badly */
        int line, column; /* 0: not of the file */
    } held[OPTION_COUNT];
    struct buf listen; /* the listeners' lines of --print */
};

/* Holds the value against the option, stores it, remembers where from. */
bool option_set(struct load *l, size_t i, const struct incoming *in, struct shown *expected, const char *origin);
void option_clear(struct load *l, size_t i); /* of lists: what another origin had put there */
void config_clear_masters(struct config *c);
/* Reads gateway.yaml's root by the table. */
void config_walk(struct load *l, const struct yaml_node *root);
void config_environment(struct load *l);
yaml_reader config_listen; /* `to` is a struct load */


/* Readers. */
option_reader read_path, read_decisions, read_keys, read_replay, read_text, read_public_url, read_upstream_url;
option_reader read_secret, read_master_key, read_counter;
option_reader read_size, read_count, read_duration, read_choice, read_switch, read_user, read_admin;
/* A host's name or address, IPv6 in brackets; a port's digits. */
bool config_is_host(struct str h);
bool config_port(struct str s, uint16_t *port);
/* Where the option of that path was given, and its place in the table. */
size_t config_option_of(const char *path);
void config_fault_of(struct load *l, const char *path, bool lint, const char *message);
/* config_replay.c: what belongs together there. */
void config_check_replay(struct load *l);
void config_clear_replay(struct replay_config *r);
/* "1.2.3.4:80", "[::1]:80" or, where `unix_too`, "unix:PATH". Sets address, sa and sa_len. */
bool address_parse(const struct incoming *in, bool unix_too, struct listen_config *out, struct shown *expected);
/* True where a wrong value is not shown: it has what passwords in URIs have around them. */
bool value_is_private(struct str text);
char *path_resolve(const char *folder, struct str path); /* NULL without memory */

#endif
