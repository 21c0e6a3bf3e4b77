"""What a person gives make for a variable is one argument, or refused in one line: never a command."""

import re

import pytest

from conftest import ROOT
from helpers.checkout import STUB, Checkout
from kxl.base.errors import UserError
from kxl.house import variables

# Each variable, by a target that reads it.
GOALS = {
    "status": "RUN CONFIG",
    "gguf": "MODEL",
    "data": "TRACES",
    "imatrix": "ROWS TAKE_IMATRIX",
    "core": "TRAINING",
    "base": "REVISION",
    "hermes-live": "QUANT TRIALS LIVE_FLAGS",
    "eval": "SUITE",
    "eval URL=http://host/v1": "ARTIFACT EVAL_FLAGS",
    "eval QUANT=q8kxl": "URL",
    "install-net": "HERMES_HOME",
    "compare": "A B",
    "equivalence": "MARGIN",
    "drift": "PINS",
    "bfcl": "BFCL_SUBSET BFCL_CATEGORIES BFCL_FLAGS",
    "policy BUDGET=5.7": "NAME",
    "policy NAME=q4search": "BUDGET TABLE WITHOUT",
    "propose BUDGET=5.7 NAME=q4search": "SHAPES",
    "best": "FIT CONTEXT",
    "train": "MODE HARDWARE",
    "step": "STEP",
    "prove-8b-mapped": "LEAVE_GIB",
    "prove-8b": "GROUPED_PASSES",
    "transfer-proof": "SEEDS MINUTES",
    "measure-step": "TOKENS",
    "line": "LINE_MODEL",
    "repair": "ITER",
    "repair-loop": "START REPAIR_DATA",
    "card": "REPO TRAINING_REPORTS",
    "verify": "DIR",
    "claims": "CLAIMS",
    "smol-base": "SMOL_CONFIG SMOL_MODEL",
    "smol-data": "SMOL_TRACES",
    "smollora": "SMOL_MINUTES",
    "smol-rows": "SMOL_STEPS",
    "smol-serve": "SMOL_SERVED",
}
READ_BY = {variable: goal.split() for goal, names in GOALS.items() for variable in names.split()}
QUOTED = {"URL", "DIR", "HERMES_HOME"}  # any text, handed on in quotes


def test_every_variable_that_make_lists_is_checked():
    files = [ROOT / "Makefile", *sorted((ROOT / "make").glob("*.mk"))]
    text = "\n".join(path.read_text() for path in files).replace("\\\n", " ")
    listed = re.findall(r"^#: ([A-Z_]+(?:, [A-Z_]+)*)  ?", text, flags=re.MULTILINE)
    documented = {name for names in listed for name in names.split(", ") if len(name) > 1 or ", " in names}
    given = re.search(r"^VARIABLES := (.*)$", text, flags=re.MULTILINE)[1].split()
    # PYTHON is a command, and runs before anything could look at it.
    assert sorted(given) == sorted(variables.VARIABLES) == sorted(documented - {"PYTHON"}) == sorted(READ_BY)


@pytest.fixture(scope="module")
def one_checkout(tmp_path_factory):
    return Checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture
def shared(one_checkout):
    """One checkout for all refusals: they leave it as it was."""
    (one_checkout.folder / "gone").unlink(missing_ok=True)
    return one_checkout


@pytest.mark.minutes
@pytest.mark.parametrize("variable", variables.VARIABLES)
def test_a_command_in_a_value_is_refused_before_anything_runs(shared, variable):
    attack = "$(shell touch gone)" if variable in QUOTED else "5;touch gone;"
    code, output, ran = shared.make(*READ_BY[variable], f"{variable}={attack}")
    assert not (shared.folder / "gone").exists() and ran == []
    said = [line for line in output.splitlines() if line.startswith("error: ")]
    assert code != 0 and len(said) == 1 and said[0].startswith(f"error: {variable}='"), output


