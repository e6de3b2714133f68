/*
 * The files and ports that serving needs after the start, by Landlock (Linux 5.13): all others cannot be opened, made,
 * removed or connected to, whoever the process is. Asked for by number, since the C library has no functions for it.
 *
 * A rule holds for the file that stands there when it is made. What is replaced by renaming (editors, certbot,
 * Kubernetes) is another file then: so it is the folder that is let through, the one of the path as it is written and
 * the one in which it ends behind symbolic links. In folders that belong to the whole system (/etc) it is the file
 * alone.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/landlock.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/config.h"
#include "base/log.h"
#include "base/uri.h"
#include "http/sandbox.h"

/* As of the newest kernel that is known here, whatever headers this is built with. */
enum {
    RUN = 1 << 0, WRITE = 1 << 1, READ = 1 << 2, LIST = 1 << 3, REMOVE = 1 << 5, MAKE = 1 << 8, TRUNCATE = 1 << 14,
    ALL_1 = (1 << 13) - 1, /* by version of the interface; each has what those before it have */
    ALL_2 = (1 << 14) - 1, /* linking and renaming to other folders */
    ALL_3 = (1 << 15) - 1, /* cutting files */
    ALL_5 = (1 << 16) - 1, /* controlling devices */
    OF_A_FILE = RUN | WRITE | READ | TRUNCATE,
    PORTS = 3, BIND = 1, CONNECT = 2, PORT_RULE = 2, /* since version 4: bind and connect */
    SCOPES = 3,                            /* since version 6: abstract Unix sockets and signals of other processes */
};
enum {
    READS = READ,
    READS_FOLDER = READ | LIST,
    KEEPS = READ | LIST | WRITE | TRUNCATE | MAKE | REMOVE, /* makes files, renames and removes them */
    APPENDS = READ | WRITE | TRUNCATE | MAKE,
};
struct ruleset {
    uint64_t files, ports, scopes;
};
struct port_rule {
    uint64_t access, port;
};

struct landlock {
    int fd;
    uint64_t files; /* what this kernel can refuse */
    bool ports;
    int failed;     /* errno of the first rule that could not be made */
};

/* What every gateway opens by a fixed name, if it is there. */
static const struct {
    const char *path;
    uint64_t access;
    const char *why;
} FIXED[] = {
    {"/usr/share/zoneinfo", READS, "assume_zone, by a reload of the rules"},
    {"/etc/localtime", READS, "a zone of that name"},
    {"/etc/resolv.conf", READS, "name servers: libc looks whether it has changed"},
    {"/etc/hosts", READS, "names of hosts"},
    {"/etc/nsswitch.conf", READS, "where names are looked up"},
    {"/etc/host.conf", READS, "how names are looked up"},
    {"/etc/gai.conf", READS, "which address is taken first"},
    {"/etc/ssl/certs", READS, "an upstream's issuer, without upstream.tls.ca"},
    {"/usr/lib/ssl", READS, "the same, by OpenSSL's own name for it"},
    {"/usr/share/ca-certificates", READS, "where the links of /etc/ssl/certs lead"},
    {"/usr/local/share/ca-certificates", READS, "the same, of this machine"},
    {"/lib", READS, "modules of the name service are loaded at the first look-up"},
    {"/lib64", READS, "the same"},
    {"/usr/lib", READS, "the same"},
    {"/usr/lib64", READS, "the same"},
    {"/etc/ld.so.cache", READS, "where the loader finds them"},
    {"/proc/self", READS_FOLDER, "metrics of the process, its own descriptors"},
    {"/proc/sys/vm/overcommit_memory", READS, "malloc, before it gives memory back"},
    {"/sys/devices/system/cpu", READS, "how many cores there are: workers, malloc's arenas"},
    {"/dev/urandom", READS, "SQLite's seed"},
    {"/dev/null", READ | WRITE, "libc"},
#ifdef KMSGATE_TRACED
    {"/proc", READS_FOLDER, "the leak sanitizer, from another process"},
#endif
#ifdef KMSGATE_COVERED
    {KMSGATE_COVERED, KEEPS, "gcov writes what was run"},
#endif
};

