/*
 * What the parts of the keystore share: keystore.c (opening, following changes), keystore_write.c, keyring.c.
 */
#ifndef KMSGATE_KEYS_KEYSTORE_INSIDE_H
#define KMSGATE_KEYS_KEYSTORE_INSIDE_H

#include <pthread.h>
#include <sys/stat.h>

#include "keys/keydb.h"

/*
 * Readers hold `table_lock` for reading, for one look-up. `db_lock` is held by whoever uses the database; only such a
 * thread changes the table, with `table_lock` held for writing, after all that it will put in was verified.
 */
struct keystore {
    char *path;
    struct seal *seal;
    struct keystore_locks {
        pthread_mutex_t db;
        pthread_rwlock_t table;
    } *locks;
    struct keydb *db;
    struct table *table;
    int64_t seen;          /* the data_version that the table reflects */
    bool behind;           /* the table lacks what this process itself has committed */
    int64_t refused;       /* the data_version whose content was refused, for `refusal`; -1: none */
    struct stat refused_file; /* the same for a file that replaced the one that is open */
    struct detail refusal;
    unsigned busy;         /* refreshes in a row that found the database locked */
};

/* NULL without memory; keystore_close() frees it. */
struct keystore_locks *keystore_locks_new(void);
/* Inside a transaction: the authenticated meta row. */
enum keydb_result keystore_meta(struct keydb *db, const struct seal *seal, struct keydb_meta *out,
                                struct detail *why) MUST_CHECK;
/* The mac over everything else in it. */
bool keystore_meta_mac(const struct seal *seal, const struct keydb_meta *meta, uint8_t mac[SEAL_MAC]) MUST_CHECK;
/* Inside a transaction, with the db lock: takes over into the table what the database has and the table lacks. */
enum keydb_result keystore_absorb(struct keystore *ks, bool *changed, struct detail *why) MUST_CHECK;
/* "user U, key ID": for messages; texts from a damaged file are cut and made printable. */
struct detail key_row_name(const struct key_row *row);

#endif
