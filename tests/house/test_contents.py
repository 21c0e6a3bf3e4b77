"""What files hold, as make compares it, and what a stranger's settings of a run may say."""

import subprocess
import sys

import pytest

from kxl.base.errors import UserError
from kxl.base.files import ROOT, read_json, write_json, write_text
from kxl.house import run as runs
from kxl.house.contents import KNOWN, Contents


def test_two_files_of_one_name_in_two_folders_both_count(tmp_path):
    write_text(tmp_path / "traces/a/rows.jsonl", "1")
    write_text(tmp_path / "traces/b/rows.jsonl", "2")
    before = Contents(tmp_path).of("traces", ("**/*",))
    assert sorted(before) == ["a/rows.jsonl", "b/rows.jsonl"]
    write_text(tmp_path / "traces/a/rows.jsonl", "3")
    assert Contents(tmp_path).of("traces", ("**/*",)) != before


@pytest.mark.parametrize("content", ["[]", "null", "7", "{", '{"PATH": 7}', '{"PATH": [1]}', "[" * 100_000, "\xff"])
def test_what_is_remembered_of_contents_may_be_anything(tmp_path, content):
    write_text(tmp_path / "rows.jsonl", "1")
    wanted = Contents(tmp_path).of("rows.jsonl")
    (tmp_path / "runs").mkdir()
    text = content.replace("PATH", str(tmp_path / "rows.jsonl"))
    (tmp_path / KNOWN).write_bytes(text.encode("latin-1"))
    contents = Contents(tmp_path)
    assert contents.of("rows.jsonl") == wanted
    contents.save()
    assert Contents(tmp_path).of("rows.jsonl") == wanted


@pytest.mark.parametrize(
    "change",
    [
        {"gguf": []},
        {"license": "mit"},
        {"license": {}},
        {"imatrix": None},
        {"kld": [1]},
        {"quants": {"q4kxl": 1}},
        {"model": 7},
        {"policies": "searched"},
    ]
    + [{"eval": {"suites": ["fixed_hermes_43"]}}, {"eval": None}]
    # deep in it: no make target meets them later
    + [{"card": {"tags": [{}]}}, {"quants": ["bf16", 7]}, {"kld": {"context_tokens": 1e999}}, {"wordings": True}]
    + [{"data": {"split": {"train": "90"}}}, {"license": {"id": "mit", "link": 10**400}}],
)
def test_a_config_whose_parts_have_another_form_is_refused(tmp_path, change):
    write_text(tmp_path / "evals/suites/fixed_hermes_43.json", "{}")
    config = read_json(ROOT / "configs/tiny.json")
    config["eval"] = {"suites": {"fixed_hermes_43": {}}}
    write_json(tmp_path / "good.json", config)
    assert runs.check_config(tmp_path, "good.json")["name"] == config["name"]
    write_json(tmp_path / "odd.json", {**config, **change})
    with pytest.raises(UserError, match="odd.json"):
        runs.check_config(tmp_path, "odd.json")


@pytest.mark.parametrize("given", ["FOO=1", "RUN", "=x", ""])
def test_a_variable_that_is_none_is_named(given):
    command = [sys.executable, str(ROOT / "scripts/settings.py"), "--dry-run", f"--set={given}"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr, ended.stderr
