"""A model's own right answers become repair rows, thoughts and all; nothing wrong, unverified or refused does.

The server is scripted and thinks 5 to 2,000 tokens. Evaluation, diagnosis, sampling, rows and training tokens are real.
"""

import itertools
import json
import random
import shutil
import sys

import pytest

import eval_run
import repair_build_set
import repair_sample
from conftest import ROOT
from kxl.base import jsonl
from kxl.base.cli import UserError
from kxl.base.files import read_json
from kxl.chat import loss_mask
from kxl.eval import contamination, suites
from kxl.live import scripted_server
from kxl.repair import diagnosis, sampling, thoughts
from kxl.repair import rows as repair_rows
from kxl.repair import shapes as repair_shapes

pytestmark = pytest.mark.minutes  # it starts servers

SUITE = ROOT / "evals/suites/structured_6.json"
LENGTHS = (5, 40, 300, 1200, 2000)  # tokens of a thought, about


def call_main(module, *flags):
    argv, sys.argv = sys.argv, [f"{module.__name__}.py", *map(str, flags)]
    try:
        module.main()
    finally:
        sys.argv = argv


def thought(tokens: int, names: str = "") -> str:
    """A thought of about so many tokens, with quotes, a call as text and a special look."""
    start = f'{names}\n"ls" or [terminal(command="ls")]? I\'d say '
    return start + "so " * max(1, tokens - 20) + "é."


def right(case: dict) -> dict:
    """The turn that a case asks for."""
    calls = [
        {"name": call["name"], "arguments": {name: one(rule) for name, rule in call["arguments"].items()}}
        for call in case.get("calls", [])
    ]
    return {"tool_calls": calls} if calls else {"content": " ".join(case.get("answer", {}).get("contains", ["Hello."]))}


def one(rule):
    if "regex" in rule:
        return rule["regex"].split("(")[0].replace("\\", "")
    return rule["exact"] if "exact" in rule else rule["set"][0]


def wrong(case: dict, kind: str) -> dict:
    """A turn that must never be trained on."""
    made = right(case)
    calls = made.get("tool_calls", [])
    if kind == "wrong_argument":
        extra = {"name": "terminal", "arguments": {"command": "true"}}
        return {"tool_calls": [*calls, extra], "reasoning": thought(30)}
    if kind == "only_thought":
        return {"reasoning": thought(30)}
    if kind == "out_of_tokens":
        return {"reasoning": thought(30), "finish_reason": "length"}
    if kind == "refusal":
        return {"content": "I'm sorry, I cannot do that.", "reasoning": thought(30)}
    if kind == "leak":
        return {"content": '[terminal(command="ls")]', "reasoning": thought(30)}
    assert kind == "call_in_thought"
    return {"content": f"<think>{json.dumps(calls)}, so it is"}


