#include <malloc.h>
#include <string.h>

#include <libxml/xmlmemory.h>

#include "base/aside.h"
#include "base/secret.h"
#include "message/xml_internal.h"

/*
 * A reply of an older KMS holds keys in clear, and libxml2 copies its text into input buffers, a growing text node, a
 * tree, output buffers. None of that can be wiped from outside: it is, where libxml2 frees, and comes from locked
 * memory while there is any. Which memory there is below (the C library's, or a test's that ends) is not our choice;
 * blocks are the C library's in any case.
 *
 * Where there is none, libxml2 and xmlsec get what is set aside: they crash, leak, or make less than was asked for and
 * do not say so, when an allocation fails. Whoever called them looks at xml_shortages() when they have come back, and
 * refuses.
 */
static xmlFreeFunc plain_free;
static xmlMallocFunc plain_malloc;
static xmlReallocFunc plain_realloc;
static _Thread_local unsigned wiping;
static _Thread_local uint64_t shortages;

static void wipe_and_free(void *p)
{
    if (aside_give(p))
        return;
    if (wiping && p)
        secret_wipe(p, malloc_usable_size(p));
    plain_free(p);
}

static void *memory_lend(size_t n)
{
    void *p = wiping ? locked_take(n) : NULL;
    if (p || (p = plain_malloc(n)))
        return p;
    shortages++;
    return spare_take(n);
}

static char *take_copy(const char *z)
{
    const size_t n = strlen(z) + 1;
    char *p = memory_lend(n);
    return p ? memcpy(p, z, n) : NULL;
}

/* realloc() would leave a copy behind. */
static void *move_and_wipe(void *p, size_t n)
{
    if (!p)
        return memory_lend(n);
    const size_t aside = aside_size(p);
    void *const same = wiping || aside ? NULL : plain_realloc(p, n);
    if (same)
        return same;
    const size_t have = aside ? aside : malloc_usable_size(p);
    void *to = memory_lend(n);
    if (!to)
        return NULL;
    memcpy(to, p, have < n ? have : n);
    wipe_and_free(p);
    return to;
}

uint64_t xml_shortages(void)
{
    return shortages;
}

bool xml_memory_startup(void)
{
    xmlStrdupFunc unused;
    if (plain_free)
        return true;
    return xmlMemGet(&plain_free, &plain_malloc, &plain_realloc, &unused) == 0 &&
           xmlMemSetup(wipe_and_free, memory_lend, move_and_wipe, take_copy) == 0;
}

void xml_secret_begin(bool secret)
{
    wiping += secret;
}

void xml_secret_end(bool secret)
{
    wiping -= secret;
}
