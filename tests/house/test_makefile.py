"""What make does and does not do: each arrow of the line is a real file dependency.

The Makefile runs in a copy of the repository in which `.venv/bin/python` only notes what it was asked to run and
creates the files that the script would have made.
"""

import os
import re
import resource
import time

import pytest

from conftest import ROOT
from helpers.checkout import STUB

pytestmark = pytest.mark.minutes

LINE = [
    "quant_convert",
    "tiny_build_rows",
    "quant_build_calibration",
    "quant_lint",
    "quant_compute_imatrix",
    "quant_quantize",
    "eval_run",
]


def test_q4kxl_runs_the_whole_line_once_and_then_says_up_to_date(checkout):
    assert checkout.scripts("q4kxl") == [*LINE, "quant_show"]
    code, output, ran = checkout.make("q4kxl")
    assert code == 0 and [line.split()[0] for line in ran] == ["quant_show"]
    assert "up to date" in output


def test_a_second_q4kxl_takes_under_two_seconds(checkout):
    checkout.make("q4kxl")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    checkout.make("q4kxl")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Processor time, so that a busy machine does not fail it.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2


CALIBRATED = ["quant_build_calibration", "quant_compute_imatrix", "quant_quantize", "eval_run"]
MADE = CALIBRATED[2:]
ESTIMATED = ["search_estimate", "search_policy"]  # what a config with estimated policies needs beside


@pytest.mark.parametrize(
    "touched, remade",
    [
        ("datasets/tiny/words.txt", ["tiny_build_rows", *CALIBRATED]),
        ("datasets/tiny/forms/requests.json", ["tiny_build_rows", *CALIBRATED]),
        ("models/tiny/model.safetensors", ["quant_convert", "quant_lint", *CALIBRATED[1:]]),
        ("patches/llama.cpp-lfm2-conv-layout.patch", ["quant_convert", "quant_lint", *CALIBRATED[1:]]),
        ("runs/tiny/calibration.txt", CALIBRATED[1:]),
        ("gguf/q4kxl.tensor-types", ["quant_lint", *CALIBRATED[2:]]),
        ("gguf/q8kxl.tensor-types", ["quant_lint"]),
        ("configs/tiny.json", []),  # of it only parts count
        ("evals/suites/generated_200.json", CALIBRATED),
        ("evals/suites/fixed_hermes_43.json", CALIBRATED),
        ("README.md", []),
    ],
)
def test_changing_one_input_remakes_only_what_depends_on_it(checkout, touched, remade):
    (checkout.folder / "README.md").touch()
    checkout.make("q4kxl")
    checkout.change(touched)
    assert checkout.scripts("q4kxl") == [*remade, "quant_show"]


def test_a_file_with_another_time_and_the_same_content_remakes_nothing(checkout):
    checkout.make("q4kxl")
    for name in (
        "models/tiny/config.json",
        "models/tiny/model.safetensors",
        "gguf/q4kxl.tensor-types",
        "evals/suites/fixed_hermes_43.json",
        "datasets/tiny/words.txt",
        "third_party/llama.cpp.lock",
    ):
        checkout.touch(name)
    assert checkout.scripts("q4kxl") == ["quant_show"]


def test_a_suite_dropped_into_the_folder_makes_no_imatrix_and_no_training_again(checkout):
    checkout.make("q4kxl")
    checkout.make("train")
    (checkout.folder / "evals/suites/own.json").write_text("{}")
    assert checkout.scripts("q4kxl") == ["quant_build_calibration", "quant_show"]
    assert checkout.scripts("train") == ["traces_prepare"]
    assert checkout.scripts("q4kxl") == ["quant_show"] and checkout.scripts("train") == []


def test_texts_that_kept_their_time_leave_nothing_for_a_dry_run_which_is_what_status_asks(checkout):
    checkout.make("q4kxl")
    checkout.make("train")
    for name in ("evals/suites/own.json", "evals/suites/other.json"):  # texts and rows are made again, and are the same
        (checkout.folder / name).write_text("{}")
        checkout.make("q4kxl", "train")
        _, output, _ = checkout.make("-n", "imatrix", "train")
        assert not re.search(r"quant_compute_imatrix|moe_train\.py", output)


