"""No wording decides alone: what is refused or asked back is called elsewhere, and the list of tools tells which."""

import fnmatch
import json
import random
import re

import pytest

from conftest import ROOT
from kxl.chat import loss_mask
from kxl.dialogue import calls as dialogue_calls
from kxl.dialogue import chats, fill, wordings
from kxl.dialogue.calls import Calls
from kxl.dialogue.contexts import TOOLS, draw_context
from kxl.dialogue.dialogues import Dialogue
from kxl.dialogue.feed import Encoder
from kxl.dialogue.messages import assistant, tool, user

TOOL_OF = {"no_browser": "browser_navigate", "no_terminal": "terminal", "no_files_read": "read_file"}


def dialogues(kind: str, count: int, seed: str = "", lacks: bool = False):
    """Dialogues in drawn contexts of a kind; with `lacks` only such that lack a tool."""
    rng = random.Random(f"contrasts {kind} {seed}")
    while count:
        context = draw_context(rng, kind)
        if lacks and (len(context.names) == len(TOOLS) or "terminal" in context.names):
            continue
        count -= 1
        yield Dialogue(rng, context, False, None, 0.3)


@pytest.fixture
def drawn(monkeypatch):
    """What Calls.single drew: {request: (tool, call)}."""
    seen, single = {}, Calls.single

    def spy(self, tool):
        made = single(self, tool)
        seen[made[0]] = tool, made[1]
        return made

    monkeypatch.setattr(Calls, "single", spy)
    return seen


@pytest.mark.parametrize("kind", ["compact", "surface"])
def test_a_request_for_a_missing_tool_is_drawn_as_one_for_a_call_and_that_tool_is_not_on_the_list(drawn, kind):
    refused = set()
    for dialogue in dialogues(kind, 60, lacks=True):
        for _ in range(4):
            if row := dialogue.row_missing():
                wanted, call = drawn[row[0]["content"]]
                refused.add(wanted)
                assert wanted not in dialogue.able and wanted not in dialogue.context.offered()
                assert "tool_calls" not in row[-1] and row[-1]["content"]
                if wanted == "terminal":
                    assert not dialogue.otherwise(call["arguments"]["command"])
    assert refused >= {"browser_navigate", "terminal", "process", "read_file", "write_file", "search_files"}


def test_calls_draw_from_the_same_requests(drawn):
    made = [dialogue.row_call() for dialogue in dialogues("fixed", 60)]
    assert {row[0]["content"] for row in made} <= drawn.keys()
    assert {drawn[row[0]["content"]][0] for row in made} >= {"terminal", "read_file", "search_files", "write_file"}


def test_what_is_refused_without_a_tool_is_called_with_it(monkeypatch):
    monkeypatch.setattr(dialogue_calls, "AS_REFUSED", 1.0)
    dialogue = next(dialogues("fixed", 1))
    for kind, name in TOOL_OF.items():
        forms = {form.texts[0] for form in wordings.forms("refusing", False, kind)}
        whole = [re.compile(re.sub(r"\\\{\w+\\\}", "(.+)", re.escape(form)), re.DOTALL) for form in forms]
        called = refused = 0
        dialogue.rough = 0
        for _ in range(80):
            text, call, _ = dialogue.single(name)
            assert call["name"] == name
            called += any(pattern.search(text) for pattern in whole)
        bare = Dialogue(random.Random(kind), draw_context(random.Random(1), "bare"), rough=0)
        bare.context.tools = [{"function": {"name": "process"}}]
        bare.able = ["process"]
        for _ in range(120):
            row = bare.row_refusing()
            refused += bool(row) and any(pattern.search(row[0]["content"]) for pattern in whole)
        assert called >= 20 and refused >= 5, kind


