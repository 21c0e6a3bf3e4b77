"""What stages of a run took beside what was predicted: one line of JSON each, in runs/RUN/plan.jsonl."""

from pathlib import Path

from kxl.base import forms, jsonl
from kxl.base.cli import UserError
from kxl.base.files import shown, write_text
from kxl.plan.costs import Need
from kxl.plan.measure import Measured

GIB = 2**30
KEPT = 400  # entries; older ones are dropped
ENTRY = {"stage": str, "outputs": [str], "predicted_seconds": (float, None), "peak_gib": float}


def path_of(run: str) -> Path:
    """The file of a run."""
    return Path("runs") / run / "plan.jsonl"


def beside(history: Path) -> Path:
    """The file beside a run's history."""
    return history.with_name("plan.jsonl")


def entry(stage: str, need: Need, took: Measured, written: int, outputs: list[str]) -> dict:
    """A stage that ended well: seconds and GiB, measured and predicted (None: no profile told), and what it wrote."""
    return {
        "stage": stage,
        "outputs": outputs,
        "seconds": round(took.seconds, 2),
        "predicted_seconds": None if need.seconds is None else round(need.seconds, 1),
        "peak_gib": round(took.held / GIB, 3),
        "predicted_peak_gib": round(need.memory / GIB, 3),
        "disk_gib": round(written / GIB, 3),
        "predicted_disk_gib": round(need.disk / GIB, 3),
        "others": round(took.others, 3),
    }


def add(path: Path, made: dict) -> None:
    """Add an entry; the file is whole at every moment."""
    kept = [*read(path), made][-KEPT:]
    write_text(path, "".join(jsonl.line_of(one) for one in kept))


def read(path: Path) -> list[dict]:
    """All entries, oldest first."""
    return [one for one in jsonl.survivors(path) if forms.fits(one, ENTRY)] if path.is_file() else []


def last_by_output(path: Path) -> dict[str, dict]:
    """For each file that a stage wrote, the last entry of such a stage."""
    return {name: one for one in read(path) for name in one["outputs"]}


def last_of(runs: list[str], root: Path = Path()) -> dict[str, dict]:
    """{RUN/STAGE: its last entry, but for the files it wrote} of runs below `root`.

    UserError for a run of which no stage tells a predicted time.
    """
    return {f"{run}/{stage}": took for run in runs for stage, took in _last_of(root / path_of(run)).items()}


def _last_of(path: Path) -> dict[str, dict]:
    entries = [one for one in read(path) if one["predicted_seconds"]]
    if not entries:
        raise UserError(
            f"{shown(path)}: no stage with a predicted time is in it; measure the machine (make profile), then run "
            f"stages of the line with make RUN={path.parent.name}"
        )
    return {
        one["stage"]: {key: value for key, value in one.items() if key not in ("stage", "outputs")} for one in entries
    }


def duration(seconds: float) -> str:
    """12 s, 3:05 min, 1:02 h."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return (
        f"{int(seconds // 60)}:{int(seconds % 60):02} min"
        if seconds < 3600
        else f"{int(seconds // 3600)}:{int(seconds % 3600 // 60):02} h"
    )
