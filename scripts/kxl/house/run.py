"""A run remembers what it was begun with: config, model, traces, rows, training settings, revision.

The first command of a run writes them to runs/RUN/run.json; later commands need RUN= alone, and one that names another
value is refused. The standard library alone: make asks before there is an environment.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from kxl.base import forms
from kxl.base.cli import UserError
from kxl.base.config import FORM
from kxl.base.errors import MissingKey
from kxl.base.files import read_json, write_json, write_text
from kxl.house import variables
from kxl.house.contents import Contents
from kxl.house.variables import NAME, PATH

REMEMBERED = ("CONFIG", "MODEL", "TRACES", "ROWS", "TRAINING", "REVISION", "TAKE_IMATRIX")
# A value that no command has named yet may be named late, until this file shows that a stage has used its default.
USED_BY = {
    "TRACES": "data/train.jsonl",
    "ROWS": "calibration.txt",
    "TRAINING": "core/config.json",
    "REVISION": "base/config.json",
    "TAKE_IMATRIX": "imatrix.gguf",
}
# What must be made again after a change, by make's own targets.
STALE = {
    "CONFIG": "what its changed parts are for",
    "MODEL": "data, core, train, gguf, imatrix, all quants and evaluations",
    "TRACES": "data, train, check-template",
    "ROWS": "imatrix, all quants and evaluations",
    "TRAINING": "core, train",
    "REVISION": "base, core, train",
    "TAKE_IMATRIX": "imatrix, all quants and evaluations",
}
MODEL_FILES = ("*.safetensors", "*.json", "*.jinja")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
PUBLISHED = ("tiny", "tiny-repair")
POLICIES = ("written", "estimated")  # whose types the KXL quants have: by hand, or found in an estimate of this model
MAIN = "fixed_hermes_43"  # the suite that `make q4kxl` shows, where a config has it
SHIPPED_TRACES = "datasets/hermes/traces.jsonl"
HUB = re.compile(r"[\w.-]+/[\w.-]+")  # OWNER/NAME
OF_THE_HUB = frozenset("base core train gradients train-proof step".split())  # they take a MODEL of the hub as it is
TRACE_ENDINGS = (".jsonl", ".json", ".parquet", ".gz", ".zst", ".csv")
# Folders in which make takes what is there by a pattern, and where a stranger's file may be put.
LISTED = (
    "evals/suites evals/live evals/{run} reports reports/{run} gguf gguf/{run} gguf/dense "
    "runs/{run}/results/evals runs/{run}/results/reports"
).split()


@dataclass
class Run:
    """One run: its name and what it was made of; `stored` is what runs/NAME/run.json said before."""

    name: str
    config: dict
    values: dict[str, str]
    stored: dict[str, str]


def resolve(root: Path, given: dict[str, str], changing: bool, nameless: bool = False) -> Run:
    """The run that `given` (make's variables as the person wrote them) means. UserError where it contradicts itself.

    `changing` lets a given value take the place of a stored one; `nameless` allows a MODEL whose files need no name.
    """
    variables.check(given)
    name = given.get("RUN")
    stored = _stored(root, name) if name else {}
    config_path = given.get("CONFIG") or stored.get("CONFIG") or _config_named(root, name)
    config = check_config(root, config_path)
    if name is None:
        name, stored = config["name"], _stored(root, config["name"])
        for variable in ("MODEL", "TRACES", "ROWS"):
            if given.get(variable) and not nameless:
                raise UserError(f"{variable}={given[variable]} needs a name for its files: add RUN=name")
    # Runs whose results are committed (every checkout has their configs) stay those of their own model.
    own = name in PUBLISHED and config["model"]
    if own and given.get("MODEL", own) != own and not nameless:
        raise UserError(f"run {name} is the one of {own}, and its reports are published: take another RUN= for "
                        f"MODEL={given['MODEL']}")  # fmt: skip
    defaults = {"CONFIG": config_path, "MODEL": config["model"] or "", "TRAINING": f"{config_path[:-5]}-moe.json"}
    values = {}
    for variable in REMEMBERED:
        old, new = stored.get(variable), given.get(variable) or None
        if new is not None and not changing:
            if old is not None and old != new:
                raise _other(name, variable, old, new)
            if old is None and (root / "runs" / name / USED_BY.get(variable, "-")).exists():
                raise _other(name, variable, defaults.get(variable) or "the shipped ones", new)
        values[variable] = new if new is not None else old if old is not None else defaults.get(variable, "")
    return Run(name, config, values, stored)


def check_there(root: Path, run: Run, goals: set[str]) -> None:
    """UserError where a file or folder that the run was told of is not there, or a model of the hub is still there."""
    for variable in ("ROWS", "TRAINING", "CONFIG", "TAKE_IMATRIX"):
        value = run.values[variable]
        if (
            value
            and (variable != "TRAINING" or run.values["TRAINING"] != f"{run.values['CONFIG'][:-5]}-moe.json")
            and not (root / value).is_file()
        ):
            raise UserError(f"{variable}={value}: no such file (paths count from {root})")
    for word in run.values["TRACES"].split():
        if not (root / word).exists() and (not HUB.fullmatch(word) or Path(word).suffix in TRACE_ENDINGS):
            raise UserError(f"TRACES: {word}: no such file or folder (paths count from {root}), and no OWNER/NAME")
    model = run.values["MODEL"]
    if not model or model == run.config["model"] or (root / model).is_dir() or not goals - OF_THE_HUB:
        return
    if HUB.fullmatch(model):
        base = f"runs/{run.name}/base"
        raise UserError(
            f"MODEL={model} is no folder here. If it is a model of the hub, fetch it first: make base MODEL={model} "
            f"REVISION=its commit RUN={run.name}; then make switch RUN={run.name} MODEL={base}, and this command again"
        )
    raise UserError(f"MODEL={model}: no such folder (paths count from {root})")


def check_names(root: Path, run: Run) -> None:
    """UserError where make would hand a file's name to a shell that takes a part of it for a command."""
    for folder in (root / place.format(run=run.name) for place in LISTED):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if not PATH.fullmatch(path.name):
                raise UserError(
                    f"{folder.relative_to(root)}: the name {path.name!r} cannot go through make; rename the file, or "
                    "delete it: names have letters, digits and ._~@+-"
                )


def _other(name: str, variable: str, old: str, new: str) -> UserError:
    return UserError(
        f"run {name} was begun with {variable}={old}, this command says {variable}={new}: take another RUN=, or change "
        f"it on purpose with `make switch RUN={name} {variable}={new}`; then {STALE[variable]} are made again"
    )


def _stored(root: Path, name: str) -> dict:
    """What a run remembers. The folder may come from somebody else, so its values are checked as given ones are."""
    path = root / "runs" / name / "run.json"
    stored = read_json(path) if path.is_file() else {}
    for variable, value in stored.items():
        if variable not in REMEMBERED or not isinstance(value, str) or not variables.fits(variable, value):
            raise UserError(
                f"{path.relative_to(root)}: {variable} {value!r} is nothing that a run remembers; delete the file and "
                f"name the values of the run again ({', '.join(REMEMBERED)})"
            )
    return stored


def _config_named(root: Path, name: str | None) -> str:
    named = f"configs/{name}.json"
    if name and (root / named).is_file() and "artifact_pattern" in read_json(root / named):
        return named
    return "configs/tiny.json"


def check_config(root: Path, path: str) -> dict:
    """The config of a run; UserError when it is none, or when a name in it could not be a file's."""
    config = read_json(root / path, object)
    try:
        names = [config["name"], *config["eval"]["suites"], *config["quants"], *config["stock"]]
        policies = config["artifact_pattern"].replace("{policy}", "x")
        model, _ = config["model"], config["base_model"]
        objects = [config[key] for key in ("gguf", "license", "imatrix", "kld")] + [config["eval"]["suites"]]
        if not all(isinstance(part, dict) for part in objects) or not isinstance(config["license"]["id"], str):
            raise TypeError("one of gguf, license, imatrix, kld and eval.suites")
        if not all(isinstance(config[key], list) for key in ("quants", "stock")):
            raise TypeError("quants or stock")
    except (KeyError, TypeError, AttributeError) as error:
        lacking = repr(error.key) if isinstance(error, MissingKey) else error
        raise UserError(
            f"{path} is no config of a run: {lacking} is missing or of another form; name another one with "
            "CONFIG=configs/NAME.json"
        ) from None
    if (by := config.get("policies", POLICIES[0])) not in POLICIES:
        raise UserError(f"{path}: policies is {by!r}; it is one of {', '.join(POLICIES)} (docs/quant-search.md)")
    if not config["eval"]["suites"]:
        raise UserError(f"{path}: eval.suites names no suite, so no quant could be judged")
    for suite in config["eval"]["suites"]:
        if not (root / "evals/suites" / f"{suite}.json").is_file():
            raise UserError(
                f"{path}: eval.suites names {suite}, and there is no evals/suites/{suite}.json; put it there, or "
                "ask one that lies elsewhere with `make eval SUITE=path`"
            )
    forms.check(config, FORM, path)
    for name in (*names, policies):
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise UserError(f"{path}: {name!r} is no plain file name: letters, digits, dots, dashes, underscores")
    if "{policy}" not in config["artifact_pattern"]:
        raise UserError(f"{path}: artifact_pattern must hold {{policy}}, the place of the quant's name")
    if model is not None and not (isinstance(model, str) and PATH.fullmatch(model)):
        raise UserError(f"{path}: model {model!r} has a character that cannot go through make; rename the folder")
    return config


def parts(run: Run, contents: Contents) -> dict[str, object]:
    """What each stage takes from config and run: a stage is stale when its part says something else.

    Files that lie anywhere (a model's, traces, rows, training settings) are in it by what they hold.
    """
    config, values = run.config, run.values
    shared = {"MODEL": values["MODEL"]}
    traces = values["TRACES"].split() or [SHIPPED_TRACES]
    return {
        "model": {**shared, "files": files(contents, values["MODEL"], MODEL_FILES)},
        "tokenizer": {**shared, "files": files(contents, values["MODEL"], TOKENIZER_FILES)},
        "rows": {"ROWS": values["ROWS"], "files": files(contents, values["ROWS"])},
        "traces": {
            "TRACES": values["TRACES"],
            **shared,
            "data": config.get("data"),
            "files": {place: files(contents, place, ("**/*",)) for place in traces},
        },
        "convert": {**shared, **{key: config[key] for key in ("name", "gguf", "license", "base_model")}},
        "calibrate": {
            "ROWS": values["ROWS"],
            **shared,
            "kld": config["kld"],
            "imatrix_context": config["imatrix"].get("context_tokens"),
        },
        "imatrix": {**config["imatrix"], "TAKE_IMATRIX": files(contents, values["TAKE_IMATRIX"])},
        "measure": config["kld"],
        "policies": config.get("policies", POLICIES[0]),
        "evaluate": config["eval"],
        "train": {"TRAINING": values["TRAINING"], **shared, "files": files(contents, values["TRAINING"])},
    }


def files(contents: Contents, place: str, names: tuple[str, ...] = ()) -> dict[str, str]:
    """{file: sha256} of a path that somebody named, of a folder those that fit `names`; {} where it is not here."""
    return contents.of(place, names) if place else {}


def write(root: Path, run: Run, looking: bool = False) -> Path:
    """Write what make reads: runs/RUN/settings.mk and runs/RUN/settings/PART.json, only where something changed.

    `looking`: nothing is going to be made, so the parts are left alone and no large file is read.
    """
    folder = root / "runs" / run.name
    if not looking:
        contents = Contents(root)
        contents.stamp()
        for part, value in parts(run, contents).items():
            path = folder / "settings" / f"{part}.json"
            if not path.is_file() or read_json(path, object) != value:
                write_json(path, value)
        contents.save()
    kxl = [name for name in run.config["quants"] if name != "bf16"]
    lines = {
        "RUN": run.name,
        "OWN_RUN": run.config["name"],
        **run.values,
        "ARTIFACT_NAME": run.config["artifact_pattern"].replace("{policy}", "%"),
        "KXL": " ".join(kxl),
        "STOCK": " ".join(run.config["stock"]),
        "POLICIES_ARE": run.config.get("policies", POLICIES[0]),
        "SUITES": " ".join(run.config["eval"]["suites"]),
        "MAIN_SUITE": MAIN if MAIN in run.config["eval"]["suites"] else next(iter(run.config["eval"]["suites"])),
        "OPEN_LICENSE": "yes" if run.config["license"]["id"] == "apache-2.0" else "",
    }
    text = "".join(f"{key} := {value}".rstrip() + "\n" for key, value in lines.items())
    path = folder / "settings.mk"
    if not path.is_file() or path.read_bytes() != text.encode():
        write_text(path, text)
    return path


def remember(root: Path, run: Run, given: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Write run.json; returns what changed, as {variable: (old, new)}. A value nobody has named yet stays open."""
    kept = {k: v for k, v in run.values.items() if k in ("CONFIG", "MODEL") or k in run.stored or given.get(k)}
    if kept != run.stored:
        write_json(root / "runs" / run.name / "run.json", kept)
    return {k: (run.stored[k], v) for k, v in kept.items() if k in run.stored and run.stored[k] != v}
