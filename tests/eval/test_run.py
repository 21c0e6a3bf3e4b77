"""The evaluator: what it counts, what it writes, when it refuses. Most tests talk to a scripted server."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tokenizers import Tokenizer

import eval_run
from helpers import random_checkpoints
from helpers.scripted_llama import ScriptedLlama, chat
from kxl.base.files import ROOT, read_json
from kxl.chat import tool_syntax
from kxl.eval import server as eval_server
from kxl.setup import random_gguf

pytestmark = pytest.mark.minutes

TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "",
        "parameters": {"type": "object", "required": ["what"], "properties": {"what": {"type": "string"}}},
    },
}
CASES = [
    {
        "id": "call_a",
        "kind": "tool_call",
        "category": "look",
        "prompt": "look at a",
        "calls": [{"name": "look", "arguments": {"what": {"exact": "a"}}}],
    },
    {
        "id": "call_b",
        "kind": "tool_call",
        "category": "look",
        "prompt": "look at b",
        "calls": [{"name": "look", "arguments": {"what": {"exact": "b"}}}],
    },
    {"id": "quiet", "kind": "no_tool", "category": "no_tool", "prompt": "hello"},
    {
        "id": "final",
        "kind": "finalization",
        "category": "finalization",
        "answer": {"contains": ["seen"]},
        "messages": [{"role": "user", "content": "look"}, {"role": "tool", "content": "seen"}],
    },
]


def call(what: str) -> str:
    return tool_syntax.render_calls([{"name": "look", "arguments": {"what": what}}])


PERFECT = {"look at a": call("a"), "look at b": call("b"), "hello": "Hello!", "seen": "It was seen."}


@pytest.fixture
def evaluate(tmp_path):
    """evaluate(texts, replies=, thresholds=, flags=, cases=, config=, key=, asks_for=, cap=, tool=, **server options)
    -> (finished process, report or None, failed report or None, server)."""
    with socket.socket() as probe:  # one port for all runs of a test: an interrupted run goes on at the same URL
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def run(
        texts=PERFECT,
        replies=None,
        thresholds=None,
        flags=(),
        cases=CASES,
        config=None,
        key=None,
        asks_for=None,
        cap=99,
        tool=TOOL,
        **options,
    ):
        suite = tmp_path / "suite.json"
        suite.write_text(json.dumps({"name": "s", "tools": [tool], "system": None, "max_tokens": cap, "cases": cases}))
        settings = {"context": 65536, "suites": {"s": thresholds} if thresholds else {}, **(config or {})}
        path = tmp_path / "config.json"
        path.write_text(json.dumps({"eval": settings}))
        out = tmp_path / "out" / "report.json"
        with ScriptedLlama(texts, replies, port=port, key=asks_for, **options) as server, server.running():
            wanted = ("--suite", suite, "--config", path, "--url", server.url, "--artifact", "x", "--out", out)
            ended = script(*wanted, *flags, key=key)
        failed = out.with_suffix(".failed.json")
        reports = [read_json(path) if path.is_file() else None for path in (out, failed)]
        return ended, *reports, server

    return run


def script(*args, key=None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "eval_run.py"), *map(str, args)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **({"HERMES_KXL_API_KEY": key} if key else {})},
    )


def test_a_half_is_asked_of_a_suite_with_halves_alone(evaluate):
    ended, report, failed, server = evaluate(flags=("--half", "test"))
    assert ended.returncode == 2 and "s has no halves" in ended.stderr and "leave --half out" in ended.stderr
    assert report is None and failed is None


def test_a_perfect_model_passes_everything_parsed_and_raw(evaluate):
    ended, report, failed, _ = evaluate(thresholds={"threshold": 4, "raw_threshold": 4})
    assert ended.returncode == 0 and failed is None, ended.stderr
    results = report["results"]
    assert (results["cases"], results["passed"], results["text_tool_leaks"]) == (4, 4, 0)
    assert results["tool_calls"] == {"cases": 2, "passed": 2}
    assert results["no_tool"] == {"cases": 1, "false_positives": 0}
    assert results["finalization"] == {"cases": 1, "passed": 1}
    assert results["by_category"] == {
        "look": {"cases": 2, "passed": 2},
        "no_tool": {"cases": 1, "passed": 1},
        "finalization": {"cases": 1, "passed": 1},
    }
    assert results["raw"] == {"cases": 4, "passed": 4}
    assert (results["prompt_tokens"], results["cached_tokens"]) == (400, 360)
    first = results["details"][0]
    assert first["messages"] == [{"role": "user", "content": "look at a"}]
    assert first["raw"]["text"] == call("a") and first["calls"] == [{"name": "look", "arguments": {"what": "a"}}]
    assert first["finish_reason"] == "tool_calls" and first["passed"] and first["why"] == []


def test_requests_carry_tools_and_temperature_0_and_raw_ones_no_grammar(evaluate):
    _, _, _, server = evaluate()
    chats = [body for path, body in server.requests if path == "/v1/chat/completions"]
    raws = [body for path, body in server.requests if path == "/completion"]
    assert len(chats) == len(raws) == 4
    assert all(body["tools"] == [TOOL] and body["temperature"] == 0 and body["parallel_tool_calls"] for body in chats)
    assert all(body["temperature"] == 0 and not {"grammar", "json_schema", "tools"} & body.keys() for body in raws)


def test_a_model_saved_by_the_servers_grammar_fails_raw_only(evaluate):
    sloppy = {**PERFECT, "look at a": "<|tool_call_start|>[look(what = 'a')]<|tool_call_end|>"}
    _, report, _, _ = evaluate(sloppy, {"look at a": (200, chat(call("a")))})
    assert report["results"]["passed"] == 4 and report["results"]["raw"] == {"cases": 4, "passed": 3}
    assert report["results"]["details"][0]["raw"]["why"] == [
        "unreadable call: expected = at character 29, found \" = 'a')]<|tool_call_\"",
        "0 calls, expected 1",
    ]


def test_what_the_server_cannot_read_is_a_failed_case_and_the_run_goes_on(evaluate):
    unread = (
        500,
        {
            "error": {
                "code": 500,
                "message": "The model produced output that does not match the expected peg-native format",
            }
        },
    )
    not_json = chat("", finish="tool_calls", calls=[{"function": {"name": "look", "arguments": '{"what": "a'}}])
    ended, report, _, _ = evaluate(
        replies={
            "look at a": unread,
            "look at b": (200, not_json),
            "hello": (200, chat("", finish="tool_calls", calls=[])),
            "seen": "drop",
        }
    )
    assert ended.returncode == 0, ended.stderr
    why = [entry["why"][0] for entry in report["results"]["details"]]
    assert why[0].startswith("unreadable call: the server could not read it: The model produced output")
    assert why[1].startswith("unreadable call: arguments of look are not JSON")
    assert why[2].startswith("unreadable call: finish_reason is tool_calls but there is none")
    assert why[3].startswith("unreadable call: the server dropped the connection twice and lives")
    assert report["results"]["passed"] == 0


def test_leaks_and_false_positives_are_counted_and_never_pass_the_gate(evaluate):
    texts = {**PERFECT, "look at a": 'look(what="a")', "hello": call("b")}
    ended, report, failed, _ = evaluate(texts, thresholds={"threshold": 2})
    assert report is None and ended.returncode == 2
    assert failed["results"]["text_tool_leaks"] == 1 and failed["results"]["no_tool"]["false_positives"] == 1
    assert "1 answers had a tool call in their text" in ended.stderr and "1 calls where none was wanted" in ended.stderr


def test_below_the_threshold_no_report_is_left_that_make_could_take_for_finished(evaluate):
    assert evaluate()[1] is not None
    ended, report, failed, _ = evaluate(
        {**PERFECT, "look at a": call("b")}, thresholds={"threshold": 4, "raw_threshold": 4}
    )
    assert ended.returncode == 2 and report is None and failed["results"]["passed"] == 3
    assert "3 of 4 cases passed, 4 are required; 3 of 4 passed raw, 4 are required" in ended.stderr
    assert 'failed call_a: what is "b", expected "a"' in ended.stdout
    ended, report, failed, _ = evaluate(thresholds={"threshold": 4})
    assert ended.returncode == 0 and report is not None and failed is None


def test_a_server_error_ends_the_run_without_a_report(evaluate):
    ended, report, failed, _ = evaluate(replies={"look at b": (503, {"error": "out of memory"})})
    assert ended.returncode == 2 and report is None and failed is None
    assert (
        "answered case call_b (/v1/chat/completions) with HTTP 503" in ended.stderr and "Traceback" not in ended.stderr
    )


def test_a_server_that_shows_no_tokens_has_no_raw_score(evaluate):
    _, report, _, server = evaluate(flags=["--backend", "openai", "--model-name", "m"])
    assert report["results"]["raw"] is None and report["results"]["passed"] == 4
    assert {path for path, _ in server.requests} == {"/v1/chat/completions"}
    assert all(body["model"] == "m" for _, body in server.requests)


def test_a_server_that_stumbles_is_asked_again_and_the_stumble_is_counted_apart(evaluate):
    busy = iter([(503, {"error": "loading"}), (200, chat(call("b")))])
    _, report, _, _ = evaluate(replies={"look at b": lambda: next(busy)}, flags=["--backend", "openai"])
    assert report["results"]["passed"] == 4
    assert report["results"]["infrastructure"] == {
        "errors": 1,
        "details": [{"case": "call_b", "path": "/v1/chat/completions", "status": 503}],
    }


def test_an_interrupted_run_goes_on_without_asking_again_what_it_knows(evaluate):
    down = {"hello": (503, {"error": "out of memory"})}
    ended, report, _, _ = evaluate(replies=down)
    assert ended.returncode == 2 and report is None
    ended, report, _, server = evaluate()
    assert "2 answers of an interrupted run" in ended.stderr and report["results"]["passed"] == 4
    assert [body["messages"][-1]["content"] for path, body in server.requests if path == "/v1/chat/completions"] == [
        "hello",
        "seen",
    ]
    assert [entry["id"] for entry in report["results"]["details"]] == [case["id"] for case in CASES]
    assert "answers of an interrupted run" not in evaluate()[0].stderr, "a finished run leaves nothing to go on with"


def test_a_second_evaluation_into_the_same_report_is_refused_and_the_first_loses_nothing(tmp_path):
    """The first one is stopped in the middle; the second begins meanwhile; then the first is killed and run again."""
    suite, out = tmp_path / "suite.json", tmp_path / "out" / "report.json"
    suite.write_text(json.dumps({"name": "s", "tools": [TOOL], "system": None, "max_tokens": 99, "cases": CASES}))
    with ScriptedLlama(PERFECT) as server, server.running():
        flags = ["--suite", suite, "--url", server.url, "--artifact", "x", "--out", out]
        first = subprocess.Popen(
            [sys.executable, str(ROOT / "scripts" / "eval_run.py"), *map(str, flags)], stderr=subprocess.PIPE, text=True
        )
        journal = out.with_suffix(".answers.jsonl")
        while not journal.exists() or journal.read_bytes().count(b"\n") < 2:
            assert first.poll() is None, first.stderr.read()
        first.send_signal(signal.SIGSTOP)
        kept = journal.read_bytes()
        second = script(*flags)
        assert second.returncode == 2 and second.stderr.count("\n") == 1
        assert f"is being written by another process (process {first.pid}: eval_run.py)" in second.stderr
        assert journal.read_bytes() == kept
        first.kill()
        first.communicate()
        third = script(*flags)
    assert third.returncode == 0 and "answers of an interrupted run" in third.stderr, third.stderr
    assert read_json(out)["results"]["passed"] == 4
    assert [path.name for path in out.parent.iterdir()] == ["report.json"]


def test_answers_of_another_model_or_setting_are_not_mixed_in(evaluate, tmp_path):
    down = {"hello": (503, {"error": "out of memory"})}
    evaluate(replies=down)
    ended, report, _, server = evaluate(served="another-model")
    assert (
        ended.returncode == 2 and report is None and "has answers to another evaluation (served differ)" in ended.stderr
    )
    assert not [path for path, _ in server.requests]
    ended, *_ = evaluate(flags=["--temperature", "0.5"])
    assert "temperature" in ended.stderr and ended.returncode == 2
    journal = tmp_path / "out" / "report.answers.jsonl"
    journal.write_text(journal.read_text()[:-30])  # killed while it wrote its last line
    ended, report, _, server = evaluate()
    assert "1 answers of an interrupted run" in ended.stderr and report["results"]["passed"] == 4


def test_several_trials_pass_only_together_and_pass_hat_k_says_how_often(evaluate):
    turns = iter([call("b"), call("a"), call("b")])
    _, report, _, server = evaluate(
        replies={"look at b": lambda: (200, chat(next(turns)))},
        flags=["--backend", "openai", "--trials", "3", "--temperature", "0.7", "--seed", "11"],
    )
    results = report["results"]
    assert (results["cases"], results["passed"]) == (4, 3)
    assert results["trials"] == {
        "trials": 3,
        "attempts": 12,
        "passed": 11,
    }
    assert results["pass_k"] == {"1": 0.9167, "2": 0.8333, "3": 0.75}
    failed = results["details"][1]
    assert (
        failed["trials"]["passed"] == [True, False, True]
        and failed["calls"] == [{"name": "look", "arguments": {"what": "a"}}]
        and not failed["passed"]
    )
    assert sorted({body["seed"] for _, body in server.requests}) == [11, 12, 13] and all(
        body["temperature"] == 0.7 for _, body in server.requests
    )
    ended, *_ = evaluate(flags=["--trials", "3"])
    assert ended.returncode == 2 and "at temperature 0 every trial gives the same answer" in ended.stderr


def test_parallel_requests_give_the_same_report_in_the_same_order(evaluate):
    first, second = (evaluate(flags=["--parallel", parallel])[1]["results"] for parallel in ("1", "3"))
    for results in (first, second):
        for name in ("seconds", "latency", "output_tokens_per_second"):
            results.pop(name)
        for case in results["details"]:
            case.pop("seconds")
    assert first == second


def test_the_report_has_intervals_latency_and_speed(evaluate):
    results = evaluate()[1]["results"]
    assert results["intervals"]["passed"] == [0.5101, 1.0] and results["intervals"]["by_category"]["look"] == [
        0.3424,
        1.0,
    ]
    assert (
        0 < results["latency"]["median"] <= results["latency"]["p95"] < 60 and results["output_tokens_per_second"] > 0
    )


def test_a_long_case_is_filled_to_its_tokens_and_recorded_unfilled(evaluate):
    long = {**CASES[0], "id": "long", "fill": 2000, "prompt": "{filler}\nlook at a\n{filler}"}
    _, report, _, server = evaluate({**PERFECT, "": call("a")}, cases=[long])
    assert (
        report["results"]["passed"] == 1
        and report["results"]["details"][0]["messages"][-1]["content"] == long["prompt"]
    )
    filled = [body["messages"][-1]["content"] for path, body in server.requests if path == "/v1/chat/completions"][0]
    assert 1901 - 90 < len(filled) <= 1901 and "\nlook at a\n" in filled and 700 < filled.index("look at a") < 1200
    ended, *_ = evaluate(cases=[{**long, "fill": 105}])
    assert ended.returncode == 2 and "case long of s: the prompt has" in ended.stderr


def test_a_suite_whose_tool_has_a_property_that_is_just_true_is_judged(evaluate):
    properties = {"what": {"type": "string"}, "filter": True}
    parameters = {"type": "object", "required": ["what"], "properties": properties}
    tool = {"type": "function", "function": {"name": "look", "parameters": parameters}}
    ended, report, *_ = evaluate(tool=tool, thresholds={"threshold": 4})
    assert ended.returncode == 0 and report["results"]["passed"] == 4, ended.stderr


def test_content_in_parts_costs_no_answer(evaluate):
    cases = [{**CASES[2], "id": f"quiet_{i}", "prompt": f"hello {i}"} for i in range(3)]
    parts = {"choices": [{"message": {"content": [{"type": "text"}]}, "finish_reason": "stop"}]}
    ended, report, *_ = evaluate({"": "Hello!"}, {"hello 2": (200, parts)}, cases=cases, flags=["--backend", "openai"])
    assert ended.returncode == 0 and [entry["passed"] for entry in report["results"]["details"]] == [True, True, False]


def test_html_in_place_of_an_answer_ends_with_one_line_and_keeps_what_was_answered(evaluate, tmp_path):
    page = (200, "<html>Bad gateway</html>")
    ended, report, *_ = evaluate(replies={"hello": page})
    assert ended.returncode == 2 and report is None and "Traceback" not in ended.stderr
    assert "gave case quiet a reply (/v1/chat/completions) that is not JSON: <html>Bad gateway</html>" in ended.stderr
    ended, report, *_ = evaluate()
    assert "2 answers of an interrupted run" in ended.stderr and report["results"]["passed"] == 4


def test_answers_are_kept_until_the_report_is_written(evaluate, tmp_path):
    journal = tmp_path / "out" / "report.answers.jsonl"
    blocked = tmp_path / "out" / "report.failed.json"
    (blocked / "full").mkdir(parents=True)  # nothing can be renamed to it
    ended, *_ = evaluate({**PERFECT, "hello": call("b")}, thresholds={"threshold": 4})
    assert ended.returncode and len(journal.read_text().splitlines()) == 5
    (blocked / "full").rmdir()
    blocked.rmdir()
    ended, _, failed, server = evaluate({**PERFECT, "hello": call("b")}, thresholds={"threshold": 4})
    assert failed["results"]["passed"] == 3 and not server.requests and not journal.exists()


def test_a_journal_that_holds_something_else_is_refused_or_its_lines_are_asked_for_again(evaluate, tmp_path):
    journal = tmp_path / "out" / "report.answers.jsonl"
    evaluate(replies={"hello": (503, "")})
    first, *lines = journal.read_text().split("\n")
    journal.write_text(
        "\n".join([first, '["an old line"]', '{"case": "quiet", "trial": 0, "parsed": {"x": 1}}', *lines])
    )
    ended, report, *_ = evaluate()
    assert "2 answers of an interrupted run" in ended.stderr and report["results"]["passed"] == 4
    journal.write_text("something\nelse\n")
    ended, *_ = evaluate()
    assert ended.returncode == 2 and "holds no answers of an evaluation" in ended.stderr


LINE = "\u2028"


def test_any_character_of_an_answer_survives_an_interruption(evaluate):
    texts = {**PERFECT, "look at b": f"<think>a{LINE}b\x85c</think>" + call("b")}
    evaluate(texts, {"hello": (503, "")})
    ended, report, *_ = evaluate(texts)
    assert "2 answers of an interrupted run" in ended.stderr
    assert report["results"]["details"][1]["thought"] == f"a{LINE}b\x85c"


# Thoughts


def thinking(words: int, texts=PERFECT) -> dict:
    """The texts behind a thought of that many five-byte words, which names a call and a leak."""
    thought = ('I could use [look(what="x")]. ' + "hmmm " * words)[: 5 * words]
    return {last: f"<think>{thought}</think>\n{text}" for last, text in texts.items()}


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", None])
@pytest.mark.parametrize("words", [1, 400])
def test_a_thought_is_neither_text_nor_call_raw_and_parsed(evaluate, field, words):
    ended, report, *_ = evaluate(thinking(words), field=field, config={"thinking_tokens": 2100})
    results = report["results"]
    assert ended.returncode == 0 and results["passed"] == 4 and results["raw"]["passed"] == 4, ended.stdout
    assert results["text_tool_leaks"] == 0 and results["no_tool"]["false_positives"] == 0
    bytes_of_it = 5 * words
    assert results["thoughts"] == {
        "answers": 4,
        "median_tokens": bytes_of_it,
        "p95_tokens": bytes_of_it,
        "ran_out": 0,
        "never_ended": 0,
        "nothing_else": 0,
    }
    first = results["details"][2]
    assert len(first["thought"]) == first["thought_tokens"] == bytes_of_it and "think" not in first["content"]
    assert first["raw"]["thought"] == first["thought"]
    assert f"thoughts         in 4 answers, median {bytes_of_it} tokens" in ended.stdout


def test_a_thought_that_the_template_opens_is_one_too(evaluate):
    texts = {last: text.removeprefix("<think>") for last, text in thinking(20).items()}
    _, report, *_ = evaluate(texts, opened=True, config={"thinking_tokens": 200})
    assert report["results"]["passed"] == report["results"]["raw"]["passed"] == 4
    assert report["results"]["thoughts"]["median_tokens"] == 100
    _, report, *_ = evaluate(texts, opened=True, field=None, config={"thinking_tokens": 200})
    assert report["results"]["passed"] == 4, "in the text, with a lone end mark"


def test_running_out_of_tokens_while_thinking_says_what_gives_more(evaluate):
    ended, report, *_ = evaluate(thinking(120))
    assert report["results"]["passed"] == 0 and report["results"]["thoughts"]["ran_out"] == 4
    why = "ran out of tokens while thinking: eval.thinking_tokens or --thinking-tokens gives it more"
    assert [entry["why"] for entry in report["results"]["details"]] == [[why]] * 4
    assert [entry["raw"]["why"] for entry in report["results"]["details"]] == [[why]] * 4
    assert why in ended.stdout
    _, report, _, server = evaluate(thinking(120), flags=["--thinking-tokens", "650"])
    assert report["results"]["passed"] == 4 and report["settings"]["thinking_tokens"] == 650
    asked = {body["max_tokens"] for path, body in server.requests if path == "/v1/chat/completions"}
    assert asked == {749} and {body["n_predict"] for path, body in server.requests if path == "/completion"} == {749}


def test_an_answer_that_is_nothing_but_thought_and_one_whose_thought_never_ends_have_verdicts(evaluate):
    texts = {**PERFECT, "hello": "<think>I should say hello.</think>\n", "look at a": f"<think>So {call('a')}"}
    _, report, *_ = evaluate(texts)
    call_a, _, quiet, _ = report["results"]["details"]
    assert call_a["why"] == call_a["raw"]["why"] == ["the thought never ends"] and call_a["calls"] == []
    assert quiet["why"] == quiet["raw"]["why"] == ["nothing but a thought"]
    thoughts = report["results"]["thoughts"]
    assert (thoughts["answers"], thoughts["never_ended"], thoughts["nothing_else"]) == (2, 1, 1)


@pytest.mark.parametrize("field, opened", [("reasoning", False), (None, False), ("reasoning", True)])
def test_mlx_servers_token_ids_tell_a_thought_too(evaluate, tmp_path, field, opened):
    random_checkpoints.save_tokenizer(tmp_path, 1000)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    texts = {last: text.removeprefix("<think>" * opened) for last, text in thinking(300).items()}
    _, report, *_ = evaluate(
        texts,
        field=field,
        opened=opened,
        tokenizer=tokenizer,
        flags=["--backend", "mlx", "--tokenizer", tmp_path, "--thinking-tokens", "2000"],
    )
    results = report["results"]
    assert results["passed"] == results["raw"]["passed"] == 4, results["details"]
    assert results["thoughts"]["median_tokens"] == len(
        tokenizer.encode(results["details"][0]["thought"], add_special_tokens=False).ids
    )


# Sampling


SAMPLING = {"temperature": 0.2, "top_k": 80, "repetition_penalty": 1.05, "seed": 7}


@pytest.mark.parametrize(
    "backend, sent",
    [
        ("llama_cpp", {"top_k": 80, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.05, "repeat_last_n": 64}),
        ("openai", {"top_k": 80, "repetition_penalty": 1.05}),
    ],
)
def test_the_models_own_sampling_comes_from_the_config_in_each_servers_names(evaluate, backend, sent):
    flags = ["--trials", "2", "--backend", backend]
    _, report, _, server = evaluate(config={"sampling": SAMPLING}, flags=flags)
    assert report["settings"]["sampling"] == SAMPLING and report["results"]["pass_k"] == {"1": 1.0, "2": 1.0}
    drawn = [body for path, body in server.requests if path in ("/v1/chat/completions", "/completion")]
    assert {body["seed"] for body in drawn} == {7, 8}
    known = ("messages", "tools", "parallel_tool_calls", "max_tokens", "prompt", "n_predict", "cache_prompt",
             "return_tokens", "message_delimiters", "model", "seed")  # fmt: skip
    assert all({k: v for k, v in body.items() if k not in known} == {"temperature": 0.2, **sent} for body in drawn)


def test_a_flag_takes_the_place_of_the_configs_sampling(evaluate):
    _, report, _, server = evaluate(config={"sampling": SAMPLING}, flags=["--temperature", "0"])
    assert report["settings"]["sampling"] == "greedy"
    assert all(
        body["temperature"] == 0 and "seed" not in body for path, body in server.requests if "max_tokens" in body
    )
    ended, *_ = evaluate(config={"sampling": {"temprature": 0.2}})
    assert ended.returncode == 2 and "config.json: eval.sampling: Additional properties are not allowed" in ended.stderr


def test_every_config_of_the_project_is_read():
    for path in sorted((ROOT / "configs").glob("*.json")):
        if "eval" in (config := json.loads(path.read_text())) and isinstance(config, dict):
            assert eval_run.read_config(path) == config["eval"]


# A server of somebody else's


def test_a_key_is_sent_and_stands_nowhere(evaluate, tmp_path):
    key = "sk-very-secret-42"
    told = {
        "hello": (200, chat(f"My key is {key}.")),
        "look at b": (500, {"error": f"does not match the expected {key}"}),
    }
    ended, report, _, server = evaluate(replies=told, key=key, asks_for=key)
    assert ended.returncode == 0 and report["results"]["passed"] == 3, ended.stderr
    assert report["results"]["details"][2]["content"] == "My key is [the API key]."
    told["seen"] = (503, f"no place for {key}")
    ended, *_ = evaluate(replies=told, key=key, asks_for=key)
    assert ended.returncode == 2 and "no place for [the API key]" in ended.stderr
    kept = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(kept) == 4 and not [text for text in [*kept, ended.stderr, ended.stdout] if key in text]


def test_a_wrong_or_missing_key_is_said_before_anything_is_asked(evaluate):
    for key, said in (
        (None, "asks for a key: put it into the environment variable HERMES_KXL_API_KEY"),
        ("wrong-key", "refuses the key in HERMES_KXL_API_KEY"),
    ):
        ended, report, _, server = evaluate(key=key, asks_for="right-key")
        assert ended.returncode == 2 and said in ended.stderr and report is None and not server.requests
        assert key is None or key not in ended.stderr + ended.stdout


@pytest.mark.parametrize(
    "url, said",
    [
        ("http://127.0.0.1:{free}", "nobody answers at http://127.0.0.1:{free} (connection refused): start the server"),
        ("http://no-such-host.invalid/v1", "nobody answers at http://no-such-host.invalid ("),
        ("127.0.0.1:8080", "--url '127.0.0.1:8080': not the address of a server, such as http://127.0.0.1:8080/v1"),
        ("http://127.0.0.1:port", "not the address of a server"),
        ("http://me:hidden@127.0.0.1:{free}", "a key belongs into the environment variable HERMES_KXL_API_KEY"),
    ],
)
def test_a_url_where_nobody_answers_is_reported_as_that(tmp_path, url, said):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    suite = ROOT / "evals/suites/structured_6.json"
    out = tmp_path / "r.json"
    ended = script("--suite", suite, "--url", url.format(free=free), "--artifact", "x", "--out", out)
    assert ended.returncode == 2 and said.format(free=free) in ended.stderr, ended.stderr
    assert ended.stderr.count("\n") == 1 and "hidden" not in ended.stderr and not list(tmp_path.iterdir())


def test_a_server_that_never_answers_is_given_up_in_seconds(tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url, began = f"http://127.0.0.1:{silent.getsockname()[1]}", time.monotonic()
        suite, out = ROOT / "evals/suites/structured_6.json", tmp_path / "r.json"
        ended = script("--suite", suite, "--url", url, "--artifact", "x", "--out", out)
    assert ended.returncode == 2 and f"nobody answers at {url}" in ended.stderr and time.monotonic() - began < 20


def test_a_server_that_goes_away_is_not_called_a_death_on_a_case(evaluate):
    ended, *_ = evaluate(replies={"look at b": "leave"})
    assert ended.returncode == 2 and "was reached before and is not any more, on case call_b" in ended.stderr


def test_a_missing_model_file_is_one_clear_line(tmp_path):
    ended = script(
        "--suite",
        ROOT / "evals/suites/fixed_hermes_43.json",
        "--gguf",
        tmp_path / "no.gguf",
        "--artifact",
        "x",
        "--out",
        tmp_path / "r.json",
    )
    assert ended.returncode == 2 and ended.stderr == f"error: {tmp_path / 'no.gguf'}: no such file or folder\n"


@pytest.fixture(scope="module")
def short_suite(tmp_path_factory) -> Path:
    """Three cases of the fixed suite with its real tools, and short answers."""
    data = read_json(ROOT / "evals" / "suites" / "fixed_hermes_43.json")
    data.update(name="short", max_tokens=4, cases=data["cases"][:3])
    path = tmp_path_factory.mktemp("suite") / "short.json"
    path.write_text(json.dumps(data))
    return path


def test_llama_server_reads_the_tools_once_and_then_only_each_request(llama_bin, short_suite, tmp_path):
    """The tools are more than 12,000 of 13,800 tokens (a byte each); a hybrid model cannot simply cut its cache."""
    gguf = random_gguf.write(tmp_path / "random.gguf")
    ended = script("--suite", short_suite, "--gguf", gguf, "--artifact", "random", "--out", tmp_path / "r.json")
    assert ended.returncode == 0, ended.stderr
    details = read_json(tmp_path / "r.json")["results"]["details"]
    assert all(entry["prompt_tokens"] > 12000 and entry["raw"]["text"] for entry in details)
    read = [entry["prompt_tokens"] - entry["cached_tokens"] for entry in details]
    words = [sum(len(str(message)) for message in entry["messages"][1:]) for entry in details]
    # Beside its words a request has its role markers and the opening of the answer.
    assert all(tokens < said + 100 for tokens, said in zip(read[1:], words[1:])), (read, words)


def test_mlx_server_is_scored_on_the_tokens_of_the_very_same_answer(short_suite, tmp_path):
    model = tmp_path / "model"
    random_checkpoints.save_hf(model, max_position_embeddings=65536)
    (model / "chat_template.jinja").write_text(random_gguf.TEMPLATE.read_text())
    ended = script(
        "--suite",
        short_suite,
        "--model",
        model,
        "--backend",
        "mlx",
        "--artifact",
        "random",
        "--out",
        tmp_path / "r.json",
    )
    assert ended.returncode == 0, ended.stderr
    details = read_json(tmp_path / "r.json")["results"]["details"]
    for entry in details:
        if "<|" not in entry["raw"]["text"]:
            assert entry["content"] == entry["raw"]["text"]
    assert details[1]["cached_tokens"] > details[1]["prompt_tokens"] // 2


@pytest.fixture
def judge(tmp_path, monkeypatch, capsys):
    """judge(cases, threshold, gguf) -> (report or failed report, requests that reached the server)."""
    with ScriptedLlama({**PERFECT, "hello": "Hi."}) as server, server.running():
        monkeypatch.setattr(eval_run, "serve", lambda *_: contextlib.nullcontext(eval_server.external(server.url)))

        def run(cases=CASES, threshold=4, gguf=b"weights", flags=()):
            for name, text in (
                ("suite", {"name": "s", "tools": [TOOL], "system": None, "max_tokens": 99, "cases": cases}),
                ("config", {"eval": {"suites": {"s": {"threshold": threshold}}}}),
            ):
                (tmp_path / f"{name}.json").write_text(json.dumps(text))
            (tmp_path / "model.gguf").write_bytes(gguf)
            out = tmp_path / "out" / "report.json"
            flags = ["--suite", tmp_path / "suite.json", "--config", tmp_path / "config.json", *flags]
            flags += ["--gguf", tmp_path / "model.gguf", "--artifact", "x", "--out", out]
            monkeypatch.setattr(sys, "argv", ["eval_run.py", *map(str, flags)])
            del server.requests[:]
            with contextlib.suppress(eval_run.cli.UserError):
                eval_run.main()
            return read_json(out if out.exists() else out.with_suffix(".failed.json")), [
                body["messages"][-1]["content"] for path, body in server.requests if path == "/v1/chat/completions"
            ]

        yield run


def test_another_threshold_or_rule_judges_the_answers_that_are_there(judge, tmp_path):
    stricter = [*CASES[:2], {**CASES[2], "answer": {"contains": ["Good morning"]}}, CASES[3]]
    report, asked = judge(stricter)
    assert len(asked) == 4 and report["results"]["passed"] == 3 and not (tmp_path / "out" / "report.json").exists()
    report, asked = judge(stricter, threshold=3)
    assert not asked and report["results"]["passed"] == 3 and (tmp_path / "out" / "report.json").exists()
    assert not (tmp_path / "out" / "report.failed.json").exists()
    again, asked = judge(CASES)
    assert not asked and again["results"]["passed"] == 4
    assert again["results"]["seconds"] == report["results"]["seconds"]


def test_only_a_request_that_changed_is_asked_again_and_another_model_everything(judge):
    judge()
    reworded = [{**CASES[0], "prompt": "look at a"}, {**CASES[1], "prompt": "look at a", "calls": CASES[0]["calls"]}]
    report, asked = judge([*reworded, *CASES[2:]])
    assert asked == ["look at a"] and report["results"]["passed"] == 4
    report, asked = judge([*reworded, *CASES[2:]], gguf=b"other weights")
    assert len(asked) == 4
    report, asked = judge([*reworded, *CASES[2:]], gguf=b"other weights", flags=["--thinking-tokens", "5"])
    assert len(asked) == 4


def test_a_template_that_leaves_the_tools_out_is_told_before_every_case_fails(evaluate):
    other = {**TOOL, "function": {**TOOL["function"], "name": "inspect"}}
    cases = [{**CASES[0], "calls": [{"name": "inspect", "arguments": {"what": {"exact": "a"}}}]}]
    ended, *_ = evaluate(cases=cases, tool=other)
    assert "the chat template of this model puts no tool into the prompt (case call_a)" in ended.stderr
    assert "puts no tool" not in evaluate()[0].stderr


def test_a_failed_case_is_one_line_with_what_the_model_wrote(evaluate):
    ended, *_ = evaluate({**PERFECT, "look at a": "first line\nsecond line"}, thresholds={"threshold": 4})
    [line] = [line for line in ended.stdout.splitlines() if line.startswith("failed call_a")]
    assert line.endswith("it wrote first line\\nsecond line")
