#include <stdio.h>
#include <stdlib.h>

#include "study/explain_inside.h"
#include "message/xmlsig_diagnose.h"

#define MINUTE_US (60 * US_PER_S)

struct shown explain_length(int64_t us)
{
    struct shown out;
    const int64_t a = us < 0 ? -us : us, exact = a / US_PER_S;
    const int64_t unit = exact < 60 ? 1 : exact < 3600 ? US_PER_S : exact < 2 * 86400 ? MINUTE_US : 3600 * US_PER_S;
    const int64_t s = (a + unit / 2) / unit * unit / US_PER_S; /* to what is shown */
    if (a < MINUTE_US)
        snprintf(out.z, sizeof out.z, "%lld.%03lld s", (long long)s, (long long)(a / 1000 % 1000));
    else if (s < 3600)
        snprintf(out.z, sizeof out.z, "%lld min %02lld s", (long long)(s / 60), (long long)(s % 60));
    else if (s < 2 * 86400)
        snprintf(out.z, sizeof out.z, "%lld h %02lld min", (long long)(s / 3600), (long long)(s / 60 % 60));
    else
        snprintf(out.z, sizeof out.z, "%lld d %02lld h", (long long)(s / 86400), (long long)(s / 3600 % 24));
    return out;
}

/* Clocks drift: a minute next to a quarter of an hour still looks like it. */
int explain_zone(int64_t us)
{
    enum { QUARTER = 15, MOST = 14 * 60 };
    const int64_t quarters = (us + (us < 0 ? -1 : 1) * QUARTER * MINUTE_US / 2) / (QUARTER * MINUTE_US);
    const int64_t rest = us - quarters * QUARTER * MINUTE_US;
    const int64_t minutes = quarters * QUARTER;
    if (rest > MINUTE_US || rest < -MINUTE_US || minutes > MOST || minutes < -MOST)
        return 0;
    return (int)minutes;
}

static struct shown zone(int minutes)
{
    struct shown out;
    const int a = minutes < 0 ? -minutes : minutes;
    snprintf(out.z, sizeof out.z, "UTC%c%02d:%02d", minutes < 0 ? '-' : '+', a / 60, a % 60);
    return out;
}

void explain_time(const struct explain_in *in, struct explanation *e)
{
    const struct judgement *j = in->j;
    const enum check_result result = j->decision.checks[CHECK_TIME];
    int64_t t, first_day = 0;
    bool has_zone;
    if ((result != CHECK_FAIL && result != CHECK_SHADOW_FAIL) || !time_parse(j->request.time, &t, &has_zone) ||
        !date_parse(STR("2015-01-01"), &first_day))
        return;
    const int64_t off = t - in->now_us; /* of the text read as UTC where it has no zone */
    const int minutes = explain_zone(off);
    const char *sign = off < 0 ? "-" : "+";
    const struct shown nominal = explain_length(minutes * MINUTE_US); /* the check's line tells it to the millisecond */
    if (minutes && !has_zone)
        explain_sentence(e, "Time is off by %s%s, no zone: the client sends local time (%s). Without a zone a "
                            "Time counts as %s here", sign, nominal.z, zone(minutes).z,
                         j->rule->checks.zone           ? j->rule->checks.zone_name
                         : j->rule->checks.zone_minutes ? zone(j->rule->checks.zone_minutes).z
                                                        : "UTC");
    else if (minutes)
        explain_sentence(e, "Time is %s%s from now: it looks like the local time of %s with another zone written "
                            "behind it", sign, nominal.z, zone(minutes).z);
    else if (!has_zone && j->rule->checks.zone_refuse)
        explain_sentence(e, "Time has no zone, and the rule refuses such a Time (assume_zone: refuse)");
    else if (t < first_day)
        explain_sentence(e, "Time is of the year %.4s: the client's clock was never set", j->request.time.p);
    else if (off < 0 && !in->at_given)
        explain_sentence(e, "Time is %s ago. If this request was captured, say when it arrived: `--at TIME`; it was "
                            "judged as of now", explain_length(off).z);
    else
        explain_sentence(e, "Time is %s %s: the clocks of client and gateway differ%s", explain_length(off).z,
                         off < 0 ? "ago" : "ahead", off < 0 ? ", or the request was long under way" : "");
}

static const char *type_name(const struct key *k)
{
    return k->type == KEY_INK ? "InK" : "TrK";
}

static const char *condition(const struct key *k, int64_t now_us)
{
    return k->state == KEY_REVOKED ? "revoked" : !key_usable(k, now_us) ? "expired" : key_state_name(k->state);
}

