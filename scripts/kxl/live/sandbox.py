"""A box for a program that executes what a model says: no network but one server, no file outside named folders.

    with sandbox.box([folder, home], "http://127.0.0.1:8080/v1") as box:
        subprocess.run(box.wrap(["sh", "-c", "touch /etc/x"]))      # Read-only file system
        box.url                                                     # the server, as the program inside reaches it

Linux only, by user, mount, network and process namespaces (`unshare` of util-linux). Inside, the whole file
system is read-only except the named folders, the network has nothing but a loopback of its own, and every
process is gone when the program ends. The way to the server is a relay in two halves: inside a TCP port, outside
an HTTP client, between them a Unix socket, which is a file and so crosses network namespaces.
"""

import contextlib
import functools
import http.server
import json
import socketserver
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

import requests

from kxl.base.cli import UserError

PORT = 8080  # inside; the network there is our own, so it is free

# Runs as the first program inside the namespaces: sets the box up, then runs the command in it. Numbers are the
# kernel's: SIOCSIFFLAGS, IFF_UP | IFF_RUNNING; MS_BIND, MS_REC | MS_PRIVATE; mount_setattr (the same on every
# architecture), AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY; PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS.
INSIDE = """
import ctypes, fcntl, json, os, socket, struct, subprocess, sys, threading
writable, relay, port, command = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
def must(result, what):
    if result:
        raise OSError(ctypes.get_errno(), what)
def read_only(path, yes):
    attributes = struct.pack("QQQQ", 1 if yes else 0, 0 if yes else 1, 0, 0)
    must(libc.syscall(442, -100, path.encode(), 0x8000 if yes else 0, attributes, len(attributes)), "mount_setattr " + path)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    fcntl.ioctl(s, 0x8914, struct.pack("16sH14s", b"lo", 0x41, b""))
must(libc.mount(b"none", b"/", None, 0x4000 | 0x40000, None), "mount /")
for path in writable:
    must(libc.mount(path.encode(), path.encode(), None, 0x1000, None), "mount " + path)
if os.path.isdir("/run"):  # sockets of services outside are files, too
    must(libc.mount(b"tmpfs", b"/run", b"tmpfs", 0, None), "mount /run")
read_only("/", True)
for path in writable:
    read_only(path, False)
os.chdir(os.getcwd())  # by its path again: the folder we stood in lies under the mount
for capability in range(64):  # with them a program could make the file system writable again
    libc.prctl(24, capability, 0, 0, 0)
must(libc.prctl(38, 1, 0, 0, 0), "no_new_privs")

def pump(source, target):
    try:
        while piece := source.recv(65536):
            target.sendall(piece)
    except OSError:
        pass  # either end hung up, which the other end is told below
    finally:
        try:
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it is gone already

def serve(listener):
    while True:
        inner, _ = listener.accept()
        outer = socket.socket(socket.AF_UNIX)
        outer.connect(relay)
        for ends in ((inner, outer), (outer, inner)):
            threading.Thread(target=pump, args=ends, daemon=True).start()

listener = socket.create_server(("127.0.0.1", port))
threading.Thread(target=serve, args=(listener,), daemon=True).start()
sys.exit(subprocess.call(command))
"""


@dataclass
class Box:
    """`wrap(command)` is the command line that runs `command` inside; `url` is where it finds the server."""

    writable: list
    socket: Path
    flags: list
    url: str

    def wrap(self, command: list) -> list[str]:
        argument = json.dumps(
            [[str(path) for path in self.writable], str(self.socket), PORT, [str(part) for part in command]]
        )
        # unshare must have one thread to make a user namespace; a preloaded OpenBLAS would start some in it.
        return [
            "env",
            "-u",
            "LD_PRELOAD",
            "unshare",
            *self.flags,
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            sys.executable,
            "-I",
            "-S",
            "-c",
            INSIDE,
            argument,
        ]


@contextlib.contextmanager
def box(writable: list, url: str):
    """A Box in which only the folders `writable` can be written and only the server at `url` (…/v1) be reached.

    UserError where this system allows no such box.
    """
    flags, why = _flags()
    if why:
        raise UserError(f"this system allows no box around the agent ({why})")
    with tempfile.TemporaryDirectory(prefix="hermes-kxl-relay-") as folder:
        path = Path(folder) / "server"
        handler = type("Handler", (_Relay,), {"base": url.rstrip("/").removesuffix("/v1")})
        server = _UnixServer(str(path), handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield Box([Path(p).resolve() for p in writable], path, flags, f"http://127.0.0.1:{PORT}/v1")
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


@functools.cache
def _flags() -> tuple:
    """(flags of unshare that work here, None) or ([], why there is no box)."""
    if sys.platform != "linux":
        return [], "namespaces are Linux's"
    for flags in (["--user", "--map-root-user"], []):  # without a user namespace only for root
        with tempfile.TemporaryDirectory() as folder:
            attempt = Box([folder], Path(folder) / "nothing", flags, "").wrap([sys.executable, "-c", ""])
            try:
                ended = subprocess.run(attempt, capture_output=True, text=True, stdin=subprocess.DEVNULL)
            except FileNotFoundError:
                return [], "there is no `unshare`: install util-linux"
            if ended.returncode == 0:
                return flags, None
    return [], (ended.stderr.strip().splitlines() or ["unshare failed"])[-1]


class _UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


class _Relay(http.server.BaseHTTPRequestHandler):
    """The outer half: any request goes on to `base`; its answer is handed back piece by piece as it comes."""

    base: str

    def address_string(self):
        return "box"

    def log_message(self, *_):  # the agent's run is what is reported, not its requests
        return

    def do_GET(self):
        self._forward(None)

    def do_POST(self):
        self._forward(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _forward(self, body: bytes | None) -> None:
        session = requests.Session()
        session.trust_env = not self.base.startswith(
            ("http://127.", "http://localhost")
        )  # loopback not through a proxy
        headers = {
            name: self.headers[name] for name in ("Content-Type", "Authorization", "Accept") if name in self.headers
        }
        try:
            reply = session.request(
                self.command, self.base + self.path, data=body, headers=headers, stream=True, timeout=(10, 600)
            )
        except requests.RequestException as error:
            self.send_error(502, f"the server outside the box: {type(error).__name__}")
            return
        with session, reply, contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the agent may hang up
            self.send_response(reply.status_code)
            self.send_header("Content-Type", reply.headers.get("Content-Type", "application/json"))
            self.end_headers()  # HTTP/1.0: the answer ends with the connection
            for piece in reply.iter_content(None):
                self.wfile.write(piece)
