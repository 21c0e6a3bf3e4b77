"""A short thought, written by rule, before each turn of a hand-made repair row.

    thoughts.by_rule(messages)      # the same messages, each assistant's with `reasoning_content`

What it says follows from the row alone: which tool is called and with what, that a result is there, or that no tool is
needed. A model that thinks goes on thinking when it is trained on such rows; how it thinks is better learned from its
own rows (kxl/repair/sampling.py).
"""

from kxl.chat import thoughts

LONGEST = 60  # characters of an argument that a thought names


def by_rule(messages: list[dict]) -> list[dict]:
    """The messages, with a thought in each assistant's turn that has none."""
    made, after_result = [], False
    for message in messages:
        if message["role"] == "assistant" and not message.get("reasoning_content"):
            message = {**message, "reasoning_content": _thought(message, after_result)}
        after_result = message["role"] == "tool" or (after_result and message["role"] != "user")
        made.append(message)
    return made


def _thought(message: dict, after_result: bool) -> str:
    calls = [call["function"] for call in message.get("tool_calls") or []]
    if not calls:
        return (
            "The result is here. I say what it shows." if after_result else "No tool is needed here. I answer in words."
        )
    named = "; ".join(_named(call) for call in calls)
    return f"The first step is done. Next: {named}." if after_result else f"This needs {named}."


def _named(call: dict) -> str:
    """A call's tool and its first short argument; an argument that could be taken for a mark is not named."""
    for name, value in sorted(call["arguments"].items()):
        text = str(value)
        if text and len(text) <= LONGEST and "\n" not in text and "<" not in text and thoughts.END not in text:
            return f"{call['name']}, {name} {text}"
    return call["name"]
