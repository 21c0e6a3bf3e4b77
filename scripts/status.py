"""Where a run stands: each stage, what it made, how long it took, and what to run next.

In:  stages in order, each as TARGET=FILE (the report or artifact that the target makes), or TARGET?=FILE for one that
     is listed only where its file is there or was tried; the run's history (history.py); with --pending a dry run of
     make on stdin. Out: what the run was begun with, a table, the next command, the other runs.

A stage is done when its file exists, make would not make it again, and every input that its report names (of a summary
or a release folder, every report that it was made from) still has the recorded sha256; else stale, with the reason;
failed, interrupted or running by the history or by a report kept as NAME.failed.json. A report whose code has changed
since, or that names none, is done and said to be of older code.

  .venv/bin/python scripts/status.py --stage q4kxl=runs/tiny/results/evals/fixed_hermes_43.llama_cpp.q4kxl.json \\
      --history runs/tiny/history.jsonl

With --claims the reports of older code that README and docs take numbers from are listed behind the table.
"""

import functools
import sys
from pathlib import Path

from kxl.base import cli, history, report
from kxl.base.files import ROOT, read_json, sha256, shown, size
from kxl.house import pending
from kxl.plan import record
from kxl.release import claims
from kxl.release.folder import SUMMARY
from kxl.release.provenance import Tree

HASH_AT_MOST = 1 << 30  # a larger input counts as changed when its size differs or it is newer than the report


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--stage", action="append", required=True, metavar="TARGET=FILE", help="a stage and what it makes; in order"
    )
    parser.add_argument("--history", type=Path, required=True, help="history.jsonl of the run")
    parser.add_argument("--again", default="", help="words to add to the command that is proposed, such as RUN=mine")
    parser.add_argument("--pending", action="store_true", help="read on stdin what make would make again")
    parser.add_argument("--run", help="name of the run: say what it was begun with, and which others there are")
    parser.add_argument("--claims", action="store_true", help="list published numbers that rest on older code")
    args = parser.parse_args()

    ran = history.last(args.history)
    digest = functools.cache(sha256)  # many reports name the same files
    tree = Tree()
    again = pending.read(sys.stdin.read()) if args.pending else {}
    told = record.last_by_output(record.beside(args.history))
    rows, next_target = [], None
    if args.run:
        print(f"run {args.run}: {begun_with(args.run)}")
    for stage in args.stage:
        target, _, name = stage.partition("=")
        path, optional = Path(name), target.endswith("?")
        target = target.removesuffix("?")
        if optional and not (path.exists() or report.failed_path(path).exists() or name in ran):
            continue
        state, detail = state_of(path, ran.get(name, {}), digest)
        # A file that is committed has no time of its own in a fresh checkout; the hashes in it say enough.
        if state == "done" and name in again and not path.resolve().is_relative_to(ROOT / "reports"):
            state, detail = made_again(path, ran.get(name, {}), again[name])
        if state == "done" and tree.older_code(shown(path)):
            detail += " (of older code)"
        if state != "done" and not next_target:
            next_target = target
        took = ran.get(name, {}).get("seconds") if ran.get(name, {}).get("event") == "done" else None
        rows.append((target, state, "" if took is None else record.duration(took), detail + predicted(told.get(name))))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[3]]).rstrip())
    print(
        f"next: make {next_target}{' ' + args.again if args.again else ''}"
        if next_target
        else "everything is made and fits together"
    )
    for line in told_by_older_code(tree) if args.claims else ():
        print(line)
    if args.run and (others := other_runs(args.run)):
        print("other runs, each with `make status RUN=NAME`:", *others, sep="\n  ")


def begun_with(name: str) -> str:
    """What a run remembers, in one line; what nobody has named yet is the config's."""
    path = ROOT / "runs" / name / "run.json"
    stored = read_json(path) if path.is_file() else {}
    return " ".join(f"{key}={value}" for key, value in stored.items() if value) or "not begun"


