"""What each stage of the line will take: formulas for seconds, memory and disk, scaled by a measured profile.

    need = predict("gguf", sizes.of(config), Job(), load(profile))       # Need(seconds, memory, disk)

Each stage has a formula for its effort: how its work grows with shapes and counts. `make profile` walks the whole line
with three random models: a small one, the same with a vocabulary of the 8B's size, and one of the first layers of
LFM2.5-8B-A1B's shapes. A plane through them gives seconds from vocabulary and effort: programs begin, read a vocabulary
(seconds, with a large one), and work. Memory is predicted by a line through the first and the last, from a formula of
what grows. Disk is counted from the shapes, exactly.
"""

import functools
from dataclasses import dataclass, replace
from pathlib import Path

from kxl.base import jsonl
from kxl.base.cli import UserError
from kxl.base.files import read_json, shown
from kxl.chat import schemas
from kxl.lora import memory as lora_memory
from kxl.lora.memory import Lengths
from kxl.moe import hardware
from kxl.moe import memory as moe_memory
from kxl.moe.run import copies
from kxl.plan import sizes
from kxl.plan.sizes import Size
from kxl.plan.walk import DROPS, MAKES, POLICIES, STAGES, TRACES, Walk
from kxl.repair.settings import Settings

FLOAT, HALF = 4, 2
RANK = Settings().rank  # of a repair's adapter
BATCH, UBATCH = 2048, 512  # llama.cpp's defaults: tokens of a batch, and of what is computed at once
BACKWARD = 2  # of a forward's work
FUSED = 3  # more of a copied weight's work for one that an adapter changes: float32, its product, rounded again

POSITIVE = {"type": "number", "exclusiveMinimum": 0, "maximum": 1e15}
AMOUNT = {"type": "number", "minimum": 0, "maximum": 1e15}
COUNT = {"type": "integer", "minimum": 1, "maximum": 1 << 40}


def _with(**properties) -> dict:
    return {"type": "object", "required": sorted(properties), "properties": properties}


def _several(count: int, items: dict) -> dict:
    return {"type": "array", "minItems": count, "maxItems": count, "items": items}


_PACE = ("router_rows", "train_steps", "lora_steps", "imatrix_chunks", "imatrix_context", "cases", "answer_tokens")
_PACE += ("context",)
_STAGE = _with(seconds=AMOUNT, held=AMOUNT, others=AMOUNT, work={"type": "object", "additionalProperties": AMOUNT})
_SERVED = _with(prompt_seconds=AMOUNT, answer_seconds=AMOUNT, prompt_tokens=COUNT, answer_tokens=COUNT)
_STAGES = {name: _STAGE if name != "serve" else {"allOf": [_STAGE, _with(work=_SERVED)]} for name in STAGES}
# What `make profile` says of a machine, as far as a plan reckons with it.
PROFILE = _with(
    attention_ns=POSITIVE,
    disk_read_mib_s=POSITIVE,
    disk_write_mib_s=POSITIVE,
    memory_gib=POSITIVE,
    steps=_several(
        2, _with(shapes={"type": "object"}, taken=_several(2, _with(tokens=COUNT, seconds=AMOUNT, forward=AMOUNT)))
    ),
    walks=_several(
        3, _with(shapes={"type": "object"}, pace=_with(**dict.fromkeys(_PACE, COUNT)), stages=_with(**_STAGES))
    ),
)


@dataclass(frozen=True)
class Job:
    """How much a stage has to do, where shapes do not say it. Tokens are of one example unless it says otherwise.

    trace_bytes in trace_rows; train_steps of train_rows each, a row of train_tokens, with `validations` forwards of a
    row and `saves` checkpoints; lora_steps of lora_tokens, each with lora_scores of each head (the largest batch:
    lora_batch), with lora_validations forwards, of a core's int8 experts or, with lora_floats, of a checkpoint that
    becomes one only where it must, in `memory` bytes (None: as many as it takes); imatrix_tokens in all, in chunks of
    imatrix_context; prompt_tokens and answer_tokens of all cases, and the server's context; training: the settings of
    the MoE training (the 8B's).
    """

    trace_bytes: int = 0
    trace_rows: int = 0
    train_steps: int = 0
    train_rows: int = 1
    train_tokens: int = 512
    validations: int = 0
    saves: int = 1
    lora_steps: int = 0
    lora_tokens: int = 512
    lora_scores: int = 0
    lora_batch: Lengths | None = None
    lora_validations: int = 2
    lora_floats: bool = False
    memory: int | None = None
    imatrix_tokens: int = 0
    imatrix_context: int = 8192
    prompt_tokens: int = 0
    answer_tokens: int = 0
    context: int = 65536
    training: dict | None = None


