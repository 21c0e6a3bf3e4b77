"""What make would make again, and why: read from a dry run (make --dry-run, with --trace where make knows it)."""

import re

TRACED = re.compile(r"^\S+?:\d+: (?:update target '(.+)' due to: (.+)|target '(.+)' does not exist)$")
WRITES = re.compile(r"--(?:out|report)[ =](\S+)")
PARTS = {  # of runs/RUN/settings: what a person has changed where it is new
    "model": "MODEL or a file of it",
    "tokenizer": "MODEL's tokenizer or chat template",
    "rows": "ROWS or what it holds",
    "traces": "TRACES, what they hold, or the config's data",
    "train": "TRAINING or what it holds",
    "evaluate": "the config's eval",
    "imatrix": "the config's imatrix",
    "measure": "the config's kld",
    "calibrate": "ROWS, MODEL or the config's kld",
    "convert": "MODEL or the config's name, gguf or license",
}


def read(output: str) -> dict[str, str]:
    """{file: why} of everything that a dry run would write; "" where it does not say why."""
    found, why = {}, ""
    for line in output.replace("\\\n", " ").splitlines():
        if traced := TRACED.match(line):
            name, causes, absent = traced.groups()
            why = "" if absent else words(causes.split(), found)
            found.setdefault(name or absent, why)
        else:
            for name in WRITES.findall(line):
                found.setdefault(name, why)
    return found


def words(causes: list[str], again: dict[str, str]) -> str:
    """The first cause as a person would say it; one in `again` is made again itself."""
    for cause in causes:
        if part := re.fullmatch(r"runs/[^/]+/settings/(\w+)\.json", cause):
            return f"{PARTS.get(part[1], part[1])} changed"
        if cause.startswith("runs/content/"):
            return f"{cause.removeprefix('runs/content/')} changed"
        if not cause.startswith("runs/code/"):
            return f"{cause} is {'made again' if cause in again else 'newer'}"
    return f"the code of {causes[0].removeprefix('runs/code/')}.py changed" if causes else ""
