"""Tensor-type policies: which tensor of a GGUF becomes which type, checked before llama-quantize runs.

A policy is a base type (gguf/export_plan.json) and a file of rules (gguf/NAME.tensor-types), one
`pattern = type` a line, `#` to the end of the line for comments. The first rule whose pattern is
found in a tensor's name decides; every tensor that can be quantized must have a rule, so that no
tensor's type is left to llama-quantize's own mixtures. `lint` lists everything that llama-quantize
would silently do otherwise (tools/quantize/quantize.cpp and src/llama-quant.cpp of the pinned tree).
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from gguf import GGMLQuantizationType as Type
from gguf.constants import GGML_QUANT_SIZES

from kxl.base.cli import UserError
from kxl.base.files import ROOT, read_json, read_text, shown
from kxl.chat import schemas
from kxl.model import gguf_file

PLAN = ROOT / "gguf" / "export_plan.json"
# Types llama-quantize writes without an imatrix. Others (q8_k, q8_1, i32) pass a dry run and then abort.
TYPES = {
    kind.name.lower(): kind
    for kind in (
        Type.F32,
        Type.F16,
        Type.BF16,
        Type.Q8_0,
        Type.Q6_K,
        Type.Q5_K,
        Type.Q5_1,
        Type.Q5_0,
        Type.Q4_K,
        Type.Q4_1,
        Type.Q4_0,
        Type.IQ4_NL,
        Type.IQ4_XS,
        Type.Q3_K,
        Type.IQ3_S,
        Type.Q2_K,
    )
}
# With a base type that is not quantized every rule is silently ignored.
BASE_TYPES = (
    "Q8_0",
    "Q6_K",
    "Q5_K_M",
    "Q5_K_S",
    "Q5_1",
    "Q5_0",
    "Q4_K_M",
    "Q4_K_S",
    "Q4_1",
    "Q4_0",
    "IQ4_NL",
    "IQ4_XS",
    "Q3_K_L",
    "Q3_K_M",
    "Q3_K_S",
    "Q2_K",
)
TEXT = {"type": "string"}
PLAN_SHAPE = {
    "type": "object",
    "required": ["policies"],
    "properties": {
        "stock": {"type": "array", "items": TEXT},
        "policies": {"type": "object", "additionalProperties": {
            "type": "object",
            "required": ["base_type", "tensor_types"],
            "properties": {"base_type": TEXT, "tensor_types": TEXT, "made_for": {
                "type": "object",
                "required": ["name", "fingerprint"],
                "properties": {"name": TEXT, "fingerprint": TEXT},
            }},
        }},
    },
}  # fmt: skip
NEVER_QUANTIZED = ("_norm.weight", "ffn_gate_inp.weight", "shortconv.conv.weight")
MOST_REPEATS = 4  # in a pattern; more take minutes on a long name
ALIGNMENT = 32  # bytes, general.alignment's default: where each tensor's data starts


@dataclass(frozen=True)
class Rule:
    pattern: str
    type: str
    line: int


@dataclass(frozen=True)
class Policy:
    name: str
    base_type: str
    rules: tuple[Rule, ...]
    path: Path
    made_for: dict | None = None  # {"name", "fingerprint"} of the model that it was searched for; None fits any


@dataclass(frozen=True)
class Tensor:
    """A tensor's entry in a GGUF: `shape` in ggml's order, the row length first."""

    name: str
    shape: tuple[int, ...]
    type: Type


def read_plan(plan: Path = PLAN) -> dict:
    """The export plan: sources, policies and stock types. UserError where an entry is none."""
    found = read_json(plan)
    for place, why in schemas.errors(PLAN_SHAPE, found):
        raise UserError(f"{shown(plan)}: {' '.join(map(str, place))}: {why[:300]}")
    return found


def load(name: str, plan: Path = PLAN) -> Policy:
    """A policy of the export plan. UserError for an unknown name or a malformed line."""
    policies = read_plan(plan)["policies"]
    if name not in policies:
        raise UserError(f"{shown(plan)}: no policy {name!r}; it has {', '.join(sorted(policies))}")
    path = Path(plan).parent / policies[name]["tensor_types"]
    return Policy(name, policies[name]["base_type"], parse(path), path, policies[name].get("made_for"))


def parse(path: Path) -> tuple[Rule, ...]:
    """The rules of a .tensor-types file, in order."""
    rules = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        code = line.split("#", 1)[0].strip()
        if not code:
            continue
        pattern, equals, type_name = (part.strip() for part in code.partition("="))
        if not (pattern and equals and type_name) or len(pattern.split()) > 1 or "=" in type_name:
            raise UserError(f"{shown(path)}:{number}: {code!r} is not `pattern = type`")
        rules.append(Rule(pattern, type_name, number))
    if not rules:
        raise UserError(f"{shown(path)}: has no rules")
    return tuple(rules)


def plain(policy: Policy) -> str:
    """The rules as llama-quantize's --tensor-type-file takes them: no comments, no spaces."""
    return "".join(f"{rule.pattern}={rule.type}\n" for rule in policy.rules)


