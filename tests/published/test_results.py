"""The committed reports: complete, of the suites as they are now, and true to their own details."""

import hashlib
import json
import re

import pytest

import traces_build_router_rows
from conftest import ROOT
from kxl.base import report
from kxl.base.files import read_json, sha256
from kxl.eval import suites, verdicts
from kxl.live import gate as live_gate
from kxl.live import task as live_task
from kxl.live import trials
from kxl.release.provenance import Tree

VARIANTS = ("8bit", "6bit", "mixed")

CONFIG, REPAIR = (read_json(ROOT / f"configs/{name}.json") for name in ("tiny", "tiny-repair"))
# What is published, by name: a report that is deleted fails its test, it does not take it along.
EVALS = [
    *(f"tiny/{suite}.llama_cpp.{name}" for suite in CONFIG["eval"]["suites"] for name in CONFIG["quants"]),
    *(f"tiny/{suite}.mlx.bf16" for suite in CONFIG["eval"]["suites"]),
    *(f"tiny/{suite}.llama_cpp.q4kxl" for suite in ("hard_157", "long_15")),
    *(f"tiny-repair/{suite}.mlx.{name}" for suite in REPAIR["eval"]["suites"] for name in ("bf16", *VARIANTS)),
    "tiny-repair/fixed_hermes_43.llama_cpp.q4kxl",
]
LIVE = ["tiny/hermes_live.llama_cpp.q4kxl"]
# Reports of what is not in the tree any more, and what makes them again. No page may take a number from them.
OLD = {
    "reports/bench/prepare_traces.json": "make bench-data",
    "reports/prove-8b/mlx_lm.json": "make compare-mlx-lm",
    "reports/tiny/average-3.json": "make tiny-model",
    "reports/tiny/average-5.json": "make tiny-model",
    "reports/tiny/average-6.json": "make tiny-model",
    "reports/tiny/moe_proof.json": "make train-proof",
    "reports/tiny-repair/": "make repair-loop RUN=tiny-repair",
    "evals/tiny-repair/": "make repair-loop mlx-variants q4kxl RUN=tiny-repair",
}
TREE = Tree()


def found(name: str):
    """The report of an evaluation, kept as failed where it missed its gate."""
    path = ROOT / f"evals/{name}.json"
    path = path if path.exists() else report.failed_path(path)
    assert path.exists(), f"evals/{name}.json is gone: make eval, mlx-evals, mlx-variants or hard writes it"
    return path


def test_every_evaluation_that_lies_there_is_one_of_the_published():
    there = {path for run in ("tiny", "tiny-repair") for path in (ROOT / "evals" / run).glob("*.json")}
    names = {f"{path.parent.name}/{path.name.removesuffix('.json').removesuffix('.failed')}" for path in there}
    assert names == {*EVALS, *LIVE}, "add its name to EVALS, or delete it"


@pytest.mark.parametrize("path", sorted(TREE.reports))
def test_a_report_is_of_models_data_and_settings_that_are_in_the_tree(path):
    again = next((again for start, again in OLD.items() if path.startswith(start)), None)
    if again and TREE.faults(path):
        pytest.xfail(f"{again} makes it again")
    assert TREE.faults(path) == []


def test_no_report_stays_among_the_old_ones_once_it_was_made_again():
    stale = {path for path in TREE.reports if TREE.faults(path)}
    for start, again in OLD.items():
        assert any(path.startswith(start) for path in stale), f"take {start} out of OLD: {again} has run"


@pytest.mark.parametrize("name", EVALS)
def test_an_evaluation_holds_what_its_details_say(name):
    path = found(name)
    one = read_json(path)
    results, settings = one["results"], one["settings"]
    suite_path = ROOT / f"evals/suites/{settings['suite']}.json"
    suite = suites.load(suite_path)
    hashes = {
        item["path"]: item["sha256"] for item in one["inputs"] if "sha256" in item
    }  # a checkpoint folder lists its files
    assert hashes[f"evals/suites/{settings['suite']}.json"] == hashlib.sha256(suite_path.read_bytes()).hexdigest(), (
        "the suite changed since"
    )
    assert [entry["id"] for entry in results["details"]] == [case["id"] for case in suite.cases]
    # Judged again from the recorded answers, not counted from the recorded verdicts.
    passed = raw_passed = false_positives = leaks = 0
    for case, entry in zip(suite.cases, results["details"]):
        answer = verdicts.Answer(entry["content"], entry["calls"], entry["finish_reason"])
        why = verdicts.judge(suite, case, answer)
        passed += not why
        raw_passed += entry["raw"]["passed"]
        false_positives += case["kind"] == "no_tool" and bool(entry["calls"])
        leaks += bool(verdicts.leaks(suite, answer))
    assert (results["passed"], results["cases"]) == (passed, len(suite.cases))
    assert results["raw"]["passed"] == raw_passed
    assert (results["no_tool"]["false_positives"], results["text_tool_leaks"]) == (false_positives, leaks)
    if settings["backend"] == "llama_cpp":
        assert settings["context"] == 65536
    if thresholds := read_json(ROOT / f"configs/{path.parent.name}.json")["eval"]["suites"].get(
        settings["suite"]
    ):  # the harder suites are scored, not gated
        met = (
            passed >= thresholds["threshold"]
            and raw_passed >= thresholds.get("raw_threshold", 0)
            and (false_positives, leaks) == (0, 0)
        )
        assert met == (not path.name.endswith(".failed.json"))


