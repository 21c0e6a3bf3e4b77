"""Whether the arguments of one call are accepted, as the Berkeley Function Calling leaderboard's AST checker says.

    why = problem(function, accepted, arguments, "python")      # None where they are accepted

`accepted` has a list of values for each argument; "" among them allows it to be absent. Texts are compared without
case, spaces and the characters , . / - _ * ^, quotes of either kind alike; what is nested deeper than one list or
object is compared as it is. A value of another type than the description's counts as the name of a variable where the
accepted values have that type, and is compared as it is. After ast_checker.py of bfcl-eval 2026.3.23; where that
crashes, the arguments are not accepted.
"""

import json
import re

from kxl.bfcl import literals

PYTHON = {
    "string": str,
    "any": str,
    "integer": int,
    "float": float,
    "boolean": bool,
    "array": list,
    "tuple": list,
    "dict": dict,
}


def problem(function: dict, accepted: dict, arguments: dict, language: str) -> str | None:
    """Why the call is not accepted, or None. `function` is the wheel's own description of it."""
    described = function["parameters"]["properties"]
    if missing := [name for name in function["parameters"]["required"] if name not in arguments]:
        return f"{missing[0]} is missing"
    for name, value in arguments.items():
        if name not in described or name not in accepted:
            return f"{name} was not asked for"
        if not _accepts(described[name], accepted[name], value, language):
            return f"{name} is {_shown(value)}, expected {' or '.join(map(_shown, accepted[name]))}"
    absent = [name for name, values in accepted.items() if name not in arguments and "" not in values]
    return f"{absent[0]} is missing" if absent else None


def _shown(value) -> str:
    return json.dumps(value, ensure_ascii=False)


def _accepts(described: dict, accepted: list, value, language: str) -> bool:
    """Whether one argument is accepted; `described` is its schema in the words of `language`."""
    kind, item = described["type"], None
    if language == "python":
        expected = PYTHON[kind]
        inner = PYTHON[described["items"]["type"]] if expected is list else None
        if kind == "float" and type(value) is int:
            value = float(value)
    else:
        types = literals.TYPES[language]
        if not isinstance(value, str):
            return False
        expected, item = types[kind], described["items"]["type"] if kind in literals.LISTS else None
        inner = types[item] if item else None
        value = literals.read(value, kind, item, language)
    usual = _usual_type(accepted)
    if type(value) is not expected:
        return type(value) is usual and value in accepted
    if inner and not any(not isinstance(one, list) or all(_is(part, inner, one) for part in value) for one in accepted):
        return False
    if usual not in (None, expected):  # the name of a variable is accepted, and this is a value
        return value in accepted
    if expected is dict:
        return _object(value, accepted)
    if inner is dict:
        return any(
            len(value) == len(one) and all(_object(part, [want]) for part, want in zip(value, one)) for one in accepted
        )
    if expected is str:
        return plain(value) in [plain(one) for one in accepted if isinstance(one, str)]
    if expected is list:
        return [_plain(part) for part in value] in [[_plain(part) for part in one] for one in accepted]
    return value in accepted


def _is(value, kind: type, accepted: list) -> bool:
    """Whether an item of a list has its type, or that of the items that are accepted."""
    return type(value) in (kind, _usual_type(accepted))


def _usual_type(accepted: list) -> type | None:
    """The type of the accepted values; None where all that is accepted is absence."""
    return next((type(value) for value in accepted if value != ""), None)


def _object(value, accepted: list) -> bool:
    """Whether an object is one of `accepted`, each of which has a list of values for each member."""
    return isinstance(value, dict) and any(
        all(key in one and _plain(item) in [_plain(want) for want in one[key]] for key, item in value.items())
        and all(key in value or "" in wanted for key, wanted in one.items())
        for one in accepted
        if one != ""
    )


def _plain(value):
    return plain(value) if isinstance(value, str) else value


def plain(text: str) -> str:
    """A text as it is compared."""
    return re.sub(r"[ ,./\-_*^]", "", text).lower().replace("'", '"')