static void tell_difference(struct explanation *e, const char *what, const struct xmlsig_attempt *a)
{
    if (!a->ours[0] && !a->theirs[0])
        return;
    explain_sentence(e, "%s, at octet %zu, the gateway hashes   %s", what, a->at, a->ours);
    explain_sentence(e, "%s, at octet %zu, the client hashed    %s", what, a->at, a->theirs);
}

/* Other declarations than those that were hashed: whose they are, and who may have changed them. The bytes alone do not
 * tell a client that hashes otherwise from a proxy that adds what the client never wrote. */
static void tell_declarations(struct explanation *e, const char *what, const struct xmlsig_attempt *a)
{
    const bool added = a->added[0] && (a->form == XMLSIG_AS_BEFORE || a->form == XMLSIG_AS_EXCLUSIVE ||
                                       a->form == XMLSIG_AS_ALONE || a->form == XMLSIG_AS_EXCLUSIVE_OR_ALONE);
    if (a->lost[0])
        explain_sentence(e, "lost on the way, from an element above: the declarations of %s", a->lost);
    if (added)
        explain_sentence(e, "declared around %s here, and not in what was hashed: %s. If the client never wrote that, "
                            "something on the way (a proxy, an XML firewall) added it after signing, and inclusive "
                            "canonicalization renders it", what, a->added);
    e->on_the_way |= added || a->lost[0];
}

static void tell_digest(const struct explain_in *in, struct explanation *e)
{
    struct xmlsig_attempt a;
    const struct xml_doc *tree = request_doc_tree(in->j->doc, in->body);
    if (!tree || !xmlsig_find_digest(tree, in->body, &a)) {
        explain_sentence(e, "DigestValue is wrong: what was signed is not the message that stands here. It was changed "
                         "after signing (a value, white space, a namespace that an element above declared), or the "
                         "client hashed something else than its canonical form");
        return;
    }
    if (a.form == XMLSIG_AS_DECLARED && a.ends == XMLSIG_LF) {
        explain_sentence(e, "DigestValue is right: the message is what was hashed");
        return;
    }
    explain_sentence(e, "DigestValue is wrong, and this would make it right: the client hashed the message %s%s%s",
                     xmlsig_form_says(a.form), *xmlsig_form_says(a.form) && *xmlsig_ends_say(a.ends) ? ", and " : "",
                     xmlsig_ends_say(a.ends));
    tell_declarations(e, "the message", &a);
    tell_difference(e, "message", &a);
}

/* How the SignatureValue was made, if by this key; the words of what was wrong with it. */
static bool tell_hmac(const struct explain_in *in, struct explanation *e, const struct key *k)
{
    const struct judgement *j = in->j;
    struct secret_key clear SECRET_CLEANUP = {{0}};
    struct xmlsig_attempt a;
    const struct xml_doc *tree = request_doc_tree(j->doc, in->body);
    if (!tree || !keyring_open(&j->ring, k, &clear) || !xmlsig_find_hmac(tree, in->body, &clear, &a))
        return false;
    const bool named = str_eq(k->id, j->sig.key_name), usable = key_usable(k, in->now_us);
    const bool plain = usable && (named || k->state == KEY_ACTIVE);
    const char *form = xmlsig_form_says(a.form), *ends = xmlsig_ends_say(a.ends),
               *text = xmlsig_key_text_says(a.key_text);
    if (named && usable && !*form && !*ends && !*text && a.bits == 256) {
        explain_sentence(e, "SignatureValue is right under %s %s", type_name(k), explain_shown(k->id).z);
        return true;
    }
    explain_sentence(e, "SignatureValue %s under %s %s%s%s%s%s%s%s%s",
                     named && usable && !*form && !*ends && !*text ? "is right" : "would be right",
                     type_name(k), explain_shown(k->id).z, plain ? "" : ", which is ",
                     plain ? "" : condition(k, in->now_us),
                     named ? "" : ", though KeyName names another key", *form ? "; SignedInfo was hashed " : "", form,
                     *ends ? "; SignedInfo was hashed " : "", ends);
    if (*text)
        explain_sentence(e, "the client computed the HMAC %s", text);
    if (a.bits != 256)
        explain_sentence(e, "the HMAC is cut to %u bits: a rule takes that only where it says min_hmac_bits: %u, and "
                            "the message only with HMACOutputLength", a.bits, a.bits < 128 ? 128 : a.bits);
    tell_declarations(e, "SignedInfo", &a);
    tell_difference(e, "SignedInfo", &a);
    return true;
}

struct seek {
    struct str id, except;
    char *user;
};

static bool seek_key(void *arg, const struct keyring *ring, const struct key *key)
{
    struct seek *s = arg;
    if (!str_eq(key->id, s->id) || str_eq(ring->user, s->except))
        return true;
    s->user = str_dup(ring->user);
    return false;
}

