"""The box's first program, not a module: it takes its last rights off, then becomes the agent.

  python -I -S inside.py FD

FD is a socket to the process outside. From there comes one JSON object, ended by shutdown:

  user       {"uid", "gid"} to become, where the box was set up by root; null: we are nobody special already
  root       the only folder that can be written, which is made here
  files      {path below root: text} to lay into it, base64
  port       on which the program inside finds the model's server
  limits     {name of an RLIMIT_...: number}
  command    what to run, in the folder `cwd`, with the variables `env`

Back go four open files: a listening socket on `port` of this network, whose other end is served outside; `root`;
/dev/shm; and /proc, in which only this box's processes are. So no path leads out of the box, and whoever reads what
is left in `root` needs none that leads in.
"""

import base64
import ctypes
import json
import os
import resource
import socket
import sys

PR_CAPBSET_DROP, LAST_CAPABILITY = 24, 63  # of prctl(2); the kernel has fewer, the rest answer with an error
CAPABILITY_VERSION_3 = 0x20080522  # of capset(2): a head of two words, then twice three words of bits


def main() -> None:
    with socket.socket(fileno=int(sys.argv[1])) as outside:
        wanted = json.loads(b"".join(iter(lambda: outside.recv(1 << 16), b"")) or b"null")
        if wanted is None:  # whoever started us is gone
            sys.exit(1)
        if wanted["user"]:
            become(**wanted["user"])
        os.umask(0o022)
        os.makedirs(wanted["root"], mode=0o700)
        for name, text in wanted["files"].items():
            path = os.path.join(wanted["root"], name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "xb") as file:
                file.write(base64.b64decode(text))
        os.makedirs(wanted["cwd"], exist_ok=True)
        os.chdir(wanted["cwd"])
        if not os.access(wanted["command"][0], os.X_OK):
            sys.exit(f"{wanted['command'][0]} cannot be run in the box")
        # A program that listens first could take the place of the server: so the port is ours before it runs.
        with socket.create_server(("127.0.0.1", wanted["port"]), backlog=128) as listener:
            folders = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (wanted["root"], "/dev/shm", "/proc")]
            socket.send_fds(outside, [b"ready"], [listener.fileno(), *folders])
    os.closerange(3, 1 << 16)  # what leads outside, and what was inherited on the way here
    for name, value in wanted["limits"].items():
        limit = getattr(resource, name)
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))
    os.execve(wanted["command"][0], wanted["command"], wanted["env"])


def become(uid: int, gid: int) -> None:
    """Another user, without any capability and without a way back."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(LAST_CAPABILITY + 1):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)  # from 0 to another: the kernel clears all sets of capabilities but the inheritable one
    if libc.capset((ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()):
        raise OSError(ctypes.get_errno(), "capset")


if __name__ == "__main__":
    main()
