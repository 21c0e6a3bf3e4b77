"""Read turns back with the parsers that will read them: ours, mlx-lm's, and the one inside the pinned llama-server.

    with Readers(chat, folder) as readers:
        problems = readers.problems(message, text, tools)      # {"ours": why, "mlx_lm": why, "llama_server": why}

A turn comes back when its thought, its text and its calls do, byte for byte.

llama-server has no way to hand its parser a text, so the text is given as the beginning of the assistant's turn
and a model of random weights is made to end that turn at once: the server then parses exactly this text. The small
model carries the template in question, since llama-server chooses its parser by that. mlx-lm's state machine runs as
in mlx_lm.server for a tokenizer that has <think> as a token; without one that server shows thoughts as text
(kxl/chat/tokenizer_checks.py tells).
"""

import contextlib
import json
import types
from dataclasses import dataclass, field
from pathlib import Path

from kxl.chat import thoughts, tool_syntax
from kxl.chat.loss_mask import Chat
from kxl.chat.rows import calls_of
from kxl.eval import server as eval_server
from kxl.setup import random_gguf
from kxl.traces import roundtrip

PARSERS = ("ours", "mlx_lm", "llama_server")
UNPARSED = "does not match the expected"  # what llama-server says, with HTTP 500, of text that its grammar refuses
LARGEST_CONTEXT = 131072


@dataclass
class Turn:
    """What a parser made of an assistant's turn: calls are [{"name", "arguments"}]."""

    thought: str = ""
    content: str = ""
    calls: list = field(default_factory=list)


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
        """Per parser why what it reads in `text` is not `message`, or None."""
        called = {call["name"] for call in calls_of(message)}
        tools = [tool for tool in tools if tool["function"]["name"] in called] or tools[:1]
        return {
            parser: _problem(message, read(text, tools))
            for parser, read in (("ours", self._ours), ("mlx_lm", self._mlx_lm), ("llama_server", self._llama_server))
        }

    def _ours(self, text: str, tools: list) -> Turn | str:
        thought, visible = thoughts.split_thought(text)
        parsed = tool_syntax.parse(visible)
        return parsed.errors[0] if parsed.errors else Turn(thought or "", parsed.content, parsed.calls)

    def _mlx_lm(self, text: str, tools: list) -> Turn | str:
        from mlx_lm.generate import TextStateMachine, make_text_state_machine
        from mlx_lm.tool_parsers import pythonic

        tokenizer = types.SimpleNamespace(
            has_thinking=True,
            think_start=thoughts.START,
            think_end=thoughts.END,
            has_tool_calling=True,
            tool_call_start=pythonic.tool_call_start,
            tool_call_end=pythonic.tool_call_end,
            response_transitions={},
            structural_markers=(),
        )
        machine = make_text_state_machine(tokenizer)
        # With a mark at its end the state machine holds nothing back.
        _, segments = TextStateMachine.split(machine.make_state("normal"), text + "\0")
        turn, blocks, state = Turn(), [], "normal"
        for kind, piece in segments:
            if kind == "reasoning":
                turn.thought += piece
            elif kind == "tool":
                blocks = [*blocks, piece] if state != "tool" else [*blocks[:-1], blocks[-1] + piece]
            else:
                turn.content += piece
            state = kind
        if not turn.content.endswith("\0"):
            return f"it ends inside {'a call' if state == 'tool' else 'the thought'}"
        turn.content = turn.content[:-1]
        try:
            for block in blocks:
                read = pythonic.parse_tool_call(block, tools)
                turn.calls += read if isinstance(read, list) else [read]
        except Exception as error:  # whatever it raises, the server answers without a call
            return f"{type(error).__name__}: {error}"[:200]
        return turn

    def _llama_server(self, text: str, tools: list) -> Turn | str:
        # The server writes the marks of a thought itself, around what a message has as one, be that nothing.
        head = thoughts.HEAD.match(text)
        thought, mark, rest = text[head.end() :].partition(thoughts.END) if head else ("", "", text)
        if head and not mark:
            return "the thought does not end"
        message = {"role": "assistant", "content": rest, **({"reasoning_content": thought} if thought else {})}
        reply = self._started(text, tools).http.post(
            self.server.url + "/v1/chat/completions",
            timeout=300,
            json={
                "messages": [{"role": "user", "content": "hi"}, message],
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
        said = reply.json()["choices"][0]["message"]
        turn = Turn(said.get("reasoning_content") or "", said.get("content") or "")
        if not head:
            turn.content = turn.content.removeprefix(thoughts.START + thoughts.END)
        for call in said.get("tool_calls") or []:
            try:
                arguments = json.loads(call["function"]["arguments"])
            except json.JSONDecodeError:
                return f"its arguments are not JSON: {call['function']['arguments'][:160]}"
            turn.calls.append({"name": call["function"]["name"], "arguments": arguments})
        return turn

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


def _problem(message: dict, read: Turn | str) -> str | None:
    if isinstance(read, str):
        return read
    if problem := roundtrip.difference(calls_of(message), read.calls):
        return problem
    for what, wanted, found in (
        ("thought", message.get("reasoning_content", ""), read.thought),
        ("text", message["content"], read.content),
    ):
        if wanted != found:
            return f"the {what} {wanted[:160]!r} became {found[:160]!r}"
    return None
