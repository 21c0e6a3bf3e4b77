"""Servers start, are named when they fail, and never outlive us."""

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest

from kxl.base.cli import UserError
from kxl.base.files import ROOT
from kxl.eval import client as eval_client
from kxl.eval import server as eval_server
from kxl.eval.suites import Suite
from kxl.model import float32
from kxl.setup import random_gguf

pytestmark = pytest.mark.minutes

SUITE = Suite("s", [], 8, [{"id": "one", "kind": "no_tool", "messages": [{"role": "user", "content": "hi"}]}])


@pytest.fixture(scope="module")
def gguf(llama_bin, tmp_path_factory):
    return random_gguf.write(tmp_path_factory.mktemp("model") / "random.gguf", context=2048)


def serve(gguf, tmp_path, **options):
    return eval_server.llama_server(
        gguf, tmp_path / "server.log", context=options.pop("context", 1024), extra=("--threads", "1"), **options
    )


def child_of(pid: int) -> int:
    return int(subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=True).stdout)


def runs(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return state != "" and not state.startswith("Z")


def gone_within(seconds: float, *pids: int) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(runs(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def test_server_is_gone_when_the_block_ends(gguf, tmp_path):
    with serve(gguf, tmp_path) as server:
        pids = server.guard.pid, child_of(server.guard.pid)
        assert server.alive() and all(map(runs, pids))
    assert gone_within(1, *pids) and not server.alive()


def test_server_is_gone_after_an_error(gguf, tmp_path):
    with pytest.raises(ZeroDivisionError):
        with serve(gguf, tmp_path) as server:
            pids = server.guard.pid, child_of(server.guard.pid)
            raise ZeroDivisionError
    assert gone_within(1, *pids)


HOLDER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {scripts!r})
from kxl.eval import server as model_server
with model_server.llama_server(Path({gguf!r}), Path({log!r}), context=1024, extra=("--threads", "1")) as server:
    print(server.guard.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_server_is_gone_when_we_are_interrupted_or_killed(gguf, tmp_path, signal_number):
    script = HOLDER.format(scripts=str(ROOT / "scripts"), gguf=str(gguf), log=str(tmp_path / "server.log"))
    holder = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # a shell's background jobs ignore it
    guard = int(holder.stdout.readline())
    pids = guard, child_of(guard)
    assert all(map(runs, pids))
    holder.send_signal(signal_number)
    holder.wait(20)
    assert gone_within(10, *pids)


def test_a_server_that_dies_is_named_by_signal_and_log_and_no_case_fails(gguf, tmp_path):
    with serve(gguf, tmp_path) as server:
        client = eval_client.Client(server, "openai")
        client.ask(SUITE, SUITE.cases[0])
        os.kill(child_of(server.guard.pid), signal.SIGSEGV)
        with pytest.raises(
            eval_server.ServerError,
            match="died on case one; it was ended by SIGSEGV; its whole log is .*server.log, it ends:\n    ",
        ):
            client.ask(SUITE, SUITE.cases[0])


def test_a_server_that_hangs_is_an_error_after_the_timeout(gguf, tmp_path):
    with serve(gguf, tmp_path) as server:
        pid = child_of(server.guard.pid)
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(eval_server.ServerError, match="gave no answer to case one within 1 s"):
                eval_client.Client(server, "openai", seconds=1).ask(SUITE, SUITE.cases[0])
        finally:
            # A stopped process does not see SIGTERM; the guard then kills it, which takes its five seconds.
            os.kill(pid, signal.SIGCONT)


def test_a_broken_model_file_is_an_error_at_once_with_the_reason_from_the_log(llama_bin, tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF, but not really")
    started = time.monotonic()
    with pytest.raises(
        eval_server.ServerError, match="ended before it was ready; it ended with exit code 1.*\n(.*\n)*.*broken.gguf"
    ):
        with serve(broken, tmp_path):
            pass
    assert time.monotonic() - started < 30


def test_a_server_that_never_gets_ready_is_an_error(tmp_path):
    with pytest.raises(eval_server.ServerError, match="was not ready within 1 s"):
        command = [sys.executable, "-c", "import time; time.sleep(600)"]
        with eval_server._running(command, tmp_path / "log", 1, lambda _: True):
            pass


def test_a_port_that_somebody_took_is_tried_again(tmp_path):
    """The command fails as if its port were taken, until its third start."""
    script = f"""
import http.server, pathlib, sys
tries = pathlib.Path({str(tmp_path / "tries")!r})
tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
if len(tries.read_text()) < 3:
    sys.exit("bind: Address already in use")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[-1])), Handler).serve_forever()
"""
    with eval_server._running([sys.executable, "-c", script], tmp_path / "log", 20, lambda _: True) as server:
        assert server.alive()
    assert (tmp_path / "tries").read_text() == "xxx"


def test_two_slots_answer_two_requests_at_once_each_with_the_whole_context(gguf, tmp_path):
    with serve(gguf, tmp_path, context=2048, slots=2) as server, ThreadPoolExecutor(2) as pool:
        assert len(server.http.get(server.url + "/slots").json()) == 2
        client = eval_client.Client(server, "llama_cpp")
        answers = list(pool.map(lambda _: client.ask(SUITE, SUITE.cases[0]), range(4)))
    assert len({raw.raw_text for _, raw in answers}) == 1 and all(
        raw.prompt_tokens == answers[0][1].prompt_tokens for _, raw in answers
    )


def test_less_context_than_asked_for_is_an_error(gguf, tmp_path):
    with pytest.raises(UserError, match="offers 2048 tokens of context instead of 4096"):
        with serve(gguf, tmp_path, context=4096):
            pass


def test_a_prompt_too_long_for_the_context_is_an_error_and_not_a_failed_case(gguf, tmp_path):
    long = {"id": "long", "kind": "no_tool", "messages": [{"role": "user", "content": "word " * 1000}]}
    with serve(gguf, tmp_path) as server:
        with pytest.raises(eval_server.ServerError, match="answered case long .* with HTTP 400"):
            eval_client.Client(server, "llama_cpp").ask(SUITE, long)


class Impostor(http.server.BaseHTTPRequestHandler):
    """Answers whatever a model's server is asked, as if it were one, and keeps the conversation."""

    heard: ClassVar[list] = []

    def log_message(self, *_):
        return

    def do_GET(self):
        models = {"data": [{"id": "qwen"}], "status": "ok", "default_generation_settings": {"n_ctx": 1 << 20}}
        self.reply(models)

    def do_POST(self):
        self.heard.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.reply({"choices": [{"message": {"content": "owned"}, "finish_reason": "stop"}]})

    def reply(self, value):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())


@pytest.fixture
def impostor(monkeypatch):
    """Another process's server, on the port that looks free to us `times` times."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Impostor) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        Impostor.heard.clear()

        def on_free_ports(times: int):
            class Probe(socket.socket):
                left = times

                def getsockname(self):
                    Probe.left -= 1
                    return server.server_address if Probe.left >= 0 else super().getsockname()

            monkeypatch.setattr(eval_server.socket, "socket", Probe)

        yield on_free_ports
        server.shutdown()


def test_another_process_on_the_port_is_not_taken_for_our_llama_server(gguf, tmp_path, impostor):
    impostor(1)
    with serve(gguf, tmp_path) as server:
        answer = server.http.post(server.url + "/completion", json={"prompt": "a", "n_predict": 1}).json()
    assert answer["tokens_predicted"] == 1 and Impostor.heard == []
    impostor(3)
    with pytest.raises(eval_server.ServerError, match="takes the ports that are free"), serve(gguf, tmp_path):
        raise AssertionError("not reached")
    assert Impostor.heard == []


def test_another_process_on_the_port_is_not_taken_for_our_mlx_server(tmp_path, impostor, monkeypatch):
    monkeypatch.setattr(float32, "STORE", tmp_path / "store")
    impostor(1)
    with eval_server.mlx_server(ROOT / "models/tiny", tmp_path / "log") as server:
        answer = server.http.post(server.url + "/v1/completions", json={"prompt": "a", "max_tokens": 1}).json()
    assert answer["usage"]["completion_tokens"] == 1 and Impostor.heard == []