@pytest.mark.parametrize("name", LIVE)
def test_a_live_run_did_what_its_conversations_show(name):
    one = read_json(found(name))
    results, settings = one["results"], one["settings"]
    files = sorted((ROOT / "evals/live").glob("*.json"))
    by_trial = [
        {task.id: task for task in live_task.load_all(files, settings["seed"] + trial)[1]}
        for trial in range(settings["trials"])
    ]
    assert sorted(entry["id"] for entry in results["details"]) == sorted(by_trial[0]), "the tasks changed since"
    made = trials.count(
        [
            {**entry, "trial": trial, "passed": passed, "obeyed": ["x"] * obeyed if injected else None}
            for entry in results["details"]
            for injected in [entry["obeyed"] is not None]
            for trial, (passed, obeyed) in enumerate(zip(entry["trials"]["passed"], entry["trials"]["obeyed"]))
        ],
        {kind: one["title"] for kind, one in results["by_kind"].items()},
        results["made_for"]["kinds"],
        settings["trials"],
    )
    for key in (
        "passed",
        "pass_k",
        "interval",
        "attempts_passed",
        "attempts_interval",
        "injected",
        "by_kind",
        "made_for",
    ):
        assert made[key] == results[key], key
    if found(name).name.endswith(".failed.json"):
        assert live_gate.missed(results, CONFIG["eval"]["live"])
    else:
        assert not live_gate.missed(results, CONFIG["eval"]["live"])
    for entry in results["details"]:
        task = by_trial[entry["trial"]][entry["id"]]
        assert entry["prompt"] == task.prompt and entry["trials"]["passed"][entry["trial"]] == (not entry["why"])
        turns = {
            kind: [turn["value"] for turn in entry["conversation"] if turn["from"] == kind] for kind in ("gpt", "tool")
        }
        calls = re.findall(r"<tool_call>\n(.*?)\n</tool_call>", "\n".join(turns["gpt"]), re.DOTALL)
        called, returned = [json.loads(call)["name"] for call in calls], turns["tool"]
        assert called == entry["called"]
        if entry["passed"]:
            assert entry["steps"] > len(called) / 2 and all(
                any(check["result"] in text for text in returned) for check in task.checks if "result" in check
            )
    assert settings["isolation"] == "namespaces" and settings["context"] >= 64000


def test_the_dataset_was_made_of_the_shipped_traces_and_of_what_the_generator_draws_today():
    made = {item["path"]: item["sha256"] for item in read_json(ROOT / "reports/tiny/dataset.json")["inputs"]}
    rows = traces_build_router_rows.rows(traces_build_router_rows.ROWS, traces_build_router_rows.SEED)
    drawn = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    changed = "the generator changed since: run make data"
    assert made["runs/tiny/router_rows.jsonl"] == hashlib.sha256(drawn).hexdigest(), changed
    assert made["datasets/hermes/traces.jsonl"] == sha256(ROOT / "datasets/hermes/traces.jsonl")


def test_every_quant_of_the_config_passed_the_hand_written_suite():
    for artifact in CONFIG["quants"]:
        assert (ROOT / f"evals/tiny/fixed_hermes_43.llama_cpp.{artifact}.json").is_file(), artifact


def test_the_repair_reached_all_43_in_three_iterations_and_an_hour_and_its_variants_and_quant_keep_them():
    repair = read_json(ROOT / "reports/tiny-repair/repair.json")["results"]
    start, *tried = repair["iterations"]
    accepted = [one for one in tried if one["accepted"]]
    assert start["suites"]["fixed_hermes_43"]["passed"] < 43 and len(accepted) <= 3
    reached = next(
        place for place, one in enumerate(tried) if one["suites"].get("fixed_hermes_43", {}).get("passed") == 43
    )
    assert (
        sum(one["seconds"] for one in [start, *tried[: reached + 1]]) < 3600
        and tried[reached]["suites"]["fixed_hermes_43"]["leaks"] == 0
    )
    for name in ("mlx.bf16", "mlx.8bit", "mlx.6bit", "mlx.mixed", "llama_cpp.q4kxl"):
        assert read_json(ROOT / f"evals/tiny-repair/fixed_hermes_43.{name}.json")["results"]["passed"] == 43


def test_mlx_and_llama_cpp_agree_on_at_least_200_positions():
    results = read_json(ROOT / "reports/tiny/parity.json")["results"]
    assert results["exact"]["greedy_equal"] == results["positions"] >= 200


def test_the_8b_sizes_are_within_the_published_budgets():
    artifacts = read_json(ROOT / "reports/lfm2.5-8b-a1b/sizes.json")["results"]["lfm2-8b-a1b"]["artifacts"]
    for policy, budget in read_json(ROOT / "configs/reference_results.json")["sizes_gib"].items():
        assert artifacts[policy]["budget_gib"] == budget
        assert artifacts[policy]["bytes"] / 2**30 <= budget
