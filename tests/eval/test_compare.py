"""Two reports of one suite, case by case."""

import subprocess
import sys

import pytest

from conftest import ROOT
from kxl.base.cli import UserError
from kxl.base.files import read_json, write_json
from kxl.eval import comparison


def made(passed: str, suite="s", raw=None, artifact="a") -> dict:
    """A report whose cases c0, c1, ... passed where the text has a 1."""
    details = [
        {
            "id": f"c{i}",
            "messages": [{"role": "user", "content": f"do {i}"}],
            "passed": bit == "1",
            "raw": {"passed": raw[i] == "1"} if raw else None,
        }
        for i, bit in enumerate(passed)
    ]
    return {"settings": {"suite": suite, "artifact": artifact}, "results": {"details": details}}


def test_only_cases_that_differ_decide():
    results = comparison.compare(made("1111111100"), made("1000000010"), raw=False)
    assert results["only_first"] == ["c1", "c2", "c3", "c4", "c5", "c6", "c7"] and results["only_second"] == ["c8"]
    assert (results["both"], results["neither"], results["passed"]) == (1, 1, [8, 2])
    assert results["p"] == pytest.approx(2 * (1 + 8) / 2**8, rel=1e-3)


def test_raw_answers_are_compared_on_request():
    assert comparison.compare(made("11", raw="01"), made("11", raw="11"), raw=True)["only_second"] == ["c0"]
    with pytest.raises(UserError, match="no raw answers"):
        comparison.compare(made("11"), made("11", raw="11"), raw=True)


def test_reports_of_other_cases_are_not_compared():
    with pytest.raises(UserError, match="one report is of s, the other of t"):
        comparison.compare(made("1"), made("1", suite="t"), raw=False)
    with pytest.raises(UserError, match="1 cases are in only one report"):
        comparison.compare(made("1"), made("11"), raw=False)
    other = made("11")
    other["results"]["details"][1]["messages"][0]["content"] = "do something else"
    with pytest.raises(UserError, match="c1 ask something else"):
        comparison.compare(made("11"), other, raw=False)


def test_the_command_names_the_better_one_or_says_that_none_is_shown(tmp_path):
    write_json(tmp_path / "a.json", made("1" * 20, artifact="bf16"))
    write_json(tmp_path / "b.json", made("1" * 10 + "0" * 10, artifact="q4kxl"))
    write_json(tmp_path / "c.json", made("1" * 18 + "0" * 2, artifact="q5kxl"))

    def run(*args):
        return subprocess.run(
            [sys.executable, str(ROOT / "scripts/eval_compare.py"), *map(str, args)], capture_output=True, text=True
        )

    ended = run(tmp_path / "a.json", tmp_path / "b.json", "--out", tmp_path / "out.json")
    assert ended.returncode == 0 and "bf16 is better (McNemar, exact: p = 0.001953)" in ended.stdout, ended
    assert read_json(tmp_path / "out.json")["results"]["only_first"] == [f"c{i}" for i in range(10, 20)]
    assert "no difference is shown" in run(tmp_path / "a.json", tmp_path / "c.json").stdout
    (tmp_path / "x.json").write_text("{}")
    ended = run(tmp_path / "x.json", tmp_path / "a.json")
    assert ended.returncode == 2 and "x.json: neither a report of eval_run.py" in ended.stderr


def test_alike_on_few_cases_is_not_equivalent_and_alike_on_many_is(tmp_path):
    few, many = (comparison.compare(made("1" * n), made("1" * n), raw=False) for n in (43, 400))
    for results in (few, many):
        assert results["p"] == 1 and "no difference is shown" in comparison.verdict(results, ["a", "b"])
    assert not few["equivalent"] and "equivalence within 2 points not shown" in comparison.verdict(few, ["a", "b"])
    assert many["equivalent"] and "\nequivalent within 2 points" in comparison.verdict(many, ["a", "b"])
    assert "\nequivalent" not in comparison.verdict(few, ["a", "b"])


def live(passed: str, artifact="a", seed=1, trials=3) -> dict:
    details = [{"id": f"t{i}", "prompt": f"words {artifact}", "passed": bit == "1"} for i, bit in enumerate(passed)]
    settings = {"suite": "hermes_live", "artifact": artifact, "backend": "llama_cpp", "seed": seed, "trials": trials}
    return {"settings": settings, "results": {"details": details}}


def test_two_live_runs_are_compared_where_words_and_trials_are_the_same():
    assert comparison.compare(live("1101"), live("1011", "b"), raw=False)["only_first"] == ["t1"]
    with pytest.raises(UserError, match="ask something else"):
        comparison.compare(live("1"), live("1", seed=2), raw=False)
    with pytest.raises(UserError, match="3 trials of each case, the other 1"):
        comparison.compare(live("1"), live("1", trials=1), raw=False)


def test_a_run_is_judged_on_all_its_cases_and_flips_are_named(tmp_path):
    def write(name, passed, suite, artifact, backend="llama_cpp"):
        one = made(passed, suite, artifact=artifact)
        one["settings"]["backend"] = backend
        write_json(tmp_path / f"{name}.json", one)
        return tmp_path / f"{name}.json"

    paths = [
        write("a", "1" * 300, "s", "bf16"),
        write("b", "1" * 100, "t", "bf16"),
        write("c", "1" * 300, "s", "q6"),
        write("d", "0" + "1" * 99, "t", "q6"),
        write("e", "1" * 270 + "0" * 30, "s", "q4"),
        write("f", "1", "u", "q4"),
        write("g", "0" * 300, "s", "bf16", "mlx"),
    ]
    command = [sys.executable, str(ROOT / "scripts/eval_prove_equivalence.py"), *map(str, paths)]
    ended = subprocess.run([*command, "--out", str(tmp_path / "out.json")], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    results = read_json(tmp_path / "out.json")["results"]
    q6, q4 = results["q6"], results["q4"]
    assert q6["all"]["cases"] == 400 and q6["all"]["equivalent"] and not q6["suites"]["t"]["equivalent"]
    assert q6["all"]["only_first"] == ["t: c0"]
    assert not q4["all"]["equivalent"] and len(q4["all"]["only_first"]) == 30 and q4["all"]["cases"] == 300
    assert q4["left_out"] == {"u": "the parent was not asked"}
    assert "q4           equivalence within 2 points not shown" in ended.stdout and "it differs" in ended.stdout
    ended = subprocess.run([*command, "--parent", "f16", "--out", "x.json"], capture_output=True, text=True)
    assert ended.returncode == 2 and "none of the reports is of f16" in ended.stderr
