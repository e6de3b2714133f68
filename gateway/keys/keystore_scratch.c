#include <stdlib.h>

#include <openssl/rand.h>

#include "keys/keystore_inside.h"

/* Without a database: what is in the table is all there ever is. */
static bool scratch_fill(struct keystore *ks, const struct key_entry *v, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct key_row row = {.user = v[i].user,
                              .key = {.type = v[i].type, .state = v[i].state, .not_after = v[i].not_after,
                                      .since = time_now_us() / US_PER_S * US_PER_S, .keep_old = TIME_NONE,
                                      .seq = i + 1, .id = v[i].id}};
        if (!seal_close(ks->seals[0], row.user, &row.key, &v[i].key) || !table_set(ks->now.table, &row))
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
                    (ks->locks = keystore_locks_new()) && (ks->seals[0] = seal_new(&master, salt)) &&
                    (ks->seal_n = 1) && (ks->listed[0] = true) && (ks->now.table = table_new(0)) &&
                    scratch_fill(ks, v, n);
    if (ok)
        return ks;
    keystore_close(ks);
    return NULL;
}
