"""The line of one run, stage by stage: what each takes on this machine, and what to change where it does not fit.

    need = Line(config, shapes, training, profile).need("q4kxl")      # what make's target takes

Names of stages are make's targets; one evaluation is "eval:SUITE:ARTIFACT", as in "eval:fixed_hermes_43:q4kxl".
"""

import bisect
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kxl.base import jsonl
from kxl.base.config import load
from kxl.base.files import ROOT, read_json, shown
from kxl.eval import suite_files
from kxl.lora.memory import Lengths
from kxl.moe import hardware
from kxl.moe.run import copies, saves
from kxl.moe.settings import check_settings
from kxl.plan import costs, sizes
from kxl.plan.costs import Job, Need
from kxl.plan.sizes import Size
from kxl.plan.walk import POLICIES

GIB = 2**30
FLAGS = "HERMES_KXL_PLAN"  # the variable in which make hands all stages the flags of their run
# What a case adds to a prompt that begins as the one before, and what an answer has; both asked twice, parsed and raw.
CASE_TOKENS, ANSWER_TOKENS = 25, 40
OWN_TOKENS = 150  # of a repair row, behind the beginning that it shares
PREFIX_TOKENS = 4100  # system prompt and schemas of the fixed tools
THOUGHT_TOKENS = 600  # of a model that thinks; users report 600 to 4,096
EXAMPLES = 582  # of the reference's training, for a run whose rows are not counted yet
ROW_BYTES = 12_000  # of a row in a file whose rows are not counted, such as Parquet
IMATRIX_TOKENS = 65536  # quant_build_calibration.py's default, and as many are held out
MLX_FACTOR = 2.1  # seconds of an evaluation by mlx_lm.server on a CPU, over llama-server's: measured on the tiny model
FLOAT32, BF16 = 4, 2


@dataclass(frozen=True)
class Stage:
    """A stage as `make plan` shows it: make's target, whether it is done, what it takes, why it does not fit."""

    name: str
    done: bool
    need: Need
    problem: str | None = None


