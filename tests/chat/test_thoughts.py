"""A thought is told from what a user sees, whatever it names; nothing of it is ever shown, and no call is cut."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kxl.chat import thoughts
from kxl.chat.thoughts import split, split_thought

CALL = '<|tool_call_start|>[write_file(path="a", content="Put <think>a plan</think> first </think>")]<|tool_call_end|>'
HERMES = (
    '<tool_call>\n{"name": "write_file", "arguments": {"content": "<think>x</think> it\'s </think>"}}\n</tool_call>'
)
PYTHON = "<tool_call>\n{'name': 'write_file', 'arguments': {'content': '</think>'}}\n</tool_call>"


@pytest.mark.parametrize("text, thought, visible", [
    ("Two files.", None, "Two files."),
    ("", None, ""),
    ("<think>ls will do</think>Two files.", "ls will do", "Two files."),
    ("\n <think>\nhm\n</think>\n\nTwo.", "\nhm\n", "\n\nTwo."),
    ("<think></think>Two.", "", "Two."),
    (f"<think>I write it.</think>{CALL}", "I write it.", CALL),
    # A call is data.
    (CALL, None, CALL),
    (HERMES, None, HERMES),
    (PYTHON, None, PYTHON),
    (f"Saving.\n{HERMES}", None, f"Saving.\n{HERMES}"),
    (f"<think>hm</think>{HERMES}", "hm", HERMES),
    (f"<think>perhaps {CALL}, no: {HERMES}</think>Hello.", f"perhaps {CALL}, no: {HERMES}", "Hello."),
    ("<think>the mark <|tool_call_start|> and <tool_call> begin one</think>" + CALL,
     "the mark <|tool_call_start|> and <tool_call> begin one", CALL),
    # A lone end mark closes what the template opened.
    ("So ls it is.\n</think>\n\nOne file.", "So ls it is.\n", "\n\nOne file."),
    ("So ls it is.</think>" + CALL, "So ls it is.", CALL),
    ("</think>One file.", "", "One file."),
    # Further on, marks are words.
    ("Put <think>a plan</think> first.", None, "Put <think>a plan</think> first."),
    ("Write `</think>` at the end.", None, "Write `</think>` at the end."),
    ('It is "</think>", no more.', None, 'It is "</think>", no more.'),
    ("Like this:\n```\nplan\n</think>\nanswer\n```\n", None, "Like this:\n```\nplan\n</think>\nanswer\n```\n"),
    ("<think>hm</think>Put <think>a plan</think> first.", "hm", "Put <think>a plan</think> first."),
    ("<think>\nhm\n</think>\nThe tag </think> closes it.", "\nhm\n", "\nThe tag </think> closes it."),
    # A thought may name its marks.
    ("<think>\nThe tag </think> closes it.\n</think>\nA tag does.", "\nThe tag </think> closes it.\n", "\nA tag does."),
    ("<think>`</think>` closes it.</think>A tag does.", "`</think>` closes it.", "A tag does."),
    ("<think>the tag </think> closes it.</think>A tag does.", "the tag </think> closes it.", "A tag does."),
    ("<think>first <think>, then </think>, so</think>Yes.", "first <think>, then </think>, so", "Yes."),
    ("<think>it opens with <think>, I say</think>Yes.", "it opens with <think>, I say", "Yes."),
    ('<think>She said "hi"</think>"Hi" to you.', 'She said "hi"', '"Hi" to you.'),
    # Two thoughts at the head are one.
    ("<think>a</think>\n<think>b</think>Yes.", "a\nb", "Yes."),
    # Nothing behind the thought, or no end of it.
    ("<think>I should explain.</think>", "I should explain.", ""),
    ("<think>and so on", "and so on", ""),
    (f"<think>perhaps {CALL}", f"perhaps {CALL}", ""),
    (f"<think>perhaps {HERMES}", f"perhaps {HERMES}", ""),
])  # fmt: skip
def test_a_turn_is_taken_apart_where_a_reader_would(text, thought, visible):
    assert split_thought(text) == (thought, visible)


def test_a_template_that_opened_the_thought_is_believed():
    assert split_thought("So ls.</think>Two.", opened=True) == ("So ls.", "Two.")
    assert split_thought("So ls, and then", opened=True) == ("So ls, and then", "")
    assert split_thought("<think>So ls.</think>Two.", opened=True) == ("So ls.", "Two.")
    assert split_thought("use <think>x</think> here</think>Two.", opened=True) == ("use <think>x</think> here", "Two.")


def test_a_thought_without_an_end_is_told_from_one_with_nothing_behind_it():
    assert not split("<think>and so on").ended and split("<think>done</think>").ended and split("plain").ended


@pytest.mark.parametrize("text, clear", [
    ("<think>hm</think>Yes.", True),
    ("<think>\nThe tag </think> closes it.\n</think>\nA tag does.", True),
    ("<think>the tag </think> closes it.</think>A tag does.", False),
    ("<think>hm</think>The tag </think> closes it.", False),
    ("The tag </think> closes it.", False),
    ("So ls.\n</think>\nTwo.", True),
    ("So ls.</think>Two.", True),
])  # fmt: skip
def test_what_can_be_read_in_two_ways_says_so(text, clear):
    assert split(text).clear is clear


def test_marks_that_are_words_are_told_from_marks_in_the_open():
    assert thoughts.marks_outside(f"Write `</think>` or\n```\n<think>\n```\n{CALL}{HERMES}") == []
    assert thoughts.marks_outside("Well. <think>hm</think> Yes.") == ["<think>", "</think>"]


pieces = st.lists(st.sampled_from(
    ["<think>", "</think>", "\n", " ", "a", "`", '"', "'", "```", CALL, HERMES, "<tool_call>", "</tool_call>",
     "<|tool_call_start|>[f(", "<|tool_call_end|>", "\\", "{", "é"]), max_size=14).map("".join)  # fmt: skip


@given(pieces, st.booleans())
def test_no_character_is_lost_and_nothing_raises(text, opened):
    turn = split(text, opened)
    assert text.endswith(turn.visible)
    if turn.thought is None:
        assert turn.visible == text
    else:
        kept = (turn.thought + turn.visible).replace(thoughts.START, "").replace(thoughts.END, "")
        assert "".join(kept.split()) == "".join(text.replace(thoughts.START, "").replace(thoughts.END, "").split())


plain = st.text(st.characters(exclude_characters="<>`\"'“‘«")).filter(lambda text: not text.startswith(" "))


@given(plain, plain, st.sampled_from(["", CALL, HERMES]))
def test_a_plain_thought_before_anything_comes_back_exactly(thought, said, call):
    assert split(f"<think>{thought}</think>{said}{call}") == (thought, said + call, True, True)


def test_thousands_of_marks_take_no_minutes():
    began = time.monotonic()
    for text in ("<think>" * 50_000, "</think>" * 5_000, "<tool_call>{" * 5_000, "`" * 50_000, "<think></think>" * 500):
        split(text + "</think>")
    assert time.monotonic() - began < 20


def test_the_file_runs_without_the_house():
    path = Path(thoughts.__file__)
    code = f"import runpy; m = runpy.run_path({str(path)!r}); print(m['split_thought']('<think>a</think>b'))"
    made = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, cwd="/")
    assert made.stdout.strip() == "('a', 'b')", made.stderr


def test_calls_of_real_traces_are_seen_as_calls():
    text = json.dumps({"name": "f", "arguments": {"x": "</tool_call> </think>"}})
    assert split_thought(f"<tool_call>{text}</tool_call>")[0] is None
