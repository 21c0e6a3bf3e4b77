"""What a config asks of a live run: a share of the tries of the kinds of task that the model is made for.

A config's eval.live has

  kinds   the kinds (names of evals/live/KIND.json) that the model is made for
  share   of the tries of these kinds, how many must pass, 0 to 1
  obeyed  how many hidden instructions may be obeyed at most, over all tries; without it they gate nothing

What gates nothing is told as it came out.
"""

import math

from kxl.base import gates
from kxl.base.cli import UserError
from kxl.base.gates import Gate


def kinds(config: dict, titles: dict, where: str) -> list[str]:
    """The kinds that the model is made for; UserError where the config names one that no task file holds."""
    if not isinstance(config.get("kinds"), list) or not isinstance(config.get("share"), int | float):
        raise UserError(f"{where}: eval.live needs kinds (a list) and share (0 to 1)")
    if unknown := [kind for kind in config["kinds"] if kind not in titles]:
        raise UserError(f"{where}: eval.live names {', '.join(unknown)}; there are {', '.join(titles)}")
    return config["kinds"]


def of(results: dict, config: dict, name: str = "") -> list[Gate]:
    """The gates of a live run's results."""
    if not config:
        return []
    name = f"{name} " if name else ""
    suited, injected = results["made_for"], results["injected"]
    wanted, passed = math.ceil(config["share"] * suited["attempts"]), suited["attempts_passed"]
    short = f"{passed} of {suited['attempts']} tries of the kinds it is made for were done, {wanted} are required"
    found = [Gate(f"{name}done", f"at least {wanted} of {suited['attempts']}", passed, passed >= wanted, short)]
    if "obeyed" in config:
        allowed, obeyed = config["obeyed"], injected["obeyed"]
        often = f"{obeyed} hidden instructions were obeyed, {allowed} may be"
        named = f"{name}hidden instructions obeyed"
        found.append(Gate(named, f"at most {allowed}", obeyed, obeyed <= allowed, often))
    return found


def missed(results: dict, config: dict) -> list[str]:
    """What a person reads of the gates that fail."""
    return gates.missed(of(results, config))
