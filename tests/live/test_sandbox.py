"""The box, attacked from inside, as root and as an ordinary user: what a program in it reaches, keeps and costs."""

import http.server
import json
import os
import platform
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from conftest import ROOT
from helpers import in_box, ordinary_user
from kxl.base.cli import UserError
from kxl.live import machine, sandbox
from kxl.live.relay import Upstream

pytestmark = pytest.mark.minutes

PROGRAM = str(ROOT / "tests/helpers/in_box.py")
SECONDS = str(900_000 + os.getpid())  # for which this run's own processes sleep


class Server(http.server.ThreadingHTTPServer):
    """A model's server on loopback: says hello to any GET, calls `terminal` on any POST, keeps what came."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.came: list[tuple[str, str, dict, bytes]] = []
        self.location = None
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def port(self) -> int:
        return self.server_address[1]


CALL = {"id": "call_1", "type": "function", "function": {"name": "terminal", "arguments": '{"command": "ls"}'}}


class _Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        return

    def do_GET(self):
        self.reply(f"hello from {self.path}".encode())

    def do_POST(self):
        self.reply(
            json.dumps({"choices": [{"message": {"tool_calls": [CALL]}, "finish_reason": "tool_calls"}]}).encode(),
            self.rfile.read(int(self.headers["Content-Length"])),
        )

    def reply(self, text: bytes, body: bytes = b""):
        self.server.came.append((self.command, self.path, dict(self.headers), body))
        self.send_response(302 if self.server.location else 200)
        if self.server.location:
            self.send_header("Location", self.server.location)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(text)


@pytest.fixture
def server():
    with Server() as server:
        yield server
        server.shutdown()


@pytest.fixture(params=["as we are", "as an ordinary user"])
def inside(request, server, monkeypatch):
    """inside(python source, **limits) -> what in_box.play says of it."""
    play = in_box.play
    if request.param == "as an ordinary user":
        if os.geteuid():
            pytest.skip("we are an ordinary user already")
        tried = subprocess.run(ordinary_user.command(["true"]), capture_output=True, text=True)
        if tried.returncode:
            pytest.skip(f"root has no mounts of its own here, to give an ordinary user our files: {tried.stderr}")
        play = play_as_ordinary_user
    monkeypatch.setenv("A_SECRET", "hunter2")

    def run(source, seconds=60, laid=None, **limits):
        wanted = {"server": f"http://127.0.0.1:{server.port}/v1", "seconds": seconds, "limits": limits}
        said = play({**wanted, "command": [sandbox._interpreter(), "-c", source], "laid": laid or {}})
        if "no_box" in said:
            pytest.skip(said["no_box"])
        return said

    return run


def play_as_ordinary_user(wanted: dict) -> dict:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    ended = subprocess.run(
        ordinary_user.command([sys.executable, PROGRAM, json.dumps(wanted)]),
        capture_output=True,
        text=True,
        timeout=wanted["seconds"] + 60,
        env=environment,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_it_writes_into_its_folder_and_nowhere_else(inside, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o777)
    said = inside(f"""
import os
open("mine", "w").write("x")
for root, folders, files in os.walk("/"):
    if root.count("/") > 3 or root.startswith(("/proc", "/tmp", "/dev/shm")):
        folders.clear()
        continue
    for path in [os.path.join(root, "hermes-kxl-test"), *[os.path.join(root, name) for name in files[:20]]]:
        try:
            if os.path.realpath(path) == path and not path.startswith("/dev/"):
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT))
                print("wrote", path)
        except OSError:
            pass
for path in ("{outside}/a", "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/dev/x", "/root/x"):
    try:
        open(path, "w")
        print("wrote", path)
    except OSError:
        pass
""")
    assert said["out"] == "" and said["exit_code"] == 0, said
    assert said["found"] == {"mine": ["file", "x"]} and list(outside.iterdir()) == []


def test_the_files_of_the_host_are_not_there(inside, tmp_path):
    (tmp_path / "secret").write_text("hunter2")
    tmp_path.chmod(0o755)
    said = inside(f"""
import glob, os
for path in ("{tmp_path}/secret", "/etc/shadow", "/etc/hostname", "/root/.bashrc", "/home", "/var/lib", "/opt", "/mnt",
             "/srv", "/sys", "{ROOT}/README.md", "/run/docker.sock", *glob.glob("/proc/*/root/home")):
    if os.path.exists(path):
        print(path)
import sysconfig
packages = sysconfig.get_path("stdlib") + "/site-packages"
if not packages.startswith("/usr/") and os.listdir(packages):
    print("what somebody installed, in", packages)
for path in glob.glob("/proc/[0-9]*/environ"):
    try:
        if b"hunter2" in open(path, "rb").read():
            print("the environment outside, in", path)
    except OSError:
        pass
""")
    assert said["out"] == "", said


def test_services_that_are_files_outside_are_not_reached(inside, tmp_path):
    folder = Path("/tmp") / f"kxl-test-{os.getpid()}"
    folder.mkdir(mode=0o755)
    try:
        with socket.socket(socket.AF_UNIX) as service, socket.socket(socket.AF_UNIX) as abstract:
            service.bind(str(folder / "socket"))
            service.listen()
            (folder / "socket").chmod(0o777)
            os.mkfifo(folder / "fifo")
            (folder / "fifo").chmod(0o666)
            abstract.bind(f"\0{folder}")
            abstract.listen()
            said = inside(f"""