@pytest.mark.minutes
@pytest.mark.parametrize(
    "words",
    [
        ["-n", "hermes-live", "QUANT=q4kxl;touch gone"],
        ["hermes-live", "QUANT=$(shell touch gone)"],
        ["eval", "URL=http://host/v1", "EVAL_FLAGS=--trials 3\ntouch gone"],
        ["eval", "SUITE=own.json", "URL=http://host/v1\ntouch gone"],
        ["eval", "URL=http://host/v1", "EVAL_FLAGS=--model-name 'a"],
        ["hermes-live", "QUANT=my quant"],
        ["eval", "SUITE=my suite.json"],
    ],
)
def test_a_value_that_make_or_a_shell_would_obey_or_part_is_refused(shared, words):
    code, output, ran = shared.make(*words)
    assert code != 0 and ran == [] and not (shared.folder / "gone").exists()
    assert output.startswith(f"error: {words[-1].split('=')[0]}="), output


@pytest.mark.minutes
def test_the_environment_is_looked_at_as_the_command_line_is(shared, monkeypatch):
    monkeypatch.setenv("QUANT", "q4kxl;touch gone")
    code, output, ran = shared.make("hermes-live")
    assert code != 0 and output.startswith("error: QUANT=") and ran == [] and not (shared.folder / "gone").exists()


@pytest.mark.minutes
@pytest.mark.parametrize(
    "words, arrives",
    [
        (["verify", "DIR=my folder/it's"], ["--dir", "my folder/it's"]),
        (["eval", "SUITE=own.json", "URL=http://host/v1?a=1&b=(2);x"], ["--url", "http://host/v1?a=1&b=(2);x"]),
        (["install-net", "HERMES_HOME=a b#c"], ["--home", "a b#c"]),
        (
            ["eval", "SUITE=own.json", "URL=http://host/v1", 'EVAL_FLAGS=--model-name "Tom\'s" --trials 3'],
            ["--model-name", "Tom's", "--trials", "3"],
        ),
        # Through a pipe that keeps a log.
        (["eval", "SUITE=own.json", 'EVAL_FLAGS=--model-name "Tom\'s"'], ["--model-name", "Tom's"]),
        (["drift", "PINS=0.3.35 0.3.36"], ["--pin", "0.3.35", "--pin", "0.3.36"]),
    ],
)
def test_a_value_that_is_taken_arrives_as_it_was_given(checkout, words, arrives):
    (checkout.folder / "own.json").write_text("{}")
    (checkout.folder / ".venv/bin/python").write_text(STUB.replace("print(name, *args,", "print(name, args,"))
    code, output, ran = checkout.make(*words)
    assert code == 0 and str(arrives)[1:-1] in ran[-1], output


@pytest.mark.parametrize("kind", variables.KINDS)
def test_no_kind_but_quoted_text_takes_a_sign_of_the_shell(kind):
    variable = variables.OF_KIND[kind].split()[0]
    for sign in "$\n\r\t\0" if kind == "text" else ";|&$`<>()\\#\n\r\t\0":
        assert not variables.fits(variable, f"5{sign}5"), sign
    assert variables.fits(variable, "5")


@pytest.mark.parametrize(
    "good",
    [
        "QUANT=Q4_K_M",
        "MODEL=~/models/LFM2.5+x@2",
        "TRACES=a.jsonl owner/name",
        "REVISION=refs/pr/1",
        "MARGIN=0.5",
        "BUDGET=8.3MiB",
        "BUDGET=5.5bpw",
        "BFCL_CATEGORIES=live memory",
        "BFCL_FLAGS=",
        "CLAIMS=--update",
    ],
)
def test_what_the_pages_show_is_taken(good):
    variables.check(dict([good.split("=", 1)]))


@pytest.mark.parametrize("bad", ["RUN=", "RUN=a/b", "QUANT=a b", "MODEL=a b", "SEEDS=2.5", "PINS=a/b", "FIT=GiB"])
def test_a_value_of_another_kind_is_refused_with_what_it_must_be(bad):
    with pytest.raises(UserError, match="must be|cannot go"):
        variables.check(dict([bad.split("=", 1)]))
