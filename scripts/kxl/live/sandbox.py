"""The box: where a program runs that does what a model says.

    with sandbox.box(Upstream("http://127.0.0.1:8080/v1"), [environment]) as box:
        ended = box.run([python, "-m", "agent"], {"work/a.txt": b"hi"}, env={}, seconds=300)
        box.root, box.url                     # its one writable folder and the model's server, as it knows them
        box.seen                              # what the server saw: relay.py, transcript.py
        leftovers.read(box.folder)            # what it left; the box is dead by then, so nothing changes any more

What the program inside has (SECURITY.md has the promises):
  files      /usr, the agent's environment and Python, a few of /etc, all read-only; box.root, /tmp and /dev/shm in
             memory, bounded; null, zero, full, random, urandom, tty and pts of /dev; a /proc of its own
  processes  its own alone: PID, IPC, UTS, mount and network namespaces; no capability, no way to get one back, and
             the system calls of seccomp.py
  network    a loopback of its own, with the relay to the model's server on PORT
  limits     Limits, by the kernel where it can, else looked at five times a second

bubblewrap makes it (Debian: `bubblewrap`; Flatpak runs every application in it): mounts, namespaces and the order in
which rights are dropped are where such code goes wrong, and it is looked after. It needs no setuid. An ordinary user
gets a user namespace; root makes the box directly and becomes a user that owns nothing (root's own id would keep
root's files and has no limit on processes). Where neither is allowed `box` refuses. What bubblewrap lacks is in
inside.py (limits, files, the other user) and seccomp.py. `own_rights` has the same shape without any of this.
"""

import base64
import contextlib
import functools
import itertools
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kxl.base import files, processes
from kxl.base.cli import UserError, printable
from kxl.base.processes import Ended
from kxl.live import machine, relay, seccomp
from kxl.live.relay import Upstream
from kxl.live.transcript import Transcript

