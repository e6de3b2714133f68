/*
 * Any file as gateway.yaml and as rules: faults with their place, or what can be described. A fault is one line of
 * printable text.
 */
#include "fuzz.h"

#include <unistd.h>

#include "base/config.h"
#include "base/log.h"
#include "gate/rules.h"

static void check_faults(const struct faults *f)
{
    for (size_t i = 0; i < f->n; i++)
        for (const char *c = f->v[i].text; *c; c++)
            must((unsigned char)*c >= 0x20 && *c != 0x7f, "a control character in: %s", f->v[i].text);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    log_setup(LOG_LEVEL_ERROR, LOG_FORMAT_TEXT);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    struct faults faults = {0}, more = {0};
    const int fd = fuzz_file(fuzz_view(data, size), path);
    struct config *c = config_load(path, &faults);
    must(!c == (faults.errors > 0), "a configuration with faults, or none without");
    must(!c || (c->text && c->listen_count > 0 && c->public_url.n > 0 && c->upstream.url && c->rules && c->keys),
         "a configuration that lacks something");
    check_faults(&faults);
    config_free(c);
    struct rules *r = rules_load(path, &more);
    must(!r == (more.errors > 0), "rules with faults, or none without");
    check_faults(&more);
    if (r) {
        struct buf text BUF_CLEANUP = BUF_INIT(64u << 20);
        rules_describe(r, &text);
        must(!text.failed, "not described");
    }
    rules_unref(r);
    faults_free(&faults);
    faults_free(&more);
    close(fd);
    return 0;
}
