"""The box around the agent: what a program inside can and cannot do."""

import http.server
import socket
import subprocess
import sys
import threading

import pytest

from kxl.base.cli import UserError
from kxl.live import sandbox


@pytest.fixture
def server():
    """A server on loopback that says hello, then repeats what it is sent in two pieces."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            return

        def do_GET(self):
            self.reply([b"hello from " + self.path.encode()])

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.reply([body[:3], body[3:]])

        def reply(self, pieces):
            self.send_response(200)
            self.end_headers()
            for piece in pieces:
                self.wfile.write(piece)
                self.wfile.flush()

    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made.server_address[1]
    made.shutdown()
    made.server_close()


@pytest.fixture
def inside(tmp_path, server):
    """inside(python source) -> finished process; `work` is writable, `outside` is not."""
    try:
        (tmp_path / "work").mkdir()
        (tmp_path / "outside").mkdir()
        with sandbox.box([tmp_path / "work"], f"http://127.0.0.1:{server}/v1") as box:

            def run(source):
                return subprocess.run(
                    box.wrap([sys.executable, "-c", source]),
                    capture_output=True,
                    text=True,
                    cwd=tmp_path / "work",
                    timeout=120,
                )

            yield run
    except UserError as error:
        pytest.skip(str(error))


def test_it_writes_into_its_folder_and_nowhere_else(inside, tmp_path):
    ended = inside("""
import os, subprocess
open("mine", "w").write("x")
for path in ("../outside/a", "/etc/hermes-kxl", "/tmp/hermes-kxl-test", "/dev/shm/hermes-kxl", "/root/hermes-kxl"):
    try:
        open(path, "w")
        print("wrote", path)
    except OSError as error:
        pass
subprocess.run(["mount", "-o", "remount,rw", "/"], stderr=subprocess.DEVNULL)
subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", "mount -o remount,bind,rw / && touch ../outside/b"], stderr=subprocess.DEVNULL)
try:
    open("../outside/c", "w")
    print("wrote after remount")
except OSError:
    print("refused")
""")
    assert ended.stdout == "refused\n", ended
    assert (tmp_path / "work/mine").read_text() == "x" and list((tmp_path / "outside").iterdir()) == []


def test_it_reaches_the_one_server_and_no_other_port(inside, server):
    with socket.create_server(("127.0.0.1", 0)) as other:
        ended = inside(f"""
import socket, urllib.request
get = lambda path, data=None: urllib.request.urlopen("http://127.0.0.1:{sandbox.PORT}" + path, data).read().decode()
print(get("/v1/models"))
print(get("/v1/chat", b"abcdef"))
for host, port in (("127.0.0.1", {server}), ("127.0.0.1", {other.getsockname()[1]}), ("192.0.2.1", 80)):
    try:
        socket.create_connection((host, port), 5)
        print("reached", host, port)
    except OSError:
        pass
""")
    assert ended.stdout == "hello from /v1/models\nabcdef\n", ended


def test_a_process_left_in_the_background_ends_with_it_and_the_exit_code_comes_through(inside):
    ended = inside("""
import subprocess, sys
subprocess.Popen(["sleep", "987654"], start_new_session=True)
sys.exit(7)
""")
    assert ended.returncode == 7
    assert "sleep\x00987654" not in all_commands()


def all_commands() -> str:
    from pathlib import Path

    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_text())
        except OSError:  # it ended while we looked
            continue
    return "\n".join(found)


def test_where_namespaces_are_not_allowed_the_error_says_why(monkeypatch, tmp_path):
    monkeypatch.setattr(sandbox, "_flags", lambda: ([], "unshare: Operation not permitted"))
    with pytest.raises(UserError, match="Operation not permitted"), sandbox.box([tmp_path], "http://127.0.0.1:1/v1"):
        raise AssertionError("not reached")
