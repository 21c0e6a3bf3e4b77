"""The training of an adapter in torch: packs of rows, Adam in float32, the state that kxl/lora/loop.py resumes from.

    epochs.train(model, examples, valid, settings, work, key, engine=torch_engine)

On a CPU only. One step is one pack (kxl/smol/packing.py): its logits are computed only where a token has loss.
"""

from pathlib import Path

import mlx.core as mx
import numpy as np
import torch

from kxl.base import processes
from kxl.lora import loop
from kxl.smol import packing, torch_model

# Sizes are filled up to multiples of this: torch's kernels are compiled for each size of a matrix when it first comes.
MULTIPLE = 64


def batches(examples: list, settings: dict, epoch: int) -> list[list[int]]:
    """Places of the examples, pack by pack, for an epoch; drawn from seed and epoch."""
    rows = [example.tokens for example in examples]
    return packing.plan(rows, settings["batch_tokens"], f"{settings['seed']} {epoch}")


def collate(examples: list) -> packing.Pack:
    """The examples as one pack."""
    return packing.pack([(example.tokens, example.mask) for example in examples], MULTIPLE)


def losses_of(model: torch.nn.Module, pack: packing.Pack) -> torch.Tensor:
    """Cross-entropy in nats of each token that has loss, [M] float32."""
    hidden = torch_model.hidden_states(model, *map(torch.from_numpy, (pack.tokens, pack.positions, pack.visible)))
    count = len(pack.places)
    places = torch.from_numpy(np.pad(pack.places, (0, -count % MULTIPLE)))
    logits = torch_model.logits_at(model, hidden[places])[:count].float()
    return torch.nn.functional.cross_entropy(logits, torch.from_numpy(pack.targets), reduction="none")


def validation_loss(model: torch.nn.Module, examples: list, settings: dict) -> float:
    """Mean loss per token over the examples, nats."""
    total, count = 0.0, 0
    with torch.no_grad():
        for places in batches(examples, settings, 0):
            losses = losses_of(model, collate([examples[place] for place in places]))
            total, count = total + losses.sum().item(), count + len(losses)
    return total / count


class Trainer(loop.Trainer):
    """kxl/lora/loop.py's Trainer with torch below it."""

    def _begin(self, loss, rate) -> None:
        self.loss, self.rate = loss, rate
        self.optimizer = torch.optim.Adam(torch_model.trainable(self.model).values(), foreach=True)

    def _step(self, batch: tuple) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = float(self.rate(mx.array(len(self.progress.losses))).item())
        self.optimizer.zero_grad()
        loss = self.loss(self.model, *batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(torch_model.trainable(self.model).values(), self.clip)
        self.optimizer.step()
        return loss.item()

    def _copy(self) -> dict:
        return {name: array.detach().clone() for name, array in torch_model.trainable(self.model).items()}

    def _put(self, arrays: dict) -> None:
        for name, array in torch_model.trainable(self.model).items():
            array.data.copy_(arrays[name])

    def _peak_memory(self) -> int:
        return processes.peak_resident()

    def _write(self, folder: Path) -> None:
        state = {"adapter": self._copy(), "best": self.best, "optimizer": self.optimizer.state_dict()}
        torch.save(state, folder / "torch.pt")

    def _read(self, folder: Path) -> None:
        state = torch.load(folder / "torch.pt", weights_only=True)
        self._put(state["adapter"])
        self.best = state["best"]
        self.optimizer.load_state_dict(state["optimizer"])


def trainer(model: torch.nn.Module, rate, folder: Path, key: str) -> Trainer:
    """The loop, with the state of `folder`."""
    return Trainer(model, lambda model, pack: losses_of(model, pack).mean(), rate, folder, key)
