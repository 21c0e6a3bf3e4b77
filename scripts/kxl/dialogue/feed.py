"""Batches of drawn conversations as token ids, drawn by worker processes ahead of the training step, in order.

    with Feed(plan, tokenizer_json, workers=2) as feed:
        batch = feed.batch(step)

What a step sees depends on the plan and the step's number alone, never on the number of workers: a run that stops and
goes on, here or elsewhere, sees the same rows in the same order. numpy only; torch is the trainer's.
"""

import json
import multiprocessing
import os
import random
import re
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from kxl.base.cli import UserError
from kxl.chat.tool_syntax import render_calls
from kxl.dialogue.contexts import Context, draw_context
from kxl.dialogue.dialogues import Dialogue

OTHER, THOUGHT, VISIBLE = 0, 1, 2  # what a token is: given, or emitted by the model
THINK, THINK_END = "<think>", "</think>"
POOL = 4  # batches that are cut from one context's rows, from the short ones to the long ones
GROUP = 32  # steps that are drawn together


@dataclass
class Batch:
    """ids, marks: [B, S] (int32; int8 of OTHER, THOUGHT, VISIBLE); lengths: [B]. prefix: the context's ids, from
    <|startoftext|> on. kinds: what kind of row each is. context: the kind of its context."""

    prefix: np.ndarray
    ids: np.ndarray
    marks: np.ndarray
    lengths: np.ndarray
    kinds: list[str]
    context: str


class Encoder:
    """Conversations to token ids as the chat template renders them. reasoning: "keep" or "drop" the thoughts."""

    def __init__(self, tokenizer: Path, reasoning: str):
        if reasoning not in ("keep", "drop"):
            raise UserError(f'"reasoning" is {reasoning!r}, must be "keep" or "drop"')
        self.tokenizer = Tokenizer.from_file(str(tokenizer))
        vocabulary = self.tokenizer.get_vocab()
        if missing := [mark for mark in (THINK, THINK_END) if mark not in vocabulary and reasoning == "keep"]:
            raise UserError(
                f"{tokenizer}: has no token {' and '.join(missing)}; train it with tiny_train_tokenizer.py --plan"
            )
        self.reasoning = reasoning
        words = sorted(token for token in vocabulary if re.fullmatch("[A-Za-z]{2,}", token))
        self.pieces = (words, [word for word in words if "Ġ" + word in vocabulary])

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def prefix(self, context: Context) -> list[int]:
        """What stands in front of all rows of a context."""
        system = context.system or ""
        if context.tools:
            tools = ", ".join(json.dumps(tool, ensure_ascii=False) for tool in context.tools)
            system += ("\n" if system else "") + f"List of tools: [{tools}]"
        text = "<|startoftext|>" + (f"<|im_start|>system\n{system}<|im_end|>\n" if system else "")
        for message in context.before:
            text += self.text(message, False)
        return self.encode(text + (f"<|im_start|>user\n{context.opened}" if context.opened else ""))

    def text(self, message: dict, with_thought: bool) -> str:
        """A message as configs/templates/lfm2.5-tools.jinja writes it."""
        body = message["content"] or ""
        if message.get("tool_calls"):
            body += render_calls([call["function"] for call in message["tool_calls"]])
        if with_thought and message.get("reasoning_content"):
            body = f"{THINK}{message['reasoning_content']}{THINK_END}{body}"
        return f"<|im_start|>{message['role']}\n{body}<|im_end|>\n"

    def row(self, messages: list[dict], opened: bool = False, lost: bool = False) -> tuple[list[int], list[int]]:
        """(ids, marks) of a row. Thoughts before the last user message are not rendered, as a server does it, and with
        them goes what the model would emit there. opened: the first user message has been begun by the context.
        lost: nor are those before the last answer, as an agent sends a history that keeps no thoughts."""
        ids: list[int] = []
        marks: list[int] = []
        last_user = max(i for i, message in enumerate(messages) if message["role"] == "user")
        if lost:
            last_user = max(i for i, message in enumerate(messages) if message["role"] == "assistant") - 1
        for i, message in enumerate(messages):
            keep = self.reasoning == "keep"
            text = self.text(message, keep and i > last_user)
            if opened and i == 0:
                text = text.removeprefix("<|im_start|>user\n")
            if message["role"] != "assistant" or (keep and i <= last_user):
                new = self.encode(text)
                ids += new
                marks += [OTHER] * len(new)
                continue
            head = "<|im_start|>assistant\n"
            thought, end, visible = (
                text.removeprefix(head).removesuffix("\n").rpartition(THINK_END)
                if keep and message.get("reasoning_content")
                else ("", "", text.removeprefix(head).removesuffix("\n"))
            )
            for part, mark in ((head, OTHER), (thought + end, THOUGHT), (visible, VISIBLE), ("\n", OTHER)):
                new = self.encode(part)
                ids += new
                marks += [mark] * len(new)
        return ids, marks


