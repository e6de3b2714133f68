/*
 * Inside advise*.c: causes, and groups of requests that are refused for the same ones.
 */
#ifndef KMSGATE_STUDY_ADVISE_INSIDE_H
#define KMSGATE_STUDY_ADVISE_INSIDE_H

#include "study/advise.h"

/*
 * Why a request is refused: name, remedy, what it is, and what is to be done (or what an exception costs). FORM to
 * URL_NORMAL can be excused.
 */
enum remedy { REMEDY_EXCEPTION, REMEDY_CLIENT, REMEDY_CONFIG, REMEDY_KEYS, REMEDY_NONE, REMEDY_SERVICE };
#define CAUSE_LIST(X)                                                                                                 \
    X(FORM, EXCEPTION, "form", "the rule does not accept this form of request",                                       \
      "without a signature nothing proves who asks: anybody in this network can pose as any of these users")          \
    X(NO_RULE, EXCEPTION, "no-rule", "no rule matches", "nothing: all checks hold for them")                          \
    X(HMAC, EXCEPTION, "short-hmac", "the signature is truncated",                                                    \
      "a shorter signature is easier to guess; 128 bits are the least that the rules take")                           \
    X(C14N, EXCEPTION, "canonicalization", "the signature names another canonicalization",                            \
      "little: what was signed is still what is judged; exclusive forms leave out namespaces of ancestors")           \
    X(URI_HOST, EXCEPTION, "kms-uri-host", "KmsUri names this KMS with scheme, port or another case",                 \
      "little: the host is still compared")                                                                           \
    X(LATE, EXCEPTION, "clock-behind", "clocks are behind, or requests are late",                                     \
      "a recorded request stays usable for longer where the replay memory has not seen it")                           \
    X(EARLY, EXCEPTION, "clock-ahead", "clocks are ahead",                                                            \
      "after a restart requests are refused for longer, and a request can be made for later use")                     \
    X(ZONE, EXCEPTION, "local-time", "Time is local time without a zone",                                             \
      "a Time without zone is read in this zone for all whom the rule matches; an offset does not follow summer "     \
      "time: a zone by name, such as Europe/Paris, does")                                                             \
    X(URL_LEADING, EXCEPTION, "url-prefix", "ClientReqUrl is only a leading part of the URL",                         \
      "a request can be sent to another resource below the URL that it names")                                        \
    X(URL_NORMAL, EXCEPTION, "url-spelling", "ClientReqUrl is another spelling of the same URL",                      \
      "nothing: both mean the same resource")                                                                         \
    X(DENIED, NONE, "denied", "a rule with `deny` refuses them", "delete that rule when it has served its purpose")   \
    X(XML, CLIENT, "xml", "the body is not a valid KmsRequest",                                                       \
      "mend the client: `kmsgate explain` shows what is at fault")                                                    \
    X(VERSION, CLIENT, "version", "Version is one that the rules do not name",                                        \
      "mend the client; or, where `kmsgate explain` on a captured request finds nothing else, name that Version in "  \
      "`checks.schema.versions`")                                                                                     \
    X(FORGED, NONE, "signature", "the signature is wrong: forged or changed on the way, or made with another key",    \
      "no exception: compare the key of the user at the client with `kmsgate keys show`; if they are equal, look "    \
      "for whoever sends these")                                                                                      \
    X(PROFILE, CLIENT, "signature-profile", "the signature has an algorithm, transform or KeyInfo no rule allows", \
      "mend the client: `kmsgate explain` on a captured request shows what is at fault")                              \
    X(KEY_UNKNOWN, KEYS, "unknown-key", "the key that signed is not known here",                                      \
      "no exception: if these are your users, import their keys (`kmsgate keys import`); else look for whoever "      \
      "sends these")                                                                                                  \
    X(KEY_REVOKED, KEYS, "revoked-key", "the key that signed is revoked or has expired",                              \
      "no exception: give the user a new key (`kmsgate keys add`), or look for who has the old one")                  \
    X(NO_TRK, KEYS, "no-trk", "the reply holds keys and the user has no TrK to encrypt them",                         \
      "import the TrK of the user (`kmsgate keys import`)")                                                           \
    X(TRK_SIGNS, CLIENT, "trk-signs", "the TrK signs, and the user has an InK",                                       \
      "mend the client: the newest InK signs, and Signature-ID names it")                                             \
    X(SIGNATURE_ID, CLIENT, "signature-id", "Signature-ID does not name the key that signs",                          \
      "mend the client: Signature-ID and KeyName are the ID of the key that signs")                                   \
    X(TRK_ID, KEYS, "trk-id", "TrK-ID names no TrK of the user that is in use, or is missing where a rule demands it", \
      "import that TrK (`kmsgate keys import`), if the device holds it; else give the device a new one")              \
    X(URI_OTHER, CONFIG, "kms-uri", "KmsUri names another KMS",                                                       \
      "if this is a name of your KMS, add it to `kms.uris`; else mend the client")                                    \
    X(TIME_FAR, CLIENT, "clock-wrong", "Time is more than five minutes off",                                          \
      "mend the client: set its clock (NTP); no window should be that wide")                                          \
    X(URL_SCHEME, CONFIG, "url-scheme", "ClientReqUrl has another scheme (http, https)",                              \
      "if the clients do use that URL, add it to `public_url` in gateway.yaml; else mend the client: give it the URL " \
      "that is expected")                                                                                             \
    X(URL_HOST, CONFIG, "url-host", "ClientReqUrl has another host or port",                                          \
      "if the clients do use that URL, add it to `public_url` in gateway.yaml; else mend the client")                 \
    X(URL_PREFIX, CONFIG, "url-path", "ClientReqUrl has another path before the resource",                            \
      "if a proxy takes away or adds a path, write `public_url` with the path that clients use; else mend the client") \
    X(URL_SLASH, CLIENT, "url-slash", "ClientReqUrl has a trailing slash that the request has not, or lacks one",     \
      "mend the client: no comparison sets a slash aside")                                                            \
    X(URL_QUERY, CLIENT, "url-query", "the query of ClientReqUrl is not that of the request",                         \
      "mend the client, or the proxy that changes queries")                                                           \
    X(URL_OTHER, CLIENT, "url", "ClientReqUrl is not the URL of the request",                                         \
      "mend the client; if one user is concerned, a request may have been sent elsewhere than it was made for")       \
    X(PATH_USER, NONE, "path-user", "the user asks for the keys of another",                                          \
      "no exception: if this is a group that any user may ask for, name it in `checks.path_user.also`")               \
    X(REPLAYED, NONE, "replay", "the same signed request was accepted before",                                        \
      "no exception: clients put something fresh into each request, also when they repeat it")                        \
    X(SERVICE, SERVICE, "service", "not refused by the rules", "see the reason in the table of docker/DECISIONS.md")
