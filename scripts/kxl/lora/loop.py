"""The training loop of an adapter: masked loss, batches of alike lengths, validation, a state to resume from.

    outcome = train(model, examples, valid, settings, work)

Works on any mlx-lm model whose `model.model(tokens)` gives the last hidden states, with adapters attached
(lora.attach). An example has `tokens` and `mask` (smol_rows.Example, or loss_mask's two arrays in any object).

The output head, a quarter of the work of a 135M model, is computed only where a token has loss. Rows of alike
lengths share a batch, because a batch is padded to its longest row. The state (adapter, optimizer, place in the
epoch) is saved whole every `SAVE_SECONDS`; batches are drawn from seed and epoch alone, so a resumed run goes
on with exactly the rows that the interrupted one had left.
"""

import math
import random
import time
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_unflatten
from tqdm import tqdm

from kxl.base.cli import UserError, say
from kxl.base.files import atomic_dir, read_json, shown, write_json
from kxl.lora import adapter
from kxl.lora.loss import token_losses
from kxl.model.batches import Batch, make_batch

SAVE_SECONDS = 120
STILL_FALLING = 0.01  # share by which an epoch must lower the validation loss to earn another one
SPIKE = 1.10  # a validation loss this many times the best one so far ends the training


def batches(lengths: list[int], batch_tokens: int, seed: int, epoch: int) -> list[list[int]]:
    """Places of rows, grouped so that rows × longest row stays within `batch_tokens`; the same for the same seed and epoch."""
    rng = random.Random(f"{seed} {epoch}")
    # The jitter makes other neighbours each epoch without costing much padding.
    order = sorted(range(len(lengths)), key=lambda i: lengths[i] * rng.uniform(0.9, 1.1))
    made, current, longest = [], [], 0
    for i in order:
        if current and max(longest, lengths[i]) * (len(current) + 1) > batch_tokens:
            made.append(current)
            current, longest = [], 0
        current.append(i)
        longest = max(longest, lengths[i])
    made.append(current)
    rng.shuffle(made)
    return made


def collate(examples: list) -> Batch:
    """The examples as one batch. Padding is on the right, where causal attention never looks."""
    return make_batch([(example.tokens, example.mask) for example in examples])


def losses_of(model: nn.Module, batch: Batch) -> mx.array:
    """Cross-entropy (nats) of each token that has loss."""
    return token_losses(model, model.model(mx.array(batch.tokens)), batch.targets, batch.weights)


def validation_loss(model: nn.Module, examples: list, batch_tokens: int) -> float:
    """Mean loss per token over the examples, nats."""
    total, count = 0.0, 0
    for chosen in batches([len(example.tokens) for example in examples], batch_tokens, 0, 0):
        losses = losses_of(model, collate([examples[i] for i in chosen]))
        total, count = total + losses.sum().item(), count + losses.size
    return total / count


def next_move(losses: list[float], epochs: int, max_epochs: int) -> str:
    """What to do after an epoch: "train", "done" or "spike". `losses`: validation before training and after each epoch.

    The plan's rule: `epochs` epochs, and while the last one still lowered the loss by STILL_FALLING another one, up to
    `max_epochs`; a loss that rises above SPIKE times the best one ends it at once.
    """
    done = len(losses) - 1
    if done and losses[-1] > SPIKE * min(losses[:-1]):
        return "spike"
    if done < epochs:
        return "train"
    return "train" if done < max_epochs and losses[-1] < (1 - STILL_FALLING) * losses[-2] else "done"


def rate(settings: dict, planned: int, step: mx.array) -> mx.array:
    """Learning rate of a step (from 0): up over `warmup_steps`, then linearly down to `final_rate` of it at step `planned`."""
    left = mx.maximum(settings["final_rate"], 1 - (1 - settings["final_rate"]) * step / planned)
    return settings["learning_rate"] * mx.minimum(1.0, (step + 1) / max(1, settings["warmup_steps"])) * left