WRONG = ("wrong_argument", "only_thought", "out_of_tokens", "refusal", "leak", "call_in_thought")


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """The tiny model with the template that writes thoughts."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    shutil.copytree(ROOT / "models/tiny", folder)
    shutil.copy(ROOT / "configs/templates/lfm2.5-tools.jinja", folder / "chat_template.jinja")
    return folder


@pytest.fixture
def failed(tmp_path):
    """A report of structured_6 whose cases failed in the ways of WRONG, by a server that thinks."""
    cases = {json.dumps(case["messages"]): case for case in suites.load(SUITE).cases}
    kinds = itertools.cycle(WRONG)
    ways = {key: next(kinds) for key in cases}

    def answer(body):
        key = json.dumps(body["messages"])
        return wrong(cases[key], ways[key])

    out = tmp_path / "structured_6.json"
    with scripted_server.serve([answer] * len(cases)) as server:
        flags = ("--backend", "openai", "--url", server.url.removesuffix("/v1"), "--artifact", "x", "--out", out)
        call_main(eval_run, "--suite", SUITE, *flags)
    return out, [ways[json.dumps(case["messages"])] for case in cases.values()]


def test_what_went_wrong_while_thinking_has_a_name_of_its_own(failed):
    report, ways = failed
    found, passed, _ = diagnosis.of_reports([report])
    assert passed == 0 and len(found) == len(ways) == 6
    names = {"leak": "text_leak", "call_in_thought": "endless_thought"}
    assert [failure["diagnosis"] for failure in found] == [names.get(way, way) for way in ways]
    told = read_json(report)["results"]["thoughts"]
    assert (told["answers"], told["ran_out"], told["never_ended"], told["nothing_else"]) == (6, 1, 1, 1)


@pytest.fixture
def asked(monkeypatch):
    """Every request that is drawn, by its messages: the case that says what is right."""
    cases, draw = {}, sampling.draw

    def recording(*args):
        if prompt := draw(*args):
            cases[json.dumps(prompt.case["messages"])] = prompt.case
        return prompt

    monkeypatch.setattr(sampling, "draw", recording)
    return cases


def sample(tmp_path, report, model, server, *flags):
    base = ("--model", model, "--eval", report, "--iteration", "01", "--url", server.url.removesuffix("/v1"))
    outs = ("--out", tmp_path / "samples.jsonl", "--report", tmp_path / "samples.json")
    call_main(repair_sample, *base, *outs, "--rows", "12", "--thinking-tokens", "4096", *flags)
    rows = [row for _, row in jsonl.read(tmp_path / "samples.jsonl")]
    return rows, read_json(tmp_path / "samples.json")["results"]


def serving(asked, script):
    """A server that answers each request as `script(case, number of this answer)` says."""
    numbers = itertools.count()
    turn = lambda body: script(asked[json.dumps(body["messages"])], next(numbers))  # noqa: E731
    return scripted_server.serve([turn] * 500)


def sampled(tmp_path, report, asked, model, script, *flags):
    """Run repair_sample.py against a script; (rows, the report's results, how often it was asked)."""
    with serving(asked, script) as server:
        return *sample(tmp_path, report, model, server, *flags), len(server.requests)


def test_only_right_answers_are_kept_with_their_thoughts_as_they_were(tmp_path, failed, asked, model):
    said = {}

    def script(case, number):
        if number % 3:
            return wrong(case, WRONG[number % len(WRONG)])
        words = thought(LENGTHS[number // 3 % len(LENGTHS)], case["messages"][-1]["content"][:40])
        said[words] = right(case)
        return {**right(case), "reasoning": words}

    rows, counts, requests = sampled(tmp_path, failed[0], asked, model, script)
    assert len(rows) == 12 == counts["kept"] == counts["with_thought"] and counts["asked"] == requests
    assert counts["asked"] - 12 == sum(counts["refused"].values()) > 6
    assert {"only_thought", "out_of_tokens", "endless_thought"} <= counts["refused"].keys()
    for row in rows:
        last = row["messages"][-1]
        turn = said[last["reasoning_content"]]
        assert [call["function"] for call in last.get("tool_calls", [])] == turn.get("tool_calls", [])
        assert last["content"] == turn.get("content", "")
    assert max(counts["kept_by_case"].values()) == 2 and len(counts["kept_by_case"]) == 6
    prompts = contamination.everything()
    assert not any(prompts.of_row(row["messages"]) for row in rows)
    lengths = {len(row["messages"][-1]["reasoning_content"].split()) for row in rows}
    assert min(lengths) < 30 and max(lengths) > 1900


@pytest.mark.parametrize("kind", WRONG)
def test_a_model_that_never_gets_it_right_gives_no_row(tmp_path, failed, asked, model, kind):
    rows, counts, _ = sampled(tmp_path, failed[0], asked, model, lambda case, _: wrong(case, kind), "--rows", "2")
    assert rows == [] and counts["kept"] == 0 and sum(counts["refused"].values()) == counts["asked"] > 12


def test_a_model_without_thoughts_is_sampled_alike(tmp_path, failed, asked, model):
    rows, counts, _ = sampled(tmp_path, failed[0], asked, model, lambda case, _: right(case))
    assert len(rows) == 12 and counts["with_thought"] == 0
    assert not any("reasoning_content" in row["messages"][-1] for row in rows)


def test_a_server_is_asked_by_the_name_that_it_serves_where_none_is_given(tmp_path, failed, asked, model):
    for name, flags in ((scripted_server.MODEL, ()), ("mine", ("--model-name", "mine"))):
        with serving(asked, lambda case, number: right(case)) as server:
            sample(tmp_path / name, failed[0], model, server, *flags)
        assert {body.get("model") for body in server.requests} == {name}


def test_an_interrupted_sampling_asks_no_question_twice(tmp_path, failed, asked, model):
    def dies(case, number):
        return {"status": 400, "error": "gone"} if number == 7 else right(case)

    with serving(asked, dies) as server:
        with pytest.raises(UserError, match="HTTP 400: gone"):
            sample(tmp_path, failed[0], model, server)
        assert not (tmp_path / "samples.jsonl").exists()
        rows, _ = sample(tmp_path, failed[0], model, server)
        assert len(rows) == 12 and len(server.requests) == 12 + 1
    assert not (tmp_path / "samples.answers.jsonl").exists()


def test_the_set_mixes_both_kinds_and_training_sees_each_thought(tmp_path, failed, asked, model):
    def script(case, number):
        return {**right(case), "reasoning": thought(LENGTHS[number % len(LENGTHS)], str(number))}

    own, _, _ = sampled(tmp_path, failed[0], asked, model, script, "--thoughts", "rule")
    flags = ("--eval", failed[0], "--iteration", "01", "--rows", "60", "--thoughts", "rule", "--sampled-share", "0.5")
    call_main(repair_build_set, *flags, "--sampled", tmp_path / "samples.jsonl", "--out", tmp_path / "iter01")
    manifest = read_json(tmp_path / "iter01/manifest.json")
    assert manifest["purposes"]["sampled"] + manifest["purposes"]["focus"] == 21
    assert 6 <= manifest["purposes"]["sampled"] <= 12 and manifest["thoughts"] == "rule"
    rows = [row for split in ("train", "valid") for row in repair_rows.read(tmp_path / f"iter01/{split}.jsonl")]
    chat = loss_mask.load(model)
    mine = {row["messages"][-1]["reasoning_content"] for row in own}
    seen = 0
    for row in rows:
        last = row["messages"][-1]
        assert all(m.get("reasoning_content") for m in row["messages"] if m["role"] == "assistant")
        seen += last["reasoning_content"] in mine
        example = repair_shapes.encode(chat, [row], "structured", 8192)[-1]
        trained = chat.tokenizer.decode(example.tokens[example.mask].tolist(), skip_special_tokens=False)
        assert f"<think>{last['reasoning_content']}</think>" in trained
    assert seen == manifest["purposes"]["sampled"]


def test_a_thought_by_rule_says_only_what_the_row_holds():
    rng = random.Random(5)
    failure = {"suite": "s", "id": "a", "kind": "tool_call", "wanted": "terminal", "called": "text"}
    for number in range(300):
        purpose = repair_rows.PURPOSES[number % 4]
        for row in repair_rows.draw(rng, purpose, failure):
            made = thoughts.by_rule(row["messages"])
            assert [{k: v for k, v in m.items() if k != "reasoning_content"} for m in made] == row["messages"]
            for place, message in enumerate(made):
                if message["role"] != "assistant":
                    assert "reasoning_content" not in message
                    continue
                said, calls = message["reasoning_content"], message.get("tool_calls", [])
                assert all(call["function"]["name"] in said for call in calls)
                assert ("result" in said) == (not calls and made[place - 1]["role"] == "tool")
                assert not calls or "No tool" not in said
                assert "<" not in said and len(said) < 400


def test_an_answer_after_a_result_has_to_name_what_the_result_holds():
    before = [
        {"role": "user", "content": "how many lines has notes.txt?"},
        {"role": "tool", "content": '{"output": "17 notes.txt", "exit_code": 0}'},
    ]
    assert sampling._facts(before, "notes.txt has 17 lines.") == ["17"]
    assert sampling._facts(before, "Done.") == []
