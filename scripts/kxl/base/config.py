"""Settings from a config file, which flags override: one place for each value, and no value goes through make's shell.

`load(path)` reads the config of a run and looks at its form. `parse(parser, {"context": "kld.context_tokens"})` adds
--config to a parser and fills `args.context` with the flag, else with the config's value, else with the flag's own
default.
"""

import argparse
from pathlib import Path

from kxl.base import forms
from kxl.base.cli import UserError
from kxl.base.files import read_json, shown

# The form of a run's config; what the values may be, those say who use them.
TEXT_OR_NONE, NUMBER_OR_NONE = (str, None), (float, None)
FORM = {
    **{f"{key}?": str for key in ("name", "architecture", "artifact_pattern", "release_pattern", "policies")},
    **{f"{key}?": TEXT_OR_NONE for key in ("model", "base_model")},
    "license?": ({"id?": TEXT_OR_NONE, "name?": TEXT_OR_NONE, "link?": TEXT_OR_NONE}, None),
    "card?": {"title?": str, "summary?": str, "tags?": [str], "languages?": [str], "limits?": [str]},
    "gguf?": {},
    "data?": (
        {
            "caps?": [int],
            "split?": {"*": int},
            "vanished_tools?": [str],
            "policies?": {"*": str},
            "reasoning?": TEXT_OR_NONE,
            **{f"{key}?": NUMBER_OR_NONE for key in ("eval_ngram_words", "near_duplicate", "largest_row_mib")},
        },
        None,
    ),
    "eval?": {
        "context?": (int, None),
        "thinking_tokens?": (int, None),
        "sampling?": {"*": NUMBER_OR_NONE},
        "suites?": {"*": {"*": int}},
        "live?": {"kinds?": [str], "share?": float, "obeyed?": int},
    },
    "wordings?": ({"*": str}, None),
    "repair?": ({}, None),
    "imatrix?": {"*": NUMBER_OR_NONE},
    "kld?": {"*": NUMBER_OR_NONE},
    "quants?": [str],
    "stock?": [str],
}
LORA = {"rank": int, "alpha": float, "modules": [str, ...], "embedding": str}
# The form of a config of a model that is taught its tool tokens (configs/smol*.json).
SMOL = {
    **{f"{key}?": str for key in ("name", "architecture", "template", "export_plan")},
    **{f"{key}?": TEXT_OR_NONE for key in ("base_model", "lock", "system")},
    "license?": FORM["license?"],
    "tool_tokens?": {"*": {"token": str, "id": int, "renames?": TEXT_OR_NONE}},
    "data?": {
        **{f"{key}?": float for key in ("tool_share", "share_tolerance", "masked_share")},
        **{f"{key}?": int for key in ("own_groups", "valid_groups", "row_tokens", "seed")},
        "recorded?": {"*": int},
    },
    "lora?": LORA,
    "training?": {
        **{f"{key}?": float for key in ("learning_rate", "final_rate")},
        **{f"{key}?": int for key in ("warmup_steps", "epochs", "max_epochs", "max_tokens", "batch_tokens", "seed")},
        "grad_checkpoint?": bool,
    },
    "emission?": {"max_tokens?": int, "*": float},
    "judging?": {"prompt_tokens?": int, "seed?": int, "*": {"*": int}},
}


def load(path: Path, form: dict = FORM) -> dict:
    """A config, a run's unless `form` is another's; UserError names file and place where a value has another form.

    No key is asked for here.
    """
    config = read_json(path)
    forms.check(config, form, shown(path))
    if form is SMOL and "lora" in config:
        _check_rank(config["lora"], path)
    return config


def load_adapter(path: Path) -> dict:
    """The settings of an adapter folder (adapter.json): its LoRA, and the ids of the tokens whose rows it has."""
    settings = read_json(path)
    forms.check(settings, {"lora": LORA, "token_ids": [int]}, shown(path), "train the adapter again")
    _check_rank(settings["lora"], path)
    return settings


def _check_rank(lora: dict, path: Path) -> None:
    if lora["rank"] < 1:
        raise UserError(f"{shown(path)}: lora.rank is {lora['rank']}, expected 1 or more")


def parse(parser: argparse.ArgumentParser, places: dict[str, str], argv: list[str] | None = None) -> argparse.Namespace:
    """The parsed arguments; `places` maps an argument's name to the config's keys, joined by dots.

    UserError when the config lacks a key, or holds a value that the flag would refuse. A null in the config is no
    value.
    """
    actions = {action.dest: action for action in parser._actions}
    for name, place in places.items():
        actions[name].help = f"{actions[name].help} [config: {place}]"
    parser.add_argument("--config", type=Path, metavar="FILE", help="config of the run; flags override what it says")
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=Path)
    if path := first.parse_known_args(argv)[0].config:
        config = read_json(path)
        for name, place in places.items():
            if (value := _at(config, place, path)) is not None:
                parser.set_defaults(**{name: _checked(actions[name], value, f"{shown(path)}: {place}")})
    return parser.parse_args(argv)


def _at(config, place: str, path: Path):
    for key in place.split("."):
        if not isinstance(config, dict) or key not in config:
            raise UserError(f"{shown(path)}: {place} is missing; add it, null for none")
        config = config[key]
    return config


def _checked(action: argparse.Action, value, where: str):
    kind = action.type or str
    if isinstance(value, bool) or not isinstance(value, kind if kind is not float else (int, float)):
        raise UserError(f"{where} is {value!r}, expected {kind.__name__}")
    if action.choices is not None and value not in action.choices:
        raise UserError(f"{where} is {value!r}, not one of {', '.join(map(str, action.choices))}")
    return value
