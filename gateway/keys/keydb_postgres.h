/*
 * Between the parts of the PostgreSQL store: keydb_postgres.c (what keydb.h asks for), keydb_postgres_target.c (where
 * it is), keydb_postgres_link.c (the connection), keydb_postgres_wire.c (rows in libpq's binary form),
 * keydb_postgres_hand.c (rows at hand of a writer), keydb_postgres_make.c (a new one), keydb_postgres_words.c (what
 * processes tell each other); nobody else includes it.
 *
 * The server is trusted with nothing but keeping: what it sends is held against lengths and ranges here, and against
 * seals above. It may hang, too: libpq is used without blocking, so that each call ends by a deadline of this process's
 * own, and a connection that passed one is given up, by which the server ends what it was doing.
 */
#ifndef KMSGATE_KEYS_KEYDB_POSTGRES_H
#define KMSGATE_KEYS_KEYDB_POSTGRES_H

#include <libpq-fe.h>

#include "base/buf.h"
#include "keys/keydb.h"

enum {
    PG_CONNECT_MS = 3000,  /* for each host, unless the URI has connect_timeout */
    PG_ANSWER_MS = 3000,   /* a statement, beside what it waits for other writers */
    PG_COMMIT_MS = 5000,   /* a standby may have to confirm it */
    PG_STALL_MS = 10000,   /* without an octet, while many rows come */
    PG_PATIENCE_MS = 10000 /* for other writers, as is usual */
};

#define PG_NO_TABLES "there are no keys of kmsgate in this database; `kmsgate keys import` makes their tables"

/* Where to connect to: the URI's parameters, and for each of its hosts what differs. */
struct pg_target;
struct pg_hand;

struct keydb_postgres {
    struct keydb db;
    struct pg_target *target;
    PGconn *conn;           /* NULL: not connected */
    int64_t again_us;       /* monotonic: not before is a connection tried again */
    struct detail away;     /* why there is none */
    int patience_ms;
    bool made, readonly;    /* of the server that is connected: the tables are there; they cannot be written to */
    enum { PG_IDLE, PG_READS, PG_WRITES } in; /* the transaction */
    bool known;             /* `meta` is what this transaction sees */
    struct keydb_meta meta;
    bool warned;            /* a WARNING came since it was last set to false */
    char tag[16];           /* of the last command that was done */
    struct pg_hand *hand;   /* only while PG_WRITES */
    bool draft;             /* not made before the first commit; this connection has the makers' lock */
    struct keydb_meta first; /* of a draft */
    char said[KEYDB_WORD + 1]; /* on this connection; "": nothing */
};

/* A value as it came or will go; n < 0: NULL. */
struct pg_value {
    const char *p;
    int n;
};
/* The columns, in the order of PG_COLUMNS. */
#define PG_COLUMNS "user_uri, id, type, state, not_after, since, origin, due, keep_old, sent, master, seq, sealed"
enum { PG_COLUMN_COUNT = 13, PG_VALUE_MAX = 8 << 10, PG_COPY_MAX = 1 << 20 /* octets, on the wire */ };
/* OIDs of the types, which are the same for ever. */
enum { PG_BYTEA = 17, PG_INT8 = 20, PG_INT2 = 21, PG_TEXT = 25, PG_BYTEA_LIST = 1001, PG_INT2_LIST = 1005,
       PG_TEXT_LIST = 1009, PG_INT8_LIST = 1016 };

/* keydb_postgres_wire.c */
/* False when the values are not as kmsgate writes them. Texts are borrowed. */
bool pg_take_row(const struct pg_value v[PG_COLUMN_COUNT], struct key_row *row) MUST_CHECK;
/* False; says so of the row, by its name as far as that was taken. */
bool pg_row_wrong(const struct key_row *row, struct detail *why);
bool pg_take_number(struct pg_value v, uint64_t *out) MUST_CHECK; /* int8, not negative */
bool pg_take_bytes(struct pg_value v, uint8_t *out, size_t n) MUST_CHECK;
bool pg_take_text(struct pg_value v, struct str *out) MUST_CHECK; /* 1 to KEY_TEXT_MAX octets */
void pg_put_number(uint64_t v, char out[8]);
/* Appends one column of n rows as an array of its type, whose OID it returns. */
Oid pg_put_list(const struct key_row *const *rows, size_t n, unsigned column, struct buf *out);
/* Rows of COPY … (FORMAT binary), however they are cut into messages. */
struct pg_copy {
    struct buf rest;  /* of a row that is not complete yet */
    bool begun, ended;
};
/* Takes over what of `data` is complete, calling `each` for every row. */
enum keydb_result pg_copy_take(struct pg_copy *c, struct str data, keydb_each each, void *arg,
                               struct detail *why) MUST_CHECK;

