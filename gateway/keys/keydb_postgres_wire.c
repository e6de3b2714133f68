#include <endian.h>
#include <string.h>

#include "keys/keydb_postgres.h"
#include "keys/keystore_inside.h"

enum { SEQ_BITS = 40 }; /* the table's */

static bool take_fixed(struct pg_value v, void *out, int n)
{
    if (v.n != n)
        return false;
    memcpy(out, v.p, (size_t)n);
    return true;
}

bool pg_take_number(struct pg_value v, uint64_t *out)
{
    uint64_t wire = 0;
    const bool ok = take_fixed(v, &wire, sizeof wire);
    *out = be64toh(wire);
    return ok && *out <= INT64_MAX;
}

bool pg_take_bytes(struct pg_value v, uint8_t *out, size_t n)
{
    return take_fixed(v, out, (int)n);
}

bool pg_take_text(struct pg_value v, struct str *out)
{
    *out = (struct str){v.p, v.n > 0 ? (size_t)v.n : 0};
    return v.n > 0 && v.n <= KEY_TEXT_MAX && !memchr(v.p, 0, (size_t)v.n);
}

/* int2, 0 to `most`. */
static bool take_small(struct pg_value v, unsigned most, unsigned *out)
{
    uint16_t wire = 0;
    const bool ok = take_fixed(v, &wire, sizeof wire);
    *out = be16toh(wire);
    return ok && *out <= most;
}

/* Any int8. */
static bool take_signed(struct pg_value v, int64_t *out)
{
    uint64_t wire = 0;
    const bool ok = take_fixed(v, &wire, sizeof wire);
    *out = (int64_t)be64toh(wire);
    return ok;
}

/* Times may be TIME_NONE, the most negative number. */
static bool take_time(struct pg_value v, int64_t *out)
{
    return take_signed(v, out) && (*out >= 0 || *out == TIME_NONE);
}

bool pg_take_row(const struct pg_value v[PG_COLUMN_COUNT], struct key_row *row)
{
    struct key *k = &row->key;
    unsigned type, state, origin, due;
    uint64_t master;
    *row = (struct key_row){0};
    if (!pg_take_text(v[0], &row->user) || !pg_take_text(v[1], &k->id) || !take_small(v[2], KEY_TRK, &type) ||
        !take_small(v[3], KEY_PRUNED, &state) || !take_signed(v[4], &k->not_after) || !take_time(v[5], &k->since) ||
        !take_small(v[6], KEY_LEARNT, &origin) || !take_small(v[7], 1, &due) || !take_time(v[8], &k->keep_old) ||
        v[9].n < 0 || v[9].n > KEY_SENT_MAX || !pg_take_number(v[10], &master) || master > UINT32_MAX ||
        !pg_take_number(v[11], &k->seq) || k->seq == 0 || k->seq >> SEQ_BITS ||
        !pg_take_bytes(v[12], k->sealed, sizeof k->sealed))
        return false;
    k->sent = (struct str){v[9].p, (size_t)v[9].n};
    k->type = (enum key_type)type;
    k->state = (enum key_state)state;
    k->origin = (enum key_origin)origin;
    k->due = due != 0;
    row->master = (uint32_t)master;
    return true;
}

bool pg_row_wrong(const struct key_row *row, struct detail *why)
{
    const bool named = row->user.p && row->key.id.p;
    detail_set(why, "tampered with: %.200s is not as kmsgate writes it", named ? key_row_name(row).text : "a row");
    return false;
}

void pg_put_number(uint64_t v, char out[8])
{
    const uint64_t wire = htobe64(v);
    memcpy(out, &wire, sizeof wire);
}

static void put_int(struct buf *out, int32_t v)
{
    const uint32_t wire = htobe32((uint32_t)v);
    buf_bytes(out, &wire, sizeof wire);
}

static void put_bytes(struct buf *out, const void *p, size_t n)
{
    put_int(out, (int32_t)n);
    buf_bytes(out, n ? p : "", n);
}

static void put_small(struct buf *out, unsigned v)
{
    const uint16_t wire = htobe16((uint16_t)v);
    put_bytes(out, &wire, sizeof wire);
}

static void put_big(struct buf *out, uint64_t v)
{
    const uint64_t wire = htobe64(v);
    put_bytes(out, &wire, sizeof wire);
}

static void put_column(const struct key_row *row, unsigned column, struct buf *out)
{
    const struct key *k = &row->key;
    const struct str texts[] = {row->user, k->id};
    const unsigned small[] = {[2] = k->type, [3] = k->state, [6] = k->origin, [7] = k->due};
    const uint64_t big[] = {[4] = (uint64_t)k->not_after, [5] = (uint64_t)k->since, [8] = (uint64_t)k->keep_old,
                            [10] = row->master, [11] = k->seq};
    switch (column) {
    case 0:
    case 1:
        put_bytes(out, texts[column].p, texts[column].n);
        break;
    case 2:
    case 3:
    case 6:
    case 7:
        put_small(out, small[column]);
        break;
    case 9:
        put_bytes(out, k->sent.p, k->sent.n);
        break;
    case 12:
        put_bytes(out, k->sealed, sizeof k->sealed);
        break;
    default:
        put_big(out, big[column]);
    }
}

