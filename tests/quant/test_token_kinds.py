"""Each token of a rendered text is what a reader would call it: prompt, thought, call or answer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kxl.model import gguf_file
from kxl.quant import token_kinds
from kxl.quant.token_kinds import ANSWER, CALL, KINDS, PROMPT, THOUGHT
from kxl.setup import random_gguf

NATIVE = '<|tool_call_start|>[terminal(command="echo \'<think>é</think>\'"), read_file(path="a")]<|tool_call_end|>'
HERMES = '<tool_call>\n{"name": "terminal", "arguments": {"command": "ls <|im"}}\n</tool_call>'


def shown(text: str) -> list[tuple[str, str]]:
    """(kind, text) of each run of one kind."""
    kinds = token_kinds.of_bytes(text.encode())
    edges = [0, *(np.flatnonzero(np.diff(kinds)) + 1).tolist(), len(kinds)]
    return [(KINDS[kinds[a]], text.encode()[a:b].decode()) for a, b in zip(edges, edges[1:])]


def test_a_conversation_is_told_apart():
    text = (
        "<|startoftext|><|im_start|>system\nList of tools: []<|im_end|>\n"
        "<|im_start|>user\nwhat is here? <think>no</think>é<|im_end|>\n"
        f"<|im_start|>assistant\n<think>ls will do</think>{NATIVE}<|im_end|>\n"
        f"<|im_start|>tool\n{NATIVE}<|im_end|>\n"
        "<|im_start|>assistant\n<think>é: one file</think>One file, é.<|im_end|>\n"
    )
    assert [(kind, part) for kind, part in shown(text) if kind != "prompt"] == [
        ("thought", "<think>ls will do</think>"),
        ("call", f"{NATIVE}<|im_end|>"),
        ("thought", "<think>é: one file</think>"),
        ("answer", "One file, é.<|im_end|>"),
    ]
    assert "".join(part for _, part in shown(text)) == text


@pytest.mark.parametrize(
    "turn, parts",
    [
        (f"Saving.\n{HERMES}", [("answer", "Saving.\n"), ("call", HERMES)]),
        (f"{HERMES}\n{HERMES}", [("call", f"{HERMES}\n{HERMES}")]),
        (f"<think>{NATIVE}</think>Done.", [("thought", f"<think>{NATIVE}</think>"), ("answer", "Done.")]),
        ("<think>and so on", [("thought", "<think>and so on")]),
        ('<|tool_call_start|>[terminal(command="ec', [("call", '<|tool_call_start|>[terminal(command="ec')]),
        ("Write <tool_call> there.", [("answer", "Write <tool_call> there.")]),
    ],
)
@pytest.mark.parametrize("end", ["<|im_end|>", "<|im_start|>system\nnext", ""])
def test_a_turn_that_is_cut_off_keeps_its_kinds(turn, parts, end):
    made = shown("<|im_start|>assistant\n" + turn + end)[1:]
    if end == "<|im_end|>":
        parts = [*parts[:-1], (parts[-1][0], parts[-1][1] + end)]
    elif end:
        parts = [*parts, ("prompt", end)]
    assert made == parts


words = st.text(st.characters(codec="utf-8", exclude_characters="<>|`\"'“”‘’«»~"), max_size=12)
turns = st.tuples(st.none() | words, words, st.lists(st.sampled_from([NATIVE, HERMES]), max_size=2))


@given(st.lists(st.tuples(words, turns), min_size=1, max_size=3))
def test_every_byte_of_generated_conversations_is_what_it_was_made_as(conversation):
    made, expected = b"", []

    def add(text, kind):
        nonlocal made
        made += text.encode()
        expected.extend([kind] * len(text.encode()))

    for asked, (thought, said, calls) in conversation:
        add(f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n", PROMPT)
        if thought is not None:
            add(f"<think>{thought}</think>", THOUGHT)
        add(said, CALL if calls and not said.strip() else ANSWER)
        for call in calls:
            add(call, CALL)
        last = CALL if calls else ANSWER if said or thought is None else THOUGHT
        add("<|im_end|>", last)
        add("\n", PROMPT)
    assert token_kinds.of_bytes(made).tolist() == expected


def test_tokens_of_a_gguf_are_read_as_bytes_and_take_the_kind_of_their_first(tmp_path):
    pieces = token_kinds.pieces(gguf_file.open_reader(random_gguf.write(tmp_path / "model.gguf")))
    names = {piece: token for token, piece in enumerate(pieces)}
    assert pieces[:4] == [b"<|pad|>", b"<|startoftext|>", b"<|endoftext|>", b"<|im_start|>"]
    assert sorted(pieces[len(random_gguf.SPECIAL) : -1]) == [bytes([byte]) for byte in range(256)]
    text = [b"<|im_start|>", b"<|im_end|>", b"<|im_start|>", b"assistant\n", b"<think>", b"o", b"th</think>N", b"e"]
    vocabulary = [*pieces, b"assistant\n", b"<think>", b"th</think>N"]
    names = {piece: token for token, piece in enumerate(vocabulary)}
    kinds = token_kinds.of(np.array([names[piece] for piece in text]), vocabulary)
    assert kinds.tolist() == [PROMPT] * 4 + [THOUGHT] * 3 + [ANSWER]