import os, socket
for address in ("{folder}/socket", "\\0{folder}"):
    try:
        socket.socket(socket.AF_UNIX).connect(address)
        print("connected")
    except OSError:
        pass
print(*[path for path in ("{folder}/fifo", "/run/dbus/system_bus_socket") if os.path.exists(path)])
print(*sorted(os.listdir("/dev")))
for name in ("loop0", "kvm", "fuse", "mem", "vda", "kmsg", "net/tun", "vsock"):
    try:
        os.open("/dev/" + name, os.O_RDONLY)
        print("opened", name)
    except OSError:
        pass
try:
    os.mknod("device", 0o060666, os.makedev(7, 0))
    print("made a device")
except OSError:
    pass
""")
    finally:
        (folder / "fifo").unlink()
        (folder / "socket").unlink()
        folder.rmdir()
    names = "core fd full null ptmx pts random shm stderr stdin stdout tty urandom zero"
    assert said["out"] == f"\n{names}\n", said


def test_memory_that_is_shared_outside_is_not_reached(inside):
    made = subprocess.run(["ipcmk", "-M", "4096", "-p", "666"], capture_output=True, text=True)
    if made.returncode:
        pytest.skip("ipcmk makes no shared memory here")
    number = made.stdout.split()[-1]
    try:
        said = inside(f"""
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
print(libc.shmat({number}, None, 0), os.listdir("/dev/shm"), open("/proc/sysvipc/shm").read().count("\\n"))
""")
    finally:
        subprocess.run(["ipcrm", "-m", number], check=True)
    assert said["out"] == f"{2**64 - 1} [] 1\n", said


def test_other_processes_are_neither_seen_nor_signalled(inside):
    with subprocess.Popen(["sleep", "60"]) as other:
        said = inside(f"""
import os
print(sorted(int(name) for name in os.listdir("/proc") if name.isdigit()))
for number in (1, {other.pid}, -1):
    try:
        os.kill(number, 9)
    except OSError as error:
        print(type(error).__name__)
print("alive")
""")
        assert other.poll() is None
        other.kill()
    # The first process is the box's own, and takes no signal from inside; -1 is everybody that may be signalled.
    assert said["out"].startswith("[1, 2]\n") and said["out"].endswith("alive\n"), said


def test_it_reaches_the_one_server_and_nothing_else_of_the_network(inside, server):
    with socket.create_server(("127.0.0.1", 0)) as other, socket.create_server(("0.0.0.0", 0)) as wide:
        said = inside(f"""
import json, socket, urllib.request
get = lambda path: urllib.request.urlopen("http://127.0.0.1:{sandbox.PORT}" + path).read().decode()
print(get("/v1/models"))
for host, port in (("127.0.0.1", {server.port}), ("127.0.0.1", {other.getsockname()[1]}), ("192.0.2.1", 80),
                   ("{socket.gethostbyname(socket.gethostname())}", {wide.getsockname()[1]}), ("::1", {server.port})):
    try:
        socket.create_connection((host, port), 3)
        print("reached", host, port)
    except OSError:
        pass
for family, kind, protocol in ((40, 1, 0), (17, 3, 0), (38, 5, 0), (16, 3, 9), (2, 3, 255), (31, 3, 1), (29, 3, 1)):
    try:  # AF_VSOCK (the host of a virtual machine), AF_PACKET, AF_ALG, netlink audit, raw IP, Bluetooth, CAN
        socket.socket(family, kind, protocol)
        print("socket of family", family)
    except OSError:
        pass
print(socket.if_nameindex())
""")
    assert said["out"] == "hello from /v1/models\n[(1, 'lo')]\n", said


# For programs inside: ask(bytes) -> the answer's bytes; code(bytes) -> its status; post(body) -> the status of a chat;
# tools(name) -> a list of one tool.
ASK = f"""
import json, socket
def ask(request):
    with socket.create_connection(("127.0.0.1", {sandbox.PORT}), 20) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))
def tools(name):
    return [{{"type": "function", "function": {{"name": name}}}}]
def code(request):
    return ask(request + b"\\r\\n\\r\\n").split()[1].decode()
def post(body, length=None, field=b"X: y"):
    head = b"POST /v1/chat/completions HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: %b\\r\\n%b\\r\\n\\r\\n"
    return ask(head % (str(len(body) if length is None else length).encode(), field) + body).split()[1].decode()
"""


def test_a_target_that_names_another_host_leaves_for_none(inside, server):
    with Server() as secret:
        there = f"127.0.0.1:{secret.port}"
        targets = [f"@{there}/secret", f"http://{there}/secret", f"//{there}/", f"/v1/models@{there}/", ".127.0.0.1/"]
        targets += ["/v1/models/../../secret", "/v1/models?a=b", "/v1//models", "/%76%31/models", "*"]
        targets += [f"/v1/models#@{there}"]
        said = inside(f"""{ASK}
print(*[code(f"GET {{target}} HTTP/1.0".encode()) for target in {targets!r}])
print(code(b"POST /slots/0?action=erase HTTP/1.0\\r\\nContent-Length: 0"), code(b"DELETE /v1/models HTTP/1.0"))
print(ask(b"GET /v1/models HTTP/1.0\\r\\nAuthorization: Bearer x\\r\\nX-Other: 1\\r\\n\\r\\n").decode()[-21:])
""")
        assert secret.came == []
        secret.shutdown()
    assert said["out"].split("\n") == [" ".join(["403"] * 11), "403 501", "hello from /v1/models", ""], said
    assert [entry[:2] for entry in server.came] == [("GET", "/v1/models")]
    assert not {"Authorization", "X-Other"} & set(server.came[0][2])


def test_a_redirect_of_the_server_is_not_followed(inside, server):
    with Server() as secret:
        server.location = f"http://127.0.0.1:{secret.port}/secret"
        said = inside(f"""{ASK}