/* Folders of everybody, where a folder's rule would let through what is none of the gateway's. */
static bool is_common(const char *folder)
{
    static const char *const COMMON[] = {"/", "/boot", "/dev", "/etc", "/etc/ssl", "/home", "/media", "/mnt", "/opt",
                                         "/proc", "/root", "/run", "/srv", "/sys", "/tmp", "/usr", "/usr/local",
                                         "/usr/share", "/var", "/var/lib", "/var/log", "/var/run", "/var/tmp"};
    for (size_t i = 0; i < sizeof COMMON / sizeof *COMMON; i++)
        if (strcmp(folder, COMMON[i]) == 0)
            return true;
    return false;
}

/* What is not there needs no rule: it cannot be opened. */
static void allow(struct landlock *l, const char *path, uint64_t access)
{
    struct stat st;
    struct landlock_path_beneath_attr rule = {.parent_fd = open(path, O_PATH | O_CLOEXEC)};
    if (rule.parent_fd < 0)
        return;
    const bool known = fstat(rule.parent_fd, &st) == 0;
    rule.allowed_access = access & l->files & (known && S_ISDIR(st.st_mode) ? ALL_5 : OF_A_FILE);
    if (!known || (rule.allowed_access &&
                   syscall(__NR_landlock_add_rule, l->fd, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) != 0))
        l->failed = l->failed ? l->failed : errno;
    close(rule.parent_fd);
}

/* The folder of a path; false where that cannot be told. */
static bool folder_of(const char *path, char out[PATH_MAX])
{
    const char *slash = strrchr(path, '/');
    const size_t n = !slash ? 1 : slash == path ? 1 : (size_t)(slash - path);
    if (n >= PATH_MAX)
        return false;
    memcpy(out, slash ? path : ".", n);
    out[n] = '\0';
    return true;
}

/* A symbolic link on the way to a file may be turned to another folder beside it, as certificates are rotated. */
static void allow_links(struct landlock *l, const char *path, uint64_t access)
{
    char at[PATH_MAX], folder[PATH_MAX], real[PATH_MAX];
    struct stat st;
    bool more = folder_of(path, at);
    while (more && strcmp(at, "/") != 0 && strcmp(at, ".") != 0) {
        more = folder_of(at, folder);
        if (more && lstat(at, &st) == 0 && S_ISLNK(st.st_mode) && realpath(folder, real) && !is_common(real))
            allow(l, real, access);
        memcpy(at, folder, sizeof at);
    }
}

/* A file that may be replaced: by its folders, or by itself where they are everybody's. Who makes files in a folder
 * has to have it, whosever it is. */
static void allow_beside(struct landlock *l, const char *path, uint64_t access)
{
    char folder[PATH_MAX], real[PATH_MAX], end[PATH_MAX];
    if (!path)
        return;
    allow(l, path, access);
    allow_links(l, path, access);
    const char *const of[] = {path, realpath(path, end) ? end : NULL};
    for (size_t i = 0; i < sizeof of / sizeof *of; i++)
        if (of[i] && folder_of(of[i], folder) && realpath(folder, real)) {
            if (!is_common(real))
                allow(l, real, access);
            else if (access & MAKE)
                allow(l, real, access & ~(uint64_t)READ); /* the file itself may be read: above */
        }
}

/* KMSGATE_…_FILE: read again with gateway.yaml. */
static void allow_environment(struct landlock *l)
{
    for (char *const *e = environ; e && *e; e++) {
        const char *is = strchr(*e, '=');
        if (is && strncmp(*e, "KMSGATE_", 8) == 0 && is - *e > 13 && strncmp(is - 5, "_FILE", 5) == 0)
            allow_beside(l, is + 1, READS);
    }
    const char *credentials = getenv("CREDENTIALS_DIRECTORY");
    if (credentials)
        allow(l, credentials, READS);
    static const char *const TRUSTED[] = {"SSL_CERT_FILE", "SSL_CERT_DIR"}; /* OpenSSL's */
    for (size_t i = 0; i < sizeof TRUSTED / sizeof *TRUSTED; i++)
        if (getenv(TRUSTED[i]))
            allow(l, getenv(TRUSTED[i]), READS);
}

