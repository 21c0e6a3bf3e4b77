"""A small OpenAI-compatible server on loopback that answers from a script instead of a model.

    turns = [{"tool_calls": [{"name": "terminal", "arguments": {"command": "ls"}}]}, {"content": "Two files."}]
    with scripted_server.serve(turns) as server:
        ...                      # an agent talks to server.url, "http://127.0.0.1:PORT/v1"
    server.requests              # the body of every chat request, in order
    server.left()                # turns that nobody asked for

One chat request takes one turn; a turn has any of

  content        the visible text (native call markers in it are just text)
  reasoning      what goes into `reasoning_content`
  tool_calls     [{"name", "arguments"}]; arguments may be a dict or, for broken ones, the string itself
  finish_reason  default "tool_calls" with calls, else "stop"
  status, error  an HTTP error instead of an answer

or is a function of the request's body that returns such a turn. Requests without `tools` (an agent asking
for a title, a summary) take no turn when `side_answer` is given: they get that text. A request after the
last turn is answered with HTTP 500, so an agent that goes on too long shows. Streams (SSE, in pieces of
`piece` characters, with usage where asked) or not, as the request says. Call ids are call_1, call_2, …
"""

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODEL = "scripted"
CONTEXT = 65536
MOST_BODY = 64 << 20  # bytes of a request


class Server:
    """What the server has and has seen. `url` ends in /v1."""

    def __init__(self, turns: list, side_answer: str | None, piece: int):
        self.turns, self.side_answer, self.piece = list(turns), side_answer, piece
        self.requests: list[dict] = []
        self.url = ""
        self._taken = self._calls = 0
        self._lock = threading.Lock()

    def left(self) -> int:
        """How many turns nobody has asked for."""
        return len(self.turns) - self._taken

    def answer(self, body: dict) -> dict:
        """The turn for a chat request, its calls in the wire's form."""
        with self._lock:
            self.requests.append(body)
            if self.side_answer is not None and not body.get("tools"):
                turn = {"content": self.side_answer}
            elif self._taken < len(self.turns):
                turn = self.turns[self._taken]
                self._taken += 1
            else:
                turn = {"status": 500, "error": f"the script has {len(self.turns)} turns and this is one request more"}
            turn = turn(body) if callable(turn) else turn
            calls = []
            for call in turn.get("tool_calls", []):
                self._calls += 1
                arguments = call["arguments"]
                text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
                calls.append(
                    {
                        "id": f"call_{self._calls}",
                        "type": "function",
                        "function": {"name": call["name"], "arguments": text},
                    }
                )
            return {
                **turn,
                "tool_calls": calls,
                "finish_reason": turn.get("finish_reason", "tool_calls" if calls else "stop"),
            }


@contextlib.contextmanager
def serve(turns: list, side_answer: str | None = None, piece: int = 7) -> Iterator[Server]:
    """Serve `turns` in a thread of this process until the block ends."""
    script = Server(turns, side_answer, piece)
    handler = type("Handler", (_Handler,), {"script": script})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    http.daemon_threads = True
    script.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield script
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def deltas(turn: dict, piece: int) -> Iterator[dict]:
    """The streamed pieces of a turn: role, reasoning, content, then each call's name and its arguments."""
    yield {"role": "assistant", "content": None if turn["tool_calls"] else ""}
    for key, name in (("reasoning", "reasoning_content"), ("content", "content")):
        text = turn.get(key) or ""
        yield from ({name: text[i : i + piece]} for i in range(0, len(text), piece))
    for index, call in enumerate(turn["tool_calls"]):
        text = call["function"]["arguments"]
        yield {
            "tool_calls": [{"index": index, **call, "function": {"name": call["function"]["name"], "arguments": ""}}]
        }
        for i in range(0, len(text), piece):
            yield {"tool_calls": [{"index": index, "function": {"arguments": text[i : i + piece]}}]}


def completion(turn: dict) -> dict:
    """A turn as the reply to a request that does not stream."""
    message = {"role": "assistant", "content": turn.get("content") or (None if turn["tool_calls"] else "")}
    if turn.get("reasoning"):
        message["reasoning_content"] = turn["reasoning"]
    if turn["tool_calls"]:
        message["tool_calls"] = turn["tool_calls"]
    choice = {"index": 0, "message": message, "finish_reason": turn["finish_reason"]}
    return {
        "id": "chatcmpl-scripted",
        "object": "chat.completion",
        "created": 0,
        "model": MODEL,
        "choices": [choice],
        "usage": _USAGE,
    }


# No tokenizer here, so no counts; agents only need the keys.
_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    script: Server

    def log_message(self, *_):  # silence: a test's output is its own
        return

    def do_GET(self):
        if self.path.rstrip("/").endswith("/models"):
            self._json(
                200,
                {
                    "object": "list",
                    "data": [
                        {
                            "id": MODEL,
                            "object": "model",
                            "created": 0,
                            "owned_by": "scripted",
                            "context_length": CONTEXT,
                        }
                    ],
                },
            )
        elif self.path == "/health":
            self._json(200, {"status": "ok"})
        else:
            self._json(404, {"error": {"message": f"no {self.path} here"}})

    def do_POST(self):
        length = self.headers.get("Content-Length", "0")
        if not length.isascii() or not length.isdigit() or int(length) > MOST_BODY:
            self._json(413, {"error": {"message": f"a request has a Content-Length of at most {MOST_BODY}"}})
            self.close_connection = True
            return
        raw = self.rfile.read(int(length))
        if not self.path.rstrip("/").endswith("/chat/completions"):
            self._json(404, {"error": {"message": f"no {self.path} here"}})
            return
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError) as error:
            self._json(400, {"error": {"message": f"the request is not JSON: {error}"}})
            return
        if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
            self._json(400, {"error": {"message": "the request is no object with messages"}})
            return
        turn = self.script.answer(body)
        if turn.get("status", 200) != 200:
            self._json(turn["status"], {"error": {"message": turn.get("error", "scripted error"), "type": "scripted"}})
        elif body.get("stream"):
            self._stream(turn, (body.get("stream_options") or {}).get("include_usage"))
        else:
            self._json(200, completion(turn))

    def _json(self, status: int, value: dict) -> None:
        data = json.dumps(value, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, turn: dict, usage: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")  # the end of the stream is the end of the connection
        self.end_headers()
        self.close_connection = True
        chunk = {"id": "chatcmpl-scripted", "object": "chat.completion.chunk", "created": 0, "model": MODEL}
        try:
            for delta in deltas(turn, self.script.piece):
                self._event({**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
            self._event({**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": turn["finish_reason"]}]})
            if usage:
                self._event({**chunk, "choices": [], "usage": _USAGE})
            self.wfile.write(b"data: [DONE]\n\n")
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the agent hung up; the next request tells what it does

    def _event(self, value: dict) -> None:
        self.wfile.write(b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n")
