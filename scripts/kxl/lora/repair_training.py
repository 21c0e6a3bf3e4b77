"""The training of a repair: some hundred steps of LoRA on a few hundred rows, from a fused checkpoint.

    model = load_model(folder)
    examples = encode(loss_mask.load(folder), rows, "structured", max_tokens=4096)
    for step, value, scored in Trainer(model, settings, work).run(examples): ...

A row is {"messages", "tools"} with structured `tool_calls`. What the model is trained on is one of repair_settings.SHAPES:

  structured   the conversation as the server renders it, tools in front, loss on the assistant turns alone
  text         the conversation without its tool list, as plain text, loss on every token
  server_text  the conversation as the server renders it, tool JSON and all, as plain text, loss on every token

The last two are how `mlx_lm.lora` trains {"text": ...} rows. They are here because the reference model failed
with them, so that the comparison can be made again.
"""

import hashlib
import json
import math
import random
import shutil
from dataclasses import asdict
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from kxl.base.cli import UserError
from kxl.base.files import atomic_dir, read_json, shown, write_json
from kxl.chat import loss_mask
from kxl.lora import adapter, grouped_experts, prefix
from kxl.lora.settings import Settings


def key_of(shape: str, inputs: list) -> str:
    """What names a training: its shape, and its rows, model and first adapter as report.describe_input tells them."""
    return hashlib.sha256(json.dumps([shape, inputs], sort_keys=True).encode()).hexdigest()


def load_model(folder: Path):
    """A checkpoint for training: in float32 and with grouped experts on a CPU, as it is stored on a GPU."""
    from mlx_lm.utils import load_model as load

    model, _ = load(Path(folder))
    if mx.default_device() == mx.cpu:  # where MLX multiplies nothing else fast, and experts in nothing else
        model.set_dtype(mx.float32)
        grouped_experts.use(model)
    return model


def encode(chat: loss_mask.Chat, rows: list, shape: str, max_tokens: int) -> list[prefix.Example]:
    """The rows as tokens and loss masks, in one of repair_settings.SHAPES. UserError for a row that is too long.

    A row whose earlier thoughts the template leaves out is several examples (kxl/chat/loss_mask.py).
    """
    examples = []
    for number, row in enumerate(rows, 1):
        if shape == "structured":
            sequences = loss_mask.sequences(chat, row)
        else:
            text = chat.render(row["messages"], row["tools"] if shape == "server_text" else None)
            tokens = np.array(chat.tokenizer.encode(text, add_special_tokens=False).ids, np.int32)
            sequences = [(tokens, np.ones(len(tokens), bool))]
        for tokens, mask in sequences:
            if len(tokens) > max_tokens:
                raise UserError(
                    f"row {number} has {len(tokens):,} tokens and {max_tokens:,} are taken; shorten its tool list,"
                    " leave it out or raise --max-tokens"
                )
            examples.append(prefix.Example(tokens, mask))
    return examples


class Trainer:
    """Adam on the adapter of `model`. `work` keeps the state of an interrupted run; `key` says what that run was of."""

    def __init__(self, model, settings: Settings, work: Path, key: str = ""):
        self.model, self.settings, self.work = model, settings, Path(work)
        self.told = json.loads(json.dumps({"key": key, "settings": asdict(settings)}))
        self.optimizer = optim.Adam(
            learning_rate=lambda step: settings.learning_rate * mx.minimum(1.0, (step + 1) / max(1, settings.warmup)),
            bias_correction=True,
        )
        self.optimizer.init(model.trainable_parameters())
        self.losses: list[float] = []

    def run(self, examples: list):
        """Yield (step from 1, loss in nats, tokens with loss) after each step; goes on where an interrupted run stopped."""
        plan = prefix.plan(examples, self.settings.batch_size, self.settings.steps, self.settings.seed)
        self._resume()
        gradient = nn.value_and_grad(self.model, prefix.loss)
        for step in range(len(self.losses), len(plan)):
            batch = prefix.collate([examples[i] for i in plan[step]])
            through = random.Random(f"{self.settings.seed} {step}").random() < self.settings.prefix_gradient
            value, grads = gradient(
                self.model, batch, through, None if through else prefix.beginning(self.model, batch)
            )
            grads, _ = optim.clip_grad_norm(grads, self.settings.clip)
            self.optimizer.update(self.model, grads)
            mx.eval(value, self.model.trainable_parameters(), self.optimizer.state)
            if not math.isfinite(value.item()):
                raise UserError(
                    f"the loss of step {step + 1} is {value.item()}; take a smaller --learning-rate and remove {shown(self.work)}"
                )
            self.losses.append(value.item())
            if (step + 1) % self.settings.save_every == 0 and step + 1 < len(plan):
                self._put_away()
            yield step + 1, value.item(), batch.scored

    def forget(self) -> None:
        """Remove the saved state of a training that has ended."""
        shutil.rmtree(self.work, ignore_errors=True)

    def _put_away(self) -> None:
        with atomic_dir(self.work) as partial:
            mx.save_safetensors(str(partial / "adapter.safetensors"), adapter.trainable(self.model))
            mx.save_safetensors(str(partial / "optimizer.safetensors"), dict(tree_flatten(self.optimizer.state)))
            write_json(partial / "state.json", {**self.told, "losses": self.losses})

    def _resume(self) -> None:
        if not (self.work / "state.json").exists():
            return
        state = read_json(self.work / "state.json")
        if any(state[name] != self.told[name] for name in self.told):
            raise UserError(
                f"{shown(self.work)} holds an interrupted training of other rows, model or settings; remove it to start anew"
            )
        self.model.update(tree_unflatten(list(mx.load(str(self.work / "adapter.safetensors")).items())))
        self.optimizer.state = tree_unflatten(list(mx.load(str(self.work / "optimizer.safetensors")).items()))
        self.losses = state["losses"]
