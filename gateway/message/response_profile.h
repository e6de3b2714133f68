/*
 * An upstream's reply in the closed profile, read in one pass without a tree: a KmsResponse in the standard's namespace
 * that holds a KmsInit, KmsKeyProv or KmsCertCache, the envelope's elements in any order, those below in the schema's,
 * keys in clear, no extensions. What is read is written down at once as the canonical text that will be sent, with a
 * gap where each key content goes. Everything else is declined, and is for the reader by tree.
 *
 *     struct response_profile *p = response_profile_read(body);   NULL: by dialect_parse() and kms_response_read()
 *     response_profile_fields(p, &response);                            as kms_response_read() would have filled it in
 *     reason = kms_response_write(&response, &plan, &out, &encrypted, why);
 *     response_profile_free(p);
 *
 * Views point into the body and into the profile: both outlive what was filled in. There is no key in the profile:
 * it knows where in the body they are.
 */
#ifndef KMSGATE_MESSAGE_RESPONSE_PROFILE_H
#define KMSGATE_MESSAGE_RESPONSE_PROFILE_H

#include "message/kms_response.h"

/* NULL: not in the profile or not valid, or no memory. In builds for tests also where TESTED_REPLY_WAY=tree. */
struct response_profile *response_profile_read(struct str body);
void response_profile_free(struct response_profile *p); /* NULL is fine */

enum kms_message response_profile_message(const struct response_profile *p);
void response_profile_fields(const struct response_profile *p, struct kms_response *out);

#endif
