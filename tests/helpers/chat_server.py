"""A server of chat completions that answers as a function says, over real HTTP: no model, no parser."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from kxl.eval import server as eval_server


@contextmanager
def serving(answer):
    """`answer(body)` of a request gives (content, [(tool, arguments)]); yields the server as ours are yielded."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as http:
        http.reply = answer
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield eval_server.external(f"http://127.0.0.1:{http.server_port}")
        finally:
            http.shutdown()


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        self._answer({"status": "ok", "data": [{"id": "scripted"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content, calls = self.server.reply(body)
        functions = [{"name": name, "arguments": json.dumps(arguments)} for name, arguments in calls]
        calls = [
            {"id": f"call_{place}", "type": "function", "function": function}
            for place, function in enumerate(functions)
        ]
        message = {"role": "assistant", "content": content, "tool_calls": calls}
        self._answer({"choices": [{"message": message, "finish_reason": "tool_calls" if calls else "stop"}]})

    def _answer(self, body: dict):
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
