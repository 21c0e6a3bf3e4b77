"""Start a model server on a free loopback port, and be sure that it is gone afterwards.

    with llama_server(Path("q4kxl.gguf"), log=Path("server.log")) as server:
        server.http.post(server.url + "/v1/chat/completions", json=...)

The server runs under a guard process that holds a pipe to us: when this process ends in whatever way
(done, error, Ctrl-C, kill -9) the pipe closes and the guard stops the server. A server that dies, hangs
or never comes up is a ServerError with the end of its log. Before it is used, whatever answers on its port
must say a token that only our server was told: another process may have taken the port.

A server that somebody else runs is `external(url)`; what it may ask for, a key, is in remote.py. The flags that every
command has which asks a model are here, too.
"""

import argparse
import contextlib
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import requests

from kxl.base import processes
from kxl.base.cli import UserError, say
from kxl.base.files import ROOT, make_place, shown
from kxl.eval import remote
from kxl.model import blas
from kxl.model.float32 import copy as float32_copy
from kxl.setup import llama_cpp

MLX_PROGRAM = ROOT / "scripts" / "kxl/model/mlx_program.py"
FLOAT32 = sys.platform == "linux"  # where MLX multiplies on the CPU
FIRST_ANSWER = 10  # seconds that a server of somebody else has to say what it serves
PORT_TRIES = 3  # somebody may take the free port between our looking and the server's binding it


def add_asking_flags(parser: argparse.ArgumentParser, seconds: float = 300) -> None:
    """--model-name, --thinking-tokens, --timeout (`seconds` by default) and --float32."""
    parser.add_argument(
        "--model-name", help="model name sent with --url requests (default: the served one, if it is only one)"
    )
    parser.add_argument(
        "--thinking-tokens",
        type=int,
        metavar="N",
        help="tokens that an answer may have beyond its cap, for its thought (default: the config's, else 0)",
    )
    parser.add_argument("--timeout", type=float, default=seconds, help="seconds one answer may take")
    parser.add_argument(
        "--float32",
        action=argparse.BooleanOptionalAction,
        default=FLOAT32,
        help="serve a float32 copy of --model, kept in runs/float32: on a CPU the other types are slow",
    )


def add_server_flags(parser: argparse.ArgumentParser) -> None:
    """--threads and --server-log, of a server that we start."""
    parser.add_argument(
        "--threads",
        type=int,
        default=0,
        help="threads of llama-server; fewer than the cores left free on a busy machine, 0 = its own choice",
    )
    parser.add_argument(
        "--server-log", type=Path, help="log of the server (default: beside the report, and kept only after an error)"
    )


class ServerError(UserError):
    """The server, not the model's answer, is what failed."""


@dataclass
class Server:
    """A running server. `guard` and `log` are None for one that we were only given the URL of; only such a one
    gets the key."""

    url: str
    guard: subprocess.Popen | None = None
    log: Path | None = None
    http: requests.Session = field(default_factory=requests.Session)

    def __post_init__(self):
        # Loopback must not go through a proxy that the environment names.
        self.http.trust_env = self.guard is None and not remote.is_loopback(self.url)

    def post(self, path: str, body: dict, seconds: float) -> requests.Response:
        """One request. A redirect is not followed: a POST would arrive as a GET."""
        return self.http.post(self.url + path, json=body, timeout=seconds, allow_redirects=False)

    def alive(self) -> bool:
        """Whether the process runs and says that it is healthy (an unknown server: whether it answers at all)."""
        if self.guard and self.guard.poll() is not None:
            return False
        with contextlib.suppress(requests.RequestException):
            status = self.http.get(self.url + "/health", timeout=10).status_code
            return status == 200 or self.guard is None  # not every server has /health
        return False

    def gone(self, error: requests.RequestException, case: str) -> str:
        """What to say of a server that took no request for a case and is not alive."""
        if self.guard:
            return f"died on case {case}"
        return (
            f"was reached before and is not any more, on case {case} ({remote.cause(error)}); answers so far are kept"
        )

    def failure(self, what: str) -> ServerError:
        """A ServerError: `what` happened, how the process ended if it did, and the end of its log."""
        what = remote.hide_key(what)
        if self.guard:
            # A crashing server closes its connections a moment before its exit code is there.
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self.guard.wait(2)
                what += f"; {llama_cpp.exit_reason('it', processes.ended_by(code))}"
        if not self.log:
            return ServerError(f"the server at {self.url} {what}")
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return ServerError(
            f"the server at {self.url} {what}; its whole log is {shown(self.log)}, it ends:\n{llama_cpp.tail(text)}"
        )


def external(url: str) -> Server:
    """A server that somebody else runs; `url` with or without /v1 at its end. UserError where nobody answers there."""
    try:
        parts = urlsplit(url.strip())
        valid = parts.scheme in ("http", "https") and parts.hostname and not parts.query and not parts.fragment
        valid = valid and parts.port != 0  # .port raises for one that is no number
    except ValueError:
        valid = False
    if not valid:
        raise UserError(
            f"--url {remote.hide_key(url)!r}: not the address of a server, such as http://127.0.0.1:8080/v1"
        )
    if parts.username or parts.password:
        raise UserError(
            f"--url: give no name and password in it; a key belongs into the environment variable {remote.KEY}"
        )
    base = url.strip().rstrip("/").removesuffix("/chat/completions").removesuffix("/v1")
    server = Server(base)
    if key := remote.api_key():
        server.http.auth = remote.Bearer(key)
        if parts.scheme == "http" and not remote.is_loopback(base):
            say(f"{base}: the key goes there unencrypted; https would hide it on the way")
    try:
        reply = server.http.get(base + "/v1/models", timeout=FIRST_ANSWER)
    except requests.RequestException as error:
        raise UserError(
            f"nobody answers at {base} ({remote.cause(error)}): start the server, or give the right address with --url"
        ) from None
    if reply.status_code in (401, 403):
        what = (
            f"refuses the key in {remote.KEY}"
            if key
            else f"asks for a key: put it into the environment variable {remote.KEY}"
        )
        raise UserError(f"{base} {what} (HTTP {reply.status_code})")
    return server


