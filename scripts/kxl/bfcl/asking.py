"""One step of a Berkeley case: a model's server is asked, and its answer kept as the leaderboard keeps it.

The leaderboard takes the calls that a server hands out as they are: no name is guessed, no argument mended, a call that
comes twice counts twice. So this reads the reply itself, and takes only text and thought from eval/replies.py.
"""

import json
import re
import time
from dataclasses import dataclass, field

from kxl.eval import replies
from kxl.eval.client import Client
from kxl.eval.server import ServerError

# What servers say of a prompt that is longer than their context.
TOO_LONG = re.compile(
    r"with HTTP 400: [^\n]*(context size|context length|context window|too many tokens)", re.IGNORECASE
)


@dataclass
class Reply:
    """An answer. `answer` has the form that bfcl/verdicts.py takes; `message` is what goes into the history.

    finish: the server's word, or "context" where the prompt was too long for it. errors: of a server that could not
    read its model's text.
    """

    answer: list | str
    text: str = ""
    message: dict = field(default_factory=dict)
    finish: str = "stop"
    prompt_tokens: int = 0
    output_tokens: int = 0
    thought: str | None = None
    seconds: float = 0.0
    errors: list = field(default_factory=list)


class Asker:
    """Asks for the steps of cases, each with at most `cap` tokens. `client` is eval/client.py's."""

    def __init__(self, client: Client, cap: int):
        self.client, self.cap = client, cap

    def ask(self, case: str, messages: list[dict], tools: list[dict]) -> Reply:
        """The answer to a conversation. ServerError where the server, not the model, has failed."""
        body = {"messages": messages, "max_tokens": self.cap, **self.client.sampling.request(self.client.backend, 0)}
        if tools:
            body |= {"tools": tools, "parallel_tool_calls": True}
        if self.client.model:
            body["model"] = self.client.model
        names = [tool["function"]["name"] for tool in tools]
        started = time.monotonic()
        try:
            reply, error = self.client.post(
                "/v1/chat/completions", body, {"id": case}, lambda found: _read(found, names)
            )
        except ServerError as failure:
            if not TOO_LONG.search(str(failure)):
                raise
            reply, error = Reply("", finish="context", errors=["the prompt is longer than the server's context"]), None
        reply = Reply("", finish="malformed", errors=[error]) if error else reply
        reply.seconds = round(time.monotonic() - started, 3)
        return reply


def _read(found, names: list[str]) -> Reply:
    parsed = replies.read_chat(found, names)
    listed = found["choices"][0]["message"].get("tool_calls")
    calls = []
    for place, call in enumerate(listed if isinstance(listed, list) else []):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            continue
        given = function.get("arguments")
        text = given if isinstance(given, str) else json.dumps(given if given is not None else {}, ensure_ascii=False)
        identity = call.get("id") if isinstance(call.get("id"), str) and call["id"] else f"call_{place}"
        calls.append({"id": identity, "type": "function", "function": {"name": function["name"], "arguments": text}})
    answer = [{call["function"]["name"]: call["function"]["arguments"]} for call in calls] or parsed.content
    return Reply(
        answer,
        parsed.content,
        {"role": "assistant", "content": parsed.content, **({"tool_calls": calls} if calls else {})},
        parsed.finish_reason,
        parsed.prompt_tokens,
        parsed.output_tokens,
        parsed.thought,
        errors=[] if calls else parsed.errors,
    )
