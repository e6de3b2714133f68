/* What proofs by WP know of base/short.h: what it may touch. That it does what it says, and touches no more, is shown
 * for each length by tests/unit/base/test_short.c. */
#ifndef KMSGATE_BASE_SHORT_H
#define KMSGATE_BASE_SHORT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/*@ requires \valid_read(a + (0 .. n - 1)) && \valid_read(b + (0 .. n - 1)); terminates \true; assigns \nothing; */
bool short_equal(const char *a, const char *b, size_t n);
/*@ requires \valid(to + (0 .. n - 1)) && \valid_read(from + (0 .. n - 1)); terminates \true; assigns to[0 .. n - 1]; */
void short_copy(char *to, const char *from, size_t n);

#endif
