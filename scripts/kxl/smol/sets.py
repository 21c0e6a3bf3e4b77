"""The judging sets: prompts for development and for the test, without a tool or a request that they share.

In:  BFCL's wheel (single-call questions with accepted answers, questions that no offered tool answers), and our own
     domains (datasets/smol/judged.json), none of which the training has.
Out: datasets/smol/dev.json and test.json, written by scripts/smol_build_sets.py. `read` gives their rows:

  {"id", "source", "kind", "messages", "tools"} and for kind tool "expected": [{"name", "arguments": {name: accepted}}]

  tool              three to eight tools; one call is right; `accepted` lists an argument's values, "" = may be absent
  near_miss         our domains: a request beside tools that look fitting and lack what is asked
  irrelevance       BFCL's, as they come
  live_irrelevance  BFCL's, as they come; entries without a tool are left out, since they can get no call
  ordinary          a question in words, every second one beside tools

BFCL's entries are parted by family: entries that share a tool or a request, directly or over others, are on one side.
The largest families belong to the training.
"""

import hashlib
import json
import math
import random
import re
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from kxl.base.cli import UserError
from kxl.base.files import ROOT, read_json, shown, write_text
from kxl.chat import schemas as json_schemas
from kxl.eval import bfcl
from kxl.smol import domains, requests
from kxl.smol.matching import matches

OWN = ROOT / "datasets" / "smol" / "judged.json"
ANSWERED = ("simple_python", "multiple", "live_simple", "live_multiple")
MORE = ("parallel", "parallel_multiple", "live_parallel")  # several calls: for training alone
UNANSWERABLE = ("irrelevance", "live_irrelevance")
KINDS = ("tool", "near_miss", *UNANSWERABLE, "ordinary")
RESTRAINT = ("near_miss", *UNANSWERABLE)
LARGEST = 60  # entries of a family that may be judged; a larger one is the training's
SHARES = {"test": 57, "dev": 75}  # of 100 families up to that many
LEAST_TOOLS, MOST_TOOLS = 3, 8
# Cosine of a distractor's words to the right tool's: of its domain, and not another tool for the same. Pairs that do
# the same (a forecast and a detailed forecast, two distances) begin at 0.27, by reading them.
ALIKE = (0.03, 0.25)


class Pool:
    """Tools that stand beside others as distractors, compared by the words of their names and descriptions."""

    def __init__(self, tools: list[dict]):
        self.tools = {tool["function"]["name"]: tool for tool in tools}
        self.counts: Counter = Counter(word for tool in self.tools.values() for word in set(words(tool)))
        self.weights = {name: self._weights(tool) for name, tool in self.tools.items()}

    def _weights(self, tool: dict) -> dict[str, float]:
        """Each word's term frequency × inverse document frequency, of length 1."""
        total = len(self.tools)
        raw = {w: n * math.log((1 + total) / (1 + self.counts[w])) for w, n in Counter(words(tool)).items()}
        size = math.sqrt(sum(value**2 for value in raw.values())) or 1.0
        return {word: value / size for word, value in raw.items()}

    def like(self, tools: list[dict], name: str) -> list[dict]:
        """Tools beside `tools`, by how alike they are to the one called `name`; those that could replace it not."""
        right = self._weights(next(tool for tool in tools if tool["function"]["name"] == name))
        offered, scored = {tool["function"]["name"] for tool in tools}, []
        for other, weights in self.weights.items():
            score = sum(value * weights.get(word, 0.0) for word, value in right.items())
            if other not in offered and ALIKE[0] <= score <= ALIKE[1]:
                scored.append((-score, other))
        return [self.tools[other] for _, other in sorted(scored)]


def entries(wheel: Path) -> list[dict]:
    """BFCL's entries of one question: {"id", "category", "messages", "tools", "truth"}, dots of names replaced."""
    found = []
    with zipfile.ZipFile(wheel) as archive:
        for category in (*ANSWERED, *MORE, *UNANSWERABLE):
            truths = {}
            if category not in UNANSWERABLE:
                truths = {
                    entry["id"]: entry["ground_truth"]
                    for entry in bfcl.lines(archive, wheel, f"possible_answer/BFCL_v4_{category}.json")
                }
            for entry in bfcl.lines(archive, wheel, f"BFCL_v4_{category}.json"):
                if len(entry["question"]) == 1:
                    found.append(
                        {
                            "id": f"bfcl/{entry['id']}",
                            "category": category,
                            "messages": entry["question"][0],
                            "tools": [bfcl.tool(function) for function in entry["function"]],
                            "truth": truths.get(entry["id"]),
                        }
                    )
    return found


