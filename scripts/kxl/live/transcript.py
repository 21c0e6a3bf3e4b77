"""What the model's server saw of a task: its own answers, and the tool results that came back to it.

The relay (relay.py) writes it outside the box, request by request. So a step, a call and a result are what went over
the wire, not what stands in a file that the task can write. A tool result counts when it answers a call that the
server made in this task and that nothing answered before.

    seen = Transcript()
    seen.asked(messages)              # those of a chat request, before the server has it
    seen.answered(tools, answer)      # the server's whole Answer, before the task has its end
    seen.steps, seen.called(), seen.results(), seen.tokens(), seen.turns("the task")
"""

import json
import threading
from dataclasses import dataclass, field

from kxl.chat import thoughts, tool_syntax

MOST_BYTES = 64 << 20  # of all requests of one task together
MOST_REQUESTS = 500
TOO_DEEP = "nested too deeply to be written"
MOST_TEXT = 100_000  # characters of one tool result that the report keeps; Hermes itself hands on about as many


@dataclass
class Step:
    """One answer of the server to a request with tools, and what its calls returned: {call id: (tool, text)}."""

    message: dict
    answer: "Answer"
    results: dict = field(default_factory=dict)


class Transcript:
    """See above. `net`: the safety net, inside, makes calls of what the server sends as text; they count as its own."""

    def __init__(self, net: bool = False):
        self.net = net
        self.steps_seen: list[Step] = []
        self._open: dict[str, Step] = {}  # call id: the step that made the call
        self._in_text: list[tuple[dict, Step]] = []  # calls that the server sent as text and nobody answered
        self._bytes = self._requests = 0
        self._closed = False
        self._lock = threading.Lock()

    def admit(self, size: int) -> bool:
        """Whether a request of `size` bytes may go on to the server; it is counted."""
        with self._lock:
            self._bytes, self._requests = self._bytes + size, self._requests + 1
            return self._bytes <= MOST_BYTES and self._requests <= MOST_REQUESTS and not self._closed

    def close(self) -> None:
        """Take no more: what is judged now does not change."""
        with self._lock:
            self._closed = True

    def asked(self, messages: list[dict]) -> None:
        """A chat request came: note the tool results in it."""
        with self._lock:
            if self._closed:
                return
            if self.net:
                self._adopt(messages)
            for message in reversed(messages):  # where a server uses an id again, its last result is the new one
                identity = message.get("tool_call_id")
                if message.get("role") == "tool" and isinstance(identity, str) and identity in self._open:
                    name = message.get("name") if isinstance(message.get("name"), str) else ""
                    self._open.pop(identity).results[identity] = name, _text(message.get("content"))

    def answered(self, tools: list[str], answer: "Answer") -> None:
        """The server answered a request with the tools of these names; its count of tokens may come later."""
        with self._lock:
            if self._closed or not tools:  # a title, a summary: no step of the task
                return
            step = Step(answer.message(), answer)
            self.steps_seen.append(step)
            for call in step.message["tool_calls"]:
                self._open[call["id"]] = step
            if self.net and not step.message["tool_calls"]:
                parsed = tool_syntax.parse(thoughts.split(step.message["content"]).visible, tools)
                self._in_text += [(call, step) for call in parsed.calls]

    def _adopt(self, messages: list[dict]) -> None:
        """Take a call in the history for the server's own where the server sent the same one as text."""
        if not self._in_text:
            return
        known = {identity for step in self.steps_seen for identity in step.results} | set(self._open)
        written: dict[str, list[int]] = {}
        taken: set[int] = set()
        for place, (call, _) in enumerate(self._in_text):
            written.setdefault(_key(call), []).append(place)
        for message in messages:
            for call in _list(message.get("tool_calls")):
                made = _call(call)
                if made is None or made["id"] in known:
                    continue
                # The first that is the same; looked up, since a task may send a hundred thousand calls.
                if not (same := written.get(_key(made))):
                    continue
                place = same.pop(0)
                step = self._in_text[place][1]
                taken.add(place)
                self._open[made["id"]] = step
                known.add(made["id"])
                step.message["tool_calls"].append(made)
        self._in_text = [one for place, one in enumerate(self._in_text) if place not in taken]

    @property
    def steps(self) -> int:
        """How often the server answered a request with tools."""
        return len(self.steps_seen)

    def called(self) -> list[str]:
        """The tools that the server called, in order."""
        return [call["name"] for step in self.steps_seen for call in step.message["tool_calls"]]

    def answer(self) -> str:
        """The model's last words: its visible text where it called nothing more; "" where it ended with a call."""
        last = self.steps_seen[-1].message if self.steps_seen else {"content": "", "tool_calls": []}
        return "" if last["tool_calls"] else last["content"]

    def results(self) -> list[str]:
        """What the tools returned, in the order of the calls."""
        return [text for step in self.steps_seen for _, text in _in_order(step)]

    def tokens(self) -> dict[str, int]:
        """Tokens by the server's own count: new input, input from its cache, output."""
        totals = {"input": 0, "cached": 0, "output": 0}
        for step in self.steps_seen:
            usage = step.answer.usage
            prompt, output = (_number(usage.get(f"{kind}_tokens")) for kind in ("prompt", "completion"))
            details = usage.get("prompt_tokens_details")
            cached = _number(details.get("cached_tokens")) if isinstance(details, dict) else 0
            totals["input"] += max(0, prompt - cached)
            totals["cached"] += cached
            totals["output"] += output
        return totals

    def turns(self, prompt: str) -> list[dict]:
        """The conversation as ShareGPT turns, written as Hermes writes its trajectories."""
        turns = [{"from": "human", "value": prompt}]
        for step in self.steps_seen:
            message = step.message
            blocks = [f"<think>\n{message['reasoning_content']}{chr(10) * bool(message['reasoning_content'])}</think>"]
            blocks += [message["content"]] * bool(message["content"])
            blocks += [
                "<tool_call>\n" + _written(name=call["name"], arguments=call["arguments"]) + "\n</tool_call>"
                for call in message["tool_calls"]
            ]
            turns.append({"from": "gpt", "value": "\n".join(blocks)})
            if step.results:
                answers = [
                    "<tool_response>\n"
                    + _written(tool_call_id=identity, name=name, content=_parsed(_cut(text)))
                    + "\n</tool_response>"
                    for identity, (name, text) in zip(_ids(step), _in_order(step))
                ]
                turns.append({"from": "tool", "value": "\n".join(answers)})
        return turns


