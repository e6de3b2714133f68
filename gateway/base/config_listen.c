#include <stdlib.h>

#include "base/config_internal.h"

static const struct yaml_choice AUTH[] = {
    {"required", CLIENT_AUTH_REQUIRED}, {"optional", CLIENT_AUTH_OPTIONAL}, {NULL, 0}};

struct listen_tls {
    char *certificate, *key, *client_ca;
    int client_auth;
};
/* A listener as it stands in the file. */
struct listen_text {
    char *address;
    struct listen_tls tls;
    struct yaml_cidrs proxies;
};

static const struct yaml_field TLS[] = {
    {"certificate", yaml_text, .offset = offsetof(struct listen_tls, certificate), .required = true},
    {"key", yaml_text, .offset = offsetof(struct listen_tls, key), .required = true},
    {"client_ca", yaml_text, .offset = offsetof(struct listen_tls, client_ca)},
    {"client_auth", yaml_choose, .offset = offsetof(struct listen_tls, client_auth), AUTH},
    {0},
};
static const struct yaml_field LISTENER[] = {
    {"address", yaml_text, .offset = offsetof(struct listen_text, address), .required = true},
    {"tls", yaml_sub, .offset = offsetof(struct listen_text, tls), .sub = TLS},
    {"trusted_proxies", yaml_networks, .offset = offsetof(struct listen_text, proxies)},
    {0},
};

static void resolve(struct load *l, const struct yaml_node *node, const char *text, char **to)
{
    if (text && !(*to = path_resolve(l->folder, str_z(text))))
        yaml_fault(&l->in, node, "a path that is too long, or no memory");
}

static void read_tls(struct load *l, const struct yaml_node *node, const struct listen_tls *tls,
                     struct listen_config *to)
{
    const struct yaml_node *auth = yaml_get(node, "client_auth");
    resolve(l, node, tls->certificate, &to->certificate);
    resolve(l, node, tls->key, &to->key);
    resolve(l, node, tls->client_ca, &to->client_ca);
    if (auth && !yaml_get(node, "client_ca"))
        yaml_fault(&l->in, auth,
                   "`client_auth` without `client_ca`: there is nothing to hold client certificates against");
    to->client_auth = !tls->client_ca ? CLIENT_AUTH_NONE
                      : tls->client_auth ? (enum client_auth)tls->client_auth
                                         : CLIENT_AUTH_REQUIRED;
}

static void read_address(struct load *l, const struct yaml_node *node, struct listen_config *to)
{
    struct shown expected;
    const struct yaml_node *at = yaml_get(node, "address");
    if (!at || at->kind != YAML_SCALAR)
        return;
    if (!address_parse(&(struct incoming){at->text, l->folder}, true, to, &expected)) {
        yaml_fault(&l->in, at, "found %s, expected %s", yaml_found(at).z, expected.z);
        return;
    }
    for (size_t i = 0; i + 1 < l->c->listen_count; i++)
        if (str_eq(str_z(l->c->listen[i].address), str_z(to->address)))
            yaml_fault(&l->in, at, "duplicate address %s", show(at->text).z);
}

static void print_listener(struct load *l, const struct yaml_node *node, size_t i)
{
    struct buf prefix BUF_CLEANUP = BUF_INIT(100);
    buf_printf(&prefix, "listen[%zu]", i);
    yaml_print(&l->listen, l->in.file, node, LISTENER, prefix.p ? prefix.p : "listen");
}

static void listener(struct load *l, const struct yaml_node *node, struct listen_config *to)
{
    struct listen_text text = {0};
    yaml_fields(&l->in, node, LISTENER, &text);
    read_address(l, node, to);
    if (yaml_get(node, "tls"))
        read_tls(l, yaml_get(node, "tls"), &text.tls, to);
    to->trusted_proxies = text.proxies.v;
    to->trusted_proxy_count = text.proxies.n;
    free(text.address);
    free(text.tls.certificate);
    free(text.tls.key);
    free(text.tls.client_ca);
}

enum { LISTENERS = 64 };

void config_listen(struct yaml_in *in, const struct yaml_node *node, void *to, const void *arg)
{
    struct load *l = to;
    (void)arg;
    if (!yaml_is_list(in, node, "a list of listeners"))
        return;
    if (!node->n || node->n > LISTENERS) {
        yaml_fault(in, node, "found %zu listeners, expected 1 to %d", node->n, LISTENERS);
        return;
    }
    if (l->c->listen) /* a second `listen`: said already */
        return;
    l->c->listen = calloc(node->n, sizeof *l->c->listen);
    if (!l->c->listen) {
        yaml_fault(in, node, "out of memory");
        return;
    }
    for (const struct yaml_node *m = node->first; m; m = m->next) {
        const size_t i = l->c->listen_count++;
        listener(l, m, l->c->listen + i);
        print_listener(l, m, i);
    }
}