@dataclass(frozen=True)
class Need:
    """What a stage takes: seconds (None where no profile tells), bytes of memory held, bytes that it writes and keeps,
    and bytes that it writes beside them and removes at its end."""

    seconds: float | None
    memory: int
    disk: int
    passing: int = 0

    @property
    def room(self) -> int:
        """Bytes that must be free on the disk before it begins."""
        return self.disk + self.passing


def effort(stage: str, size: Size, job: Job, rates: dict) -> float:
    """How much work a stage is, in a unit of its own; for the stages with several kinds of work, in seconds."""
    read, write = (rates[f"disk_{way}_mib_s"] * 2**20 for way in ("read", "write"))
    if stage == "data":
        return job.trace_rows  # rows share most of their bytes: system prompt and tools are read once
    if stage == "core":
        return trained(size, job.training)  # the bytes that it writes
    if stage == "fuse":
        return size.parameters + FUSED * (size.parameters - size.experts - size.vocabulary * size.hidden)
    if stage in ("checkpoint", "step", "gguf", *POLICIES):
        return size.parameters
    if stage == "train":
        # The rows of a step go through each layer together: its weights are made and updated once for all.
        step = _step_seconds(size, job.train_rows * job.train_tokens, rates, "seconds")
        forward = _step_seconds(size, job.train_tokens, rates, "forward")
        moved = size.core / read + job.saves * size.core / write
        return moved + job.train_steps * step + job.validations * forward
    if stage == "lora":
        forward = _step_seconds(size, job.lora_tokens, rates, "forward")
        again = lora(size, job).way != lora_memory.WHOLE  # each layer is computed once more on the way back
        heads = size.config["layer_types"].count("full_attention") * size.config["num_attention_heads"]
        scores = rates["attention_ns"] * 1e-9 * heads * job.lora_scores / (1 + BACKWARD)  # forward alone
        ways = job.lora_steps * (1 + BACKWARD + again) + job.lora_validations
        return size.core / read + ways * (forward + scores)
    if stage == "imatrix":
        return job.imatrix_tokens * size.scored_work
    if stage in ("package", "verify"):
        return sum(size.quants.values())
    if stage == "serve":
        return size.quants["q4kxl"]  # the start alone; prompts and answers are added
    raise ValueError(stage)


def _step_seconds(size: Size, tokens: int, rates: dict, part: str) -> float:
    """Seconds of a streamed step, or of its forward alone: so much for each weight of the experts, which are
    dequantized and moved however short the row is, and so much for each token's work. Both by two models, each measured
    at two lengths: what a small matrix takes beyond its work is in the line through them."""
    fixed, slopes = [], []
    for measured in rates["steps"]:
        shapes = sizes.of(measured["shapes"])
        short, long = sorted(measured["taken"], key=lambda one: one["tokens"])
        if short["tokens"] == long["tokens"]:
            raise UserError("the profile has steps of one length alone; measure it again: make profile")
        slope = max((long[part] - short[part]) / (long["tokens"] - short["tokens"]), 0)
        slopes.append((shapes.flops, slope))
        fixed.append((shapes.experts, max(short[part] - slope * short["tokens"], 0)))
    return _on_line(fixed, size.experts) + tokens * _on_line(slopes, size.flops)


def growth(stage: str, size: Size, job: Job) -> float:
    """What of a stage's memory grows with shapes and counts, in bytes."""
    if stage == "train":
        settings = job.training or read_json(TRAINING)
        rows, length = job.train_rows, job.train_tokens
        shares = min(settings.get("shares", 1), rows)
        return moe_memory.predict(size.config, settings, rows * length, length, shares)["peak"]
    if stage == "lora":
        return lora(size, job).bytes - lora_memory.PROCESS
    if stage in POLICIES:  # a tensor as float32, and as it will be written
        return 2 * FLOAT * size.largest
    if stage == "imatrix":
        return logits(size, job.imatrix_context) + size.cache(job.imatrix_context)
    if stage == "serve":
        return size.laid_out["q4kxl"] + size.cache(job.context) + FLOAT * UBATCH * size.vocabulary
    if stage in ("data", "gguf"):
        return size.vocabulary
    return 0


def lora(size: Size, job: Job) -> lora_memory.Choice:
    """How an adapter's training computes its gradient, as repair_train.py chooses it; the smallest where none fits."""
    lengths, weights = job.lora_batch or Lengths(0, 1, job.lora_tokens), (False, True) if job.lora_floats else (True,)
    offered = lora_memory.choices(size.config, weights, [lengths], RANK)
    fitting = [choice for choice in offered if job.memory is None or choice.bytes <= job.memory]
    return fitting[0] if fitting else offered[-1]


