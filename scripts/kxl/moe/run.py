"""A training run: steps over rows, validation, checkpoints, and going on from one to the same bits.

A checkpoint is a core folder (core.py) with two files more: optimizer.safetensors and state.json. It is written whole
or not at all. What a step does follows from its number, the settings and the seed: which rows and learning rate
(rows.py), which rounding noise (optimizer.py). So a run that was killed anywhere goes on from its last checkpoint
to exactly the weights of a run that was not.

    WORK/step_00100/         every `checkpoint_every` steps; the last `keep_checkpoints` are kept
    WORK/step_01746_final/   the end
    WORK/live-RANK/          a core in mapped files, one for each process (mapped.py), while it runs
"""

import contextlib
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from kxl.base import processes
from kxl.base.cli import UserError, say
from kxl.base.files import read_json, require_space, shown, write_json
from kxl.model import safetensors_io
from kxl.model.batches import Batch, make_batch, own_shares
from kxl.model.tensors import from_array
from kxl.moe import core as moe_core
from kxl.moe import hardware
from kxl.moe.core import MixedCore
from kxl.moe.grouped import grouped_step, groups_of
from kxl.moe.layers import Blocks
from kxl.moe.optimizer import ExpertOptimizer
from kxl.moe.rows import batch_of, learning_rate, steps_of
from kxl.moe.settings import DEFAULTS, FREE
from kxl.moe.streamed import NotFinite, Outcome, StepOptions, loss_of, streamed_step


