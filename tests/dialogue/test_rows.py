"""The rows that the tiny model learns from: hand-written wordings, valid calls, copied arguments, short thoughts."""

import json
import random

import jsonschema
import pytest

from kxl.base.cli import UserError
from kxl.chat import hermes_tools
from kxl.dialogue import wordings
from kxl.dialogue.contexts import CONTEXTS, draw_context
from kxl.dialogue.dialogues import KINDS, Dialogue
from kxl.dialogue.slots import Slots
from kxl.dialogue.thoughts import short
from kxl.tiny.words import is_heldout

# Arguments that a request names in other words than the call.
CHOSEN = {"mode", "target", "action", "output_mode", "background", "replace_all"}
PIECES = (["foo", "bar", "quick"], ["baz"])


def drawn(heldout: bool, count: int = 30):
    """(context, row) pairs of every kind of row and context."""
    rng = random.Random(f"rows {heldout}")
    for i in range(count):
        context = draw_context(rng, CONTEXTS[i % len(CONTEXTS)], 400)
        dialogue = Dialogue(rng, context, heldout, None if heldout else PIECES)
        for _ in range(12):
            yield context, dialogue.row(dict.fromkeys(KINDS, 1.0))


@pytest.mark.parametrize("name", wordings.FILES)
def test_a_file_of_wordings_is_well_formed(name):
    assert wordings.load(name)


@pytest.mark.parametrize(
    "files",
    [
        ("terminal_command", "terminal_purpose"), ("read_file_plain", "read_file_part"),
        ("search_content", "search_files"), ("write_file",), ("browser_navigate",), ("patch",),
        ("process_list", "process_one", "process_input"), ("chat",), ("asking",), ("refusing",), ("followups",),
        ("joints",), ("joints", "pairs"),
    ],
)  # fmt: skip
def test_each_tool_and_kind_has_300_distinct_wordings_to_learn_from(files):
    requests = {form.texts[0] for name in files for held in (False, True) for form in wordings.forms(name, held)}
    assert len(requests) >= 300


def test_wordings_for_validation_are_one_in_ten_and_none_that_training_sees():
    for name in ("chat", "asking", "refusing", "terminal_purpose", "search_content"):
        seen, held = ({form.texts[0] for form in wordings.forms(name, heldout)} for heldout in (False, True))
        assert not seen & held
        assert 0.05 < len(held) / len(seen | held) < 0.16


def test_no_wording_that_is_drawn_repeats_an_eval_prompt():
    for name in wordings.FILES:
        for held in (False, True):
            if any(wordings.is_heldout(name, form) == held for form in wordings.load(name)):
                assert not any(wordings.near_eval(form) for form in wordings.forms(name, held))


def test_a_wording_with_an_unknown_slot_is_refused_with_its_line(tmp_path, monkeypatch):
    monkeypatch.setattr(wordings, "FOLDER", tmp_path)
    (tmp_path / "patch.txt").write_text("replace {old} by {new} in {path}\nin {file}, {old} to {new}\n")
    wordings.load.cache_clear()
    with pytest.raises(UserError, match="line 2.*file is no slot"):
        wordings.load("patch")
    wordings.load.cache_clear()


@pytest.mark.parametrize("heldout", [False, True])
def test_calls_are_valid_by_hermes_schemas_and_name_tools_on_offer(heldout):
    for context, row in drawn(heldout):
        own = {t["function"]["name"]: t["function"]["parameters"] for t in hermes_tools.load()}
        offered = {t["function"]["name"]: t["function"].get("parameters") for t in context.tools}
        # A list of names alone: what a tool takes is what Hermes's own of that name does.
        listed = {shown: own[name] for name, shown in context.names.items()}
        schemas = {name: taken or listed.get(name) for name, taken in offered.items()} or own
        for message in row["messages"]:
            for call in message.get("tool_calls", ()):
                jsonschema.validate(call["function"]["arguments"], schemas[call["function"]["name"]])


def test_arguments_stand_in_the_request_or_in_results():
    for _, row in drawn(False):
        seen = ""
        for message in row["messages"]:
            for call in message.get("tool_calls", ()):
                arguments = call["function"]["arguments"]
                for name, value in arguments.items():
                    if name not in CHOSEN and name != "command":  # a command may follow from its purpose
                        worded = [str(value), str(value).removeprefix("https://")]
                        if name in ("pattern", "file_glob"):  # "all .svg files"
                            worded.append(str(value).removeprefix("*"))
                        if name == "limit":  # "lines 3 to 9", or one line
                            worded.append(str(arguments.get("offset", 1) + value - 1))
                        assert any(words in seen for words in worded), (row["kind"], name, seen)
                    seen += f" {value}"
            seen += message["content"]
            if message["role"] == "tool":
                seen += str(json.loads(message["content"]))


def test_each_answer_and_call_has_a_thought_of_about_40_tokens_at_most():
    thoughts = [
        (message["reasoning_content"], context.offered())
        for heldout in (False, True)
        for context, row in drawn(heldout)
        for message in row["messages"]
        if message["role"] == "assistant"
    ]
    assert thoughts and all(short(thought, names) for thought, names in thoughts)
    assert max(len(thought) for thought, names in thoughts if not any(name in thought for name in names)) <= 150


def test_the_same_seed_draws_the_same_rows_and_training_rows_hold_no_held_out_pieces():
    first, second = ([row for _, row in drawn(False, 7)] for _ in range(2))
    assert first == second
    rng = random.Random(1)
    slots = Slots(rng, False, PIECES, 1.0)
    assert not any(is_heldout(slots.piece()) for _ in range(200))


def test_after_an_error_a_second_way_is_taken_once_and_only_where_the_user_or_the_tool_names_one():
    rng = random.Random(5)
    dialogue = Dialogue(rng, draw_context(rng, "fixed"))
    for kind in ("error", "retry", "fallback"):
        for _ in range(25):
            messages = dialogue.row({kind: 1.0})["messages"]
            calls = [m for m in messages if m.get("tool_calls")]
            results = [m["content"] for m in messages if m["role"] == "tool"]
            # The second way may find nothing; then that is the answer.
            assert not any(_is_error(result, nothing_found=False) for result in results[1:])
            assert len(calls) == 1 + (kind != "error" and _is_error(results[0]))


def _is_error(result: str, nothing_found: bool = True) -> bool:
    held = json.loads(result)
    return bool(held.get("error") or held.get("exit_code") or (nothing_found and held.get("total_count") == 0))