def logits(size: Size, context: int) -> int:
    """Bytes of the logits that llama-imatrix holds: of a batch, of what is computed, of a chunk above one batch."""
    return FLOAT * size.vocabulary * (min(context, BATCH) + UBATCH + (context if context > BATCH else 0))


def disk(stage: str, size: Size, job: Job) -> int:
    """Bytes that a stage writes."""
    if stage in POLICIES:
        return size.quants[stage]
    return {
        "checkpoint": size.bf16,
        "core": trained(size, job.training),
        "train": trained(size, job.training) * min(job.saves, 2),
        "step": size.bf16,
        "fuse": size.bf16,
        "gguf": size.bf16 + sizes.TOKEN_BYTES * size.vocabulary,
        "data": 2 * job.trace_bytes,
    }.get(stage, 0)


def passing(stage: str, size: Size, job: Job) -> int:
    """Bytes that a stage writes and removes at its end: a training's core in mapped files."""
    if stage != "train":
        return 0
    settings = job.training or read_json(TRAINING)
    return trained(size, settings) * copies(settings, job.train_steps)[1]


def trained(size: Size, settings: dict | None) -> int:
    """Bytes of a core or a step of its training: with a carry of each expert weight where the settings have one."""
    return size.core + size.experts * (settings or read_json(TRAINING)).get("carry_bits", 0) // 8


TRAINING = Path(__file__).resolve().parents[3] / "configs" / "lfm2.5-8b-a1b-moe.json"


def predict(stage: str, size: Size, job: Job, profile: dict | None) -> Need:
    """What a stage takes on the machine of a profile; without one, memory by the formula alone and no seconds."""
    written, beside = disk(stage, size, job), passing(stage, size, job)
    if profile is None:
        return Need(None, int(growth(stage, size, job)) + BASE, written, beside)
    points = [(_walked(walk), walk["stages"]) for walk in profile["walks"]]
    seconds = _on_plane(
        [(s.vocabulary, effort(stage, s, j, profile), stages[stage]["seconds"]) for (s, j), stages in points],
        size.vocabulary,
        effort(stage, size, job, profile),
    )
    points = [points[0], points[-1]]
    if stage == "serve":
        seconds = _served_seconds(size, job, [(s, stages[stage]) for (s, _), stages in points])
    # What is written cannot be faster than the disk, but for what the system keeps of it in memory.
    kept = 0.1 * profile["memory_gib"] * 2**30
    seconds = max(seconds, (written - kept) / (profile["disk_write_mib_s"] * 2**20))
    if stage == "lora":  # this one and the next are counted array by array
        return Need(seconds, lora(size, job).bytes, written)
    if stage == "train":
        return Need(seconds, int(growth(stage, size, job)), written, beside)
    held = [(growth(stage, s, j), stages[stage]["held"]) for (s, j), stages in points]
    return Need(seconds, int(_on_line(held, growth(stage, size, job))), written, beside)


def _served_seconds(size: Size, job: Job, points: list) -> float:
    """Seconds of a server's start, by the bytes of its file, and of prompts and answers, by the work of a token."""
    starts = []
    for walked, took in points:
        spoken = took["work"]["prompt_seconds"] + took["work"]["answer_seconds"]
        starts.append((walked.quants["q4kxl"], max(took["seconds"] - spoken, 0.1)))
    seconds = _on_line(starts, size.quants["q4kxl"])
    for part, tokens, work in (("prompt", job.prompt_tokens, "read_work"), ("answer", job.answer_tokens, "flops")):
        each = [
            (getattr(s, work), took["work"][f"{part}_seconds"] / took["work"][f"{part}_tokens"]) for s, took in points
        ]
        seconds += tokens * _on_line(each, getattr(size, work))
    return seconds


BASE = 300 * 2**20  # a Python process with its packages


def _on_plane(points: list, vocabulary: int, work: float) -> float:
    """The seconds at a vocabulary and an effort, by three (vocabulary, effort, seconds): a small model, the same with
    more words, and one with more work. Neither more words nor more work ever takes less."""
    (words0, work0, start), (words1, work1, more), (words2, work2, large) = points
    grown, worked, extra, words = words1 - words0, work2 - work0, work1 - work0, words2 - words0
    apart = worked * grown - extra * words  # how far the three are from one line
    if grown <= 0 or work2 <= 1.01 * max(work0, work1) or apart <= 0:
        return _on_line([(work0, start), (work2, large)], work)
    # Two equations: what the second and the third took beyond the first.
    of_work = ((large - start) * grown - (more - start) * words) / apart
    of_words = max((more - start - max(of_work, 0) * extra) / grown, 0)
    of_work = max((large - start - of_words * words) / worked, 0)
    return max(start + of_words * (vocabulary - words0) + of_work * (work - work0), 0.1 * start)