/* Why there is no such key: nobody else in the program may ask this. */
static void tell_stranger(const struct explain_in *in, struct explanation *e)
{
    const struct judgement *j = in->j;
    struct seek s = {.id = j->sig.key_name, .except = j->request.user_uri};
    if (j->ring.n == 0)
        explain_sentence(e, "%s has no keys here at all: `kmsgate keys import`, or the client writes another UserUri "
                            "than the one its keys were made for", explain_shown(j->request.user_uri).z);
    else
        explain_sentence(e, "%s has keys, but none of the ID %s: `kmsgate keys show --user ...` lists them",
                         explain_shown(j->request.user_uri).z, explain_shown(j->sig.key_name).z);
    if (in->keys && keystore_walk(in->keys, seek_key, &s) && s.user)
        explain_sentence(e, "a key of the ID %s belongs to %s: a key signs for its own user alone",
                         explain_shown(j->sig.key_name).z, explain_shown(str_z(s.user)).z);
    free(s.user);
}

static void tell_keys(const struct explain_in *in, struct explanation *e)
{
    const struct judgement *j = in->j;
    const struct key *named = keyring_find(&j->ring, j->sig.key_name);
    if (!named)
        tell_stranger(in, e);
    else if (!key_usable(named, in->now_us))
        explain_sentence(e, "%s %s, which KeyName names, is %s", type_name(named), explain_shown(named->id).z,
                         condition(named, in->now_us));
    if (named && tell_hmac(in, e, named))
        return;
    for (size_t i = 0; i < j->ring.n; i++)
        if (&j->ring.keys[i] != named && tell_hmac(in, e, &j->ring.keys[i]))
            return;
    if (j->ring.n)
        explain_sentence(e, "SignatureValue is wrong under each of the %zu keys of %s, raw, as hex and as base64 text: "
                         "SignedInfo was changed after signing, or the client holds another key", j->ring.n,
                         explain_shown(j->request.user_uri).z);
}

bool explain_profile(const struct explain_in *in, struct xmlsig_policy *need)
{
    static const unsigned MORE[] = {0,
                                    XMLSIG_EXC_C14N,
                                    XMLSIG_C14N11,
                                    XMLSIG_EXC_C14N | XMLSIG_C14N11,
                                    XMLSIG_C14N_COMMENTS,
                                    XMLSIG_EXC_C14N_COMMENTS,
                                    XMLSIG_C14N11_COMMENTS};
    const struct judgement *j = in->j;
    const struct checks *c = &j->rule->checks;
    struct xmlsig_info info;
    for (size_t i = 0; i < 2 * sizeof MORE / sizeof *MORE; i++) {
        const size_t m = i % (sizeof MORE / sizeof *MORE);
        *need = (struct xmlsig_policy){i == m ? c->min_hmac_bits : 128, c->canonicalization | MORE[m]};
        if (request_doc_signature(j->doc, need, &info, NULL) != REASON_OK)
            continue;
        if (i != m)
            need->min_hmac_bits = (unsigned)info.value_n * 8;
        return i > 0;
    }
    return false;
}

static void tell_profile(const struct explain_in *in, struct explanation *e)
{
    struct xmlsig_policy need;
    const struct checks *c = &in->j->rule->checks;
    if (explain_profile(in, &need) && need.canonicalization != c->canonicalization)
        explain_sentence(e, "the message declares %scanonicalization (%s), which rule `%s` does not take (%s)",
                         need.canonicalization & ~c->canonicalization & XMLSIG_EXC_C14N ? "exclusive " : "",
                         explain_canonicalizations(need.canonicalization & ~c->canonicalization).z,
                         in->j->rule->id, explain_canonicalizations(c->canonicalization).z);
}

void explain_signature(const struct explain_in *in, struct explanation *e)
{
    struct judgement *j = in->j;
    const enum check_result result = j->decision.checks[CHECK_SIGNATURE];
    const bool quiet_off = result == CHECK_OFF && j->form == FORM_SIGNED && !j->proven;
    if (result != CHECK_FAIL && result != CHECK_SHADOW_FAIL && !quiet_off)
        return;
    const struct str before = j->sig.key_name;
    const struct xml_doc *tree = request_doc_tree(j->doc, in->body);
    if (!before.p && tree)
        j->sig.key_name = xmlsig_find_key_name(tree);
    if (j->sig.key_name.p && checks_ring(j) == REASON_OK) {
        tell_profile(in, e);
        tell_keys(in, e);
        tell_digest(in, e);
    }
    j->sig.key_name = before;
}