enum cause {
#define CAUSE_ENUM(e, remedy, name, what, todo) CAUSE_##e,
    CAUSE_LIST(CAUSE_ENUM)
#undef CAUSE_ENUM
    CAUSE_COUNT
};
/* What they have at fault is told by the first of many: those of one group differ in it. */
#define CAUSES_SUCH_AS (1u << CAUSE_KEY_UNKNOWN | 1u << CAUSE_TRK_ID | 1u << CAUSE_PATH_USER)
struct cause_about {
    enum remedy remedy;
    const char *name, *what, *todo;
};
extern const struct cause_about CAUSES[CAUSE_COUNT];

/* What one request is refused for, and what an exception needs to know of it. */
struct plight {
    const struct request_rule *rule; /* NULL: none matches */
    unsigned causes;                 /* bits 1 << enum cause */
    enum reason service;             /* CAUSE_SERVICE */
    int64_t late_us, early_us;       /* LATE, EARLY, ZONE: how far */
    int zone_minutes;                /* ZONE: east positive */
    unsigned hmac_bits;              /* HMAC */
    unsigned c14n;                   /* C14N: XMLSIG_… */
    struct str shown;                /* the value that is at fault, for those that are mended elsewhere; or missing */
};
/* Fills in the causes behind one reason of these rules, and of the rule that gave it (NULL: it is not known). */
void plight_add(struct plight *p, const struct record *r, enum reason reason, const struct rules *rules,
                const struct request_rule *rule);

/* Texts, each once, in the order in which they came. */
struct texts {
    struct str *v; /* owned */
    size_t n, cap, *slots, slot_count;
};
/* Its index; SIZE_MAX without memory. */
size_t texts_add(struct texts *t, struct str s);
bool texts_add_all(struct texts *to, const struct texts *from); /* false: no memory */
void texts_free(struct texts *t);

/* Requests with the same causes, of one rule, form, network and domain of users. */
struct group {
    struct plight plight; /* the widest of all; `shown` is owned */
    enum form form;
    size_t count;
    int64_t first_us, last_us;
    struct texts users, sources; /* sources: the 16 octets of struct ip */
    size_t networks;             /* of how many groups it was made; one: 1 */
    bool nameless, placeless;    /* some had no user that a rule could name; no source */
    bool apart;                  /* no exception: it cannot be told apart from another group's */
};
struct advice {
    const struct rules *rules;
    struct rules relaxed; /* a shallow copy, whose requests are changed while one record is asked about */
    int64_t now_us, first_us, last_us;
    size_t decisions, open;
    struct texts keys;    /* of groups */
    struct group *groups;
    size_t group_cap;
    struct texts accepted; /* what was accepted: 8 octets of hash each */
};

/* The bounds that an exception for the group has. */
struct bounds {
    struct cidr source;   /* bits 0: none */
    bool has_source, has_user, glob;
    struct buf user;      /* the glob, if glob; else all of the group's users are named */
};
bool bounds_ipv4(const struct ip *ip);
/* The smallest network that holds all of at least one. */
struct cidr bounds_network(const struct texts *sources);
/* False: nothing bounds it, so that there is no exception. The caller frees b->user either way. */
bool bounds_of(const struct group *g, struct bounds *b);
bool group_excused(const struct group *g);
/* Makes one of two groups whose exceptions would meet, since only the first of them would decide; and one of the small
 * groups of each cause that no exception is for, so that what a whole fleet has is not told network by network. */
bool groups_join(struct advice *a);
/* A window that lets in who is so late (or early), in steps: what it is, unless the rule's own is wider; 0: none is
 * needed. */
int64_t advice_window(int64_t need_us);

/* The groups that have a place in the answer, in its order, and which of them an exception was written for. */
enum taken { TAKEN_NOT, TAKEN_NOW, TAKEN };
struct groups {
    const struct group **of;
    size_t n;
    unsigned char *taken; /* enum taken, one for each */
};
/* One exception, for one group or for many that need the same. */
enum { TOGETHER_NETWORKS = 64 };
struct together {
    struct group all;   /* of all its groups; count 0: nothing bounds the group, so that there is none */
    struct texts users; /* whom it matches, by name and by glob; empty: whoever comes from the networks */
    bool glob;          /* one at least is a glob */
    struct cidr networks[TOGETHER_NETWORKS];
    size_t network_count;
};
/* The exception for v->of[at], which is excused, and for whom else it is made; those are TAKEN. False: no memory. The
 * caller frees it either way. */
bool together_of(struct together *t, const struct groups *v, size_t at);
void together_free(struct together *t);

#endif