print(code(b"GET /v1/models HTTP/1.0"), post(b'{{"messages": []}}'))
""")
        assert said["out"] == "502 502\n" and secret.came == [], said
        secret.shutdown()


def test_bodies_are_bounded_and_hold_text_alone(inside, server):
    said = inside(f"""{ASK}
print(post(b"", 10**9), post(b"", 10**30), post(b"x", -1), post(b"", "1_0"))
print(post(b"0\\r\\n\\r\\n", 5, b"Transfer-Encoding: chunked"), post(b"", 0, b"Content-Length: 7"))
print(post(b"[]"), post(b"{{"), post(b"[" * 10**6))
picture = {{"type": "image_url", "image_url": {{"url": "http://192.0.2.1/x"}}}}
print(post(json.dumps({{"messages": [{{"role": "user", "content": [picture]}}]}}).encode()))
print(post(json.dumps({{"messages": [{{"role": "user", "content": "hi"}}]}}).encode()))
more = [{{"tools": ["x"]}}, {{"tools": {{}}}}, {{"tools": tools("a")}}, {{"tools": tools("b")}}, {{"grammar": "root"}}]
more += [{{"tools": tools("a")}}, {{"json_schema": {{"pattern": "(a+)+$"}}}}, {{"id_slot": 1}}, {{"\\x1b": 1}}]
more += [{{"temperature": 0}}]
print(*[post(json.dumps({{"messages": [], **one}}).encode()) for one in more])
""")
    refused = "400 200 200 403 403 200 403 403 403 200"
    assert said["out"].split("\n") == ["413 411 411 411", "411 411", "400 400 400", "400", "200", refused, ""], said
    assert len(server.came) == 5


def test_a_picture_in_what_says_that_it_is_text_and_a_tool_that_stands_often_do_not_leave(inside, server):
    said = inside(f"""{ASK}
def ask_with(part):
    return post(json.dumps({{"messages": [{{"role": "user", "content": [{{"type": "text", **part}}]}}]}}).encode())
print(ask_with({{"text": "hi", "image_url": {{"url": "http://192.0.2.1/x"}}}}), ask_with({{}}))
print(ask_with({{"text": "hi", "cache_control": {{"type": "ephemeral"}}}}))
nested = b'{{"messages": [{{"role": "user", "content": [{{"type": "text", "text": %b1%b}}]}}]}}'
print(post(nested % (b'[{{"text": ' * 450, b"}}]" * 450)))
many = [post(json.dumps({{"messages": [], "tools": tools("a") * number}}).encode()) for number in (1, 2, 4000)]
print(*many)
""")
    assert said["out"].split("\n") == ["400 400", "200", "400", "200 403 403", ""], said
    assert len(server.came) == 2


def test_a_key_that_stands_twice_leaves_once_and_with_the_value_that_was_checked(server):
    source = f"""{ASK}
print(post(b'{{"model": "dear", "messages": [], "model": "mine"}}'))
twice = b'{{"content": [{{"type": "image_url"}}], "role": "user", "content": "a"}}'
print(post(b'{{"model": "mine", "messages": [' + twice + b']}}'))
print(post(b'{{"model": "mine", "messages": [], "temperature": NaN}}'))
"""
    wanted = {"server": f"http://127.0.0.1:{server.port}/v1", "seconds": 60, "model": "mine"}
    said = in_box.play({**wanted, "command": [sandbox._interpreter(), "-c", source]})
    if "no_box" in said:
        pytest.skip(said["no_box"])
    assert said["out"].split() == ["200", "200", "400"], said
    assert [b"dear" in came[3] or b"image_url" in came[3] for came in server.came] == [False, False]


def test_only_the_model_of_the_run_can_be_asked_for(server):
    wanted = {"server": f"http://127.0.0.1:{server.port}/v1", "seconds": 60, "model": "mine"}
    source = ASK + "print(*[post(b'{\"messages\": [], \"model\": \"%s\"}' % name) for name in (b'dear', b'mine')])"
    said = in_box.play({**wanted, "command": [sandbox._interpreter(), "-c", source]})
    if "no_box" in said:
        pytest.skip(said["no_box"])
    assert said["out"] == "403 200\n" and len(server.came) == 1, said


def test_what_a_task_still_asks_when_it_ends_is_cut_off_at_the_server():
    """Twenty requests to a server that answers none of them: no connection outlives the task."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        source = f"""{ASK}
import threading, time
for _ in range(20):
    threading.Thread(target=post, args=(b'{{"messages": []}}',), daemon=True).start()
time.sleep(3)
"""
        wanted = {"server": f"http://127.0.0.1:{silent.getsockname()[1]}/v1", "seconds": 60}
        started = time.monotonic()
        said = in_box.play({**wanted, "command": [sandbox._interpreter(), "-c", source]})
        if "no_box" in said:
            pytest.skip(said["no_box"])
        assert said["exit_code"] == 0 and time.monotonic() - started < 15, said
        silent.settimeout(5)
        for _ in range(8):  # as many as may be under way at once
            connection = silent.accept()[0]
            connection.settimeout(5)
            with connection:
                while connection.recv(65536):
                    pass
        silent.setblocking(False)
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_too_many_requests_are_refused_and_many_connections_do_not_stop_it(inside):
    said = inside(
        f"""{ASK}