PORT = 8080  # inside; the network there is the box's own, so it is free
# A plain name, as people work in: a row of random letters in every path that a tool returns is a trial of its own for
# a small model.
FOLDER = "hermes-live"
ROOT = Path("/tmp") / f"{FOLDER}-1"
INSIDE = files.ROOT / "scripts" / "kxl/live/inside.py"
INSIDE_AT = "/box/inside.py"

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
ETC = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "localtime", "timezone", "mime.types")
HIDDEN = ("acpi", "asound", "keys", "key-users", "latency_stats", "pressure", "sched_debug", "scsi", "timer_list")
# Those of the host that stand in the box, to be written: where one is a file, it would be a file of the host.
DEVICES = tuple(f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty"))
FIRST_UID, UIDS = 61184, 4096  # systemd keeps these for users that own nothing
USER_UID = 1000  # in a user namespace, where it is the caller in fact
START_SECONDS = 60
# What must hold before bubblewrap loads the filter, which keeps it so: nothing of a crashed process goes to the
# machine's own handler of crashes (seccomp.py, RLIMIT_CORE), and there are no huge pages (prctl 41,
# PR_SET_THP_DISABLE): of one that a process gave back but for a sign, the kernel keeps the rest, in nobody's account.
# And where the machine's memory ends before we see it, the kernel ends the task and no other program.
BEFORE = """
import ctypes, os, resource, sys
with open("/proc/self/oom_score_adj", "w") as file:
    file.write("1000")
try:
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
except ValueError:  # the hard limit is 0, and who is not root cannot raise it
    pass
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
# Of a process's memory: its own, shared, tables of pages (also of those that only zeros stand in), in the swap space.
COUNTED = (b"RssAnon", b"RssShmem", b"VmPTE", b"VmSwap")
LOOKS = 10  # for processes that began while we looked at the others


@dataclass(frozen=True)
class Limits:
    """What a program in the box may use; bytes where nothing else is said."""

    processes: int = 128  # and threads; Hermes at work has eleven
    open_files: int = 256  # of each process
    signals: int = 512  # that wait, timers among them; an ordinary user's count with those outside
    file: int = 256 << 20  # the largest file
    data: int = 2 << 30  # memory of each process
    memory: int = 3 << 30  # of all processes together
    disk: int = 512 << 20  # all files below /tmp
    shared: int = 64 << 20  # /dev/shm
    files: int = 50_000  # and folders, below /tmp and /dev/shm
    output: int = 1 << 20  # what is kept of each of stdout and stderr; sixteen times as much ends the task


class Box:
    """A box to run one program in. `folder` is `root` from outside, open, once the program has run."""

    root, url = ROOT, f"http://127.0.0.1:{PORT}/v1"

    def __init__(self, upstream: Upstream, environments: list, seen: Transcript, limits: Limits):
        self.upstream, self.environments, self.seen, self.limits = upstream, environments, seen, limits
        self.folder = self._shared = self._proc = self._first = None  # open files

    def run(self, command: list, laid: dict[str, bytes], env: dict, seconds: float, cwd: Path | None = None) -> Ended:
        """Run `command` in `cwd` (root/work) with the files `laid`, {path below root: content}; no process lives on."""
        with contextlib.ExitStack() as stack:
            user = _own_user(stack) if _is_root() else None
            child, outside = self._start(stack, user)
            listener = self._meet(child, outside, self._orders(user, command, laid, env, cwd))
            stack.enter_context(relay.serve(listener, self.upstream, self.seen))
            return processes.watch(child, seconds, self.limits.output, lambda: self._kill(child), self._breach)

    def _orders(self, user: dict | None, command: list, laid: dict, env: dict, cwd: Path | None) -> dict:
        """What inside.py is told."""
        return {
            "user": user,
            "root": str(self.root),
            "cwd": str(cwd or self.root / "work"),
            "files": {name: base64.b64encode(text).decode() for name, text in laid.items()},
            "port": PORT,
            "command": [str(part) for part in command],
            "env": env,
            "limits": {
                # Before 5.14 this one counted all processes of the user, also those outside.
                **({"RLIMIT_NPROC": self.limits.processes} if user or _kernel() >= (5, 14) else {}),
                "RLIMIT_NOFILE": self.limits.open_files,
                "RLIMIT_FSIZE": self.limits.file,
                "RLIMIT_DATA": self.limits.data,
                "RLIMIT_MEMLOCK": 1 << 16,
                "RLIMIT_MSGQUEUE": 0,
                "RLIMIT_SIGPENDING": self.limits.signals,
            },
        }

    def _start(self, stack: contextlib.ExitStack, user: dict | None) -> tuple[subprocess.Popen, socket.socket]:
        """Start bubblewrap with inside.py, which waits for its orders at the returned socket."""
        outside, inner = socket.socketpair()
        stack.enter_context(outside)
        told, tell = os.pipe()  # bubblewrap says the number of the box's first process
        with contextlib.ExitStack() as theirs:
            theirs.enter_context(inner)
            theirs.callback(os.close, tell)
            stack.callback(os.close, told)
            data = functools.partial(_data, theirs)
            identity = user or {"uid": USER_UID, "gid": USER_UID}
            flags = [
                *_namespaces(user is not None),
                *_system_mounts(),
                *_texts_of_etc(identity, self.root, data),
                # Read-only: the box's first process has none of the limits, and its memory stands there as a file.
                *["--proc", "/proc", *_masked(), "--remount-ro", "/proc", "--dev", "/dev"],
                # Mapped, the kernel's own /dev/zero is shared memory that no limit counts; this one reads the same.
                *["--dev-bind", "/dev/full", "/dev/zero"],
                *["--perms", "1777", "--size", str(self.limits.shared), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"],
                *["--perms", "1777", "--size", str(self.limits.disk), "--tmpfs", "/tmp"],
                *["--dir", "/run", "--dir", "/var", "--symlink", "/tmp", "/var/tmp"],
                *_python(),
                *_read_only(self.environments),
                *[
                    "--perms",
                    "0755",
                    "--dir",
                    "/box",
                    "--ro-bind",
                    str(INSIDE),
                    INSIDE_AT,
                    "--remount-ro",
                    "/",
                    "--chdir",
                    "/",
                ],
                *["--seccomp", str(data(seccomp.filter_program())), "--info-fd", str(tell)],
            ]
            program = [_interpreter(), "-I", "-S", INSIDE_AT, str(inner.fileno())]
            child = subprocess.Popen(
                [_interpreter(), "-I", "-S", "-c", BEFORE, shutil.which("bwrap"), *flags, "--", *program],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={},  # /proc/1/environ inside is bubblewrap's own
                cwd="/",
                pass_fds=[int(word) for word in _numbers(flags)] + [inner.fileno()],
                start_new_session=True,
            )
        said = b""
        while select.select([told], [], [], START_SECONDS)[0] and (piece := os.read(told, 4096)):
            said += piece
        if found := re.search(rb'"child-pid":\s*(\d+)', said):
            with contextlib.suppress(ProcessLookupError):  # it failed at once: _meet says why
                self._first = os.pidfd_open(int(found[1]))
        return child, outside

    def _meet(self, child: subprocess.Popen, outside: socket.socket, wanted: dict) -> socket.socket:
        """Give inside.py its orders and take the open files that it sends; UserError where there is no box."""
        outside.settimeout(START_SECONDS)
        received: list[int] = []
        with contextlib.suppress(OSError):  # it ended, and says on stderr why
            outside.sendall(json.dumps(wanted).encode())
            outside.shutdown(socket.SHUT_WR)
            received = socket.recv_fds(outside, 16, 4)[1]
        if len(received) != 4:
            ended = processes.watch(child, 1, self.limits.output, lambda: self._kill(child))
            lines = ended.err.strip().splitlines() or [f"bubblewrap ended with exit code {child.returncode}"]
            raise UserError(f"the box could not be made: {printable(lines[-1])}")
        listener, self.folder, self._shared, self._proc = received
        return socket.socket(fileno=listener)

    def _kill(self, child: subprocess.Popen) -> None:
        """End the box's first process, and with it, says the kernel, every other; they are gone afterwards."""
        if self._first is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._first, signal.SIGKILL)
            select.select([self._first], [], [], START_SECONDS)
        try:
            child.wait(START_SECONDS if self._first is not None else 0)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def _breach(self) -> str | None:
        """What the box uses too much of, or the machine has too little left of, in words."""
        count, memory = _used(self._proc)
        if count - 1 > self.limits.processes:  # the box's first is bubblewrap's own
            return f"it ran more than {self.limits.processes} processes"
        if memory > self.limits.memory:
            return f"it used more than {files.size(self.limits.memory)} of memory"
        there = [os.fstatvfs(folder) for folder in (self.folder, self._shared)]
        if sum(status.f_files - status.f_ffree for status in there) > self.limits.files:
            return f"it made more than {self.limits.files:,} files"
        return machine.short()

    def close(self) -> None:
        for opened in filter(None, (self.folder, self._shared, self._proc, self._first)):
            os.close(opened)


