/*
 * The children of a KmsRequest that are text (TS 33.180 D.2.3, protocol.md) as a table: their names, types, order and
 * where their values go. Both readers of requests hold messages against it. For files of message/ only.
 */
#ifndef KMSGATE_MESSAGE_KMS_REQUEST_TABLE_H
#define KMSGATE_MESSAGE_KMS_REQUEST_TABLE_H

#include "message/kms_request.h"

enum request_field {
    REQUEST_USER_URI,
    REQUEST_KMS_URI,
    REQUEST_TIME,
    REQUEST_CLIENT_ID,
    REQUEST_DEVICE_ID,
    REQUEST_CLIENT_REQ_URL,
    REQUEST_TRK_ID,
    REQUEST_SIGNATURE_ID,
    REQUEST_FIELDS,
    /* the first of those that may stand anywhere behind ClientReqUrl; those before have one of two orders */
    REQUEST_ORDERED = REQUEST_TRK_ID
};
struct request_leaf {
    struct str name;
    size_t at;                 /* offset of its value in struct kms_request */
    bool trimmed;              /* anyURI and dateTime: white space around the value is none of it */
    bool required;
    bool between;              /* spoken between client and gateway: never forwarded */
    bool (*holds)(struct str); /* of a text that is there, untrimmed */
    const char *expected;
};
extern const struct request_leaf REQUEST_LEAVES[REQUEST_FIELDS];
/* The published schema's order and the published table's, which have Time third and fifth. */
enum { REQUEST_BY_SCHEMA, REQUEST_BY_TABLE };
extern const enum request_field REQUEST_ORDER[2][REQUEST_ORDERED];

struct str *request_field(struct kms_request *r, enum request_field f);
/* True when `value` is one of a list that is separated by spaces. */
bool request_version_listed(struct str value, struct str list);

#endif
