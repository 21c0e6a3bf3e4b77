"""The cases of the Berkeley Function Calling leaderboard, v4: its categories, and which cases a run takes.

The cases file (bfcl_convert.py) has what the wheel's own code makes of its data, a case a line; its fields stand in
wheel_cases.py.
"""

import hashlib
from pathlib import Path

from kxl.base import forms, jsonl
from kxl.base.cli import UserError
from kxl.base.files import ROOT, shown
from kxl.eval.requests import requests_of

PROGRAM = ROOT / "scripts" / "kxl/bfcl/wheel_cases.py"

# Categories by group, in the leaderboard's order. Java and JavaScript write their values as source code.
GROUPS = {
    "non_live": ("simple_python", "simple_java", "simple_javascript", "multiple", "parallel", "parallel_multiple"),
    "live": ("live_simple", "live_multiple", "live_parallel", "live_parallel_multiple"),
    "all_irrelevance": ("irrelevance", "live_irrelevance"),
    "relevance": ("live_relevance",),
    "multi_turn": ("multi_turn_base", "multi_turn_miss_func", "multi_turn_miss_param", "multi_turn_long_context"),
    "memory": ("memory_kv", "memory_rec_sum"),
}
ALL = tuple(name for names in GROUPS.values() for name in names)
LEFT_OUT = {
    "memory_vector": "needs an embedding model from a hub",
    "web_search_base": "needs the web and a paid key",
    "web_search_no_snippet": "needs the web and a paid key",
    "format_sensitivity": "asks for calls as text, which no tool-calling server sends; the leaderboard scores it apart",
}
TOOL = {"function": {"name": str, "description?": str, "parameters?": {}}}
# A line of the cases file (wheel_cases.py says what each field is), as far as it is the same in all categories.
FORM = {
    "id": str,
    "category": str,
    "turns": [[{"role": str, "content?": (str, None)}]],
    "tools": [TOOL],
    "later?": {"*": [TOOL]},
    "functions?": [{"name": str, "parameters": {}}],
    "truth": ([(dict, [str], str)], None),
    "classes?": [str],
    "config?": {},
    "scenario?": str,
    "after?": [str],
}


def language(category: str) -> str:
    """What a category's values are written in."""
    return category.removeprefix("simple_") if category in ("simple_java", "simple_javascript") else "python"


def executable(category: str) -> bool:
    """Whether a category's calls are carried out."""
    return category in (*GROUPS["multi_turn"], *GROUPS["memory"])


def named(words: list[str]) -> list[str]:
    """The categories of a list of categories and groups, in the leaderboard's order. UserError for any other word."""
    found = set()
    for word in words:
        if word in LEFT_OUT:
            raise UserError(f"{word} does not run offline: it {LEFT_OUT[word]}")
        if word not in (*GROUPS, *ALL):
            raise UserError(f"{word!r} is no category; there are {', '.join([*GROUPS, *ALL])}")
        found |= set(GROUPS.get(word, ())) | ({word} & set(ALL))
    return [name for name in ALL if name in found]


def load(path: Path, categories: list[str]) -> list[dict]:
    """The cases of some categories, in the file's order."""
    found = []
    for where, case in jsonl.objects(path, "make bfcl-cases"):
        forms.check(case, FORM, where, "delete the file and run make bfcl-cases")
        if case["category"] in categories:
            found.append(case)
    if lacking := [name for name in categories if not any(case["category"] == name for case in found)]:
        raise UserError(f"{shown(path)}: holds no case of {lacking[0]}; delete it and run make bfcl-cases")
    return found


def words(case: dict) -> tuple:
    """The words of a case's user, as two requests are compared."""
    return tuple(text for turn in case["turns"] for text in requests_of(turn))


def without_repeats(found: list[dict], trained: list[dict]) -> list[dict]:
    """The cases whose user says something else, word for word, than that of every case in `trained`."""
    said = {words(case) for case in trained}
    return [case for case in found if words(case) not in said]


def scored(case: dict) -> bool:
    """Whether a case counts; the conversations before a memory question only fill the memory."""
    return case["category"] not in GROUPS["memory"] or case["truth"] is not None


def ranks(found: list[dict], seed: int) -> dict[str, int]:
    """{id: its place in the draw of its category's scored cases, from 0}."""
    ranked = {}
    for category in {case["category"] for case in found}:
        pool = [case["id"] for case in found if case["category"] == category and scored(case)]
        pool.sort(key=lambda identity: hashlib.sha256(f"{seed} {identity}".encode()).digest())
        ranked |= {identity: place for place, identity in enumerate(pool)}
    return ranked


def subset(found: list[dict], most: int | None, seed: int) -> list[dict]:
    """At most `most` scored cases of each category, drawn by seed, and the conversations that they need before them.

    The draw of a smaller subset lies within that of a larger one. The order stays the file's.
    """
    if most is None:
        return found
    taken = {identity for identity, place in ranks(found, seed).items() if place < most}
    needed = {before for case in found if case["id"] in taken for before in case.get("after", [])}
    return [case for case in found if case["id"] in taken | needed]