@contextlib.contextmanager
def box(
    upstream: Upstream, environments: list, seen: Transcript | None = None, limits: Limits | None = None
) -> Iterator[Box]:
    """A Box whose program sees the folders `environments` (read-only) and reaches the server `upstream` alone.

    UserError where this system allows no box.
    """
    if why := unavailable():
        raise UserError(f"this system allows no box around the agent: {why}")
    made = Box(upstream, environments, seen or Transcript(), limits or Limits())
    try:
        yield made
    finally:
        made.close()


class OwnRights:
    """What Box is, without a box: the program has all rights of this process, and a folder of the host."""

    def __init__(self, upstream: Upstream, root: Path, folder: int, seen: Transcript):
        self.upstream, self.root, self.folder, self.seen = upstream, root, folder, seen
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"

    def run(self, command: list, laid: dict[str, bytes], env: dict, seconds: float, cwd: Path | None = None) -> Ended:
        """As Box.run; of the limits there are time and output."""
        cwd = cwd or self.root / "work"
        for name, text in laid.items():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_bytes(text)
        cwd.mkdir(parents=True, exist_ok=True)
        with relay.serve(self._listener, self.upstream, self.seen):
            return run_bare(command, env, seconds, cwd)

    def close(self) -> None:
        self._listener.close()


