"""What make does and does not do: each arrow of the line is a real file dependency.

The Makefile runs in a copy of the repository in which `.venv/bin/python` only notes what it was asked
to run and creates the files that the script would have made.
"""

import ast
import re
import resource

import pytest

from conftest import ROOT
from helpers.checkout import STUB

LINE = ["convert_gguf", "build_tiny_rows", "build_calibration", "compute_imatrix", "quantize_kxl", "run_eval"]


def test_q4kxl_runs_the_whole_line_once_and_then_says_up_to_date(checkout):
    assert checkout.scripts("q4kxl") == [*LINE, "show_artifacts"]
    code, output, ran = checkout.make("q4kxl")
    assert code == 0 and [line.split()[0] for line in ran] == ["show_artifacts"]
    assert "up to date" in output


def test_a_second_q4kxl_takes_under_three_seconds(checkout):
    checkout.make("q4kxl")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    checkout.make("q4kxl")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Processor time, so that a busy machine does not fail it.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3


@pytest.mark.parametrize(
    "touched, remade",
    [
        (
            "scripts/kxl/tiny/words.py",
            ["build_tiny_rows", "build_calibration", "compute_imatrix", "quantize_kxl", "run_eval"],
        ),
        (
            "models/tiny/model.safetensors",
            ["convert_gguf", "build_calibration", "compute_imatrix", "quantize_kxl", "run_eval"],
        ),
        ("patches/llama.cpp-lfm2-conv-layout.patch", ["convert_gguf", "compute_imatrix", "quantize_kxl", "run_eval"]),
        ("runs/tiny/calibration.txt", ["compute_imatrix", "quantize_kxl", "run_eval"]),
        ("gguf/q4kxl.tensor-types", ["quantize_kxl", "run_eval"]),
        ("gguf/q8kxl.tensor-types", []),
        ("configs/tiny.json", ["run_eval"]),
        ("evals/suites/generated_200.json", ["build_calibration", "compute_imatrix", "quantize_kxl", "run_eval"]),
        ("evals/suites/fixed_hermes_43.json", ["build_calibration", "compute_imatrix", "quantize_kxl", "run_eval"]),
        ("README.md", []),
    ],
)
def test_touching_one_input_remakes_only_what_depends_on_it(checkout, touched, remade):
    (checkout.folder / "README.md").touch()
    checkout.make("q4kxl")
    checkout.touch(touched)
    assert checkout.scripts("q4kxl") == [*remade, "show_artifacts"]


def test_the_other_quants_reuse_what_q4kxl_made(checkout):
    checkout.make("q4kxl")
    assert checkout.scripts("q8kxl") == ["quantize_kxl", "run_eval", "show_artifacts"]


def test_a_stage_that_fails_leaves_no_file_that_counts(checkout):
    checkout.make("gguf")
    python = checkout.folder / ".venv" / "bin" / "python"
    python.write_text(STUB + 'if name == "run_eval": sys.exit(2)\n')
    code, _, _ = checkout.make("q4kxl")
    assert code != 0
    python.write_text(STUB)
    assert checkout.scripts("q4kxl") == ["run_eval", "show_artifacts"]


def test_an_own_checkpoint_goes_through_the_same_line_into_its_own_folders(checkout):
    code, output, ran = checkout.make("q4kxl", "MODEL=mine", "CONFIG=configs/lfm2.5-8b-a1b.json", "RUN=mine")
    assert code == 0, output
    assert [line.split()[0] for line in ran] == [*LINE, "show_artifacts"]
    assert "--model mine" in ran[0] and "--out runs/mine/LFM-2.5-8B-1B-Hermes-Tuned-bf16.gguf" in ran[0]
    assert "--base-model LiquidAI/LFM2.5-8B-A1B" in ran[0] and "--license other --license-name lfm1.0" in ran[0]
    assert (
        "--out evals/mine/fixed_hermes_43.llama_cpp.q4kxl.json" in ran[-2]
        and "--config configs/lfm2.5-8b-a1b.json" in ran[-2]
    )
    assert not (checkout.folder / "runs" / "tiny").exists() and not (checkout.folder / "evals" / "tiny").exists()