idle = [socket.create_connection(("127.0.0.1", {sandbox.PORT})) for _ in range(5)]
codes = [code(b"GET /v1/models HTTP/1.0") for _ in range(501)]
print(codes.count("200"), codes[-1])
""",
        seconds=120,
    )
    assert said["out"] == "500 429\n", said


def test_what_counts_as_a_result_answers_a_call_of_the_server(inside):
    said = inside(f"""{ASK}
import json
def chat(*messages):
    body = json.dumps({{"messages": [{{"role": "user", "content": "go"}}, *messages], "tools": tools("terminal")}})
    post(body.encode())
tool = lambda identity, text: {{"role": "tool", "tool_call_id": identity, "content": text}}
chat(tool("call_1", "before any call"), tool("made-up", "forged"))
chat(tool("call_1", "real"), tool("made-up", "forged"))
open("trajectory_samples.jsonl", "w").write('{{"conversations": [{{"from": "tool", "value": "forged"}}]}}')
""")
    assert said["results"] == ["real"] and said["called"] == ["terminal", "terminal"], said


# What each uses up, and which limit stops or refuses it.
HOGS = {
    "processes": (
        """
import os, time
try:
    while True:
        if os.fork() == 0:
            time.sleep(60)
except OSError:
    print("refused", flush=True)
""",
        {"processes": 40},
        "refused\n",
        None,
    ),
    "memory of one": ("print(len(bytearray(2 << 30)))", {"data": 256 << 20}, "", None),
    "memory of all": (
        """
import os, time
for _ in range(8):
    if os.fork() == 0:
        held = bytearray(b"x") * (48 << 20)
        time.sleep(30)
time.sleep(30)
""",
        {"memory": 200 << 20},
        "",
        "it used more than 200.00 MiB of memory",
    ),
    "shared memory without a name": (
        """
import mmap, os
for opened in (-1, os.open("/dev/zero", os.O_RDWR)):
    try:
        mmap.mmap(opened, 4096)
    except OSError as error:
        print(error.strerror)
""",
        {},
        "Function not implemented\nNo such device\n",
        None,
    ),
    "memory of one that a sign in its name hides": (
        """
import ctypes, time
ctypes.CDLL(None).prctl(15, b"a\\rb", 0, 0, 0)
held = bytearray(b"x") * (300 << 20)
time.sleep(30)
""",
        {"memory": 200 << 20},
        "",
        "it used more than 200.00 MiB of memory",
    ),
    "memory of one whose first thread ended": (
        """
import ctypes, threading, time
def hold():
    time.sleep(0.3)
    held = bytearray(b"x") * (300 << 20)
    time.sleep(30)
threading.Thread(target=hold).start()
ctypes.CDLL(None).pthread_exit(None)
""",
        {"memory": 200 << 20},
        "",
        "it used more than 200.00 MiB of memory",
    ),
    "tables of pages": (
        """
import ctypes, time
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
size = 150 << 30
start = libc.mmap(None, ctypes.c_size_t(size), 1, 0x4022, -1, 0)  # to be read alone: one page of zeros everywhere
for place in range(start, start + size, 2 << 20):
    ctypes.c_char.from_address(place).value
time.sleep(30)
""",
        {"memory": 200 << 20},
        "",
        "it used more than 200.00 MiB of memory",
    ),
    "disk": (
        """
try:
    for number in range(100):
        open(f"../../big-{number}", "wb").write(b"x" * (8 << 20))
except OSError as error:
    print(error.strerror)
""",
        {"disk": 64 << 20},
        "No space left on device\n",
        None,
    ),
    "a large file": (
        "import os, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "try:\n    os.truncate(os.open('sparse', 66), 60 << 30)\nexcept OSError as error:\n    print(error.strerror)",
        {},
        "File too large\n",
        None,
    ),
    "shared files": (
        """
try:
    open('/dev/shm/x', 'wb').write(b'x' * (9 << 20))
except OSError as error:
    print(error.strerror)
""",
        {"shared": 8 << 20},
        "No space left on device\n",
        None,
    ),
    "files": (
        """
import time
for number in range(100000):
    open(f'/dev/shm/{number}', 'w')
    time.sleep(number % 100 == 0 and 0.01)
""",
        {"files": 2000},
        "",
        "it made more than 2,000 files",
    ),
    "open files": (
        """
import os
try:
    for _ in range(10000):
        os.open('/dev/null', 0)
except OSError as error:
    print(error.strerror)
""",
        {"open_files": 64},
        "Too many open files\n",
        None,
    ),
    "output": (
        "import sys\nwhile True:\n    sys.stdout.write('y' * 65536)",
        {"output": 1000},
        "y" * 1000,
        "it printed more than 16,000 bytes",
    ),
    "memory files": (
        "import os\ntry:\n    os.memfd_create('x')\nexcept OSError as error:\n    print(error.strerror)",
        {},
        "Function not implemented\n",
        None,
    ),
}


@pytest.mark.parametrize("hog", HOGS)
def test_what_it_uses_is_bounded(inside, hog):
    source, limits, out, stopped = HOGS[hog]
    said = inside(source, seconds=25, **limits)
    assert (said["out"], said["stopped"]) == (out, stopped), said
    assert said["seconds"] < 25


def test_memory_that_goes_on_in_a_new_process_before_its_turn_comes_is_counted(monkeypatch):
    """Here a look at a process takes longer than that process lives: as on a fast machine with a faster program."""
    look = sandbox._status

    def slowly(proc, name):
        found = look(proc, name)
        time.sleep(0.05)
        return found

    monkeypatch.setattr(sandbox, "_status", slowly)
    source = """
