"""Repair a checkpoint until it passes: evaluate, diagnose, build rows, train, fuse, evaluate, again.

In:  a checkpoint folder and a config with a "repair" section: the suites with the cases that must pass (a name of
     evals/suites, or the path of a suite of your own), the rows and steps of an iteration, how many iterations there
     may be, and, where wanted, "add": JSON lines of your own that go into every iteration.
Out: --work/best, the best checkpoint by the rule below; evals and adapters of every iteration beside it; the rows in
     --data/iterNN; and a report with the whole story.

  .venv/bin/python scripts/repair_loop.py --model runs/tiny-repair/weak --config configs/tiny-repair.json \\
      --work runs/tiny-repair/repair --data repair_datasets --report runs/tiny-repair/results/reports/repair.json

An iteration trains a LoRA adapter on rows for the failures of the checkpoint before it and fuses it. One that breaks a
suite which its parent met is refused: the next starts from the parent again, with other rows and half the learning
rate. The best has most suites met, then most cases passed, then fewest leaks and false calls, then is the earliest.
Interrupted, the loop goes on where it stopped. "compare_shapes" in the config trains the first iteration's rows in
other shapes, too, for comparison only (kxl/repair/shapes.py).
"""

import json
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

from kxl.base import cli, processes, report
from kxl.base.cli import UserError
from kxl.base.files import ROOT, atomic_dir, read_json, shown, write_json
from kxl.eval import suite_files
from kxl.eval import suites as eval_suites
from kxl.repair import acceptance, diagnosis
from kxl.repair import rows as repair_rows

SCRIPTS = Path(__file__).parent
KEYS = {"suites": dict, "iterations": int, "rows": int, "training": dict, "compare_shapes": list}
# What may be left out: thoughts of hand-made rows (none), rows of the model's own (none), files of the user's rows.
OPTIONAL = {"thoughts": str, "sampled": dict, "add": list}
SAMPLED = {"share": float, "tries": int, "temperature": float}
FOCUS = repair_rows.SHARES["focus"]
TRAINED = ("valid_before", "valid_after", "scored_tokens", "seconds", "peak_memory_gib")  # kept of a training's report


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="checkpoint to repair")
    parser.add_argument("--config", type=Path, required=True, help="config with a repair section")
    parser.add_argument(
        "--work", type=Path, required=True, metavar="DIR", help="folder for adapters, checkpoints and evals"
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("repair_datasets"),
        metavar="DIR",
        help="folder for the rows, one folder per iteration",
    )
    parser.add_argument("--report", type=Path, required=True, help="report to write (JSON), after each iteration")
    parser.add_argument("--iterations", type=int, help="stop after this many (default: the config's)")
    args = parser.parse_args()
    settings = repair_settings_of(args.config)
    loop = Loop(args, settings)
    limit = args.iterations or settings["iterations"]
    scores = [loop.evaluate("start", args.model, parent=None)]
    parent, rate = scores[0], settings["training"].get("learning_rate", 5e-6)
    loop.write_report(scores)
    for number in range(1, limit + 1):
        if acceptance.complete(parent):
            break
        child = loop.iterate(f"iter{number:02d}", parent, "structured", rate)
        if number == 1:
            scores += [loop.iterate(f"iter01.{shape}", parent, shape, rate) for shape in settings["compare_shapes"]]
        child["refused"] = acceptance.broken(parent, child)
        child["accepted"] = not child["refused"]
        scores.append(child)
        parent, rate = (child, rate) if child["accepted"] else (parent, rate / 2)
        loop.write_report(scores)
    best = acceptance.best([score for score in scores if score["accepted"]])
    with atomic_dir(args.work / "best") as partial:
        shutil.copytree(loop.checkpoint(best["name"]), partial, dirs_exist_ok=True)
    passed, cases = acceptance.total(best)
    summary = (
        f"{shown(args.work / 'best')} is {best['name']}: {passed} of {cases} cases over {len(best['suites'])} suites, "
        f"after {loop.seconds(scores) / 60:.0f} minutes"
    )
    if not acceptance.complete(best):
        missed = ", ".join(name for name, suite in best["suites"].items() if not suite["meets"])
        raise UserError(
            f"{summary}; not met: {missed}. More iterations: --iterations {limit + 2}. "
            f"The story is in {shown(args.report)}"
        )
    print(summary)