@dataclass
class Run:
    """A training run and how far it has come.

    rows, validation: as rows.read gives them. settings: as settings.check_settings gives them. identity: what a
    continuation must share, such as the hashes of core and rows. world: an mx.distributed group, or None.
    """

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
        self.core.set_carry(s["carry_bits"])
        self.optimizer = ExpertOptimizer(self.core, s)
        self.options = StepOptions(
            Blocks(**s["blocks"]),
            s["layer_inputs"],
            self.world,
            guard=self.guard,
            counted=self.optimizer.counted,
            balance=s["balance_loss"],
            z=s["z_loss"],
            in_pairs=s["shares"] > 1,
        )
        self.rank, self.ranks = (self.world.rank(), self.world.size()) if self.world else (0, 1)
        if s["mode"] == "grouped":
            groups_of(self.core.moe_layers, s["group_layers"], s["group_stride"])
        self.shares, self.own = own_shares(s, self.rank, self.ranks)
        self.step, self.history, self.validated = 0, [], []

    def name(self, step: int) -> str:
        """The checkpoint's folder after a step."""
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
        """Take the steps up to number `last`, validating and saving when it is time."""
        s = self.settings
        if self.step == 0 and not self.validated:
            self._validate()
        with tqdm(total=last, initial=self.step, unit="step", dynamic_ncols=True, disable=self.rank > 0) as bar:
            while self.step < last:
                entry = self._take_step()
                bar.set_postfix(
                    loss=f"{np.mean([earlier['loss'] for earlier in self.history[-20:]]):.4f}",
                    tok_s=f"{entry['tokens'] / max(entry['seconds'], 0.001):.0f}",
                    GiB=f"{entry['peak_rss_gib']:.2f}",
                    refresh=False,
                )
                bar.update()
                if self.step % s["validate_every"] == 0 or self.step == self.steps:
                    self._validate()
                if self.step % s["checkpoint_every"] == 0 or self.step == self.steps:
                    self.save()

    def _take_step(self) -> dict:
        """Train one step; its entry in the history."""
        s = self.settings
        epoch, places = batch_of(self.step, len(self.rows), s["batch"], s["seed"])
        began = time.monotonic()
        self.guard(f"the start of step {self.step + 1}")
        self.optimizer.begin(self.step, learning_rate(s, self.step, self.steps))
        outcome = self._compute([places[share :: self.shares] for share in self.own])
        self.step += 1
        entry = {
            "step": self.step,
            "epoch": epoch,
            "loss": outcome.loss,
            "tokens": sum(len(self.rows[place]["tokens"]) for place in places),
            "learning_rate": self.optimizer.rate,
            "seconds": round(time.monotonic() - began, 3),
            "peak_rss_gib": round(processes.peak_resident() / hardware.GIB, 3),
            **{name: round(share, 6) for name, share in self.optimizer.report().items()},
        }
        self.history.append(entry)
        return entry

    def _compute(self, shares: list[list[int]]) -> Outcome:
        """Forward, backward and update on this process's rows of a step, the places of each share."""
        s, update = self.settings, self.optimizer.update
        batch = [
            make_batch([(self.rows[place]["tokens"], self.rows[place]["mask"]) for place in places])
            for places in shares
        ]
        try:
            if s["gradient_clip"]:
                self.optimizer.scale = min(1.0, s["gradient_clip"] / self._norm(batch))
            if s["mode"] == "streamed":
                return streamed_step(self.core, batch, update, self.options)
            return grouped_step(self.core, batch, update, self.options, s["group_layers"], s["group_stride"])
        except NotFinite as error:
            rows = ", ".join(str(self.rows[place]["row"]) for places in shares for place in places)
            raise UserError(
                f"step {self.step + 1}, row {rows}: {error}; the last checkpoint in {shown(self.work)} is whole: "
                f"remove the row or lower learning_rate"
            ) from None

    def _norm(self, batch: list[Batch]) -> float:
        """Norm of the gradient of all experts and routers: a step that changes nothing, before the one that does."""
        squares = 0.0

        def add(number, layer, expert, gradients) -> None:
            nonlocal squares
            squares += sum(float(np.square(np.array(gradient), dtype=np.float64).sum()) for gradient in gradients)

        streamed_step(self.core, batch, add, self.options)
        if not np.isfinite(squares):
            raise NotFinite("the gradient is not finite")
        return max(squares**0.5, 1e-30)

    def _validate(self) -> None:
        """Mean loss per scored token over the first `validation_rows` rows of the validation set."""
        loss = count = 0.0
        alone = StepOptions(self.options.blocks, self.options.keep)
        for row in self.validation[: self.settings["validation_rows"]]:
            scored = int(row["mask"][1:].sum())
            loss += scored * loss_of(self.core, make_batch([(row["tokens"], row["mask"])]), alone)
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
        except UserError as error:
            raise UserError(
                f"{error}; earlier checkpoints are whole, one takes {self.core.nbytes / hardware.GIB:.2f} GiB"
            ) from None
        for old in checkpoints(self.work)[: -self.settings["keep_checkpoints"]]:
            # Renamed first: a removal that is killed must not leave a checkpoint with holes.
            gone = old.with_name(f".{old.name}.old-{os.getpid()}-")
            os.replace(old, gone)
            shutil.rmtree(gone)

    def _save_state(self, folder: Path) -> None:
        arrays, updates = self.optimizer.state()
        tensors = [from_array(name, array, "F32") for name, array in arrays.items()]
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
    try:
        then = {**DEFAULTS, **state["settings"], **state["identity"], "steps": state["steps"]}
        state["step"], state["updates"], state["history"], state["validation"]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{shown(folder / 'state.json')}: is no state of a training ({type(error).__name__}: {error}); remove "
            f"{shown(folder)}, and the run goes on from the checkpoint before it"
        ) from None
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


def saves(settings: dict, steps: int) -> int:
    """How many checkpoints a run of so many steps writes: every `checkpoint_every` steps, and at the end."""
    return -(-steps // settings["checkpoint_every"])


def copies(settings: dict, steps: int, ranks: int = 1) -> tuple[int, int]:
    """How many times WORK holds a core at most: (in checkpoints, in files that `ranks` processes map, one copy each).

    Rank 0 alone writes checkpoints: those that are kept, and the next one before the oldest goes.
    """
    kept = min(settings["keep_checkpoints"] + 1, saves(settings, steps))
    return kept, ranks if settings["storage"] == "mapped" else 0


def require_room(core_bytes: int, settings: dict, steps: int, work: Path, ranks: int = 1) -> None:
    """UserError unless the disk has room for all that a run of `ranks` processes still writes there.

    Each process asks at its own moment: what others have copied by then is on the disk and needs no room.
    """
    each = int(core_bytes * 1.02)
    kept, mapped = copies(settings, steps, ranks)
    have = len(checkpoints(work)) if work.exists() else 0
    copied = 0
    for path in work.glob("live-*/*") if mapped else ():
        with contextlib.suppress(FileNotFoundError):  # of a process that is at work on its copy
            copied += path.stat().st_size
    require_space(work, max(kept - have, 1) * each + max(mapped * each - copied, 0))
