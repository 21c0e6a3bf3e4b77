"""A user learns which of their calls a template breaks, from the parsers that will read them; ours breaks none."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import traces_check_template
from helpers.strategies import calls
from kxl.chat import loss_mask
from kxl.traces import parsers

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def chat():
    return loss_mask.load(ROOT / "models" / "tiny")


@pytest.fixture(scope="module")
def thinking(chat):
    """The tiny model's tokenizer with our template, which writes thoughts."""
    return replace(chat, template=traces_check_template.OURS.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def ours(thinking, llama_bin, tmp_path_factory):
    with parsers.Readers(thinking, tmp_path_factory.mktemp("ours")) as readers:
        yield readers


def row(arguments: list) -> dict:
    message = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": f"call_{i}", "type": "function", "function": one} for i, one in enumerate(arguments)],
    }
    return {"id": "x", "tools": TOOLS, "messages": [{"role": "user", "content": "Go."}, message]}


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "",
            "parameters": {
                "type": "object",
                "properties": {"s": {"type": "string"}, "t": {"type": "string"}, "v": {}, "n": {"type": "integer"}},
            },
        },
    }
    for name in ("first", "second")
]


def test_our_template_breaks_no_difficult_string_in_any_parser(chat, ours):
    broken, turns = traces_check_template.check(chat, ours, traces_check_template.difficult())
    assert broken == [] and turns == len(traces_check_template.DIFFICULT) + len(traces_check_template.VALUES) + 1


def test_our_template_breaks_no_difficult_thought_in_any_parser(thinking, ours):
    rows = traces_check_template.thoughtful(thinking)
    assert len(rows) == 3 * len(traces_check_template.THOUGHTS) + 1
    for tried in (rows, [traces_check_template.without_thoughts(row) for row in rows]):
        broken, turns = traces_check_template.check(thinking, ours, tried)
        assert broken == [] and turns == len(rows) + 5, "the last row has six turns, in three sequences"


# llama-server holds back an answer's last "<", which might have begun a call.
texts = st.text(st.characters(exclude_categories=["Cs"])).map(lambda text: text.strip().rstrip("<|"))


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(thought=texts.map(str.strip).filter(len), said=texts.map(str.strip), calls=st.just([]) | calls)
def test_any_thought_survives_our_template_and_all_three_parsers(thinking, ours, thought, said, calls):
    made = row(calls)
    made["messages"][1] |= {"reasoning_content": traces_check_template.prepared(thought, thinking), "content": said}
    assert traces_check_template.check(thinking, ours, [made]) == ([], 1)


def test_what_no_server_carries_in_a_thought_is_why_it_is_rewritten(thinking, ours):
    """When this fails a server has learned better, and thoughts may keep the mark."""
    for mark, wrong in (("</think>", {"mlx_lm", "llama_server"}), ("<|tool_call_start|>[f(a=1)]", {"mlx_lm"})):
        message = traces_check_template.said("Hello.", thought=f"the mark {mark} stands here")
        text = f"<think>the mark {mark} stands here</think>Hello."
        found = ours.problems(message, text, TOOLS)
        assert {parser for parser, problem in found.items() if problem} == wrong


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=calls)
def test_any_calls_survive_our_template_and_all_three_parsers(chat, ours, calls):
    assert traces_check_template.check(chat, ours, [row(calls)]) == ([], 1)


# What LFM2.5's published template does, by FACTS of llama.cpp's parser: refuses, corrupts, or lets arguments in.
KNOWN = {
    "string: apostrophe",
    "string: regex",
    "string: windows path",
    "string: trailing backslash",
    "string: newline",
    "string: tab",
    "string: injected argument",
}


def test_the_published_template_fails_on_its_known_breakages(chat, llama_tree, tmp_path):
    published = replace(
        chat, template=(llama_tree / "models" / "templates" / "LFM2.5-8B-A1B.jinja").read_text(encoding="utf-8")
    )
    with parsers.Readers(published, tmp_path) as readers:
        broken, _ = traces_check_template.check(published, readers, traces_check_template.difficult())
        assert traces_check_template.check(published, readers, traces_check_template.thoughtful(published))[0] == []
    by_llama = {one["row"] for one in broken if one["parser"] == "llama_server"}
    assert KNOWN <= by_llama
    assert {"string: double quotes", "string: unicode", "string: python words"}.isdisjoint(by_llama)
    problem = {one["row"]: one["problem"] for one in broken if one["parser"] == "llama_server"}
    assert '"n": 5' in problem["string: injected argument"].split(" became ")[1], "the string became arguments"
    assert "C:\\new" in problem["string: windows path"].split(" became ")[1], (
        "the path lost its backslashes without a word"
    )


def test_rows_that_are_not_there_are_named_with_the_target_that_makes_them(tmp_path):
    with pytest.raises(traces_check_template.UserError, match="none.jsonl: no such file; `make data` writes it"):
        traces_check_template.rows(tmp_path / "none.jsonl")


def test_a_file_that_is_no_rows_is_named_with_its_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row([{"name": "first", "arguments": {"s": "x"}}])) + '\n{"text": 1}\n')
    with pytest.raises(traces_check_template.UserError, match="rows.jsonl:2: messages must be a list"):
        traces_check_template.rows(path)


def test_the_report_counts_every_template_and_names_what_the_published_ones_break(
    tmp_path, monkeypatch, llama_bin, capsys
):
    report = tmp_path / "template.json"
    command = ["traces_check_template.py", "--model", str(ROOT / "models" / "tiny"), "--report", str(report)]
    monkeypatch.setattr("sys.argv", command)
    traces_check_template.main()
    assert "come back as they were from 3 parsers" in capsys.readouterr().out
    results = json.loads(report.read_text())["results"]
    assert len(results["templates"]) == 5 and results["broken"] == []
    for name, one in results["templates"].items():
        assert one["broken_rows"] == len(one["broken"]), name
        assert sum(kind["rows"] for kind in one["thoughts"].values() if isinstance(kind, dict)) == one["rows"]
    ours = results["templates"]["configs/templates/lfm2.5-tools.jinja"]
    assert ours["broken_rows"] == 0 and ours["thoughts"]["kept"]["rows"] == ours["thoughts"]["dropped"]["rows"] > 60
    assert results["templates"]["LFM2.5-8B-A1B.jinja"]["thoughts"]["kept"]["broken_rows"] == 0
    instruct = results["templates"]["LFM2.5-Instruct.jinja"]["broken"]["thought: plain, before an answer (kept)"]
    assert set(instruct) == {"llama_server"}, "its server shows the thought as the answer"
    older = results["templates"]["LFM2-8B-A1B.jinja"]["broken"]["thought: plain, before an answer (kept)"]
    assert "writes no thoughts" in older["template"]


def test_the_committed_report_counts_thoughts_and_names_every_broken_row():
    results = json.loads((ROOT / "reports" / "tiny" / "template.json").read_text())["results"]["templates"]
    ours = results["configs/templates/lfm2.5-tools.jinja"]
    assert ours["broken"] == {} and ours["thoughts"]["kept"]["turns"] == len(traces_check_template.THOUGHTS) * 3 + 6
    published = {name: one for name, one in results.items() if name.startswith("LFM")}
    assert len(published) == 3
    assert all(one["broken_rows"] == len(one["broken"]) > 0 for one in published.values())
