#include "http/console.h"

/* docker/DECISIONS.md has the same words; a test holds them together. */
static const struct {
    const char *what, *todo;
} REASONS[REASON_COUNT] = {
    [REASON_OK] =
        {"accepted, and the reply was sent",
         ""},
    [REASON_HTTP_FRAMING] =
        {"the bytes are not one unambiguous HTTP request",
         "look at the client, or at what is between it and the gateway: a refusal here is often an attack"},
    [REASON_HTTP_PATH] =
        {"the path has dot segments, doubled slashes, escapes where none belong, "
         "escaped white space around a segment",
         "correct the client's resource URL"},
    [REASON_HTTP_RESOURCE] =
        {"not a resource of the KMS interface",
         "correct the client's resource URL; `public_url` and a balancer's rewriting"},
    [REASON_HTTP_METHOD] =
        {"not POST",
         "the client does not speak this interface"},
    [REASON_HTTP_MEDIA_TYPE] =
        {"a body that is not `application/xml` or `text/xml`, or is compressed",
         "correct the client"},
    [REASON_HTTP_TOO_LARGE] =
        {"body, target or header lines beyond `limits`",
         "raise the limit that fits, if the request is honest"},
    [REASON_HTTP_TIMEOUT] =
        {"the request did not arrive in time, or its client went away or made room for others",
         "a slow network: `limits.header_timeout`, `body_timeout`"},
    [REASON_HTTP_VERSION] =
        {"neither HTTP/1.0 nor 1.1",
         "correct the client"},
    [REASON_HTTP_EXPECT] =
        {"an `Expect` other than `100-continue`",
         "correct the client"},
    [REASON_HTTP_BUSY] =
        {"a bound is reached: `in_flight`, memory, one user's or one resource's share, connections to the "
         "KMS",
         "`kmsgate_limit` and the log name it"},
    [REASON_REPLAY_FULL] =
        {"no room to remember the request, or the user has reached the share of one",
         "`limits.replay_entries`; a client that asks without end"},
    [REASON_REPLAY_UNAVAILABLE] =
        {"it cannot be told whether the request was accepted before: just after a start, after the clock "
         "stepped, the mark cannot be written, or a memory that many gateways share does not answer well",
         "clients ask again; `/readyz` says what it waits for"},
    [REASON_KEYS_UNAVAILABLE] =
        {"the upstream issued a new key, which `new_keys: learn` could not commit within half a second: a "
         "reply without it would lock its client out",
         "the database of keys: is its disk full, does something hold it? Clients ask again"},
    [REASON_RULE_NONE] =
        {"no request rule matched",
         "add a rule, or correct `match`"},
    [REASON_RULE_FORM] =
        {"the rule does not accept this form (signed, unsigned, empty)",
         "`accept` of the rule"},
    [REASON_RULE_DENIED] =
        {"a rule with `deny: on` matched",
         "that rule's `why`"},
    [REASON_XML_MALFORMED] =
        {"not well-formed XML in UTF-8",
         "`kmsgate explain` shows where"},
    [REASON_XML_FORBIDDEN] =
        {"a DTD, a comment, a processing instruction, another encoding, or beyond a cap",
         "no client needs these: often an attack"},
    [REASON_XML_INVALID] =
        {"not a KmsRequest by the schema",
         "`kmsgate explain` names the element, what was found and what was due"},
    [REASON_SIGNATURE_MISSING] =
        {"unsigned or empty where signed is due",
         "the client lacks the security extension: a rule with an end, or new firmware"},
    [REASON_SIGNATURE_INVALID] =
        {"the signature does not hold",
         "the client's key is another than the gateway's; text was changed on the way; or a forgery"},
    [REASON_SIGNATURE_PROFILE] =
        {"an algorithm, a transform, a length or a KeyInfo outside of what the rule allows",
         "`signature` parameters of the rule, if the client cannot do better"},
    [REASON_SIGNATURE_REFERENCE] =
        {"what was signed is not the request beside the signature",
         "an attack, or a client that cannot be served"},
    [REASON_KEY_UNKNOWN] =
        {"UserUri has no key of that KeyName",
         "`kmsgate keys list --user …`; import the key"},
    [REASON_KEY_POLICY] =
        {"the TrK signed though the user has an InK; KeyName and Signature-ID differ; TrK-ID is not a TrK "
         "of the user in use",
         "`kmsgate explain` says which"},
    [REASON_KEY_REVOKED] =
        {"the key was revoked or has expired",
         "provision the device anew"},
    [REASON_KMS_URI_MISMATCH] =
        {"KmsUri is none of `kms.uris`",
         "add it, or correct the client"},
    [REASON_TIME_STALE] =
        {"Time is outside the window",
         "the client's clock, see `skew_ms`; `past` and `future` of the rule"},
    [REASON_TIME_FUTURE] =
        {"Time is outside the window",
         "the client's clock, see `skew_ms`; `past` and `future` of the rule"},
    [REASON_TIME_ZONE] =
        {"Time has no zone and the rule refuses that",
         "`assume_zone`"},
    [REASON_CLIENT_REQ_URL_MISMATCH] =
        {"ClientReqUrl is not a base of `public_url` and the received target",
         "compare `claims.client_req_url` with `expected_url`"},
    [REASON_PATH_USER_MISMATCH] =
        {"the user in the path is not the signer",
         "`path_user.also`, if that is meant to be"},
    [REASON_REPLAY_SEEN] =
        {"this signed request was accepted before",
         "a client that sends the same bytes again, or an attack"},
    [REASON_UPSTREAM_UNREACHABLE] =
        {"the KMS could not be connected to, or the breaker is open",
         "the KMS; its address, name and certificate"},
    [REASON_UPSTREAM_INVALID] =
        {"the KMS's reply cannot be made a valid one",
         "the log says at `warn` what was found, what was due, and which `dialects` key would help"},
    [REASON_UPSTREAM_WRONG_USER] =
        {"the reply is for another user",
         "the KMS; `user_uri` of a dialect, if it only writes users in another way"},
    [REASON_UPSTREAM_TIMEOUT] =
        {"no whole reply within `upstream.timeout`",
         "the KMS; a longer timeout"},
    [REASON_UPSTREAM_ERROR] =
        {"the KMS answered with 4xx or 5xx",
         "the KMS's own log; the gateway's has the first of its text at `warn`"},
    [REASON_PROTECT_NO_KEY] =
        {"keys must be encrypted, and the user has no TrK",
         "import a TrK, or `encrypt.when` of the response rule"},
    [REASON_INTERNAL] =
        {"out of memory, or a fault of the gateway",
         "report it, with the log"},
};

void console_reasons(struct json *j)
{
    json_object(j, NULL);
    for (size_t r = 0; r < REASON_COUNT; r++) {
        json_object(j, reason_name((enum reason)r));
        json_int(j, "status", reason_status((enum reason)r));
        json_string(j, "what", str_z(REASONS[r].what), 0);
        json_string(j, "do", str_z(REASONS[r].todo), 0);
        json_end(j);
    }
    json_end(j);
}