def repair_settings_of(path: Path) -> dict:
    """The config's repair section.

    UserError for a key that is missing, unknown or of the wrong kind, and for a suite that is not there.
    """
    section = read_json(path).get("repair")
    known = {**KEYS, **OPTIONAL}
    if (
        not isinstance(section, dict)
        or not KEYS.keys() <= section.keys() <= known.keys()
        or any(not isinstance(value, known[key]) for key, value in section.items())
    ):
        raise UserError(
            f'{shown(path)}: "repair" needs {", ".join(KEYS)}, may have {", ".join(OPTIONAL)}, and nothing else; see '
            "configs/tiny-repair.json"
        )
    if (thoughts := section.get("thoughts", "none")) not in repair_rows.THOUGHTS:
        raise UserError(f"{shown(path)}: repair.thoughts is {thoughts!r}, not one of {', '.join(repair_rows.THOUGHTS)}")
    if sampled := section.get("sampled"):
        wrong = sampled.keys() != SAMPLED.keys() or any(
            isinstance(value, bool) or not isinstance(value, (int, SAMPLED[key])) for key, value in sampled.items()
        )
        if wrong or not (0 < sampled["share"] <= 1 and sampled["tries"] >= 1 and sampled["temperature"] > 0):
            raise UserError(
                f"{shown(path)}: repair.sampled needs exactly share (above 0, at most 1: of the rows for what failed), "
                "tries (answers to one request) and temperature (above 0)"
            )
    names = [Path(name).stem for name in section["suites"]]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{shown(path)}: two of repair.suites are called {twice}; rename one of the files")
    for own in section.get("add", []):
        if not (ROOT / str(own)).is_file():
            raise UserError(f"{shown(path)}: repair.add names {own}, which is no file (paths count from {ROOT})")
    for name, threshold in section["suites"].items():
        cases = len(eval_suites.load(suite_files.path_of(name)).cases)
        if not isinstance(threshold, int) or not 0 < threshold <= cases:
            raise UserError(
                f"{shown(path)}: repair.suites.{name} is {threshold!r}; it is how many of its {cases} cases must pass"
            )
    return section


