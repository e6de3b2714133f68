#include "message/request_ways.h"
#include "study/explain_inside.h"

void explain_ways(const struct explain_in *in, struct explanation *e)
{
    const struct judgement *j = in->j;
    struct secret_key clear SECRET_CLEANUP = {{0}};
    const char *what;
    if (!j->doc || !j->rule || j->form == FORM_EMPTY)
        return;
    const struct xmlsig_policy policy = {j->rule->checks.min_hmac_bits, j->rule->checks.canonicalization};
    const struct key *key = j->sig.key_name.p ? keyring_find(&j->ring, j->sig.key_name) : NULL;
    if (key && !keyring_open(&j->ring, key, &clear))
        return;
    if (request_ways(in->body, &policy, &clear, &what) == REQUEST_WAYS_DIFFER)
        explain_sentence(e, "kmsgate's own reader and xmlsec1 differ in %s: that is a fault of kmsgate; please report "
                         "it, with this request", what);
}
