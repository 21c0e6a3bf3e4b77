"""A training run: steps over rows, validation, checkpoints, and going on from one to the same bits.

A checkpoint is a core folder (mixed_core) with two files more: optimizer.safetensors and state.json. It is
written whole or not at all. What a step does follows from its number, the settings and the seed: which rows,
which learning rate, which rounding noise. So a run that was killed anywhere goes on from its last checkpoint
to exactly the weights of a run that was not.

    WORK/step_00100/         every `checkpoint_every` steps; the last `keep_checkpoints` are kept
    WORK/step_01746_final/   the end
"""

import errno
import math
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from kxl.base.cli import UserError, say
from kxl.base.files import read_json, require_space, shown, write_json
from kxl.model import safetensors_io
from kxl.model.batches import make_batch
from kxl.moe import core as moe_core
from kxl.moe import hardware
from kxl.moe.core import MixedCore
from kxl.moe.grouped import grouped_step, groups_of
from kxl.moe.int8 import ROUNDINGS
from kxl.moe.layers import Blocks
from kxl.moe.optimizer import KINDS, ExpertOptimizer
from kxl.moe.rows import batch_of
from kxl.moe.streamed import KEEP, How, NotFinite, loss_of, streamed_step

MODES = ("streamed", "grouped")
# What may differ between a run and its continuation: it decides no weight.
FREE = ("epochs", "checkpoint_every", "keep_checkpoints", "validate_every", "validation_rows")  # steps are compared
CHOICES = {"mode": MODES, "optimizer": KINDS, "rounding": ROUNDINGS, "layer_inputs": tuple(KEEP)}
LEAST = {
    "group_size": 1,
    "group_layers": 1,
    "group_stride": 1,
    "batch": 1,
    "max_tokens": 2,
    "seed": 0,
    "warmup_steps": 0,
    "validation_rows": 0,
    "validate_every": 1,
    "checkpoint_every": 1,
    "keep_checkpoints": 1,
}  # whole numbers
LENGTHS = ("steps", "epochs")  # how long a run is: one of them, a whole number from 1 on
SHARES = ("update_clip", "learning_rate", "final_rate")  # any number from 0 on


def check_settings(settings: dict, path: str) -> dict:
    """The settings with both LENGTHS present, one of them None; UserError names the key that is missing or of no use."""
    settings = {**dict.fromkeys(LENGTHS), **settings}
    for key in sorted(settings.keys() ^ (CHOICES.keys() | LEAST.keys() | {*SHARES, *LENGTHS, "blocks"})):
        raise UserError(
            f"{path}: {key} is {'not a setting of MoE training' if key in settings else 'missing'}; "
            "see configs/tiny-moe.json"
        )

    def wrong(key, takes):
        raise UserError(f"{path}: {key} is {settings[key]!r}; it takes {takes}")

    lengths = [key for key in LENGTHS if settings[key] is not None]
    if len(lengths) != 1:
        told = f"steps is {settings['steps']} and epochs is {settings['epochs']}" if lengths else "neither is set"
        raise UserError(f"{path}: {told}; a run is as long as steps or as epochs says: set one of the two")
    for key, choices in CHOICES.items():
        if settings[key] not in choices:
            wrong(key, " or ".join(choices))
    for key, least in {**LEAST, lengths[0]: 1}.items():
        if type(settings[key]) is not int or settings[key] < least:
            wrong(key, f"a whole number, {least} or more")
    for key in SHARES:
        if type(settings[key]) not in (int, float) or not 0 <= settings[key] < math.inf:
            wrong(key, "a number, 0 or more")
    try:
        Blocks(**settings["blocks"])
    except TypeError:
        wrong("blocks", "an object with " + ", ".join(Blocks.__annotations__))
    return settings


def overridden(config: dict, flags: dict) -> dict:
    """The config's settings with those of the command line: --steps or --epochs takes the place of either."""
    length = {} if flags.keys().isdisjoint(LENGTHS) else dict.fromkeys(LENGTHS)
    return {**config, **length, **flags}


