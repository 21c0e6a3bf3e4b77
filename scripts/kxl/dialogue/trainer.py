"""Training the tiny model by a plan: phases, one schedule, an average of the last part; the same on a CPU and a GPU.

A plan (configs/tiny.plan.json) is one JSON object:

  tokenizer    vocab_size, spaced, rows, seed: for tiny_train_tokenizer.py --plan
  model        the checkpoint's config.json; vocab_size is the tokenizer's
  reasoning    "keep": it learns to think before each call and answer; "drop": it learns neither
  seed         of the first weights and of all rows
  loss         weights of a token by what it is: {"visible", "thought", "other"}
  optimizer    muon_learning_rate, adam_learning_rate (peaks), weight_decay, clip, balance (step of the routing bias),
               warmup (steps)
  average      {"last": steps, "decay": 0.998}: the shipped weights are a moving average over the last steps
  phases       each with steps, tokens (of a batch), longest (of a row), contexts and rows (shares of kinds), and
               rate: [first, last] share of the peak learning rates, falling or rising evenly over the phase;
               rows_bare: other shares where no tools are listed; prefix_gradient: share of the batches whose prefix of
               1,000 tokens or more is trained, too; long: [least, most] tokens of filler in long contexts;
               frozen: parts of names of weights that do not move; rough: share of requests with slips of the pen;
               dropout: share of what each block adds that is left out (0 where it is not named);
               lost_thoughts: share of rows whose earlier turns have lost their thoughts, as Hermes Agent sends them
  validation   {"every": steps, "contexts", "tokens", "pools"}: rows of held-out forms and held-out words
"""

import json
import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from kxl.base.cli import UserError
from kxl.base.files import atomic_path, shown
from kxl.dialogue import feed as rows
from kxl.dialogue.feed import Batch, Encoder, phase_of
from kxl.tiny.model import TinyLfm2Moe
from kxl.tiny.optimizer import build_optimizers

CALL_START, END = "<|tool_call_start|>", "<|im_end|>"
THINKING_ROOM = 64  # tokens for a thought, beyond what an answer may have
SAVE_EVERY = 600  # seconds: what a crash costs at most


def pick_device(name: str) -> torch.device:
    """ "auto", "cpu" or "cuda" as a device. On CUDA matrix products in TF32 and one order of operations are set up."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no CUDA device; use --device cpu")
    device = torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        # One attention kernel, whose gradient has a fixed order of additions.
        torch.backends.cuda.enable_flash_sdp(False)
        torch.backends.cuda.enable_mem_efficient_sdp(False)
        torch.backends.cuda.enable_cudnn_sdp(False)
    return device


def saved_step(state: Path) -> int:
    """The step at which a run goes on whose state is this file; 0 without one."""
    return torch.load(state, map_location="cpu", mmap=True, weights_only=False)["step"] if state.exists() else 0


class Moved(NamedTuple):
    """A batch on a device: prefix [1, P], ids [B, S], marks [B, S] (−1 on padding); places: of the real tokens in
    marks[:, 1:], flattened, found on the CPU so that a GPU need not be waited for. int64, marks int8."""

    prefix: torch.Tensor
    ids: torch.Tensor
    marks: torch.Tensor
    places: torch.Tensor


def to_device(batch: Batch, device: torch.device) -> Moved:
    marks = torch.from_numpy(batch.marks)
    marks = marks.masked_fill(torch.arange(marks.shape[1]) >= torch.from_numpy(batch.lengths)[:, None], -1)
    prefix, ids = torch.from_numpy(batch.prefix).long()[None], torch.from_numpy(batch.ids).long()
    places = (marks[:, 1:].flatten() >= 0).nonzero()[:, 0]
    return Moved(*(tensor.to(device, non_blocking=True) for tensor in (prefix, ids, marks, places)))


def states_of(model: TinyLfm2Moe, prefix: torch.Tensor, with_gradient: bool) -> list:
    """The prefix's keys, values and convolution states, trained with its rows or only read."""
    with torch.set_grad_enabled(with_gradient and torch.is_grad_enabled()):
        return model(prefix)[1]


