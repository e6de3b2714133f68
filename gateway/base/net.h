/*
 * IP addresses and networks. IPv4-mapped IPv6 addresses (::ffff:a.b.c.d) are the IPv4 address they carry.
 */
#ifndef KMSGATE_BASE_NET_H
#define KMSGATE_BASE_NET_H

#include <sys/socket.h>

#include "base/str.h"

struct ip {
    uint8_t b[16]; /* IPv4 as ::ffff:a.b.c.d */
    bool known;    /* false: a Unix socket's peer, or */
    bool garbled;  /* what a proxy passed on as its peer is no address */
};
struct cidr {
    struct ip base;
    unsigned bits; /* 0..128, of the 16 octets */
};
enum { IP_TEXT = 48, HOST_TEXT = 255 /* a host's name */ };

bool ip_parse(struct str text, struct ip *out);
/* The same with a port behind it, if there is one, which is passed over: 10.1.2.3:4711, [2001:db8::1]:443. */
bool ip_parse_with_port(struct str text, struct ip *out);
/* "HOST:PORT" into views; the brackets of an IPv6 address are taken off. False: no host, or no port of 1 to 65535. */
bool net_host_port(struct str s, struct str *host, struct str *port);
void ip_format(const struct ip *ip, char out[IP_TEXT]); /* "unix" or "unknown" when not known */
void ip_from_sockaddr(const struct sockaddr *sa, struct ip *out);
/* "10.0.0.0/8", "::1/128", or a bare address. False when host bits are set or the text is no network. */
bool cidr_parse(struct str text, struct cidr *out);
bool cidr_contains(const struct cidr *net, const struct ip *ip);

#endif
