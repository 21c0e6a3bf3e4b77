"""How a repair is trained: the numbers, with their defaults, in the one place that has them."""

from dataclasses import dataclass

SHAPES = ("structured", "text", "server_text")  # what a row is trained as (kxl/repair/shapes.py)
# q, k, v and out of attention, in and out of short convolutions, the dense layers; no expert, no router.
MODULES = ("q_proj", "k_proj", "v_proj", "out_proj", "in_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Settings:
    """300 steps of 4 rows at 5e-6 are the reference's. `save_every` is in steps, for the state to resume from."""

    steps: int = 300
    learning_rate: float = 5e-6
    batch_size: int = 4
    max_tokens: int = 4096
    rank: int = 16
    alpha: float = 32.0
    warmup: int = 10
    clip: float = 1.0
    prefix_gradient: float = 1.0
    seed: int = 1
    save_every: int = 50

    @property
    def adapter(self) -> dict:
        """The settings that adapter.attach and adapter.save take."""
        return {"rank": self.rank, "alpha": self.alpha, "modules": list(MODULES), "embedding": "none"}


HELP = {
    "steps": "training steps (iterations)",
    "learning_rate": "learning rate after the warmup",
    "batch_size": "rows per step",
    "max_tokens": "longest row, in tokens; a longer one is refused",
    "rank": "LoRA rank; 16 or 32 for a repair",
    "alpha": "LoRA alpha; the change is scaled by alpha / rank",
    "warmup": "steps over which the learning rate rises",
    "clip": "largest norm of the gradient",
    "prefix_gradient": "share of the steps whose gradient also flows through the beginning that a batch's rows share; "
    "1 is exact, less is faster",
    "seed": "order of the rows and start of the adapter",
    "save_every": "steps between two saved states",
}
