"""The whole line on random weights of given shapes, stage by stage, each measured: for a profile and for a rehearsal.

    walk = Walk(Path("runs/rehearse-8b"), shapes, Pace(...))
    walk.stage("gguf")                   # runs it unless it was measured already; what it took is in walk.measured

What was measured stands in WORK/measured.json after each stage, so that a walk that ends early goes on there. A file
that no later stage reads is removed as soon as nothing needs it: the disk never holds the whole line at once.
"""

import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from kxl.base import history, jsonl
from kxl.base.cli import UserError, say
from kxl.base.files import ROOT, read_json, require_space, sha256, shown, write_json, write_text
from kxl.plan import measure

POLICIES = ("q8kxl", "q6kxl", "q5kxl", "q4kxl")
STAGES = (
    "checkpoint", "data", "core", "train", "step", "lora", "fuse", "gguf", "imatrix", *POLICIES, "serve", "package",
    "verify",
)  # fmt: skip
TEMPLATE = ROOT / "configs" / "templates" / "lfm2.5-tools.jinja"
TRACES = ROOT / "datasets" / "hermes" / "traces.jsonl"
RUN = "rehearsal"  # the run that the files of a walk belong to


@dataclass(frozen=True)
class Pace:
    """How much of each stage a walk does: enough to measure it, not enough to be useful."""

    router_rows: int = 150  # beside the traces of the repository
    train_steps: int = 2
    train_tokens: int = 512  # longest row of a training step
    lora_steps: int = 2
    imatrix_chunks: int = 4
    imatrix_context: int = 512
    cases: int = 3
    answer_tokens: int = 32
    context: int = 65536