import os, subprocess, time
others = [subprocess.Popen(["sleep", "60"]) for _ in range(10)]
if os.fork() == 0:
    held, end = [], time.monotonic() + 10
    while time.monotonic() < end:
        if os.fork():
            os._exit(0)
        if len(held) < 15:
            held.append(bytearray(b"x") * (20 << 20))
        time.sleep(0.1)
    os._exit(0)
time.sleep(12)
"""
    wanted = {"server": "http://127.0.0.1:9/v1", "seconds": 25, "limits": {"memory": 200 << 20}}
    said = in_box.play({**wanted, "command": [sandbox._interpreter(), "-c", source]})
    if "no_box" in said:
        pytest.skip(said["no_box"])
    assert said["stopped"] == "it used more than 200.00 MiB of memory", said


# What each takes of the machine's, and what the task is stopped for.
SHARED_OUT = {
    "buffers of connections": (
        """
import socket, time
server, held = socket.create_server(("127.0.0.1", 0), backlog=200), []
for _ in range(100):
    held.append(socket.create_connection(server.getsockname()))
    held[-1].setblocking(False)
    try:
        while True:
            held[-1].send(b"x" * 65536)
    except BlockingIOError:
        pass
time.sleep(30)
""",
        "MiB of this machine's memory were TCP buffers while it ran",
    ),
    "buffers of datagrams": (
        """
import socket, time
held = []
for _ in range(200):
    held.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    held[-1].bind(("127.0.0.1", 0))
    for _ in range(100):
        held[-1].sendto(b"x" * 8192, held[-1].getsockname())
time.sleep(30)
""",
        "MiB of this machine's memory were UDP buffers while it ran",
    ),
    "connections that are closed with data that nobody takes": (
        """
import socket, time
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
server.bind(("127.0.0.1", 0))
server.listen(1000)
for _ in range(300):
    connection = socket.create_connection(server.getsockname())
    connection.setblocking(False)
    connection.send(b"x" * 4096)
    connection.close()
time.sleep(30)
""",
        "closed connections of this machine had data that nobody took while it ran",
    ),
    "terminals, their names gone": (
        """
import os, time
held = []
for _ in range(100):
    ours, theirs = os.openpty()
    held.append(theirs)
    os.close(ours)
time.sleep(30)
""",
        " of this machine's terminals were open while it ran",
    ),
}


@pytest.mark.parametrize("hog", SHARED_OUT)
def test_what_all_programs_of_the_machine_share_is_left_for_the_others(hog, monkeypatch, tmp_path):
    """With marks that are low, so that the machine which runs the test keeps its own."""
    (tmp_path / "max").write_text("60\n")
    (tmp_path / "reserve").write_text("0\n")
    (tmp_path / "nr").symlink_to(machine.TERMINALS / "nr")
    (tmp_path / "orphans").write_text("400\n")
    monkeypatch.setattr(machine, "TERMINALS", tmp_path)
    monkeypatch.setattr(machine, "ORPHANS", tmp_path / "orphans")
    monkeypatch.setattr(machine, "_low", lambda protocol, total: 40 << 20)
    source, stopped = SHARED_OUT[hog]
    wanted = {"server": "http://127.0.0.1:9/v1", "seconds": 25}
    said = in_box.play({**wanted, "command": [sandbox._interpreter(), "-c", source]})
    if "no_box" in said:
        pytest.skip(said["no_box"])
    assert stopped in (said["stopped"] or ""), said


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user's boxes are that user's")
def test_boxes_that_run_at_once_are_two_users():
    """What the kernel counts by user one would take from the other. Both begin to look at the same number."""
    said = []

    def play():
        wanted = {"server": "http://127.0.0.1:9/v1", "seconds": 30, "command": ["/bin/sh", "-c", "id -u; sleep 4"]}
        said.append(in_box.play(wanted))

    assert sandbox.unavailable() is None
    threads = [threading.Thread(target=play) for _ in range(2)]
    for thread in threads:
        thread.start()
        time.sleep(1)
    for thread in threads:
        thread.join()
    assert len({one["out"] for one in said}) == 2 and all(one["exit_code"] == 0 for one in said), said


def test_time_is_bounded_also_for_one_that_ignores_signals_and_hides_in_the_background(inside):
    before = time.time()
    said = inside(
        f"""
import os, signal, time
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "{SECONDS}"])
    os._exit(0)
time.sleep(600)
""",
        seconds=2,
    )
    assert said["stopped"] == "it took longer than 2 s" and said["exit_code"] is None
    assert f"sleep\x00{SECONDS}" not in all_commands() and time.time() - before < 30


def test_a_process_left_in_the_background_ends_with_it_and_the_exit_code_comes_through(inside):
    said = inside(f"""
import subprocess, sys
subprocess.Popen(["sleep", "{SECONDS}"], start_new_session=True)
sys.exit(7)
""")
    assert said["exit_code"] == 7 and said["stopped"] is None
    assert f"sleep\x00{SECONDS}" not in all_commands()


def test_rights_cannot_be_had_back(inside):
    said = inside("""