def read_tensors(path: Path) -> list[Tensor]:
    """Name, shape and type of every tensor of a GGUF file. UserError when it is no whole GGUF file."""
    reader = gguf_file.open_reader(path)
    return [Tensor(entry.name, tuple(int(n) for n in entry.shape), entry.tensor_type) for entry in reader.tensors]


def quantizable(tensor: Tensor) -> bool:
    """Whether llama-quantize would touch it (tensor_allows_quantization, as far as LFM2 has such tensors)."""
    shape = tensor.shape
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return (
        len(shape) >= 2 and tensor.name.endswith("weight") and not any(part in tensor.name for part in NEVER_QUANTIZED)
    )


def fingerprint(tensors: list[Tensor]) -> str:
    """Names a model's shape: the names and shapes of what can be quantized, as 16 hex digits."""
    shapes = sorted((t.name, list(t.shape)) for t in tensors if quantizable(t))
    return hashlib.sha256(json.dumps(shapes).encode()).hexdigest()[:16]


def nbytes(shape: tuple[int, ...], kind: Type) -> int:
    """Bytes of a tensor's data in type `kind`: whole blocks per row."""
    elements = 1
    for n in shape:
        elements *= n
    block, size = GGML_QUANT_SIZES[kind]
    return elements // block * size


def data_bytes(tensors: list[Tensor], types: dict[str, Type]) -> int:
    """Bytes of all tensor data in a file, padded to the alignment; `types` as `assign` gives them."""
    return sum(-(-nbytes(t.shape, types[t.name]) // ALIGNMENT) * ALIGNMENT for t in tensors)


def first_rule(policy: Policy, name: str) -> Rule | None:
    """The rule that decides a tensor's type."""
    return next((rule for rule in policy.rules if re.search(rule.pattern, name)), None)


def assign(policy: Policy, tensors: list[Tensor]) -> dict[str, Type]:
    """The type of every tensor under a policy. UserError with every problem `lint` finds."""
    if problems := lint(policy, tensors):
        raise UserError(
            f"policy {policy.name} does not fit, nothing was quantized:\n" + "\n".join(f"  {line}" for line in problems)
        )
    return {t.name: TYPES[first_rule(policy, t.name).type.lower()] if quantizable(t) else t.type for t in tensors}


def lint(policy: Policy, tensors: list[Tensor]) -> list[str]:
    """Everything wrong with a policy for these tensors, one line each, with file and line."""
    problems = []
    if policy.made_for and policy.made_for["fingerprint"] != fingerprint(tensors):
        blocks = len({t.name.split(".")[1] for t in tensors if t.name.startswith("blk.")})
        return [
            f"{shown(policy.path)}: was searched for {policy.made_for['name']}; this GGUF is of another shape "
            f"({blocks} blocks, {sum(map(quantizable, tensors))} tensors to quantize): run `make policy` for its model"
        ]
    if policy.base_type not in BASE_TYPES:
        problems.append(
            f"{shown(PLAN)}: base type {policy.base_type!r} of {policy.name}: with an unquantized or unknown base "
            f"llama-quantize ignores every rule; use one of {', '.join(BASE_TYPES)}"
        )
    spelled = [problem for rule in policy.rules if (problem := _misspelled(policy, rule))]
    if spelled:  # what such a rule would match says nothing
        return problems + spelled
    targets = [t for t in tensors if quantizable(t)]
    taken = {t.name: first_rule(policy, t.name) for t in targets}
    for rule in policy.rules:
        problems += _without_effect(policy, rule, tensors, taken)
    too_narrow: dict[tuple[Rule, int], list[str]] = {}
    for t in targets:
        where = taken[t.name]
        if t.type not in (Type.BF16, Type.F16, Type.F32):
            problems.append(f"{t.name} is {t.type.name} already; quantize from the BF16 GGUF")
        elif where is None:
            problems.append(
                f"{shown(policy.path)}: no rule for {t.name} {list(t.shape)}; llama-quantize would choose its type"
            )
        elif t.shape[0] % GGML_QUANT_SIZES[TYPES[where.type.lower()]][0]:
            too_narrow.setdefault((where, t.shape[0]), []).append(t.name)
    for (rule, columns), names in too_narrow.items():
        more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
        problems.append(
            f"{shown(policy.path)}:{rule.line}: {names[0]}{more} has rows of {columns}, {rule.type} needs multiples of "
            f"{GGML_QUANT_SIZES[TYPES[rule.type.lower()]][0]}; llama-quantize would fall back to another type. Write "
            f"{suggested(rule.type, columns)}, whose blocks fit"
        )
    return problems


def suggested(type_name: str, columns: int) -> str:
    """The smallest type with at least the bits of `type_name` whose blocks fill rows of `columns`, as rules have it."""

    def bits(kind: Type) -> float:
        block, size = GGML_QUANT_SIZES[kind]
        return 8 * size / block

    wanted = bits(TYPES[type_name.lower()])
    fitting = [name for name, kind in TYPES.items() if columns % GGML_QUANT_SIZES[kind][0] == 0]
    return min((name for name in fitting if bits(TYPES[name]) >= wanted), key=lambda name: bits(TYPES[name]))


def _why_nothing(pattern: str, tensors: list[Tensor]) -> str:
    """What of a pattern the model lacks: its layer, or that kind of tensor, with the kinds that it has."""
    kinds = sorted({re.sub(r"blk\.\d+\.", "", t.name).removesuffix(".weight") for t in tensors if quantizable(t)})
    if match := re.match(r"\^blk\\\.([\d|()]+)\\\.(.*)", pattern):
        if any(re.search(rf"^blk\.\d+\.{match[2]}", t.name) for t in tensors):
            return f"this model has such tensors, but none in block {match[1]}"
    return f"this model has no such kind; its kinds are {', '.join(kinds)}"


def _misspelled(policy: Policy, rule: Rule) -> str | None:
    where = f"{shown(policy.path)}:{rule.line}"
    if rule.type.lower() not in TYPES:
        return f"{where}: unknown type {rule.type!r}; use one of {', '.join(TYPES)}"
    if re.search("[A-Z]", rule.pattern):
        return (
            f"{where}: {rule.pattern!r} has a capital letter; llama-quantize reads patterns in lower case "
            f"(\\D would become \\d)"
        )
    # What std::regex (ECMAScript) and Python's re read alike.
    if (
        not re.fullmatch(r"(?:[a-z0-9_\-^$*+|()\[\]{},?]|\\[.\-]|\\d|\.(?=[*+]))+", rule.pattern)
        or "(?" in rule.pattern
    ):
        return (
            f"{where}: {rule.pattern!r}: only letters, digits, _ - \\. \\d [ ] ( | ) * + ? {{ }} ^ $ and .* are "
            f"read alike by "
            f"llama-quantize and this check; write \\. for a dot"
        )
    if not (rule.pattern.startswith("^") and rule.pattern.endswith("$")):
        return (
            f"{where}: {rule.pattern!r} must begin with ^ and end with $; a pattern is searched for, so blk.1 "
            f"would also hit blk.10"
        )
    if re.search(r"\)[*+{]", rule.pattern) or len(re.findall(r"(?<!\\)[*+?{]", rule.pattern)) > MOST_REPEATS:
        return (
            f"{where}: {rule.pattern[:200]!r} repeats a group, or more than {MOST_REPEATS} things; llama-quantize may "
            f"look for ever where it does not fit. Write out what is repeated"
        )
    if why := schemas.pattern_problem(rule.pattern):
        return f"{where}: {rule.pattern[:200]!r} is no regular expression: {why}"
    return None


def _without_effect(policy: Policy, rule: Rule, tensors: list[Tensor], taken: dict) -> list[str]:
    if any(found is rule for found in taken.values()):
        return []
    where = f"{shown(policy.path)}:{rule.line}"
    matched = [t for t in tensors if re.search(rule.pattern, t.name)]
    if not matched:
        return [f"{where}: {rule.pattern} matches no tensor: {_why_nothing(rule.pattern, tensors)}"]
    if not any(quantizable(t) for t in matched):
        return [f"{where}: {rule.pattern} matches only tensors that are never quantized ({matched[0].name} among them)"]
    first = next(taken[t.name] for t in matched if quantizable(t))
    return [f"{where}: {rule.pattern} never applies: line {first.line} ({first.pattern}) takes its tensors first"]