def served_model(server: Server) -> list | None:
    """What an external server says it serves: the names in its /v1/models; None where it does not tell."""
    try:
        models = server.http.get(server.url + "/v1/models", timeout=FIRST_ANSWER).json()["data"]
        return sorted(str(model["id"]) for model in models)
    except (requests.RequestException, ValueError, KeyError, TypeError, RecursionError):
        return None


@contextlib.contextmanager
def llama_server(
    gguf: Path, log: Path, context: int = 65536, start_seconds: float = 300, extra: tuple = (), slots: int = 1
):
    """Serve a GGUF file with the pinned llama-server; yields a Server.

    `slots` requests at a time, each with `context` tokens.
    """
    command = [
        str(llama_cpp.binary("llama-server")),
        "--model",
        str(gguf),
        "--ctx-size",
        str(context * slots),
        "--parallel",
        str(slots),
        "--jinja",
        "--offline",
        "--host",
        "127.0.0.1",
        # One slot keeps its own prompt; the extra cache of older prompts would only take memory.
        "--cache-ram",
        "0",
        # By default it shows a model all its earlier thoughts; LFM2.5's template, mlx_lm.server and vLLM do not, and
        # so neither does training (kxl/chat/loss_mask.py).
        "--no-reasoning-preserve",
        *extra,
    ]
    token = _token()

    def ours(server: Server) -> bool:
        models = server.http.get(server.url + "/v1/models", timeout=30).json()["data"]
        return [model["id"] for model in models] == [token]

    # By the environment, which other users cannot read; the command line they can.
    environment = {**remote.without_keys(os.environ), "LLAMA_ARG_ALIAS": token}
    with _running(command, log, start_seconds, ours, environment) as server:
        served = server.http.get(server.url + "/props", timeout=30).json()["default_generation_settings"]["n_ctx"]
        if served < context:
            raise server.failure(
                f"offers {served} tokens of context instead of {context}: the model was made for fewer,"
                " ask for fewer with --context"
            )
        yield server


@contextlib.contextmanager
def mlx_server(model: Path, log: Path, float32: bool = FLOAT32, start_seconds: float = 300):
    """Serve a checkpoint with mlx_lm.server; yields a Server.

    `float32` serves a float32 copy (kxl/model/float32.py): on a CPU only float32 goes through a fast BLAS.
    """
    token = _token()

    def ours(server: Server) -> bool:
        return token in server.http.get(server.url + "/health", timeout=30).headers.get("Server", "")

    with float32_copy(model) if float32 else contextlib.nullcontext(model) as folder:
        command = [sys.executable, str(MLX_PROGRAM), "--model", str(folder), "--host", "127.0.0.1"]
        environment = {**remote.without_keys(blas.child_env(keep_memory=True)), "HERMES_KXL_SERVER_TOKEN": token}
        with _running(command, log, start_seconds, ours, environment) as server:
            # It reports itself healthy before the model is loaded; the first answer proves that it is.
            try:
                reply = server.http.post(
                    server.url + "/v1/completions", json={"prompt": "a", "max_tokens": 1}, timeout=start_seconds
                )
            except requests.RequestException:
                raise server.failure(f"did not load the model within {start_seconds:.0f} s") from None
            if reply.status_code != 200:
                raise server.failure(f"did not load the model: {reply.text.strip()[:200]}")
            yield server


def _token() -> str:
    return f"hermes-kxl-{secrets.token_hex(16)}"


@contextlib.contextmanager
def _running(command: list, log: Path, start_seconds: float, ours: Callable[[Server], bool], env: dict | None = None):
    """Start `command --port N`, wait until it is healthy and proves to be `ours`, stop it at the end."""
    log = Path(log)
    make_place(log)
    env = remote.without_keys(os.environ) if env is None else env
    for _ in range(PORT_TRIES):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with (
            open(log, "wb") as file,
            processes.guarded([*command, "--port", port], stdout=file, stderr=subprocess.STDOUT, env=env) as guard,
        ):
            server = Server(f"http://127.0.0.1:{port}", guard, log)
            state = _state(server, start_seconds, ours)
            if state == READY:
                yield server
                return
            text = log.read_text(encoding="utf-8", errors="replace").lower()
            if state == ENDED and not ("address already in use" in text or "couldn't bind" in text):
                raise server.failure("ended before it was ready")
    raise server.failure(f"is another process, for the {PORT_TRIES}rd time: something takes the ports that are free")


READY, ENDED, STRANGER = "ready", "ended", "stranger"


def _state(server: Server, start_seconds: float, ours: Callable[[Server], bool]) -> str:
    """Wait for /health: READY; ENDED, when the process did; or STRANGER, when another process answers there."""
    deadline = time.monotonic() + start_seconds
    while time.monotonic() < deadline:
        if server.guard.poll() is not None:
            return ENDED
        try:
            if server.http.get(server.url + "/health", timeout=5).status_code == 200:
                return READY if ours(server) else STRANGER
        except requests.JSONDecodeError:
            return STRANGER
        except (KeyError, TypeError, AttributeError):  # JSON of another shape
            return STRANGER
        except requests.RequestException:
            pass  # not listening yet
        time.sleep(0.05)
    raise server.failure(f"was not ready within {start_seconds:.0f} s")
