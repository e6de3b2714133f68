#include "message/kms_request_table.h"

#include <stddef.h>

#include "base/timestamp.h"
#include "base/uri.h"

static bool leaf_is_string(struct str s)
{
    return s.p != NULL;
}

static bool leaf_is_time(struct str s)
{
    int64_t us;
    bool has_zone;
    return time_parse(s, &us, &has_zone);
}

static bool leaf_is_uri(struct str s)
{
    return s.p && uri_is_any_uri(str_trim(s));
}

#define LEAF(name, field) {"" name "", sizeof(name) - 1}, offsetof(struct kms_request, field)
const struct request_leaf REQUEST_LEAVES[REQUEST_FIELDS] = {
    [REQUEST_USER_URI] = {LEAF("UserUri", user_uri), true, true, false, leaf_is_uri, "an anyURI"},
    [REQUEST_KMS_URI] = {LEAF("KmsUri", kms_uri), true, true, false, leaf_is_uri, "an anyURI"},
    [REQUEST_TIME] = {LEAF("Time", time), true, true, false, leaf_is_time, "a dateTime"},
    [REQUEST_CLIENT_ID] = {LEAF("ClientId", client_id), false, false, false, leaf_is_string, "a string"},
    [REQUEST_DEVICE_ID] = {LEAF("DeviceId", device_id), false, false, false, leaf_is_string, "a string"},
    [REQUEST_CLIENT_REQ_URL] = {LEAF("ClientReqUrl", client_req_url), true, true, false, leaf_is_uri, "an anyURI"},
    [REQUEST_TRK_ID] = {LEAF("TrK-ID", trk_id), false, false, true, leaf_is_string, "a string"},
    [REQUEST_SIGNATURE_ID] = {LEAF("Signature-ID", signature_id), false, false, true, leaf_is_string, "a string"},
};

const enum request_field REQUEST_ORDER[2][REQUEST_ORDERED] = {
    [REQUEST_BY_SCHEMA] = {REQUEST_USER_URI, REQUEST_KMS_URI, REQUEST_TIME, REQUEST_CLIENT_ID, REQUEST_DEVICE_ID,
                           REQUEST_CLIENT_REQ_URL},
    [REQUEST_BY_TABLE] = {REQUEST_USER_URI, REQUEST_KMS_URI, REQUEST_CLIENT_ID, REQUEST_DEVICE_ID, REQUEST_TIME,
                          REQUEST_CLIENT_REQ_URL},
};

struct str *request_field(struct kms_request *r, enum request_field f)
{
    return (struct str *)(void *)((char *)r + REQUEST_LEAVES[f].at);
}

bool request_version_listed(struct str value, struct str list)
{
    while (list.p && list.n > 0) {
        size_t n = 0;
        while (n < list.n && list.p[n] != ' ')
            n++;
        if (n > 0 && str_eq(value, (struct str){list.p, n}))
            return true;
        n += n < list.n;
        list = (struct str){list.p + n, list.n - n};
    }
    return false;
}
