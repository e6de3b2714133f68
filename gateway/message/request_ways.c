#include "message/request_ways.h"

#include "base/crypto.h"
#include "message/xml_internal.h"

/* One way's answer. */
struct way {
    struct request_doc *doc;
    enum reason read, twins, foreign_ids, schema, signature, verified;
    enum kms_root root;
    bool claimed, forwarded;
    struct kms_request claim, fields;
    struct xmlsig_info info;
    const struct request_proof *proof;
    struct buf forward;
    struct detail schema_why, signature_why;
};

static void way_go(struct way *w, struct str body, bool by_tree, const struct xmlsig_policy *policy,
                   const struct secret_key *key)
{
    *w = (struct way){.forward = BUF_INIT(xml_canonical_ceiling(body.n))};
    w->read = request_doc_read(body, &XML_LIMITS_REQUEST, by_tree, &w->doc, NULL);
    if (w->read != REASON_OK)
        return;
    w->root = request_doc_root(w->doc);
    w->claimed = request_doc_claim(w->doc, &w->claim);
    w->twins = request_doc_twins(w->doc, NULL);
    w->foreign_ids = request_doc_foreign_ids(w->doc, NULL);
    w->schema = request_doc_schema(w->doc, STR("1.1.0 1.0.0"), false, &w->schema_why);
    w->signature = request_doc_signature(w->doc, policy, &w->info, &w->signature_why);
    w->verified = request_doc_verify(w->doc, policy, key, &w->proof, NULL);
    if (w->proof)
        request_proof_fields(w->proof, &w->fields);
    w->forwarded = w->proof ? request_proof_forward(w->proof, true, &w->forward)
                            : request_doc_forward_claimed(w->doc, true, &w->forward);
}

static void way_end(struct way *w)
{
    request_doc_free(w->doc);
    buf_free(&w->forward);
}

static bool ways_same_text(struct str a, struct str b)
{
    return (!a.p && !b.p) || str_eq(a, b);
}

static bool ways_same_fields(const struct kms_request *a, const struct kms_request *b)
{
    return ways_same_text(a->id, b->id) && ways_same_text(a->version, b->version) &&
           ways_same_text(a->user_uri, b->user_uri) && ways_same_text(a->kms_uri, b->kms_uri) &&
           ways_same_text(a->time, b->time) && ways_same_text(a->client_id, b->client_id) &&
           ways_same_text(a->device_id, b->device_id) && ways_same_text(a->client_req_url, b->client_req_url) &&
           ways_same_text(a->trk_id, b->trk_id) && ways_same_text(a->signature_id, b->signature_id);
}

static bool ways_same_signature(const struct way *a, const struct way *b)
{
    return a->signature == b->signature && ways_same_text(a->info.key_name, b->info.key_name) &&
           a->info.value_n == b->info.value_n && secret_equal(a->info.value, b->info.value, a->info.value_n) &&
           str_eq(str_z(a->signature_why.text), str_z(b->signature_why.text));
}

/* What they differ in; NULL: nothing. */
static const char *ways_difference(const struct way *a, const struct way *b)
{
    if (b->read != REASON_OK || a->root != b->root)
        return "what the document is";
    if (a->claimed != b->claimed || !ways_same_fields(&a->claim, &b->claim))
        return "the claimed fields";
    if (a->twins != b->twins || a->foreign_ids != b->foreign_ids)
        return "twins";
    if (a->schema != b->schema || !str_eq(str_z(a->schema_why.text), str_z(b->schema_why.text)))
        return "the schema";
    if (!ways_same_signature(a, b))
        return "what the signature says";
    if (a->verified != b->verified || !a->proof != !b->proof)
        return "whether the signature holds";
    if (a->proof && !ways_same_fields(&a->fields, &b->fields))
        return "the signed fields";
    if (!a->forwarded || !b->forwarded || !str_eq(buf_view(&a->forward), buf_view(&b->forward)))
        return "the text that is forwarded";
    return NULL;
}

static bool way_no_memory(const struct way *w)
{
    return w->read == REASON_INTERNAL || w->verified == REASON_INTERNAL || w->forward.failed;
}

enum request_ways request_ways(struct str body, const struct xmlsig_policy *policy, const struct secret_key *key,
                               const char **what)
{
    struct way fast, tree;
    enum request_ways result = REQUEST_WAYS_ONE;
    *what = NULL;
    way_go(&fast, body, false, policy, key);
    if (fast.read == REASON_OK && request_doc_in_profile(fast.doc)) {
        way_go(&tree, body, true, policy, key);
        *what = ways_difference(&fast, &tree);
        result = way_no_memory(&fast) || way_no_memory(&tree) ? REQUEST_WAYS_NO_MEMORY
                 : *what                                      ? REQUEST_WAYS_DIFFER
                 : fast.proof                                 ? REQUEST_WAYS_ACCEPT
                                                              : REQUEST_WAYS_REFUSE;
        way_end(&tree);
    } else if (way_no_memory(&fast)) {
        result = REQUEST_WAYS_NO_MEMORY;
    }
    way_end(&fast);
    return result;
}
