/*
 * What the message tests share: files of tests/cases, the published test keys, and judging a request as the gate does.
 */
#ifndef TEST_MESSAGE_FIXTURE_H
#define TEST_MESSAGE_FIXTURE_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "message/request_doc.h"

#define ALICE_INK "f95d4e53c78e652a91e67432bfb53ffa81c9f32b2124e6658c5671e2fac06123"
#define ALICE_TRK "6262f4b231ca73a6266943b1f7a93c44c8bee89dea943532fdd694aa525ccf50"
#define VERSIONS STR("1.1.0 1.0.0")

static inline struct secret_key key_of(const char *hex)
{
    struct secret_key key;
    size_t n = 0;
    assert_true(hex_decode(str_z(hex), key.b, sizeof key.b, &n));
    assert_int_equal(n, KEY_BYTES);
    return key;
}

/* A file of tests/, such as "cases/vectors/x.xml". */
static inline void read_case(const char *name, struct buf *out)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", TEST_ROOT, name);
    FILE *f = fopen(path, "rb");
    if (!f)
        fail_msg("%s is not there", path);
    *out = BUF_INIT(4u << 20);
    for (char *room; (room = buf_reserve(out, 65536));) {
        const size_t n = fread(room, 1, 65536, f);
        out->n += n;
        if (n == 0)
            break;
    }
    fclose(f);
    assert_false(out->failed);
}

/* What a rule may set. */
struct options {
    struct xmlsig_policy policy;
    struct str versions;
    bool redirect;
    bool by_tree; /* not in one pass */
};
#define STRICT ((struct options){{256, XMLSIG_C14N}, VERSIONS, false, false})
#define STRICT_BY_TREE ((struct options){{256, XMLSIG_C14N}, VERSIONS, false, true})

/* The order of the contract: XML, root and schema, signature. On REASON_OK the caller frees *doc. */
static inline enum reason judge(struct str text, const struct options *o, const struct secret_key *key,
                                struct request_doc **doc, struct kms_request *fields, struct detail *why)
{
    struct xmlsig_info info;
    const struct request_proof *proof = NULL;
    enum reason r = request_doc_read(text, &XML_LIMITS_REQUEST, o->by_tree, doc, why);
    if (r != REASON_OK) {
        assert_null(*doc);
        return r;
    }
    r = request_doc_schema(*doc, o->versions, o->redirect, why);
    if (r == REASON_OK)
        r = request_doc_signature(*doc, &o->policy, &info, why);
    if (r == REASON_OK)
        r = request_doc_verify(*doc, &o->policy, key, &proof, why);
    if (r == REASON_OK) {
        request_proof_fields(proof, fields);
        return r;
    }
    assert_null(proof);
    request_doc_free(*doc);
    *doc = NULL;
    return r;
}

static inline int start_libraries(void **state)
{
    (void)state;
    return xml_startup() ? 0 : -1;
}

static inline int stop_libraries(void **state)
{
    (void)state;
    xml_shutdown();
    return 0;
}

#endif
