#include <string.h>

#include "base/uri.h"
#include "study/explain_inside.h"

/* What a ClientReqUrl that is not the expected one differs in. */
struct url_parts {
    struct str scheme, authority, rest; /* rest: the path and what follows */
};

static struct url_parts url_split(struct str url)
{
    const char *colon = url.p ? memmem(url.p, url.n, "://", 3) : NULL;
    struct url_parts p = {.rest = url};
    if (!colon)
        return p;
    p.scheme = (struct str){url.p, (size_t)(colon - url.p)};
    const char *from = colon + 3, *end = url.p + url.n;
    const char *slash = memchr(from, '/', (size_t)(end - from));
    p.authority = (struct str){from, (size_t)((slash ? slash : end) - from)};
    p.rest = slash ? (struct str){slash, (size_t)(end - slash)} : STR("");
    return p;
}

/* One of them is the other with a slash behind. */
static bool url_differs_by_slash(struct str a, struct str b)
{
    const struct str longer = a.n > b.n ? a : b, shorter = a.n > b.n ? b : a;
    return longer.n > 0 && longer.n == shorter.n + 1 && longer.p[longer.n - 1] == '/' && str_starts(longer, shorter);
}

enum explain_url_fault explain_url_fault(const struct explain_in *in)
{
    const struct judgement *j = in->j;
    const struct strings *bases = j->gate->public_url;
    const struct url_parts got = url_split(j->request.client_req_url);
    enum explain_url_fault worst = URL_FAULT_OTHER;
    for (size_t i = 0; i < bases->n; i++) {
        struct buf url BUF_CLEANUP = BUF_INIT(1 << 20);
        buf_z(&url, bases->v[i]);
        buf_str(&url, j->head.target);
        if (url.failed || !url.p)
            return URL_FAULT_OTHER;
        const struct url_parts due = url_split(buf_view(&url));
        const bool scheme = str_ieq(got.scheme, due.scheme), rest = str_eq(got.rest, due.rest);
        if (scheme && str_ieq(got.authority, due.authority) && url_differs_by_slash(got.rest, due.rest))
            return URL_FAULT_SLASH;
        if (rest && !scheme && got.scheme.p &&
            str_ieq(uri_host(j->request.client_req_url), uri_host(str_z(bases->v[i]))))
            return URL_FAULT_SCHEME;
        if (rest && got.authority.p && !str_ieq(got.authority, due.authority))
            worst = URL_FAULT_AUTHORITY;
    }
    return worst;
}

void explain_url(const struct explain_in *in, struct explanation *e)
{
    const struct judgement *j = in->j;
    const enum check_result result = j->decision.checks[CHECK_CLIENT_REQ_URL];
    if (result != CHECK_FAIL && result != CHECK_SHADOW_FAIL)
        return;
    const struct url_parts got = url_split(j->request.client_req_url);
    const struct url_parts ours = url_split(str_z(j->gate->public_url->v[0]));
    switch (explain_url_fault(in)) {
    case URL_FAULT_SCHEME:
        explain_sentence(e, "ClientReqUrl begins with %.*s://, public_url with %.*s://: either the client writes the "
                            "wrong scheme, or public_url does not say what clients use (behind a TLS terminator it is "
                            "https)", STR_FMT(got.scheme), STR_FMT(ours.scheme));
        break;
    case URL_FAULT_AUTHORITY:
        explain_sentence(e, "ClientReqUrl names %s, public_url names %s: either the client is provisioned for another "
                            "address, or public_url is wrong", explain_shown(got.authority).z,
                         explain_shown(ours.authority).z);
        break;
    case URL_FAULT_SLASH:
        explain_sentence(e, "ClientReqUrl and the path that was posted to differ in a slash at the end");
        break;
    default:
        break;
    }
}
