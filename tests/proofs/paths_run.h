/* The program of paths.proof, behind the sources. */
static const char ALPHABET[] = "/.%2efa:?\\;[\xC3";
static unsigned long texts, normal, resources;

static bool has(struct str s, const char *z)
{
    return s.n && memmem(s.p, s.n, z, strlen(z));
}

static void url(const char *exact, size_t n)
{
    struct buf one BUF_CLEANUP = BUF_INIT(200), two BUF_CLEANUP = BUF_INIT(200);
    (void)uri_host((struct str){exact, n});
    if (!uri_normalize((struct str){exact, n}, &one))
        return;
    const struct str first = buf_view(&one);
    const char *query = memchr(first.p, '?', first.n);
    const struct str path = {first.p + 7, (query ? (size_t)(query - first.p) : first.n) - 7};
    holds(uri_normalize(first, &two) && str_eq(first, buf_view(&two)), exact, n);
    holds(!has(path, "/../") && !has(path, "/./") && !str_ends(path, STR("/..")) &&
              !str_ends(path, STR("/.")), exact, n);
    normal++;
}

static void resource(const char *exact, size_t n)
{
    struct resource r;
    if (resource_parse((struct str){exact, n}, &r, NULL) != REASON_OK)
        return;
    struct buf user BUF_CLEANUP = BUF_INIT(200), path BUF_CLEANUP = BUF_INIT(200);
    holds(!has(r.path, "//") && !has(r.path, "/../") && !has(r.path, "/./") && !has(r.path, "?"), exact, n);
    holds(uri_percent_decode(r.path, &path), exact, n); /* as another server might read it, once */
    const struct str read = buf_view(&path);
    holds(!has(read, "//") && !has(read, "/../") && !has(read, "/./") && !has(read, "\\"), exact, n);
    if (r.user_raw.p) {
        holds(r.user_raw.n > 0 && uri_percent_decode(r.user_raw, &user) && !has(buf_view(&user), "/"), exact, n);
        holds(str_is_utf8(buf_view(&user)), exact, n);
    }
    resources++;
}

static void texts_behind(const char *head, unsigned depth, void (*look)(const char *, size_t))
{
    char text[200];
    const size_t head_n = strlen(head);
    unsigned place[8] = {0};
    memcpy(text, head, head_n);
    for (unsigned length = 0; length <= depth; length++) {
        memset(place, 0, sizeof place);
        for (unsigned carry = 0; !carry;) {
            for (unsigned i = 0; i < length; i++)
                text[head_n + i] = ALPHABET[place[i]];
            char *exact = malloc(head_n + length);
            memcpy(exact, text, head_n + length);
            look(exact, head_n + length);
            free(exact);
            texts++;
            carry = 1;
            for (unsigned i = 0; carry && i < length; i++) {
                carry = ++place[i] == sizeof ALPHABET - 1;
                place[i] = carry ? 0 : place[i];
            }
        }
    }
}

int main(int argc, char **argv)
{
    const unsigned depth = argc > 1 ? 6 : 5;
    (void)argv;
    texts_behind("http://a", depth, url);
    texts_behind("http://A.b/c", depth, url);
    texts_behind("https://", depth - 1, url);
    texts_behind("", depth - 1, url);
    texts_behind("/", depth - 1, resource);
    texts_behind("/keymanagement/identity/v1/keyprov/", depth, resource);
    texts_behind("/keymanagement/identity/v1/keyprov/a%2", depth - 1, resource);
    texts_behind("/keymanagement/identity/v1/certcache/2", depth - 1, resource);
    printf("%lu texts: %lu URLs, %lu resources\n", texts, normal, resources);
    return 0;
}
