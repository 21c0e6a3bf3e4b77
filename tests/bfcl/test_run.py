"""The commands: scripted agents, a server over HTTP, going on after a crash, and whether our judge is the wheel's."""

import io
import json
import sys

import pytest

import bfcl_agree
import bfcl_run
from helpers import chat_server
from kxl.base.cli import UserError
from kxl.base.files import read_json
from kxl.bfcl import answers, cases, verdicts
from kxl.live import sandbox


@pytest.fixture
def run(monkeypatch, bfcl_cases, tmp_path):
    if why := sandbox.unavailable():
        pytest.skip(f"no box here: {why}")

    def command(*flags, script=bfcl_run, out="bfcl.json"):
        name = [f"{script.__name__}.py", "--cases", str(bfcl_cases), "--out", str(tmp_path / out)]
        monkeypatch.setattr(sys, "argv", [*name, *map(str, flags)])
        script.main()
        return read_json(tmp_path / out)

    return command


def test_a_perfect_agent_passes_what_can_be_passed_and_one_that_does_nothing_what_asks_for_nothing(run):
    perfect = run("--agent", "perfect", "--artifact", "a", "--subset", 3)["results"]
    assert len(perfect["by_category"]) == 19 and perfect["passed"] == perfect["cases"] == 57
    nothing = run("--agent", "nothing", "--artifact", "a", "--subset", 3)["results"]
    assert {name for name, one in nothing["by_category"].items() if one["passed"]} == set(
        cases.GROUPS["all_irrelevance"]
    )
    assert nothing["passed"] == 6
    assert nothing["averages"]["overall"]["missing"] == ["memory_vector", "web_search"]


class Player:
    """A server's model that answers each case right, known by its user's first words."""

    def __init__(self, chosen):
        self.scripts, self.asked = {}, 0
        for case in chosen:
            right = answers.right(case)
            steps = [step for turn in right for step in turn] if cases.executable(case["category"]) else [right]
            self.scripts[self.key(case["turns"][0])] = steps

    @staticmethod
    def key(messages):
        return next(message["content"] for message in messages if message["role"] == "user")

    def __call__(self, body):
        self.asked += 1
        done = sum(message["role"] == "assistant" for message in body["messages"])
        step = self.scripts[self.key(body["messages"])][done]
        if isinstance(step, str):
            return step, []
        return "", [(name, json.loads(text)) for call in step for name, text in call.items()]


CHOSEN = ("--categories", "parallel", "multi_turn_base", "irrelevance", "--subset", 3, "--artifact", "server")


@pytest.fixture
def chosen(every_bfcl_case):
    found = [case for case in every_bfcl_case.values() if case["category"] in CHOSEN]
    return cases.subset(found, 3, 1)


def test_a_server_is_asked_over_http_and_its_report_has_every_case(run, chosen):
    with chat_server.serving(Player(chosen)) as server:
        report = run("--url", server.url, *CHOSEN)
    results = report["results"]
    assert results["passed"] == results["cases"] == 9 and {one["id"] for one in results["details"]} == {
        case["id"] for case in chosen
    }
    turns = next(one for one in results["details"] if one["category"] == "multi_turn_base")
    assert turns["calls"] and any(message["role"] == "tool" for message in turns["messages"])
    assert report["settings"]["backend"] == "openai" and report["settings"]["isolation"] == "namespaces"


def refused(monkeypatch, status, said, when):
    """The server answers with an error when `when(body)`, the request's bytes, says so."""
    usual = chat_server._Handler.do_POST

    def do_POST(handler):
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        if when(body):
            data = json.dumps({"error": {"message": said}}).encode()
            handler.send_response(status)
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data)
        else:
            handler.rfile = io.BytesIO(body)
            usual(handler)

    monkeypatch.setattr(chat_server._Handler, "do_POST", do_POST)


