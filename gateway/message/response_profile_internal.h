/*
 * What the reader of the profile leaves to its writer. For files of message/ only.
 */
#ifndef KMSGATE_MESSAGE_RESPONSE_PROFILE_INTERNAL_H
#define KMSGATE_MESSAGE_RESPONSE_PROFILE_INTERNAL_H

#include "message/kms_response_write.h"
#include "message/response_profile.h"

/* A key content: hex of e's octets, in the body; its xsi:type and content are not in the text, where `at` is. */
struct response_key {
    size_t at;
    struct str hex;
    const struct schema_element *e;
};
struct response_profile {
    enum kms_message message;
    struct str user_uri, kms_uri, time, kms_id, client_req_url;
    struct str set_user; /* the UserUri of every KmsKeySet; missing: there is none */
    size_t certificates;
    struct str kms_id_unfit;
    struct detail left_out; /* of the payload: schema_tell_unfree() of the first */
    struct str text;     /* canonical text of the payload: KmsInit, KmsKeyProv or KmsCertCache */
    struct str texts;    /* the texts and attributes that stand in it, without references, a NUL behind each */
    size_t key_count;
    struct response_key keys[]; /* in order */
};

/* About how long the response will be; mostly it is a little shorter. */
size_t writing_profile_ceiling(const struct response_profile *p, const struct kms_response_plan *plan);
/* The payload, with every key in its place. `declare`: stands behind its name. */
void writing_profile(struct writing *w, const struct response_profile *p, const char *declare);

#endif