def test_what_rows_and_traces_hold_counts_and_not_their_times(checkout):
    for name in ("rows.jsonl", "traces.jsonl"):
        (checkout.folder / name).write_text("{}")
    checkout.make("train", "imatrix", "TRACES=traces.jsonl", "ROWS=rows.jsonl", "RUN=b")
    checkout.touch("rows.jsonl")
    checkout.touch("traces.jsonl")
    assert checkout.scripts("train", "imatrix", "RUN=b") == []
    checkout.change("traces.jsonl")
    assert checkout.scripts("train", "imatrix", "RUN=b") == [
        "traces_prepare",
        "moe_encode_rows",
        "moe_encode_rows",
        "moe_train",
    ]
    checkout.change("rows.jsonl")
    assert checkout.scripts("train", "imatrix", "RUN=b") == ["quant_build_calibration", "quant_compute_imatrix"]


@pytest.mark.parametrize(
    "old, new, remade",
    [
        ('"title": "hermes-kxl tiny"', '"title": "another title"', []),
        ('"fixed_hermes_43": {"threshold": 43', '"fixed_hermes_43": {"threshold": 42', ["eval_run"]),
        ('"min_tokens_per_expert": 64', '"min_tokens_per_expert": 32', CALIBRATED[1:]),
        ('"quants": [', '"policies": "estimated", "quants": [', ["search_estimate", "search_policy", *MADE]),
        ('"name": "tiny"', '"name": "tinier"', None),
    ],
)
def test_a_changed_config_remakes_what_reads_that_part_of_it(checkout, old, new, remade):
    run = "RUN=x"  # so that another name of the config changes no folder
    checkout.make("q4kxl", run)
    config = checkout.folder / "configs/tiny.json"
    text = config.read_text()
    assert text.count(old) == 1
    config.write_text(text.replace(old, new))
    expected = remade if remade is not None else ["quant_convert", "quant_lint", *CALIBRATED[1:]]
    assert checkout.scripts("q4kxl", run) == [*expected, "quant_show"]


def test_the_other_quants_reuse_what_q4kxl_made(checkout):
    checkout.make("q4kxl")
    assert checkout.scripts("q8kxl") == ["quant_quantize", "eval_run", "quant_show"]


def test_a_stage_that_fails_leaves_no_file_that_counts(checkout):
    checkout.make("gguf")
    python = checkout.folder / ".venv" / "bin" / "python"
    python.write_text(STUB + 'if name == "eval_run": sys.exit(2)\n')
    code, _, _ = checkout.make("q4kxl")
    assert code != 0
    python.write_text(STUB)
    assert checkout.scripts("q4kxl") == ["eval_run", "quant_show"]


def test_an_own_checkpoint_goes_through_the_same_line_into_its_own_folders(checkout):
    code, output, ran = checkout.make("q4kxl", "MODEL=mine", "CONFIG=configs/lfm2.5-8b-a1b.json", "RUN=mine")
    assert code == 0, output
    assert [line.split()[0] for line in ran] == [*LINE[:-2], *ESTIMATED, *LINE[-2:], "quant_show"]
    assert "--policy q4kxl --plan runs/mine/estimated/plan.json" in ran[-3]
    assert "--model mine" in ran[0] and "--out runs/mine/LFM-2.5-8B-1B-Hermes-Tuned-bf16.gguf" in ran[0]
    assert "--config configs/lfm2.5-8b-a1b.json" in ran[0]
    assert "--out runs/mine/results/evals/fixed_hermes_43.llama_cpp.q4kxl.json" in ran[-2]
    assert "--config configs/lfm2.5-8b-a1b.json" in ran[-2]
    assert not (checkout.folder / "runs" / "tiny").exists()


