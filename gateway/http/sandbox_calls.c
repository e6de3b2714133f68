/*
 * The system calls that serving needs after the start. Everything else is refused in one of two ways:
 *
 * - What no library asks for on any path of a gateway, and an intruder first of all, ends the process: there is nothing
 *   to save any more, and the service manager starts a clean one.
 * - All else fails with EPERM, and the kernel's audit log has it: some corner of libc may ask for a call that no test
 *   has seen, and its caller can live without; ending the service for that would hurt those whom it protects.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <sched.h>
#include <seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <netinet/in.h>
#include <unistd.h>

#include "http/sandbox.h"

#define CALL(name, why) {SCMP_SYS(name), #name} /* the reason is the reader's */

struct call {
    int number;
    const char *name;
};

/* Names that a machine does not have (open, stat, … on arm64) are no rules there: libseccomp knows. */
static const struct call ALLOWED[] = {
    CALL(read, "sockets, files, eventfd"),
    CALL(write, "sockets, logs, eventfd"),
    CALL(writev, "replies, evbuffer writes a socket"),
    CALL(close, "connections and files"),
    CALL(lseek, "libc's streams and directories"),
    CALL(fcntl, "non-blocking sockets, SQLite's locks"),

    CALL(openat, "reloading, SQLite's journal, rotated logs: which files, sandbox_files.c tells"),
    CALL(open, "the same by older libraries"),
    CALL(pread64, "SQLite, the last byte of a log"),
    CALL(pwrite64, "SQLite"),
    CALL(fsync, "the replay memory's mark"),
    CALL(fdatasync, "SQLite"),
    CALL(ftruncate, "SQLite's journal, the count of changes"),
    CALL(fallocate, "SQLite's shared memory"),
    CALL(fadvise64, "libc reads /etc/hosts"),
    CALL(flock, "the count of changes (keys_counter)"),
    CALL(unlink, "SQLite's journal, a Unix socket at the end"),
    CALL(unlinkat, "the same by newer libraries"),
    CALL(linkat, "the sealed copy of a shared database, made whole under its name"),
    CALL(rename, "the replay memory's mark"),
    CALL(renameat, "the same where there is no rename"),
    CALL(renameat2, "the same by newer libraries"),
    CALL(fchmod, "SQLite gives its journal the database's mode"),
    CALL(fchown, "SQLite, as root: its journal's owner"),
    CALL(access, "SQLite looks for a journal"),
    CALL(faccessat, "the same by newer libraries"),
    CALL(faccessat2, "the same by newer libraries"),
    CALL(stat, "watched files: have they changed?"),
    CALL(lstat, "SQLite resolves its path, a Unix socket's file"),
    CALL(fstat, "what was opened is a regular file"),
    CALL(newfstatat, "the same by newer libraries"),
    CALL(statx, "the same by newer libraries"),
    CALL(getdents64, "folders: descriptors are counted"),
    CALL(readlink, "SQLite resolves its path"),
    CALL(readlinkat, "the same by newer libraries"),
    CALL(getcwd, "SQLite resolves its path"),

    CALL(mremap, "realloc"),
    CALL(munmap, "free"),
    CALL(brk, "malloc"),
    CALL(madvise, "freed memory goes back; keys stay out of dumps"),
    CALL(mlock, "keys are never swapped"),
    CALL(mlock2, "the same by newer libraries"),
    CALL(munlock, "a block of keys is given back"),

    CALL(futex, "locks"),
    CALL(set_robust_list, "a thread starts"),
    CALL(rseq, "a thread starts"),
    CALL(gettid, "a thread's name, libevent"),
    CALL(exit, "a thread ends"),
    CALL(exit_group, "the end"),
    CALL(sched_yield, "contended locks"),
    CALL(sched_getaffinity, "malloc counts the cores"),
    CALL(sched_getscheduler, "a policy of the service's own is left alone"),
    CALL(restart_syscall, "the kernel's own, after a signal"),

    CALL(rt_sigaction, "libevent, libc"),
    CALL(rt_sigprocmask, "threads start with signals blocked"),
    CALL(rt_sigreturn, "a handler returns"),
    CALL(rt_sigtimedwait, "main waits for SIGTERM and SIGHUP"),
    CALL(rt_sigpending, "libpq, around a write over TLS"),
    CALL(sigaltstack, "a thread ends"),

    CALL(clock_gettime, "time, where the kernel's page has none"),
    CALL(clock_getres, "the same"),
    CALL(gettimeofday, "the same"),
    CALL(time, "the same"),
    CALL(nanosleep, "the decision log waits for its sink"),
    CALL(clock_nanosleep, "the same by newer libraries"),

    CALL(epoll_wait, "the loop"),
    CALL(epoll_pwait, "the loop where there is no epoll_wait"),
    CALL(epoll_pwait2, "the loop by newer libraries"),
    CALL(epoll_ctl, "the loop"),
    CALL(epoll_create1, "a worker starts"),
    CALL(eventfd2, "a worker starts"),
    CALL(pipe2, "a worker starts: libevent makes a pair for signals with each loop"),
    CALL(pipe, "the same by older libraries"),
    CALL(poll, "logs that can take more, the resolver"),
    CALL(ppoll, "the same where there is no poll"),

    CALL(accept4, "clients"),
    CALL(connect, "the upstream, name servers"),
    CALL(getsockname, "addresses are ordered by which the system would take"),
    CALL(getpeername, "libraries ask who is there"),
    CALL(getsockopt, "has connecting failed?"),
    CALL(setsockopt, "TCP_NODELAY, keep-alive"),
    CALL(shutdown, "an early refusal is drained"),
    CALL(sendto, "sockets"),
    CALL(sendmsg, "sockets"),
    CALL(sendmmsg, "the resolver asks for both kinds of address at once"),
    CALL(recvfrom, "sockets"),
    CALL(recvmsg, "sockets"),
    CALL(recvmmsg, "the resolver"),

    CALL(getrandom, "IDs, keys, TLS"),
    CALL(getpid, "the log, SQLite's locks"),
    CALL(getuid, "libc"),
    CALL(geteuid, "SQLite: who owns the journal"),
    CALL(getgid, "libc"),
    CALL(getegid, "libc"),
    CALL(getrusage, "metrics of the process"),
    CALL(sysinfo, "qsort asks how much memory there is"),
    CALL(uname, "the resolver: this machine's name"),
#ifdef KMSGATE_TRACED /* a build with a sanitizer: it looks for leaks at the end, by a process that traces this one */
    CALL(ptrace, "the leak sanitizer"),
    CALL(clone, "the leak sanitizer"),
    CALL(wait4, "the leak sanitizer"),
    CALL(getppid, "the leak sanitizer: is the process still there that it looks at?"),
    CALL(getdents, "the leak sanitizer lists the threads"),
    CALL(prctl, "the leak sanitizer"),
    CALL(kill, "the leak sanitizer"),
    CALL(tgkill, "the leak sanitizer"),
    CALL(process_vm_readv, "the sanitizer"),
    CALL(personality, "the sanitizer"),
#endif
#ifdef KMSGATE_COVERED /* gcov writes what was run at the end */
    CALL(mkdir, "gcov"),
#endif
};

