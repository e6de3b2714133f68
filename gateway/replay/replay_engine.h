/*
 * What an engine of the replay memory is: a table of functions, whose contracts are those of replay.h. An engine's own
 * struct begins with struct replay, its line with struct replay_line. Inside replay/ only.
 */
#ifndef KMSGATE_REPLAY_ENGINE_H
#define KMSGATE_REPLAY_ENGINE_H

#include "replay/replay.h"

struct replay_engine {
    void (*free)(struct replay *r);
    bool (*start)(struct replay *r, struct detail *why); /* NULL: there is nothing to start or to end */
    void (*end)(struct replay *r);
    void (*settle)(struct replay *r, const struct replay_settings *s);
    int64_t (*floor)(const struct replay *r);
    int64_t (*walls)(const struct replay *r); /* NULL: what has no zone is remembered long enough for any */
    void (*tidy)(struct replay *r); /* NULL: there is nothing to tidy */
    const char *(*unready)(const struct replay *r, int64_t now_us);
    size_t (*count)(const struct replay *r);
    int64_t (*patience)(const struct replay *r);
    struct replay_line *(*line_open)(struct replay *r, const struct replay_host *host);
    void (*line_turn)(struct replay_line *l);
    void (*line_close)(struct replay_line *l);
    /* `line` and `call` are both there or both NULL; call->waits is false. The claim is whole. */
    enum reason (*spend)(struct replay *r, struct replay_line *line, const struct replay_claim *claim,
                         struct replay_call *call);
    void (*cancel)(struct replay_call *call);
    void (*give_back)(struct replay *r, struct replay_line *line, const struct replay_claim *claim);
};

struct replay {
    const struct replay_engine *engine;
};

struct replay_line {
    struct replay *replay;
};

enum { REPLAY_DIGEST = 16 }; /* bytes kept of a hash: a collision only refuses a request */

#endif