def test_a_run_remembers_its_model_and_config(checkout):
    checkout.make("gguf", "MODEL=mine", "CONFIG=configs/lfm2.5-8b-a1b.json", "RUN=mine")
    code, output, ran = checkout.make("q4kxl", "RUN=mine")
    assert code == 0, output
    assert [line.split()[0] for line in ran] == [*LINE[1:-2], *ESTIMATED, *LINE[-2:], "quant_show"]
    assert "runs/mine/LFM-2.5-8B-1B-Hermes-Tuned-q4kxl.gguf" in ran[-1]


def test_rows_made_of_own_traces_are_the_ones_that_are_trained_on(checkout):
    (checkout.folder / "traces.jsonl").touch()
    code, output, ran = checkout.make("data", "TRACES=traces.jsonl", "RUN=b")
    assert code == 0 and ran[0].startswith("traces_prepare traces.jsonl"), output
    code, output, ran = checkout.make("train", "RUN=b")
    assert code == 0, output
    assert [line.split()[0] for line in ran] == [
        "moe_fetch_base",
        "moe_build_core",
        "moe_encode_rows",
        "moe_encode_rows",
        "moe_train",
    ]


def test_looking_at_a_run_begins_none(checkout):
    checkout.make("help", "MODEL=mine", "RUN=b")
    checkout.make("-n", "q4kxl", "MODEL=mine", "RUN=b")
    assert not (checkout.folder / "runs/b/run.json").exists()


def test_another_checkpoint_under_the_same_run_name_is_refused_until_the_run_is_switched(checkout):
    assert checkout.scripts("gguf", "MODEL=models/tiny", "RUN=x") == ["quant_convert"]
    code, output, ran = checkout.make("gguf", "MODEL=mine", "RUN=x")
    assert code != 0 and ran == []
    assert "MODEL=models/tiny" in output and "make switch RUN=x MODEL=mine" in output
    code, output, ran = checkout.make("switch", "MODEL=mine", "RUN=x")
    assert code == 0 and "MODEL=mine (was models/tiny); made again: data" in output
    assert checkout.scripts("gguf", "RUN=x") == ["quant_convert"]


@pytest.mark.parametrize(
    "args, message",
    [
        (["q4kxl", "MODEL=mine"], "add RUN=name"),
        (["data", "TRACES=mine"], "add RUN=name"),
        (["q4kxl", "MODEL=mine", "RUN=tiny"], "is the one of models/tiny"),
        (["q4kxl", "MODEL=my model", "RUN=x"], "a name with a space"),
        (["q4kxl", "MODEL=$$(touch gone)", "RUN=x"], "cannot go through make"),
        (["q4kxl", "CONFIG=configs/nothing.json"], "configs/nothing.json: no such file"),
        (["q4kxl", "CONFIG=configs/hermes_tools.json"], "is no config of a run"),
        (["q4kxl", "CONFIG=configs/lfm2.5-8b-a1b.json"], "has no checkpoint of its own: add MODEL=folder RUN=name"),
        (["imatrix", "ROWS=gone.jsonl", "RUN=x"], "ROWS=gone.jsonl: no such file"),
        (["data", "TRACES=gone.jsonl", "RUN=x"], "TRACES: gone.jsonl: no such file or folder"),
        (["train", "TRAINING=gone.json", "RUN=x"], "TRAINING=gone.json: no such file"),
        (["gguf", "MODEL=models/gone/away", "RUN=x"], "MODEL=models/gone/away: no such folder"),
        (["gguf", "MODEL=owner/name", "RUN=x"], "make base MODEL=owner/name REVISION=its commit RUN=x"),
        (["clean", "RUN=.."], "must be one name"),
        (["clean", "RUN=a/b"], "must be one name"),
        (["clean", "RUN="], "must be one name"),
        (["clean", "RUN=x; touch gone"], "must be one name"),
    ],
)
def test_a_wrong_call_says_what_to_change(checkout, args, message):
    code, output, ran = checkout.make(*args)
    assert code != 0 and message in output and ran == []
    assert not (checkout.folder / "gone").exists()