/* Nobody but an intruder asks for these. */
static const struct call DEADLY[] = {
    CALL(execve, "another program"),
    CALL(execveat, "another program"),
#ifndef KMSGATE_TRACED
    CALL(ptrace, "another process"),
    CALL(process_vm_readv, "another process"),
#endif
    CALL(process_vm_writev, "another process"),
    CALL(kcmp, "another process"),
    CALL(pidfd_getfd, "another process"),
    CALL(bpf, "programs in the kernel"),
    CALL(perf_event_open, "what the kernel and others do"),
    CALL(userfaultfd, "a tool of kernel exploits"),
    CALL(io_uring_setup, "calls that no filter sees"),
    CALL(io_uring_enter, "the same"),
    CALL(io_uring_register, "the same"),
    CALL(unshare, "namespaces"),
    CALL(setns, "the same"),
    CALL(mount, "the file system's tree"),
    CALL(umount2, "the same"),
    CALL(move_mount, "the same"),
    CALL(open_tree, "the same"),
    CALL(fsopen, "the same"),
    CALL(pivot_root, "the same"),
    CALL(chroot, "the same"),
    CALL(open_by_handle_at, "files past every path"),
    CALL(init_module, "the kernel itself"),
    CALL(finit_module, "the same"),
    CALL(delete_module, "the same"),
    CALL(kexec_load, "the same"),
    CALL(kexec_file_load, "the same"),
    CALL(reboot, "the machine"),
    CALL(swapon, "the same"),
    CALL(swapoff, "the same"),
    CALL(acct, "the same"),
    CALL(settimeofday, "the clock"),
    CALL(clock_settime, "the clock"),
    CALL(clock_adjtime, "the clock"),
    CALL(adjtimex, "the clock"),
};

/* IP and Unix sockets, streams and datagrams of the usual protocols: no raw ones, no packets, no netlink. getaddrinfo()
 * asks netlink for the machine's addresses, is refused, and goes on without: it orders addresses by trying. */
static const struct {
    int family, type, protocol;
} SOCKETS[] = {
    {AF_INET, SOCK_STREAM, 0}, {AF_INET, SOCK_STREAM, IPPROTO_TCP}, {AF_INET, SOCK_DGRAM, 0},
    {AF_INET, SOCK_DGRAM, IPPROTO_UDP}, {AF_INET6, SOCK_STREAM, 0}, {AF_INET6, SOCK_STREAM, IPPROTO_TCP},
    {AF_INET6, SOCK_DGRAM, 0}, {AF_INET6, SOCK_DGRAM, IPPROTO_UDP}, {AF_UNIX, SOCK_STREAM, 0}, {AF_UNIX, SOCK_DGRAM, 0},
};
enum { SOCKET_TYPE = 0xf, SET_VMA = 0x53564d41 /* PR_SET_VMA: newer libc names its memory */ };