class Loop:
    """The steps of the loop. Each leaves a file or folder and is not taken again when that is there."""

    def __init__(self, args, settings: dict):
        self.args, self.settings, self.start = args, settings, args.model
        self.suites = {Path(name).stem: suite_files.path_of(name) for name in settings["suites"]}
        suites = [report.describe_input(path) for path in (*self.suites.values(), *own_rows(settings))]
        self.inputs = [report.describe_input(args.model), *suites]
        free = {"iterations": None, "compare_shapes": None}  # they decide no step of what is there
        identity = json.loads(json.dumps({"settings": {**settings, **free}, "inputs": self.inputs}))
        self.path = args.work / "loop.json"
        self.state = read_json(self.path) if self.path.exists() else {"of": identity, "seconds": {}}
        if self.state["of"] != identity:
            raise UserError(
                f"{shown(self.path)}: is of another checkpoint, suites or settings; remove {shown(args.work)} or take "
                "another RUN"
            )

    def run(self, name: str, output: Path, script: str, *flags) -> None:
        """Run one script unless its `output` is there; remember how long it took."""
        if output.exists():
            return
        started = time.monotonic()
        if processes.run([sys.executable, str(SCRIPTS / script), *map(str, flags)]).returncode:
            raise UserError(
                f"{script} failed on {name} (its error is above); mend it and run the loop again, finished steps are "
                "kept"
            )
        self.state["seconds"][name] = round(time.monotonic() - started)
        write_json(self.path, self.state)

    def checkpoint(self, name: str) -> Path:
        """The checkpoint folder of an iteration."""
        return self.start if name == "start" else self.args.work / name / "fused"

    def eval_path(self, name: str, suite: str) -> Path:
        """The report of an iteration's evaluation."""
        return self.args.work / name / "evals" / f"{Path(suite).stem}.json"

    def evaluate(self, name: str, folder: Path, parent: str | None, **more) -> dict:
        """The score of a checkpoint on every suite (acceptance.py), with its diagnoses and what else is known of it."""
        suites = {}
        for suite, threshold in self.settings["suites"].items():
            path, suite = self.eval_path(name, suite), Path(suite).stem
            flags = ["--suite", self.suites[suite], "--backend", "mlx", "--model", folder, "--artifact", name]
            flags += ["--out", path, "--server-log", path.with_suffix(".server.log")]
            self.run(f"{name} eval {suite}", path, "eval_run.py", *flags)
            suites[suite] = acceptance.suite_score(report.results(path), threshold)
        score = {
            "name": name,
            "parent": parent,
            "accepted": name == "start",
            "refused": [],
            "suites": suites,
            "diagnoses": dict(Counter(failure["diagnosis"] for failure in self.failures(name))),
            **more,
            "seconds": sum(seconds for step, seconds in self.state["seconds"].items() if step.split()[0] == name),
        }
        cli.say(acceptance.line(score))
        return score

    def failures(self, name: str) -> list[dict]:
        """What a checkpoint failed, over all suites (diagnosis.failures)."""
        return [
            failure
            for suite in self.settings["suites"]
            for failure in diagnosis.failures(
                eval_suites.load(suite_files.path_of(suite)), report.results(self.eval_path(name, suite))
            )
        ]

    def iterate(self, name: str, parent: dict, shape: str, rate: float) -> dict:
        """Rows, adapter, checkpoint and score of one iteration."""
        folder, model = self.args.work / name, self.checkpoint(parent["name"])
        data, manifest = self.rows(name, parent["name"])
        adapter, training, fused = folder / "adapter", folder / "training.json", folder / "fused"
        flags = ["--model", model, "--data", data, "--adapter", adapter, "--report", training, "--shape", shape]
        for key, value in {**self.settings["training"], "learning_rate": rate}.items():
            flags += [f"--{key.replace('_', '-')}", value]
        self.run(f"{name} training", training, "repair_train.py", *flags)
        flags = ["--model", model, "--adapter", adapter, "--out", fused]
        self.run(f"{name} fuse", fused / "config.json", "repair_fuse.py", *flags)
        trained = report.results(training)
        more = {
            "shape": shape,
            "learning_rate": rate,
            "rows": manifest["rows"],
            "purposes": manifest["purposes"],
            "training": {key: trained[key] for key in TRAINED},
        }
        return self.evaluate(name, fused, parent["name"], **more)

    def rows(self, name: str, parent: str) -> tuple[Path, dict]:
        """(folder, manifest) of an iteration's rows for what its parent failed."""
        iteration = name.split(".")[0]
        data = self.args.data / iteration
        thoughts = ["--thoughts", self.settings["thoughts"]] if "thoughts" in self.settings else []
        common = ["--iteration", iteration.removeprefix("iter"), *thoughts]
        for suite in self.settings["suites"]:
            common += ["--eval", self.eval_path(parent, suite)]
        flags = ["--out", data, "--rows", self.settings["rows"], *common]
        for path in own_rows(self.settings):
            flags += ["--add", path]
        if (sampled := self.settings.get("sampled")) and not (data / "manifest.json").exists():
            samples = self.sample(name, iteration, parent, sampled, common)
            flags += ["--sampled", samples, "--sampled-share", sampled["share"]]
        self.run(f"{name} rows", data / "manifest.json", "repair_build_set.py", *flags)
        manifest = read_json(data / "manifest.json")
        # Not the reports' hashes: rows are committed, runs/ is not, and a report of the same failures has other
        # seconds in it.
        if manifest["failures"] != self.failures(parent):
            raise UserError(
                f"{shown(data)}: its rows answer other failures than those of {parent} here; remove it, or name "
                "another "
                "folder for rows with --data (make: REPAIR_DATA=folder)"
            )
        return data, manifest

    def sample(self, name: str, iteration: str, parent: str, sampled: dict, common: list) -> Path:
        """The file of the parent's own right answers, as many as an iteration's rows can take."""
        samples = self.args.work / iteration / "samples.jsonl"
        wanted = max(1, round(FOCUS * sampled["share"] * self.settings["rows"]))
        flags = ["--model", self.checkpoint(parent), "--config", self.args.config, *common]
        flags += ["--tries", sampled["tries"], "--temperature", sampled["temperature"], "--rows", wanted]
        flags += ["--out", samples, "--report", samples.with_suffix(".json")]
        self.run(f"{name} samples", samples, "repair_sample.py", *flags)
        return samples

    def seconds(self, scores: list[dict]) -> int:
        """Seconds of the loop itself; the shapes for comparison are not part of it."""
        return sum(score["seconds"] for score in scores if "." not in score["name"])

    def write_report(self, scores: list[dict]) -> None:
        """Write the report: the iterations so far."""
        best = acceptance.best([score for score in scores if score["accepted"]])
        results = {
            "iterations": scores,
            "best": best["name"],
            "complete": acceptance.complete(best),
            "seconds": self.seconds(scores),
            "best_rule": acceptance.BEST_RULE,
            "refusal_rule": acceptance.REFUSAL_RULE,
        }
        report.write(self.args.report, self.inputs, self.settings, results)


def own_rows(settings: dict) -> list[Path]:
    """The files of rows of the user's own."""
    return [ROOT / name for name in settings.get("add", [])]


if __name__ == "__main__":
    cli.run(main)