def _on_line(points: list, x: float) -> float:
    """The value at `x` of the line through two points; it never falls, and starts at 0 or above."""
    (x1, y1), (x2, y2) = points
    if x2 <= x1 * 1.01:  # nothing grew between them, so all that is known is a proportion
        return max(y1, y2) * (x / x2 if x2 else 1)
    slope = max((y2 - y1) / (x2 - x1), 0)
    start = max(y1 - slope * x1, 0)
    if start == 0:
        slope = y2 / x2
    return start + slope * x


def _walked(walk: dict) -> tuple[Size, Job]:
    return sizes.of(walk["shapes"], POLICIES), job_of(walk["pace"], walk["stages"])


def job_of(pace: dict, measured: dict) -> Job:
    """The Job of a walk: what its pace says, and what is known of its rows and answers once they are there."""
    work = {name: stage["work"] for name, stage in measured.items()}
    steps = pace["train_steps"]
    train = work.get("train", {})
    return Job(
        trace_bytes=work.get("data", {}).get("trace_bytes", TYPICAL["trace_bytes"]),
        trace_rows=_trace_rows() + pace["router_rows"],
        train_steps=steps,
        train_tokens=train.get("tokens", TYPICAL["row_tokens"] * steps) // steps,
        validations=2,
        saves=1,
        lora_steps=pace["lora_steps"],
        lora_tokens=train.get("tokens", TYPICAL["row_tokens"] * steps) // steps,
        lora_validations=2,
        imatrix_tokens=pace["imatrix_chunks"] * pace["imatrix_context"],
        imatrix_context=pace["imatrix_context"],
        prompt_tokens=work.get("serve", {}).get("prompt_tokens", TYPICAL["prompt_tokens"]),
        answer_tokens=work.get("serve", {}).get("answer_tokens", 2 * pace["cases"] * pace["answer_tokens"]),
        context=pace["context"],
    )


# Of a walk, before it has counted them: bytes of its traces, tokens of its rows and of its cases' prompts.
TYPICAL = {"trace_bytes": 1_590_000, "row_tokens": 362, "prompt_tokens": 4144}


@functools.cache
def _trace_rows() -> int:
    """Rows of the repository's traces, which each walk reads beside its own."""
    return jsonl.count(TRACES)


def of_walk(walk: Walk, profile: dict | None) -> dict[str, Need]:
    """What every stage of a walk will take."""
    memory = None if profile is None else hardware.memory_stop(profile["memory_gib"] * 2**30)
    size, job = sizes.of(walk.shapes, POLICIES), replace(job_of(walk.said["pace"], walk.measured), memory=memory)
    return {stage: predict(stage, size, job, profile) for stage in STAGES}


def largest_moment(needs: dict[str, Need], stages: tuple, todo: list) -> int:
    """The most bytes that a walk's files will take at one time from now on, beyond what is there."""
    there, most, made = 0, 0, {}
    for stage in stages:
        made[MAKES[stage][0] if MAKES[stage] else stage] = 0 if stage not in todo else needs[stage].disk
        there = sum(made.values())
        most = max(most, there + (needs[stage].passing if stage in todo else 0))
        for file in DROPS.get(stage, ()):
            made.pop(file, None)
    return most


def others(profile: dict) -> float:
    """Share of the processors that other work had while the walks of a profile were measured, by seconds."""
    stages = [stage for walk in profile["walks"] for stage in walk["stages"].values()]
    seconds = sum(stage["seconds"] for stage in stages)
    return sum(stage["seconds"] * stage["others"] for stage in stages) / seconds if seconds else 0.0


def load(path: Path) -> dict:
    """A profile's results with its walks. UserError for a profile that has none, or others than are made here."""
    profile = hardware.load_profile(path) if Path(path).is_file() else {}
    if "walks" not in profile:
        raise UserError(f"{shown(path)}: does not say what this machine takes for the line; measure it: make profile")
    for place, why in schemas.errors(PROFILE, profile):
        raise UserError(f"{shown(path)}: {' '.join(map(str, place))}: {why[:200]}; measure it again: make profile")
    return profile