class Answer:
    """A server's answer to a chat request, joined from its pieces: one JSON object, or a stream of events."""

    def __init__(self, stream: bool):
        self._stream, self._rest = stream, bytearray()
        self._content, self._reasoning, self._calls = "", "", {}
        self.finish: str | None = None  # the server's finish_reason: the message is whole
        self.usage: dict = {}

    def feed(self, piece: bytes) -> None:
        """The next bytes of the answer's body."""
        self._rest += piece
        if self._stream and b"\n" in piece:
            *lines, self._rest = self._rest.split(b"\n")
            for line in lines:
                if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
                    self._take(_json(line[5:]), "delta")

    def end(self) -> None:
        """The last piece is here."""
        if not self._stream:
            self._take(_json(bytes(self._rest)), "message")
        self._rest.clear()

    def _take(self, event, key: str) -> None:
        if not isinstance(event, dict):
            return
        self.usage = event["usage"] if isinstance(event.get("usage"), dict) else self.usage
        for choice in _list(event.get("choices"))[:1]:
            part = choice.get(key) if isinstance(choice, dict) else None
            if not isinstance(part, dict):
                continue
            self.finish = choice.get("finish_reason") or self.finish
            self._content += _text(part.get("content"))
            # llama-server's name for it, or mlx_lm.server's; some send both.
            self._reasoning += _text(part.get("reasoning_content") or part.get("reasoning"))
            for place, call in enumerate(_list(part.get("tool_calls"))):
                if isinstance(call, dict):
                    index = call["index"] if isinstance(call.get("index"), int) else place
                    kept = self._calls.setdefault(index, {"id": "", "name": "", "arguments": ""})
                    function = call.get("function") if isinstance(call.get("function"), dict) else {}
                    kept["id"] += _text(call.get("id"))
                    kept["name"] += _text(function.get("name"))
                    kept["arguments"] += _text(function.get("arguments"))

    def message(self) -> dict:
        """{"content", "reasoning_content", "tool_calls": [{"id", "name", "arguments"}]}; arguments parsed, if JSON."""
        calls = [{**call, "arguments": _parsed(call["arguments"])} for call in self._calls.values()]
        return {"content": self._content, "reasoning_content": self._reasoning, "tool_calls": calls}


def _cut(text: str) -> str:
    """A text as the report keeps it."""
    return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]}… and {len(text) - MOST_TEXT:,} characters more"


def _ids(step: Step) -> list[str]:
    """The ids of a step's answered calls, in the order of the calls."""
    return [call["id"] for call in step.message["tool_calls"] if call["id"] in step.results]


def _in_order(step: Step) -> list[tuple[str, str]]:
    return [step.results[identity] for identity in _ids(step)]


def _call(call) -> dict | None:
    """A call of a request's history as {"id", "name", "arguments"}; None where it is none."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(call.get("id"), str):
        return None
    return {"id": call["id"], "name": function.get("name"), "arguments": _parsed(_text(function.get("arguments")))}


def _key(call: dict) -> str:
    """The same for two calls with one name and the same arguments."""
    return json.dumps([call["name"], call["arguments"]], sort_keys=True)


def _written(**fields) -> str:
    """An object as JSON text. A value that could just be read may be nested one level too deep to be written."""
    try:
        return json.dumps(fields, ensure_ascii=False)
    except RecursionError:
        return json.dumps({name: value if isinstance(value, str) else TOO_DEEP for name, value in fields.items()})


def _text(content) -> str:
    """The text of a message's content: a string, or a list of parts."""
    if isinstance(content, list):
        return "".join(_text(part.get("text")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _list(value) -> list:
    return value if isinstance(value, list) else []


def _number(value) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _parsed(text: str):
    """The JSON value that `text` is; `text` itself where it is none."""
    value = _json(text.encode("utf-8", "surrogatepass"))
    return text if value is None else value


def _json(text: bytes):
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # a stranger wrote it
        return None