def run_bare(command: list, env: dict, seconds: float, cwd: Path) -> Ended:
    """Run `command` with this process's rights; time and output are bounded, and its processes end with it."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with processes.guarded(command, cwd=cwd, env=env, **pipes) as child:
        ended = processes.watch(child, seconds, Limits.output, child.end)
    if ended.exit_code is not None:
        ended.exit_code = processes.ended_by(ended.exit_code)
    return ended


@contextlib.contextmanager
def own_rights(upstream: Upstream, seen: Transcript | None = None) -> Iterator[OwnRights]:
    """An OwnRights with a new folder in the temporary folder; one that a killed run of ours left is removed first."""
    base = Path(tempfile.gettempdir()).resolve()
    for number in itertools.count(1):
        root = base / f"{FOLDER}-{number}"
        if root.exists() and (left := files.take_dir(root)) is not None:
            files.remove_tree(root)
            os.close(left)
        with contextlib.suppress(FileExistsError):
            root.mkdir(mode=0o700)
            if (folder := files.take_dir(root)) is not None:
                break
    made = OwnRights(upstream, root, folder, seen or Transcript())
    try:
        yield made
    finally:
        made.close()
        files.remove_tree(root)
        os.close(folder)


@functools.cache
def unavailable() -> str | None:
    """Why there is no box here, in words; None where there is one."""
    if sys.platform != "linux":
        return "namespaces are Linux's"
    if not shutil.which("bwrap"):
        return "bubblewrap is not installed (Debian: apt-get install bubblewrap)"
    if wrong := [name for name in DEVICES if not Path(name).is_char_device()]:
        return f"{wrong[0]} is no device (something was written over it, as root): restart, or make it again (mknod)"
    if "--size" not in subprocess.run(["bwrap", "--help"], capture_output=True, text=True).stdout:
        return "this bubblewrap is too old to bound the memory of a folder: 0.7 or newer is needed"
    made = Box(Upstream("http://127.0.0.1:9/v1"), [], Transcript(), Limits())
    try:
        machine.short()
        ended = made.run(["/bin/sh", "-c", "exit 7"], {}, {}, START_SECONDS)
    except (UserError, OSError) as error:  # such as a kernel before 5.3, which has no pidfd_open
        return str(error)
    finally:
        made.close()
    return None if ended.exit_code == 7 else f"a program in it ended with {ended.exit_code}: {printable(ended.err)}"


def _is_root() -> bool:
    return os.geteuid() == 0


def _own_user(stack: contextlib.ExitStack) -> dict:
    """A user that no other box on this machine is, until `stack` ends: the kernel counts much by user.

    An abstract socket holds its number; it ends with us in whatever way.
    """
    for place in range(UIDS):
        number = FIRST_UID + (os.getpid() + place) % UIDS
        held = stack.enter_context(socket.socket(socket.AF_UNIX))
        with contextlib.suppress(OSError):
            held.bind(f"\0{FOLDER}-{number}")
            return {"uid": number, "gid": number}
        held.close()
    raise UserError(f"each of the {UIDS:,} users for boxes is one already")


def _kernel() -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])


def _interpreter() -> str:
    """The Python that inside.py runs with: the one of this process, without its virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def _namespaces(root: bool) -> list[str]:
    flags = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    flags += ["--hostname", "box", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    if root:  # what inside.py needs to become another user, who has none of them
        return [*flags, *["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_SETPCAP"]]
    return [*flags, "--unshare-user", "--uid", str(USER_UID), "--gid", str(USER_UID)]


def _system_mounts() -> list[str]:
    flags = []
    for name in SYSTEM:
        if os.path.islink(name):
            flags += ["--symlink", os.readlink(name), name]
        elif os.path.isdir(name):
            flags += ["--ro-bind", name, name]
    flags += ["--perms", "0755", "--dir", "/etc"]
    for name in ETC:
        flags += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    return flags


def _texts_of_etc(user: dict, home: Path, data) -> list[str]:
    """What programs look up about users and hosts, of nobody outside."""
    texts = {
        "passwd": f"user:x:{user['uid']}:{user['gid']}:user:{home}/home:/bin/sh\n",
        "group": f"user:x:{user['gid']}:\n",
        "hosts": "127.0.0.1 localhost box\n::1 localhost\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    }
    flags = []
    for name, text in texts.items():
        flags += ["--perms", "0444", "--ro-bind-data", str(data(text.encode())), f"/etc/{name}"]
    return flags


def _masked() -> list[str]:
    """What of /proc tells about the machine and its users rather than about processes, as containers hide it."""
    flags = []
    for path in (f"/proc/{name}" for name in HIDDEN):
        if os.path.isdir(path):
            flags += ["--tmpfs", path, "--remount-ro", path]
        elif os.path.exists(path):
            flags += ["--ro-bind", "/dev/null", path]
    return flags


def _python() -> list[str]:
    """The Python that programs inside run with, and its standard library, without what somebody installed into it."""
    interpreter, libraries = Path(_interpreter()), Path(sys.base_prefix).resolve() / "lib"
    if interpreter.is_relative_to("/usr"):
        return []
    flags = [*_parents(interpreter), "--ro-bind", str(interpreter), str(interpreter)]
    flags += [*_parents(libraries), "--ro-bind", str(libraries), str(libraries)]
    packages = Path(sysconfig.get_path("stdlib")).resolve() / "site-packages"
    if packages.is_dir() and packages.is_relative_to(libraries):
        flags += ["--perms", "0755", "--tmpfs", str(packages), "--remount-ro", str(packages)]
    return flags


def _read_only(folders: list[Path]) -> list[str]:
    """Bind folders at their own paths, and each link on the way to the Python of a virtual environment among them."""
    flags, bound = [], [Path(name) for name in (*SYSTEM, _interpreter())]
    for folder in folders:
        real = Path(os.path.realpath(folder))
        if not any(real.is_relative_to(path) for path in bound):
            flags += [*_parents(real), "--ro-bind", str(real), str(real)]
            bound.append(real)
        if (real / "pip.conf").exists():  # it may name a package index with its password
            flags += ["--ro-bind", "/dev/null", str(real / "pip.conf")]
    for start in [*folders, *(Path(folder) / "bin" / "python" for folder in folders)]:
        for link, target in _links(Path(start)):
            if not any(link.is_relative_to(path) for path in bound):
                flags += [*_parents(link), "--symlink", target, str(link)]
                bound.append(link)
    return flags


def _parents(path: Path) -> list[str]:
    """The folders above `path`, which bubblewrap would make for the box's first user alone."""
    return [word for above in reversed(path.parents[:-1]) for word in ("--perms", "0755", "--dir", str(above))]


def _links(path: Path) -> Iterator[tuple[Path, str]]:
    """(link, target) for every symbolic link that is passed on the way to `path`."""
    rest, here = list(path.absolute().parts[1:]), Path("/")
    for _ in range(1000):
        if not rest:
            return
        here /= rest.pop(0)
        if here.name == "..":
            here = here.parent.parent
        elif here.is_symlink():
            target = os.readlink(here)
            yield here, target
            rest[:0] = Path(target).parts[1:] if os.path.isabs(target) else Path(target).parts
            here = Path("/") if os.path.isabs(target) else here.parent


def _data(stack: contextlib.ExitStack, content: bytes) -> int:
    """A file descriptor from which `content` can be read."""
    file = stack.enter_context(tempfile.TemporaryFile())
    file.write(content)
    file.seek(0)
    return file.fileno()


def _numbers(flags: list[str]) -> list[str]:
    """The file descriptors that bubblewrap's flags name."""
    return [word for flag, word in itertools.pairwise(flags) if flag in ("--seccomp", "--info-fd", "--ro-bind-data")]


def _used(proc: int) -> tuple[int, int]:
    """(processes and threads, bytes of memory) of all in the box, by its own /proc.

    Private and shared memory count and the kernel's tables of them, files of the system do not. What two processes
    share counts twice. The youngest are looked at first, and who came meanwhile afterwards: a program that again and
    again goes on in a new process, with all its memory, would be gone whenever its turn came.
    """
    used: dict[int, tuple[int, int]] = {}
    count = memory = 0
    for _ in range(LOOKS):
        there = sorted((int(name) for name in os.listdir(proc) if name.isdigit()), reverse=True)
        if used.keys() >= set(there):
            break
        used |= {process: _used_by(proc, process) for process in there if process not in used}
        count = count or sum(used[process][0] for process in there)  # at one time: what is kept of it grows old
        memory = max(memory, sum(used[process][1] for process in there))
    return count, memory


def _used_by(proc: int, process: int) -> tuple[int, int]:
    """(threads, bytes of memory) of one process; nothing of one that ended while we looked."""
    try:
        fields = _status(proc, str(process))
        count = int(fields[b"Threads"])
        if b"RssAnon" not in fields:  # its first thread ended: what the others hold is told by each of them
            fields = _of_a_thread(proc, process)
    except OSError:
        return 0, 0
    return count, sum(int(fields.get(key, b"0").split()[0]) for key in COUNTED) << 10


def _of_a_thread(proc: int, process: int) -> dict[bytes, bytes]:
    """The status of a thread that has not ended, the youngest first as above; {} where there is none."""
    for _ in range(LOOKS):
        others = {int(name) for name in _names(proc, f"{process}/task")} - {process}
        for thread in sorted(others, reverse=True):
            with contextlib.suppress(OSError):
                if b"RssAnon" in (fields := _status(proc, f"{process}/task/{thread}")):
                    return fields
        if not others:
            break
    return {}


def _status(proc: int, name: str) -> dict[bytes, bytes]:
    """{key: value} of a status file. In bytes: a process gives itself a name with any sign but a line's end in it."""
    with open(os.open(f"{name}/status", os.O_RDONLY, dir_fd=proc), "rb") as file:
        return dict(line.split(b":", 1) for line in file.read().split(b"\n") if b":" in line)


def _names(proc: int, folder: str) -> list[str]:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY, dir_fd=proc)
    try:
        return os.listdir(opened)
    finally:
        os.close(opened)