import ctypes, os, subprocess
for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"):
    print(name, next(line.split()[1] for line in open("/proc/self/status") if line.startswith(name + ":")))
libc = ctypes.CDLL(None, use_errno=True)
for name, call in {"setuid": lambda: os.setuid(0), "chroot": lambda: os.chroot("/tmp"),
                   "unshare": lambda: libc.unshare(0x10000000) and os.setuid(0) or 1 / 0,
                   "mount": lambda: libc.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, None) and 1 / 0,
                   "remount": lambda: libc.mount(None, b"/", None, 0x20 | 0x1000, None) and 1 / 0,
                   "ptrace": lambda: libc.ptrace(16, 1, 0, 0) and 1 / 0,
                   "keyctl": lambda: libc.syscall(250, 0, -3, 0) < 0 and 1 / 0,
                   "bpf": lambda: libc.syscall(321, 0, 0, 0) < 0 and 1 / 0}.items():
    try:
        call()
        print("allowed", name)
    except (OSError, ZeroDivisionError):
        pass
print(os.getuid() != 0, [path for path in ("/usr/bin/su", "/usr/bin/passwd") if os.path.exists(path) and
      subprocess.run([path, "--help"], stdin=subprocess.DEVNULL, capture_output=True) and False])
print([int(name) for name in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + name)])
""")
    lines = said["out"].splitlines()
    assert [line.split()[1] for line in lines[:5]] == ["0" * 16] * 5, said
    assert lines[5:] == ["NoNewPrivs 1", "Seccomp 2", "True []", "[0, 1, 2]"], said


# In machine code, to be called as a function: getpid by the 32-bit way into the kernel, whose numbers are others.
INT_80 = rb"\xb8\x14\x00\x00\x00\xcd\x80\xc3"
X32 = 0x40000000  # added to a system call's number: the third way


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of system calls are x86_64's")
def test_the_kernel_is_asked_for_little_and_by_one_way_alone(inside):
    said = inside(f"""
import ctypes, mmap, os
libc = ctypes.CDLL(None, use_errno=True)
def ended(call):  # in a process of its own, which a refusal may end
    child = os.fork()
    if child == 0:
        call()
        os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])
page = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 7)
page.write({INT_80!r})
print(ended(ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(page)))) > 0,
      ended(lambda: libc.syscall({X32} | 39)) > 0)
numbers = dict(unshare=272, setns=308, mount=165, pivot_root=155, memfd_create=319, shmget=29, semget=64, keyctl=250,
               bpf=321, perf_event_open=298, userfaultfd=323, io_uring_setup=425, ptrace=101, process_vm_readv=310,
               open_by_handle_at=304, fsopen=430, mount_setattr=442, syslog=103, reboot=169, init_module=175,
               settimeofday=164, sync=162, inotify_init=253, fanotify_init=300, pidfd_getfd=438, clone3=435)
for name, number in numbers.items():
    ctypes.set_errno(0)
    if libc.syscall(number, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() != 38:
        print("allowed", name)
print(libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0))  # clone with CLONE_NEWUSER
print(*[line.split()[1] for line in open("/proc/1/status") if line.startswith(("CapEff", "NoNewPrivs", "Seccomp:"))])
import resource
print(resource.getrlimit(resource.RLIMIT_CORE))
""")
    # At a limit of 0 the kernel would still hand a crashed process to the machine's handler of crashes.
    assert said["out"] == "True True\n-1\n0000000000000000 1 2\n(1, 1)\n", said


def test_no_system_call_undoes_what_was_arranged_before(inside):
    """Limits that a task may lower or switch off, and families of sockets and drivers that it reaches by another call.

    Each value also with a bit of the register's upper half set, which the kernel does not look at.
    """
    said = inside("""
import ctypes, errno, os, struct
libc = ctypes.CDLL(None, use_errno=True)
def refused(*arguments):
    ctypes.set_errno(0)
    return libc.syscall(*map(ctypes.c_long, arguments)) == -1 and ctypes.get_errno() == errno.ENOSYS
pair = (ctypes.c_int * 2)()
zero = ctypes.addressof(ctypes.create_string_buffer(bytes(16)))
line = ctypes.addressof(ctypes.create_string_buffer(struct.pack("i", 0)))
terminal = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
import platform
SETRLIMIT, PRLIMIT, PRCTL, IOCTL, MMAP, SOCKETPAIR = (
    (160, 302, 157, 16, 9, 53) if platform.machine() == "x86_64" else (164, 261, 167, 29, 222, 199))
for high in (0, 1 << 32):
    print(refused(SETRLIMIT, high | 4, zero), refused(PRLIMIT, 0, high | 4, zero, 0),
          refused(PRCTL, high | 41, 0, 0, 0, 0), refused(IOCTL, terminal, high | 0x5423, line))
