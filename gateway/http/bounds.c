#include "http/bounds.h"

#include <stdatomic.h>

#include "base/log.h"
#include "base/metrics.h"
#include "base/timestamp.h"

#define TOLD_US (10 * US_PER_S)

static const struct {
    const char *name, *text;
} BOUNDS[BOUND_COUNT] = {
#define BOUND_ROW(e, name, text) [BOUND_##e] = {name, text},
    BOUND_LIST(BOUND_ROW)
#undef BOUND_ROW
};

static struct {
    _Atomic int64_t hit_us, told_us; /* monotonic; 0: never */
    atomic_uint since_told;          /* how often it was met since the log spoke */
    atomic_bool on;
} the_bounds[BOUND_COUNT];

void bounds_hit(enum bound b)
{
    const int64_t now = time_mono_us();
    atomic_store_explicit(&the_bounds[b].hit_us, now, memory_order_relaxed);
    atomic_fetch_add_explicit(&the_bounds[b].since_told, 1, memory_order_relaxed);
    int64_t told = atomic_load(&the_bounds[b].told_us);
    if ((told && now - told < TOLD_US) || !atomic_compare_exchange_strong(&the_bounds[b].told_us, &told, now))
        return;
    const unsigned n = atomic_exchange(&the_bounds[b].since_told, 0);
    log_warn("limit", BOUNDS[b].name, "%s (%u time%s since it was last reported)", BOUNDS[b].text, n,
             n == 1 ? "" : "s");
}

void bounds_set(enum bound b, bool on)
{
    atomic_store(&the_bounds[b].on, on);
}

bool bounds_reached(enum bound b)
{
    const int64_t hit = atomic_load_explicit(&the_bounds[b].hit_us, memory_order_relaxed);
    return atomic_load(&the_bounds[b].on) || (hit && time_mono_us() - hit < TOLD_US);
}

const char *bounds_text(enum bound b)
{
    return BOUNDS[b].text;
}

void bounds_measure(void)
{
    for (enum bound b = 0; b < BOUND_COUNT; b++) {
        struct buf label BUF_CLEANUP = BUF_INIT(256);
        metric_label(&label, "name", str_z(BOUNDS[b].name));
        if (!label.failed)
            metric_set(METRIC_LIMIT, label.p, bounds_reached(b) ? 1 : 0);
    }
}

void bounds_write(struct buf *out)
{
    for (enum bound b = 0; b < BOUND_COUNT; b++)
        if (b != BOUND_ADMIN && bounds_reached(b)) /* it serves nobody's requests */
            buf_printf(out, "limit: %s\n", BOUNDS[b].text);
}
