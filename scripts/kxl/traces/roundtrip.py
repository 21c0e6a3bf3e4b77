"""Whether a rendered assistant turn says what the structured message says, read back with our own parsers.

    problem = same_turn(message, text)      # None, or why not

`message` is the structured assistant message, `text` what the chat template makes of it, without the end of the
turn. kxl/traces/parsers.py asks the other parsers.
"""

import json

from kxl.chat import thoughts, tool_syntax
from kxl.chat.rows import calls_of
from kxl.traces import formats


def canonical(calls: list) -> str:
    """Calls as text that is equal when they are: key order does not count, 1 and 1.0 and true do."""
    return json.dumps([[call["name"], call["arguments"]] for call in calls], sort_keys=True, ensure_ascii=False)


def same_turn(message: dict, text: str, hermes: bool = False) -> str | None:
    """Why `text` does not say what `message` says, read by our parsers; None when it does.

    `hermes`: the template writes calls as <tool_call> JSON; elsewhere those marks are words.
    """
    thought, visible = thoughts.split_thought(text)
    if (thought or "") != message.get("reasoning_content", ""):
        return f"the thought became {(thought or '')[:120]!r}"
    if hermes and tool_syntax.CALL_START not in visible:
        try:
            content, calls, _ = formats.marked_calls(visible)
        except formats.Dropped as problem:
            return problem.detail
    else:
        parsed = tool_syntax.parse(visible)
        if parsed.errors:
            return parsed.errors[0]
        content, calls = parsed.content, parsed.calls
    if problem := difference(calls_of(message), calls):
        return problem
    return None if content.strip() == message["content"].strip() else f"the text became {content.strip()[:120]!r}"


def difference(calls: list, read: list) -> str | None:
    if canonical(calls) == canonical(read):
        return None
    for call, other in zip(calls, read):
        if canonical([call]) != canonical([other]):
            return f"{json.dumps(call, ensure_ascii=False)[:160]} became {json.dumps(other, ensure_ascii=False)[:160]}"
    return f"{len(calls)} calls became {len(read)}"
