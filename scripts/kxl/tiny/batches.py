"""Batches of the tiny model's training: generated rows as token ids, of like length, after one shared prefix.

    encoder = Encoder(Path("models/tiny"))
    batch = draw_batch(rng, encoder, context, settings, forbidden, shares=Shares())
    batch.ids, batch.emitted, batch.real    # [B, S], padded on the right

All rows of a batch fit one context (contexts.py), whose tokens stand before each of them and are computed once.
"""

import json
import random
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from kxl.chat.tool_syntax import render_calls
from kxl.eval import contamination
from kxl.tiny import contexts, drills, rows

POOL = 4  # rows drawn for each that is taken, so that those of a batch can be of like length


@dataclass(frozen=True)
class EncodedRow:
    """Token ids of a row, for each whether the model has to emit it, and the row's kind."""

    ids: list[int]
    emitted: list[bool]
    kind: str


@dataclass(frozen=True)
class Batch:
    """ids int64 [B, S]; emitted bool [B, S]: the model's to emit; real bool [B, S]: not padding; kinds [B]."""

    ids: torch.Tensor
    emitted: torch.Tensor
    real: torch.Tensor
    kinds: list[str]


class Encoder:
    """Text of the chat template to token ids; special tokens split it, so pieces encode independently."""

    def __init__(self, folder: Path):
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.end = self.tokenizer.token_to_id("<|im_end|>")
        vocabulary = self.tokenizer.get_vocab()
        words = sorted(token for token in vocabulary if re.fullmatch("[A-Za-z]{2,}", token))
        self.pieces = drills.Pieces(words, [word for word in words if "Ġ" + word in vocabulary])

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def prefix(self, context: dict) -> list[int]:
        """The system block that all rows of a context start with, from <|startoftext|> on."""
        system = context["system"] or ""
        if context["tools"]:
            tools = ", ".join(json.dumps(tool, ensure_ascii=False) for tool in context["tools"])
            system += ("\n" if system else "") + f"List of tools: [{tools}]"
        text = "<|startoftext|>" + (f"<|im_start|>system\n{system}<|im_end|>\n" if system else "")
        return self.encode(text)

    def row(self, messages: list[dict]) -> tuple[list[int], list[bool]]:
        """Token ids of the messages, and for each whether the model has to emit it."""
        ids, emitted = [], []
        for message in messages:
            head = self.encode(f"<|im_start|>{message['role']}\n")
            body = message["content"] or ""
            if message.get("tool_calls"):
                body += render_calls([call["function"] for call in message["tool_calls"]])
            body, tail = self.encode(body) + [self.end], self.encode("\n")
            ids += head + body + tail
            own = message["role"] == "assistant"
            emitted += [False] * len(head) + [own] * len(body) + [False] * len(tail)
        return ids, emitted


def draw_context(rng: random.Random, settings: dict, step: int) -> dict:
    """Copying is learned first, in bare contexts; then in prompts with tool lists, up to Hermes's own."""
    shares = settings["contexts_late"] if step >= settings["early_steps"] else settings["contexts_early"]
    return contexts.context(rng, rng.choices(list(shares), list(shares.values()))[0])


def shares_of(settings: dict) -> rows.Shares:
    """The shares of kinds of rows that a training config names."""
    names = ("finalizations", "in_a_row", "introductions")
    return rows.Shares(**{name: settings[name] for name in names if name in settings})


def draw_batch(
    rng: random.Random,
    encoder: Encoder,
    context: dict,
    settings: dict,
    forbidden: contamination.Prompts,
    heldout: bool = False,
    simple: bool = False,
    shares: rows.Shares = rows.USUAL,
) -> Batch:
    """At most settings["rows"] rows of like length and settings["max_tokens"] tokens, none above settings["longest"].

    No user turn repeats one of the prompts `forbidden` (kxl/eval/contamination.py). `heldout`, `simple` and `shares` as
    rows.row takes them.
    """
    count, pool = settings["rows"], []
    while len(pool) < POOL * count:
        pieces = None if heldout else encoder.pieces
        row = rows.row(rng, contexts.tool_names(context), heldout, simple, pieces, shares)
        if forbidden.of_row(row["messages"]):
            continue
        ids, emitted = encoder.row(row["messages"])
        if len(ids) <= settings["longest"]:
            pool.append(EncodedRow(ids, emitted, row["kind"]))
    pool.sort(key=lambda row: len(row.ids))
    start = rng.randrange(POOL) * count
    alike = pool[start : start + count]
    # Attention over a long prefix costs by the row's tokens: long rows come in smaller batches.
    return pad(rng.sample(alike, min(count, settings["max_tokens"] // len(alike[-1].ids))))


def pad(encoded: list[EncodedRow]) -> Batch:
    """The rows as one batch, padded on the right to the longest."""
    shape = len(encoded), max(len(row.ids) for row in encoded)
    ids = torch.zeros(shape, dtype=torch.int64)
    emitted, real = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    for place, row in enumerate(encoded):
        length = len(row.ids)
        ids[place, :length], emitted[place, :length] = torch.tensor(row.ids), torch.tensor(row.emitted)
        real[place, :length] = True
    return Batch(ids, emitted, real, [row.kind for row in encoded])
