"""The loop's decisions, and the loop itself on real evaluations and rows; only training and weights are played."""

import functools
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib
import pytest

import eval_run
import repair_build_set
import repair_check_parser
import repair_loop
import repair_train
from conftest import ROOT
from helpers import chat_server
from kxl.base import report
from kxl.base.cli import UserError
from kxl.base.files import read_json, write_json, write_text
from kxl.eval import suites as eval_suites
from kxl.eval.verdicts import Answer
from kxl.figures import repair, style
from kxl.lora.loop import Progress
from kxl.repair import acceptance
from kxl.repair.settings import Settings

pytestmark = pytest.mark.minutes

SUITES = {"structured_6": 6, "colloquial_20": 20}


def call_main(module, *flags):
    """A script's main() with its flags, in this process."""
    argv, sys.argv = sys.argv, [f"{module.__name__}.py", *map(str, flags)]
    try:
        module.main()
    finally:
        sys.argv = argv


def right(case: dict) -> tuple:
    """(content, calls) that a case asks for."""

    def value(rule):
        if "regex" in rule:  # what is left of it without its optional parts
            assert re.fullmatch(rule["regex"], found := re.sub(r"\([^)]*\)[*?]", "", rule["regex"]))
            return found
        return rule["exact"] if "exact" in rule else rule["set"][0]

    calls = [
        (call["name"], {name: value(rule) for name, rule in call["arguments"].items()})
        for call in case.get("calls", [])
    ]
    return " ".join(case.get("answer", {}).get("contains", [])) or ("" if calls else "Hello."), calls


@functools.cache
def evaluation(name: str, passed: int, leaks: int = 0, false_calls: int = 0) -> str:
    """The report, as text, of eval_run.py on a suite of which `passed` cases are answered rightly.

    Of the others `false_calls` call a tool where none is wanted, `leaks` write their call as text, the rest refuse.
    """
    cases = eval_suites.load(ROOT / f"evals/suites/{name}.json").cases
    quiet = [case for case in cases if case["kind"] == "no_tool"]
    failing = [case for case in cases if case["kind"] == "tool_call"]
    failing += [case for case in cases if case["kind"] == "finalization"]
    calling, failing = quiet[:false_calls], failing[: len(cases) - passed - false_calls]
    assert len(calling) + len(failing) == len(cases) - passed
    answers = {json.dumps(case["messages"]): right(case) for case in cases}
    answers |= {json.dumps(case["messages"]): ("No, sorry.", []) for case in failing[leaks:]}
    answers |= {json.dumps(case["messages"]): ("[terminal(command='ls')]", []) for case in failing[:leaks]}
    answers |= {json.dumps(case["messages"]): ("", [("terminal", {"command": "ls"})]) for case in calling}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "report.json"
        with chat_server.serving(lambda body: answers[json.dumps(body["messages"])]) as server:
            suite = ROOT / f"evals/suites/{name}.json"
            flags = ("--backend", "openai", "--url", server.url, "--artifact", "x", "--out", out)
            call_main(eval_run, "--suite", suite, *flags)
        return out.read_text(encoding="utf-8")


def score(name, six, twenty, parent="start", accepted=True, **faults):
    """A checkpoint's score as the loop makes it of its reports; `faults` are of the suite of six."""
    results = {
        "structured_6": json.loads(evaluation("structured_6", six, **faults))["results"],
        "colloquial_20": json.loads(evaluation("colloquial_20", twenty))["results"],
    }
    return {
        "name": name,
        "parent": parent,
        "accepted": accepted,
        "refused": [],
        "seconds": 60,
        "suites": {suite: acceptance.suite_score(results[suite], SUITES[suite]) for suite in SUITES},
    }


def test_an_iteration_that_breaks_a_suite_which_passed_is_refused_with_the_numbers():
    assert acceptance.broken(score("start", 6, 10), score("iter01", 6, 9)) == []
    refused = acceptance.broken(score("start", 6, 10), score("iter01", 5, 20))
    assert refused == ["structured_6 had 6 of 6 and was met, now 5 with 0 leaks and 0 false calls"]
    assert acceptance.broken(score("start", 6, 10), score("iter01", 5, 20, leaks=1)) == [
        "structured_6 had 6 of 6 and was met, now 5 with 1 leaks and 0 false calls"
    ]


