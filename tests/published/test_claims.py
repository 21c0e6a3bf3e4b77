"""Each number in README, docs and model card is one that a report holds, of a model and settings in the tree."""

import hashlib
import json
import re
import sys

import pytest

import release_card
import release_check_claims
import release_summarize
import status
from conftest import ROOT
from kxl.base import code
from kxl.base.cli import UserError
from kxl.base.files import read_json, sha256, write_json, write_text
from kxl.release import claims, prose
from kxl.release.provenance import Tree

SUMMARY = read_json(ROOT / "release_summary.json")


@pytest.fixture(scope="module")
def tree():
    return Tree()


@pytest.mark.parametrize("page", claims.pages(ROOT))
def test_every_number_of_a_page_is_in_a_report_of_what_is_in_the_tree(tree, page):
    assert claims.problems(tree, page, claims.load()) == []


def test_every_entry_is_of_a_page_that_is_checked():
    assert {entry["file"] for entry in claims.load()} <= set(claims.pages(ROOT))
    assert {"README.md", "docs/results.md"} <= set(claims.pages(ROOT))


def call(module, *flags):
    argv, sys.argv = sys.argv, [f"{module.__name__}.py", *map(str, flags)]
    try:
        module.main()
    finally:
        sys.argv = argv


def test_the_summary_is_what_the_committed_reports_say_and_every_evaluation_of_the_run_is_in_it(tree, tmp_path):
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "evals/tiny").glob("*.json")} <= set(SUMMARY["reports"])
    for path, digest in SUMMARY["reports"].items():
        assert sha256(ROOT / path) == digest, f"{path} changed since: make release-summary card"
        assert tree.faults(path) == [], path
    single = {"tiny": "config", **{name: name for name in release_summarize.SINGLE}}
    words = []
    for path in SUMMARY["reports"]:
        other = "eval" if path.startswith("evals/") else "training"
        words += [f"--{single.get((ROOT / path).stem, other)}", ROOT / path]
    call(release_summarize, *words, "--run", "tiny", "--out", tmp_path / "summary.json")
    again = read_json(tmp_path / "summary.json")
    for summary in (again, SUMMARY):
        summary["provenance"] = summary["provenance"]["training_seeds"]  # the rest is of the moment it was made
    assert again == SUMMARY


def test_the_card_is_what_the_committed_summary_and_reports_say(tmp_path):
    training = [path for path in SUMMARY["reports"] if path.startswith("reports/tiny/training")]
    words = [word for path in training for word in ("--training", ROOT / path)]
    paths = ("--config", ROOT / "configs/tiny.json", "--summary", ROOT / "release_summary.json")
    paths += ("--equivalence", ROOT / "reports/tiny/equivalence.json")
    call(release_card, *paths, *words, "--model", ROOT / "models/tiny", "--out", tmp_path / "card.md")
    assert (tmp_path / "card.md").read_text() == (ROOT / "reports/tiny/MODEL_CARD.md").read_text(), "make card"


@pytest.mark.parametrize(
    "text, found",
    [
        ("It passes 43 of 43 (92–100 %), 193/200 and 1,746 steps.", "43 43 92 100 193 200 1,746"),
        ("0.080 nats, 1e-5 and 2.9e-7; a range 0..255, 3-5, and -0.5.", "0.080 1e-5 2.9e-7 0 255 3 5 0.5"),
        ("11.7x or 11x as fast, 10.93GiB, `65,536` tokens, `4`.", "11.7 11 10.93 65,536 4"),
        ("Q4KXL of LFM2.5-8B-A1B, an 8B with 8-bit int8 on x86-64, Q8_0, SmolLM2-135M, arm64", ""),
        ("version 0.19.0 of 2026-11-26, `make q4kxl QUANT=4`, [the 3](docs/4.md#5) <https://x.y/7>", "3"),
        ("1. first\n2. second of 3\n\n```\nmake x 5\n```\n<!-- 6 -->", "3"),
        ("---\nlicense: apache-2.0\n---\n| a | 7.09 |", "7.09"),
        ("{{ '%.2f' % 3 }} of {% if x > 4 %}5{% endif %}", "5"),
    ],
)
def test_what_is_a_number_and_what_is_a_name_follows_one_rule(text, found):
    assert [number.written for number in prose.numbers(prose.plain(text))] == found.split()