@pytest.mark.parametrize("kind", ["call", "refusing", "missing"])
@pytest.mark.parametrize("context", ["names", "compact"])
def test_a_thought_that_looks_for_its_tool_says_listed_where_it_is_and_missing_where_not(kind, context):
    seen = 0
    for dialogue in dialogues(context, 60, kind, lacks=kind == "missing"):
        row = getattr(dialogue, f"row_{kind}")()
        if row and (found := re.match(r"I need (\S+): (listed|missing)\.", row[-1]["reasoning_content"])):
            seen += 1
            calls = [call["function"]["name"] for call in row[-1].get("tool_calls", ())]
            assert calls == [found[1]] * (kind == "call")
            assert (found[2] == "listed") == (found[1] in dialogue.context.offered()) == bool(calls)
    assert seen >= (2 if kind == "refusing" else 15)


def test_what_is_left_vague_is_asked_for_and_stands_nowhere_in_the_request():
    asked = {}
    for dialogue in dialogues("fixed", 40):
        for name in TOOLS:
            for _ in range(4):
                if row := dialogue.vague(name):
                    assert "tool_calls" not in row[-1] and row[-1]["content"].rstrip().endswith(("?", "."))
                    asked.setdefault(name, set()).add(row[0]["content"])
    assert asked.keys() == set(TOOLS) and min(map(len, asked.values())) > 20


@pytest.mark.parametrize("name", TOOLS)
def test_hundreds_of_requests_can_be_left_vague(name):
    usable = [
        (form.texts[0], slot)
        for file, slot in chats.VAGUE[name]
        for held in (False, True)
        for form in wordings.forms(file, held)
        if form.texts[0].count(f"{{{slot}}}") == 1
        and not re.search(chats.UNFIT.format(slot=slot), form.texts[0], re.IGNORECASE)
    ]
    # Each with a dozen vague words; a slot of a process stands behind a word such as "session" most of the time.
    assert len(usable) >= (60 if name == "process" else 120)


def test_a_vague_word_never_follows_the_word_for_its_thing():
    for dialogue in dialogues("fixed", 20):
        for name in ("read_file", "browser_navigate", "process"):
            if row := dialogue.vague(name):
                text = row[0]["content"].lower()
                assert not re.search(r"\b(file (that|the) file|page (that|the) page|session that process)\b", text)


def test_a_request_that_only_talks_about_a_command_file_or_address_is_answered_in_words():
    named = 0
    for dialogue in dialogues("fixed", 80):
        row = dialogue.about()
        assert (
            len(row) == 2 and "tool_calls" not in row[1] and "{" not in re.sub(r"\{\}", "", row[1]["reasoning_content"])
        )
        named += bool(re.search(r"https?://|/|\.\w+|--|\bgit\b", row[0]["content"]))
    assert named > 30


def test_no_word_that_turns_a_request_around_is_dropped_or_replaced():
    form = "please do not run {command} before you see {path} first and then go on without me or with them"
    made = [fill._roughen(random.Random(seed), form).lower().split() for seed in range(400)]
    assert all({"not", "and", "or"} <= set(words) for words in made)  # slips of the pen are in longer words
    assert any("go" not in words for words in made) and any("me" not in words for words in made)


def test_a_search_finds_what_its_arguments_allow():
    dialogue, seen = next(dialogues("fixed", 1)), set()
    for _ in range(500):
        _, call, _ = dialogue.search()
        args, held = call["arguments"], json.loads(dialogue.found(call["arguments"])[0])
        found = (
            [match["path"] for match in held.get("matches", [])] + list(held.get("counts", {})) + held.get("files", [])
        )
        where = args.get("path", "").rstrip("/")
        assert all(path == where or path.startswith(f"{where}/") for path in found if where), (args, found)
        if "file_glob" in args:
            assert all(fnmatch.fnmatchcase(path, "*" + args["file_glob"].replace("**/", "")) for path in found)
        if args.get("target") == "files":
            pattern = "*" + args["pattern"].replace("**/", "")
            assert all(fnmatch.fnmatchcase(path, pattern) for path in found), (pattern, found)
        seen |= set(args)
    assert {"path", "file_glob", "context", "output_mode", "target"} <= seen


