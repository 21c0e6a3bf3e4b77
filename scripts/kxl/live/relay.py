"""The one way out of the box: chat requests to the model's server, and their answers, through a process outside.

    with relay.serve(listener, Upstream("http://127.0.0.1:8080/v1"), Transcript()) as seen: ...

`listener` is a socket that stands in the box's own network; this end of it serves it outside. What passes is a short
list of requests (ROUTES), each with the target exactly as it stands there: other targets of the same server can load
other models, fetch from the network or write files. A chat request may have what an agent sends (FIELDS), text alone
(a picture's URL would make the server fetch it), one model and the tools of the first request, each once: a grammar or
a schema made for it can crash a server or keep it busy for ever. A redirect of the server is an error, an answer is cut
at MOST_ANSWER, and one more than transcript.MOST_REQUESTS is refused. Each chat request and its answer are noted in the
transcript. At the end every connection to the server is cut, so that it works on nothing that a task left behind.
"""

import contextlib
import http.server
import json
import re
import socket
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import requests
from requests.adapters import HTTPAdapter

from kxl.eval import remote
from kxl.live.transcript import Answer, Transcript

CHAT = "/v1/chat/completions"
ROUTES = {("POST", CHAT), ("GET", "/v1/models"), ("GET", "/health")}
FIELDS = {"messages", "model", "tools", "tool_choice", "parallel_tool_calls", "stream", "stream_options", "user"}
FIELDS |= {"max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop"}
FIELDS |= {"presence_penalty", "frequency_penalty"}
MOST_BODY, MOST_ANSWER = 4 << 20, 64 << 20  # bytes; a body of Hermes at 64K tokens of context has a third of a million
AT_ONCE = 8  # requests; one more waits
SECONDS = 60  # that the program inside may take to send or read a piece
SERVER_SECONDS = (10, 600)  # to connect, and between two pieces of an answer


@dataclass(frozen=True)
class Upstream:
    """The model's server: its `url` (…/v1), what requests needs to be let in, and the one model that may be asked for.

    `auth` is added outside: no program in the box sees a key. `model` None allows any.
    """

    url: str
    auth: object = None
    model: str | None = None


class _Refused(Exception):
    """(HTTP status, why) of a request that does not pass."""


@contextlib.contextmanager
def serve(listener: socket.socket, upstream: Upstream, seen: Transcript) -> Iterator[Transcript]:
    """Serve `listener` (taken over) until the block ends; then `seen` is closed."""
    server = _Server(listener, upstream, seen)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        seen.close()
        server.closing = True
        server.shutdown()
        server.server_close()
        server.cut()
        thread.join()


class _Server(socketserver.ThreadingMixIn, socketserver.BaseServer):
    """A threading server on a socket that listens already."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, upstream: Upstream, seen: Transcript):
        super().__init__(listener.getsockname(), _Handler)
        self.socket, self.upstream, self.seen = listener, upstream, seen
        self.base = upstream.url.rstrip("/").removesuffix("/v1")
        self.closing = False
        self.reading = threading.Lock()  # one body at a time is parsed: as Python objects it takes thirty times as much
        self.tools: set[str] | None = None  # of the first request that has some, each as sorted JSON
        self._places = threading.Semaphore(AT_ONCE)
        self._connections: set[socket.socket] = set()  # to the model's server

    def connected(self, connection: socket.socket) -> None:
        """Remember a connection to the model's server."""
        self._connections.add(connection)
        if self.closing:
            self.cut()

    def cut(self) -> None:
        """End every connection to the model's server, also one on which an answer is waited for."""
        for connection in list(self._connections):
            with contextlib.suppress(OSError):  # ended already
                connection.shutdown(socket.SHUT_RDWR)

    def fileno(self) -> int:
        return self.socket.fileno()

    def get_request(self):
        return self.socket.accept()

    def process_request(self, request, client_address) -> None:
        while not self._places.acquire(timeout=0.1):  # one ends after SECONDS without a piece
            if self.closing:
                self.shutdown_request(request)
                return
        super().process_request(request, client_address)

    def process_request_thread(self, request, client_address) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def shutdown_request(self, request) -> None:
        with contextlib.suppress(OSError):  # the other end may be gone
            request.shutdown(socket.SHUT_WR)
        request.close()

    def server_close(self) -> None:
        self.socket.close()

    def handle_error(self, request, client_address) -> None:
        """A stranger's connection that broke is nobody's error here; the stranger sees it closed."""