@pytest.mark.parametrize("key", ["name", "artifact_pattern", "model"])
def test_text_of_a_config_is_never_a_command(checkout, key):
    config = checkout.folder / "configs/tiny.json"
    line = re.search(rf'"{key}": "[^"]*"', config.read_text())[0]
    config.write_text(config.read_text().replace(line, f'"{key}": "x{{policy}};touch gone;$(shell touch gone)"', 1))
    code, output, ran = checkout.make("q4kxl")
    assert code != 0 and "configs/tiny.json" in output and ran == []
    assert not (checkout.folder / "gone").exists()


@pytest.mark.parametrize(
    "remembered",
    [
        '{"MODEL": "$(shell touch gone)models/tiny"}',
        '{"MODEL": "x; touch gone"}',
        '{"TRACES": "a.jsonl `touch gone`"}',
        '{"OTHER": "a\\nhelp: ; touch gone"}',
        '{"CONFIG": 5}',
        '{"MODEL": ["models/tiny"]}',
    ],
)
def test_what_a_strangers_run_remembers_is_never_a_command(checkout, remembered):
    (checkout.folder / "runs/theirs").mkdir(parents=True)
    (checkout.folder / "runs/theirs/run.json").write_text(remembered)
    for goal in ("help", "gguf"):
        code, output, ran = checkout.make(goal, "RUN=theirs")
        assert code != 0 and "runs/theirs/run.json" in output and "Traceback" not in output and ran == []
    assert not (checkout.folder / "gone").exists()


@pytest.mark.parametrize(
    "place, goal",
    [
        ("runs/tiny/results/evals", "eval-html"),
        ("runs/tiny/results/evals", "equivalence"),
        ("evals/suites", "data"),
        ("reports/tiny", "card"),
    ],
)
def test_a_strangers_file_name_is_never_a_command(checkout, place, goal):
    (checkout.folder / place).mkdir(parents=True, exist_ok=True)
    (checkout.folder / place / "a.llama_cpp.training;touch gone;.json").write_text("{}")
    code, output, ran = checkout.make(goal)
    assert code != 0 and f"{place}: the name" in output and "rename" in output and ran == []
    assert not (checkout.folder / "gone").exists()


def test_a_licence_name_of_several_words_goes_no_way_through_make(checkout):
    config = checkout.folder / "configs/tiny.json"
    config.write_text(config.read_text().replace('"name": null', '"name": "LFM Open License; touch gone"', 1))
    code, output, ran = checkout.make("gguf")
    assert code == 0 and "LFM" not in output and not (checkout.folder / "gone").exists()


def test_figures_and_summary_come_from_committed_results_without_running_a_stage(checkout):
    assert checkout.scripts("visuals", "release-summary") == ["build_visual_assets", "release_summarize"]


def test_make_alone_lists_every_target_and_every_variable_in_the_order_of_the_line(checkout):
    code, output, ran = checkout.make()
    assert code == 0 and ran == []
    listed = re.findall(r"^  ([a-z0-9-]+)  +\S", output, flags=re.MULTILINE)
    line = """venv llama tools tiny-model gguf imatrix parity q8kxl q6kxl q5kxl q4kxl kxl sizes quants eval release
        release-summary visuals test""".split()
    assert [name for name in listed if name in line] == line
    files = [(ROOT / "Makefile"), *sorted((ROOT / "make").glob("*.mk"))]
    text = "\n".join(path.read_text() for path in files).replace("\\\n", " ")
    phony = {name for names in re.findall(r"^\.PHONY: (.*)$", text, flags=re.MULTILINE) for name in names.split()}
    assert phony - {"help", "FORCE", "llama-ready", "$(KXL)"} | {"q8kxl", "q6kxl", "q5kxl", "q4kxl"} == set(listed)
    settable = set(re.findall(r"^([A-Z_]+) +\?=", text, flags=re.MULTILINE)) | {
        "RUN",
        "CONFIG",
        "MODEL",
        "TRACES",
        "ROWS",
    }
    for variable in settable:
        assert re.search(rf"^  {variable}\b", output, flags=re.MULTILINE), variable


