"""What is committed about the SmolLM training agrees with itself.

The committed reports are of the training before the judging sets: one to three tools, 50 prompts. Their numbers are
counted here anew from their details, without the code that judges today.
"""

import pytest

from conftest import ROOT
from kxl.base import jsonl
from kxl.base.files import read_json, sha256

MANIFEST = read_json(ROOT / "datasets/smollm2-135m/manifest.json")
EMISSION = read_json(ROOT / "reports/smollm2-135m/emission.json")
TEMPLATE = ROOT / "configs/templates/smollm2-tools.jinja"


@pytest.mark.parametrize("split", ["train", "valid"])
def test_the_manifest_has_its_rows_share_and_only_closed_calls(split):
    told, data = MANIFEST["results"]["splits"][split], MANIFEST["settings"]["data"]
    assert told["rows"] == told["tool"] + told["ordinary"] == sum(told["sources"].values())
    assert abs(told["tool_share"] - data["tool_share"]) <= data["share_tolerance"]
    assert told["tool_share"] == pytest.approx(told["tool"] / told["rows"], abs=1e-3)
    assert told["longest"] <= data["row_tokens"]
    assert told["start_tokens"] == told["calls"] >= told["tool"] and 0 < told["loss_tokens"] < told["tokens"]


def test_the_manifest_is_of_the_committed_template_answers_and_judging_sets():
    made_from = {one["path"]: one["sha256"] for one in MANIFEST["inputs"]}
    answers = "datasets/smollm2-135m/recorded.jsonl"
    for path in (answers, "datasets/smol/dev.json", "datasets/smol/test.json", "datasets/smol/requests.json"):
        assert made_from[path] == sha256(ROOT / path), path
    (template,) = [digest for path, digest in made_from.items() if path.endswith("chat_template.jinja")]
    assert template == sha256(TEMPLATE)
    rows = [row for _, row in jsonl.objects(ROOT / answers, "git")]
    assert all(row["answer"] for row in rows) and len({row["id"] for row in rows}) == len(rows)
    kinds = {row["kind"] for row in rows}
    assert kinds >= {"ordinary", "irrelevance", "live_irrelevance"}, kinds


def right(entry: dict) -> bool:
    return [call["name"] for call in entry["calls"]] == entry["expected"]


@pytest.mark.parametrize("served", ["mlx", "q8kxl", "q4kxl"])
def test_the_served_model_and_its_quants_keep_the_calls(served):
    results = read_json(ROOT / f"reports/smollm2-135m/serving.{served}.json")["results"]
    assert results["right_tool"] == sum(right(one) and one["structured"] for one in results["details"])
    assert results["right_tool"] >= 0.9 * results["prompts"] and results["prompts"] == 50


def test_the_emission_report_counts_its_own_details():
    results, details = EMISSION["results"], EMISSION["results"]["details"]
    for when in ("before", "after"):
        tool = [entry for entry in details[when] if entry["kind"] == "tool"]
        whole = [entry for entry in tool if entry["verdict"] == "call"]
        told = [results[when][name] for name in ("prompts", "emitting", "start_json_end", "right_tool")]
        assert told == [len(tool), sum(entry["started"] for entry in tool), len(whole), sum(map(right, whole))]
    for kind in ("ordinary", "near_miss"):
        entries = [entry for entry in details["after"] if entry["kind"] == kind]
        called = sum(entry["started"] for entry in entries)
        assert results[kind] == {"prompts": len(entries), "false_calls": called}
    assert results["after"]["right_tool"] >= 0.9 * results["after"]["prompts"] and EMISSION["settings"]["limit"] is None


def test_vllms_parser_found_every_whole_call_of_that_report():
    results = read_json(ROOT / "reports/smollm2-135m/serving.vllm_parser.json")["results"]
    whole = sum(entry["verdict"] == "call" for entry in EMISSION["results"]["details"]["after"])
    assert results["whole_calls"] == results["same"] == results["same_streamed"] == whole
    assert results["called_elsewhere"] == 0 and results["answers"] == len(EMISSION["results"]["details"]["after"])
