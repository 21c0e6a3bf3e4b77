"""The quick SmolLM training (six minutes) on the real weights: `make smollora-quick` into a folder of the test's own.

`make test` fetches the weights first; pytest by itself skips this where they are missing.
"""

import statistics
import subprocess

import pytest

from conftest import ROOT
from kxl.base.files import read_json

pytestmark = pytest.mark.minutes


@pytest.mark.skipif(
    not (ROOT / "runs/smollm2-135m/data/manifest.json").is_file(), reason="no SmolLM2-135M here: run `make smol-data`"
)
def test_fifteen_steps_make_the_start_token_ten_times_as_probable_and_no_ordinary_prompt_calls(tmp_path):
    ended = subprocess.run(
        ["make", "-C", str(ROOT), "smollora-quick", f"QUICK={tmp_path}/quick", f"SMOL_OUT={tmp_path}"],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    results = read_json(tmp_path / "quick.json")["results"]
    before, after = ({entry["id"]: entry for entry in results["details"][side]} for side in ("before", "after"))
    rises = [
        after[name]["start_probability"] / entry["start_probability"]
        for name, entry in before.items()
        if entry["kind"] == "tool"
    ]
    assert len(rises) == 6 and statistics.median(rises) >= 10
    assert not any(entry["started"] for entry in before.values())
    assert not any(entry["started"] for entry in after.values() if entry["kind"] == "ordinary")
    losses = read_json(tmp_path / "quick" / "training.json")["results"]["valid_losses"]
    assert losses[-1] < losses[0]