def parted(found: list[dict]) -> dict[str, list[dict]]:
    """The entries by split, train, dev and test; no tool and no request is in two of them. The order stays."""
    parents: dict[str, str] = {}

    def root(name: str) -> str:
        while parents.setdefault(name, name) != name:
            name = parents[name]
        return name

    for entry in found:
        request = "request: " + entry["messages"][-1]["content"].strip().lower()
        for name in [*names(entry), request] if entry["tools"] else []:
            parents[root(name)] = root(names(entry)[0])
    trained = {root(name) for name in _trained_names() if name in parents}
    sizes = Counter(root(names(entry)[0]) for entry in found if entry["tools"])
    first = {}
    for name in sorted(parents):
        first.setdefault(root(name), name)
    splits: dict[str, list[dict]] = {"train": [], "dev": [], "test": []}
    for entry in found:
        family = root(names(entry)[0]) if entry["tools"] else None
        if family is None:
            continue
        place = int(hashlib.sha256(first[family].encode()).hexdigest(), 16) % 100
        split = next((name for name, share in SHARES.items() if place < share), "train")
        splits["train" if family in trained or sizes[family] > LARGEST else split].append(entry)
    return splits


def _trained_names() -> set[str]:
    """The tools of our training data."""
    return {name for domain in domains.data()["domains"].values() for name in domain["tools"]} | set(
        requests.data()["tools"]
    )


def names(row: dict) -> list[str]:
    """The tools that a row offers."""
    return [tool["function"]["name"] for tool in row["tools"]]


def build(found: list[dict], split: str, counts: dict, fits: Callable[[dict], bool], seed: int) -> list[dict]:
    """The rows of "dev" or "test". counts: how many BFCL rows of a kind; ours are all taken.

    `fits` says whether a prompt is short enough. UserError where BFCL has too few.
    """
    rng = random.Random(f"{split} {seed}")
    own, entries_of = read_json(OWN)[split], parted(found)[split]
    rows = own_rows(own, rng)
    pool = Pool([tool for entry in reversed(entries_of) for tool in entry["tools"]])
    rows += _some(_answered(entries_of, pool, fits, rng), counts["tool"], f"{split}: tool", rng)
    for kind in UNANSWERABLE:
        fitting = [
            {"id": entry["id"], "source": "bfcl", "kind": kind, "messages": entry["messages"], "tools": entry["tools"]}
            for entry in entries_of
            if entry["category"] == kind and fits(entry)
        ]
        rows += _some(fitting, counts[kind], f"{split}: {kind}", rng)
    ours = [[domains.tool(*one) for one in domain["tools"].items()] for domain in own["domains"].values()]
    for place, prompt in enumerate(own["ordinary"]):
        rows.append(
            {
                "id": f"own/{split}/ordinary/{place}",
                "source": "own",
                "kind": "ordinary",
                "messages": [{"role": "user", "content": prompt}],
                "tools": rng.sample(one := ours[place % len(ours)], rng.randint(3, len(one))) if place % 2 else [],
            }
        )
    asked: Counter = Counter(row["messages"][-1]["content"] for row in rows)
    return [row for row in rows if asked[row["messages"][-1]["content"]] == 1 or row["kind"] == "tool"]


