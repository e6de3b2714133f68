#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "http/sandbox.h"

/* What stays with root who may stay root: files of other users are read, keys are locked in memory. */
#define ROOT_KEEPS ((UINT64_C(1) << CAP_DAC_OVERRIDE) | (UINT64_C(1) << CAP_DAC_READ_SEARCH) | \
                    (UINT64_C(1) << CAP_FOWNER) | (UINT64_C(1) << CAP_CHOWN) | (UINT64_C(1) << CAP_IPC_LOCK))

/* A name of the system's, else a number, whose group then has the same. */
static bool find_user(const char *name, struct identity *out)
{
    char room[16384];
    struct passwd entry, *found = NULL;
    char *end = NULL;
    if (getpwnam_r(name, &entry, room, sizeof room, &found) == 0 && found) {
        out->uid = found->pw_uid;
        out->gid = found->pw_gid;
        snprintf(out->login, sizeof out->login, "%s", found->pw_name);
        return true;
    }
    const unsigned long number = strtoul(name, &end, 10);
    if (!*name || *end || number >= UINT32_MAX)
        return false;
    out->uid = (uid_t)number;
    out->gid = (gid_t)number;
    if (getpwuid_r(out->uid, &entry, room, sizeof room, &found) == 0 && found)
        out->gid = found->pw_gid;
    return true;
}

bool identity_look_up(const char *user, struct identity *out, const char **why)
{
    *out = (struct identity){.name = user, .change = true};
    const bool found = find_user(user, out);
    const bool root = found && (out->uid == 0 || out->gid == 0);
    *why = !found ? "is not a user of this machine" : root ? "is root, or in root's group" : NULL;
    return !*why;
}

bool identity_find(const char *user, bool allow_root, struct identity *out)
{
    const char *why = NULL;
    *out = (struct identity){.name = user};
    if (geteuid() != 0)
        return true;
    if (!user && allow_root) {
        log_warn("user", NULL, "runs as root, as --allow-root says");
        return true;
    }
    if (!user) {
        log_error("user", NULL, "started as root: set `user` in gateway.yaml to whom the gateway is to become, start "
                                "it as another user, or say --allow-root");
        return false;
    }
    if (!identity_look_up(user, out, &why))
        log_error("user", user, "%s", why);
    return !why;
}

static bool keep_capabilities(uint64_t kept)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct all[_LINUX_CAPABILITY_U32S_3] = {{0}};
    uint32_t had = 0;
    if (syscall(SYS_capget, &head, all) != 0)
        return false;
    for (int i = 0; i < _LINUX_CAPABILITY_U32S_3; i++)
        had |= all[i].permitted | all[i].inheritable;
    if (!had) /* as under the unit, whose own filter has no capset() */
        return true;
    for (int i = 0; i < _LINUX_CAPABILITY_U32S_3; i++) {
        all[i].permitted &= (uint32_t)(kept >> (32 * i));
        all[i].effective = all[i].permitted;
        all[i].inheritable = 0;
    }
    return syscall(SYS_capset, &head, all) == 0;
}

/* No program that this process could start would have them back. */
static void drop_bounds(void)
{
    for (int i = 0; prctl(PR_CAPBSET_READ, i, 0, 0, 0) >= 0; i++)
        (void)prctl(PR_CAPBSET_DROP, i, 0, 0, 0);
    (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
}

static bool identity_become(const struct identity *who)
{
    uid_t u[3];
    gid_t g[3];
    if ((who->login[0] ? initgroups(who->login, who->gid) : setgroups(0, NULL)) != 0 ||
        setresgid(who->gid, who->gid, who->gid) != 0)
        return false;
    if (setresuid(who->uid, who->uid, who->uid) != 0 || !keep_capabilities(0))
        return false;
    if (getresuid(&u[0], &u[1], &u[2]) != 0 || getresgid(&g[0], &g[1], &g[2]) != 0)
        return false;
    for (int i = 0; i < 3; i++)
        if (u[i] != who->uid || g[i] != who->gid)
            return false;
    return setuid(0) != 0; /* there is no way back */
}

bool identity_take(const struct identity *who)
{
    bool ok = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0;
    drop_bounds();
    if (ok && who->change)
        ok = identity_become(who);
    else if (ok)
        ok = keep_capabilities(geteuid() == 0 ? ROOT_KEEPS : 0);
    if (!ok)
        log_error("user", who->name, "rights cannot be given up: %s", strerror(errno));
#ifdef KMSGATE_TRACED /* the leak sanitizer traces its own process, which a change of user forbids */
    if (ok && who->change)
        (void)prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
#endif
    return ok;
}
