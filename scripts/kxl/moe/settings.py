"""The settings of a MoE training (configs/NAME-moe.json): what each takes."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from kxl.base.cli import UserError
from kxl.moe.int8 import CARRIES
from kxl.moe.layers import Blocks
from kxl.moe.optimizer import FEW, KINDS
from kxl.moe.rounding import ROUNDINGS
from kxl.moe.streamed import KEEP

MODES = ("streamed", "grouped")
STORAGES = (
    "resident",
    "mapped",
)  # where the core lies during a run: in memory, or in files of which a layer is in memory
LENGTHS = ("steps", "epochs")  # how long a run is, by one of them
DEFAULTS = {"shares": 1}  # of settings that a config, or a checkpoint of before there was one, may leave out
# What may differ between a run and its continuation: it decides no weight. Steps are compared.
FREE = ("epochs", "checkpoint_every", "keep_checkpoints", "validate_every", "validation_rows", "storage")


@dataclass(frozen=True)
class Rule:
    """What a setting takes, in words, and whether a value is such."""

    takes: str
    allows: Callable[[object], bool]


def one_of(*choices: str) -> Rule:
    """A setting that is one of some words."""
    return Rule(" or ".join(choices), lambda value: value in choices)


def whole(least: int) -> Rule:
    """A setting that is a whole number from `least` on; true and false are none."""
    return Rule(f"a whole number, {least} or more", lambda value: type(value) is int and value >= least)


def is_number(value) -> bool:
    """Whether a setting is a finite number, 0 or more."""
    return type(value) in (int, float) and 0 <= value < math.inf


def are_blocks(value) -> bool:
    """Whether a setting names fields of Blocks alone."""
    try:
        Blocks(**value)
    except TypeError:
        return False
    return True


def is_power_of_two(value) -> bool:
    """Whether a setting is 1, 2, 4, 8 and so on."""
    return type(value) is int and value > 0 and value & (value - 1) == 0


NUMBER = Rule("a number, 0 or more", is_number)
RULES = {
    "mode": one_of(*MODES),
    "optimizer": one_of(*KINDS),
    "rounding": one_of(*ROUNDINGS),
    "layer_inputs": one_of(*KEEP),
    "storage": one_of(*STORAGES),
    "few_tokens": one_of(*FEW),
    "carry_bits": Rule(" or ".join(map(str, CARRIES)), lambda value: type(value) is int and value in CARRIES),
    "decay_tokens": whole(0),
    "group_size": whole(1),
    "group_layers": whole(1),
    "group_stride": whole(1),
    "batch": whole(1),
    "shares": Rule("1, 2, 4, 8 or another power of two", is_power_of_two),
    "max_tokens": whole(2),
    "seed": whole(0),
    "warmup_steps": whole(0),
    "validation_rows": whole(0),
    "validate_every": whole(1),
    "checkpoint_every": whole(1),
    "keep_checkpoints": whole(1),
    "steps": whole(1),
    "epochs": whole(1),
    "update_clip": NUMBER,
    "gradient_clip": NUMBER,
    "balance_loss": NUMBER,
    "z_loss": NUMBER,
    "learning_rate": NUMBER,
    "final_rate": NUMBER,
    "blocks": Rule("an object with " + ", ".join(Blocks.__annotations__), are_blocks),
}


def check_settings(settings: dict, path: str) -> dict:
    """The settings with both LENGTHS present, one of them None, and with DEFAULTS.

    UserError, which names `path`, for a key that is missing, unknown or of no use, and unless one of LENGTHS is set.
    """
    settings = {**dict.fromkeys(LENGTHS), **DEFAULTS, **settings}
    for key in sorted(settings.keys() ^ RULES.keys()):
        problem = "missing" if key in RULES else "not a setting of MoE training"
        raise UserError(f"{path}: {key} is {problem}; see configs/tiny-moe.json")
    unset = [key for key in LENGTHS if settings[key] is None]
    if settings["gradient_clip"] and settings["mode"] == "grouped":
        raise UserError(
            f"{path}: gradient_clip is {settings['gradient_clip']} and mode is 'grouped': its groups change one after "
            "another, so there is no gradient of the whole step; set gradient_clip to 0 or mode to streamed"
        )
    if len(unset) != 1:
        lengths = "neither is set" if unset else f"steps is {settings['steps']} and epochs is {settings['epochs']}"
        raise UserError(f"{path}: {lengths}; a run is as long as steps or as epochs says: set one of the two")
    for key, rule in RULES.items():
        if key not in unset and not rule.allows(settings[key]):
            raise UserError(f"{path}: {key} is {settings[key]!r}; it takes {rule.takes}")
    if settings["batch"] % settings["shares"]:
        raise UserError(
            f"{path}: a batch of {settings['batch']} rows has no {settings['shares']} shares of as many rows each; set "
            "shares to a power of two that divides batch"
        )
    return settings


def overridden(config: dict, flags: dict) -> dict:
    """The config's settings with those of the command line: --steps or --epochs takes the place of either."""
    length = {} if flags.keys().isdisjoint(LENGTHS) else dict.fromkeys(LENGTHS)
    return {**config, **length, **flags}
