"""What README, docs and model cards say in numbers, and whether a report in the tree still says it.

docs/claims.json has an entry for each sentence with a number: {"file", "text", and one of
    "report" and "values"  a JSON file of the tree (or several that agree; or {"a": file, "b": file}), and an expression
                           for each number of the text, such as "results.passed" or "a.results.seconds / 60"
    "source" and "quote"   another file of the tree, and words of it that hold the same numbers in the same order
}. What counts as a number prose.py says; it must be its value, rounded to the digits that are written. A report counts
while what it was made of is in the tree (provenance.py). Whether its code has changed since is another question: that
is told, and refuses nothing.
"""

import ast
import json
import re
from pathlib import Path

from kxl.base.cli import UserError
from kxl.base.files import ROOT, read_json
from kxl.base.statistics import wilson
from kxl.release.prose import Number, located, numbers, plain, quoted_numbers
from kxl.release.provenance import Tree

CLAIMS = "docs/claims.json"
PAGES = ("*.md", "docs/*.md", "configs/templates/model_card.md.jinja")


def page_text(path: Path) -> str:
    """The prose of a Markdown page or template; of a config, what it says for the model card."""
    if path.suffix == ".json":
        card = read_json(path)["card"]
        return plain("\n\n".join([card["summary"], *card["limits"]]))
    return plain(path.read_text(encoding="utf-8"))


def pages(root: Path) -> list[str]:
    """What is held to the claims: README, docs, the card's template, and the configs of the committed cards."""
    found = {str(path.relative_to(root)) for pattern in PAGES for path in root.glob(pattern)}
    cards = {path.parent.name for path in root.glob("reports/*/MODEL_CARD.md")}
    return sorted(found | {f"configs/{name}.json" for name in cards})


def load(root: Path = ROOT) -> list[dict]:
    """The entries of docs/claims.json; UserError for one of another form."""
    entries = read_json(root / CLAIMS, list)
    for place, entry in enumerate(entries, 1):
        keys = set(entry) if isinstance(entry, dict) else set()
        if keys not in ({"file", "text", "report", "values"}, {"file", "text", "source", "quote"}):
            raise UserError(
                f"{CLAIMS}: entry {place} needs file and text, and report and values or source and quote; "
                f"it has {', '.join(sorted(keys)) or 'no keys'}"
            )
    return entries


def problems(tree: Tree, page: str, entries: list[dict]) -> list[str]:
    """What is wrong with the numbers of one page, each with what to do; empty when every one is backed."""
    prose, found = page_text(tree.root / page), []
    covered = set()
    for entry in (entry for entry in entries if entry["file"] == page):
        text = plain(entry["text"])
        starts = [match.start() for match in re.finditer(re.escape(text), prose)]
        if not starts:
            found.append(f"{page}: says {text!r} no more; take its entry out of {CLAIMS}")
        for start in starts:
            covered |= set(range(start, start + len(text)))
        found += [f"{page}: {text!r}: {fault}" for fault in entry_faults(tree, entry, text)]
    for number in numbers(prose):
        if not covered.issuperset(range(number.start, number.end)):
            around = prose[max(0, number.start - 50) : number.end + 30]
            found.append(
                f"{page}: {number.written} in {around!r} has no entry in {CLAIMS}: name its report, or drop it"
            )
    return found


def entry_faults(tree: Tree, entry: dict, text: str) -> list[str]:
    """Why an entry does not back its text."""
    said = numbers(text)
    if not said:
        return ["it holds no number"]
    try:
        if "quote" in entry:
            return _quote_faults(tree, entry, said)
        if len(said) != len(entry["values"]):
            return [
                f"it holds {len(said)} numbers ({', '.join(n.written for n in said)}) for {len(entry['values'])} values"
            ]
        faults = []
        for names in _cited(tree, entry["report"]):
            for number, expression in zip(said, entry["values"], strict=True):
                value = evaluate(expression, names)
                if not number.is_rounded(value):
                    faults.append(f"{number.written}, but {expression} is {value:.10g} in {entry['report']}")
        return faults + [f"{name} {fault}" for name in cited(entry) for fault in tree.faults(name)]
    except UserError as error:
        return [str(error)]


def _quote_faults(tree: Tree, entry: dict, said: list[Number]) -> list[str]:
    if not (tree.root / entry["source"]).is_file():
        return [f"{entry['source']} is gone"]
    if " ".join(entry["quote"].split()) not in " ".join(tree.text(entry["source"]).split()):
        return [f"{entry['source']} says {entry['quote']!r} no more"]
    if [number.value for number in said] != quoted_numbers(entry["quote"]):
        return [f"{entry['source']} says {entry['quote']!r}, which holds other numbers"]
    return []