@pytest.mark.parametrize(
    "written, value, right",
    [
        ("9.57", 9.5664, True),
        ("9.57", 9.5749, True),
        ("9.57", 9.5751, False),
        ("1,746", 1746, True),
        ("1,746", 1746.6, False),
        ("0.080", 0.07982, True),
        ("0.080", 0.0806, False),
        ("2.9e-7", 2.94e-7, True),
        ("2.9e-7", 2.96e-7, False),
        ("1e-5", 1.4e-5, True),
    ],
)
def test_a_number_is_its_value_rounded_to_the_digits_that_are_written(written, value, right):
    assert prose.Number(0, 0, written).is_rounded(value) == right


WEIGHTS = b"the weights"


@pytest.fixture
def checkout(tmp_path):
    """A small tree whose one page is backed: a model, its quant's evaluation, a training, code that a page quotes."""

    def named(path, content=None):
        data = content if content is not None else (tmp_path / path).read_bytes()
        return {"path": path, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    def report(path, inputs, settings, results, script="verb.py"):
        scripts = code.Code(tmp_path / "scripts")
        made = {"script": script, "sha256": scripts.hash(script)}
        write_json(tmp_path / path, dict(inputs=inputs, settings=settings, results=results, code=made))

    write_text(tmp_path / "scripts/verb.py", "LIMIT = 7\n")
    write_text(tmp_path / "models/m/model.safetensors", WEIGHTS.decode())
    write_text(tmp_path / "suite.json", "[1, 2]")
    write_json(tmp_path / "configs/train.json", {"note": "x", "training": {"steps": 5, "rate": 0.1}})
    quant, core = "runs/r/q.gguf", "runs/r/core"
    report("reports/r/parity.json", [named("models/m/model.safetensors"), named("runs/r/b.gguf", b"b")], {}, {})
    report("reports/r/quants.json", [named("runs/r/b.gguf", b"b")], {}, {"q": {"file": "q.gguf", **named(quant, b"q")}})
    report("evals/r/s.json", [named("suite.json"), named(quant, b"q")], {}, {"passed": 41, "cases": 43})
    inputs = [named("configs/train.json"), named(f"{core}/config.json", b"{}"), named(f"{core}/w.safetensors", b"w")]
    report("reports/r/train.json", inputs, {"steps": 5, "rate": 0.1}, {"seconds": 90.4})
    write_text(tmp_path / "README.md", "# Title\n\nIt passes **41 of\n43** and trains 1.5 minutes. At most 7 rounds.\n")
    entries = [
        {"file": "README.md", "text": "passes **41 of 43**", "report": "evals/r/s.json"},
        {"file": "README.md", "text": "trains 1.5 minutes", "report": "reports/r/train.json"},
        {"file": "README.md", "text": "At most 7 rounds", "source": "scripts/verb.py", "quote": "LIMIT = 7"},
    ]
    entries[0]["values"], entries[1]["values"] = ["results.passed", "results.cases"], ["results.seconds / 60"]
    write_text(tmp_path / "docs/claims.json", claims.dumps(entries))
    tmp_path.joinpath("reports/r").mkdir(exist_ok=True)
    return tmp_path


def found_in(root) -> list[str]:
    tree = Tree(root)
    return [fault for page in claims.pages(root) for fault in claims.problems(tree, page, claims.load(root))]


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_page_whose_numbers_are_all_in_reports_is_right(checkout):
    assert found_in(checkout) == []
    edit(checkout / "configs/train.json", '"note": "x"', '"note": "y"')  # says the same of what was trained
    assert found_in(checkout) == []


@pytest.mark.parametrize(
    "path, old, new, said",
    [
        ("README.md", "# Title", "# Title\n\nSure to 97 %.", "97 in '# Title Sure to 97 %"),
        ("README.md", "trains 1.5", "trains 1.6", "says 'trains 1.5 minutes' no more"),
        ("README.md", "**41 of", "**42 of", "42 in .* has no entry"),
        ("evals/r/s.json", '"passed": 41', '"passed": 40', "41, but results.passed is 40 in evals/r/s.json"),
        ("evals/r/s.json", '"passed": 41', '"failed": 2', "'results.passed' leads to no number: KeyError"),
        ("docs/claims.json", "evals/r/s.json", "evals/r/t.json", "evals/r/t.json: no such file"),
        ("docs/claims.json", '"results.cases"]', "0]", "is no expression|leads to no number"),
        ("docs/claims.json", '["results.passed", "results.cases"]', '["results.passed"]', "2 numbers .* for 1 values"),
        ("docs/claims.json", "results.seconds / 60", "__import__('os').getpid()", "is no expression of a claim"),
        ("scripts/verb.py", "LIMIT = 7", "LIMIT = 8", "says 'LIMIT = 7' no more"),
        ("docs/claims.json", '"quote": "LIMIT = 7"', '"quote": "LIMIT"', "holds other numbers"),
        ("models/m/model.safetensors", "weights", "retrained", "no report of run r ties it to weights in the tree"),
        ("suite.json", "2", "3", "evals/r/s.json was made of another suite.json than the tree's"),
        ("configs/train.json", '"steps": 5', '"steps": 6', "was made of another configs/train.json than the tree's"),
        ("reports/r/train.json", "w.safetensors", "w.txt", "config.json without the weights beside it"),
        ("reports/r/quants.json", '"path": "runs/r/b.gguf"', '"path": "runs/r/q.gguf"', "one runs/r/q.gguf, and an"),
    ],
)  # fmt: skip
def test_a_number_that_nothing_backs_any_more_is_named(checkout, path, old, new, said):
    edit(checkout / path, old, new)
    found = found_in(checkout)
    assert found
    assert any(re.search(said, fault) for fault in found), found


def test_a_stage_of_a_training_counts_while_its_end_is_the_model_in_the_tree(checkout):
    made = {"path": "runs/t/2/model.safetensors", "sha256": sha256(checkout / "models/m/model.safetensors")}
    start = {"path": "runs/t/1/model.safetensors", "sha256": "of the first stage"}
    write_json(checkout / "reports/r/mean.json", {"inputs": [start], "settings": {}, "results": {}})
    assert "no report of run t ties it" in Tree(checkout).faults("reports/r/mean.json")[0]
    write_json(checkout / "reports/r/last.json", {"inputs": [start], "settings": {}, "results": {"made": made}})
    assert Tree(checkout).faults("reports/r/mean.json") == []


def test_an_entry_of_another_form_is_refused(checkout):
    edit(checkout / "docs/claims.json", '"quote"', '"words"')
    with pytest.raises(UserError, match="entry 3 needs file and text"):
        claims.load(checkout)


@pytest.mark.parametrize("change", ["LIMIT = 7\nX = 1\n", '"""Another docstring."""\n\nLIMIT = 7\n'])
def test_a_report_whose_code_changed_since_is_listed_and_not_refused(checkout, change):
    write_text(checkout / "scripts/verb.py", change)
    assert found_in(checkout) == []
    listed = claims.told_by_older_code(Tree(checkout), claims.load(checkout))
    assert listed == ({"verb.py": ["evals/r/s.json", "reports/r/train.json"]} if "X" in change else {})


def test_a_report_that_names_no_code_is_of_older_code(checkout):
    edit(checkout / "evals/r/s.json", '"code"', '"was"')
    assert claims.told_by_older_code(Tree(checkout), claims.load(checkout)) == {"no script named": ["evals/r/s.json"]}


def test_status_lists_published_numbers_of_older_code(checkout):
    edit(checkout / "evals/r/s.json", '"code"', '"was"')
    lines = status.told_by_older_code(Tree(checkout))
    assert lines == ["README and docs take numbers from reports of older code:", "  no script named: evals/r/s.json"]


def test_numbers_of_a_stage_that_ran_again_are_written_into_page_and_claims(checkout, monkeypatch, capsys):
    edit(checkout / "evals/r/s.json", '"passed": 41', '"passed": 1042')
    edit(checkout / "reports/r/train.json", "90.4", "200")
    monkeypatch.setattr(release_check_claims, "ROOT", checkout)
    release_check_claims.update(Tree(checkout), claims.load(checkout))
    assert "passes **1,042 of\n43** and trains 3.3 minutes. At most 7" in (checkout / "README.md").read_text()
    assert found_in(checkout) == [] and "+43** and trains 3.3 minutes" in capsys.readouterr().out


def test_expressions_reach_what_reports_hold():
    names = {"r": {"a": [{"b": 1}, {"b": 3}], "x-y": {"1": 2.0}}, "n": 4}
    for expression, value in (
        ("r.a[-1].b", 3),
        ("sum(r.a[:].b) / n", 1),
        ('r["x-y"]["1"] ** 2', 4),
        ("len(r.a) - min(r.a[:].b)", 1),
        ("100 * low(43, 43)", 91.8),
    ):
        assert claims.evaluate(expression, names) == pytest.approx(value, abs=0.05)
    for wrong in ("r.c", "r", "open('x')", "[x for x in r.a]", "r.a[9].b", "n / 0", "(", "r.__class__"):
        with pytest.raises(UserError):
            claims.evaluate(wrong, names)


def test_the_claims_file_is_an_entry_a_line():
    text = (ROOT / claims.CLAIMS).read_text(encoding="utf-8")
    assert text == claims.dumps(json.loads(text))
