"""Prove that killed, doubled and disk-full commands leave nothing broken: each target of the line ends as undisturbed.

In:  this checkout, copied; targets of the line in their order. They run on the tiny model in a run of its own.
Out: a report with, for each target: the seconds of an undisturbed run; ten kills (kill -9 of the running script, or of
     all its processes) at random moments, each followed by another start; what the next undisturbed run left
     different, what still ran, and what lay in TMPDIR beyond what an undisturbed run leaves there (MLX keeps the
     kernels that it compiles). Then the same after two makes at once and, at three targets,
     after a disk that was too small. Where two undisturbed runs differ from each other (seconds, memory), nothing is
     compared; the report lists these places.

Takes about an hour of two cores. Exit code 2, and NAME.failed.json, when anything is different or left.

  .venv/bin/python scripts/house_prove_interruptions.py --report reports/tiny/interruptions.json
"""

import functools
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

from kxl.base import cli, report
from kxl.base.cli import UserError
from kxl.base.files import ROOT, read_json, shown, write_json
from kxl.house.disturbed import Ended, Tree, differences

RUN = "interrupted"
TARGETS = ("data", "core", "train", "gguf", "imatrix", "q4kxl", "parity", "eval-html")
FULL = ("data", "core", "imatrix")  # targets that are tried with too little room on the disk
MEMORY_DISK = 3 << 30  # bytes of the disk on which FULL run; a filler takes what they may not have


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--report", type=Path, required=True, help="report (JSON)")
    parser.add_argument("--target", action="append", choices=TARGETS, help="only this one and what it needs (repeat)")
    parser.add_argument("--kills", type=int, default=10, help="kills of each target")
    parser.add_argument("--seed", type=int, default=1, help="decides the moments")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/interruptions", help="folder for the copies, removed")
    args = parser.parse_args()
    if sys.platform != "linux":
        raise UserError("this proof reads /proc and mounts a small disk: run it on Linux")

    targets = [name for name in TARGETS if not args.target or name in args.target]
    args.work.mkdir(parents=True, exist_ok=True)
    trees = [Tree(args.work / name, RUN) for name in ("undisturbed", "again", "disturbed")]
    try:
        results = prove(trees, targets, args.kills, random.Random(args.seed))
    finally:
        for tree in trees:
            tree.strays()
            tree.remove()
    wrong = problems(results)
    report.write_gated(
        args.report,
        not wrong,
        [ROOT / "configs/tiny.json", ROOT / "models/tiny/model.safetensors"],
        {"kills": args.kills, "seed": args.seed, "targets": targets},
        results,
    )
    if wrong:
        raise UserError(f"{shown(report.failed_path(args.report))}: " + "; ".join(wrong[:10]))
    kills = sum(len(entry["kills"]) for entry in results["targets"].values())
    print(f"{shown(args.report)}: {len(targets)} targets, {kills} kills, nothing different, nothing left")


def words(tree: Tree) -> list[str]:
    """Arguments of make: the tiny config, and a training of three steps with a checkpoint at each."""
    training = tree.folder / "configs/short-moe.json"
    if not training.exists():
        settings = read_json(tree.folder / "configs/tiny-moe.json")
        settings |= {"steps": 3, "warmup_steps": 1, "validation_rows": 4, "validate_every": 3, "checkpoint_every": 1}
        write_json(training, settings)
    return ["CONFIG=configs/tiny.json", f"TRAINING={training.relative_to(tree.folder)}"]


def prove(trees: list[Tree], targets: list[str], kills: int, rng: random.Random) -> dict:
    """The `results` of the report."""
    calm, again, disturbed = trees
    found: dict = {"targets": {}, "two_at_once": {}, "full_disk": {}}
    for target in targets:
        begun = time.monotonic()
        ended = succeed(calm, target)
        succeed(again, target)
        expected = calm.snapshot()
        varying = set(differences(expected, again.snapshot()))
        left_by = functools.partial(after, disturbed, target, expected, varying, calm.left())
        disturbed.keep()
        entry = {"seconds": round(ended.seconds, 1), "kills": []}
        while len(entry["kills"]) < kills:
            entry["kills"].append(one_kill(disturbed, target, ended.seconds, rng, len(entry["kills"])))
        entry |= left_by()
        found["targets"][target] = entry
        found["varying"] = sorted({*found.get("varying", ()), *varying})

        disturbed.restore()
        found["two_at_once"][target] = two_at_once(disturbed, target) | left_by()
        if target in FULL:
            disturbed.restore()
            found["full_disk"][target] = full_disk(disturbed, target) | left_by()
        cli.say(
            f"{target}: {kills} kills, {time.monotonic() - begun:.0f} s; {entry['different'] or 'nothing different'}"
        )
    return found


