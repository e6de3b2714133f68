/*
 * Every fixed limit, its unit and its reason. Limits that operators may change stand in base/config.h.
 */
#ifndef KMSGATE_BASE_LIMITS_H
#define KMSGATE_BASE_LIMITS_H

/* Inclusive C14N is cubic in namespaces times elements (10 KB can cost 0.4 s): structure is capped while parsing. */
#define LIMIT_XML_DEPTH_REQUEST 16
#define LIMIT_XML_DEPTH_REPLY 32
#define LIMIT_XML_ELEMENTS_REQUEST 256
#define LIMIT_XML_ELEMENTS_REPLY 20000
#define LIMIT_XML_ATTRIBUTES 16 /* an element */
#define LIMIT_XML_NAMESPACES 16 /* declarations in scope of an element */
#define LIMIT_XML_DECLARATIONS_REQUEST 64    /* in a whole message */
/* To /redirect: a list of redirect responses, each signed. Costs stay linear: those in scope of an element are few. */
#define LIMIT_XML_ELEMENTS_REDIRECT 2048
#define LIMIT_XML_DECLARATIONS_REDIRECT 512
#define LIMIT_XML_DECLARATIONS_REPLY 20000
#define LIMIT_XML_ATTRIBUTES_REPLY 20000 /* in a whole message: each costs like an element */

#define LIMIT_DECISION_TEXT 256       /* bytes of a client's string in a decision line */
#define LIMIT_USER_KEYS 64            /* keys of one user: bounds the work that one request can cause */
#define LIMIT_REPLY_OUT (16u << 20)   /* bytes of a reply that the gateway makes */
#define LIMIT_KEY_CONTENT 1024        /* octets of one key content; an RSK has 257 */
#define LIMIT_YAML_BYTES (4u << 20)   /* a rules or configuration file */

#endif