def phase_of(plan: dict, step: int) -> tuple[int, int]:
    """(index of the phase that a step belongs to, the step's number in it)."""
    for index, phase in enumerate(plan["phases"]):
        if step < phase["steps"]:
            return index, step
        step -= phase["steps"]
    raise ValueError("a step after the plan's last")


def draw_pool(
    rng: random.Random, encoder: Encoder, phase: dict, kind: str, heldout: bool = False, batches: int = POOL
) -> list[Batch]:
    """`batches` batches of one context, each of about phase["tokens"] tokens, from the short rows to the long ones."""
    low, high = phase.get("long", (3000, 8000))
    size = round(low * (high / low) ** rng.random())
    context = draw_context(rng, kind, size)
    dialogue = Dialogue(
        rng, context, heldout, None if heldout else encoder.pieces, 0.0 if heldout else phase.get("rough", 0.3)
    )
    budget = phase["tokens"] // (3 if kind == "long" else 1)
    shares = phase.get("rows_bare", phase["rows"]) if kind == "bare" else phase["rows"]
    rows, total = [], 0
    while total < batches * budget:
        row = dialogue.row(shares)
        ids, marks = encoder.row(row["messages"], bool(context.opened), rng.random() < phase.get("lost_thoughts", 0))
        if len(ids) <= phase["longest"]:
            rows.append((ids, marks, row["kind"]))
            total += len(ids)
    rows.sort(key=lambda item: len(item[0]))
    ends, seen = [], 0
    for i, (ids, _, _) in enumerate(rows):
        seen += len(ids)
        if seen >= (len(ends) + 1) * total / batches:
            ends.append(i + 1)
    prefix = np.array(encoder.prefix(context), np.int32)
    starts = [0, *ends[:-1]]
    return [
        _padded(prefix, rows[start:end], context.kind)
        for start, end in zip(starts, [*ends[:-1], len(rows)])
        if end > start
    ]


def _padded(prefix: np.ndarray, rows: list, context: str) -> Batch:
    width = max(len(ids) for ids, _, _ in rows)
    ids, marks = np.zeros((len(rows), width), np.int32), np.zeros((len(rows), width), np.int8)
    for i, (row, emitted, _) in enumerate(rows):
        ids[i, : len(row)], marks[i, : len(row)] = row, emitted
    return Batch(prefix, ids, marks, np.array([len(row) for row, _, _ in rows]), [kind for _, _, kind in rows], context)


def draw_group(plan: dict, encoder: Encoder, phase: int, group: int) -> list[Batch]:
    """GROUP batches of one phase, contexts and lengths mixed."""
    settings = plan["phases"][phase]
    rng = random.Random(f"{plan['seed']} {phase} {group}")
    kinds = rng.choices(list(settings["contexts"]), list(settings["contexts"].values()), k=GROUP // POOL)
    batches = [batch for kind in kinds for batch in draw_pool(rng, encoder, settings, kind)]
    rng.shuffle(batches)
    if len(batches) != GROUP:
        raise ValueError(f'phase {phase}, group {group}: {len(batches)} batches; its "tokens" are too few for its rows')
    return batches


def _begin(plan: dict, tokenizer: Path) -> None:
    global _plan, _encoder
    os.nice(5)
    _plan, _encoder = plan, Encoder(tokenizer, plan["reasoning"])


def _group(phase: int, group: int) -> list[Batch]:
    return draw_group(_plan, _encoder, phase, group)


class Feed:
    """Batches by step, drawn ahead by forked workers. To be made before the first use of CUDA."""

    def __init__(self, plan: dict, tokenizer: Path, start: int, workers: int):
        self.plan, self.encoder = plan, Encoder(tokenizer, plan["reasoning"])
        self.steps = sum(phase["steps"] for phase in plan["phases"])
        self.pool = ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _begin, (plan, tokenizer))
        self.ahead: deque[tuple[tuple[int, int], Future]] = deque()
        self.order = self._groups(start)
        self.held: tuple[tuple[int, int], list[Batch]] | None = None
        for _ in range(workers + 1):
            self._ask()

    def _groups(self, start: int):
        seen = None
        for step in range(start, self.steps):
            phase, number = phase_of(self.plan, step)
            if (phase, number // GROUP) != seen:
                yield (seen := (phase, number // GROUP))

    def _ask(self) -> None:
        if (key := next(self.order, None)) is not None:
            self.ahead.append((key, self.pool.submit(_group, *key)))

    def batch(self, step: int) -> Batch:
        """The batch of a step; steps are asked for in order."""
        phase, number = phase_of(self.plan, step)
        key = (phase, number // GROUP)
        while self.held is None or self.held[0] != key:
            found, future = self.ahead.popleft()
            self.held = (found, future.result())
            self._ask()
        return self.held[1][number % GROUP]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.pool.shutdown(wait=False, cancel_futures=True)