def test_every_script_that_make_runs_exists_and_its_code_is_a_dependency(checkout):
    """Every rule that makes a file by a script depends on that script's stamp, and on no stamp of another's."""
    rules = checkout.make("--print-data-base", "--dry-run", "release")[1].split("\n\n")
    checked = set()
    for rule in rules:
        head, _, recipe = rule.partition("\n")
        if not re.match(r"(runs|reports|evals|datasets)/\S+.*:", head) or "|" in head.split(":")[0]:
            continue
        runs = set(re.findall(r"scripts/(\w+)\.py", recipe))
        stamps = set(re.findall(r"runs/code/(\w+)", head))
        assert not runs or runs <= stamps, head
        checked |= runs
    assert checked >= set(LINE) | {"quant_check_parity", "quant_measure", "quant_predict_sizes"}
    text = "\n".join(path.read_text() for path in (ROOT / "make").glob("*.mk"))
    for name in set(re.findall(r"scripts/(\w+\.py)", text)):
        assert (ROOT / "scripts" / name).is_file(), name


def in_the_future(path):
    later = time.time() + 10 * 365 * 86400
    os.utime(path, (later, later))


def test_an_artifact_that_is_dated_in_the_future_is_made_again(checkout):
    checkout.make("q4kxl")
    imatrix = checkout.folder / "runs/tiny/imatrix.gguf"
    in_the_future(imatrix)
    code, output, ran = checkout.make("q4kxl")
    assert code == 0 and "runs/tiny/imatrix.gguf: dated in the future, so it counts as old" in output
    assert [line.split()[0] for line in ran] == [*CALIBRATED[1:], "quant_show"]
    assert imatrix.stat().st_mtime < time.time() + 1
    assert checkout.scripts("q4kxl") == ["quant_show"]


def test_settings_and_code_from_the_future_make_nothing_old_for_ever(checkout):
    checkout.make("q4kxl")
    for path in [*(checkout.folder / "runs/code").iterdir(), *(checkout.folder / "runs/tiny/settings").iterdir()]:
        in_the_future(path)
    checkout.make("q4kxl")  # once at most
    assert checkout.scripts("q4kxl") == ["quant_show"]


def test_looking_at_a_run_changes_no_date(checkout):
    checkout.make("q4kxl")
    in_the_future(checkout.folder / "runs/tiny/imatrix.gguf")
    checkout.make("help")
    checkout.make("--dry-run", "q4kxl")
    assert (checkout.folder / "runs/tiny/imatrix.gguf").stat().st_mtime > time.time() + 1000


def test_an_own_suite_is_checked_before_anything_is_made_and_asked_of_the_quant(checkout):
    (checkout.folder / "own.json").write_text("{}")
    code, output, ran = checkout.make("eval", "SUITE=own.json")
    assert code == 0, output
    assert [line.split()[0] for line in ran] == ["eval_check_suite", *LINE]
    assert "--suite own.json" in ran[-1] and "--out runs/tiny/results/evals/own.llama_cpp.q4kxl.json" in ran[-1]
    code, output, ran = checkout.make("eval", "SUITE=gone.json")
    assert code != 0 and "SUITE=gone.json: no such file" in output and ran == []


def test_a_server_behind_a_url_is_asked_every_suite_or_an_own_one_and_nothing_is_made_for_it(checkout):
    (checkout.folder / "own.json").write_text("{}")
    flags = ["URL=https://host/v1", "EVAL_FLAGS=--model-name big --temperature 0.2"]
    code, output, ran = checkout.make("eval", "SUITE=own.json", *flags)
    assert code == 0 and [line.split()[0] for line in ran] == ["eval_check_suite", "eval_run"], output
    assert "--url https://host/v1 --suite own.json --artifact server" in ran[1] and "--config" not in ran[1]
    assert ran[1].endswith("--out runs/tiny/results/evals/own.openai.server.json --model-name big --temperature 0.2")
    code, output, ran = checkout.make("eval", *flags, "CONFIG=configs/lfm2.5-8b-a1b.json", "RUN=x")
    assert code == 0 and all("--config configs/lfm2.5-8b-a1b.json" in line for line in ran), output
    assert [line.split("--suite ")[1].split()[0] for line in ran][0] == "evals/suites/fixed_hermes_43.json"


