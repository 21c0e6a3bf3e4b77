"""The place where executable APIs run: the wheel's code in a box, asked from outside.

    with place.opened() as apis:
        apis.order("begin", case=case)
        apis.order("call", calls=[["cd", {"folder": "a"}]])       # ["None"]

The box (live/sandbox.py) has no way out but chat requests, so the program inside asks for its orders by one. A small
server of ours answers it, which no model stands behind and which takes no other process's word. Without a box
(`isolated` False) the same program runs with our own rights: it carries out methods of the wheel's classes by name, no
source code of a model's, but nothing bounds it then.
"""

import contextlib
import json
import queue
import secrets
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from kxl.base import cli
from kxl.base.cli import UserError
from kxl.base.files import ROOT
from kxl.eval import remote
from kxl.live import sandbox
from kxl.live.relay import Upstream
from kxl.live.transcript import Transcript
from kxl.setup import bfcl_env

PROGRAMS = [
    ROOT / "scripts" / name
    for name in ("kxl/bfcl/inside.py", "kxl/bfcl/apis.py", "kxl/bfcl/wheel_checks.py", "kxl/bfcl/wheel_stubs.py")
]
WAIT = 20  # seconds without an order, after which the program is told to ask again: a connection does not stay for ever
LONGEST = 1 << 30  # seconds
SLOWEST = 600  # seconds without a word from the program inside, which ends an order of its own long before


class Failed(UserError):
    """The program that carries out orders is gone, or an order failed in it."""


class Stopped(Exception):
    """An order took too long, or ended the process that carried it out; the message says which. Others can follow."""


class _Unrecorded(Transcript):
    """No model speaks here, so nothing is kept, and orders may be as many as they are."""

    def admit(self, size: int) -> bool:
        return not self._closed

    def asked(self, messages: list[dict]) -> None:
        return

    def answered(self, tools: list[str], answer) -> None:
        return


class Apis:
    """The program that runs the APIs, ready for orders from one thread."""

    def __init__(self):
        self._orders: queue.Queue = queue.Queue(1)
        self._results: queue.Queue = queue.Queue(1)
        self.ended = None  # how the program ended

    def order(self, name: str, **what):
        """Carry out an order (a method of inside.Orders); what came of it. Failed where it raised, or Stopped."""
        self._orders.put({"do": name, **what})
        waited = 0
        while True:
            try:
                came = self._results.get(timeout=1)
                break
            except queue.Empty:
                waited += 1
            if self.ended is not None or waited > SLOWEST:
                raise Failed(f"the executable APIs {self._why()}") from None
        if "stopped" in came:
            raise Stopped(came["stopped"])
        if "failed" in came:
            raise Failed(f"the executable APIs could not {name}: {came['failed']}")
        return came["came"]

    def _why(self) -> str:
        if self.ended is None:
            return f"did not answer within {SLOWEST} s"
        if isinstance(self.ended, Exception):
            return f"could not be started: {self.ended}"
        return f"ended with {self.ended.stopped or self.ended.exit_code}: {cli.printable(self.ended.err)[-600:]}"

    def answer(self, said: dict) -> dict:
        """The next order for the program, which says what came of the last one."""
        if {"came", "failed", "stopped"} & said.keys():
            self._results.put(said)
        try:
            return self._orders.get(timeout=WAIT)
        except queue.Empty:
            return {"do": "wait"}


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        return

    def do_POST(self):
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":  # some other process of this machine
            self.send_error(403)
            return
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        order = self.server.apis.answer(json.loads(body["messages"][0]["content"]))
        data = json.dumps({"choices": [{"message": {"content": json.dumps(order)}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextlib.contextmanager
def opened(isolated: bool = True) -> Iterator[Apis]:
    """An Apis, in a box unless `isolated` is False. UserError where this system allows none."""
    if isolated and (why := sandbox.unavailable()):
        raise UserError(
            f"this system allows no box around the executable APIs: {why}; --no-isolation (make: "
            'BFCL_FLAGS=--no-isolation) runs them with your own rights; BFCL_CATEGORIES="non_live live" needs no box'
        )
    python, package = bfcl_env.python(), bfcl_env.package()
    apis = Apis()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as http:
        http.daemon_threads, http.apis, http.token = True, apis, secrets.token_hex(16)
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        # The relay outside the box adds the token.
        upstream, seen = Upstream(f"http://127.0.0.1:{http.server_port}/v1", remote.Bearer(http.token)), _Unrecorded()
        folders = [python.parent.parent, package]

        def run() -> None:
            try:
                with sandbox.box(upstream, folders, seen) if isolated else sandbox.own_rights(upstream, seen) as where:
                    laid = {f"work/{path.name}": path.read_bytes() for path in PROGRAMS}
                    command = [python, where.root / "work" / "inside.py", where.url]
                    apis.ended = where.run(command, laid, bfcl_env.environment(where.root / "work"), LONGEST)
            except (UserError, OSError) as error:
                apis.ended = error

        worker = threading.Thread(target=run, daemon=True)
        worker.start()
        try:
            yield apis
        finally:
            with contextlib.suppress(queue.Full):
                apis._orders.put_nowait({"do": "end"})
            worker.join(timeout=WAIT + 10)
            http.shutdown()
