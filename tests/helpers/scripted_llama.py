"""A stand-in for a model's server that answers from a table: llama-server's endpoints, or mlx_lm.server's token ids.

`texts` has what the model writes by the last message (a message that it does not have is answered by its text for
""). `replies` has whole HTTP answers (status, body) of /v1/chat/completions that stand in for reading that text, or
functions that give one; a body that is a string or bytes is sent as it is, "drop" closes the connection, "leave" the
server. A token is a byte, or a token of `tokenizer` where there is one, and an answer ends at the request's cap.
"""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from kxl.chat import thoughts, tool_syntax


class ScriptedLlama(ThreadingHTTPServer):
    """`requests` has (path, body) of each request. With `key` it asks for that bearer token. `field` is where a
    thought comes: "reasoning_content", "reasoning", or None for in the text. `opened`: the template opens thoughts."""

    def __init__(self, texts, replies=None, served="scripted", port=0, key=None, field="reasoning_content",
                 opened=False, tokenizer=None):  # fmt: skip
        self.texts, self.replies, self.served, self.key = texts, replies or {}, served, key
        self.field, self.opened, self.tokenizer, self.requests = field, opened, tokenizer, []
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids if self.tokenizer else list(text.encode())

    def decode(self, tokens: list[int]) -> str:
        if self.tokenizer:
            return self.tokenizer.decode(tokens, skip_special_tokens=False)
        return bytes(tokens).decode(errors="ignore")

    def written(self, last: str, cap: int) -> tuple[list[int], bool]:
        """(token ids, whether they were cut off) of the model's text."""
        tokens = self.encode(self.texts[last if last in self.texts else ""])
        return tokens[:cap], len(tokens) > cap

    @contextmanager
    def running(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield self
        finally:
            self.shutdown()
            self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: ScriptedLlama

    def log_message(self, *args):
        pass

    def do_GET(self):
        if self.allowed():
            self.answer(200, {"status": "ok", "data": [{"id": self.server.served}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, body))
        if not self.allowed():
            return
        if self.path == "/apply-template":
            self.answer(200, {"prompt": body["messages"][-1]["content"] + "<think>" * self.server.opened})
        elif self.path == "/tokenize":
            self.answer(200, {"tokens": self.server.encode(body["content"])})
        elif self.path == "/completion":
            prompt = body["prompt"].removesuffix("<think>") if self.server.opened else body["prompt"]
            tokens, cut = self.server.written(prompt, body["n_predict"])
            self.answer(
                200,
                {
                    "tokens": tokens,
                    "stop_type": "limit" if cut else "eos",
                    "tokens_evaluated": 100,
                    "timings": {"cache_n": 90},
                },
            )
        elif self.path == "/detokenize":
            self.answer(200, {"content": self.server.decode(body["tokens"])})
        else:
            self.chat(body)

    def chat(self, body: dict):
        last = body["messages"][-1]["content"]
        reply = self.server.replies.get(last)
        reply = reply() if callable(reply) else reply
        if reply is None:
            tokens, cut = self.server.written(last, body["max_tokens"])
            reply = 200, chat(self.server.decode(tokens), cut, field=self.server.field, opened=self.server.opened)
            reply[1]["choices"][0]["logprobs"] = {"content": [{"id": i} for i in (tokens if cut else [*tokens, 0])]}
        if reply == "leave":
            self.server.socket.close()
        if reply in ("drop", "leave"):
            self.close_connection = True
            self.connection.close()
        else:
            self.answer(*reply)

    def allowed(self) -> bool:
        given = self.headers.get("Authorization")
        if self.server.key is None or given == f"Bearer {self.server.key}":
            return True
        self.answer(401, {"error": {"message": f"Incorrect API key provided: {given}"}})
        return False

    def answer(self, status: int, body):
        data = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if 300 <= status < 400:
            self.send_header("Location", "https://elsewhere.example/v1")
        self.end_headers()
        self.wfile.write(data)


def chat(text: str, cut: bool = False, finish=None, calls=None, field="reasoning_content", opened=False) -> dict:
    """A chat completion that reads `text` as a server would, its thought in `field`."""
    turn = thoughts.split(text, opened)
    parsed = tool_syntax.parse(turn.visible if field else text)
    if calls is None:
        calls = [
            {"type": "function", "function": {"name": c["name"], "arguments": json.dumps(c["arguments"])}}
            for c in parsed.calls
        ]
    message = {"role": "assistant", "content": parsed.content or None, "tool_calls": calls}
    if field and turn.thought is not None:
        message[field] = turn.thought
    finish = finish or ("length" if cut else "tool_calls" if calls else "stop")
    return {"choices": [{"message": message, "finish_reason": finish}]}