def cited(entry: dict) -> list[str]:
    """The JSON files that an entry names."""
    report = entry.get("report", [])
    return [report] if isinstance(report, str) else list(report.values()) if isinstance(report, dict) else list(report)


def _cited(tree: Tree, report) -> list[dict]:
    """The names that an entry's expressions may use, once for each file that must agree."""
    if isinstance(report, dict):
        return [{name: tree.json(path) for name, path in report.items()}]
    files = [tree.json(path) for path in ([report] if isinstance(report, str) else report)]
    return [file if isinstance(file, dict) else {"all": file} for file in files]


FUNCTIONS = {
    "len": len,
    "sum": sum,
    "min": min,
    "max": max,
    "low": lambda passed, cases: wilson(passed, cases)[0],
    "high": lambda passed, cases: wilson(passed, cases)[1],
}
OPERATORS = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.Pow: lambda a, b: a**b,
}


def updated(tree: Tree, entry: dict, page: str) -> tuple[dict, str]:
    """(entry, text of its page) with the numbers that its report holds today, in as many digits as before.

    UserError where the report holds none; several files that disagree stay as they are.
    """
    if "values" not in entry:
        return entry, page
    names = _cited(tree, entry["report"])
    values = [evaluate(expression, names[0]) for expression in entry["values"]]
    if any(evaluate(e, other) != value for other in names for e, value in zip(entry["values"], values, strict=True)):
        return entry, page
    said = plain(entry["text"])
    prose, places = located(page)
    starts = [places[match.start()] for match in re.finditer(re.escape(said), prose)]
    for start in reversed(starts):
        page = page[:start] + _with_numbers(page[start:], values)
    return {**entry, "text": _with_numbers(entry["text"], values)}, page


def _with_numbers(text: str, values: list[float]) -> str:
    """`text` with its first numbers replaced by `values` where they are not rounded values of them already."""
    prose, places = located(text)
    for number, value in reversed(list(zip(numbers(prose), values))):
        if not number.is_rounded(value):
            start, end = places[number.start], places[number.end - 1] + 1
            text = text[:start] + number.rewritten(value) + text[end:]
    return text


def evaluate(expression: str, names: dict) -> float:
    """The worth of an expression: keys joined by dots, ["other keys"], [places], + - * / **, and FUNCTIONS.

    `[:]` takes one key of every item of a list: sum(results.details[:].passed). UserError where it leads nowhere.
    """

    def worth(node):
        match node:
            case ast.Constant(value=int() | float() | str() as value):
                return value
            case ast.Name(id=name) if name in names:
                return names[name]
            case ast.Attribute(value=inner, attr=name):
                return member(worth(inner), name)
            case ast.Subscript(value=inner, slice=ast.Slice(lower=None, upper=None, step=None)):
                return Each(list(worth(inner)))
            case ast.Subscript(value=inner, slice=place):
                return member(worth(inner), worth(place))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
                return OPERATORS[type(op)](worth(left), worth(right))
            case ast.UnaryOp(op=ast.USub(), operand=inner):
                return -worth(inner)
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in FUNCTIONS:
                return FUNCTIONS[name](*(worth(argument) for argument in arguments))
        raise UserError(f"{expression!r} is no expression of a claim: {ast.unparse(node)!r}")

    def member(value, name):
        if isinstance(value, Each):
            return Each([member(item, name) for item in value])
        return value[name]

    try:
        value = worth(ast.parse(expression, mode="eval").body)
        return float(value)
    except KeyError as error:  # a MissingKey of a report among them
        raise UserError(f"{expression!r} leads to no number: KeyError: {error}") from None
    except (IndexError, TypeError, ValueError, ZeroDivisionError, SyntaxError) as error:
        raise UserError(f"{expression!r} leads to no number: {type(error).__name__}: {error}") from None


class Each(list):
    """Items of a list of which one key is wanted."""


def told_by_older_code(tree: Tree, entries: list[dict]) -> dict[str, list[str]]:
    """{script: cited reports that are not of its code of today}."""
    found = {}
    for path in sorted({path for entry in entries for path in cited(entry)} & tree.reports.keys()):
        if script := tree.older_code(path):
            found.setdefault(script, []).append(path)
    return found


def dumps(entries: list[dict]) -> str:
    """docs/claims.json as it is written: an entry a line."""
    return "[\n" + ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries) + "\n]\n"