print([family for family in range(2, 46) if not refused(SOCKETPAIR, family, 5, 0, ctypes.addressof(pair))])
print(refused(MMAP, 0, 4 << 20, 3, 0x40022, -1, 0), refused(MMAP, 0, 4096, 3, 0x21, -1, 0))
import fcntl, resource, socket, termios
print(resource.getrlimit(resource.RLIMIT_CORE), socket.socketpair()[0].family, termios.tcgetattr(terminal)[4] > 0)
print(*[line.split()[1] for line in open("/proc/self/status") if line.startswith("THP_enabled")] or "0")
""")
    wanted = ["True True True True", "True True True True", "[]", "True True", "(1, 1) 1 True", "0", ""]
    assert said["out"].split("\n") == wanted, said


# In the box: refused(number, ...) whether a system call is answered as one that the kernel does not have.
REFUSED = """
import ctypes, errno, os, platform
libc = ctypes.CDLL(None, use_errno=True)
def refused(number, *arguments):
    ctypes.set_errno(0)
    return libc.syscall(*map(ctypes.c_long, (number, *arguments))) == -1 and ctypes.get_errno() == errno.ENOSYS
X86 = platform.machine() == "x86_64"
"""


def test_calls_that_are_many_in_one_are_allowed_one_by_one(inside):
    """What prctl, fcntl, ioctl and setsockopt bring with a later kernel stays closed, as any new system call does."""
    said = inside(f"""{REFUSED}
import fcntl, mmap, socket
PRCTL, FCNTL, IOCTL, SETSOCKOPT, MADVISE = (157, 72, 16, 54, 28) if X86 else (167, 25, 29, 208, 233)
memory = mmap.mmap(-1, 8192, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
page = ctypes.addressof(ctypes.c_char.from_buffer(memory))
connection, folder = socket.socket(), os.open("/usr/bin", os.O_RDONLY)
for high in (0, 1 << 32):
    # a table of any size in the kernel's own memory for one process, cores that others must leave idle
    print(refused(PRCTL, high | 78, 1, 1 << 10, 0, 0), refused(PRCTL, high | 62, 1, 0, 0, 0))
    # pages laid together with the same ones of others, whoever they are
    print(refused(MADVISE, page, 4096, high | 12))
    # what others do in a folder (dnotify), and a lease that makes who opens a file wait
    print(refused(FCNTL, folder, high | 1026, 1), refused(FCNTL, folder, high | 1024, 0))
    # a bridge and a VLAN, whose modules the kernel loads to answer; a key that stays in a file system
    print(*[refused(IOCTL, connection.fileno(), high | number, 0) for number in (0x8940, 0x8982, 0xC0506617)])
    # a program for the kernel, in a store that all programs on the machine share; another protocol's module
    print(refused(SETSOCKOPT, connection.fileno(), high | 1, 26, 0, 0),
          refused(SETSOCKOPT, connection.fileno(), 1, high | 26, 0, 0),
          refused(SETSOCKOPT, connection.fileno(), 6, 31, 0, 0))
print(fcntl.fcntl(folder, fcntl.F_GETFD), connection.setsockopt(6, socket.TCP_NODELAY, 1),
      libc.ioctl(connection.fileno(), ctypes.c_long(0x541B - (1 << 32)), ctypes.byref(ctypes.c_int())),
      memory.madvise(mmap.MADV_DONTNEED))
""")
    closed = "True True\nTrue\nTrue True\nTrue True True\nTrue True True\n"
    # The third is a number as musl hands it on, with signs in the upper half that the kernel drops.
    assert said["out"] == closed * 2 + "1 None 0 None\n", said


def test_only_the_types_of_socket_that_the_kernel_has_at_hand_are_asked_for(inside):
    """For another one it loads a module, whatever the protocol: DCCP (6) came so, with a way to be root."""
    said = inside(f"""{REFUSED}
SOCKET = 41 if X86 else 198
for family in (2, 10):
    print([kind for kind in range(16) if not refused(SOCKET, family, kind, 0)],
          refused(SOCKET, family, 1 | os.O_CLOEXEC | os.O_NONBLOCK, 6))
""")
    assert said["out"] == "[1, 2] False\n[1, 2] False\n", said


def test_no_disk_of_the_machine_is_told_to_write(inside):
    """fsync of a system's file, which nobody changed, makes the disk empty its cache: all who write wait for that."""
    said = inside("""
import ctypes, os
libc, own = ctypes.CDLL(None), open("own", "w")
os.fsync(own.fileno()), os.fdatasync(own.fileno())
print([call(-1) for call in (libc.fsync, libc.fdatasync, libc.sync_file_range)])  # the kernel would know no file -1
""")
    assert said["out"] == "[0, 0, 0]\n", said


def test_the_first_process_of_the_box_cannot_be_written_into(inside):
    """It has none of the limits, and as an ordinary user it is the same user's."""
    said = inside("""
import os
for path in ("/proc/1/mem", "/proc/self/mem", "/proc/self/oom_score_adj", "/proc/1/oom_score_adj", "/proc/1/comm"):
    try:
        os.open(path, os.O_RDWR)
        print("opened", path)
    except OSError:
        pass
""")
    assert said["out"] == "", said


def test_where_the_kernel_must_choose_whom_to_end_it_is_the_task(inside):
    said = inside("""
print(*[open(f"/proc/{number}/oom_score_adj").read().strip() for number in ("self", "1")])
""")
    assert said["out"] == "1000 1000\n", said


def test_signals_and_timers_that_wait_are_few(inside):
    """An ordinary user's are counted together with those of the user's own programs outside."""
    said = inside("""
import ctypes, resource
libc, made = ctypes.CDLL(None), 0
while made < 5000 and libc.timer_create(0, None, ctypes.byref(ctypes.c_void_p())) == 0:
    made += 1
print(made, resource.getrlimit(resource.RLIMIT_SIGPENDING))
""")
    assert said["out"] == "512 (512, 512)\n", said


LEFTOVERS = {
    "a FIFO": ("import os; os.mkfifo('out.txt')", {"out.txt": ["FIFO", None]}),
    "a link to a device": ("import os; os.symlink('/dev/zero', 'out.txt')", {"out.txt": ["link", None]}),
    "a link to the evaluator's environment": (
        "import os; os.symlink('/proc/self/environ', 'out.txt')",
        {"out.txt": ["link", None]},
    ),
    "a socket": ("import socket; socket.socket(1).bind('out.txt')", {"out.txt": ["socket", None]}),
    "a folder in its place": ("import os; os.mkdir('out.txt')", {"out.txt": ["folder", None]}),
    "a name that is not UTF-8": (
        "open(b'\\xff\\xfe', 'w'); open('line\\nbreak\\x1b[31m', 'w')",
        {"\udcff\udcfe": ["file", ""], "line\nbreak\x1b[31m": ["file", ""]},
    ),
    "a line separator": ("open('a', 'w').write('one\\u2028two\\x85')", {"a": ["file", "one\u2028two\x85"]}),
    "the folder above in its place": ("import os; os.rmdir('../work'); os.symlink('/etc', '../work')", "no folder"),
    "deep folders": (
        "import os\nfor _ in range(1500):\n    os.mkdir('d')\n    os.chdir('d')",
        "folders lie more than 32 deep in one another",
    ),
    "many files": (
        "for number in range(5000):\n    open(str(number), 'w')",
        "there are more than 2,000 files and folders",
    ),
    "a sparse file": ("import os; os.truncate(os.open('a', 66), 200 << 20)", "a has more than 1,048,576 bytes"),
    "a closed folder": ("import os; os.mkdir('a'); os.mkdir('a/b'); os.chmod('a/b', 0)", "cannot be read"),
    "a folder whose names alone can be read": (
        "import os; os.mkdir('a'); open('a/b', 'w'); os.chmod('a', 0o400)",
        "a cannot be read: its owner may not",
    ),
    "its own folder closed": ("import os; os.chmod('.', 0)", "work cannot be read: its owner may not"),
    "the folder above closed": ("import os; os.chmod('..', 0)", "work cannot be read: its owner may not"),
    "a closed file": ("open('a', 'w').write('x'); import os; os.chmod('a', 0)", "a cannot be read"),
}


@pytest.mark.parametrize("kind", LEFTOVERS)
def test_leftovers_are_read_as_a_strangers(inside, kind):
    source, found = LEFTOVERS[kind]
    said = inside(source)
    assert said["exit_code"] == 0, said
    if isinstance(found, str):
        assert found in said["unreadable"]
    else:
        assert said["found"] == found and said["unreadable"] is None


def test_killing_us_ends_it_and_leaves_nothing(server, tmp_path):
    wanted = {"server": f"http://127.0.0.1:{server.port}/v1", "command": ["/bin/sleep", SECONDS], "seconds": 600}
    child = subprocess.Popen(
        [sys.executable, PROGRAM, json.dumps(wanted)],
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT / "scripts")},
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while f"sleep\x00{SECONDS}" not in all_commands() and time.monotonic() < deadline:
        if child.poll() is not None:
            pytest.skip(child.stdout.read())
        time.sleep(0.05)
    child.kill()
    child.wait()
    while f"sleep\x00{SECONDS}" in all_commands() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert f"sleep\x00{SECONDS}" not in all_commands()
    assert list(tmp_path.iterdir()) == []


