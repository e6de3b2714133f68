/*
 * What the files of explain share.
 */
#ifndef KMSGATE_STUDY_EXPLAIN_INSIDE_H
#define KMSGATE_STUDY_EXPLAIN_INSIDE_H

#include "base/yaml.h"
#include "gate/checks.h"
#include "study/explain.h"
#include "gate/rules_internal.h"

/* A text that the explanation owns; NULL and failed without memory. */
char *explain_text(struct explanation *e, const char *format, ...) __attribute__((format(printf, 2, 3)));
void explain_sentence(struct explanation *e, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Cut, printable; "(none)" when missing. */
struct shown explain_shown(struct str s);

/* Sentences of what seems to be the cause of what check c found. */
void explain_signature(const struct explain_in *in, struct explanation *e);
/* A sentence where the gateway's own reader and xmlsec1 do not agree on the request: a fault of the gateway's. */
void explain_ways(const struct explain_in *in, struct explanation *e);
void explain_time(const struct explain_in *in, struct explanation *e);
/* "2 h 00 min", "3.214 s": a length of time for people, without its sign. */
struct shown explain_length(int64_t us);
/* The offset from UTC, a multiple of a quarter of an hour, that `us` looks like; 0: none. */
int explain_zone(int64_t us);

/* The least that a rule would have to allow beyond what this one does, for the signature's profile to be allowed;
 * false: no rule can, or the profile is not what is wrong. */
bool explain_profile(const struct explain_in *in, struct xmlsig_policy *need);
struct shown explain_canonicalizations(unsigned bits);

/* How the ClientReqUrl differs from the bases of public_url + target; a sentence that says whose fault it may be. */
enum explain_url_fault { URL_FAULT_OTHER, URL_FAULT_SCHEME, URL_FAULT_AUTHORITY, URL_FAULT_SLASH };
enum explain_url_fault explain_url_fault(const struct explain_in *in);
void explain_url(const struct explain_in *in, struct explanation *e);
/* A rule to stand above the one that judged, with these settings, bounded by user or source, path and time; NULL when
 * nothing can bound it, or without memory (e->failed). The caller owns it. */
char *explain_exception(const struct explain_in *in, struct explanation *e, const char *settings);

/* Appends s as a value of YAML that is a glob for itself alone; false, and nothing, where that cannot be. */
bool explain_quoted(struct str s, struct buf *out);

void explain_advise(const struct explain_in *in, struct explanation *e);
/* What check c would say if the rule's checks were `other`. Restores all that it changes. */
enum reason explain_as_if(const struct explain_in *in, check_fn *check, const struct checks *other);

#endif
