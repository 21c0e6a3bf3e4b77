"""Training by epochs: batches of alike lengths, validation after each epoch, the best one kept.

    outcome = train(model, examples, valid, settings, work, key)

For rows that share no beginning, such as SmolLM's (rows that do: prefix.py). An example has `tokens` and `mask`
(smol/rows.Example, or any object with loss_mask's two arrays). Rows of alike lengths share a batch, because a batch is
padded to its longest row; batches are drawn from seed and epoch alone.
"""

import random
import time
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from tqdm import tqdm

from kxl.base.cli import UserError, say
from kxl.lora.loop import Trainer
from kxl.lora.loss import token_losses
from kxl.lora.schedule import warmup_then_linear
from kxl.model.batches import Batch, make_batch

STILL_FALLING = 0.01  # share by which an epoch must lower the validation loss to earn another one
SPIKE = 1.10  # a validation loss this many times the best one so far ends the training


@dataclass(frozen=True)
class Outcome:
    """What came of a training. move: why it ended (done, spike, trial, later); best_epoch: whose adapter is kept.

    valid_losses: before training and after each epoch, train_losses: one per step, nats. tokens: of all steps.
    seconds and peak_memory_gib (of MLX): over all interruptions.
    """

    move: str
    best_epoch: int
    valid_losses: list[float]
    train_losses: list[float]
    steps: int
    tokens: int
    seconds: int
    peak_memory_gib: float


class Mlx:
    """How MLX trains: padded batches of alike lengths. kxl/smol/torch_engine.py has the same four for torch."""

    @staticmethod
    def batches(examples: list, settings: dict, epoch: int) -> list[list[int]]:
        """Places of the examples, step by step."""
        return batches([len(example.tokens) for example in examples], settings["batch_tokens"], settings["seed"], epoch)

    @staticmethod
    def collate(examples: list):
        """What `trainer`'s loss takes."""
        return collate(examples)

    @staticmethod
    def trainer(model: nn.Module, rate, folder: Path, key: str) -> Trainer:
        """The loop, with the state of `folder`."""
        return Trainer(model, lambda model, batch: losses_of(model, batch).mean(), rate, folder, key)

    @staticmethod
    def validation_loss(model: nn.Module, examples: list, settings: dict) -> float:
        """Mean loss per token over the examples, nats."""
        return validation_loss(model, examples, settings["batch_tokens"])


def train(
    model,
    examples: list,
    valid: list,
    settings: dict,
    work: Path,
    key: str,
    max_steps: int | None = None,
    engine=Mlx,
    minutes: float | None = None,
) -> Outcome:
    """Train the attached adapter in place; the arrays of the epoch with the lowest validation loss stay in the model.

    settings: learning_rate, warmup_steps, final_rate (the share of the rate to which it falls linearly over `epochs`
    epochs, where it stays), epochs, max_epochs, batch_tokens, max_tokens, seed. `key` names data, model and settings: a
    state in `work` with another key is refused. `max_steps` ends early, for a trial. `engine` computes.
    After `minutes` the state is saved and the move is "later".
    """
    check(examples, valid, settings)
    until = time.monotonic() + 60 * minutes if minutes else None
    plans = [engine.batches(examples, settings, epoch) for epoch in range(1, settings["max_epochs"] + 1)]
    planned = sum(len(plan) for plan in plans[: settings["epochs"]])
    rate = warmup_then_linear(settings["learning_rate"], settings["warmup_steps"], settings["final_rate"], planned)
    trainer = engine.trainer(model, rate, Path(work) / "state", key)
    progress = trainer.progress
    if not progress.valid_losses:
        progress.valid_losses.append(engine.validation_loss(model, valid, settings))
        trainer.keep_best(0)
        say(f"validation loss before training {progress.valid_losses[0]:.4f}")
    while (move := next_move(progress.valid_losses, settings["epochs"], settings["max_epochs"])) == "train":
        epoch = len(progress.valid_losses)
        train_epoch(trainer, plans[epoch - 1], examples, epoch, max_steps, engine.collate, until)
        if until and time.monotonic() > until and progress.place < len(plans[epoch - 1]):
            trainer.save()
            move = "later"
            break
        progress.place = 0
        progress.valid_losses.append(engine.validation_loss(model, valid, settings))
        if progress.valid_losses[-1] <= min(progress.valid_losses):
            trainer.keep_best(epoch)
        trainer.save()
        say(f"validation loss after epoch {epoch} {progress.valid_losses[-1]:.4f}")
        if max_steps and len(progress.losses) >= max_steps:
            move = "trial"
            break
    trainer.restore_best()
    return Outcome(
        move=move,
        best_epoch=progress.best_epoch,
        valid_losses=[round(loss, 5) for loss in progress.valid_losses],
        train_losses=[round(loss, 4) for loss in progress.losses],
        steps=len(progress.losses),
        tokens=progress.tokens,
        seconds=round(progress.seconds),
        peak_memory_gib=progress.peak_memory_gib,
    )


