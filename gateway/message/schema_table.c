#include "message/schema.h"

/*
 * TS 33.180 D.3.2. An element a line: name, type, how often, octets, what is in it.
 */
#define COUNT(a) (sizeof(a) / sizeof(a)[0])

static const struct schema_element DOMAINS[] = {{STR_INIT("KmsDomain"), TYPE_URI, MANY, 0, NULL}};
static const struct schema_group DOMAIN_LIST = {.elements = DOMAINS, .count = COUNT(DOMAINS),
                                                .extensions = NO_EXTENSIONS};

static const struct schema_element CERTIFICATE_ELEMENTS[] = {
    {STR_INIT("CertUri"), TYPE_URI, OPTIONAL, 0, NULL},
    {STR_INIT("KmsUri"), TYPE_URI, ONE, 0, NULL},
    {STR_INIT("Issuer"), TYPE_STRING, OPTIONAL, 0, NULL},
    {STR_INIT("ValidFrom"), TYPE_TIME, OPTIONAL, 0, NULL},
    {STR_INIT("ValidTo"), TYPE_TIME, OPTIONAL, 0, NULL},
    {STR_INIT("Revoked"), TYPE_BOOLEAN, OPTIONAL, 0, NULL},
    {STR_INIT("UserIdFormat"), TYPE_STRING, ONE, 0, NULL},
    {STR_INIT("UserKeyPeriod"), TYPE_INTEGER, ONE, 0, NULL},
    {STR_INIT("UserKeyOffset"), TYPE_INTEGER, ONE, 0, NULL},
    {STR_INIT("PubEncKey"), TYPE_HEX, ONE, 257, NULL},
    {STR_INIT("PubAuthKey"), TYPE_HEX, ONE, 65, NULL},
    {STR_INIT("ParameterSet"), TYPE_INTEGER, OPTIONAL, 0, NULL},
    {STR_INIT("KmsDomainList"), TYPE_GROUP, OPTIONAL, 0, &DOMAIN_LIST},
};
static const struct schema_attribute CERTIFICATE_ATTRIBUTES[] = {
    {STR_INIT("Role"), TYPE_STRING, true, {"Root", "External"}},
    {STR_INIT("IsSecurityGateway"), TYPE_BOOLEAN, false, {NULL, NULL}},
};
static const struct schema_group CERTIFICATE = {
    .elements = CERTIFICATE_ELEMENTS, .count = COUNT(CERTIFICATE_ELEMENTS),
    .attributes = CERTIFICATE_ATTRIBUTES, .attribute_count = COUNT(CERTIFICATE_ATTRIBUTES),
    .version = "1.1.0", .extensions = COUNT(CERTIFICATE_ELEMENTS), .any_attribute = true};

static const struct schema_element INIT_ELEMENTS[] = {
    {STR_INIT("SignedKmsCertificate"), TYPE_SEALED, CHOICE, 0, &CERTIFICATE},
    {STR_INIT("KmsCertificate"), TYPE_GROUP, CHOICE, 0, &CERTIFICATE},
    {STR_INIT("NewTransportKey"), TYPE_KEY, ANY, 32, NULL},
    {STR_INIT("NewIntegrityKey"), TYPE_KEY, ANY, 32, NULL},
};
static const struct schema_group INIT = {
    .elements = INIT_ELEMENTS, .count = COUNT(INIT_ELEMENTS), .version = "1.0.0", .extensions = 2,
    .any_attribute = true,
    .plain = "KmsInitType", .extended = "KmsInitTkIkType"};

static const struct schema_element KEY_SET_ELEMENTS[] = {
    {STR_INIT("KmsUri"), TYPE_URI, ONE, 0, NULL},
    {STR_INIT("CertUri"), TYPE_URI, OPTIONAL, 0, NULL},
    {STR_INIT("Issuer"), TYPE_STRING, OPTIONAL, 0, NULL},
    {STR_INIT("UserUri"), TYPE_URI, ONE, 0, NULL},
    {STR_INIT("UserID"), TYPE_STRING, ONE, 0, NULL},
    {STR_INIT("ValidFrom"), TYPE_TIME, OPTIONAL, 0, NULL},
    {STR_INIT("ValidTo"), TYPE_TIME, OPTIONAL, 0, NULL},
    {STR_INIT("KeyPeriodNo"), TYPE_INTEGER, ONE, 0, NULL},
    {STR_INIT("Revoked"), TYPE_BOOLEAN, OPTIONAL, 0, NULL},
    {STR_INIT("UserDecryptKey"), TYPE_KEY, ONE, 257, NULL},
    {STR_INIT("UserSigningKeySSK"), TYPE_KEY, ONE, 32, NULL},
    {STR_INIT("UserPubTokenPVT"), TYPE_KEY, ONE, 65, NULL},
};
const struct schema_group SCHEMA_KEY_SET = {.elements = KEY_SET_ELEMENTS, .count = COUNT(KEY_SET_ELEMENTS),
                                            .version = "1.1.0", .extensions = COUNT(KEY_SET_ELEMENTS),
                                            .any_attribute = true};

