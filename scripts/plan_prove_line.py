"""Prove that `make line` goes from traces to a release in a fresh copy, and goes on wherever it is killed.

In:  this checkout, copied (files under git and new ones; .venv and the cache are shared); a hardware profile.
Out: --report: the seconds of all attempts; for each stage its seconds, memory and disk beside what the plan predicted;
     the stages that were killed; what was still running after a kill; and whether the release folder, copied to another
     place, is intact.

Each stage is killed once, soon after its beginning: kill -9 of all that `make` started, as when the power goes. Then
the same command is run again. A stage that ends sooner is not killed. What a killed stage had begun is little, so the
seconds of its second beginning are those of the whole stage.

  .venv/bin/python scripts/plan_prove_line.py --profile configs/hardware/this-machine.json \\
      --report reports/tiny/line.json
"""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from kxl.base import cli, report
from kxl.base.cli import UserError
from kxl.base.files import ROOT, shown
from kxl.house.disturbed import Tree
from kxl.plan import costs, line, record

RUN = "line"
TUNED = f"{RUN}-tuned"  # of the repaired checkpoint, as make/plan.mk names it
LOOKS = 5  # for a stage's beginning, each second


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--profile", type=Path, required=True, help="hardware profile (make profile)")
    parser.add_argument("--report", type=Path, required=True, help="report (JSON)")
    parser.add_argument("--config", type=Path, default=Path("configs/tiny.json"), help="config of the run")
    parser.add_argument("--model", type=Path, default=Path("models/tiny"), help="checkpoint that the line starts from")
    parser.add_argument("--after", type=float, default=2, help="seconds from a stage's beginning to its kill")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/prove-line", help="folder for the copy, removed")
    args = parser.parse_args()
    if sys.platform != "linux":
        raise UserError("this proof reads /proc: run it on Linux")
    costs.load(args.profile)

    args.work.mkdir(parents=True, exist_ok=True)
    tree, began = Tree(args.work / "checkout", RUN), time.monotonic()
    shutil.copy2(args.profile, tree.folder / "configs/hardware")
    words = [f"CONFIG={args.config}", f"MODEL={args.model}", f"HARDWARE={args.profile.stem}"]
    killed, strays = {}, []
    while (code := attempt(tree, words, args.after, killed)) is None:
        strays += tree.strays()
        cli.say(f"killed in {list(killed)[-1]} ({len(killed)} kills); going on")
    seconds = time.monotonic() - began
    if code:
        raise UserError(f"make line ended with exit code {code}; its copy is {shown(tree.folder)}:\n{tree.printed()}")
    elsewhere = args.work / "elsewhere"
    shutil.rmtree(elsewhere, ignore_errors=True)
    shutil.copytree(tree.folder / "runs" / TUNED / "release", elsewhere)
    checked = subprocess.run(
        [sys.executable, ROOT / "scripts/release_verify.py", "--dir", elsewhere], capture_output=True, text=True
    )
    results = {
        "seconds": round(seconds),
        "stages": record.last_of([RUN, TUNED], tree.folder),
        "killed": killed,
        "left_running": strays,
        "verified": {"exit_code": checked.returncode, "said": last_line(checked.stdout + checked.stderr)},
    }
    right = not checked.returncode and not strays
    inputs = [args.profile, args.config, args.model / "model.safetensors"]
    report.write_gated(args.report, right, inputs, {"kill_after_seconds": args.after}, results)
    if not right:
        raise UserError(f"{shown(report.failed_path(args.report))}: {strays or results['verified']['said']}")
    shutil.rmtree(args.work)
    print(
        f"{shown(args.report)}: from traces to a release in {record.duration(seconds)} with {len(killed)} kills; a "
        f"copy of it elsewhere: {results['verified']['said']}"
    )


def attempt(tree: Tree, words: list[str], after: float, killed: dict) -> int | None:
    """Run `make line` to its end: its exit code; None where a stage was killed that had not been killed before.

    The seconds from that stage's beginning to its kill are noted in `killed`. Ctrl-C ends the line, too.
    """
    process = tree.start("line", words)
    try:
        while process.poll() is None:
            stage = stage_of(tree)
            if stage and stage not in killed:
                began = time.monotonic()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(after)
                if stage_of(tree) == stage:
                    killed[stage] = round(time.monotonic() - began, 2)
                    return None
            time.sleep(1 / LOOKS)
        return process.returncode
    finally:
        if process.poll() is None:
            tree.kill(process, "all")


def stage_of(tree: Tree) -> str | None:
    """RUN/STAGE of the script that runs in the tree at this moment."""
    for pid in tree.running():
        with contextlib.suppress(OSError, ValueError, IndexError, StopIteration):
            words = list(map(os.fsdecode, Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")))
            if words[1] == "scripts/plan_run.py":
                environment = Path(f"/proc/{pid}/environ").read_text(encoding="utf-8", errors="replace").split("\0")
                flags = next(one for one in environment if one.startswith(f"{line.FLAGS}=")).partition("=")[2].split()
                return f"{flags[flags.index('--run') + 1]}/{words[2]}"
    return None


def last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]


if __name__ == "__main__":
    cli.run(main)
