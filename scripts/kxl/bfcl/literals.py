"""Values that a model writes as Java or JavaScript source, read as the Berkeley leaderboard reads them.

    read("new int[]{1, 2}", "Array", "integer", "java")      # [1, 2]

A text that is no literal of its type stays the text: then it counts as the name of a variable. What is read is what
bfcl-eval 2026.3.23 reads, no more: a list is cut at every comma, also at one inside a string. The wheel's patterns
take hours over some texts; what is longer than LONGEST is not read (accepted values have a tenth of that), and where a
pattern's time grows with more than the square of the text, what it finds is found in another way here.
"""

import re

JAVA = {
    **dict.fromkeys(("byte", "short", "integer", "long"), int),
    **dict.fromkeys(("float", "double"), float),
    **dict.fromkeys(("char", "String", "any"), str),
    **dict.fromkeys(("Array", "ArrayList", "Queue", "Stack"), list),
    **dict.fromkeys(("HashMap", "Hashtable"), dict),
    "boolean": bool,
    "Set": set,
}
JAVASCRIPT = {
    "String": str,
    "any": str,
    "integer": int,
    "Bigint": int,
    "float": float,
    "Boolean": bool,
    "dict": dict,
    "array": list,
}
TYPES = {"java": JAVA, "javascript": JAVASCRIPT}
LISTS = ("Array", "ArrayList", "array")  # their items have a type of their own

LONGEST = 2000  # characters of a list or an object
_INTEGER, _EXPONENT = r"-?\d+", r"-?\d+(\.\d+)?([eE][+-]?\d+)?"
# How a number of each type is written: its form, how much of its end is no part of the number, its Python type.
_NUMBERS = {
    "java": {
        **dict.fromkeys(("byte", "short", "integer"), (_INTEGER, 0, int)),
        "long": (_INTEGER + "[lL]", 1, int),
        "float": (_EXPONENT + "[fF]", 1, float),
        "double": (_EXPONENT, 0, float),
    },
    "javascript": {
        "integer": (_INTEGER, 0, int),
        "Bigint": (_INTEGER + "n", 1, int),
        "float": (r"-?\d+(\.\d+)?", 0, float),
    },
}


def read(text: str, kind: str, item: str | None, language: str):
    """The value of a literal of type `kind`, whose items have the type `item` (lists alone)."""
    if kind in _NUMBERS[language]:
        form, rest, number = _NUMBERS[language][kind]
        # `$` lets one line break pass, as the wheel's does.
        return number(text[: len(text.rstrip("\n")) - rest]) if re.match(form + "$", text) else text
    if kind in ("boolean", "Boolean"):
        return text == "true" if text in ("true", "false") else text
    if TYPES[language][kind] in (list, dict) and len(text) > LONGEST:
        return text
    if language == "java":
        return {"Array": _java_array, "ArrayList": _java_list}[kind](text, item) if kind in LISTS else _java(text, kind)
    if kind == "String":
        return text[1:-1] if text[:1] in ("'", '"') and text.endswith(text[0]) else text
    if kind == "array":
        return _script_array(text.strip(), item)
    return _script_dict(text.strip()) if kind == "dict" else text


def _java(text: str, kind: str):
    return _java_map(text) if kind == "HashMap" else text


def _java_array(text: str, item: str | None):
    found = re.search(r"new\s+\w+\[\]\s*\{(.*?)\}", text)
    if not found:
        return text
    parts = [part.strip() for part in found[1].split(",") if part.strip()]
    return [read(part, item, None, "java") if item else _any_java(part) for part in parts]


def _java_list(text: str, item: str | None):
    def one(part: str):
        part = part.strip()
        if item in ("char", "String"):
            return part[1:-1]
        return read(part, item, None, "java") if item else _any_java(part)

    if found := re.search(r"new\s+ArrayList<\w*>\(Arrays\.asList\((.+?)\)\)", text):
        return [one(part) for part in found[1].split(",")]
    if found := re.search(r"new\s+ArrayList<\w*>\(\)\s*\{\{(?:\s*+(.+?)\}\}|\s+\}\})", text, re.DOTALL):
        return [one(part) for part in re.findall(r"add\((.+?)\)", found[1] or "")]
    return [] if re.search(r"new\s+ArrayList<\w*>\(\)", text) else text


def _java_map(text: str):
    closed = text[: text.rfind("}") + 1]
    if found := re.search(r"new\s+HashMap<.*?>\s*\(\)\s*\{(.*?)\}", closed, re.DOTALL):
        return {key: _any_java(value.strip()) for key, value in re.findall(r'put\("(.*?)",\s*(.*?)\)', found[1])}
    return {} if re.search(r"new\s+HashMap<.*?>\s*\(\)", text) else text


def _any_java(text: str):
    if text in ("true", "false"):
        return text == "true"
    if text.startswith('"') and text.endswith('"'):
        return text[1:-1]
    for kind in ("long", "float"):
        if (value := read(text, kind, None, "java")) != text:
            return value
    return _number(text)


def _number(text: str):
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            pass
    return text


def _script_array(text: str, item: str | None):
    try:
        if rows := _rows(text):
            inner = [row.strip() for row in re.findall(r"\[(.*?)\]", rows)]
            inner[:1] = [row.removeprefix("[") for row in inner[:1]]
            return [[_any_script(part) for part in row.split(",")] for row in inner]
        if not (found := re.match(r"\[(.*?)\]|\bnew\s+Array\((.*?)\)", text)):
            return text
        body = (found[1] if found[1] is not None else found[2] or "").strip()
        parts = [part.strip() for part in body.split(",")] if body else []
        return [read(part, item, None, "javascript") if item else _any_script(part) for part in parts]
    except (KeyError, ValueError, TypeError):
        return text


def _rows(text: str) -> str:
    """What `HEAD [.*?]\\s*(,\\s*[.*?]\\s*)* END` matches, for `[` and `]` or `new Array(` and `)`; "" for nothing.

    A row's end is any "]" from which the rest comes to END. So each is looked at once, from the last to the first.
    """
    if not (head := re.match(r"(?:(\[)|new\s+Array\()\s*\[", text)):
        return ""
    follows = re.compile(r"\]\s*(?:(,\s*\[)|\%s)" % ("]" if head[1] else ")"))
    after, end = None, ""  # the nearest row's end behind here, and all up to the END that it comes to
    for place in range(len(text) - 1, head.end() - 1, -1):
        if text[place] == "]" and (found := follows.match(text, place)):
            if not found[1]:
                after, end = place, text[: found.end()]
            elif after is not None and "\n" not in text[found.end() : after]:
                after = place
    return end if after is not None and "\n" not in text[head.end() : after] else ""


def _script_dict(text: str):
    if text == "{}":
        return {}
    if not (found := re.match(r"\{(.*?)\}", text)):
        return text
    made = {}
    for key, value in re.findall(r"([^:]+):\s*(.*?)(?:,\s*(?=[^,]+:)|$)", found[1]):
        value = value.strip()
        if value.startswith("[") and value.endswith("]"):
            made[key.strip().strip("'\"")] = _script_array(value, None)
        elif value.startswith("{") and value.endswith("}"):
            made[key.strip().strip("'\"")] = _script_dict(value)
        else:
            made[key.strip().strip("'\"")] = _any_script(value.strip("'\""))
    return made


def _any_script(text: str):
    text = text.strip()
    if text in ("true", "false"):
        return text == "true"
    if text[:1] in ("'", '"') and text.endswith(text[0]):
        return text[1:-1]
    return _number(text)
