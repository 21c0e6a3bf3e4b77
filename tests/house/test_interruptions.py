"""The proof that kills, doubles and fills: it sees what was left wrong, and its report is of the line as it is."""

import os
import signal
import subprocess
import sys
import time

import pytest

import house_prove_interruptions as proof
from conftest import ROOT
from kxl.base.files import read_json
from kxl.house import disturbed

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_a_difference_is_named_by_file_and_key_and_what_varies_is_left_out():
    one = {"runs/a.bin": "11", "reports/r.json": {"results": {"rows": [1, 2], "pace": 3.0, "peak_rss_gib": 1}}}
    other = {
        "runs/a.bin": "22",
        "reports/r.json": {"results": {"rows": [1, 5], "pace": 4.0, "peak_rss_gib": 2}},
        "runs/.b.partial": "0",
    }
    found = disturbed.differences(one, other, {"reports/r.json:results:pace"})
    assert found == ["reports/r.json:results:rows:1", "runs/.b.partial", "runs/a.bin"]
    assert disturbed.differences(one, one) == []


@linux
def test_a_tree_finds_what_it_started_though_its_parent_is_dead(tmp_path, monkeypatch):
    monkeypatch.setattr(disturbed, "PATIENCE", 0.5)
    tree = disturbed.Tree(tmp_path / "tree", "some")
    (tree.folder / "Makefile").write_text("hold:\n\tsetsid sleep 321 & sleep 321\n")
    process = tree.start("hold", [])
    deadline = time.monotonic() + 20
    while len(tree.running()) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert any(name.startswith("sleep 321") for name in tree.strays())
    assert tree.running() == []


@linux
def test_the_running_script_is_killed_and_not_make(tmp_path):
    tree = disturbed.Tree(tmp_path / "tree", "some")
    (tree.folder / "scripts/hold.py").write_text("import time\ntime.sleep(300)\n")
    (tree.folder / "Makefile").write_text(f"hold:\n\t{sys.executable} scripts/hold.py\n")
    process = tree.start("hold", [])
    deadline = time.monotonic() + 20
    while disturbed.script_of(process.pid) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    tree.kill(process, "script")
    assert process.returncode == 2  # make's own, since its recipe was killed
    assert tree.strays() == []


def test_what_does_not_hold_is_said_in_words():
    fine = {"exit_code": 0, "said": "", "different": [], "running": [], "in_tmpdir": []}
    results = {
        "targets": {"data": {**fine, "kills": [{"left_running": ["sleep 9"]}]}},
        "two_at_once": {"data": {**fine, "exit_codes": [2, 2], "different": ["runs/x"]}},
        "full_disk": {"data": {**fine, "first_exit_code": 0, "names_the_disk": False, "said_then": "done"}},
    }
    assert proof.problems(results) == [
        "data (targets): left running by a kill: sleep 9",
        "data (two at once): runs/x is different",
        "data (two at once): neither of two at once succeeds: [2, 2]",
        "data (full disk): a full disk is not told: done",
    ]


def test_the_report_tells_ten_kills_of_each_target_that_was_tried_and_nothing_wrong():
    report = read_json(ROOT / "reports/tiny/interruptions.json")
    results, tried = report["results"], set(report["settings"]["targets"])
    assert proof.problems(results) == []
    assert {"data", "core", "train", "gguf"} <= tried <= set(proof.TARGETS)
    assert set(results["targets"]) == set(results["two_at_once"]) == tried
    assert set(results["full_disk"]) == tried & set(proof.FULL)
    assert all(len(entry["kills"]) >= 10 for entry in results["targets"].values())
    assert subprocess.run(["make", "-n", "prove-interruptions"], cwd=ROOT, capture_output=True).returncode == 0


def test_what_an_undisturbed_run_leaves_in_tmpdir_is_no_leftover(tmp_path):
    tree = disturbed.Tree(tmp_path / "tree", "some")
    (tree.folder / "Makefile").write_text('go:\n\tmkdir "$$TMPDIR/kernels" "$$TMPDIR/lost"\n')
    found = proof.after(tree, "go", {}, set(), ["kernels"])
    assert found["in_tmpdir"] == ["lost"] and found["exit_code"] == 0
