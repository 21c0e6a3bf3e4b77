"""What each token of a rendered text is: prompt, thought, call or answer.

    pieces = token_kinds.pieces(gguf_file.open_reader(path))        # the bytes of each token of the vocabulary
    kinds = token_kinds.of(tokens, pieces)                          # uint8 [N], places in KINDS
    kinds == token_kinds.CALL                                       # bool [N]

prompt   what the model is given: system, user and tool messages, and the head of each assistant turn
thought  from <think> to </think>, both included (kxl/chat/thoughts.py tells where it ends)
call     a call block, LFM2's or Hermes's, its marks included
answer   the other words of an assistant turn

The token that ends a turn is of the kind of what it ends. White space alone beside a call belongs to the call. A
token that reaches over an edge is of the kind of its first byte. Turns are ChatML's, as LFM2, LFM2.5 and SmolLM write
them; a text without such turns is all prompt.
"""

import functools
import re

import numpy as np

from kxl.chat import thoughts

KINDS = ("prompt", "thought", "call", "answer")
PROMPT, THOUGHT, CALL, ANSWER = range(len(KINDS))
BEGIN, END = "<|im_start|>", "<|im_end|>"
# A turn that is cut, as at the end of a session, ends where the next begins.
TURN = re.compile(rf"{re.escape(BEGIN)}assistant\n(.*?)({re.escape(END)}|(?={re.escape(BEGIN)})|\Z)", re.DOTALL)
CALL_START = re.compile(r"<\|tool_call_start\|>|<tool_call>\s*\{")


def of(tokens: np.ndarray, pieces: list[bytes]) -> np.ndarray:
    """Kinds uint8 [N] of tokens int [N], with the bytes of each token of the vocabulary."""
    parts = [pieces[token] for token in tokens.tolist()]
    lengths = np.array([len(part) for part in parts], np.int64)
    kinds = of_bytes(b"".join(parts))
    starts = np.cumsum(lengths) - lengths
    if not len(kinds):
        return np.zeros(len(parts), np.uint8)
    return kinds[np.minimum(starts, len(kinds) - 1)]


def of_bytes(raw: bytes) -> np.ndarray:
    """The kind of each byte of a rendered UTF-8 text, uint8 [bytes]. A text may begin or end within a character."""
    text = raw.decode("utf-8", errors="surrogateescape")
    kinds = np.full(len(text), PROMPT, np.uint8)
    for turn in TURN.finditer(text):
        start, end = turn.span(1)
        for begin, stop, kind in spans(turn[1]):
            kinds[start + begin : start + stop] = kind
        kinds[end : turn.end()] = kinds[end - 1] if end > start else ANSWER
    if len(text) == len(raw):
        return kinds
    widths = [len(character.encode("utf-8", errors="surrogateescape")) for character in text]
    return np.repeat(kinds, widths)


def spans(turn: str) -> list[tuple[int, int, int]]:
    """(start, end, kind) of the parts of one assistant turn, without its end mark; they cover it without a gap."""
    visible = len(turn) - len(thoughts.split(turn).visible)
    calls = [(visible + start, visible + end) for start, end in thoughts.call_spans(turn[visible:])]
    behind = calls[-1][1] if calls else visible
    if cut := CALL_START.search(turn, behind):  # a block that is broken or cut off
        calls.append((cut.start(), len(turn)))
    parts, place = [(0, visible, THOUGHT)] if visible else [], visible
    for start, end in [*calls, (len(turn), len(turn))]:
        if start > place:
            blank = not turn[place:start].strip() and calls
            parts.append((place, start, CALL if blank else ANSWER))
        if end > start:
            parts.append((start, end, CALL))
        place = end
    return parts


def pieces(reader) -> list[bytes]:
    """The bytes of each token of a GGUF's byte-level vocabulary. `reader` is a gguf.GGUFReader."""
    texts = reader.get_field("tokenizer.ggml.tokens").contents()
    types = reader.get_field("tokenizer.ggml.token_type").contents()
    to_byte = _byte_of_character()
    # 1 is an ordinary token, written in the letters that stand for bytes; the others are written as they read.
    return [
        bytes(to_byte[letter] for letter in text)
        if kind == 1 and all(letter in to_byte for letter in text)
        else text.encode()
        for text, kind in zip(texts, types)
    ]


@functools.lru_cache
def _byte_of_character() -> dict[str, int]:
    """The letters that GPT-2's byte-level vocabulary writes for bytes, back to their bytes."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {letter: byte for byte, letter in bytes_to_unicode().items()}
