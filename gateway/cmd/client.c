#include "cmd/client.h"

#include <openssl/rand.h>
#include <string.h>

#include "base/log.h"
#include "base/uri.h"
#include "cmd/keys.h"
#include "message/kms_request.h"
#include "message/xmlsig.h"

enum { REQUEST_BYTES = 64 * 1024 }; /* what a gateway takes by default */

static bool usable(const struct key_entry *e, int64_t now_us)
{
    return e->state != KEY_REVOKED && (e->not_after == TIME_NONE || e->not_after > now_us);
}

const struct key_entry *client_newest(const struct client *c, enum key_type type, bool *any)
{
    const int64_t now = time_now_us();
    const struct key_entry *best = NULL;
    *any = false;
    for (size_t i = 0; i < c->file.n; i++) {
        const struct key_entry *e = &c->file.v[i];
        if (e->type != type || !str_eq(e->user, c->user))
            continue;
        *any = true;
        if (usable(e, now) && (!best || e->state == KEY_ACTIVE || best->state == KEY_RETIRING))
            best = e;
    }
    return best;
}

const struct key_entry *client_signer(const struct client *c)
{
    bool has_ink, has_trk;
    const struct key_entry *ink = client_newest(c, KEY_INK, &has_ink);
    return has_ink ? ink : client_newest(c, KEY_TRK, &has_trk);
}

bool client_load(struct client *c, const char *user, const char *keys)
{
    struct faults faults = {0};
    *c = (struct client){.user = str_z(user)};
    keys_warn_if_open(keys);
    const bool read = keyfile_read(keys, &c->file, &faults);
    if (!read)
        faults_print(&faults, stderr);
    faults_free(&faults);
    if (read && !client_signer(c)) {
        complain("%s: no key that can sign for %s", keys, user);
        return false;
    }
    return read;
}

void client_free(struct client *c)
{
    keyfile_free(&c->file);
}

bool client_compose(const struct client *c, const struct client_ask *ask, struct buf *out)
{
    bool has_trk;
    const struct key_entry *signer = client_signer(c), *trk = client_newest(c, KEY_TRK, &has_trk);
    struct buf device BUF_CLEANUP = BUF_INIT(64), payload BUF_CLEANUP = BUF_INIT(REQUEST_BYTES);
    unsigned char fresh[8];
    char when[TIME_TEXT];
    if (!signer || RAND_bytes(fresh, sizeof fresh) != 1)
        return false;
    buf_z(&device, "kmsgate-");
    buf_hex(&device, fresh, sizeof fresh, false);
    time_format(ask->time_us ? ask->time_us : time_now_us(), true, when);
    const struct kms_request fields = {
        .user_uri = c->user,
        .kms_uri = ask->kms_uri.p ? ask->kms_uri : uri_host(ask->url),
        .time = str_z(when),
        .client_id = ask->client_id,
        .device_id = buf_view(&device),
        .client_req_url = ask->url,
        .trk_id = trk ? trk->id : STR_MISSING,
        .signature_id = signer->id,
    };
    kms_request_write(&fields, &payload);
    return !device.failed && !payload.failed &&
           xmlsig_sign_as(buf_view(&payload), signer->id, &signer->key, &XMLSIG_STANDARD, out) && !out->failed;
}

bool client_resource(struct str url, size_t *at, struct resource *out)
{
    static const char ROOT[] = "/keymanagement/identity/v1/";
    const char *found = url.n ? memmem(url.p, url.n, ROOT, sizeof ROOT - 1) : NULL;
    if (!found)
        return false;
    *at = (size_t)(found - url.p);
    return resource_parse((struct str){found, url.n - *at}, out, NULL) == REASON_OK;
}
