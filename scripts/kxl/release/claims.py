"""What README, docs and model cards say in numbers, and whether a report in the tree still says it.

docs/claims.json has an entry for each sentence with a number: {"file", "text", and one of
    "report" and "values"  a JSON file of the tree (or several that agree; or {"a": file, "b": file}), and an expression
                           for each number of the text, such as "results.passed" or "a.results.seconds / 60"
    "source" and "quote"   another file of the tree, and words of it that hold the same numbers in the same order
}. A number must be its value, rounded to the digits that are written.

What is no number, by this rule: code in fences; code in backticks, but for a bare number; link targets; the number of a
list item; a date; a version of three parts; a word that begins with a letter or ends in one (Q4KXL, 8B, 8-bit), but for
units glued to a decimal or an x (11.7x). So a unit stands apart from its number, and a name stands in backticks.

A report counts while what it was made of is in the tree (`Tree.faults`). Whether its code has changed since is another
question (`Tree.older_code`): that is told, and refuses nothing.
"""

import ast
import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path

from kxl.base.cli import UserError
from kxl.base.code import Code
from kxl.base.files import ROOT, read_json, sha256
from kxl.base.statistics import wilson

CLAIMS = "docs/claims.json"
PAGES = ("*.md", "docs/*.md", "configs/templates/model_card.md.jinja")
WEIGHTS = (".safetensors", ".gguf")
FENCE = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.MULTILINE | re.DOTALL)
FRONT = re.compile(r"\A---\n.*?^---$", re.MULTILINE | re.DOTALL)
HIDDEN = (
    FRONT,
    FENCE,
    re.compile(r"<!--.*?-->", re.DOTALL),
    re.compile(r"\{%.*?%\}|\{\{.*?\}\}", re.DOTALL),  # what a template fills in
    re.compile(r"`(?![\d.,\s%]*`)[^`\n]+`"),
    re.compile(r"(?<=\])\([^)\s]*\)|<https?:[^>]*>|https?://\S+"),
    re.compile(r"^\s*\d+[.)] ", re.MULTILINE),
    re.compile(r"\b\d{4}-\d\d-\d\d\b"),
    re.compile(r"(?<![\w.])\d+\.\d+\.\d+(?![\w])"),
)
WORD = re.compile(r"\d+(?:\.\d+)?e[+\-]?\d+|[\w.,]+")
NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?(?:e[+\-]?\d+)?(?=x?$|(?<=\.\d)[A-Za-z]+$|(?<=\.\d\d)[A-Za-z]+$)")
QUOTED = re.compile(r"(?<![\w.])\d+(?:[,_]\d{3})*(?:\.\d+)?(?:e[+\-]?\d+)?(?![A-Za-z])")


@dataclass(frozen=True)
class Number:
    """A number of a text: where it stands, as it is written, and its worth."""

    start: int
    end: int
    written: str

    @property
    def value(self) -> float:
        return float(self.written.replace(",", "").replace("_", ""))

    def is_rounded(self, value: float) -> bool:
        """Whether `value`, rounded to as many digits as are written, is this number."""
        mantissa, _, exponent = self.written.partition("e")
        digits = len(mantissa.partition(".")[2]) - int(exponent or 0)
        return abs(value - self.value) <= 0.5 * 10**-digits * (1 + 1e-9)


def plain(text: str) -> str:
    """The prose of a page, one space between words; what is no prose is left out."""
    for pattern in HIDDEN:
        text = pattern.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    return " ".join(text.split())


