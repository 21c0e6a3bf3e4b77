"""The system calls that a program in the box may make, as a filter that the kernel runs (seccomp).

    sandbox.bwrap --seccomp FD      # FD holds filter_program()

A list of what is allowed, not of what is forbidden: a system call that a later kernel brings stays closed. libseccomp
(Debian: libseccomp2, which systemd needs, too) turns names into this machine's numbers and the list into the kernel's
instructions; both differ from one architecture to the next, so neither is ours to write.
"""

import ctypes
import errno
import functools
import tempfile

from kxl.base.cli import UserError

# By group. Missing on purpose: whatever makes namespaces or mounts, looks into other processes, loads programs into the
# kernel, reaches keyrings or the kernel's log, holds memory that no limit counts (memfd_create, System V shared
# memory), watches what others do with files (inotify) or keeps the whole machine's disks busy (sync). `clone`, `mmap`,
# `personality`, `prlimit64`, `setrlimit`, `socket` and `socketpair` are allowed in part: _comparisons says for which
# arguments. So are those of BY_LIST; those of DONE are not carried out.
ALLOWED = {
    "files": """
        access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2
        fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fgetxattr flistxattr flock
        fremovexattr fsetxattr fstat fstatfs ftruncate futimesat getcwd getdents getdents64 getxattr
        lchown lgetxattr link linkat listxattr llistxattr lremovexattr lseek lsetxattr lstat mkdir mkdirat mknod mknodat
        newfstatat open openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink
        readlinkat readv removexattr rename renameat renameat2 rmdir sendfile setxattr stat statfs statx symlink
        symlinkat truncate umask unlink unlinkat utime utimensat utimes write writev
    """,
    "waiting": """
        epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 poll ppoll
        pselect6 select signalfd signalfd4 timerfd_create timerfd_gettime timerfd_settime pipe pipe2
    """,
    "processes": """
        _exit arch_prctl capget capset execve execveat exit exit_group fork getcpu getegid geteuid getgid getgroups
        getpgid getpgrp getpid getppid getpriority getresgid getresuid getrlimit getrusage getsid gettid getuid
        get_robust_list get_thread_area ioprio_get kill membarrier pidfd_open pidfd_send_signal rseq
        sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_get_priority_max
        sched_get_priority_min sched_rr_get_interval sched_setaffinity sched_yield setfsgid setfsuid setgid
        setgroups setpgid setpriority setregid setresgid setresuid setreuid setsid setuid set_robust_list
        set_thread_area set_tid_address sysinfo tgkill times tkill uname vfork wait4 waitid waitpid
    """,
    "memory": """
        brk mincore mlock mlock2 mlockall mprotect mremap msync munlock munlockall munmap pkey_alloc
        pkey_free pkey_mprotect
    """,
    "signals and time": """
        alarm clock_getres clock_gettime clock_nanosleep futex futex_waitv getitimer gettimeofday nanosleep pause
        restart_syscall rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
        rt_sigtimedwait rt_tgsigqueueinfo setitimer sigaltstack sigreturn time timer_create timer_delete
        timer_getoverrun timer_gettime timer_settime
    """,
    "sockets": """
        accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg sendmmsg
        sendmsg sendto shutdown
    """,
    "random numbers": """
        getrandom
    """,
}