def steps_of(settings: dict, rows: int) -> int:
    """Number of steps: `steps`, or `epochs` times the batches of an epoch."""
    if rows < settings["batch"]:
        raise UserError(f"{rows} rows fill no batch of {settings['batch']}; add rows or lower batch")
    return settings["steps"] or settings["epochs"] * (rows // settings["batch"])


def rate_at(settings: dict, step: int, steps: int) -> float:
    """Learning rate of a step: linear warm-up, then a half cosine down to `final_rate` of the peak."""
    warm = settings["warmup_steps"]
    if step < warm:
        return settings["learning_rate"] * (step + 1) / warm
    share = (step - warm) / max(steps - warm - 1, 1)
    low = settings["final_rate"]
    return settings["learning_rate"] * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(share, 1))))


@dataclass
class Run:
    """`identity`: what a continuation must share, such as the hashes of core and rows. `world`: an mx.distributed group or None."""

    core: MixedCore
    rows: list[dict]
    validation: list[dict]
    settings: dict
    work: Path
    identity: dict
    guard: hardware.MemoryGuard
    world: object = None

    def __post_init__(self):
        s = self.settings
        self.steps = steps_of(s, len(self.rows))
        self.optimizer = ExpertOptimizer(self.core, s["optimizer"], s["rounding"], s["update_clip"], s["seed"])
        self.how = How(Blocks(**s["blocks"]), s["layer_inputs"], self.world, self.guard)
        self.rank, self.ranks = (self.world.rank(), self.world.size()) if self.world else (0, 1)
        if s["mode"] == "grouped":
            groups_of(self.core.moe_layers, s["group_layers"], s["group_stride"])
        if s["batch"] % self.ranks:
            raise UserError(
                f"a batch of {s['batch']} rows cannot be shared by {self.ranks} processes; set batch to a multiple of {self.ranks}"
            )
        self.step, self.history, self.validated = 0, [], []

    def name(self, step: int) -> str:
        return f"step_{step:05d}" + ("_final" if step == self.steps else "")

    def train(self, until: int | None = None) -> Path:
        """Run to the last step (or `until`); return the last checkpoint. MemoryStop after a clean checkpoint."""
        try:
            self._steps(self.steps if until is None else until)
        except hardware.MemoryStop as stop:
            self.save()
            raise UserError(
                f"memory stop {stop}; {shown(self.work / self.name(self.step))} is complete: "
                f"lower max_tokens or batch, or free memory, and run again"
            ) from None
        return self.work / self.name(self.step)

    def _steps(self, last: int) -> None:
        s = self.settings
        if self.step == 0 and not self.validated:
            self._validate()
        bar = tqdm(total=last, initial=self.step, unit="step", dynamic_ncols=True, disable=self.rank > 0)
        while self.step < last:
            epoch, places = batch_of(self.step, len(self.rows), s["batch"], s["seed"])
            mine = places[self.rank :: self.ranks]
            began = time.monotonic()
            self.guard(f"the start of step {self.step + 1}")
            self.optimizer.begin(self.step, rate_at(s, self.step, self.steps))
            outcome = self._one(mine)
            seconds = time.monotonic() - began
            tokens = sum(len(self.rows[place]["tokens"]) for place in places)
            self.step += 1
            self.history.append(
                {
                    "step": self.step,
                    "epoch": epoch,
                    "loss": outcome.loss,
                    "tokens": tokens,
                    "learning_rate": self.optimizer.rate,
                    "seconds": round(seconds, 3),
                    "peak_rss_gib": round(hardware.peak_resident() / hardware.GIB, 3),
                    **{k: round(v, 6) for k, v in self.optimizer.report().items()},
                }
            )
            bar.set_postfix(
                loss=f"{np.mean([h['loss'] for h in self.history[-20:]]):.4f}",
                tok_s=f"{tokens / seconds:.0f}",
                GiB=f"{hardware.peak_resident() / hardware.GIB:.2f}",
                refresh=False,
            )
            bar.update()
            if self.step % s["validate_every"] == 0 or self.step == self.steps:
                self._validate()
            if self.step % s["checkpoint_every"] == 0 or self.step == self.steps:
                self.save()
        bar.close()

    def _one(self, places: list[int]):
        s, batch = (
            self.settings,
            make_batch([(self.rows[place]["tokens"], self.rows[place]["mask"]) for place in places]),
        )
        try:
            if s["mode"] == "streamed":
                return streamed_step(self.core, batch, self.optimizer.update, self.how)
            return grouped_step(self.core, batch, self.optimizer.update, self.how, s["group_layers"], s["group_stride"])
        except NotFinite as error:
            rows = ", ".join(str(self.rows[place]["row"]) for place in places)
            raise UserError(
                f"step {self.step + 1}, row {rows}: {error}; the last checkpoint in {shown(self.work)} is whole: "
                f"remove the row or lower learning_rate"
            ) from None

    def _validate(self) -> None:
        """Mean loss per scored token over the first `validation_rows` rows of the validation set."""
        loss = count = 0.0
        how = How(self.how.blocks, self.how.keep)
        for row in self.validation[: self.settings["validation_rows"]]:
            scored = int(row["mask"][1:].sum())
            loss += scored * loss_of(self.core, make_batch([(row["tokens"], row["mask"])]), how)
            count += scored
        if count:
            self.validated.append({"step": self.step, "loss": loss / count, "scored_tokens": int(count)})
            if self.rank == 0:
                tqdm.write(f"step {self.step}: validation loss {loss / count:.5f}")

    def save(self) -> None:
        """Write a checkpoint of this moment; then remove those that are no longer kept."""
        if self.rank:
            return
        target = self.work / self.name(self.step)
        if target.exists():
            return
        try:
            moe_core.save(target, self.core, also=self._save_state)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise UserError(
                f"{shown(target)}: the disk is full; earlier checkpoints are whole: free {self.core.nbytes / hardware.GIB:.1f} GiB and run again"
            ) from None
        for old in checkpoints(self.work)[: -self.settings["keep_checkpoints"]]:
            # Renamed first: a removal that is killed must not leave a checkpoint with holes.
            gone = old.with_name(f".{old.name}.old-{os.getpid()}-")
            os.replace(old, gone)
            shutil.rmtree(gone)

    def _save_state(self, folder: Path) -> None:
        arrays, updates = self.optimizer.state()
        tensors = [
            moe_core.Part(name, "F32", array.shape, (lambda array=array: array,)) for name, array in arrays.items()
        ]
        safetensors_io.write_file(folder / "optimizer.safetensors", tensors, {})
        write_json(
            folder / "state.json",
            {
                "step": self.step,
                "steps": self.steps,
                "settings": self.settings,
                "identity": self.identity,
                "updates": updates,
                "history": self.history,
                "validation": self.validated,
            },
        )

    def resume(self, folder: Path) -> None:
        """Take over the optimizer and the position of the checkpoint that `core` was loaded from."""
        state = check_same(folder, self.settings, self.identity, self.steps)
        path = folder / "optimizer.safetensors"
        stored = safetensors_io.read_header(path)
        arrays = {name: np.fromfile(path, "<f4", entry.shape[0], offset=entry.offset) for name, entry in stored.items()}
        self.optimizer.restore(arrays, state["updates"])
        self.step, self.history, self.validated = state["step"], state["history"], state["validation"]
        say(f"going on from {shown(folder)}")


def check_same(folder: Path, settings: dict, identity: dict, steps: int) -> dict:
    """The state of a checkpoint; UserError names what is not as it was."""
    state = read_json(folder / "state.json")
    now = {**settings, **identity, "steps": steps}
    then = {**state["settings"], **state["identity"], "steps": state["steps"]}
    for key in sorted(now.keys() | then.keys()):
        if key not in FREE and now.get(key) != then.get(key):
            raise UserError(
                f"{shown(folder)} was trained with {key} {then.get(key)!r}, this run has {now.get(key)!r}; "
                f"go on with the old one, or name another --work"
            )
    return state


def checkpoints(work: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in work.glob("step_*") if re.fullmatch(r"step_\d{5,}(_final)?", path.name))


def require_room(core_bytes: int, settings: dict, work: Path) -> None:
    """Refuse a run whose checkpoints cannot all be written: those that are kept, and the one being written."""
    have = len(checkpoints(work)) if work.exists() else 0
    require_space(work, max(settings["keep_checkpoints"] + 1 - have, 1) * int(core_bytes * 1.02))
