"""What is committed about the SmolLM training agrees with itself and with the code that made it."""

import json

import pytest

import prepare_data
import smol_evaluate
from conftest import ROOT
from kxl.base.files import read_json, sha256
from kxl.smol import requests

CONFIG = read_json(ROOT / "configs/smollm2-135m.json")
MANIFEST = read_json(ROOT / "datasets/smollm2-135m/manifest.json")
EMISSION = ROOT / "reports/smollm2-135m/emission.json"


@pytest.mark.parametrize("split", ["train", "valid"])
def test_the_manifest_has_the_configs_rows_share_and_only_closed_calls(split):
    told = MANIFEST["results"]["splits"][split]
    assert told["rows"] == CONFIG["data"]["rows"][split] == told["tool"] + told["ordinary"]
    assert abs(told["tool_share"] - CONFIG["data"]["tool_share"]) <= CONFIG["data"]["share_tolerance"]
    assert told["longest"] <= CONFIG["data"]["row_tokens"] <= CONFIG["training"]["max_tokens"]
    assert told["start_tokens"] == told["calls"] >= told["tool"] and 0 < told["loss_tokens"] < told["tokens"]


def test_the_manifest_is_of_the_committed_config_template_and_answers():
    assert MANIFEST["settings"]["data"] == CONFIG["data"]
    made_from = {one["path"]: one["sha256"] for one in MANIFEST["inputs"]}
    for path in ("datasets/smollm2-135m/ordinary.jsonl", "third_party/bfcl-eval.lock"):
        assert made_from[path] == sha256(ROOT / path)
    (template,) = [digest for path, digest in made_from.items() if path.endswith("chat_template.jinja")]
    assert template == sha256(ROOT / CONFIG["template"])


def test_each_recorded_answer_belongs_to_a_question_that_is_not_held_out():
    recorded = prepare_data.read_recorded(ROOT / "datasets/smollm2-135m/ordinary.jsonl")
    questions = requests.ordinary_prompts()
    trained = questions[: -CONFIG["data"]["heldout"]["ordinary"]]
    for row in recorded:
        assert row["answer"] and (row["id"].startswith("bfcl/irrelevance_") or row["prompt"] in trained)
    assert len({row["id"] for row in recorded}) == len(recorded)


@pytest.mark.parametrize("served", ["mlx", "q8kxl", "q4kxl"])
def test_the_served_model_and_its_quants_keep_the_calls(served):
    results = read_json(ROOT / f"reports/smollm2-135m/serving.{served}.json")["results"]
    assert results["right_tool"] == sum(
        [call["name"] for call in one["calls"]] == one["expected"] and one["structured"] for one in results["details"]
    )
    assert (
        results["right_tool"] >= CONFIG["emission"]["min_right_tool"] * results["prompts"] and results["prompts"] == 50
    )


def test_the_emission_report_counts_its_own_details():
    report = json.loads(EMISSION.read_text(encoding="utf-8"))
    results = report["results"]
    again = smol_evaluate.compare(results["details"]["before"], results["details"]["after"])
    assert again == results and smol_evaluate.gate(results, CONFIG["emission"]) == []
    assert results["before"]["prompts"] == results["after"]["prompts"] == 50 == results["ordinary"]["prompts"]
    assert report["settings"]["limit"] is None
