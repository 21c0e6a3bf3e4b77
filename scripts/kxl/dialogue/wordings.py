"""The hand-written wordings of datasets/tiny/wordings: read, checked, and parted into training and validation.

A file is lines of one to three columns (a tab between them); `\\n` in a line marks a line break, `{name}` a slot that
slots.py fills. One in HELDOUT_ONE_IN of each file's forms, by the hash of its request, is for validation alone.

    forms("read_file_plain", heldout=False)      # [Form(kind="", texts=("it's all in {path}, show me",))]
"""

import hashlib
import re
from functools import cache
from typing import NamedTuple

from kxl.base.cli import UserError
from kxl.base.files import ROOT, read_json, shown
from kxl.eval.contamination import Prompts
from kxl.eval.requests import text_of

FOLDER = ROOT / "datasets/tiny/wordings"
HELDOUT_ONE_IN = 10
SLOT = re.compile(r"\{(\w+)\}")
KINDED, PLAIN = True, False
# File: (whether its first column is a kind, other columns, slots that may stand in it).
FILES = {
    "about": (KINDED, 3, "command program path file url pattern"),
    "after_error": (KINDED, 2, "path pattern command url code"),
    "around": (KINDED, 1, "a b c path tool"),
    "asking": (KINDED, 3, "path directory word"),
    "browser_navigate": (PLAIN, 1, "url"),
    "chat": (PLAIN, 3, ""),
    "clauses": (KINDED, 1, "command path pattern directory glob content url old new"),
    "followups": (KINDED, 1, "command path pattern directory glob content url old new"),
    "joints": (KINDED, 1, "a b c"),
    "missing_tool": (KINDED, 2, ""),
    "pairs": (KINDED, 1, "a b c x y z"),
    "patch": (PLAIN, 1, "path old new"),
    "process_input": (KINDED, 1, "session data"),
    "process_list": (PLAIN, 1, ""),
    "process_one": (KINDED, 1, "session"),
    "read_file_part": (KINDED, 1, "path limit offset last"),
    "read_file_plain": (PLAIN, 1, "path"),
    "refusing": (KINDED, 3, "path command url"),
    "results": (KINDED, 1, "text command code path pattern count old new url title session state"),
    "search_content": (KINDED, 1, "pattern directory folder path file_glob ending context"),
    "search_files": (KINDED, 1, "glob directory folder ending file"),
    "synonyms": (PLAIN, 1, ""),
    "terminal_command": (PLAIN, 1, "command"),
    "terminal_process_start": (PLAIN, 1, "command"),
    "terminal_purpose": (
        KINDED,
        1,
        "path other_path directory word number branch package port host url script_py script_sh",
    ),
    "thoughts": (KINDED, 1, "command path pattern directory glob content_start url old new session"),
    "vague": (KINDED, 1, ""),
    "vague_answers": (KINDED, 2, ""),
    "write_file": (PLAIN, 1, "path content"),
}
GROUP = re.compile(r"# group: (\w+) / (.+)")


class Form(NamedTuple):
    """kind: the first column where a file has kinds, else "". texts: the other columns; the first is the request,
    or the thought in a file of thoughts. fits: where a thought is true ("any"). where: file and line."""

    kind: str
    texts: tuple[str, ...]
    fits: str
    where: str


@cache
def load(name: str) -> tuple[Form, ...]:
    """All forms of a file. UserError names a line with wrong columns or an unknown slot, and one that stands twice."""
    kinded, columns, allowed = FILES[name]
    path, forms, seen, fits = FOLDER / f"{name}.txt", [], {}, "any"
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        where = f"{shown(path)} line {number}"
        if line.startswith("#"):
            fits = match[2] if (match := GROUP.match(line)) else fits
            continue
        cells = line.split("\t")
        if len(cells) != columns + kinded or not all(cell.strip() for cell in cells):
            raise UserError(f"{where}: has {len(cells)} columns, needs {columns + kinded}, none of them empty")
        if unknown := set(SLOT.findall(line)) - set(allowed.split()):
            raise UserError(
                f"{where}: {', '.join(sorted(unknown))} is no slot of this file; it has {allowed or 'none'}"
            )
        if line in seen:
            raise UserError(f"{where}: stands in line {seen[line]} already; remove one of the two")
        seen[line] = number
        cells = [cell.replace("\\n", "\n") for cell in cells]
        forms.append(Form(cells[0] if kinded else "", tuple(cells[kinded:]), fits, where))
    return tuple(forms)


@cache
def forms(name: str, heldout: bool, kind: str | None = None) -> tuple[Form, ...]:
    """A file's forms (of one kind) for training, or those held out; never one that repeats an eval prompt."""
    found = [
        form
        for form in load(name)
        if is_heldout(name, form) == heldout and kind in (None, form.kind) and not near_eval(form)
    ]
    if not found:
        raise UserError(f"{shown(FOLDER / name)}.txt has no {'held-out ' if heldout else ''}form of kind {kind}")
    return tuple(found)


@cache
def synonyms() -> dict[str, tuple[str, ...]]:
    """The other words of each word's line in synonyms.txt."""
    lines = [form.texts[0].split() for form in load("synonyms")]
    return {word: tuple(other for other in line if other != word) for line in lines for word in line}


@cache
def holds_out(name: str, kind: str | None) -> bool:
    """Whether a file has forms (of one kind) for validation; a kind of few forms may have none."""
    return any(is_heldout(name, form) and kind in (None, form.kind) and not near_eval(form) for form in load(name))


def is_heldout(name: str, form: Form) -> bool:
    """Whether a form is for validation: one in HELDOUT_ONE_IN by the sha256 of its request."""
    return hashlib.sha256(f"{name}\t{form.texts[0]}".encode()).digest()[0] % HELDOUT_ONE_IN == 0


@cache
def near_eval(form: Form) -> bool:
    """Whether the request of a form, its slots unfilled, repeats an eval prompt."""
    return prompts().overlap(SLOT.sub("slot", form.texts[0])) is not None


@cache
def prompts() -> Prompts:
    """What contamination.everything() holds, read without the check by JSON Schema: training needs no such package."""
    found = Prompts([])
    for path in sorted((ROOT / "evals/suites").glob("*.json")):
        for case in read_json(path)["cases"]:
            for message in case.get("messages") or [{"role": "user", "content": case["prompt"]}]:
                if message["role"] == "user":
                    found.add(text_of(message), f"{shown(path)}, case {case['id']}")
    for path in sorted((ROOT / "evals/live").glob("*.json")):
        for task in read_json(path)["tasks"]:
            found.add(task["prompt"], f"{shown(path)}, task {task['id']}")
    return found
