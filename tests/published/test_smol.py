"""What is committed about the SmolLM training agrees with itself, with its adapter and with its judging sets.

Numbers are counted here anew from the reports' details, without the code that judges.
"""

import pytest

from conftest import ROOT
from kxl.base import jsonl, report
from kxl.base.files import read_json, sha256

FOLDER = ROOT / "reports/smollm2-135m"
MANIFEST = read_json(ROOT / "datasets/smollm2-135m/manifest.json")
TEMPLATE = ROOT / "configs/templates/smollm2-tools.jinja"
ADAPTER = ROOT / "models/smollm2-135m-tools"
LIMITS = read_json(ROOT / "configs/smollm2-135m.json")["emission"]


def published(name: str) -> dict:
    path = FOLDER / f"{name}.json"
    return read_json(path if path.exists() else report.failed_path(path))


EMISSION = published("emission")
RESULTS, DETAILS = EMISSION["results"], EMISSION["results"]["details"]


def inputs(of: dict) -> dict[str, str]:
    return {one["path"]: one["sha256"] for one in of["inputs"]}


@pytest.mark.parametrize("split", ["train", "valid"])
def test_the_manifest_has_its_rows_share_and_only_closed_calls(split):
    told, data = MANIFEST["results"]["splits"][split], MANIFEST["settings"]["data"]
    assert told["rows"] == told["tool"] + told["ordinary"] == sum(told["sources"].values())
    assert abs(told["tool_share"] - data["tool_share"]) <= data["share_tolerance"]
    assert told["tool_share"] == pytest.approx(told["tool"] / told["rows"], abs=1e-3)
    assert told["longest"] <= data["row_tokens"]
    assert told["start_tokens"] == told["calls"] >= told["tool"] and 0 < told["loss_tokens"] < told["tokens"]


def test_the_manifest_is_of_the_committed_template_answers_and_judging_sets():
    made_from = inputs(MANIFEST)
    answers = "datasets/smollm2-135m/recorded.jsonl"
    for path in (answers, "datasets/smol/dev.json", "datasets/smol/test.json", "datasets/smol/requests.json"):
        assert made_from[path] == sha256(ROOT / path), path
    (template,) = [digest for path, digest in made_from.items() if path.endswith("chat_template.jinja")]
    assert template == sha256(TEMPLATE)
    rows = [row for _, row in jsonl.objects(ROOT / answers, "git")]
    assert all(row["answer"] for row in rows) and len({row["id"] for row in rows}) == len(rows)
    kinds = {row["kind"] for row in rows}
    assert kinds >= {"ordinary", "irrelevance", "live_irrelevance"}, kinds


def test_the_report_is_of_the_committed_adapter_and_of_the_whole_test_set():
    digests = set(inputs(EMISSION).values())
    for path in (ADAPTER / "adapter.safetensors", ADAPTER / "adapter.json", ROOT / "datasets/smol/test.json"):
        assert sha256(path) in digests, path
    assert EMISSION["settings"]["limit"] is None
    asked = {row["id"] for row in read_json(ROOT / "datasets/smol/test.json")["rows"]}
    assert {entry["id"] for entry in DETAILS["before"]} == asked
    assert {entry["id"] for entry in DETAILS["after"] if entry["kind"] != "masked"} == asked


def names(calls: list) -> list[str]:
    return [call["name"] for call in calls]


def plainly_right(entry: dict) -> bool:
    """Each argument is literally one of those that are accepted, and none that is needed is missing."""
    return all(
        all(
            key in wanted["arguments"] and value in wanted["arguments"][key] for key, value in call["arguments"].items()
        )
        and all(key in call["arguments"] or "" in values for key, values in wanted["arguments"].items())
        for call, wanted in zip(entry["calls"], entry["expected"])
    )


@pytest.mark.parametrize("kind, told", [("tool", RESULTS["test"]), ("masked", RESULTS["masked_names"])])
def test_calls_are_counted_as_their_details_say(kind, told):
    entries = [entry for entry in DETAILS["after"] if entry["kind"] == kind]
    whole = [entry for entry in entries if entry["verdict"] == "call"]
    right = [entry for entry in whole if names(entry["calls"]) == names(entry["expected"])]
    assert [told["prompts"], told["start_json_end"], told["right_tool"]] == [len(entries), len(whole), len(right)]
    assert told["right_arguments"] == sum(entry["right_arguments"] for entry in entries)
    assert all(entry["right_arguments"] for entry in right if plainly_right(entry))
    assert all(entry in right for entry in entries if entry["right_arguments"])
    assert told["prompts"] >= 300 and min(len(entry["tools"]) for entry in entries) >= 3


@pytest.mark.parametrize("when", ["before", "after"])
def test_false_calls_are_counted_as_their_details_say(when):
    told = RESULTS if when == "after" else RESULTS["before"]
    for part, kinds in (("restraint", ("near_miss", "irrelevance", "live_irrelevance")), ("ordinary", ("ordinary",))):
        entries = [entry for entry in DETAILS[when] if entry["kind"] in kinds]
        called = sum("<tool_call>" in entry["text"] for entry in entries)
        assert (told[part]["prompts"], told[part]["false_calls"]) == (len(entries), called)
    assert RESULTS["restraint"]["prompts"] >= 300 and RESULTS["ordinary"]["prompts"] >= 100


def test_a_missed_gate_is_told_by_the_reports_name():
    test, shares = RESULTS["test"], []
    shares += [test[name] / test["prompts"] >= LIMITS[f"min_{name}"] for name in ("right_tool", "right_arguments")]
    for part, limit in (("restraint", "max_false_calls"), ("ordinary", "max_ordinary_calls")):
        shares.append(RESULTS[part]["false_calls"] / RESULTS[part]["prompts"] <= LIMITS[limit])
    masked = RESULTS["masked_names"]["right_tool"] / RESULTS["masked_names"]["prompts"]
    shares.append(test["right_tool"] / test["prompts"] - masked <= LIMITS["max_masked_loss"])
    assert all(shares) == (FOLDER / "emission.json").exists()


@pytest.mark.parametrize("served", ["q8kxl", "q4kxl"])
def test_a_server_keeps_the_calls_of_the_raw_tokens(served):
    told = published(f"serving.{served}")
    results, raw = told["results"], {entry["id"]: entry for entry in DETAILS["after"]}
    structured = [entry for entry in results["details"] if entry["structured"]]
    right = [entry for entry in structured if names(entry["calls"]) == names(entry["expected"])]
    whole = [entry for entry in results["details"] if raw[entry["id"]]["verdict"] == "call"]
    assert [results["prompts"], results["structured"], results["right_tool"], results["raw"]] == [
        len(results["details"]),
        len(structured),
        len(right),
        len(whole),
    ]
    assert (len(structured) >= len(whole) - LIMITS["max_served_loss"] * results["prompts"]) == (
        FOLDER / f"serving.{served}.json"
    ).exists()
    assert results["prompts"] >= 100 and inputs(told)["datasets/smol/test.json"] == sha256(
        ROOT / "datasets/smol/test.json"
    )


def test_vllms_parser_found_every_whole_call_of_that_report():
    results = published("serving.vllm_parser")["results"]
    whole = sum(entry["verdict"] == "call" for entry in DETAILS["after"])
    assert results["whole_calls"] == results["same"] == results["same_streamed"] == whole
    assert results["called_elsewhere"] == 0 and results["answers"] == len(DETAILS["after"])