class _Adapter(HTTPAdapter):
    """requests' way to a server, which tells `server` each connection that it makes."""

    def __init__(self, server: _Server):
        super().__init__()
        self.server = server

    def get_connection_with_tls_context(self, *args, **options):
        pool, connected = super().get_connection_with_tls_context(*args, **options), self.server.connected

        class Connection(pool.ConnectionCls):
            def connect(self):
                super().connect()
                connected(self.sock)

        pool.ConnectionCls = Connection
        return pool


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    timeout = SECONDS

    def address_string(self):
        return "box"

    def log_message(self, *_):  # the transcript is what is reported
        return

    def do_GET(self):
        self._relay()

    def do_POST(self):
        self._relay()

    def _relay(self) -> None:
        try:
            body = self._body()
            body, tools = self._chat(body) if self.path == CHAT else (body, None)
            with self._ask(body) as reply:
                self._hand_back(reply, tools)
        except _Refused as refused:
            self.send_error(*refused.args)

    def _body(self) -> bytes:
        """The request's body; _Refused for a request that does not pass whatever stands in it."""
        if (self.command, self.path) not in ROUTES:
            allowed = ", ".join(" ".join(route) for route in sorted(ROUTES))
            raise _Refused(403, f"out of the box go only {allowed}")
        length = self.headers.get_all("Content-Length", ["0"])
        if "Transfer-Encoding" in self.headers or len(length) > 1 or not re.fullmatch(r"[0-9]{1,12}", length[0]):
            raise _Refused(411, "a request needs one Content-Length")
        if int(length[0]) > MOST_BODY:
            raise _Refused(413, f"a request has at most {MOST_BODY} bytes")
        if not self.server.seen.admit(int(length[0])):
            raise _Refused(429, "this task has sent all the requests that it may")
        body = self.rfile.read(int(length[0]))
        if len(body) < int(length[0]):
            raise _Refused(400, "the request ended early")
        return body

    def _chat(self, body: bytes) -> tuple[bytes, list[str]]:
        """(a chat request as it was understood, the names of the tools that it offers); its results are noted.

        It is written anew: of a key that stands twice another reader may take the other value, which nobody checked.
        _Refused where it may not pass.
        """
        with self.server.reading:
            request = self._request(body)
            tools = [tool["function"]["name"] for tool in request.get("tools") or []]
            try:
                written = json.dumps(request, allow_nan=False).encode()
                self.server.seen.asked(request["messages"])
                return written, tools
            except (ValueError, RecursionError):
                raise _Refused(400, "a chat request is a JSON object, without NaN and Infinity") from None

    def _request(self, body: bytes) -> dict:
        try:
            request = json.loads(body)
        except (ValueError, RecursionError):
            raise _Refused(400, "a chat request is a JSON object") from None
        if not isinstance(request, dict) or not isinstance(request.get("messages"), list):
            raise _Refused(400, "a chat request is a JSON object with messages")
        if not all(isinstance(message, dict) and _is_text(message.get("content")) for message in request["messages"]):
            raise _Refused(400, "messages that go out of the box are text alone")
        if self.server.upstream.model not in (None, request.get("model")):
            raise _Refused(403, f"the model for this task is {self.server.upstream.model}")
        if strange := sorted(set(request) - FIELDS):
            raise _Refused(403, f"out of the box go no {', '.join(strange)[:100]!a} in a chat request")
        tools = request.get("tools") or []
        if not isinstance(tools, list) or not all(map(_is_tool, tools)):
            raise _Refused(400, "tools are a list of functions with names")
        try:
            written = {json.dumps(tool, sort_keys=True) for tool in tools}
        except RecursionError:
            raise _Refused(400, "a chat request is a JSON object") from None
        if self.server.tools is None and written:
            self.server.tools = written
        if written - (self.server.tools or set()):
            raise _Refused(403, "the tools of a task stay those of its first request")
        if len(written) < len(tools):
            raise _Refused(403, "each tool of a request stands there once")
        return request

    @contextlib.contextmanager
    def _ask(self, body: bytes) -> Iterator[requests.Response]:
        """The server's answer, whose pieces are still to come."""
        with requests.Session() as session:
            # Loopback must not go through a proxy that the environment names.
            session.trust_env = not remote.is_loopback(self.server.base)
            for scheme in ("http://", "https://"):
                session.mount(scheme, _Adapter(self.server))
            try:
                reply = session.request(
                    self.command,
                    self.server.base + self.path,
                    data=body or None,
                    headers={"Content-Type": "application/json", "Accept": "*/*"},
                    auth=self.server.upstream.auth,
                    stream=True,
                    allow_redirects=False,
                    timeout=SERVER_SECONDS,
                )
            except requests.RequestException as error:
                raise _Refused(502, f"the server outside the box: {type(error).__name__}") from None
            with reply:
                if 300 <= reply.status_code < 400:
                    raise _Refused(502, "the server outside the box answered with a redirect, which is not followed")
                yield reply

    def _hand_back(self, reply: requests.Response, tools: list[str] | None) -> None:
        """Pass the pieces of a stream on as they come, any other answer whole; note it before its end is passed on.

        `tools` are those of a chat request.
        """
        kind = re.sub(r"[^ -~]", "", reply.headers.get("Content-Type", "application/json"))
        stream, noted = kind.startswith("text/event-stream"), tools is None or reply.status_code != 200
        answer, held = Answer(stream), bytearray()
        self.send_response(reply.status_code)
        self.send_header("Content-Type", kind)
        self.end_headers()  # HTTP/1.0: the answer ends with the connection
        passed = 0
        with contextlib.suppress(OSError, requests.RequestException):  # the agent hung up, or the server did
            for piece in reply.iter_content(None):
                passed += len(piece)
                if passed > MOST_ANSWER:
                    return
                answer.feed(piece)
                if stream:
                    noted = noted or self._note(tools, answer)
                    self.wfile.write(piece)
                else:
                    held += piece
            answer.end()
            if not noted:
                self.server.seen.answered(tools, answer)
            if not stream:
                self.wfile.write(held)

    def _note(self, tools: list[str], answer: Answer) -> bool:
        """Note an answer whose message is whole; whether it was."""
        if answer.finish:
            self.server.seen.answered(tools, answer)
        return bool(answer.finish)


def _is_text(content) -> bool:
    """Whether a message's content is text: nothing, a string, or parts that are text."""
    if isinstance(content, list):
        return all(isinstance(part, dict) and part.get("type") == "text" and _is_bare(part) for part in content)
    return content is None or isinstance(content, str)


def _is_bare(part: dict) -> bool:
    """Whether a part has nothing but its text: servers tell a picture by its type or by having one."""
    return part.keys() <= {"type", "text", "cache_control"} and isinstance(part.get("text"), str)


def _is_tool(tool) -> bool:
    function = tool.get("function") if isinstance(tool, dict) else None
    return isinstance(function, dict) and isinstance(function.get("name"), str)