static int add_sockets(scmp_filter_ctx f)
{
    static const int RAW[] = {AF_INET, AF_INET6};
    int r = 0;
    for (size_t i = 0; i < sizeof SOCKETS / sizeof *SOCKETS && r == 0; i++)
        r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(socket), 3,
                             SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)SOCKETS[i].family, 0),
                             SCMP_A1(SCMP_CMP_MASKED_EQ, SOCKET_TYPE, (scmp_datum_t)SOCKETS[i].type),
                             SCMP_A2(SCMP_CMP_EQ, (scmp_datum_t)SOCKETS[i].protocol, 0));
    for (size_t i = 0; i < sizeof RAW / sizeof *RAW && r == 0; i++)
        r = seccomp_rule_add(f, SCMP_ACT_KILL_PROCESS, SCMP_SYS(socket), 2,
                             SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)RAW[i], 0),
                             SCMP_A1(SCMP_CMP_MASKED_EQ, SOCKET_TYPE, SOCK_RAW));
    return r ? r : seccomp_rule_add(f, SCMP_ACT_KILL_PROCESS, SCMP_SYS(socket), 1, SCMP_A0(SCMP_CMP_EQ, AF_PACKET, 0));
}

/* Threads, and neither processes nor namespaces. What clone3() asks for stands in memory, where no filter can look:
 * libc takes clone() where there is none. */
static int add_threads(scmp_filter_ctx f)
{
    const scmp_datum_t spaces = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC |
                                CLONE_NEWUTS | CLONE_NEWCGROUP;
    int r = seccomp_rule_add(f, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
#ifndef KMSGATE_TRACED
    if (r == 0)
        r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
                             SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD | spaces, CLONE_THREAD));
    if (r == 0) /* abort() */
        r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1, SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid(), 0));
    if (r == 0)
        r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1, SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME, 0));
    if (r == 0)
        r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1, SCMP_A0(SCMP_CMP_EQ, SET_VMA, 0));
#else
    (void)spaces;
#endif
    if (r == 0) /* the keys' thread lets those that serve go first */
        r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(sched_setscheduler), 2, SCMP_A0(SCMP_CMP_EQ, 0, 0),
                             SCMP_A1(SCMP_CMP_EQ, SCHED_BATCH, 0));
    return r;
}

/* No memory is ever both written and run; what is run comes from a file (the name service loads its modules late). */
static int add_memory(scmp_filter_ctx f)
{
    int r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    if (r == 0)
        r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 2,
                             SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC | PROT_WRITE, PROT_EXEC),
                             SCMP_A3(SCMP_CMP_MASKED_EQ, MAP_ANONYMOUS, 0));
    return r ? r : seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
                                    SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
}

/* How much waits in a socket (the resolver), how much of what was sent is not acknowledged (syslog), non-blocking, is
 * this a terminal: not what types into one (TIOCSTI). */
static int add_controls(scmp_filter_ctx f)
{
    static const unsigned REQUESTS[] = {FIONREAD, FIONBIO, TCGETS, SIOCOUTQ};
    int r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(prlimit64), 1, SCMP_A0(SCMP_CMP_EQ, 0, 0)); /* its own */
    for (size_t i = 0; i < sizeof REQUESTS / sizeof *REQUESTS && r == 0; i++)
        r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_EQ, REQUESTS[i], 0));
    return r;
}

static int add_all(scmp_filter_ctx f, const char **at)
{
    int r = 0;
    for (size_t i = 0; i < sizeof ALLOWED / sizeof *ALLOWED && r == 0; i++)
        r = seccomp_rule_add(f, SCMP_ACT_ALLOW, ALLOWED[i].number, 0), *at = ALLOWED[i].name;
    for (size_t i = 0; i < sizeof DEADLY / sizeof *DEADLY && r == 0; i++)
        r = seccomp_rule_add(f, SCMP_ACT_KILL_PROCESS, DEADLY[i].number, 0), *at = DEADLY[i].name;
    static int (*const OTHERS[])(scmp_filter_ctx) = {add_sockets, add_threads, add_memory, add_controls};
    for (size_t i = 0; i < sizeof OTHERS / sizeof *OTHERS && r == 0; i++)
        r = OTHERS[i](f), *at = "calls by argument";
    return r;
}

bool sandbox_calls(char *why, size_t why_size)
{
    const char *at = "the filter";
    scmp_filter_ctx f = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    int r = f ? 0 : -ENOMEM;
    if (r == 0)
        r = seccomp_attr_set(f, SCMP_FLTATR_CTL_TSYNC, 1), at = "all threads at once";
    if (r == 0)
        r = seccomp_attr_set(f, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS), at = "calls of other machines";
    if (r == 0) { /* older kernels: no log, and a list instead of a tree; the filter is the same */
        (void)seccomp_attr_set(f, SCMP_FLTATR_CTL_LOG, 1);
        (void)seccomp_attr_set(f, SCMP_FLTATR_CTL_OPTIMIZE, 2);
        r = add_all(f, &at);
    }
    if (r == 0)
        r = seccomp_load(f), at = "loading";
    if (f)
        seccomp_release(f);
    if (r != 0)
        snprintf(why, why_size, "%s: %s", at, strerror(-r));
    return r == 0;
}
