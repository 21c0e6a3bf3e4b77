"""Whether a value that came out of a JSON file has the form that is needed, all the way down.

    check({"caps": ["x"]}, {"caps?": [int]}, "configs/mine.json")
    # UserError: configs/mine.json: caps.0 is "x", expected a whole number

A form is a type (str, int, float for any number, bool, dict, list), None, a list of one form, an object of forms, or a
tuple of forms of which one must fit. A list [form, ...] is not empty. A key that ends in ? may be missing; "*" is every
key that the form does not name ("+": there is one at least), and without it those may hold anything.
Numbers are finite and no larger than LARGEST; a text has a UTF-8 form.
"""

import json

from kxl.base.errors import UserError

LARGEST = 10**15  # above it nothing that is counted here makes sense, and some arithmetic fails
WORDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    None: "null",
}


def check(value, form, where: str, again: str = "") -> None:
    """UserError that names `where`, the place in it, what stands there, what is expected and what to do (`again`)."""
    if found := _problem(value, form, ()):
        place, there, wanted = found
        named = f"{'.'.join(map(str, place))} is" if place else "holds"
        raise UserError(f"{where}: {named} {json.dumps(there)[:100]}, expected {wanted}{again and '; ' + again}")


def fits(value, form) -> bool:
    """Whether `value` has the form; for lines of journals, of which a strange one is passed over."""
    return _problem(value, form, ()) is None


def _problem(value, form, place: tuple) -> tuple | None:
    """(place, value there, what is expected) where `value` has not the form; None where it has."""
    if isinstance(form, tuple):
        found = [_problem(value, one, place) for one in form]
        if None in found:
            return None
        deepest = max(found, key=lambda one: len(one[0]))
        return deepest if deepest[0] != place else (place, value, " or ".join(one[2] for one in found))
    kind = type(form) if isinstance(form, (dict, list)) else form
    if not _is(value, kind):
        return place, value, WORDS[kind]
    if not value and (form[1:] if isinstance(form, list) else isinstance(form, dict) and "+" in form):
        return place, value, "one entry or more"
    if isinstance(form, list):
        inside = [(form[0], item, number) for number, item in enumerate(value)]
    elif isinstance(form, dict):
        named = {key.rstrip("?"): one for key, one in form.items()}
        for key in form:
            if key not in ("*", "+") and not key.endswith("?") and key not in value:
                return place, sorted(value), f"the key {key}"
        others = form.get("*", form.get("+", ()))
        inside = [(one, item, key) for key, item in value.items() if (one := named.get(key, others)) != ()]
    else:
        return None
    return next((found for one, item, key in inside if (found := _problem(item, one, (*place, key)))), None)


def _is(value, kind) -> bool:
    if kind is None:
        return value is None
    if kind is float:
        kind = (int, float)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        return False
    if isinstance(value, (int, float)):
        return abs(value) <= LARGEST  # NaN is not, either
    return not isinstance(value, str) or not any("\ud800" <= sign <= "\udfff" for sign in value)
