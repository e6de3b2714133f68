/*
 * Inside rules*.c: the headers that a request rule sets and passes on.
 */
#ifndef KMSGATE_GATE_RULES_FORWARD_H
#define KMSGATE_GATE_RULES_FORWARD_H

#include "base/yaml.h"
#include "gate/rules.h"

yaml_reader forward_read_headers; /* `to` is a struct forward */
yaml_reader forward_read_pass;    /* `to` is a struct strings */
yaml_reader forward_read_withhold; /* `to` is an unsigned */
struct reading;
/* Fills rules->headers. */
void forward_collect_headers(struct reading *g);
/* The same header to any server: case is nothing, and '_' is '-'. */
bool header_same(struct str a, struct str b);
/* A placeholder that says who asks, in a header's value; NULL: none. */
const char *forward_unproven_holder(const struct forward *f);

#endif