def succeed(tree: Tree, target: str) -> Ended:
    """An undisturbed run; UserError when it fails, since nothing could be told then."""
    ended = tree.make(target, words(tree))
    if ended.exit_code:
        raise UserError(f"make {target} fails undisturbed: {ended.output[-600:]}")
    return ended


def one_kill(tree: Tree, target: str, seconds: float, rng: random.Random, number: int) -> dict:
    """Start a target and kill it at a random moment of its time.

    Half of the kills meet what the kill before left, the other half a run that has not begun the target. A target that
    ends sooner is begun anew and killed earlier.
    """
    limit = seconds
    while True:
        if number % 2 == 0:
            tree.restore()
        moment = rng.uniform(0.3, 1) * limit
        what = ("script", "all")[number // 2 % 2]
        process = tree.start(target, words(tree))
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            tree.kill(process, what)
            return {"after_seconds": round(moment, 2), "killed": what, "left_running": tree.strays()}
        tree.restore()
        limit *= 0.7


def after(tree: Tree, target: str, expected: dict, varying: set[str], usual: list[str]) -> dict:
    """What the next undisturbed run leaves different from `expected`, still running, or in TMPDIR beyond `usual`."""
    ended = tree.make(target, words(tree))
    return {
        "exit_code": ended.exit_code,
        "said": ended.output[-300:] if ended.exit_code else "",
        "different": differences(expected, tree.snapshot(), varying),
        "running": tree.strays(),
        "in_tmpdir": sorted(set(tree.left()) - set(usual)),
    }


def two_at_once(tree: Tree, target: str) -> dict:
    """Two makes of one target at the same moment: each ends well, or says that the other one runs."""
    both = [tree.start(target, words(tree)) for _ in range(2)]
    return {"exit_codes": sorted(process.wait() for process in both)}


def full_disk(tree: Tree, target: str) -> dict:
    """A target on a small disk in memory with room for a third of what it writes: it fails and names the disk."""
    before = sum(path.stat().st_size for path in (tree.folder / "runs").rglob("*") if path.is_file())
    tree.keep()
    succeed(tree, target)
    grown = sum(path.stat().st_size for path in (tree.folder / "runs").rglob("*") if path.is_file()) - before
    tree.restore()
    runs, kept = tree.folder / "runs", tree.folder.with_name(tree.folder.name + ".runs")
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir()
    # Inside: fill the small disk but for the room, run the target, and bring out what it left.
    script = (
        'cp -a "$1/." "$2"; room=$(($(stat -f -c "%a*%S" "$2") - $3)); fallocate -l $room "$2/filler"; shift 3; '
        '"$@"; code=$?; rm -f "$0/filler"; cp -a "$0/." "$KEPT"; exit $code'
    )
    copied = tree.folder.with_name(tree.folder.name + ".copied")
    shutil.rmtree(copied, ignore_errors=True)
    shutil.copytree(runs, copied, symlinks=True)
    room = max(grown // 3, 1 << 16)
    command = [
        "bwrap",
        "--dev-bind",
        "/",
        "/",
        "--size",
        str(MEMORY_DISK),
        "--tmpfs",
        str(runs),
        "--setenv",
        "KEPT",
        str(kept),
        "sh",
        "-c",
        script,
        str(runs),
        str(copied),
        str(runs),
        str(room),
    ]
    made = subprocess.run(
        [*command, *tree.command(target, words(tree))],
        env=tree.environment(),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    shutil.rmtree(runs)
    shutil.move(kept, runs)
    shutil.rmtree(copied)
    said = made.stdout + made.stderr
    return {
        "room_bytes": room,
        "first_exit_code": made.returncode,
        "names_the_disk": "disk" in said,
        "said_then": said[-400:],
    }


def problems(results: dict) -> list[str]:
    """What does not hold, in words."""
    wrong = []
    for kind in ("targets", "two_at_once", "full_disk"):
        for target, entry in results[kind].items():
            where = f"{target} ({kind.replace('_', ' ')})"
            if entry["exit_code"]:
                wrong.append(f"{where}: the next run fails: {entry['said']}")
            wrong += [f"{where}: {name} is different" for name in entry["different"]]
            wrong += [f"{where}: still running: {name}" for name in entry["running"]]
            wrong += [f"{where}: left in TMPDIR: {name}" for name in entry["in_tmpdir"]]
            wrong += [
                f"{where}: left running by a kill: {name}" for k in entry.get("kills", ()) for name in k["left_running"]
            ]
            if kind == "two_at_once" and min(entry["exit_codes"]) != 0:
                wrong.append(f"{where}: neither of two at once succeeds: {entry['exit_codes']}")
            if kind == "full_disk" and not (entry["first_exit_code"] and entry["names_the_disk"]):
                wrong.append(f"{where}: a full disk is not told: {entry['said_then']}")
    return wrong


if __name__ == "__main__":
    cli.run(main)