def test_the_best_has_most_suites_met_then_most_cases_then_is_the_earliest():
    assert acceptance.best([score("start", 6, 10), score("iter01", 5, 19)])["name"] == "start"
    assert acceptance.best([score("start", 5, 10), score("iter01", 5, 19), score("iter02", 5, 19)])["name"] == "iter01"
    assert acceptance.best([score("start", 4, 10), score("iter01", 6, 19), score("iter02", 6, 20)])["name"] == "iter02"


def test_leaks_and_false_calls_keep_a_suite_from_being_met():
    def met(**faults):
        return acceptance.suite_score(json.loads(evaluation("colloquial_20", 15, **faults))["results"], 15)["meets"]

    assert met() and not met(leaks=1) and not met(false_calls=1)


class Stages:
    """Stands in for processes.run. `passed` is what each checkpoint scores per suite.

    Evaluations are eval_run.py's own on a scripted server, rows are repair_build_set.py's own. Training and fusing,
    which would take hours, leave what repair_train.py reports, and a checkpoint's config that says what it was made of.
    """

    def __init__(self, passed: dict):
        self.passed, self.ran, self.fail, self.sampled = passed, [], None, []

    def __call__(self, command):
        script, flags = command[1].rsplit("/", 1)[-1], command[2:]

        def flag(name):
            return flags[flags.index(name) + 1]

        outcome = "--artifact" if script == "eval_run.py" else "--out" if "--out" in flags else "--adapter"
        self.ran.append((script, flag(outcome)))
        if self.fail == script:
            return subprocess.CompletedProcess(command, 2)
        if script == "eval_run.py":
            suite = Path(flag("--suite")).stem
            write_text(Path(flag("--out")), evaluation(suite, self.passed[flag("--artifact")][suite]))
        elif script == "repair_build_set.py":
            call_main(repair_build_set, *flags)
        elif script == "repair_sample.py":
            self.sampled.append(flags)
            write_text(Path(flag("--out")), "")
        elif script == "repair_train.py":
            self.rate = flag("--learning-rate")
            progress = Progress(losses=[2.0, 1.0], tokens=9, valid_losses=[2.0], seconds=3.0)
            results = repair_train.summary(progress, 1.0, {"train": 9, "valid": 1}, [1.0, 2.0], 2**30)
            report.write(Path(flag("--report")), [], {}, results)
        else:
            write_text(Path(flag("--out")) / "config.json", flag("--adapter"))
        return subprocess.CompletedProcess(command, 0)


@pytest.fixture
def run(tmp_path, monkeypatch):
    write_text(tmp_path / "start" / "config.json", "start")
    section = {
        "suites": SUITES,
        "iterations": 3,
        "rows": 10,
        "training": {"steps": 5, "learning_rate": 0.001},
        "compare_shapes": [],
    }

    def go(stages, *flags, **changes):
        write_json(tmp_path / "config.json", {"repair": {**section, **changes}})
        monkeypatch.setattr(repair_loop.processes, "run", stages)
        monkeypatch.setattr(
            sys,
            "argv",
            [
                "repair_loop.py",
                *map(
                    str,
                    (
                        "--model",
                        tmp_path / "start",
                        "--config",
                        tmp_path / "config.json",
                        "--work",
                        tmp_path / "work",
                        "--data",
                        tmp_path / "data",
                        "--report",
                        tmp_path / "repair.json",
                    ),
                ),
                *flags,
            ],
        )
        repair_loop.main()
        return read_json(tmp_path / "repair.json")["results"]

    go.folder = tmp_path
    return go


def passes(**of):
    return {name: dict(zip(SUITES, counts)) for name, counts in of.items()}


def test_the_loop_ends_when_every_suite_passes(run):
    stages = Stages(passes(start=(6, 9), iter01=(6, 15), iter02=(6, 20)))
    results = run(stages)
    assert [one["name"] for one in results["iterations"]] == ["start", "iter01", "iter02"]
    assert results["best"] == "iter02" and results["complete"]
    assert [one["parent"] for one in results["iterations"]] == [None, "start", "iter01"]
    assert (run.folder / "work/best/config.json").read_text() == str(run.folder / "work/iter02/adapter")


def test_a_refused_iteration_is_left_aside_and_the_next_starts_from_its_parent_with_half_the_rate(run):
    stages = Stages(passes(start=(6, 9), iter01=(5, 20), iter02=(6, 20)))
    results = run(stages)
    assert results["iterations"][1]["refused"] and not results["iterations"][1]["accepted"]
    assert results["iterations"][2]["parent"] == "start" and results["iterations"][2]["learning_rate"] == 0.0005
    assert stages.rate == "0.0005" and results["best"] == "iter02"


