/*
 * What the load generator's parts share: load.c (arguments, keys), load_upstream.c (an older KMS), load_run.c (requests
 * over kept connections), load_tls.c (handshakes). Each is one thread with as few system calls as there can be, so that
 * what is measured is the gateway, or nginx, and not this.
 */
#ifndef TEST_BENCH_LOAD_H
#define TEST_BENCH_LOAD_H

#include <netinet/in.h>

#include "bench.h"
#include "message/kms_response.h"

struct sockaddr_in load_loopback(const char *port);
/* A socket whose words are sent at once and that never blocks. */
void load_prepare(int fd);
/* The length of the whole message at the front of these bytes, its head's length in *head; 0: not complete yet. */
size_t load_complete(const char *p, size_t n, size_t *head);

/* An older KMS, of one process: its epoll. `sets`: key sets in a reply; hang: what is asked of a target that ends in
 * `/init` gets no answer, ever. */
int load_upstream_open(const char *port, unsigned sets, bool hang);
/* Answers what has come, after so many milliseconds at most; -1: whenever something comes. */
void load_upstream_turn(int epoll, int ms);
/* argv: PORT PUBLIC-URL KEYS CONNECTIONS SECONDS (or ROUNDS), then words: see load.c. */
int load_run(int argc, char **argv, bool in_rounds);
/* So many handshakes, one after the other; each new, or each by the ticket of the one before. */
int load_tls(const char *port, unsigned long count, bool resume);

#endif
