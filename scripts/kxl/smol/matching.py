"""Whether an argument is one of the accepted values, judged by the values alone, without the tool's schema.

`accepted` lists the values that count. Strings are compared without case, spaces and the characters , . / - _ * ^,
quotes of either kind alike. In an object each member has its own list of accepted values, and "" among them
allows it to be absent. Numbers are compared as numbers, true is not 1. The Berkeley leaderboard's checker, which asks
for the types of the schema as well, is kxl/bfcl/values.py.
"""

import re


def matches(value, accepted: list) -> bool:
    """Is `value` one of `accepted`?"""
    return any(_same(value, one) for one in accepted)


def _same(value, one) -> bool:
    if isinstance(value, bool) or isinstance(one, bool):
        return value is one
    if isinstance(value, str) and isinstance(one, str):
        return _plain(value) == _plain(one)
    if isinstance(value, list) and isinstance(one, list):
        return len(value) == len(one) and all(map(_same, value, one))
    if isinstance(value, dict) and isinstance(one, dict):
        return all(key in one and matches(item, _listed(one[key])) for key, item in value.items()) and all(
            key in value or "" in _listed(allowed) for key, allowed in one.items()
        )
    return value == one


def _listed(accepted) -> list:
    return accepted if isinstance(accepted, list) else [accepted]


def _plain(text: str) -> str:
    return re.sub(r"[ ,./\-_*^]", "", text).lower().replace("'", '"')