def test_a_run_goes_on_where_its_server_failed_and_keeps_no_answers_of_another(run, chosen, tmp_path, monkeypatch):
    player, left = Player(chosen), 5

    def no_more(body):
        return player.asked >= left

    refused(monkeypatch, 403, "your time is up", no_more)
    with chat_server.serving(player) as server:
        with pytest.raises(UserError, match="your time is up"):
            run("--url", server.url, *CHOSEN)
        assert (tmp_path / "bfcl.answers.jsonl").exists() and not (tmp_path / "bfcl.json").exists()
        with pytest.raises(UserError, match="answers to another evaluation .*max_tokens"):
            run("--url", server.url, *CHOSEN, "--max-tokens", 99)
        left = 10**6
        results = run("--url", server.url, *CHOSEN)["results"]
        there = player.asked
        left, player.asked = 10**6, 0
        run("--url", server.url, *CHOSEN, out="whole.json")
    assert results["passed"] == 9 and not (tmp_path / "bfcl.answers.jsonl").exists()
    # Only the conversation that was cut off is held again from its beginning.
    assert player.asked <= there < player.asked + 5


def test_a_category_that_the_model_was_trained_on_is_refused_or_left_out(run):
    with pytest.raises(UserError, match="was trained on parallel: leave it out"):
        run("--agent", "nothing", "--artifact", "a", "--categories", "parallel", "--trained-on", "parallel")
    flags = ("--agent", "nothing", "--artifact", "a", "--categories", "irrelevance", "--subset", 2)
    report = run(*flags, "--trained-on", "live_irrelevance")
    assert list(report["results"]["by_category"]) == ["irrelevance"]
    assert report["settings"]["trained_on"] == ["live_irrelevance"]


def test_a_question_that_repeats_one_of_a_trained_category_is_left_out_and_counted(run, every_bfcl_case):
    flags = ("--agent", "nothing", "--artifact", "a", "--categories", "live_multiple")
    report = run(*flags, "--trained-on", "live_simple")
    said = {cases.words(case) for case in every_bfcl_case.values() if case["category"] == "live_simple"}
    twice = [
        case["id"]
        for case in every_bfcl_case.values()
        if case["category"] == "live_multiple" and cases.words(case) in said
    ]
    assert report["settings"]["repeats_left_out"] == len(twice) > 0
    assert not set(twice) & {one["id"] for one in report["results"]["details"]}


def test_a_conversation_that_outgrows_the_context_has_failed_and_the_run_goes_on(run, chosen, monkeypatch):
    said = "the request exceeds the available context size, try increasing it"  # llama-server's words
    refused(monkeypatch, 400, said, lambda body: b'"role": "tool"' in body)
    with chat_server.serving(Player(chosen)) as server:
        results = run("--url", server.url, *CHOSEN)["results"]
    failed = [one for one in results["details"] if not one["passed"]]
    assert {one["category"] for one in failed} == {"multi_turn_base"} and len(failed) == 3
    assert all("outgrew the server's context" in one["why"][0] for one in failed)


AGREE = ("--subset", 4, "--damages", 40)


def test_our_verdicts_are_the_wheels_on_right_answers_and_on_damaged_ones(run):
    results = run(*AGREE, script=bfcl_agree, out="agree.json")["results"]
    assert results["categories"] == 19 and results["agree"] == results["answers"] > 1000
    assert results["ways"] >= 40 and not results["disagreements"]
    assert all(one["passed"] < one["answers"] for one in results["by_category"].values())
    assert results["by_way"]["right"]["passed"] >= 0.95 * results["by_way"]["right"]["answers"]


def test_a_judge_that_is_too_kind_is_caught_and_its_report_says_where(run, monkeypatch, tmp_path):
    judge = verdicts.single_turn
    monkeypatch.setattr(verdicts, "single_turn", lambda case, answer: None if answer == [] else judge(case, answer))
    with pytest.raises(UserError, match="verdicts are the wheel's"):
        run("--categories", "parallel", "--subset", 10, "--damages", 40, script=bfcl_agree, out="agree.json")
    results = read_json(tmp_path / "agree.failed.json")["results"]
    (kind,) = results["disagreements"]
    assert kind.startswith("only our judge passes it: call_nothing") and results["disagreements"][kind]["answers"] == 10