/* keydb_postgres_target.c */
/* NULL with the reason, which holds nothing of the URI. */
struct pg_target *pg_target_new(const char *uri, struct detail *why);
void pg_target_free(struct pg_target *t);
void keydb_postgres_lint(const char *where, const char *shown, struct faults *faults);

/* keydb_postgres_link.c */
/* Connects where there is no connection, or none any more. Not inside a transaction. */
enum keydb_result pg_connect(struct keydb_postgres *db, struct detail *why) MUST_CHECK;
/* Gives the connection up, and the transaction with it. */
void pg_drop(struct keydb_postgres *db);

/* One statement with its parameters; without any, several, with `;` between. */
struct pg_ask {
    const char *sql, *doing; /* "cannot DOING: …" */
    int n;
    const Oid *types;
    struct pg_value values[PG_COLUMN_COUNT];
    int ms; /* 0: PG_ANSWER_MS */
    /* Gets each row, in binary form; columns as asked for. Returns false to stop, with the reason. */
    bool (*row)(void *arg, const struct pg_value *v, struct detail *why);
    int columns;
    void *arg;
};
/* KEYDB_REFUSED where `row` was false: the connection is given up then. */
enum keydb_result pg_ask(struct keydb_postgres *db, const struct pg_ask *ask, struct detail *why) MUST_CHECK;
/* The same without parameters or rows. */
enum keydb_result pg_run(struct keydb_postgres *db, const char *sql, const char *doing, struct detail *why) MUST_CHECK;
/* Whether the tables are there, and may be written to. */
enum keydb_result pg_look(struct keydb_postgres *db, struct detail *why) MUST_CHECK;
/* Rows that come by COPY. */
enum keydb_result pg_copy_out(struct keydb_postgres *db, const char *sql, keydb_each each, void *arg,
                              struct detail *why) MUST_CHECK;
/* The command tag of the last statement was COMMIT, and nothing warned. */
enum keydb_result pg_commit(struct keydb_postgres *db, struct detail *why) MUST_CHECK;

/* keydb_postgres.c */
struct keydb *postgres_open(const char *where, struct detail *why);
void postgres_close(struct keydb *base);
enum keydb_result pg_write_meta(struct keydb_postgres *db, const struct keydb_meta *m, const char *sql,
                                struct detail *why) MUST_CHECK;

/* keydb_postgres_make.c */
enum keydb_result postgres_create(const char *where, const struct keydb_meta *meta, struct detail *why) MUST_CHECK;
struct keydb *postgres_draft(const char *where, const struct keydb_meta *meta, bool *there, struct detail *why);
bool postgres_is_draft(const struct keydb *base);
/* A writer's transaction begins with the tables being made in it; for who reads there is nothing. */
enum keydb_result pg_draft_begin(struct keydb_postgres *db, bool write, struct detail *why) MUST_CHECK;
/* It was committed, and is a database like another. */
void pg_draft_made(struct keydb_postgres *db);

/* keydb_postgres_words.c: a session's application_name, which every role may read. */
void postgres_say(struct keydb *base, const char *word);
enum keydb_result postgres_words(struct keydb *base, keydb_each_word each, void *arg, struct detail *why) MUST_CHECK;

/* keydb_postgres_hand.c: the rows of the users that a writer looked at, as its transaction has them. What it writes
 * goes out many rows at a time. */
struct pg_hand *pg_hand_new(void);
void pg_hand_free(struct pg_hand *h);
/* Fetches the rows of up to n users in one statement. */
enum keydb_result pg_hand_fetch(struct keydb_postgres *db, const struct str *users, size_t n,
                                struct detail *why) MUST_CHECK;
enum keydb_result pg_hand_of_user(struct keydb_postgres *db, struct str user, keydb_each each, void *arg,
                                  struct detail *why) MUST_CHECK;
enum keydb_result pg_hand_put(struct keydb_postgres *db, const struct key_row *row, struct detail *why) MUST_CHECK;
/* The row goes out of what is at hand, which is written out. */
enum keydb_result pg_hand_remove(struct keydb_postgres *db, const struct key_row *row, struct detail *why) MUST_CHECK;
/* Writes out what is not written yet. */
enum keydb_result pg_hand_flush(struct keydb_postgres *db, struct detail *why) MUST_CHECK;

#endif