def test_shapes_are_compared_on_the_first_iterations_rows_and_never_taken_over(run):
    stages = Stages(
        {**passes(start=(6, 9), iter01=(6, 15), iter02=(6, 20)), **{"iter01.text": dict(zip(SUITES, (6, 20)))}}
    )
    results = run(stages, compare_shapes=["text"])
    assert [one["name"] for one in results["iterations"]] == ["start", "iter01.text", "iter01", "iter02"]
    assert not results["iterations"][1]["accepted"] and results["iterations"][3]["parent"] == "iter01"
    assert sum(script == "repair_build_set.py" for script, _ in stages.ran) == 2


def test_an_interrupted_loop_takes_no_step_twice(run):
    stages = Stages(passes(start=(6, 9), iter01=(6, 20)))
    stages.fail = "repair_fuse.py"
    with pytest.raises(UserError, match="repair_fuse.py failed on iter01 fuse .* finished steps are kept"):
        run(stages)
    before, stages.fail, stages.ran = len(stages.ran), None, []
    assert before == 5 and run(stages)["best"] == "iter01"
    assert [script for script, _ in stages.ran] == ["repair_fuse.py", "eval_run.py", "eval_run.py"]
    stages.ran = []
    run(stages)
    assert stages.ran == []


def test_a_loop_that_does_not_get_there_says_what_is_missing_and_keeps_the_best(run):
    stages = Stages(passes(start=(6, 9), iter01=(6, 12), iter02=(6, 11), iter03=(6, 12)))
    with pytest.raises(UserError, match=r"is iter01: 18 of 26 cases .* not met: colloquial_20"):
        run(stages)
    assert read_json(run.folder / "repair.json")["results"]["best"] == "iter01"
    assert (run.folder / "work/best/config.json").exists()


def test_another_checkpoint_in_the_same_folder_is_refused(run):
    run(Stages(passes(start=(6, 20))))
    write_text(run.folder / "start" / "config.json", "another")
    with pytest.raises(UserError, match="is of another checkpoint"):
        run(Stages(passes(start=(6, 20))))


def test_committed_rows_serve_a_second_clone_with_the_same_failures_and_no_other(run):
    stages = Stages(passes(start=(6, 9), iter01=(6, 20)))
    run(stages)
    shutil.rmtree(run.folder / "work")  # as in a fresh clone, where the rows are there and the runs are not
    stages.ran = []
    assert run(stages)["best"] == "iter01" and "repair_build_set.py" not in [script for script, _ in stages.ran]
    shutil.rmtree(run.folder / "work")
    with pytest.raises(
        UserError, match="iter01: its rows answer other failures than those of start here; .*REPAIR_DATA"
    ):
        run(Stages(passes(start=(6, 8), iter01=(6, 20))))


def test_the_models_own_rows_are_sampled_from_the_parent_of_each_iteration_as_the_config_says(run):
    stages = Stages(passes(start=(6, 9), iter01=(6, 15), iter02=(6, 20)))
    sampled = {"share": 0.5, "tries": 4, "temperature": 0.7}
    results = run(stages, rows=200, sampled=sampled, thoughts="rule")
    assert results["best"] == "iter02" and len(stages.sampled) == 2
    for flags, parent, number in zip(stages.sampled, (run.folder / "start", run.folder / "work/iter01/fused"), "12"):
        given = dict(zip(flags[::2], flags[1::2]))
        assert (given["--model"], given["--iteration"]) == (str(parent), f"0{number}")
        assert (given["--rows"], given["--tries"], given["--temperature"]) == ("35", "4", "0.7")  # half of 35 %
        assert given["--thoughts"] == "rule" and given["--config"] == str(run.folder / "config.json")
    manifest = read_json(run.folder / "data/iter01/manifest.json")
    assert manifest["thoughts"] == "rule" and manifest["sampled"]["path"].endswith("samples.jsonl")
    stages.ran = []
    run(stages, rows=200, sampled=sampled, thoughts="rule")
    assert stages.ran == []


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"thoughts": "own"}, "repair.thoughts is 'own', not one of none, rule"),
        ({"sampled": {"share": 0.5}}, "repair.sampled needs exactly share"),
        ({"sampled": {"share": 0, "tries": 4, "temperature": 0.7}}, "share .above 0, at most 1"),
        ({"sampled": {"share": 0.5, "tries": 4, "temperature": 0}}, "temperature .above 0"),
        ({"samples": {}}, '"repair" needs .* may have thoughts, sampled, add, and nothing else'),
    ],
)
def test_a_wrong_choice_of_the_models_own_rows_is_refused(run, changes, complaint):
    with pytest.raises(UserError, match=complaint):
        run(Stages({}), **changes)


