"""Read calls back with the parsers that will read them: ours, mlx-lm's, and the one inside the pinned llama-server.

    with Readers(chat, folder) as readers:
        problems = readers.problems(message, text, tools)      # {"ours": why, "mlx_lm": why, "llama_server": why}

llama-server has no way to hand its parser a text, so the text is given as the beginning of the assistant's turn
and a model of random weights is made to end that turn at once: the server then parses exactly this text. The small
model carries the template in question, since llama-server chooses its parser by that.
"""

import contextlib
import json
from pathlib import Path

from kxl.chat import tool_syntax
from kxl.chat.loss_mask import Chat
from kxl.eval import server as eval_server
from kxl.setup import random_gguf
from kxl.traces import roundtrip

PARSERS = ("ours", "mlx_lm", "llama_server")
UNPARSED = "does not match the expected"  # what llama-server says, with HTTP 500, of text that its grammar refuses
LARGEST_CONTEXT = 131072


class Readers:
    """The three parsers, llama-server's started when it is first asked and stopped at the end of the block."""

    def __init__(self, chat: Chat, folder: Path):
        self.chat, self.folder, self.server, self.context, self.stack = (
            chat,
            Path(folder),
            None,
            0,
            contextlib.ExitStack(),
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.stack.close()

    def problems(self, message: dict, text: str, tools: list) -> dict[str, str | None]:
        """Per parser why the calls in `text` are not those of `message`, or None."""
        calls, problems = roundtrip.calls_of(message), {}
        for parser, read in (("ours", self._ours), ("mlx_lm", self._mlx_lm), ("llama_server", self._llama_server)):
            found = read(text, [tool for tool in tools if tool["function"]["name"] in {call["name"] for call in calls}])
            problems[parser] = found if isinstance(found, str) else roundtrip.difference(calls, found)
        return problems

    def _ours(self, text: str, tools: list) -> list | str:
        parsed = tool_syntax.parse(text)
        return parsed.errors[0] if parsed.errors else parsed.calls

    def _mlx_lm(self, text: str, tools: list) -> list | str:
        from mlx_lm.tool_parsers import pythonic

        start, end = text.find(pythonic.tool_call_start), text.find(pythonic.tool_call_end)
        if start < 0 or end < start:
            return "there is no call in its markers"
        try:
            # mlx_lm.server hands over what stands between the two tokens.
            read = pythonic.parse_tool_call(text[start + len(pythonic.tool_call_start) : end], tools)
        except Exception as error:  # whatever it raises, the server answers without a call
            return f"{type(error).__name__}: {error}"[:200]
        return read if isinstance(read, list) else [read]

    def _llama_server(self, text: str, tools: list) -> list | str:
        reply = self._started(text, tools).http.post(
            self.server.url + "/v1/chat/completions",
            timeout=300,
            json={
                "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": text}],
                "tools": tools,
                "parallel_tool_calls": True,
                "max_tokens": 1,
                "temperature": 0,
                "add_generation_prompt": False,
                "continue_final_message": "content",
                "logit_bias": [[random_gguf.SPECIAL.index("<|im_end|>"), 1e6]],
            },
        )
        if reply.status_code == 500:
            message = reply.json()["error"]["message"]
            return "refused" if UNPARSED in message else message[:200]
        if reply.status_code != 200:
            raise self.server.failure(f"answered with HTTP {reply.status_code}: {reply.text[:300]}")
        read = []
        for call in reply.json()["choices"][0]["message"].get("tool_calls") or []:
            try:
                read.append({"name": call["function"]["name"], "arguments": json.loads(call["function"]["arguments"])})
            except json.JSONDecodeError:
                return f"its arguments are not JSON: {call['function']['arguments'][:160]}"
        return read

    def _started(self, text: str, tools: list):
        """The server, with room for this prompt: its vocabulary is bytes."""
        needed = (
            len(text.encode("utf-8", "replace"))
            + len(json.dumps(tools, ensure_ascii=False).encode("utf-8", "replace"))
            + 1024
        )
        if self.server is None or needed > self.context:
            self.stack.close()
            self.context = max(16384, 1 << (needed - 1).bit_length())
            gguf = random_gguf.write(
                self.folder / "parser.gguf", context=max(self.context, LARGEST_CONTEXT), template=self.chat.template
            )
            # One thread: two that wait for each other crawl when anything else runs.
            server = eval_server.llama_server(
                gguf, self.folder / "parser.log", context=self.context, extra=("--threads", "1")
            )
            self.server = self.stack.enter_context(server)
        return self.server