def numbers(prose: str) -> list[Number]:
    """The numbers of some prose (plain), in order. A hyphen makes a name of a number and a word: 8-bit, x86-64."""
    found, before = [], ""
    for word in WORD.finditer(prose.replace("..", "  ")):
        text = word[0].rstrip(".,")
        start = word.start() + len(text) - len(text.lstrip(".,"))
        match, end = NUMBER.match(text.lstrip(".,")), word.start() + len(text)
        named = prose[start - 1 : start] == "-" and prose[start - 2 : start - 1].isalnum() and not before.isdigit()
        if match and not named and not re.match(r"-[^\W\d]", prose[end : end + 2]):
            found.append(Number(start, start + match.end(), match[0]))
        before = text
    return found


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
    entries = read_json(root / CLAIMS)
    for place, entry in enumerate(entries, 1):
        keys = set(entry) if isinstance(entry, dict) else set()
        if keys not in ({"file", "text", "report", "values"}, {"file", "text", "source", "quote"}):
            raise UserError(
                f"{CLAIMS}: entry {place} needs file and text, and report and values or source and quote; "
                f"it has {', '.join(sorted(keys)) or 'no keys'}"
            )
    return entries


def problems(tree: "Tree", page: str, entries: list[dict]) -> list[str]:
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


def entry_faults(tree: "Tree", entry: dict, text: str) -> list[str]:
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


def _quote_faults(tree: "Tree", entry: dict, said: list[Number]) -> list[str]:
    if not (tree.root / entry["source"]).is_file():
        return [f"{entry['source']} is gone"]
    if " ".join(entry["quote"].split()) not in " ".join(tree.text(entry["source"]).split()):
        return [f"{entry['source']} says {entry['quote']!r} no more"]
    quoted = [Number(*match.span(), match[0]).value for match in QUOTED.finditer(entry["quote"])]
    if [number.value for number in said] != quoted:
        return [f"{entry['source']} says {entry['quote']!r}, which holds other numbers"]
    return []


def cited(entry: dict) -> list[str]:
    """The JSON files that an entry names."""
    report = entry.get("report", [])
    return [report] if isinstance(report, str) else list(report.values()) if isinstance(report, dict) else list(report)


def _cited(tree: "Tree", report) -> list[dict]:
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
    except (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError, SyntaxError) as error:
        raise UserError(f"{expression!r} leads to no number: {type(error).__name__}: {error}") from None


class Each(list):
    """Items of a list of which one key is wanted."""


