"""`make line` and the stages of a run that are started through the plan, in a checkout whose Python is a stub."""

import pytest

pytestmark = pytest.mark.minutes

ORDER = [
    "traces_prepare", "moe_build_core", "moe_train", "moe_materialize", "repair_loop", "quant_convert",
    "quant_compute_imatrix", "quant_quantize", "release_summarize", "release_build", "release_verify",
]  # fmt: skip


@pytest.fixture
def trained(checkout):
    """A checkout in which a training has left its last step."""
    (checkout.folder / "runs/tiny/moe/streamed/step_00120_final").mkdir(parents=True)
    (checkout.folder / "runs/tiny/repair/best").mkdir(parents=True)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        (checkout.folder / "runs/tiny/repair/best" / name).touch()
    return checkout


def first(ran):
    """The place of each script's first call."""
    names = [line.split()[0] for line in ran]
    return {name: names.index(name) for name in dict.fromkeys(names)}


def test_the_line_goes_from_traces_to_a_checked_release(trained):
    code, output, ran = trained.make("line")
    assert code == 0, output
    places = first(ran)
    assert [places[name] for name in ORDER] == sorted(places[name] for name in ORDER)
    assert "eval_run" in places and "quant_check_parity" in places


def test_what_follows_the_repair_is_made_of_the_repaired_checkpoint(trained):
    _, _, ran = trained.make("line")
    converted = next(line for line in ran if line.startswith("quant_convert"))
    assert "--model runs/tiny/repair/best" in converted and "--run tiny-tuned" in converted
    repaired = next(line for line in ran if line.startswith("repair_loop"))
    assert "--model runs/tiny/moe/bf16" in repaired


def test_a_line_that_was_interrupted_goes_on_and_repeats_no_finished_stage(trained):
    trained.make("line")
    _, _, ran = trained.make("line")
    again = {line.split()[0] for line in ran}
    assert not again & {"traces_prepare", "moe_build_core", "moe_train", "quant_convert", "quant_quantize", "eval_run"}


def test_a_missed_gate_ends_the_line_and_names_the_target(trained):
    python = trained.folder / ".venv" / "bin" / "python"
    python.write_text(python.read_text() + 'if name == "repair_loop":\n    sys.exit(2)\n')
    code, output, ran = trained.make("line")
    assert code != 0 and "make line stopped at repair-loop" in output
    assert not [line for line in ran if line.startswith("quant_convert")]


def test_asking_for_a_plan_begins_no_run(checkout):
    code, output, ran = checkout.make("plan", "RUN=looked")
    assert code == 0, output
    assert [line.split()[0] for line in ran] == ["plan_show"]
    assert not (checkout.folder / "runs/looked/run.json").exists()
