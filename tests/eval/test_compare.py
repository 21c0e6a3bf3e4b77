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
    assert results["p"] == pytest.approx(2 * (1 + 8) / 2**8, abs=1e-6)


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
    assert ended.returncode == 2 and "x.json: not a report of eval_run.py" in ended.stderr