def other_runs(name: str) -> list[str]:
    """The other runs of this checkout, with their models."""
    return [
        f"{path.parent.name}: {begun_with(path.parent.name)}"
        for path in sorted((ROOT / "runs").glob("*/run.json"))
        if path.parent.name != name
    ]


def made_again(path: Path, last: dict, why: str) -> tuple[str, str]:
    """State and detail of a file that is there and that make would make again."""
    if last.get("event") in ("failed", "interrupted"):
        return last["event"], f"{last['argv'][0]}; {shown(path)} is of an earlier one"
    return "stale", f"{why or 'something that it is made from is made again'}: {shown(path)} is of before"


def predicted(entry: dict | None) -> str:
    """What the plan had said of a stage that ended, where it said something: "  (plan: 3:05 min, 1.2 GiB)"."""
    if not entry or entry["predicted_seconds"] is None:
        return ""
    return f"  (plan: {record.duration(entry['predicted_seconds'])}, took {entry['peak_gib']:.1f} GiB)"


def told_by_older_code(tree: Tree) -> list[str]:
    """Which published numbers are of code that has changed since, by the script that would make them again."""
    found = claims.told_by_older_code(tree, claims.load(tree.root))
    lines = [f"  {script}: {', '.join(paths)}" for script, paths in sorted(found.items())]
    return ["README and docs take numbers from reports of older code:", *lines] if lines else []


def state_of(path: Path, last: dict, digest) -> tuple[str, str]:
    """(done | stale | failed | interrupted | running | -, what a person wants to know of it)."""
    if last.get("event") == "running":
        return "running", f"{last['argv'][0]} (process {last['pid']})"
    failed = report.failed_path(path)
    if not path.exists():
        if failed.is_file():
            return "failed", f"{shown(failed)}{score(failed)}"
        return (
            (last["event"], f"{last['argv'][0]}; its log or its message says why")
            if last.get("event") in ("failed", "interrupted")
            else ("-", shown(path))
        )
    made_from = path / SUMMARY if path.is_dir() else path  # of a release folder
    if made_from.suffix != ".json":
        return "done", f"{shown(path)}  {size(bytes_of(path), 1)}"
    changed, gone = compare_inputs(made_from, digest)
    if changed:
        return "stale", f"{changed} changed after {shown(path)}"
    note = f" ({gone} is not here, so not compared)" if gone else ""
    return "done", f"{shown(path)}{'  ' + size(bytes_of(path), 1) if path.is_dir() else score(path)}{note}"


def compare_inputs(path: Path, digest) -> tuple[str | None, str | None]:
    """(first input that is not what the report was made from, first that is not here)."""
    changed = gone = None
    made = report.load(path, {"inputs?": [report.INPUT], "reports?": {"*": str}})
    summed = [{"path": name, "sha256": value} for name, value in made.get("reports", {}).items()]
    for entry in flat(made.get("inputs", [])) + summed:
        file = ROOT / entry["path"]
        if not file.is_file():
            gone = gone or entry["path"]
            continue
        count = file.stat().st_size
        same = count == entry.get("bytes", count)
        if same and count <= HASH_AT_MOST:
            same = digest(file) == entry["sha256"]
        elif same:
            same = file.stat().st_mtime <= path.stat().st_mtime
        if not same:
            changed = changed or entry["path"]
    return changed, gone


def flat(inputs: list) -> list:
    """Files of a report's inputs; a folder's one by one."""
    return [file for entry in inputs for file in (flat(entry["files"]) if "files" in entry else [entry])]


def score(path: Path) -> str:
    """What the report says in a few characters, where it counts something."""
    results = report.load(path, {"results?": {}}).get("results", {})
    whole = results.get("cases", results.get("tasks"))  # of an evaluation, of a live run
    return f"  {results['passed']}/{whole}" if "passed" in results and whole else ""


def bytes_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size


if __name__ == "__main__":
    cli.run(main)