Oid pg_put_list(const struct key_row *const *rows, size_t n, unsigned column, struct buf *out)
{
    static const struct {
        Oid one, list;
    } TYPES[PG_COLUMN_COUNT] = {
        {PG_TEXT, PG_TEXT_LIST}, {PG_TEXT, PG_TEXT_LIST}, {PG_INT2, PG_INT2_LIST}, {PG_INT2, PG_INT2_LIST},
        {PG_INT8, PG_INT8_LIST}, {PG_INT8, PG_INT8_LIST}, {PG_INT2, PG_INT2_LIST}, {PG_INT2, PG_INT2_LIST},
        {PG_INT8, PG_INT8_LIST}, {PG_TEXT, PG_TEXT_LIST}, {PG_INT8, PG_INT8_LIST}, {PG_INT8, PG_INT8_LIST},
        {PG_BYTEA, PG_BYTEA_LIST}};
    put_int(out, 1); /* dimension */
    put_int(out, 0); /* no NULLs */
    put_int(out, (int32_t)TYPES[column].one);
    put_int(out, (int32_t)n);
    put_int(out, 1); /* the first has number 1 */
    for (size_t i = 0; i < n; i++)
        put_column(rows[i], column, out);
    return TYPES[column].list;
}

/* --- COPY … (FORMAT binary) --- */

static const char SIGNATURE[11] = "PGCOPY\n\377\r\n";
enum { HEAD = sizeof SIGNATURE + 4 + 4 };

static bool take_u16(struct str *s, int *out)
{
    uint16_t wire;
    if (s->n < sizeof wire)
        return false;
    memcpy(&wire, s->p, sizeof wire);
    *out = (int16_t)be16toh(wire);
    *s = (struct str){s->p + sizeof wire, s->n - sizeof wire};
    return true;
}

static bool take_u32(struct str *s, int *out)
{
    uint32_t wire;
    if (s->n < sizeof wire)
        return false;
    memcpy(&wire, s->p, sizeof wire);
    *out = (int32_t)be32toh(wire);
    *s = (struct str){s->p + sizeof wire, s->n - sizeof wire};
    return true;
}

/* WANT: it is not complete yet. */
enum copied { COPIED, WANT, WRONG };

static enum copied copy_head(struct pg_copy *c, struct str *s)
{
    const struct str signature = {SIGNATURE, sizeof SIGNATURE};
    struct str at = {s->p + sizeof SIGNATURE, s->n - sizeof SIGNATURE};
    int flags, extension;
    if (s->n < HEAD)
        return WANT;
    if (!str_starts(*s, signature) || !take_u32(&at, &flags) || !take_u32(&at, &extension) ||
        flags || extension)
        return WRONG;
    *s = at;
    c->begun = true;
    return COPIED;
}

/* Takes one row, or the word behind the last, off the front. */
static enum copied copy_row(struct pg_copy *c, struct str *s, struct key_row *row)
{
    struct str at = *s;
    struct pg_value v[PG_COLUMN_COUNT];
    int columns;
    row->user = row->key.id = STR_MISSING;
    if (!take_u16(&at, &columns))
        return WANT;
    if (columns == -1) {
        c->ended = true;
        *s = at;
        return at.n ? WRONG : COPIED;
    }
    if (columns != PG_COLUMN_COUNT)
        return WRONG;
    for (int i = 0; i < columns; i++) {
        if (!take_u32(&at, &v[i].n))
            return WANT;
        if (v[i].n < 0 || v[i].n > PG_VALUE_MAX)
            return WRONG;
        if (at.n < (size_t)v[i].n)
            return WANT;
        v[i].p = at.p;
        at = (struct str){at.p + v[i].n, at.n - (size_t)v[i].n};
    }
    *s = at;
    return pg_take_row(v, row) ? COPIED : WRONG;
}

static enum keydb_result copy_wrong(const struct key_row *row, struct detail *why)
{
    (void)pg_row_wrong(row, why);
    return KEYDB_REFUSED;
}

enum keydb_result pg_copy_take(struct pg_copy *c, struct str data, keydb_each each, void *arg, struct detail *why)
{
    struct str s = data;
    struct key_row row = {0};
    if (c->rest.n) {
        buf_str(&c->rest, data);
        s = buf_view(&c->rest);
        if (c->rest.failed)
            return copy_wrong(&row, why);
    }
    enum copied got = c->begun ? COPIED : copy_head(c, &s);
    while (got == COPIED && s.n) {
        if (c->ended)
            return copy_wrong(&row, why);
        got = copy_row(c, &s, &row);
        if (got == COPIED && !c->ended && !each(arg, &row, why))
            return KEYDB_REFUSED;
    }
    if (got == WRONG)
        return copy_wrong(&row, why);
    struct buf rest = BUF_INIT(PG_COPY_MAX);
    if (s.n)
        buf_str(&rest, s); /* before what it may be a part of goes */
    buf_free(&c->rest);
    c->rest = rest;
    return rest.failed ? copy_wrong(&row, why) : KEYDB_OK;
}