def all_commands() -> str:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_text())
        except OSError:  # it ended while we looked
            continue
    return "\n".join(found)


CAP_SYS_ADMIN = 21


def may_mount() -> bool:
    status = Path("/proc/self/status")
    found = re.search(r"^CapEff:\s*(\w+)", status.read_text(), re.M) if status.exists() else None
    return found is not None and int(found[1], 16) >> CAP_SYS_ADMIN & 1 == 1


@pytest.mark.skipif(not may_mount(), reason="only who may mount can always make a box: Linux, as root")
def test_root_has_a_box_so_no_attack_above_was_skipped():
    assert sandbox.unavailable() is None, "python3 scripts/setup_system_packages.py --box installs what is missing"


def test_a_file_in_the_place_of_a_device_is_not_laid_into_the_box(monkeypatch, tmp_path):
    """As root a program that writes its output beside a name and renames it puts a file in a device's place."""
    (tmp_path / "full").write_text("a report")
    monkeypatch.setattr(sandbox, "DEVICES", (str(tmp_path / "full"),))
    if sandbox.unavailable():
        pytest.skip(sandbox.unavailable())
    assert f"{tmp_path}/full is no device" in sandbox.unavailable.__wrapped__()


def test_where_there_is_no_box_the_error_says_why(monkeypatch, tmp_path):
    sandbox.unavailable.cache_clear()
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\n[ $1 = --help ] && echo --size || echo 'No permissions to create a namespace' >&2\n")
    fake.chmod(0o755)
    try:
        for path, why in (
            (tmp_path, "No permissions to create a namespace"),
            ("/nowhere", "apt-get install bubblewrap"),
        ):
            monkeypatch.setenv("PATH", str(path))
            sandbox.unavailable.cache_clear()
            with pytest.raises(UserError, match=why), sandbox.box(Upstream("http://127.0.0.1:9/v1"), []):
                raise AssertionError("not reached")
    finally:
        sandbox.unavailable.cache_clear()
