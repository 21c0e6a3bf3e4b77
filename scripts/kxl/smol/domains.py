"""Tools of many domains and requests for them, composed from datasets/smol/domains, for training alone.

A domain has tools; a tool has arguments with pools of values, wordings (`ask`), wordings that lack one argument
(`lacks`), and the domain has requests that look fitting and that no tool of it serves (`near`). A pool is a name of
`pools`, "int:LOW-HIGH", "num:LOW-HIGH" (halves), "true", "some:POOL" (two to four different values, for an array), or a
list, which the schema then names as an enum. An argument with "?" behind its name is optional. A wording has {argument}
where a value is said, and {argument!} where its words ask for a boolean. Everything is drawn from a seeded
random.Random.
"""

import random
import re
from functools import cache

from kxl.base.cli import UserError
from kxl.base.files import ROOT, read_json, shown

DATA = ROOT / "datasets" / "smol" / "domains"
SLOT = re.compile(r"{([^{}!]+)(!?)}")
SOME = (2, 3, 4)  # values of an array


@cache
def data() -> dict:
    """pools and domains of all files of DATA. UserError for one that is no JSON, and for a name that two have."""
    found: dict[str, dict] = {"pools": {}, "domains": {}}
    tools: dict[str, str] = {}
    for path in sorted(DATA.glob("*.json")):
        read = read_json(path)
        for part, known in found.items():
            if twice := sorted(known.keys() & read[part].keys()):
                raise UserError(f"{shown(path)}: {part} has {twice[0]!r}, which another file of the folder has as well")
            known.update(read[part])
        for domain, content in read["domains"].items():
            for name in content["tools"]:
                if name in tools:
                    raise UserError(f"{shown(path)}: {domain} has the tool {name!r}, and so has {tools[name]}")
                tools[name] = domain
    if not found["domains"]:
        raise UserError(f"{shown(DATA)}: holds no domains; the repository has them: git checkout datasets/smol")
    return found


def tool(name: str, declared: dict) -> dict:
    """A tool of a data file, {"is", "args": {name: [type, description, pool or enum]}}, as an OpenAI tool."""
    properties, required = {}, []
    for key, (kind, description, *values) in declared["args"].items():
        argument = key.rstrip("?")
        kind, _, of = kind.partition(" of ")
        properties[argument] = {"type": kind, "description": description}
        if of:
            properties[argument]["items"] = {"type": of}
        if values and isinstance(values[0], list):
            properties[argument]["enum"] = values[0]
        if argument == key:
            required.append(argument)
    parameters = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": {"name": name, "description": declared["is"], "parameters": parameters}}


def draw(pool: str | list, rng: random.Random):
    """A value of a pool."""
    if isinstance(pool, list):
        return rng.choice(pool)
    if pool == "true":
        return True
    if pool.startswith("some:"):
        drawn = [draw(pool.removeprefix("some:"), rng) for _ in range(9)]  # fewer values where a pool has few
        return list(dict.fromkeys(drawn))[: rng.choice(SOME)]
    if match := re.fullmatch(r"(int|num):(-?\d+)-(\d+)", pool):
        low, high = int(match[2]), int(match[3])
        return rng.randint(low, high) if match[1] == "int" else rng.randint(2 * low, 2 * high) / 2
    return rng.choice(data()["pools"][pool])


def said(value) -> str:
    """A value in words: an array as "a, b and c"."""
    if isinstance(value, list):
        return f"{', '.join(map(str, value[:-1]))} and {value[-1]}"
    return str(value)


def _filled(wording: str, drawn: dict, rng: random.Random) -> str:
    def fill(slot: re.Match) -> str:
        if slot[2]:
            return ""
        return said(drawn[slot[1]] if slot[1] in drawn else draw(slot[1], rng))

    return re.sub(" {2,}", " ", SLOT.sub(fill, wording)).strip()


def _values(domain: str, name: str, rng: random.Random) -> dict:
    """A value for each argument of a tool, no two of them alike: from Oslo to Oslo asks for nothing."""
    drawn = {}
    for key, (_, _, pool) in data()["domains"][domain]["tools"][name]["args"].items():
        value = draw(pool, rng)
        for _ in range(9):
            if value not in drawn.values() or isinstance(value, bool):
                break
            value = draw(pool, rng)
        drawn[key.rstrip("?")] = value
    return drawn


def request(domain: str, name: str, rng: random.Random) -> tuple[str, dict]:
    """(request, arguments of the call that it asks for)."""
    declared, drawn = data()["domains"][domain]["tools"][name], _values(domain, name, rng)
    wording = rng.choice(declared["ask"])
    named = {slot for slot, _ in SLOT.findall(wording)}
    told = {key.rstrip("?") for key, (_, _, pool) in declared["args"].items() if pool == "true" and key[-1:] != "?"}
    if "hidden" in wording:
        told.add("hidden")
    return _filled(wording, drawn, rng), {key: value for key, value in drawn.items() if key in named | told}


def unserved(kinds: tuple, each: int, seed: int) -> list[dict]:
    """Requests that must not be answered by a call, `each` fillings of every wording, all different.

    Entries {"id", "kind", "domain", "prompt"} and by kind: near (a request that no tool of its domain serves), missing
    ("tool", and "lacks": the description of the argument that is not said), absent ("tool", which is not offered).
    """
    rng, entries, seen = random.Random(f"unserved {seed}"), [], set()

    def add(**entry) -> None:
        if entry["prompt"] not in seen:
            seen.add(entry["prompt"])
            entries.append(entry)

    for domain, content in data()["domains"].items():
        if "near" in kinds:
            for place, wording in enumerate(content["near"]):
                for turn in range(each if SLOT.search(wording) else 1):
                    prompt = _filled(wording, {}, rng)
                    add(id=f"near/{domain}/{place}/{turn}", kind="near", domain=domain, prompt=prompt)
        for name, declared in content["tools"].items():
            described = {key.rstrip("?"): given[1] for key, given in declared["args"].items()}
            if "missing" in kinds:
                for argument, wordings in declared["lacks"].items():
                    for turn in range(each):
                        prompt = _filled(rng.choice(wordings), _values(domain, name, rng), rng)
                        entry = {"id": f"missing/{name}/{argument}/{turn}", "kind": "missing", "domain": domain}
                        add(**entry, tool=name, lacks=described[argument], prompt=prompt)
            if "absent" in kinds:
                for turn in range(each):
                    entry = {"id": f"absent/{name}/{turn}", "kind": "absent", "domain": domain, "tool": name}
                    add(**entry, prompt=request(domain, name, rng)[0])
    return entries


def offered(domain: str, must: set, without: set, rng: random.Random) -> list[dict]:
    """A list of three to eight tools, in random order: `must` and others of the domain, sometimes of a second one."""
    own = data()["domains"][domain]["tools"]
    names = [name for name in own if name not in without]
    rest = [name for name in names if name not in must]
    chosen = [name for name in names if name in must]
    chosen += rng.sample(rest, min(len(rest), max(0, rng.randint(3, 5) - len(chosen))))
    tools = [tool(name, own[name]) for name in chosen]
    if rng.random() < 0.4 or len(tools) < 3:
        other = rng.choice([name for name in data()["domains"] if name != domain])
        others = data()["domains"][other]["tools"]
        tools += [tool(name, others[name]) for name in rng.sample(list(others), rng.randint(1, 3))]
    return rng.sample(tools, len(tools))