def train(
    model: nn.Module, examples: list, valid: list, settings: dict, work: Path, key: str, max_steps: int | None = None
) -> dict:
    """Train the attached adapter in place; leaves the arrays of the epoch with the lowest validation loss in the model.

    settings: learning_rate, warmup_steps, final_rate (the share of the rate to which it falls linearly over `epochs` epochs, where
    it stays), epochs, max_epochs, batch_tokens, max_tokens, seed. `key` names data, model and settings: a state in `work` with
    another key is refused. `max_steps` ends early, for a trial. Returns the outcome:
    move, best_epoch, valid_losses, train_losses (one per step), steps, tokens, seconds, peak_memory_gib (of MLX, over all resumed parts).
    """
    longest = max(len(example.tokens) for example in [*examples, *valid])
    if longest > settings["max_tokens"]:
        raise UserError(
            f"a row has {longest} tokens, training takes {settings['max_tokens']}; shorten it or raise max_tokens"
        )
    if settings["max_epochs"] < settings["epochs"]:
        raise UserError(
            f"max_epochs is {settings['max_epochs']}, below epochs, {settings['epochs']}; correct the config"
        )
    lengths = [len(example.tokens) for example in examples]
    plans = {
        epoch: batches(lengths, settings["batch_tokens"], settings["seed"], epoch)
        for epoch in range(1, settings["max_epochs"] + 1)
    }
    planned = sum(len(plans[epoch]) for epoch in range(1, settings["epochs"] + 1))
    optimizer = optim.Adam(learning_rate=lambda step: rate(settings, planned, step), bias_correction=True)
    optimizer.init(model.trainable_parameters())
    gradient = nn.value_and_grad(model, lambda batch: losses_of(model, batch).mean())
    told = _resume(model, optimizer, work, key)
    if not told["valid_losses"]:
        told["valid_losses"].append(validation_loss(model, valid, settings["batch_tokens"]))
        told["best"] = _copy(model)
        say(f"validation loss before training {told['valid_losses'][0]:.4f}")
    saved = started = time.monotonic()
    before = told["seconds"]
    while (move := next_move(told["valid_losses"], settings["epochs"], settings["max_epochs"])) == "train":
        epoch = len(told["valid_losses"])
        plan = plans[epoch]
        with tqdm(
            total=sum(lengths),
            desc=f"epoch {epoch}",
            unit="token",
            initial=sum(lengths[i] for one in plan[: told["batch"]] for i in one),
        ) as bar:
            for chosen in plan[told["batch"] :]:
                loss, grads = gradient(collate([examples[i] for i in chosen]))
                grads, _ = optim.clip_grad_norm(grads, 1.0)
                optimizer.update(model, grads)
                mx.eval(model.trainable_parameters(), optimizer.state)
                if not math.isfinite(loss.item()):
                    raise UserError(
                        f"the loss is {loss.item()} at step {told['steps'] + 1}; lower the learning rate and start again in an empty --work"
                    )
                tokens = sum(lengths[i] for i in chosen)
                told["train_losses"].append(round(loss.item(), 4))
                told["steps"], told["tokens"], told["batch"] = (
                    told["steps"] + 1,
                    told["tokens"] + tokens,
                    told["batch"] + 1,
                )
                told["seconds"] = before + time.monotonic() - started
                told["peak_memory_gib"] = max(told["peak_memory_gib"], round(mx.get_peak_memory() / 2**30, 2))
                bar.update(tokens)
                bar.set_postfix(loss=f"{sum(told['train_losses'][-10:]) / len(told['train_losses'][-10:]):.3f}")
                if max_steps and told["steps"] >= max_steps:
                    break
                if time.monotonic() - saved > SAVE_SECONDS:
                    _save(model, optimizer, work, key, told)
                    saved = time.monotonic()
        told["valid_losses"].append(validation_loss(model, valid, settings["batch_tokens"]))
        told["batch"] = 0
        if told["valid_losses"][-1] <= min(told["valid_losses"]):
            told["best"], told["best_epoch"] = _copy(model), epoch
        _save(model, optimizer, work, key, told)
        say(f"validation loss after epoch {epoch} {told['valid_losses'][-1]:.4f}")
        if max_steps and told["steps"] >= max_steps:
            move = "trial"
            break
    model.update(tree_unflatten(list(told.pop("best").items())))
    told.pop("batch")
    return {
        **told,
        "move": move,
        "seconds": round(told["seconds"]),
        "valid_losses": [round(loss, 5) for loss in told["valid_losses"]],
    }


def _copy(model: nn.Module) -> dict[str, mx.array]:
    return {name: mx.array(array) for name, array in adapter.trainable(model).items()}


def _save(model, optimizer, work: Path, key: str, told: dict) -> None:
    with atomic_dir(Path(work) / "state") as partial:
        mx.save_safetensors(str(partial / "adapter.safetensors"), adapter.trainable(model))
        mx.save_safetensors(str(partial / "best.safetensors"), told["best"])
        mx.save_safetensors(str(partial / "optimizer.safetensors"), dict(tree_flatten(optimizer.state)))
        write_json(
            partial / "state.json", {"key": key, **{name: value for name, value in told.items() if name != "best"}}
        )


def _resume(model, optimizer, work: Path, key: str) -> dict:
    """The state in `work`, loaded into model and optimizer; a fresh one where there is none."""
    folder = Path(work) / "state"
    if not folder.is_dir():
        return {
            "batch": 0,
            "steps": 0,
            "tokens": 0,
            "seconds": 0.0,
            "peak_memory_gib": 0.0,
            "train_losses": [],
            "valid_losses": [],
            "best_epoch": 0,
        }
    told = read_json(folder / "state.json")
    if told.pop("key") != key:
        raise UserError(
            f"{shown(folder)}: is the state of a training with other data, model or settings; remove it, or name another --work"
        )
    model.update(tree_unflatten(list(mx.load(str(folder / "adapter.safetensors")).items())))
    optimizer.state = tree_unflatten(list(mx.load(str(folder / "optimizer.safetensors")).items()))
    told["best"] = mx.load(str(folder / "best.safetensors"))
    say(f"resuming after {told['steps']} steps")
    return told