def loss_of(model: TinyLfm2Moe, states: list, batch: Moved, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(weighted mean cross-entropy in nats, share of the visible tokens predicted right); weights [3] by mark."""
    hidden, _ = model(batch.ids[:, :-1], states)
    target, mark = (of[:, 1:].flatten()[batch.places] for of in (batch.ids, batch.marks.long()))
    logits = model.logits(hidden.flatten(0, 1)[batch.places])
    weight = weights[mark]
    loss = (F.cross_entropy(logits, target, reduction="none") * weight).sum() / weight.sum()
    visible = mark == rows.VISIBLE
    right = ((logits.detach().argmax(-1) == target) & visible).sum() / visible.sum().clamp_min(1)
    return loss, right


def rate(plan: dict, step: int) -> float:
    """Share of the peak learning rates at a step."""
    index, number = phase_of(plan, step)
    phase = plan["phases"][index]
    first, last = phase["rate"]
    return (first + (last - first) * number / phase["steps"]) * min(1, (step + 1) / plan["optimizer"]["warmup"])


class Validation:
    """Rows of held-out forms and words whose last answer the model writes itself, greedily: thought, then call or text.

    A given thought would tell it what to do.
    """

    def __init__(self, plan: dict, encoder: Encoder, device: torch.device, pools: int):
        settings = plan["validation"]
        phase = {
            **plan["phases"][-1],
            "tokens": settings["tokens"],
            "rows": settings["rows"],
            "rows_bare": settings["rows"],
        }
        self.call, self.thought_end, self.end = map(encoder.tokenizer.token_to_id, (CALL_START, rows.THINK_END, END))
        self.device, self.batches = device, []
        for kind in settings["contexts"]:
            for pool in range(pools):
                rng = random.Random(f"{plan['seed']} validation {kind} {pool}")
                self.batches += rows.draw_pool(rng, encoder, phase, kind, heldout=True, batches=1)

    @torch.no_grad()
    def exact(self, model: TinyLfm2Moe) -> dict[str, dict]:
        """By context and kind of row: how many rows, the share whose answer behind the thought is the row's own token
        for token (`exact`), and the share that calls where the row does (`decided`). Answers in words have many right
        forms, so for them `decided` is what counts."""
        model.eval()
        counts: dict[str, list[int]] = {}
        for batch in self.batches:
            turns = [last_turn(ids[:n], marks[:n]) for ids, marks, n in zip(batch.ids, batch.marks, batch.lengths)]
            prefix = torch.from_numpy(batch.prefix).long()[None].to(self.device)
            room = max(len(answer) for _, answer in turns) + THINKING_ROOM
            written = model.decode(states_of(model, prefix, False), [asked for asked, _ in turns], room, self.end)
            for kind, (_, wanted), answer in zip(batch.kinds, turns, written):
                if self.thought_end in answer:
                    answer = answer[len(answer) - answer[::-1].index(self.thought_end) :]
                for key in (batch.context, kind):
                    entry = counts.setdefault(key, [0, 0, 0])
                    decided = (self.call in answer) == (self.call in wanted)
                    for i, value in enumerate((1, answer == wanted, decided)):
                        entry[i] += value
        model.train()
        return {
            k: {"rows": n, "exact": round(a / n, 3), "decided": round(b / n, 3)}
            for k, (n, a, b) in sorted(counts.items())
        }


def last_turn(ids: np.ndarray, marks: np.ndarray) -> tuple[list[int], list[int]]:
    """(the ids before a row's last emitted turn, what is visible of that turn)."""
    emitted = np.flatnonzero(marks > rows.OTHER)
    start = int(emitted[np.flatnonzero(np.diff(emitted, prepend=-2) > 1)[-1]])
    return ids[:start].tolist(), ids[start:][marks[start:] == rows.VISIBLE].tolist()


class Average:
    """A moving average of weights and routing biases."""

    def __init__(self, model: TinyLfm2Moe, settings: dict):
        self.settings, self.tensors = settings, [t.detach().clone() for t in self.of(model)]

    @staticmethod
    def of(model: TinyLfm2Moe) -> list[torch.Tensor]:
        return [*model.parameters(), *(moe.expert_bias for moe in model.moe_layers())]

    def update(self, model: TinyLfm2Moe) -> None:
        torch._foreach_lerp_(self.tensors, [t.detach() for t in self.of(model)], 1 - self.settings["decay"])

    @torch.no_grad()
    def swap(self, model: TinyLfm2Moe) -> None:
        """The average into the model, the model's weights into the average."""
        for own, held in zip(self.of(model), self.tensors):
            own_data = own.detach()
            before = own_data.clone()
            own_data.copy_(held)
            held.copy_(before)


class Trainer:
    """A model in training; everything that the next step depends on is in its state, a file."""

    def __init__(self, plan: dict, device: torch.device, state: Path):
        self.plan, self.device, self.path = plan, device, state
        torch.manual_seed(plan["seed"])  # drawn on the CPU, so that each device begins with the same weights
        self.model = TinyLfm2Moe(plan["model"]).to(device)
        self.optimizers = build_optimizers(self.model, plan["optimizer"])
        self.steps = sum(phase["steps"] for phase in plan["phases"])
        self.average: Average | None = None
        self.step, self.tokens, self.seconds, self.history = 0, 0, 0.0, []
        self.weights = torch.tensor([plan["loss"][name] for name in ("other", "thought", "visible")], device=device)
        if state.exists():
            self.load()

    def load(self) -> None:
        saved = torch.load(self.path, map_location=self.device, weights_only=False)
        if saved["plan"] != self.plan or saved["device"] != self.device.type:
            raise UserError(
                f"{shown(self.path)} was made by another plan, from other data or on another kind of device; "
                "delete it to start anew"
            )
        self.model.load_state_dict(saved["model"])
        for optimizer, held in zip(self.optimizers, saved["optimizers"]):
            optimizer.load_state_dict(held)
        self.step, self.tokens, self.seconds, self.history = (
            saved[name] for name in ("step", "tokens", "seconds", "history")
        )
        if saved["average"] is not None:
            self.average = Average(self.model, self.plan["average"])
            self.average.tensors = saved["average"]

    def save(self) -> None:
        with atomic_path(self.path) as partial:
            state = {
                "plan": self.plan,
                "device": self.device.type,
                "model": self.model.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "average": self.average.tensors if self.average else None,
                "step": self.step,
                "tokens": self.tokens,
                "seconds": self.seconds,
                "history": self.history,
            }
            torch.save(state, partial)

    def train_step(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """One step; (loss, share of right visible tokens) as tensors, so that a GPU need not wait."""
        index, _ = phase_of(self.plan, self.step)
        phase, settings = self.plan["phases"][index], self.plan["optimizer"]
        moved = to_device(batch, self.device)
        torch.manual_seed(self.step)  # of the dropout, so that a run which goes on leaves out the same
        self.model.set_dropout(phase.get("dropout", 0.0))
        draw = random.Random(f"{self.plan['seed']} {self.step} gradient").random()
        length = moved.prefix.shape[1]
        with_gradient = length < 1000 or (length < 6000 and draw < phase.get("prefix_gradient", 0.25))
        states = states_of(self.model, moved.prefix, with_gradient)
        loss, right = loss_of(self.model, states, moved, self.weights)
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        for name, parameter in self.model.named_parameters():
            if any(part in name for part in phase.get("frozen", ())):
                parameter.grad = None
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings["clip"])
        share = rate(self.plan, self.step)
        for optimizer, peak in zip(self.optimizers, (settings["muon_learning_rate"], settings["adam_learning_rate"])):
            for group in optimizer.param_groups:
                group["lr"] = peak * share
            optimizer.step()
        for moe in self.model.moe_layers():
            moe.balance(settings["balance"])
        self.step += 1
        self.tokens += int(batch.lengths.sum())
        if "average" in self.plan and self.step > self.steps - self.plan["average"]["last"]:
            if self.average is None:
                self.average = Average(self.model, self.plan["average"])
            else:
                self.average.update(self.model)
        return loss.detach(), right

    def run(
        self,
        feed: rows.Feed,
        validation: Validation,
        stop_after: float | None,
        tell: Callable[[str], None],
        until: int | None = None,
    ) -> bool:
        """Train to the last step (or to step `until`); False when `stop_after` seconds were over first.

        The state is saved at each validation, at the end, every SAVE_EVERY seconds and when it stops for the time.
        UserError when the loss is not finite.
        """
        begun, base, every = time.monotonic(), self.seconds, self.plan["validation"]["every"]
        last_told, last_saved, first_step, recent = begun, begun, self.step, []
        until = min(until or self.steps, self.steps)
        while self.step < until:
            recent.append(torch.stack(self.train_step(feed.batch(self.step))))
            now = time.monotonic()
            at_eval = self.step % every == 0 or self.step == self.steps
            over = stop_after is not None and now - begun > stop_after
            if now - last_told > 10 or at_eval or over or self.step - first_step in (5, 50):
                loss, right = torch.stack(recent[-50:]).mean(0).tolist()
                if not math.isfinite(loss):
                    raise UserError(f"the loss is {loss} near step {self.step}; lower the learning rates of the plan")
                self.seconds, pace = (
                    base + time.monotonic() - begun,
                    (time.monotonic() - begun) / (self.step - first_step),
                )
                left = pace * (self.steps - self.step) / 60
                tell(
                    f"step {self.step}/{self.steps}  loss {loss:.3f}  right {right:.3f}  "
                    f"{self.tokens / 1e6:.2f} M tokens  {pace:.3f} s/step  {left:.1f} min left"
                )
                last_told = time.monotonic()
            if at_eval:
                self.history.append(
                    {
                        "step": self.step,
                        "tokens": self.tokens,
                        "loss": round(loss, 4),
                        "right": round(right, 4),
                        "seconds": round(self.seconds),
                        "exact": validation.exact(self.model),
                    }
                )
                tell(json.dumps(self.history[-1]["exact"]))
                recent.clear()
                self.save()
            if over and self.step < self.steps:
                self.save()
                return False
            if now - last_saved > SAVE_EVERY:
                self.seconds, last_saved = base + now - begun, now
                self.save()
        self.seconds = base + time.monotonic() - begun
        return True

    def finished(self) -> TinyLfm2Moe:
        """The model that is shipped: the average where the plan has one."""
        if self.average is not None:
            self.average.swap(self.model)
        return self.model