static const struct schema_element KEY_PROV_ELEMENTS[] = {
    {STR_INIT("KmsKeySet"), TYPE_GROUP, ANY, 0, &SCHEMA_KEY_SET},
    {STR_INIT("NewTransportKey"), TYPE_KEY, ANY, 32, NULL},
    {STR_INIT("NewIntegrityKey"), TYPE_KEY, ANY, 32, NULL},
};
static const struct schema_group KEY_PROV = {
    .elements = KEY_PROV_ELEMENTS, .count = COUNT(KEY_PROV_ELEMENTS), .version = "1.0.0", .extensions = 1,
    .any_attribute = true,
    .plain = "KmsKeyProvType", .extended = "KmsKeyProvTkIkType"};

static const struct schema_element CERT_CACHE_ELEMENTS[] = {
    {STR_INIT("SignedKmsCertificate"), TYPE_SEALED, ANY, 0, &CERTIFICATE},
    {STR_INIT("KmsCertificate"), TYPE_GROUP, ANY, 0, &CERTIFICATE},
};
static const struct schema_attribute CERT_CACHE_ATTRIBUTES[] = {
    {STR_INIT("CacheNum"), TYPE_INTEGER, false, {NULL, NULL}},
};
static const struct schema_group CERT_CACHE = {
    .elements = CERT_CACHE_ELEMENTS, .count = COUNT(CERT_CACHE_ELEMENTS),
    .attributes = CERT_CACHE_ATTRIBUTES, .attribute_count = COUNT(CERT_CACHE_ATTRIBUTES),
    .version = "1.0.0", .extensions = COUNT(CERT_CACHE_ELEMENTS), .any_attribute = true};

/* In the order of enum kms_message, from KMS_MESSAGE_INIT on. */
static const struct schema_element MESSAGE_ELEMENTS[] = {
    {STR_INIT("KmsInit"), TYPE_GROUP, CHOICE, 0, &INIT},
    {STR_INIT("KmsKeyProv"), TYPE_GROUP, CHOICE, 0, &KEY_PROV},
    {STR_INIT("KmsCertCache"), TYPE_GROUP, CHOICE, 0, &CERT_CACHE},
    {STR_INIT("KmsLookup"), TYPE_LOOKUP, CHOICE, 0, NULL},
};
const struct schema_group SCHEMA_MESSAGE = {.elements = MESSAGE_ELEMENTS, .count = COUNT(MESSAGE_ELEMENTS),
                                            .extensions = COUNT(MESSAGE_ELEMENTS), .any_attribute = true};

static const struct schema_element ERROR_ELEMENTS[] = {
    {STR_INIT("ErrorCode"), TYPE_INTEGER, ONE, 0, NULL},
    {STR_INIT("ErrorMsg"), TYPE_STRING, ONE, 0, NULL},
};
static const struct schema_group ERROR_GROUP = {.elements = ERROR_ELEMENTS, .count = COUNT(ERROR_ELEMENTS),
                                                .extensions = COUNT(ERROR_ELEMENTS), .any_attribute = true};

static const struct schema_element RESPONSE_ELEMENTS[] = {
    {STR_INIT("UserUri"), TYPE_URI, ENVELOPE, 0, NULL},
    {STR_INIT("KmsUri"), TYPE_URI, ENVELOPE, 0, NULL},
    {STR_INIT("Time"), TYPE_TIME, ENVELOPE, 0, NULL},
    {STR_INIT("KmsId"), TYPE_STRING, OPTIONAL, 0, NULL},
    {STR_INIT("ClientReqUrl"), TYPE_URI, ENVELOPE, 0, NULL},
    {STR_INIT("KmsMessage"), TYPE_PAYLOAD, OPTIONAL, 0, &SCHEMA_MESSAGE},
    {STR_INIT("KmsError"), TYPE_GROUP, OPTIONAL, 0, &ERROR_GROUP},
    {STR_INIT("TrK-ID"), TYPE_STRING, OPTIONAL, 0, NULL},
    {STR_INIT("Signature-ID"), TYPE_STRING, OPTIONAL, 0, NULL},
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
        if (str_eq(name, e->name))
            return e;
    return NULL;
}
