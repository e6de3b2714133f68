/* The kernel's own word on a page: `lo`, locked; `dd`, in no dump; `wf`, empty in a fork. After cmocka.h. */
#ifndef TEST_PAGE_FLAGS_H
#define TEST_PAGE_FLAGS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static bool has_flag(const void *p, const char *flag)
{
    FILE *f = fopen("/proc/self/smaps", "r");
    char line[512];
    bool here = false, found = false;
    unsigned long from, to;
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
            here = (uintptr_t)p >= from && (uintptr_t)p < to;
        else if (here && strncmp(line, "VmFlags:", 8) == 0)
            found |= strstr(line, flag) != NULL;
    }
    fclose(f);
    return found;
}

#endif
