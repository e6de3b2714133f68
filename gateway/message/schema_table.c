#include "message/schema.h"

/*
 * TS 33.180 D.3.2. An element a line: name, type, how often, octets, what is in it.
 */
#define COUNT(a) (sizeof(a) / sizeof(a)[0])

static const struct schema_element DOMAINS[] = {{"KmsDomain", TYPE_URI, MANY, 0, NULL}};
static const struct schema_group DOMAIN_LIST = {.elements = DOMAINS, .count = COUNT(DOMAINS),
                                                .extensions = NO_EXTENSIONS};

static const struct schema_element CERTIFICATE_ELEMENTS[] = {
    {"CertUri", TYPE_URI, OPTIONAL, 0, NULL},
    {"KmsUri", TYPE_URI, ONE, 0, NULL},
    {"Issuer", TYPE_STRING, OPTIONAL, 0, NULL},
    {"ValidFrom", TYPE_TIME, OPTIONAL, 0, NULL},
    {"ValidTo", TYPE_TIME, OPTIONAL, 0, NULL},
    {"Revoked", TYPE_BOOLEAN, OPTIONAL, 0, NULL},
    {"UserIdFormat", TYPE_STRING, ONE, 0, NULL},
    {"UserKeyPeriod", TYPE_INTEGER, ONE, 0, NULL},
    {"UserKeyOffset", TYPE_INTEGER, ONE, 0, NULL},
    {"PubEncKey", TYPE_HEX, ONE, 257, NULL},
    {"PubAuthKey", TYPE_HEX, ONE, 65, NULL},
    {"ParameterSet", TYPE_INTEGER, OPTIONAL, 0, NULL},
    {"KmsDomainList", TYPE_GROUP, OPTIONAL, 0, &DOMAIN_LIST},
};
static const struct schema_attribute CERTIFICATE_ATTRIBUTES[] = {
    {"Role", TYPE_STRING, true, {"Root", "External"}},
    {"IsSecurityGateway", TYPE_BOOLEAN, false, {NULL, NULL}},
};
static const struct schema_group CERTIFICATE = {
    .elements = CERTIFICATE_ELEMENTS, .count = COUNT(CERTIFICATE_ELEMENTS),
    .attributes = CERTIFICATE_ATTRIBUTES, .attribute_count = COUNT(CERTIFICATE_ATTRIBUTES),
    .version = "1.1.0", .extensions = COUNT(CERTIFICATE_ELEMENTS), .any_attribute = true};

static const struct schema_element INIT_ELEMENTS[] = {
    {"SignedKmsCertificate", TYPE_SEALED, CHOICE, 0, &CERTIFICATE},
    {"KmsCertificate", TYPE_GROUP, CHOICE, 0, &CERTIFICATE},
    {"NewTransportKey", TYPE_KEY, ANY, 32, NULL},
    {"NewIntegrityKey", TYPE_KEY, ANY, 32, NULL},
};
static const struct schema_group INIT = {
    .elements = INIT_ELEMENTS, .count = COUNT(INIT_ELEMENTS), .version = "1.0.0", .extensions = 2,
    .any_attribute = true,
    .plain = "KmsInitType", .extended = "KmsInitTkIkType"};

static const struct schema_element KEY_SET_ELEMENTS[] = {
    {"KmsUri", TYPE_URI, ONE, 0, NULL},
    {"CertUri", TYPE_URI, OPTIONAL, 0, NULL},
    {"Issuer", TYPE_STRING, OPTIONAL, 0, NULL},
    {"UserUri", TYPE_URI, ONE, 0, NULL},
    {"UserID", TYPE_STRING, ONE, 0, NULL},
    {"ValidFrom", TYPE_TIME, OPTIONAL, 0, NULL},
    {"ValidTo", TYPE_TIME, OPTIONAL, 0, NULL},
    {"KeyPeriodNo", TYPE_INTEGER, ONE, 0, NULL},
    {"Revoked", TYPE_BOOLEAN, OPTIONAL, 0, NULL},
    {"UserDecryptKey", TYPE_KEY, ONE, 257, NULL},
    {"UserSigningKeySSK", TYPE_KEY, ONE, 32, NULL},
    {"UserPubTokenPVT", TYPE_KEY, ONE, 65, NULL},
};
const struct schema_group SCHEMA_KEY_SET = {.elements = KEY_SET_ELEMENTS, .count = COUNT(KEY_SET_ELEMENTS),
                                            .version = "1.1.0", .extensions = COUNT(KEY_SET_ELEMENTS),
                                            .any_attribute = true};

