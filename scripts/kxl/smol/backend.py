"""A model that is asked for its own tokens and probabilities: by torch on a CPU, by MLX on a Mac's GPU.

    model = backend.load("torch", Path("runs/smollm2-135m/base"), adapter=None)
    model.generate(prompts, max_tokens=96, stop=2, watch=8)       # kxl/model/generate.py's Generations
    model.log_probabilities([1, 2, 3])                            # float32 [N, vocabulary]

Both compute the same model; they differ by rounding. torch uses BF16 where the processor multiplies it in hardware.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

NAMES = ("torch", "mlx")
BATCH, BATCH_TOKENS = 96, 16_000  # prompts that torch continues together, and their tokens with padding


def usual() -> str:
    """The fast one of this machine."""
    return "mlx" if sys.platform == "darwin" else "torch"


def prepare(name: str) -> None:
    """What the process needs before anything is computed; first in main()."""
    from kxl.model import blas

    if name == "mlx":
        blas.use_fast_blas(keep_memory=True)
    elif not os.environ.get("LD_PRELOAD"):  # a process that was started with a BLAS in front stays as it is
        blas.use_kept_memory()


def load(name: str, folder: Path, adapter: Path | None = None):
    """The model of a checkpoint folder, with the adapter of another one. UserError where they do not fit."""
    return (Torch if name == "torch" else Mlx)(folder, adapter)


class Mlx:
    """By mlx-lm."""

    def __init__(self, folder: Path, adapter: Path | None):
        from kxl.lora import adapter as lora_adapter
        from kxl.model import generate

        self.model = generate.load(folder)
        if adapter:
            lora_adapter.load(self.model, adapter)

    def generate(self, prompts: list[list[int]], max_tokens: int, stop: int, watch=None, done=None) -> list:
        """A Generation for each prompt, greedy."""
        from kxl.model import generate

        return generate.generate(self.model, prompts, max_tokens, stop, watch, done=done)

    def log_probabilities(self, ids: list[int]) -> np.ndarray:
        """Of each token after each of `ids`: float32 [N, vocabulary]."""
        import mlx.core as mx

        logits = self.model(mx.array([ids]))[0].astype(mx.float32)
        return np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))


class Torch:
    """By transformers."""

    def __init__(self, folder: Path, adapter: Path | None):
        from kxl.smol import torch_model

        self.model = torch_model.load(folder)
        if adapter:
            torch_model.load_adapter(self.model, adapter)

    def generate(
        self,
        prompts: list[list[int]],
        max_tokens: int,
        stop: int,
        watch: int | None = None,
        done: Callable[[], None] | None = None,
    ) -> list:
        """A Generation for each prompt, greedy; without its steps."""
        import torch

        from kxl.model.generate import Generation

        made: list = [None] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
        while order:
            count = 1
            while count < min(BATCH, len(order)) and (count + 1) * len(prompts[order[count]]) <= BATCH_TOKENS:
                count += 1
            places, order = order[:count], order[count:]
            longest = max(len(prompts[place]) for place in places)
            ids = torch.full((len(places), longest), stop)
            mask = torch.zeros_like(ids)
            for row, place in enumerate(places):
                ids[row, longest - len(prompts[place]) :] = torch.tensor(prompts[place])
                mask[row, longest - len(prompts[place]) :] = 1
            watched: list = []

            def note(given, scores, watch=watch, watched=watched):
                if watch is not None and not watched:
                    watched.extend(scores.float().softmax(-1)[:, watch].tolist())
                return scores

            with torch.no_grad():
                out = self.model.generate(
                    ids,
                    attention_mask=mask,
                    max_new_tokens=max_tokens,
                    do_sample=False,
                    eos_token_id=stop,
                    pad_token_id=stop,
                    logits_processor=[note],
                )
            for row, place in enumerate(places):
                new = out[row, longest:].tolist()
                ended = stop in new
                new = new[: new.index(stop)] if ended else new
                made[place] = Generation(new, ended, [], watched[row] if watched else None)
                if done:
                    done()
        return made

    def log_probabilities(self, ids: list[int]) -> np.ndarray:
        """Of each token after each of `ids`: float32 [N, vocabulary]."""
        import torch

        with torch.no_grad():
            return self.model(torch.tensor([ids])).logits[0].float().log_softmax(-1).numpy()
