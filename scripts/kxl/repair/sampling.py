"""Rejection sampling: fresh requests of the kind that failed, and which of a model's own answers may train it.

    prompt = sampling.draw(rng, failure, contexts)      # None where nobody could tell a right answer
    why = sampling.refused(prompt, parsed, raw, chat)   # None: the answer is right, thought and all
    row = sampling.row(prompt, parsed, raw)             # it, as a repair row

An answer is right when the suites' own judge says so, of the answer as parsed and of the model's own tokens; when
nothing of it had to be mended; when it is no refusal; and when it can be trained exactly as it was written. After a
tool's result it also has to name what the hand-made answer names of that result.
"""

import json
import random
import re
from dataclasses import dataclass

from kxl.base.cli import UserError
from kxl.base.files import shown
from kxl.chat import hermes_tools, loss_mask
from kxl.chat import thoughts as chat_thoughts
from kxl.eval import contamination, verdicts
from kxl.eval.suites import Suite
from kxl.eval.verdicts import Answer
from kxl.repair import rows as repair_rows
from kxl.repair import thoughts
from kxl.traces.filters import REFUSAL

WORD = re.compile(r"[\w./:-]*\w")
MAX_TOKENS = 256  # of an answer, beside its thought, as the suites have it


@dataclass(frozen=True)
class Prompt:
    """A fresh request. messages: up to the answer, system message in front. tools: Hermes's names, or schemas.
    suite, case: for the judge. answers: the failed case it is of, SUITE/ID."""

    messages: list
    tools: list
    suite: Suite
    case: dict
    answers: str


def draw(
    rng: random.Random, failure: dict, contexts: list, prompts: contamination.Prompts, by_rule: bool = False
) -> Prompt | None:
    """A fresh request of the kind that `failure` (diagnosis.failures) is of.

    None for one that repeats an eval prompt, or to which no right answer can be told from a wrong one. by_rule: turns
    that stand before the answer get a thought (thoughts.by_rule).
    """
    drawn = repair_rows.draw_in_turn(rng, "focus", failure)[0]
    if prompts.of_row(drawn["messages"]):
        return None
    if "tools" not in drawn:
        repair_rows.put_in_context(rng, contexts, drawn)
    *before, last = drawn["messages"]
    before = thoughts.by_rule(before) if by_rule else before
    case: dict = {"id": "sampled", "category": "sampled", "kind": "no_tool", "messages": _wire(before)}
    if calls := last.get("tool_calls"):
        expected = [call["function"] for call in calls]
        case["kind"] = "tool_call"
        case["calls"] = [
            {"name": call["name"], "arguments": {k: {"exact": v} for k, v in call["arguments"].items()}}
            for call in expected
        ]
    elif before[-1]["role"] == "tool":
        if not (facts := _facts(before, last["content"])):
            return None
        case |= {"kind": "finalization", "answer": {"contains": facts}}
    tools = hermes_tools.load(drawn["tools"]) if "offer" not in failure else drawn["tools"]
    suite = Suite("sampled", tools, MAX_TOKENS, [case])
    return Prompt(before, drawn["tools"], suite, case, f"{failure['suite']}/{failure['id']}")


def _wire(messages: list) -> list[dict]:
    """Messages as requests have them: a call's arguments are JSON text."""
    sent = []
    for message in messages:
        if calls := message.get("tool_calls"):
            functions = [
                {**call["function"], "arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False)}
                for call in calls
            ]
            message = {**message, "tool_calls": [{"type": "function", "function": one} for one in functions]}
        sent.append(message)
    return sent


def _facts(before: list, answer: str) -> list[str]:
    """What the hand-made answer takes out of the tool's results: words that stand there and not in the request."""
    results = {word for message in before if message["role"] == "tool" for word in WORD.findall(message["content"])}
    asked = {word.casefold() for message in before if message["role"] == "user" for word in _words(message)}
    found = [word for word in WORD.findall(answer) if word in results and word.casefold() not in asked]
    return list(dict.fromkeys(word for word in found if len(word) > 3 or word.isdigit()))


def _words(message: dict) -> list[str]:
    return WORD.findall(message["content"] or "")


def refused(prompt: Prompt, parsed: Answer, raw: Answer | None, chat: loss_mask.Chat) -> str | None:
    """Why an answer may not be trained on; None when it may. UserError where the template cannot write its thought."""
    for answer in filter(None, (parsed, raw)):
        if why := verdicts.judge(prompt.suite, prompt.case, answer):
            return why[0]
    if parsed.notes:
        return f"mended: {parsed.notes[0]}"
    if REFUSAL.match(parsed.content.lstrip()):
        return "a refusal"
    made = row(prompt, parsed, raw)
    if made["messages"][-1].get("reasoning_content") and not chat_thoughts.writes_thoughts(chat.template):
        raise UserError(
            f"{shown(chat.folder)}: the model thinks and its chat template writes no thoughts; take one that does "
            "(configs/templates/lfm2.5-tools.jinja)"
        )
    written = json.dumps(made["messages"][-1], ensure_ascii=False)
    if mark := next((mark for mark in (*chat.control_tokens, chat_thoughts.END) if mark in written), None):
        return f"its words hold {mark}"
    try:
        loss_mask.sequences(chat, {**made, "tools": prompt.suite.tools})
    except loss_mask.MaskError as error:
        return f"cannot be trained: {error}"
    return None


def row(prompt: Prompt, parsed: Answer, raw: Answer | None) -> dict:
    """The answer as a repair row: its thought as the model wrote it, where its own tokens are known."""
    said = raw or parsed
    message: dict = {"role": "assistant", "content": said.content}
    if said.thought:
        message["reasoning_content"] = said.thought
    if parsed.calls:
        message["tool_calls"] = [{"type": "function", "function": call} for call in parsed.calls]
    return {
        "messages": [*prompt.messages, message],
        "tools": prompt.tools,
        "purpose": "sampled",
        "answers": prompt.answers,
    }