class Line:
    """A run's line. config: the run's; shapes: the model's config.json; training: the MoE settings or None.

    trace_bytes: of the traces; trace_rows: how many they are. rows: tokens of each encoded row that the MoE training
    will read, once it is there.
    """

    def __init__(
        self,
        config: dict,
        shapes: dict,
        training: dict | None,
        profile: dict | None,
        trace_bytes: int = 0,
        rows: Sequence[int] = (),
        trace_rows: int = 0,
    ):
        self.config, self.training, self.profile = config, training, profile
        policies = tuple(name for name in config["quants"] if name in POLICIES)
        self.size: Size = sizes.of(shapes, policies if shapes["model_type"] == "lfm2_moe" else ())
        self.trace_bytes, self.trace_rows, self.rows = trace_bytes, trace_rows, rows
        there = profile["memory_gib"] if profile else hardware.load_profile(None)["memory_gib"]
        self.memory = hardware.memory_stop(int(there * GIB))

    def need(self, name: str, memory: int | None = None) -> Need:
        """What one stage takes, where it may choose in `memory` bytes (None: what the machine has).

        KeyError for a name that is no stage.
        """
        if name.startswith("eval:"):
            _, suite, artifact = name.split(":")
            return self._evaluation(suite, artifact)
        if name in self.size.quants:
            return costs.predict(name, self.size, Job(), self.profile)
        return {
            "data": self._data,
            "core": lambda: self._walked("core", Job(training=self.training)),
            "train": self._train,
            "step": lambda: self._walked("step"),
            "repair-loop": lambda: self._repair(self.memory if memory is None else memory),
            "gguf": lambda: self._walked("gguf"),
            "imatrix": self._imatrix,
            "parity": self._parity,
            "quants": self._divergence,
            "package": lambda: self._walked("package"),
            "verify": lambda: self._walked("verify"),
        }[name]()

    def problem(self, name: str, memory: int, free: int) -> str | None:
        """Why a stage cannot be done with so many bytes of memory and disk, and what to change; None where it can."""
        need = self.need(name, memory)
        if need.memory > memory:
            there = f"needs {need.memory / GIB:.1f} GiB of memory and {memory / GIB:.1f} are there"
            return f"{there}: {self._advice(name, memory)}"
        if need.room > free:
            return (
                f"writes {need.room / GIB:.1f} GiB and {free / GIB:.1f} are free on the disk: remove what no run needs "
                "(make clean RUN=name), or put runs/ on another disk by a link"
            )
        return None

    def _walked(self, stage: str, job: Job | None = None) -> Need:
        return costs.predict(stage, self.size, job or Job(), self.profile)

    def _data(self) -> Need:
        return self._walked("data", Job(trace_bytes=self.trace_bytes, trace_rows=self.trace_rows))

    def _training(self) -> dict:
        """The settings of the MoE training, the 8B's for what the run does not say."""
        return {**read_json(costs.TRAINING), **(self.training or {})}

    def _train(self, **changes) -> Need:
        """What the training takes with its settings, but for `changes`."""
        settings = {**self._training(), **changes}
        batch, longest = settings["batch"], settings["max_tokens"]
        steps = settings.get("steps") or settings["epochs"] * max((len(self.rows) or EXAMPLES) // batch, 1)
        job = Job(
            train_steps=steps,
            train_rows=batch,
            # Rows are shorter than their cap; how much is known once they are encoded.
            train_tokens=round(sum(self.rows) / len(self.rows)) if self.rows else longest // 2,
            validations=settings["validation_rows"] * (1 + -(-steps // settings["validate_every"])),
            saves=saves(settings, steps),
        )
        need = self._walked("train", job)
        # The step that holds most: all of its rows are as long as they may be.
        largest = self._walked("train", Job(train_rows=batch, train_tokens=longest, training=settings))
        kept, _ = copies(settings, steps)
        return Need(need.seconds, largest.memory, costs.trained(self.size, settings) * kept, largest.passing)

    def _smaller_training(self, memory: int) -> str | None:
        """Settings with which the training fits the memory: fewer rows in a step, else shorter ones, too."""
        settings = self._training()
        least = settings.get("shares", 1)  # a batch is a multiple of it
        # Looked for by halves: more rows and longer ones take more, and a config may name a number without end.
        batches = range(least, settings["batch"], least)
        if fitting := bisect.bisect_right(batches, memory, key=lambda batch: self._train(batch=batch).memory):
            return f"set batch of the training to {batches[fitting - 1]}"
        batch = f" and batch to {least}" if settings["batch"] > least else ""
        lengths = range(512, settings["max_tokens"] + 1, 512)
        fitting = bisect.bisect_right(
            lengths, memory, key=lambda tokens: self._train(batch=least, max_tokens=tokens).memory
        )
        return f"set max_tokens of the training to {lengths[fitting - 1]}{batch}" if fitting else None

    def _imatrix(self) -> Need:
        context = self.config["imatrix"]["context_tokens"]
        return self._walked("imatrix", Job(imatrix_tokens=IMATRIX_TOKENS, imatrix_context=context))

    def _evaluation(self, suite: str, artifact: str) -> Need:
        asked = read_json(suite_files.path_of(suite))
        cases = len(asked["cases"])
        answers = 2 * cases * (ANSWER_TOKENS + min(self.config["eval"].get("thinking_tokens", 0), THOUGHT_TOKENS))
        job = Job(
            prompt_tokens=PREFIX_TOKENS + 2 * cases * CASE_TOKENS,
            answer_tokens=answers,
            context=self.config["eval"]["context"],
        )
        need = costs.predict("serve", self._served(artifact), job, self.profile)
        if artifact != "mlx":
            return need
        bytes_each = FLOAT32 if sys.platform == "linux" else BF16
        seconds = None if need.seconds is None else MLX_FACTOR * need.seconds
        copy = FLOAT32 * self.size.parameters if bytes_each == FLOAT32 else 0
        return Need(seconds, bytes_each * self.size.parameters + costs.BASE, copy)

    def _served(self, artifact: str) -> Size:
        """The sizes with an artifact's bytes in Q4KXL's place, which the walk served."""
        held, anew = self.size.quants.get(artifact, self.size.bf16), self.size.laid_out.get(artifact, 0)
        return Size(**{**vars(self.size), "quants": {"q4kxl": held}, "laid_out": {"q4kxl": anew}})

    def _repair(self, memory: int) -> Need:
        """One iteration: two evaluations of each suite, and an adapter trained in `memory` bytes."""
        suites = self.config.get("repair", {}).get("suites", {})
        training = self.config.get("repair", {}).get("training", {})
        evaluations = [self._evaluation(suite, "mlx") for suite in suites]
        # Rows of a batch share their beginning: it is read once, and its gradient taken in some of the steps.
        batch, share = training.get("batch_size", 1), training.get("prefix_gradient", 1.0)
        longest = training.get("max_tokens", 512)
        read = (1 + costs.BACKWARD * share) / (1 + costs.BACKWARD)
        lengths = Lengths(max(min(PREFIX_TOKENS, longest - OWN_TOKENS), 0), batch, min(OWN_TOKENS, longest))
        job = Job(
            lora_steps=training.get("steps", 0),
            lora_tokens=round(lengths.shared * read + batch * lengths.own),
            # A place sees those before it: half of the beginning's square.
            lora_scores=round(lengths.shared**2 / 2 * read + batch * lengths.own * (lengths.shared + lengths.own / 2)),
            lora_batch=lengths,
            lora_floats=True,
            memory=memory,
        )
        adapter = self._walked("lora", job)
        held = max([adapter.memory, *(need.memory for need in evaluations)])
        written = self.size.bf16 + (self.size.core if costs.lora(self.size, job).mapped else 0)
        if adapter.seconds is None:
            return Need(None, held, written)
        return Need(adapter.seconds + 2 * sum(need.seconds for need in evaluations), held, written)

    def _parity(self) -> Need:
        served = self._evaluation("structured_6", "mlx")
        return Need(served.seconds, served.memory, FLOAT32 * self.size.parameters)

    def _divergence(self) -> Need:
        """BF16 and every quant read the held-out text; BF16's log-probabilities are two bytes each."""
        context = self.config["kld"]["context_tokens"]
        once = self._walked("imatrix", Job(imatrix_tokens=IMATRIX_TOKENS, imatrix_context=context))
        files = 1 + len(self.config["quants"]) + len(self.config["stock"])
        seconds = None if once.seconds is None else files * once.seconds
        return Need(seconds, once.memory, 2 * self.size.vocabulary * IMATRIX_TOKENS // 2)

    def _advice(self, name: str, memory: int) -> str:
        if name == "train":
            smaller = self._smaller_training(memory)
            return smaller or "train on a machine with more memory, or start from a checkpoint that is trained"
        if name == "imatrix":
            job = [
                n
                for n in (4096, 2048, 1024, 512)
                if self._walked("imatrix", Job(imatrix_tokens=IMATRIX_TOKENS, imatrix_context=n)).memory <= memory
            ]
            return f"set imatrix.context_tokens to {job[0]}" if job else "compute it on a machine with more memory"
        if name == "parity" or name.endswith(":mlx") or name == "repair-loop":
            mac, target = (BF16 * self.size.parameters + costs.BASE) / GIB, "mlx-evals" if ":" in name else name
            return f"MLX computes in float32 on a CPU, and a Mac needs {mac:.0f} GiB: run `make {target}` there"
        return "close other programs, or take a machine with more memory"


def of_run(
    config: Path,
    model: Path | None,
    training: Path | None,
    profile: Path | None,
    traces: list[Path] = (),
    encoded: Path | None = None,
):
    """A Line from a run's files. The shapes of LFM2.5-8B-A1B stand in for a model that is not here yet.

    encoded: the rows of the MoE training as moe_encode_rows.py wrote them, where they are there.
    """
    shapes = model / "config.json" if model and (model / "config.json").is_file() else None
    read = read_json(shapes) if shapes else {**read_json(ROOT / "gguf/lfm2-8b-a1b.shapes.json"), "vocab_size": 128_000}
    known = hardware.load_profile(profile) if profile and Path(profile).is_file() else {}
    settings = check_settings(read_json(training), shown(training)) if training and Path(training).is_file() else None
    # An older profile: memory and disk are told, seconds are not.
    known = costs.load(profile) if "walks" in known else None
    rows = [len(row["tokens"]) for row in jsonl.survivors(encoded)] if encoded and encoded.is_file() else []
    size = sum(path.stat().st_size for path in traces)
    return Line(load(config), read, settings, known, size, rows, sum(map(rows_of, traces)))


def rows_of(traces: Path) -> int:
    """How many rows a file of traces has: its lines; of another format, as many as its bytes would be lines here."""
    if traces.suffix == ".jsonl":
        return jsonl.count(traces)
    return -(-traces.stat().st_size // ROW_BYTES)