class Tree:
    """The files of a checkout, and which of its reports still speak of them."""

    def __init__(self, root: Path = ROOT):
        self.root = root
        self._code = Code(root / "scripts")

    @functools.cache  # noqa: B019  lives as long as a test or a command
    def json(self, path: str):
        return read_json(self.root / path)

    @functools.cache  # noqa: B019
    def text(self, path: str) -> str:
        return (self.root / path).read_text(encoding="utf-8")

    @functools.cache  # noqa: B019
    def hash(self, path: str) -> str:
        return sha256(self.root / path)

    @functools.cached_property
    def reports(self) -> dict[str, dict]:
        """{path: report} of everything that scripts have reported into the tree."""
        found = sorted([*self.root.glob("reports/**/*.json"), *self.root.glob("evals/*/*.json")])
        paths = [str(path.relative_to(self.root)) for path in found]
        reports = {path: self.json(path) for path in paths}
        return {path: one for path, one in reports.items() if isinstance(one, dict) and "results" in one}

    @functools.cached_property
    def heavy(self) -> dict[str, set[str]]:
        """{weights under runs/: their hashes, by all reports}; runs/ itself is in nobody's tree."""
        named = {}
        for path, report in self.reports.items():
            for entry in [*files_of(report), *files_made(path, report)]:
                if entry["path"].startswith("runs/") and entry["path"].endswith(WEIGHTS):
                    named.setdefault(entry["path"], set()).add(entry["sha256"])
        return named

    @functools.cached_property
    def pinned(self) -> set[str]:
        """Hashes of weights that are in the tree, or that a lock pins."""
        locked = "".join(path.read_text(encoding="utf-8") for path in self.root.glob("third_party/*.lock"))
        models = [str(path.relative_to(self.root)) for path in self.root.glob("models/*/*.safetensors")]
        return set(re.findall(r"\b[0-9a-f]{64}\b", locked)) | {self.hash(path) for path in models}

    @functools.cached_property
    def grounded(self) -> set[str]:
        """Runs of which a report names, by hash, weights that are in the tree or pinned."""
        runs = set()
        for path, report in self.reports.items():
            weights = [entry for entry in files_of(report) if entry["path"].endswith(WEIGHTS)]
            if any(entry["sha256"] in self.pinned for entry in weights) and not self._changed(report):
                runs |= {run_of(path), *(run_of(entry["path"]) for entry in weights)}
        return runs - {None}

    def _changed(self, report: dict) -> list[str]:
        """Inputs in the tree that are not what they were; a config counts by the settings that the report repeats."""
        found = []
        for entry in files_of(report):
            path = entry["path"]
            if path.startswith(("runs/", "/")):
                continue
            if not (self.root / path).is_file():
                found.append(f"was made of {path}, which is not in the tree")
            elif self.hash(path) != entry["sha256"] and not self._says_the_same(path, report["settings"]):
                found.append(f"was made of another {path} than the tree's")
        return found

    def _says_the_same(self, path: str, settings: dict) -> bool:
        """Whether a config of the tree, or a section of it, has the report's settings, as far as both have them."""
        if not (path.startswith("configs/") and path.endswith(".json")):
            return False
        config = self.json(path)
        sections = [config, *(value for value in config.values() if isinstance(value, dict))]
        section = max(sections, key=lambda section: len(section.keys() & settings.keys()))
        common = section.keys() & settings.keys()
        return bool(common) and all(section[key] == settings[key] for key in common)

    def faults(self, path: str) -> list[str]:
        """Why a report's numbers are not of what is in the tree. A file that is no report is the tree's own."""
        if path not in self.reports:
            return [] if (self.root / path).is_file() else ["is gone"]
        report = self.reports[path]
        if "history" in report["results"]:  # of how a model was trained; what it started from is gone by nature
            configs = [entry for entry in files_of(report) if entry["path"].startswith("configs/")]
            return self._changed({**report, "inputs": configs})
        found, inputs = self._changed(report), files_of(report)
        folders = {str(Path(entry["path"]).parent) for entry in inputs if entry["path"].endswith(WEIGHTS)}
        for entry in inputs:
            name, run = entry["path"], run_of(entry["path"])
            if Path(name).name == "config.json" and name.startswith("runs/") and str(Path(name).parent) not in folders:
                found.append(f"names {name} without the weights beside it")
            if name in self.heavy and len(self.heavy[name]) > 1:
                found.append(f"is of one {name}, and another report of another one: make them again together")
            elif name in self.heavy and run not in self.grounded:
                found.append(f"is of {name}, and no report of run {run} ties it to weights in the tree")
        return found

    def older_code(self, path: str) -> str | None:
        """The script of a report whose code is another by now, or was never named; None for one of today's code.

        A file that is no report has no code.
        """
        if path not in self.reports:
            return None
        code = self.reports[path].get("code") or {}
        script = code.get("script")
        if script and (self.root / "scripts" / script).is_file() and self._code.hash(script) == code["sha256"]:
            return None
        return script or "no script named"


def files_of(report: dict) -> list[dict]:
    """A report's inputs, folders file by file."""

    def flat(entries):
        for entry in entries:
            yield from flat(entry["files"]) if "files" in entry else [entry]

    return list(flat(report.get("inputs", [])))


def files_made(path: str, report: dict) -> list[dict]:
    """Heavy files of its run that a report names as its results (quant_measure.py)."""
    made = [
        value for value in report["results"].values() if isinstance(value, dict) and {"file", "sha256"} <= set(value)
    ]
    return [{"path": f"runs/{run_of(path)}/{value['file']}", "sha256": value["sha256"]} for value in made]


def run_of(path: str) -> str | None:
    """The run that a path belongs to: runs/RUN/..., reports/RUN/..., evals/RUN/...; None for others."""
    first, _, rest = path.partition("/")
    return rest.split("/")[0] if first in ("runs", "reports", "evals") and "/" in rest else None


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