def own_rows(own: dict, rng: random.Random) -> list[dict]:
    """The tool and near_miss rows of our domains: three to all tools of the domain."""
    rows = []
    for domain, content in own["domains"].items():
        tools = {name: domains.tool(name, declared) for name, declared in content["tools"].items()}
        for place, (name, request, values) in enumerate(content["asks"]):
            others = [other for other in tools if other != name]
            chosen = [name, *rng.sample(others, rng.randint(LEAST_TOOLS - 1, len(others)))]
            accepted = {key: value if isinstance(value, list) else [value] for key, value in values.items()}
            rows.append(
                {
                    "id": f"own/{domain}/{place}",
                    "source": "own",
                    "kind": "tool",
                    "messages": [{"role": "user", "content": request}],
                    "tools": [tools[key] for key in rng.sample(chosen, len(chosen))],
                    "expected": [{"name": name, "arguments": accepted}],
                }
            )
        for place, request in enumerate(content["near"]):
            rows.append(
                {
                    "id": f"own/{domain}/near/{place}",
                    "source": "own",
                    "kind": "near_miss",
                    "messages": [{"role": "user", "content": request}],
                    "tools": rng.sample(list(tools.values()), len(tools)),
                }
            )
    return rows


def _answered(found: list[dict], pool: Pool, fits, rng: random.Random) -> list[dict]:
    """BFCL's single-call entries beside three to eight tools: their own and others of `pool` that are of the domain."""
    rows = []
    for place, entry in enumerate(found):
        if entry["category"] not in ANSWERED or not entry["truth"] or len(entry["truth"]) != 1:
            continue
        ((name, accepted),) = entry["truth"][0].items()
        name = bfcl.tool_name(name)
        if (
            name not in names(entry)
            or len(set(names(entry))) != len(entry["tools"])
            or len(entry["tools"]) > MOST_TOOLS
        ):
            continue
        right = next(tool["function"] for tool in entry["tools"] if tool["function"]["name"] == name)
        if not set(accepted) <= set(json_schemas.properties(right["parameters"])):
            continue  # an answer that the tool does not take: nobody can give it
        row = {"id": entry["id"], "source": "bfcl", "kind": "tool", "messages": entry["messages"]}
        row["expected"] = [{"name": name, "arguments": accepted}]
        wanted = max(LEAST_TOOLS + place % (MOST_TOOLS - LEAST_TOOLS + 1), len(entry["tools"]))
        near = pool.like(entry["tools"], name)
        for count in range(wanted, max(LEAST_TOOLS, len(entry["tools"])) - 1, -1):
            tools = entry["tools"] + near[: count - len(entry["tools"])]
            if len(tools) == count and fits({**row, "tools": tools}):
                rows.append({**row, "tools": rng.sample(tools, count)})
                break
    return rows


def words(tool: dict) -> list[str]:
    """The words of a tool's name and description."""
    function = tool["function"]
    return [word for word in re.findall(r"[a-z]+", f"{function['name']} {function['description']}".lower()) if word[3:]]


def _some(rows: list, count: int, what: str, rng: random.Random) -> list:
    if len(rows) < count:
        raise UserError(
            f"{what}: {len(rows)} fitting rows of BFCL where {count} are wanted; lower judging in the config"
        )
    chosen = set(rng.sample(range(len(rows)), count))
    return [row for place, row in enumerate(rows) if place in chosen]


def write(path: Path, rows: list[dict]) -> None:
    """Rows as one JSON file, a line each, every tool once."""
    tools: list[dict] = []
    for row in rows:
        tools += [tool for tool in row["tools"] if tool not in tools]
    lines = [
        json.dumps({**row, "tools": [tools.index(tool) for tool in row["tools"]]}, ensure_ascii=False) for row in rows
    ]
    told = [json.dumps(tool, ensure_ascii=False) for tool in tools]
    write_text(path, '{"tools": [\n' + ",\n".join(told) + '\n],\n"rows": [\n' + ",\n".join(lines) + "\n]}\n")


def read(path: Path) -> list[dict]:
    """The rows of a set. UserError for a file that is none."""
    content = read_json(path)
    try:
        return [{**row, "tools": [content["tools"][place] for place in row["tools"]]} for row in content["rows"]]
    except (KeyError, TypeError, IndexError):
        raise UserError(f"{shown(path)}: is no judging set; make it with scripts/smol_build_sets.py") from None


def right_arguments(call: dict, expected: dict) -> bool:
    """Whether a call is of the right tool with arguments that BFCL accepts: each given one right, none missing."""
    if call["name"] != expected["name"]:
        return False
    accepted, given = expected["arguments"], call["arguments"]
    if not all(key in accepted and matches(value, accepted[key]) for key, value in given.items()):
        return False
    return all(key in given or "" in values for key, values in accepted.items())