def test_a_config_that_asks_for_what_is_not_there_is_refused(run):
    with pytest.raises(UserError, match="repair.suites.structured_6 is 7; it is how many of its 6 cases must pass"):
        run(Stages({}), suites={"structured_6": 7})
    with pytest.raises(UserError, match="structured_7.json: no such file"):
        run(Stages({}), suites={"structured_7": 7})
    with pytest.raises(UserError, match='"repair" needs suites'):
        run(Stages({}), rows="many")


@pytest.mark.parametrize("theme", style.THEMES, ids=lambda theme: theme.name)
@pytest.mark.parametrize("columns", [1, 2, 6])
def test_the_progression_can_be_read(theme, columns):
    story = [
        score("start", 2, 9, parent=None),
        score("iter01", 6, 19),
        {**score("iter01.text", 0, 4, leaks=2), "accepted": False},
        {**score("iter01.server_text", 6, 11), "accepted": False},
        {**score("iter02", 5, 20), "refused": ["x"], "accepted": False},
        score("iter03", 6, 20),
    ][:columns]
    results = {
        "iterations": story,
        "best": acceptance.best([one for one in story if one["accepted"]])["name"],
        "seconds": 1800,
    }
    with matplotlib.rc_context(style.style(theme)):
        assert style.text_problems(repair.progression({"results": results}, theme)) == []


def test_the_progression_says_where_a_suite_fell_and_was_taken_over_all_the_same():
    story = [
        score("start", 4, 9, parent=None),
        {**score("iter01.text", 4, 15), "accepted": False},
        score("iter01", 3, 19),
        score("iter02", 6, 20, parent="iter01"),
    ]
    results = {"iterations": story, "best": "iter02", "seconds": 1800}
    with matplotlib.rc_context(style.style(style.LIGHT)):
        figure = repair.progression({"results": results}, style.LIGHT)
        texts = [text for text, _ in style.text_boxes(figure)]
    assert style.text_problems(figure) == []
    assert any("iter01 was taken over though structured 6 fell from 4 to 3" in text for text in texts)
    assert "3/6  (1 fewer)" in texts and {"plain text", "no tool list"} <= set(texts)


CALL = {"name": "browser_navigate", "arguments": {"url": "https://example.com"}}


@pytest.mark.parametrize(
    "parsed, said",
    [
        (Answer("", [CALL], "tool_calls"), None),
        (
            Answer("<|tool_call_start|>[browser_navigate()]<|tool_call_end|>", [], "stop"),
            'must say "tool_parser_type": "pythonic"',
        ),
        (Answer("[browser_navigate(url=1)]", [], "stop"), "the server answered with the call as text"),
        (Answer("", [], "tool_calls", ["there is none"]), "the model's syntax is not right"),
        (Answer("I can't.", [], "stop"), "no call came back"),
        (Answer("", [CALL], "stop"), "finish_reason is 'stop'"),
        (Answer("", [{"name": "terminal", "arguments": {}}], "tool_calls"), "called terminal"),
    ],
)
def test_the_parser_check_says_what_is_missing(parsed, said):
    problem = repair_check_parser.verdict(parsed, Answer("", [], "stop", raw_text="raw"))
    assert problem is None if said is None else said in problem


def test_the_installed_mlx_lm_is_as_it_was_published(monkeypatch, tmp_path):
    assert repair_check_parser.patched_files() == []

    class Patched:
        hash = type("Hash", (), {"mode": "sha256", "value": "other"})

        def __str__(self):
            return "mlx_lm/tool_parsers/pythonic.py"

        def read_binary(self):
            return b"patched"

    monkeypatch.setattr(repair_check_parser.importlib.metadata, "files", lambda name: [Patched()])
    assert repair_check_parser.patched_files() == ["mlx_lm/tool_parsers/pythonic.py"]


@pytest.mark.parametrize("name", ["tiny", "tiny-repair", "lfm2.5-8b-a1b"])
def test_every_repair_section_can_be_read(name):
    section = repair_loop.repair_settings_of(ROOT / f"configs/{name}.json")
    assert {"structured_6", "structured_12", "colloquial_20", "fixed_hermes_43", "generation_smoke"} == section[
        "suites"
    ].keys()
    Settings(**section["training"])
