#include "keys_issue.h"

#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

enum { CACHE_SLOTS = 4096 };

static struct cached {
    char *user; /* NULL: the slot is free */
    uint64_t number;
    struct user_keys made;
} *cache;
static struct mikey_master *master;
static char *kms;

bool keys_startup(const char *kms_uri)
{
    kms = strdup(kms_uri);
    cache = calloc(CACHE_SLOTS, sizeof *cache);
    master = mikey_master_new();
    return kms && cache && master;
}

void keys_shutdown(void)
{
    for (size_t i = 0; cache && i < CACHE_SLOTS; i++)
        free(cache[i].user);
    if (cache)
        OPENSSL_cleanse(cache, CACHE_SLOTS * sizeof *cache);
    free(cache);
    free(kms);
    mikey_master_free(master);
    cache = NULL;
    kms = NULL;
    master = NULL;
}

const uint8_t *keys_pub_enc(void)
{
    return mikey_pub_enc(master);
}

const uint8_t *keys_pub_auth(void)
{
    return mikey_pub_auth(master);
}

/* FNV-1a; a collision only costs a new issue. */
static size_t slot_of(const char *user, uint64_t number)
{
    uint64_t h = UINT64_C(14695981039346656037) ^ number;
    for (; *user; user++)
        h = (h ^ (unsigned char)*user) * UINT64_C(1099511628211);
    return (size_t)((h ^ h >> 32) % CACHE_SLOTS);
}

const struct user_keys *keys_of(const char *user_uri, uint64_t period_number)
{
    struct cached *c = &cache[slot_of(user_uri, period_number)];
    if (c->user && c->number == period_number && strcmp(c->user, user_uri) == 0)
        return &c->made;
    free(c->user);
    c->user = NULL; /* free until all of it is there */
    c->number = period_number;
    const uint64_t numbers[3] = {KEY_PERIOD, KEY_OFFSET, period_number};
    if (!mikey_user_id(user_uri, kms, numbers, c->made.user_id) ||
        !mikey_issue(master, c->made.user_id, sizeof c->made.user_id, &c->made.keys) || !(c->user = strdup(user_uri)))
        return NULL;
    return &c->made;
}