def check(examples: list, valid: list, settings: dict) -> None:
    """UserError for a row that is longer than max_tokens, and for fewer epochs at most than epochs."""
    longest = max(len(example.tokens) for example in [*examples, *valid])
    if longest > settings["max_tokens"]:
        raise UserError(
            f"a row has {longest} tokens, training takes {settings['max_tokens']}; shorten it or raise max_tokens"
        )
    if settings["max_epochs"] < settings["epochs"]:
        raise UserError(
            f"max_epochs is {settings['max_epochs']}, below epochs, {settings['epochs']}; correct the config"
        )


def train_epoch(trainer: Trainer, plan: list, examples: list, epoch: int, max_steps, collate, until) -> None:
    """The steps of an epoch that are left, up to the `max_steps`-th of the training and to the time `until`."""

    def tokens_of(places: list[int]) -> int:
        return sum(len(examples[place].tokens) for place in places)

    def batch_of(number: int, places: list[int]) -> tuple:
        return (collate([examples[place] for place in places]),)

    done = sum(map(tokens_of, plan[: trainer.progress.place]))
    with tqdm(total=sum(map(tokens_of, plan)), desc=f"epoch {epoch}", unit="token", initial=done) as bar:
        for step in trainer.run(plan, batch_of, tokens_of):
            bar.update(tokens_of(step.places))
            recent = trainer.progress.losses[-10:]
            bar.set_postfix(loss=f"{sum(recent) / len(recent):.3f}")
            if max_steps and step.number >= max_steps or until and time.monotonic() > until:
                return


def batches(lengths: list[int], batch_tokens: int, seed: int, epoch: int) -> list[list[int]]:
    """Places of rows, grouped so that rows × longest row stays within `batch_tokens`; drawn from seed and epoch."""
    rng = random.Random(f"{seed} {epoch}")
    # The jitter makes other neighbours each epoch without costing much padding.
    order = sorted(range(len(lengths)), key=lambda i: lengths[i] * rng.uniform(0.9, 1.1))
    plan, current, longest = [], [], 0
    for i in order:
        if current and max(longest, lengths[i]) * (len(current) + 1) > batch_tokens:
            plan.append(current)
            current, longest = [], 0
        current.append(i)
        longest = max(longest, lengths[i])
    plan.append(current)
    rng.shuffle(plan)
    return plan


def collate(examples: list) -> Batch:
    """The examples as one batch. Padding is on the right, where causal attention never looks."""
    return make_batch([(example.tokens, example.mask) for example in examples])


def losses_of(model: nn.Module, batch: Batch) -> mx.array:
    """Cross-entropy (nats) of each token that has loss."""
    return token_losses(model, model.model(mx.array(batch.tokens)), batch.targets, batch.weights)


def validation_loss(model: nn.Module, examples: list, batch_tokens: int) -> float:
    """Mean loss per token over the examples, nats."""
    total, count = 0.0, 0
    for places in batches([len(example.tokens) for example in examples], batch_tokens, 0, 0):
        losses = losses_of(model, collate([examples[place] for place in places]))
        total, count = total + losses.sum().item(), count + losses.size
    return total / count


def next_move(losses: list[float], epochs: int, max_epochs: int) -> str:
    """What to do after an epoch: "train", "done" or "spike". `losses`: validation before training and after each epoch.

    `epochs` epochs are trained, and while the last one still lowered the loss by STILL_FALLING another one, up to
    `max_epochs`; a loss that rises above SPIKE times the best one ends it at once.
    """
    done = len(losses) - 1
    if done and losses[-1] > SPIKE * min(losses[:-1]):
        return "spike"
    if done < epochs:
        return "train"
    return "train" if done < max_epochs and losses[-1] < (1 - STILL_FALLING) * losses[-2] else "done"
