"""The training loop of an adapter: Adam on a masked loss, batch after batch, with a state to resume from.

    trainer = Trainer(model, loss, rate, folder, key)
    for step in trainer.run(plan, batch_of, tokens_of): ...

Works on any mlx-lm model with an adapter attached (adapter.attach). The state (adapter, best adapter, optimizer,
progress) is saved whole or not at all, every SAVE_SECONDS and, where that is asked for, after a number of steps. What a
step trains on follows from its place in the plan, so a resumed run ends where one that was never stopped does.
"""

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_unflatten

from kxl.base.cli import UserError, say
from kxl.base.files import atomic_dir, read_json, shown, write_json
from kxl.lora import adapter

SAVE_SECONDS = 120


def key_of(*parts) -> str:
    """A name for what a training is of: its rows, model, settings, as JSON values. A state with another is refused."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass
class Progress:
    """How far a training has come, over all of its interruptions.

    losses: of each step, nats. tokens: as the caller counts them. valid_losses: before the training and after each
    epoch. place: steps of the current plan that are taken. best_epoch: 0 is before the training. seconds,
    peak_memory_gib (MLX's own, or the process's where torch trains).
    """

    losses: list[float] = field(default_factory=list)
    tokens: int = 0
    valid_losses: list[float] = field(default_factory=list)
    place: int = 0
    best_epoch: int = 0
    seconds: float = 0.0
    peak_memory_gib: float = 0.0


@dataclass(frozen=True)
class Step:
    """One step that was taken: its number from 1, the places of its rows, its loss in nats."""

    number: int
    places: list[int]
    loss: float


class Trainer:
    """Trains the adapter of `model` in place.

    loss         loss(model, *batch): mean loss in nats
    rate         learning rate by step, as schedule.py makes it
    folder       where the state is saved; one that is there is taken up
    key          key_of what is trained
    save_every   steps after which the state is saved, too
    clip         largest norm of the gradient
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[..., mx.array],
        rate: Callable[[mx.array], mx.array],
        folder: Path,
        key: str = "",
        save_every: int | None = None,
        clip: float = 1.0,
    ):
        self.model, self.folder, self.key, self.save_every, self.clip = model, Path(folder), key, save_every, clip
        self._begin(loss, rate)
        self.progress = Progress()
        self.best: dict[str, mx.array] = {}
        self._resume()
        self.began = self.saved = time.monotonic()
        self.seconds_before = self.progress.seconds

    def run(
        self,
        plan: list[list[int]],
        batch_of: Callable[[int, list[int]], tuple],
        tokens_of: Callable[[list[int]], int],
    ) -> Iterator[Step]:
        """Take the steps of `plan` (places of rows) that are not taken yet, one at each turn of the caller's loop.

        batch_of(number of the step from 0, places) gives what `loss` takes after the model, tokens_of(places) what is
        counted. UserError for a loss that is not finite.
        """
        while self.progress.place < len(plan):
            number, places = len(self.progress.losses), plan[self.progress.place]
            loss = self._step(batch_of(number, places))
            if not math.isfinite(loss):
                raise UserError(
                    f"the loss of step {number + 1} is {loss}; lower the learning rate and remove {shown(self.folder)}"
                )
            self.progress.losses.append(loss)
            self.progress.tokens += tokens_of(places)
            self.progress.place += 1
            self._note_costs()
            if self.progress.place < len(plan) and self._is_due():
                self.save()
            yield Step(number + 1, places, loss)

    # What follows up to _note_costs is MLX's part; kxl/smol/torch_engine.py has torch's.

    def _begin(self, loss: Callable[..., mx.array], rate: Callable[[mx.array], mx.array]) -> None:
        self.optimizer = optim.Adam(learning_rate=rate, bias_correction=True)
        self.optimizer.init(self.model.trainable_parameters())
        self.gradient = nn.value_and_grad(self.model, loss)

    def _step(self, batch: tuple) -> float:
        loss, gradients = self.gradient(self.model, *batch)
        gradients, _ = optim.clip_grad_norm(gradients, self.clip)
        self.optimizer.update(self.model, gradients)
        mx.eval(loss, self.model.trainable_parameters(), self.optimizer.state)
        return loss.item()

    def _copy(self) -> dict:
        return {name: mx.array(array) for name, array in adapter.trainable(self.model).items()}

    def _put(self, arrays: dict) -> None:
        self.model.update(tree_unflatten(list(arrays.items())))

    def _peak_memory(self) -> int:
        return mx.get_peak_memory()

    def _write(self, folder: Path) -> None:
        mx.save_safetensors(str(folder / "adapter.safetensors"), adapter.trainable(self.model))
        mx.save_safetensors(str(folder / "best.safetensors"), self.best)
        mx.save_safetensors(str(folder / "optimizer.safetensors"), dict(tree_flatten(self.optimizer.state)))

    def _read(self, folder: Path) -> None:
        self._put(mx.load(str(folder / "adapter.safetensors")))
        self.optimizer.state = tree_unflatten(list(mx.load(str(folder / "optimizer.safetensors")).items()))
        self.best = mx.load(str(folder / "best.safetensors"))

    def _note_costs(self) -> None:
        self.progress.seconds = self.seconds_before + time.monotonic() - self.began
        peak = round(self._peak_memory() / 2**30, 2)
        self.progress.peak_memory_gib = max(self.progress.peak_memory_gib, peak)

    def _is_due(self) -> bool:
        counted = self.save_every and len(self.progress.losses) % self.save_every == 0
        return bool(counted) or time.monotonic() - self.saved > SAVE_SECONDS

    def keep_best(self, epoch: int) -> None:
        """Note the adapter as it is now as the best so far."""
        self.best = self._copy()
        self.progress.best_epoch = epoch

    def restore_best(self) -> None:
        """Put the best adapter back into the model."""
        self._put(self.best)

    def save(self) -> None:
        """Write the state of this moment."""
        with atomic_dir(self.folder) as partial:
            self._write(partial)
            write_json(partial / "state.json", {"key": self.key, "progress": asdict(self.progress)})
        self.saved = time.monotonic()

    def forget(self) -> None:
        """Remove the saved state of a training that has ended."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _resume(self) -> None:
        if not (self.folder / "state.json").is_file():
            return
        state = read_json(self.folder / "state.json")
        if state["key"] != self.key:
            raise UserError(
                f"{shown(self.folder)} holds an interrupted training of other data, model or settings; remove it to "
                "start anew"
            )
        self._read(self.folder)
        self.progress = Progress(**state["progress"])
        say(f"resuming after {len(self.progress.losses)} steps")
