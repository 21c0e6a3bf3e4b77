"""The verdict on an answer to a case of the Berkeley leaderboard: our own judge, which agrees with the wheel's.

An answer is what the wheel keeps of one, for each step of each turn: [{NAME: arguments as JSON text}, ...] where the
model called tools, else the text that it wrote. A single-turn answer is one step. Cases with executable APIs are judged
by what their calls did, which needs the APIs: they run in a box (place.py, apis.py).
"""

import json
import re

from kxl.bfcl import cases, values

DEPTH = 64  # of an argument; deeper ones no longer fit through every program on the way to a verdict


def single_turn(case: dict, answer) -> str | None:
    """Why an answer to a single-turn case fails, or None where it passes."""
    calls, unread = decoded(answer)
    if case["truth"] is None:
        # The leaderboard takes what cannot be read as calls for no call.
        called = bool(calls) and well_formed(calls) and calls != [{}]
        if "irrelevance" in case["category"]:
            return f"called {', '.join(next(iter(call)) for call in calls)}, expected no call" if called else None
        return None if called else f"no call, expected one{unread and f' ({unread})'}"
    if unread:
        return unread
    if not well_formed(calls):
        return "arguments that are no object"
    if len(calls) != len(case["truth"]):
        return f"{len(calls)} calls, expected {len(case['truth'])}"
    if "parallel" in case["category"]:
        return _in_any_order(case, calls)
    function = case["functions"][0]
    if "multiple" in case["category"]:
        function = _function(case, next(iter(case["truth"][0])))
    return _one(function, case["truth"][0], calls[0], cases.language(case["category"]))


def decoded(answer) -> tuple[list, str]:
    """([{NAME: arguments}, ...], "") or ([], why it cannot be read as calls)."""
    if isinstance(answer, str) and not answer:
        return [], ""  # nothing at all reads as a list of no calls
    if not isinstance(answer, list):
        return [], "text, no call"
    calls = []
    for call in answer:
        ((name, arguments),) = call.items()
        try:
            calls.append({name: json.loads(arguments)})
        except (ValueError, RecursionError):
            return [], f"arguments of {name} that are no JSON: {arguments[:200]}"
        if _deep(calls[-1]):
            return [], f"arguments of {name} that are nested more than {DEPTH} deep"
    return calls, ""


def _deep(value) -> bool:
    """Whether the arguments in {NAME: arguments} are nested more than DEPTH deep."""
    level = [value]
    for _ in range(DEPTH + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, list | dict)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return any(isinstance(inner, list | dict) for inner in level)


def well_formed(calls: list) -> bool:
    """Whether each call's arguments are an object."""
    return all(isinstance(arguments, dict) for call in calls for arguments in call.values())


def _in_any_order(case: dict, calls: list) -> str | None:
    """Each accepted call takes the first call of the answer that fits it and that no other took."""
    left = list(calls)
    for want in case["truth"]:
        function = _function(case, next(iter(want)))
        why = [_one(function, want, call, cases.language(case["category"])) for call in left]
        if None not in why:
            return f"no call fits {next(iter(want))}: {'; '.join(filter(None, why))}"
        del left[why.index(None)]
    return None


def _function(case: dict, name: str) -> dict:
    return next(function for function in case["functions"] if function["name"] == name)


def _one(function: dict, want: dict, call: dict, language: str) -> str | None:
    """Why one call is not the wanted one, or None."""
    ((name, arguments),) = call.items()
    if name != (expected := function["name"].replace(".", "_")):
        return f"called {name}, expected {expected}"
    ((_, accepted),) = want.items()
    try:
        why = values.problem(function, accepted, arguments, language)
    # A description without types, as the wheel has some; a number with too many digits.
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        why = f"cannot be compared ({type(error).__name__}: {error})"
    return why and f"{name}: {why}"


def last_words(steps: list) -> str | None:
    """The last answer of a conversation that is no call, as the wheel looks for it; None where there is none."""
    found = None
    for step in steps:
        if not isinstance(step, list):
            found = step
        elif not step:
            found = step
        elif any(not _is_json(text) for call in step for text in call.values()):
            found = step
    return found


def _is_json(text: str) -> bool:
    try:
        return hasattr(json.loads(text), "items")
    except (ValueError, RecursionError):
        return False


def memory(case: dict, turns: list) -> str | None:
    """Why the answer to a question about what was remembered fails, or None."""
    if len(turns) != 1:
        return "stopped before it answered"
    said = last_words(turns[0])
    if not said:
        return "no words after the calls"
    text = _said(said if isinstance(said, str) else str(said[0]))
    if any(re.search(rf"\b{re.escape(_said(wanted))}\b", text) for wanted in case["truth"]):
        return None
    return f"the words lack {' or '.join(case['truth'])}"


def _said(text: str) -> str:
    return re.sub(r"[,./\-_*^()]", "", text).lower().replace("'", '"')
