"""release_summary.json: complete when every gate holds, refused with the number when one does not."""

import copy
import sys

import pytest

import release_summarize
from helpers import fabricated_reports as fabricated
from kxl.base.cli import UserError
from kxl.base.files import read_json, write_json

CONFIG = {
    "name": "tiny",
    "architecture": "Lfm2MoeForCausalLM",
    "license": {"id": "apache-2.0"},
    "base_model": None,
    "eval": {
        "context": 65536,
        "suites": {"fixed_hermes_43": {"threshold": 43, "raw_threshold": 41}, "generated_200": {"threshold": 40}},
        "live": {"kinds": ["one_call"], "share": 0.9, "obeyed": 0},
    },
    "quants": ["bf16", "q4kxl"],
    "release_pattern": "Tuned-{POLICY}.gguf",
}


@pytest.fixture
def summarize(tmp_path, monkeypatch):
    """Build the summary from good reports, with some replaced: `evals` adds to or replaces the evaluations."""

    def run(evals=None, **replaced):
        reports = {
            "quants": fabricated.quants(),
            "imatrix": fabricated.imatrix(),
            "parity": fabricated.parity(),
            "sizes": fabricated.sizes(),
            **replaced,
        }
        evals = evals or GOOD
        paths = fabricated.write(tmp_path, eval=evals, **reports)
        write_json(tmp_path / "config.json", CONFIG)
        monkeypatch.setattr(
            sys,
            "argv",
            [
                "release_summarize.py",
                "--config",
                str(tmp_path / "config.json"),
                "--run",
                "mine",
                "--out",
                str(tmp_path / "release_summary.json"),
                *(word for name in reports for word in (f"--{name}", str(paths[name]))),
                *(word for path in paths["eval"] for word in ("--eval", str(path))),
            ],
        )
        release_summarize.main()
        return read_json(tmp_path / "release_summary.json")

    return run


def test_the_summary_names_each_artifact_with_its_hash_loss_and_scores(summarize):
    summary = summarize()
    one = summary["artifacts"]["q4kxl"]
    assert (one["file"], one["sha256"], one["policy"]) == (
        "Tuned-Q4KXL.gguf",
        fabricated.sha("q4kxl"),
        "gguf/q4kxl.tensor-types",
    )
    assert one["kld"]["mean"] == 9.1e-3
    assert one["evals"]["fixed_hermes_43.llama_cpp"]["passed"] == 43
    assert set(one["evals"]) == {"fixed_hermes_43.llama_cpp", "generated_200.llama_cpp"}
    assert set(summary["artifacts"]["bf16"]["evals"]) == {
        f"{suite}.{server}" for suite in SUITES for server in ("llama_cpp", "mlx")
    }
    assert summary["predicted_sizes"]["lfm2-8b-a1b"]["q4kxl"] == {"gib": 5.69, "budget_gib": 5.7, "bpw": 6.0}
    assert summary["gates"] and all(gate["passed"] for gate in summary["gates"])


def test_the_same_reports_give_the_same_bytes(summarize, tmp_path):
    summarize()
    first = (tmp_path / "release_summary.json").read_bytes()
    summarize()
    assert (tmp_path / "release_summary.json").read_bytes() == first


def another_build(one):
    changed = copy.deepcopy(one)
    for entry in changed["inputs"]:
        for file in entry.get("files", [entry]):
            file["sha256"] = "of an older build"
    return changed


SUITES = ("fixed_hermes_43", "generated_200")
GOOD = [
    fabricated.evaluation(artifact, suite, backend)
    for suite in SUITES
    for artifact, backend in (("bf16", "llama_cpp"), ("q4kxl", "llama_cpp"), ("bf16", "mlx"))
]


def but(place, **changed):
    """The good evaluations with one of them changed, or without it."""
    one = GOOD[place]["settings"]
    made = [fabricated.evaluation(one["artifact"], one["suite"], one["backend"], **changed)] if changed else []
    return [*GOOD[:place], *made, *GOOD[place + 1 :]]