# Calls that are many in one, and to which later kernels add: (argument that says which, those allowed). Missing on
# purpose: what makes tables of any size in the kernel (PR_FUTEX_HASH), keeps cores idle (PR_SCHED_CORE), watches
# folders (F_NOTIFY), makes others wait for a file (F_SETLEASE), loads modules (TIOCSETD, SIOCGIFBR, SIOCGIFVLAN),
# leaves keys in a file system (FS_IOC_ADD_ENCRYPTION_KEY) or lays pages together with those of others, by which they
# can be told (MADV_MERGEABLE), and what sandbox.py arranged (PR_SET_THP_DISABLE).
BY_LIST = {
    # what a program will read, frees, keeps from children and dumps; small pages, guards
    "madvise": (2, {0, 1, 2, 3, 4, 8, 9, 10, 11, 15, 16, 17, 18, 19, 20, 22, 23, 24, 102, 103}),
    # a process's end, name, dumps, capabilities, filters (of a few thousand steps), timers' slack, orphans, state
    "prctl": (0, {1, 2, 3, 4, 7, 8, 15, 16, 21, 22, 23, 24, 25, 27, 28, 29, 30, 36, 37, 38, 39, 42, 47, 52}),
    # F_DUPFD to F_GETOWN_EX, locks of an open file, F_GETLEASE, F_DUPFD_QUERY, F_DUPFD_CLOEXEC, pipes, seals
    "fcntl": (1, {*range(12), 15, 16, 36, 37, 38, 1025, 1027, 1030, 1031, 1032, 1033, 1034}),
    "ioctl": (
        1,
        {
            *range(0x5401, 0x5412),  # terminals: settings, flow, who is in front; TIOCSTI, behind them, types
            *(0x5413, 0x5414, 0x5415, 0x5416, 0x5417, 0x5418, 0x5419, 0x541A, 0x541B, 0x5420, 0x5421, 0x5422),
            *(0x5424, 0x5425, 0x5429, 0x5441, 0x5450, 0x5451, 0x5452, 0x5460),
            *(0x802C542A, 0x402C542B, 0x402C542C, 0x402C542D, 0x80045430, 0x40045431, 0x80045438, 0x80045439),
            # what a socket and the network interfaces are
            *(0x8905, 0x8910, 0x8912, 0x8913, 0x8915, 0x8917, 0x8919, 0x891B, 0x891D, 0x8921, 0x8927, 0x8933, 0x8942),
            *(0x80086601, 0x801C581F, 0x80045200),  # a file's flags, the entropy
        },
    ),
}
# Of setsockopt: {level: options}. Missing on purpose: filters (SO_ATTACH_FILTER), whose programs stand in a store of
# the whole machine, flow labels, of which the machine has a few thousand, and other protocols on top (TCP_ULP).
OPTIONS = {
    1: {1, 2, 5, 6, 7, 8, 9, 10, 12, 13, 15, 16, 18, 19, 20, 21, 25, 29, 34, 35, 37, 62, 63, 64, 65, 66, 67},
    0: {1, 2, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15, 24, 32, 33, 34, 35, 36, 49, 50, 51},  # IPPROTO_IP
    41: {16, 17, 18, 19, 20, 21, 23, 24, 25, 26, 29, 49, 51, 66, 67},  # IPPROTO_IPV6
    6: {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 18, 23, 25, 30, 36},  # IPPROTO_TCP
    17: {1, 103, 104},  # IPPROTO_UDP
    270: {1, 2, 3, 5, 10, 11, 12},  # SOL_NETLINK
}
# Answered with success and not carried out. What a task may write is memory; a file of the system that it may only
# read would have the disk empty its cache, for which everybody waits.
DONE = ("fsync", "fdatasync", "sync_file_range")

ALLOW = 0x7FFF0000  # SCMP_ACT_ALLOW
SUCCESS = 0x00050000  # SCMP_ACT_ERRNO(0)
REFUSE = 0x00050000 | errno.ENOSYS  # SCMP_ACT_ERRNO: programs then try an older way, as on an older kernel
EQUAL, MASKED_EQUAL = 4, 7  # SCMP_CMP_*

# Of clone(2), clone flags: any new namespace. clone3 hides its flags in memory; without it libc takes clone.
NEW_NAMESPACES = 0x7E020000
SHOW_PERSONALITY = 0xFFFFFFFF
# Address families: without these, AF_VSOCK would reach the host of a virtual machine, past every network namespace.
UNIX, INET, INET6, NETLINK = 1, 2, 10, 16
TCP_UDP_OR_DEFAULT = (0, 6, 17)
# Of a socket's type: for one that it does not know, of whatever protocol, the kernel loads a module (DCCP, SCTP).
STREAM, DGRAM, TYPES = 1, 2, 0xF
NETLINK_ROUTE = 0  # the interfaces' addresses, which resolvers ask for
# Of mmap(2). Shared memory without a name, of which a program may unmap all but a page, stays in memory whole and is in
# nobody's account; the machine's huge pages are a store that others reserved.
SHARED, ANONYMOUS, HUGE = 0x01, 0x20, 0x40000
# At a limit of 0 the kernel still gives a crashed process to the machine's own handler of crashes, at sandbox.py's 1 it
# does not; and lowering a limit needs no right.
RLIMIT_CORE = 4
WORD = 0xFFFFFFFF  # the kernel drops the upper half of such an argument's register; musl fills it with signs


