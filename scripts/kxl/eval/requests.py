"""The words of a request, as two of them are compared. Needs the standard library alone, as training does."""

import re


def same_words(text: str) -> str:
    """What two requests have in common when a reader calls them the same: their words, without case and punctuation."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def text_of(message: dict) -> str:
    """A message's text; one of parts counts by its text parts."""
    content = message.get("content") or ""
    return "".join(part.get("text", "") for part in content) if isinstance(content, list) else content


def requests_of(messages: list) -> list[str]:
    """The words of each user message."""
    return [same_words(text_of(message)) for message in messages if message["role"] == "user"]