def test_a_config_with_other_suites_judges_its_quants_by_the_first_of_them(checkout):
    config = checkout.folder / "configs/mine.json"
    text = (checkout.folder / "configs/tiny.json").read_text().replace('"name": "tiny"', '"name": "mine"')
    config.write_text(
        text.replace('"fixed_hermes_43": {"threshold": 43, "raw_threshold": 41}', '"own": {"threshold": 3}')
    )
    code, output, _ = checkout.make("q4kxl", "RUN=mine", "MODEL=mine")
    assert code != 0 and "there is no evals/suites/own.json" in output
    (checkout.folder / "evals/suites/own.json").write_text("{}")
    code, output, ran = checkout.make("q4kxl", "RUN=mine", "MODEL=mine")
    assert code == 0, output
    assert "--out runs/mine/results/evals/own.llama_cpp.q4kxl.json" in ran[-2]


def test_an_imatrix_that_is_there_is_taken_and_none_is_computed(checkout):
    (checkout.folder / "theirs.gguf").write_text("sums")
    assert "quant_compute_imatrix" not in checkout.scripts("q4kxl", "TAKE_IMATRIX=theirs.gguf")
    assert (checkout.folder / "runs/tiny/imatrix.gguf").read_text() == "sums"
    assert checkout.scripts("q4kxl") == ["quant_show"], "the run remembers it"


def test_a_config_names_the_quants_that_are_made_measured_and_released(checkout):
    text = (checkout.folder / "configs/tiny.json").read_text().replace('"name": "tiny"', '"name": "few"')
    text = text.replace('["bf16", "q8kxl", "q6kxl", "q5kxl", "q4kxl"]', '["bf16", "q5kxl"]')
    text = text.replace('["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M"]', "[]")
    (checkout.folder / "configs/few.json").write_text(text)
    code, output, ran = checkout.make("quants", "eval", "RUN=few", "MODEL=mine")
    assert code == 0, output
    assert [line.split("--policy ")[1].split()[0] for line in ran if line.startswith("quant_quantize")] == ["q5kxl"]
    measured = next(line for line in ran if line.startswith("quant_measure"))
    assert measured.count("--artifact") == 2
    packed = checkout.make("-n", "package", "RUN=few")[1]
    assert "--artifact q5kxl=runs/few/" in packed and "q4kxl=" not in packed


def test_nothing_of_a_run_is_written_outside_of_runs_until_it_is_published(checkout):
    goals = "q4kxl kxl eval hard data train imatrix parity quants mlx-evals mlx-variants repair-loop".split()
    code, output, _ = checkout.make("-n", *goals)
    assert code == 0, output
    flags = "out report log logs work server-log manifest calibration heldout data adapter".split()
    written = re.findall(rf"--({'|'.join(flags)}) (\S+)", output)
    assert len(written) > 60 and {path.split("/")[0] for _, path in written} == {"runs"}
    assert {
        path.split("/")[0] for path in re.findall(r"mkdir -p (\S+?);?\s|tee (\S+)", output) for path in path if path
    } == {"runs"}


def test_clean_keeps_what_a_run_found_out_and_what_it_remembers(checkout):
    checkout.make("q4kxl", "MODEL=mine", "RUN=x")
    code, output, _ = checkout.make("clean", "RUN=x")
    assert code == 0, output
    assert {path.name for path in (checkout.folder / "runs/x").iterdir()} - {"settings.mk", "settings"} == {
        "results",
        "run.json",
    }
    assert checkout.make("clean", "RUN=never")[0] == 0
    code, output, ran = checkout.make("gguf", "RUN=x")
    assert code == 0 and "--model mine" in ran[0]