class _Comparison(ctypes.Structure):
    """struct scmp_arg_cmp: argument `arg` of the call, compared with `a` (and `b`)."""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def _comparisons() -> list[tuple[str, list[tuple]]]:
    """(system call, comparisons that must all hold) for those that are allowed in part."""
    only = [("clone", [(0, MASKED_EQUAL, NEW_NAMESPACES, 0)])]
    only += [("personality", [(0, EQUAL, value, 0)]) for value in (0, SHOW_PERSONALITY)]
    only += [("socket", [(0, EQUAL, UNIX, 0)]), ("socket", [(0, EQUAL, NETLINK, 0), (2, EQUAL, NETLINK_ROUTE, 0)])]
    only += [
        ("socket", [(0, EQUAL, family, 0), (1, MASKED_EQUAL, TYPES, kind), (2, EQUAL, protocol, 0)])
        for family in (INET, INET6)
        for kind in (STREAM, DGRAM)
        for protocol in TCP_UDP_OR_DEFAULT
    ]
    only += [("socketpair", [(0, EQUAL, UNIX, 0)])]
    only += [("mmap", [(3, MASKED_EQUAL, SHARED | ANONYMOUS | HUGE, flags)]) for flags in (0, SHARED, ANONYMOUS)]
    for name, (argument, values) in BY_LIST.items():
        only += [(name, [(argument, MASKED_EQUAL, WORD, value)]) for value in sorted(values)]
    only += [
        ("setsockopt", [(1, MASKED_EQUAL, WORD, level), (2, MASKED_EQUAL, WORD, option)])
        for level, options in OPTIONS.items()
        for option in sorted(options)
    ]
    only += [("setrlimit", [other]) for other in _other_than(0, RLIMIT_CORE)]
    only += [("prlimit64", [other]) for other in (*_other_than(1, RLIMIT_CORE), (2, EQUAL, 0, 0))]  # no new limit
    return only


def _other_than(argument: int, value: int) -> list[tuple]:
    """Comparisons one of which holds when an argument of 32 bits is another than `value`.

    The kernel drops the upper half of the register: "not equal" would be met by setting a bit there.
    """
    return [(argument, MASKED_EQUAL, 1 << bit, ~value & 1 << bit) for bit in range(32)]


@functools.cache
def filter_program() -> bytes:
    """The filter as the kernel's BPF instructions, 8 bytes each. UserError where libseccomp is missing."""
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        raise UserError("libseccomp is not installed (Debian: apt-get install libseccomp2)") from None
    library.seccomp_init.restype = ctypes.c_void_p
    for name in ("seccomp_rule_add_array", "seccomp_export_bpf", "seccomp_release"):
        getattr(library, name).argtypes = {
            "seccomp_rule_add_array": [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p],
            "seccomp_export_bpf": [ctypes.c_void_p, ctypes.c_int],
            "seccomp_release": [ctypes.c_void_p],
        }[name]
    context = library.seccomp_init(REFUSE)
    if not context:
        raise UserError("libseccomp makes no filter on this system")
    try:
        names = sorted({name for group in ALLOWED.values() for name in group.split()})
        rules = [(name, [], ALLOW) for name in names] + [(name, [], SUCCESS) for name in DONE]
        rules += [(name, comparisons, ALLOW) for name, comparisons in _comparisons()]
        for name, comparisons, action in rules:
            number = library.seccomp_syscall_resolve_name(name.encode())
            if number < 0:  # another architecture's, or younger than this libseccomp
                continue
            array = (_Comparison * len(comparisons))(*comparisons)
            if code := library.seccomp_rule_add_array(context, action, number, len(comparisons), array):
                raise UserError(f"libseccomp takes no rule for {name}: error {-code}")
        with tempfile.TemporaryFile() as file:
            if code := library.seccomp_export_bpf(context, file.fileno()):
                raise UserError(f"libseccomp gives no filter: error {-code}")
            file.seek(0)
            return file.read()
    finally:
        library.seccomp_release(context)