/* What libpq reads at each connection: files that the URI or the environment names, and who the process is. */
static void allow_postgres(struct landlock *l, const char *uri)
{
    static const char *const NAMES[] = {"sslrootcert=", "sslcert=", "sslkey=", "sslcrl=", "passfile="},
                            *const VARIABLES[] = {"PGPASSFILE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY", "PGSSLCRL"};
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        const char *at = strstr(uri, NAMES[i]);
        const size_t skip = strlen(NAMES[i]);
        struct buf path BUF_CLEANUP = BUF_INIT(PATH_MAX);
        if (at && uri_percent_decode((struct str){at + skip, strcspn(at + skip, "&")}, &path) && path.p)
            allow_beside(l, path.p, READS);
        if (getenv(VARIABLES[i]))
            allow_beside(l, getenv(VARIABLES[i]), READS);
    }
    const char *home = getenv("HOME");
    char path[PATH_MAX];
    if (home && snprintf(path, sizeof path, "%s/.postgresql", home) < (int)sizeof path)
        allow(l, path, READS);
    if (home && snprintf(path, sizeof path, "%s/.pgpass", home) < (int)sizeof path)
        allow(l, path, READS);
    allow(l, "/etc/passwd", READS);
}

static void allow_read(void *arg, const char *path)
{
    allow_beside(arg, path, READS);
}

static void allow_config(struct landlock *l, const struct config *c)
{
    config_each_reread(c, allow_read, l); /* certificates are renewed, the list of master keys grows */
    allow_environment(l);
    allow_beside(l, c->keys, KEEPS); /* and its journal */
    allow(l, c->state, KEEPS);       /* the mark */
    allow_beside(l, c->keys_counter, APPENDS);
    if (strcmp(c->decisions, "stdout") != 0 && strcmp(c->decisions, "none") != 0) /* a server's is no file */
        allow_beside(l, c->decisions, APPENDS);
    if (c->captures)
        allow(l, c->captures, KEEPS);
    if (strncmp(c->keys, "postgresql:", 11) == 0)
        allow_postgres(l, c->keys);
}

/* A Unix socket's file goes with the gateway. */
static void allow_socket(struct landlock *l, const struct listen_config *at)
{
    char folder[PATH_MAX];
    static const char PREFIX[] = "unix:";
    if (strncmp(at->address, PREFIX, sizeof PREFIX - 1) == 0 && folder_of(at->address + sizeof PREFIX - 1, folder))
        allow(l, folder, REMOVE);
}

static void allow_port(struct landlock *l, uint16_t port)
{
    const struct port_rule rule = {CONNECT, port};
    if (syscall(__NR_landlock_add_rule, l->fd, PORT_RULE, &rule, 0) != 0)
        l->failed = l->failed ? l->failed : errno;
}

static bool ruleset_new(struct landlock *l)
{
    const long version = syscall(__NR_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (version < 1)
        return false;
    struct ruleset wanted = {.files = version >= 5   ? ALL_5
                                      : version >= 3 ? ALL_3
                                      : version == 2 ? ALL_2
                                                     : ALL_1};
    l->files = wanted.files;
    wanted.ports = version < 4 ? 0 : l->ports ? PORTS : BIND;
    l->ports = l->ports && version >= 4;
    wanted.scopes = version >= 6 ? SCOPES : 0;
    const size_t size = version >= 6   ? sizeof wanted
                        : version >= 4 ? offsetof(struct ruleset, scopes)
                                       : offsetof(struct ruleset, ports);
    l->fd = (int)syscall(__NR_landlock_create_ruleset, &wanted, size, 0);
    return l->fd >= 0;
}

bool sandbox_files(const struct config *c, const char *upstream_port, char *why, size_t why_size)
{
    struct sandbox_ports ports;
    struct landlock l = {.fd = -1};
    l.ports = sandbox_ports(c, upstream_port, &ports);
    if (!ruleset_new(&l)) {
        const bool none = errno == ENOSYS || errno == EOPNOTSUPP;
        snprintf(why, why_size, "%s", none ? "this kernel has none" : strerror(errno));
        return false;
    }
    for (size_t i = 0; i < sizeof FIXED / sizeof *FIXED; i++)
        allow(&l, FIXED[i].path, FIXED[i].access);
    allow_beside(&l, "/etc/resolv.conf", READS); /* where it leads to, as with systemd-resolved */
    allow_config(&l, c);
    for (size_t i = 0; i < c->listen_count; i++)
        allow_socket(&l, &c->listen[i]);
    allow_socket(&l, &c->admin);
    for (size_t i = 0; i < ports.n && l.ports; i++)
        allow_port(&l, ports.v[i]);
    if (!l.failed && (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
                      syscall(__NR_landlock_restrict_self, l.fd, 0) != 0))
        l.failed = errno;
    close(l.fd);
    if (l.failed)
        snprintf(why, why_size, "%s", strerror(l.failed));
    return !l.failed;
}
