#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "http/server.h"

/* A gateway has no reason to start programs, look into other processes or change the system. */
#define DENY(name) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_##name, 0, 1), \
                   BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 1 /* EPERM */)

#ifdef KMSGATE_TRACED /* the leak sanitizer traces its own process: a build with it goes without that one denial */
#define DENY_PTRACE
#else
#define DENY_PTRACE DENY(ptrace),
#endif

#if defined(__x86_64__)
#define THIS_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define THIS_ARCH AUDIT_ARCH_AARCH64
#endif

bool sandbox_enter(void)
{
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return false;
#ifdef THIS_ARCH
    static struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, THIS_ARCH, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 1),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
#if defined(__x86_64__)
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 0, 1), /* x32 */
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 1),
#endif
        DENY(execve), DENY(execveat), DENY_PTRACE DENY(process_vm_readv), DENY(process_vm_writev), DENY(bpf),
        DENY(kexec_load), DENY(mount), DENY(umount2), DENY(pivot_root), DENY(chroot), DENY(init_module),
        DENY(finit_module), DENY(delete_module), DENY(reboot), DENY(swapon), DENY(swapoff), DENY(setns),
        DENY(unshare), DENY(perf_event_open), DENY(userfaultfd), DENY(add_key), DENY(request_key), DENY(keyctl),
        DENY(settimeofday), DENY(clock_settime), DENY(sethostname), DENY(acct), DENY(io_uring_setup),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    return syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) == 0;
#else
    log_warn("sandbox", NULL, "no system call filter for this kind of machine");
    return true;
#endif
}
