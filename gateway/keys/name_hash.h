/*
 * A hash of users' names. Names are the operator's own, so a seeded mix is enough against chains that somebody might
 * aim at.
 */
#ifndef KMSGATE_KEYS_NAME_HASH_H
#define KMSGATE_KEYS_NAME_HASH_H

#include "base/str.h"

static inline uint64_t name_fold(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* `seed`: random octets, the same for all names that are to be found again. */
static inline uint32_t name_hash(const uint64_t seed[2], struct str s)
{
    uint64_t h = seed[0] ^ s.n, word;
    size_t i = 0;
    for (; i + sizeof word <= s.n; i += sizeof word) {
        memcpy(&word, s.p + i, sizeof word);
        h = name_fold(h ^ word ^ UINT64_C(0x9e3779b97f4a7c15), seed[1] | 1);
    }
    word = 0;
    memcpy(&word, s.p + i, s.n - i);
    h = name_fold(h ^ word ^ UINT64_C(0xd1b54a32d192ed03), seed[1] | 1);
    return (uint32_t)(name_fold(h ^ seed[0], UINT64_C(0xe7037ed1a0b428db)) >> 16);
}

#endif