def test_another_checkpoint_under_the_same_run_name_is_converted_although_its_files_are_older(checkout):
    checkout.make("gguf", "MODEL=models/tiny", "RUN=x")
    assert checkout.scripts("gguf", "MODEL=models/tiny", "RUN=x") == []
    assert checkout.scripts("gguf", "MODEL=mine", "RUN=x") == ["convert_gguf"]


@pytest.mark.parametrize(
    "args, message",
    [
        (["q4kxl", "MODEL=mine"], "add RUN=name"),
        (["q4kxl", "CONFIG=configs/nothing.json"], "name another one with CONFIG="),
        (["q4kxl", "CONFIG=configs/lfm2.5-8b-a1b.json"], "has no checkpoint of its own: add MODEL=folder RUN=name"),
        (["clean", "RUN=.."], "must be one name"),
        (["clean", "RUN=a/b"], "must be one name"),
        (["clean", "RUN="], "must be one name"),
    ],
)
def test_a_wrong_call_says_what_to_change(checkout, args, message):
    code, output, ran = checkout.make(*args)
    assert code != 0 and message in output and ran == []


def test_figures_and_summary_come_from_committed_results_without_running_a_stage(checkout):
    assert checkout.scripts("visuals", "release-summary") == ["build_visual_assets", "build_release_summary"]


def test_make_alone_lists_every_target_in_the_order_of_the_line(checkout):
    code, output, ran = checkout.make()
    assert code == 0 and ran == []
    listed = re.findall(r"^  ([a-z0-9-]+) +\S", output, flags=re.MULTILINE)
    line = [
        "venv",
        "llama",
        "tools",
        "tiny-model",
        "gguf",
        "imatrix",
        "parity",
        "q8kxl",
        "q6kxl",
        "q5kxl",
        "q4kxl",
        "kxl",
        "sizes",
        "quants",
        "eval",
        "release",
        "release-summary",
        "visuals",
        "test",
    ]
    assert [name for name in listed if name in line] == line
    phony = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)) - {
        "help",
        "llama-ready",
    }
    assert phony == set(listed)


def test_a_stage_depends_on_every_script_that_its_script_imports(checkout):
    rules = checkout.make("--print-data-base", "--dry-run", "release")[1].splitlines()
    checked = set()
    for rule in rules:
        needed = set(re.findall(r"scripts/(\w+)\.py", rule)) if re.match(r"\S+.*: ", rule) else set()
        for verb in filter(is_verb, needed):
            assert imported(verb) <= needed, rule
            checked.add(verb)
    assert checked >= set(LINE) | {"check_parity", "measure_quants", "predict_sizes"}


def imported(script: str) -> set[str]:
    """Sibling scripts that `script` imports, directly or not, except the edges that decide no result."""
    found, todo = set(), [script]
    while todo:
        tree = ast.parse((ROOT / "scripts" / f"{todo.pop()}.py").read_text(encoding="utf-8"))
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        fresh = {name for name in names if name and (ROOT / "scripts" / f"{name}.py").is_file()} - found
        found |= fresh
        todo += fresh
    return found - {
        "cli",
        "files",
        "freed_memory",
        "history",
        "processes",
        "report",
        "llama_cpp",
        "mlx_backend",
        "venvs",
    }


def is_verb(script: str) -> bool:
    return "cli.run(main)" in (ROOT / "scripts" / f"{script}.py").read_text(encoding="utf-8")


def test_every_script_that_make_runs_exists():
    named = set(re.findall(r"scripts/(\w+\.py)", (ROOT / "Makefile").read_text()))
    assert {name for name in named if not (ROOT / "scripts" / name).is_file()} == set()
