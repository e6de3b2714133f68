#include <stdlib.h>

#include <openssl/rand.h>

#include "keys/keystore_inside.h"

/* Without a database: what is in the table is all there ever is. */
static bool fill(struct keystore *ks, const struct key_entry *v, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct key_row row = {.user = v[i].user,
                              .key = {.type = v[i].type, .state = v[i].state, .not_after = v[i].not_after,
                                      .seq = i + 1, .id = v[i].id}};
        if (!seal_close(ks->seal, row.user, &row.key, &v[i].key) || !table_set(ks->table, &row))
            return false;
    }
    return true;
}

struct keystore *keystore_scratch(const struct key_entry *v, size_t n)
{
    struct secret_key master SECRET_CLEANUP = {{0}};
    uint8_t salt[SEAL_SALT];
    struct keystore *ks = calloc(1, sizeof *ks);
    const bool ok = ks && RAND_bytes(master.b, sizeof master.b) == 1 && RAND_bytes(salt, sizeof salt) == 1 &&
                    (ks->locks = keystore_locks_new()) && (ks->seal = seal_new(&master, salt)) &&
                    (ks->table = table_new()) && fill(ks, v, n);
    if (ok)
        return ks;
    keystore_close(ks);
    return NULL;
}