class Walk:
    """A walk in a folder of its own. `measured`: {stage: {seconds, busy, others, held, mapped, disk, work}}."""

    def __init__(self, folder: Path, shapes: dict, pace: Pace):
        self.folder, self.shapes, self.pace = Path(folder), shapes, pace
        self.state = self.folder / "measured.json"
        said = {"shapes": shapes, "pace": asdict(pace)}
        before = read_json(self.state) if self.state.is_file() else {**said, "stages": {}}
        if {key: before[key] for key in said} != said:
            raise UserError(f"{shown(self.folder)}: was begun with other shapes or another pace; remove the folder")
        self.said, self.measured = said, before["stages"]

    def path(self, name: str) -> Path:
        return self.folder / name

    def stage(self, name: str) -> dict:
        """Measure one stage, unless that was done; what it took. UserError with the end of its log when it fails."""
        if name in self.measured:
            return self.measured[name]
        if missing := [earlier for earlier in STAGES[: STAGES.index(name)] if earlier not in self.measured]:
            raise UserError(f"{name} comes after {missing[0]}, which is not measured yet")
        self.folder.mkdir(parents=True, exist_ok=True)
        makes = [self.path(file) for file in MAKES[name]]
        for path in makes:  # of an attempt that was killed
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        runs = []
        log = self.path(f"{name}.log")
        env = {key: value for key, value in os.environ.items() if key != history.VARIABLE}
        for command in getattr(self, f"_{name}")():
            if callable(command):
                command()
                continue
            ended = measure.run(command, env=env, log=log)
            if ended.code:
                raise UserError(f"{name} ended with {ended.code}; its output is in {shown(log)}:\n{_tail(log)}")
            runs.append(ended)
        self.measured[name] = {
            "seconds": round(sum(ended.seconds for ended in runs), 2),
            "busy": round(sum(ended.busy for ended in runs), 2),
            "others": round(max(ended.others for ended in runs), 3),
            "held": max(ended.held for ended in runs),
            "mapped": max(ended.mapped for ended in runs),
            "disk": measure.bytes_of(*makes),
            "work": self._work(name),
        }
        write_json(self.state, {**self.said, "stages": self.measured})
        for file in DROPS.get(name, ()):
            path = self.path(file)
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        return self.measured[name]

    def _checkpoint(self) -> list:
        write_json(self.path("shapes.json"), self.shapes)
        write_json(self.path("config.json"), self._config())
        write_json(self.path("moe.json"), self._training())
        command = [*measure.python("plan_write_random"), "--shapes", self.path("shapes.json")]
        return [[*command, "--out", self.path("checkpoint")]]

    def _data(self) -> list:
        router, data = self.path("router.jsonl"), self.path("data")
        build = [*measure.python("traces_build_router_rows"), "--context", "compact", "--rows", self.pace.router_rows]
        prepare = [*measure.python("traces_prepare"), TRACES, router, "--config", self.path("config.json")]
        prepare += ["--model", self.path("checkpoint"), "--out", data, "--manifest", data / "manifest.json"]
        encode = [*measure.python("moe_encode_rows"), "--model", self.path("checkpoint")]
        encode += ["--config", self.path("moe.json")]
        return [
            [*build, "--out", router],
            [*prepare, "--report", self.path("data.json")],
            self._shortest_rows,
            *(
                [*encode, "--rows", self.path(f"few/{split}.jsonl"), "--out", self.path(f"{split}.jsonl")]
                for split in ("train", "valid")
            ),
        ]

    def _core(self) -> list:
        command = [*measure.python("moe_build_core"), "--model", self.path("checkpoint"), "--out", self.path("core")]
        return [[*command, "--config", self.path("moe.json"), "--report", self.path("core.json")]]

    def _train(self) -> list:
        command = [*measure.python("moe_train"), "--core", self.path("core"), "--config", self.path("moe.json")]
        for split in ("train", "valid"):
            command += [f"--{split}", self.path(f"{split}.jsonl")]
        return [[*command, "--work", self.path("moe"), "--report", self.path("train.json")]]

    def _step(self) -> list:
        return [[*measure.python("moe_materialize"), "--step", self._last_step(), "--out", self.path("bf16")]]

    def _lora(self) -> list:
        command = [*measure.python("repair_train"), "--model", self._last_step(), "--data", self.path("few")]
        command += ["--adapter", self.path("adapter"), "--report", self.path("lora.json")]
        return [[*command, "--steps", self.pace.lora_steps, "--batch-size", 1, "--max-tokens", self.pace.train_tokens]]

    def _fuse(self) -> list:
        command = [*measure.python("repair_fuse"), "--model", self.path("bf16"), "--adapter", self.path("adapter")]
        return [[*command, "--out", self.path("fused")]]

    def _gguf(self) -> list:
        command = [
            *measure.python("quant_convert"),
            "--model",
            self.path("fused"),
            "--config",
            self.path("config.json"),
        ]
        return [[*command, "--run", RUN, "--out", self.path("bf16.gguf"), "--log", self.path("convert.log")]]

    def _imatrix(self) -> list:
        text, pace = self.path("calibration.txt"), self.pace
        tokens = pace.imatrix_chunks * pace.imatrix_context
        build = [*measure.python("quant_build_calibration"), "--rows", self.path("data/train.jsonl")]
        build += ["--model", self.path("fused"), "--calibration", text, "--heldout", self.path("heldout.txt")]
        build += ["--calibration-tokens", tokens + pace.imatrix_context // 2, "--heldout-tokens", tokens]
        compute = [*measure.python("quant_compute_imatrix"), "--gguf", self.path("bf16.gguf"), "--text", text]
        compute += ["--context", pace.imatrix_context, "--min-tokens", 1, "--out", self.path("imatrix.gguf")]
        return [
            [*build, "--report", self.path("calibration.json")],
            [*compute, "--report", self.path("imatrix.json"), "--log", self.path("llama-imatrix.log")],
        ]

    def _quantize(self, policy: str) -> list:
        command = [*measure.python("quant_quantize"), "--gguf", self.path("bf16.gguf"), "--policy", policy]
        command += ["--imatrix", self.path("imatrix.gguf"), "--out", self.path(f"{policy}.gguf")]
        return [[*command, "--log", self.path(f"quantize.{policy}.log")]]

    _q8kxl, _q6kxl, _q5kxl, _q4kxl = (lambda self, name=name: self._quantize(name) for name in POLICIES)

    def _serve(self) -> list:
        suite = read_json(ROOT / "evals" / "suites" / "structured_6.json")
        cases = suite["cases"][: self.pace.cases]
        write_json(self.path("suite.json"), {**suite, "max_tokens": self.pace.answer_tokens, "cases": cases})
        command = [*measure.python("eval_run"), "--suite", self.path("suite.json"), "--gguf", self.path("q4kxl.gguf")]
        command += ["--artifact", "q4kxl", "--context", self.pace.context, "--out", self.path("serve.json")]
        return [[*command, "--timeout", 1800, "--server-log", self.path("server.log")]]

    def _package(self) -> list:
        artifacts = [word for name in POLICIES for word in ("--artifact", f"{name}={self.path(f'{name}.gguf')}")]
        command = [*measure.python("release_build"), "--summary", self.path("summary.json"), *artifacts]
        command += ["--imatrix", self.path("imatrix.gguf"), "--card", self.path("card.md")]
        return [self._summarize, [*command, "--out", self.path("release")]]

    def _verify(self) -> list:
        return [[*measure.python("release_verify"), "--dir", self.path("release")]]

    def _summarize(self) -> None:
        """What `make release-summary` would write, without its gates: random weights pass none."""
        artifacts = {
            name: {
                "file": f"rehearsal-{name.upper()}.gguf",
                "policy": name,
                "sha256": sha256(self.path(f"{name}.gguf")),
            }
            for name in POLICIES
        }
        write_json(self.path("summary.json"), {"name": RUN, "run": RUN, "artifacts": artifacts})
        write_text(self.path("card.md"), "# A rehearsal\n\nRandom weights of real shapes; nothing to publish.\n")

    def _last_step(self) -> Path:
        return sorted(self.path("moe").glob("step_*"))[-1]

    def _config(self) -> dict:
        config = read_json(ROOT / "configs" / "lfm2.5-8b-a1b.json")
        return {**config, "name": RUN, "kld": {**config["kld"], "context_tokens": self.pace.imatrix_context}}

    def _training(self) -> dict:
        settings = read_json(ROOT / "configs" / "lfm2.5-8b-a1b-moe.json")
        settings = {key: value for key, value in settings.items() if key != "epochs"}
        length = {"steps": self.pace.train_steps, "checkpoint_every": self.pace.train_steps, "keep_checkpoints": 1}
        length |= {"validate_every": self.pace.train_steps, "validation_rows": 1, "warmup_steps": 0}
        length |= {"batch": 1, "shares": 1}  # costs.job_of takes a step for a row
        return {**settings, **length, "max_tokens": self.pace.train_tokens}

    def _shortest_rows(self) -> None:
        """Rows for both trainings: the shortest of all, three to train on and one to validate on."""
        rows = list(jsonl.survivors(self.path("data/train.jsonl")))
        rows = sorted(rows, key=lambda row: len(json.dumps(row["tools"])) + len(json.dumps(row["messages"])))[:4]
        self.path("few").mkdir(exist_ok=True)
        jsonl.write(self.path("few/train.jsonl"), rows[:3])
        jsonl.write(self.path("few/valid.jsonl"), rows[3:])

    def _work(self, name: str) -> dict:
        """How much a stage had to do, in its own units, beyond what shapes and pace say."""
        if name == "data":
            return {"trace_bytes": TRACES.stat().st_size + self.path("router.jsonl").stat().st_size}
        if name == "train":
            results = read_json(self.path("train.json"))["results"]
            valid = len(next(iter(jsonl.survivors(self.path("valid.jsonl"))))["tokens"])
            return {"tokens": results["tokens"], "steps": results["steps"], "validation_tokens": 2 * valid}
        if name == "serve":
            return spoken(self.path("server.log").read_text(encoding="utf-8", errors="replace"))
        return {}


MAKES = {
    "checkpoint": ("checkpoint",),
    "data": ("router.jsonl", "data", "data.json", "train.jsonl", "valid.jsonl", "few"),
    "core": ("core",),
    "train": ("moe",),
    "step": ("bf16",),
    "lora": ("adapter",),
    "fuse": ("fused",),
    "gguf": ("bf16.gguf",),
    "imatrix": ("calibration.txt", "heldout.txt", "imatrix.gguf"),
    **{name: (f"{name}.gguf",) for name in POLICIES},
    "serve": ("serve.json", "server.log"),
    "package": ("release",),
    "verify": (),
}
# What nothing needs any more after a stage.
DROPS = {
    "core": ("checkpoint",),
    "train": ("core",),
    "lora": ("moe",),
    "fuse": ("bf16",),
    "imatrix": ("fused",),
    "q4kxl": ("bf16.gguf",),
}


def spoken(log: str) -> dict:
    """What llama-server's log says of its work: tokens and seconds of prompts and of answers."""
    said = {}
    for part, pattern in (("prompt", r"prompt eval time"), ("answer", r"(?<!prompt )eval time")):
        found = re.findall(pattern + r"\s*=\s*([\d.]+) ms /\s*(\d+) tokens", log)
        said[f"{part}_seconds"] = round(sum(float(ms) for ms, _ in found) / 1000, 2)
        said[f"{part}_tokens"] = sum(int(count) for _, count in found)
    return said


def _tail(log: Path, lines: int = 12) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def require_disk(folder: Path, largest: int) -> None:
    """UserError unless the disk has room for the largest moment of a walk, in bytes."""
    require_space(folder, largest)
    say(f"{shown(folder)}: at most {largest / 2**30:.0f} GiB at a time, removed as the walk goes on")
