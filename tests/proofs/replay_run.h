/* The program of replay.proof, behind the table's own source. A unit of time is a microsecond. */
enum { START = 1000, FUTURE = 2, NARROW = 2, WIDE = 4, REQUESTS = 4, STEPS_MAX = 8, MOST = 64 };

/* What the list that forgets nothing knows of a request. */
static struct request {
    int64_t time;             /* TIME_NONE: a rule that does not enforce Time */
    uint8_t digest[2][DIGEST];
    bool accepted;
    int64_t from, least;      /* of one without Time: until a clock was beyond `from` by the narrowest window since */
} requests[REQUESTS] = {{.time = START}, {.time = START + 1}, {.time = START + 2}, {.time = TIME_NONE}};

/* Spend each, give two back, clock on by 1, on by 5, back by 3, windows, tidy. */
static const char STEPS[] = "0123gh+!-WNt";
static struct spent *table;
static int64_t now, latest_now, past;
static unsigned long sequences, accepted;
static char told[STEPS_MAX + 1];

static void hold_the_table(size_t n)
{
    size_t count = 0;
    for (size_t i = 1; i < 2; i++) { /* all users are in this one */
        const struct shard *s = &table->shard[i];
        count += s->n;
        for (size_t k = 0; k < s->n; k++) {
            holds(s->heap[k].entry->at == k && s->heap[k].entry->user->entries > 0, told, n);
            holds(k == 0 || s->heap[(k - 1) / 2].time_us <= s->heap[k].time_us, told, n);
        }
    }
    holds(count == spent_count(table), told, n);
}

static void spend(struct request *r, size_t n)
{
    const bool timed = r->time != TIME_NONE;
    if (timed && (r->time < now - past || r->time > now + FUTURE))
        return; /* the check of Time refuses it before the table is asked */
    const struct replay_claim claim = {.time_us = r->time, .earliest_us = r->time, .latest_us = r->time, .now_us = now};
    const enum reason reason = spent_add(table, (const uint8_t(*)[DIGEST])r->digest, &claim);
    if (reason != REASON_OK)
        return;
    holds(!r->accepted || (!timed && latest_now > r->from + r->least), told, n);
    r->accepted = true;
    r->from = now > spent_floor(table) ? now : spent_floor(table);
    r->least = past;
    accepted++;
}

static void step(char what, size_t n)
{
    struct request *r = what == 'g' ? &requests[0] : &requests[3];
    if (what >= '0' && what <= '3') {
        spend(&requests[what - '0'], n);
    } else if (what == 'g' || what == 'h') {
        if (r->accepted)
            spent_forget(table, (const uint8_t(*)[DIGEST])r->digest);
        r->accepted = false;
    } else if (what == 't') {
        spent_tidy(table);
    } else if (what == 'W' || what == 'N') {
        past = what == 'W' ? WIDE : NARROW;
        spent_retain(table, past);
        for (size_t i = 0; i < REQUESTS; i++)
            requests[i].least = requests[i].least < past ? requests[i].least : past;
    } else {
        now += what == '+' ? 1 : what == '!' ? 5 : -3;
        latest_now = now > latest_now ? now : latest_now;
    }
    hold_the_table(n);
}

static void begin(void)
{
    while (table->shard[1].n)
        drop_entry(table, &table->shard[1], table->shard[1].heap[0].entry);
    holds(spent_count(table) == 0, told, 0);
    atomic_store(&table->floor, START - 1);
    now = latest_now = START;
    past = NARROW;
    spent_retain(table, past);
    for (size_t i = 0; i < REQUESTS; i++)
        requests[i].accepted = false;
}

/* Only what ends in spending can go wrong. */
static void all(size_t at, size_t length)
{
    const size_t choices = at + 1 == length ? REQUESTS : sizeof STEPS - 1;
    for (size_t i = 0; i < choices; i++) {
        told[at] = STEPS[i];
        if (at + 1 < length) {
            all(at + 1, length);
            continue;
        }
        begin();
        for (size_t k = 0; k < length; k++)
            step(told[k], k + 1);
        sequences++;
    }
}

int main(int argc, char **argv)
{
    (void)argv;
    for (size_t i = 0; i < REQUESTS; i++) { /* two users in one shard; all in one chain */
        requests[i].digest[0][0] = i % 2 ? 1 : 1 + SHARDS;
        requests[i].digest[1][0] = (uint8_t)i;
    }
    for (unsigned most = MOST; most; most = most == MOST ? 2 : 0) { /* with room, and with room for two */
        table = spent_new(most, START - 1, START - 1, NARROW);
        if (!table)
            return 2;
        all(0, argc > 1 ? 8 : 6);
        spent_free(table);
    }
    printf("%lu sequences, %lu requests accepted: none twice\n", sequences, accepted);
    return 0;
}