static const struct schema_element KEY_PROV_ELEMENTS[] = {
    {"KmsKeySet", TYPE_GROUP, ANY, 0, &SCHEMA_KEY_SET},
    {"NewTransportKey", TYPE_KEY, ANY, 32, NULL},
    {"NewIntegrityKey", TYPE_KEY, ANY, 32, NULL},
};
static const struct schema_group KEY_PROV = {
    .elements = KEY_PROV_ELEMENTS, .count = COUNT(KEY_PROV_ELEMENTS), .version = "1.0.0", .extensions = 1,
    .any_attribute = true,
    .plain = "KmsKeyProvType", .extended = "KmsKeyProvTkIkType"};

static const struct schema_element CERT_CACHE_ELEMENTS[] = {
    {"SignedKmsCertificate", TYPE_SEALED, ANY, 0, &CERTIFICATE},
    {"KmsCertificate", TYPE_GROUP, ANY, 0, &CERTIFICATE},
};
static const struct schema_attribute CERT_CACHE_ATTRIBUTES[] = {{"CacheNum", TYPE_INTEGER, false, {NULL, NULL}}};
static const struct schema_group CERT_CACHE = {
    .elements = CERT_CACHE_ELEMENTS, .count = COUNT(CERT_CACHE_ELEMENTS),
    .attributes = CERT_CACHE_ATTRIBUTES, .attribute_count = COUNT(CERT_CACHE_ATTRIBUTES),
    .version = "1.0.0", .extensions = COUNT(CERT_CACHE_ELEMENTS), .any_attribute = true};

/* In the order of enum kms_message, from KMS_MESSAGE_INIT on. */
static const struct schema_element MESSAGE_ELEMENTS[] = {
    {"KmsInit", TYPE_GROUP, CHOICE, 0, &INIT},
    {"KmsKeyProv", TYPE_GROUP, CHOICE, 0, &KEY_PROV},
    {"KmsCertCache", TYPE_GROUP, CHOICE, 0, &CERT_CACHE},
    {"KmsLookup", TYPE_LOOKUP, CHOICE, 0, NULL},
};
const struct schema_group SCHEMA_MESSAGE = {.elements = MESSAGE_ELEMENTS, .count = COUNT(MESSAGE_ELEMENTS),
                                            .extensions = COUNT(MESSAGE_ELEMENTS), .any_attribute = true};

static const struct schema_element ERROR_ELEMENTS[] = {
    {"ErrorCode", TYPE_INTEGER, ONE, 0, NULL},
    {"ErrorMsg", TYPE_STRING, ONE, 0, NULL},
};
static const struct schema_group ERROR_GROUP = {.elements = ERROR_ELEMENTS, .count = COUNT(ERROR_ELEMENTS),
                                                .extensions = COUNT(ERROR_ELEMENTS), .any_attribute = true};

static const struct schema_element RESPONSE_ELEMENTS[] = {
    {"UserUri", TYPE_URI, ENVELOPE, 0, NULL},
    {"KmsUri", TYPE_URI, ENVELOPE, 0, NULL},
    {"Time", TYPE_TIME, ENVELOPE, 0, NULL},
    {"KmsId", TYPE_STRING, OPTIONAL, 0, NULL},
    {"ClientReqUrl", TYPE_URI, ENVELOPE, 0, NULL},
    {"KmsMessage", TYPE_PAYLOAD, OPTIONAL, 0, &SCHEMA_MESSAGE},
    {"KmsError", TYPE_GROUP, OPTIONAL, 0, &ERROR_GROUP},
    {"TrK-ID", TYPE_STRING, OPTIONAL, 0, NULL},
    {"Signature-ID", TYPE_STRING, OPTIONAL, 0, NULL},
};
const struct schema_group SCHEMA_RESPONSE = {.elements = RESPONSE_ELEMENTS, .count = COUNT(RESPONSE_ELEMENTS),
                                             .version = "1.0.0", .extensions = COUNT(RESPONSE_ELEMENTS),
                                             .any_attribute = true};

static const struct schema_group *const GROUPS[] = {&SCHEMA_RESPONSE, &SCHEMA_MESSAGE, &INIT,        &KEY_PROV,
                                                    &SCHEMA_KEY_SET,  &CERT_CACHE,     &CERTIFICATE, &DOMAIN_LIST,
                                                    &ERROR_GROUP};

const struct schema_element *schema_nth(size_t n)
{
    for (size_t g = 0; g < COUNT(GROUPS); g++) {
        if (n < GROUPS[g]->count)
            return GROUPS[g]->elements + n;
        n -= GROUPS[g]->count;
    }
    return NULL;
}

const struct schema_element *schema_named(struct str name)
{
    const struct schema_element *e;
    for (size_t n = 0; (e = schema_nth(n)) != NULL; n++)
        if (str_eq_z(name, e->name))
            return e;
    return NULL;
}