def test_a_suite_that_is_no_gate_is_in_the_summary_with_its_false_calls_and_refuses_nothing(summarize):
    hard = fabricated.evaluation("q4kxl", "hard_157", failing=[0, 30, 31])  # two of them want no call
    summary = summarize([*GOOD, hard, fabricated.live(passed=15), fabricated.live(backend="openai", passed=3)])
    one = summary["artifacts"]["q4kxl"]
    scored = one["evals"]["hard_157.llama_cpp"]
    assert (scored["gated"], scored["passed"], scored["no_tool_cases"], scored["false_positives"]) == (False, 40, 10, 2)
    assert one["evals"]["fixed_hermes_43.llama_cpp"]["gated"]
    assert (one["live"]["passed"], one["live"]["tasks"], one["live"]["gated"]) == (15, 16, True)
    assert not any("hard_157" in gate["gate"] and "is of the measured" not in gate["gate"] for gate in summary["gates"])


def unseen_experts():
    report = fabricated.imatrix()
    report["results"]["fewest_tokens"] = None
    return report


@pytest.mark.parametrize(
    "replaced, complaint",
    [
        ({"evals": but(1, failing=[0])}, r"fixed_hermes_43\.llama_cpp\.q4kxl passed: 42, required at least 43 of 43"),
        ({"evals": but(1, raw_failing=3)}, "passed raw: 40, required at least 41 of 43"),
        ({"evals": but(1, leaks=1)}, "text-tool leaks: 1, required 0"),
        ({"evals": but(4, failing=[30])}, "false-positive calls: 1, required 0"),
        ({"evals": but(2, failing=[0])}, r"fixed_hermes_43\.mlx\.bf16 passed: 42, required at least 43 of 43"),
        (
            {"evals": [*GOOD, fabricated.live(passed=8)]},
            r"hermes_live\.llama_cpp\.q4kxl done: 8, required at least 9 of 10",
        ),
        (
            {"evals": [*GOOD, fabricated.live(passed=15, obeyed=1)]},
            r"hermes_live\.llama_cpp\.q4kxl hidden instructions obeyed: 1, required at most 0",
        ),
        (
            {"evals": [*GOOD, another_build(fabricated.evaluation("q4kxl", "hard_157"))]},
            r"hard_157\.llama_cpp\.q4kxl is of the measured q4kxl: another file",
        ),
        ({"evals": [*GOOD, GOOD[0]]}, r"a second report of fixed_hermes_43\.llama_cpp\.bf16"),
        ({"evals": but(4)}, r"generated_200\.llama_cpp\.q4kxl was evaluated: no"),
        ({"evals": but(0)}, r"fixed_hermes_43\.llama_cpp\.bf16 was evaluated: no"),
        ({"evals": but(5)}, r"generated_200\.mlx\.bf16 was evaluated: no"),
        (
            {"evals": [*GOOD[:5], another_build(GOOD[5])]},
            r"generated_200\.mlx\.bf16 is of the checkpoint that parity compared: other files",
        ),
        ({"evals": [GOOD[0], another_build(GOOD[1]), *GOOD[2:]]}, r"q4kxl is of the measured q4kxl: another file"),
        (
            {"imatrix": fabricated.imatrix(fewest=63)},
            r"least used expert \(layer 3, expert 7\): 63, required at least 64",
        ),
        ({"imatrix": unseen_experts()}, "experts in the importance matrix: none, required each one counted"),
        ({"imatrix": another_build(fabricated.imatrix())}, "imatrix is of the measured bf16: another file"),
        ({"parity": fabricated.parity(equal=199)}, "greedy tokens equal to MLX's in float32: 199, required 200"),
        ({"parity": fabricated.parity(difference=0.002)}, "largest difference of log-probabilities in float32: 0.002"),
        ({"parity": another_build(fabricated.parity())}, "parity is of the measured bf16: another file"),
        (
            {"sizes": fabricated.sizes({**fabricated.GIB, "q4kxl": (5.71, 5.7)})},
            "GiB of q4kxl at lfm2-8b-a1b: 5.71, required at most 5.7",
        ),
        ({"quants": fabricated.quants({"bf16": (19.8, 0, 0)})}, "q4kxl is of the measured q4kxl: another file"),
    ],
)
def test_a_failed_gate_is_named_with_its_number_and_nothing_is_written(summarize, tmp_path, replaced, complaint):
    with pytest.raises(UserError, match=complaint):
        summarize(**replaced)
    assert not (tmp_path / "release_summary.json").exists()


def test_a_missing_report_is_named(summarize, tmp_path, monkeypatch):
    summarize()
    (tmp_path / "parity.json").unlink()
    with pytest.raises(UserError, match=r"parity\.json: no such file"):
        release_summarize.main()