def test_words_give_way_to_others_of_their_sense_and_slots_stay():
    groups = [form.texts[0].split() for form in wordings.load("synonyms")]
    words = [word for group in groups for word in group]
    assert len(words) == len(set(words)) and min(map(len, groups)) > 1
    made = {fill._reword(random.Random(seed), "show the {path} file, file{url} now") for seed in range(40)}
    assert {"display the {path} document, file{url} immediately", "show the {path} file, file{url} now"} <= made
    assert all(text.count("{path}") == text.count("{url}") == 1 for text in made)


MARKED = re.compile(
    r"same time|parallel|at once|simult|independ|concurr|unrelated|batch|order|together|alongside|meanwhile|wait|turn|"
    r"one go|side by side|each on its own|while", re.IGNORECASE
)  # fmt: skip


def test_parallel_requests_mostly_do_not_say_that_they_are():
    plain = made = 0
    for dialogue in dialogues("fixed", 240):
        if row := dialogue.row_parallel():
            calls = [call["function"] for call in row[-1]["tool_calls"]]
            made += 1
            plain += not MARKED.search(row[0]["content"])
            assert 2 <= len(calls) <= 3 and len({json.dumps(call) for call in calls}) == len(calls)
            for call in calls:
                for name, value in call["arguments"].items():
                    if name not in ("target", "mode", "action"):
                        text = row[0]["content"]
                        assert str(value) in text or str(value).removeprefix("https://") in text, (call, text)
    assert made > 150 and plain / made > 0.5


def test_lines_from_here_to_there_are_counted_with_both():
    dialogue, ranges = next(dialogues("fixed", 1)), 0
    for _ in range(600):
        text, call, thought = dialogue.read()
        numbers = [int(number) for number in re.findall(r"(?<![\w.-])\d+(?![\w.])", text)]
        args = call["arguments"]
        if {"offset", "limit"} <= args.keys() and args["limit"] > 1 and args["limit"] not in numbers:
            ranges += 1
            assert {args["offset"], args["offset"] + args["limit"] - 1} <= {
                int(number) for number in re.findall(r"\d+", text)
            }
    assert ranges > 20


def test_a_second_request_may_point_back_at_what_the_first_named():
    pointed = 0
    for dialogue in dialogues("fixed", 150):
        earlier = dialogue.row_final()
        if earlier and (later := dialogue.again(earlier)):
            pointed += 1
            (call,) = [call["function"] for call in later[-1]["tool_calls"]]
            slot = "url" if "url" in call["arguments"] else "path"
            assert call["arguments"][slot] == earlier[1]["tool_calls"][0]["function"]["arguments"][slot]
            assert call["arguments"][slot] not in later[0]["content"]
    assert pointed > 15


def test_a_history_without_thoughts_is_what_an_agent_sends_that_keeps_none(tmp_path):
    tokenizer = loss_mask.load(ROOT / "models/tiny").tokenizer
    tokenizer.add_special_tokens(["<think>", "</think>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    encoder, call = Encoder(tmp_path / "tokenizer.json", "keep"), {"name": "terminal", "arguments": {"command": "ls"}}
    row = [user("ls, then done"), assistant("I list.", "", call), tool("a"), assistant("I say it.", "Done.")]
    sent = [{key: value for key, value in message.items() if key != "reasoning_content"} for message in row[:-1]]
    chat = loss_mask.load(ROOT / "models/tiny")
    template = (ROOT / "configs/templates/lfm2.5-tools.jinja").read_text(encoding="utf-8")
    chat = loss_mask.Chat(chat.folder, chat.tokenizer, template, chat.special)
    for lost, history in ((True, sent), (False, row[:-1])):
        ids, marks = encoder.row(row, lost=lost)
        text = encoder.tokenizer.decode(ids, skip_special_tokens=False)
        fed = chat.render(history, None, add_generation_prompt=True).removeprefix("<|startoftext|>")
        assert text == fed + "<think>I say it.</think>Done.<|im_end|>\n"
        trained = [encoder.tokenizer.decode([i], skip_special_tokens=False) for i, mark in zip(ids, marks) if mark]
        assert "".join(trained).endswith("<think>I say it.</think>Done.<|im_end|>")
        assert ("I list." in "".join(trained)) == (not lost)
