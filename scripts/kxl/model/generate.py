"""The model's own next tokens: ids and probabilities, greedy, with no parser, grammar or template in between.

    model = load(Path("runs/smollm2-135m/base"))
    for generation in generate(model, [[1, 2, 3]], max_tokens=64, stop=2, watch=8): ...

Works on any model of mlx-lm, with or without LoRA layers attached. float32 on a CPU, where the other types
are slow; the checkpoint's own type elsewhere.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx

from kxl.base.cli import UserError
from kxl.base.files import shown


@dataclass
class Generation:
    """What followed one prompt.

    ids: the tokens, without the one that ended the turn. ended: whether the turn ended by itself.
    steps: per token (the ending one too) {"id", "probability", "top": [[id, probability], ...]}, top only when asked
    for. watched: probability of the watched token as the very first token.
    """

    ids: list = field(default_factory=list)
    ended: bool = False
    steps: list = field(default_factory=list)
    watched: float | None = None


def load(folder: Path):
    """An mlx-lm model in the dtype that this machine computes fast."""
    from mlx_lm.utils import load_model

    if not (Path(folder) / "config.json").is_file():
        raise UserError(f"{shown(folder)}: no config.json here; name a checkpoint folder")
    model, _ = load_model(Path(folder), lazy=True)
    if sys.platform == "linux":
        model.set_dtype(mx.float32)
    mx.eval(model.parameters())
    return model


def generate(
    model,
    prompts: list[list[int]],
    max_tokens: int,
    stop: int,
    watch: int | None = None,
    top: int = 0,
    batch: int = 32,
    done: Callable[[], None] | None = None,
) -> list[Generation]:
    """Greedy continuations of token-id prompts, in their order, `batch` of them at a time.

    max_tokens: of a continuation. stop: the token that ends a turn. watch: a token whose probability at the first place
    is kept. top: how many of the likeliest tokens are kept per step. `done` is called as each ends.
    """
    from mlx_lm.generate import BatchGenerator

    generations = [Generation() for _ in prompts]
    # Prompts are read four at a time, since those are padded to their longest and attention costs its square; alike
    # lengths are side by side.
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    generator = BatchGenerator(
        model, max_tokens=max_tokens, stop_tokens=[[stop]], completion_batch_size=batch, prefill_batch_size=4
    )
    places = dict(zip(generator.insert([prompts[i] for i in order]), order))
    while responses := generator.next_generated():
        for response in responses:
            generation = generations[places[response.uid]]
            if watch is not None and generation.watched is None:
                generation.watched = mx.exp(response.logprobs[watch]).item()
            generation.steps.append(_step(response, top))
            if response.token == stop:
                generation.ended = True
            else:
                generation.ids.append(response.token)
            if response.finish_reason and done:
                done()
    generator.close()
    return generations


def _step(response, top: int) -> dict:
    step = {"id": response.token, "probability": mx.exp(response.logprobs[response.token]).item()}
    if top:
        best = mx.argpartition(-response.logprobs, top)[:top].tolist()
        best.sort(key=lambda i: -response.logprobs[i].item())
        step["top"] = [[i, mx.exp(response.logprobs[i]).item()] for i in best]
    return step
