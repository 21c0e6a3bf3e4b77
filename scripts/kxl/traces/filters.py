"""What is wrong with a chat row, by name, and what is done about it: drop the row, repair it, or keep it as it is.

    meets = Meets(policies)                  # policies: {reason: "drop" | "repair" | "keep"}, as in data.policies
    check_row(row, meets, vanished, tokens)  # raises Dropped; what it mended and kept: meets.repaired, meets.kept

REASONS has every reason with its words for people and what may be done about it; the first is what the configs
choose. Reasons about tokens (the cap, the proof of mask and calls) are met in traces_prepare.py, those about
other rows (duplicates, eval suites) in kxl/traces/duplicates.py.
"""

import functools
import json
import re

from kxl.base.cli import UserError
from kxl.chat import schemas as json_schemas
from kxl.chat import thoughts
from kxl.traces.formats import Dropped

DROP, REPAIR, KEEP = "drop", "repair", "keep"
REASONS = {
    # name: (in words, what may be done)
    "not_utf8": ("not UTF-8", (DROP,)),
    "not_json": ("not JSON", (DROP,)),
    "row_too_large": ("too large to read", (DROP,)),
    "wrong_columns": ("without a conversation in a known format", (DROP,)),
    "bad_tools": ("with an unreadable tool list", (DROP,)),
    "broken_call": ("with a call that cannot be read", (DROP,)),
    "python_literals": ("with calls in Python's literals instead of JSON", (REPAIR, DROP)),
    "lone_surrogate": ("with half a character", (REPAIR, DROP)),
    "broken_thought": ("with a thought that cannot be told from the answer", (DROP,)),
    "thought_marks": ("with the marks of a thought in the middle of a text", (DROP, KEEP)),
    "mark_in_thought": ("with marks inside a thought that would end it or begin a call", (REPAIR, DROP)),
    "call_in_text": ("that show a call as words", (KEEP, DROP)),
    "missing_arguments": ("with a call whose arguments are missing", (DROP, KEEP)),
    "bad_order": ("in an order no agent makes", (DROP,)),
    "ends_without_answer": ("that end without an answer", (REPAIR, DROP)),
    "empty_turn": ("with an empty assistant turn", (DROP,)),
    "unpaired_result": ("with calls and results that do not pair", (DROP, REPAIR)),
    "vanished_tool": ("with calls to a tool that is gone", (REPAIR, DROP, KEEP)),
    "unknown_tool": ("with calls to a tool not on offer", (DROP, KEEP)),
    "schema_violation": ("with arguments the tool refuses", (REPAIR, DROP, KEEP)),
    "no_arguments": ("with a call that llama.cpp cannot read", (REPAIR, DROP, KEEP)),
    "control_token": ("with the model's own control tokens as text", (DROP,)),
    "refusal": ("refusals", (DROP, KEEP)),
    "too_long": ("over the cap", (DROP, REPAIR)),
    "mask_unproven": ("whose mask cannot be proven", (DROP,)),
    "broken_round_trip": ("whose calls the template breaks", (DROP,)),
    "exact_duplicate": ("exact duplicates", (DROP, KEEP)),
    "near_duplicate": ("near duplicates", (DROP, KEEP)),
    "eval_overlap": ("that overlap an eval suite", (DROP, KEEP)),
    "check_failed": ("on which a check of this program failed", (DROP,)),
}

# Answers that are no answers; only at the beginning of the last turn, since later they may report what a tool said.
REFUSAL = re.compile(
    r"(?:i(?:'|’)?m (?:really |very |so )?sorry,? (?:but |however,? )?|unfortunately,? |apologies,? (?:but )?"
    r"|as an ai(?: language)?(?: model| assistant)?,? )*"
    r"(?:i (?:can(?:no|')t|can’t|am (?:not able|unable) to|won't|will not|must decline"
    r"|don't have (?:the ability|access)|do not have (?:the ability|access))"
    r"|as an ai(?: language)? model)",
    re.IGNORECASE,
)
SURROGATE = re.compile("[\ud800-\udfff]")


class Meets:
    """What a row's problems come to, by policy. A call raises Dropped, or notes the repair or that the row is kept."""

    def __init__(self, policies: dict):
        self.policies, self.repaired, self.kept = policies, {}, {}

    def __call__(self, reason: str, detail: str, repair=None, policy: str | None = None) -> bool:
        """True when repaired. `repair()` mends the row and says how, or returns None: then the row is dropped.

        `policy` is the reason to look up where several are counted apart (too_long for over_10240_tokens).
        """
        policy = self.policies[policy or reason]
        if policy == KEEP:
            self.kept.setdefault(reason, detail)
        elif policy == REPAIR and repair and (done := repair()):
            self.repaired.setdefault(reason, f"{detail}: {done}")
            return True
        else:
            raise Dropped(reason, detail)
        return False


def check_policies(policies: dict, where: str) -> dict:
    """A config's policies, complete and possible; UserError names the one that is not."""
    for reason, policy in policies.items():
        if reason == "reasoning":
            raise UserError(f'{where}: write "reasoning": "keep" or "drop" beside policies; it is no policy any more')
        if reason not in REASONS:
            raise UserError(f"{where}: there is no reason {reason}; there are {', '.join(REASONS)}")
        if policy not in REASONS[reason][1]:
            raise UserError(f"{where}: {reason} is {policy!r}; possible: {', '.join(REASONS[reason][1])}")
    if missing := sorted(set(REASONS) - set(policies)):
        raise UserError(f"{where}: no policy for {', '.join(missing)}")
    return policies


def in_words(reason: str) -> str:
    """A reason for the last line; over_10240_tokens is one of too_long."""
    if match := re.fullmatch(r"over_(\d+)_tokens", reason):
        return f"over {int(match[1]):,} tokens"
    return REASONS[reason][0]


def check_row(row: dict, meets: Meets, vanished: list, control_tokens: list) -> None:
    """Check and mend one row in place; every reason that needs neither tokens nor other rows."""
    _surrogates(row, meets)
    _thoughts(row["messages"], meets, control_tokens)
    _vanished(row, meets, vanished)
    _order(row, meets)
    _pairs(row, meets)
    _calls(row, meets)
    _control_tokens(row, control_tokens)
    last = row["messages"][-1]
    if not last.get("tool_calls") and REFUSAL.match(last["content"].lstrip()):
        meets("refusal", last["content"][:120])


def _surrogates(row: dict, meets: Meets) -> None:
    found = next(
        (
            match
            for part in (row["messages"], row["tools"])
            for text in strings(part)
            if not text.isascii() and (match := SURROGATE.search(text))
        ),
        None,
    )
    if found:
        text = json.dumps([row["messages"], row["tools"]], ensure_ascii=False)

        def replace() -> str:
            row["messages"], row["tools"] = json.loads(SURROGATE.sub("\ufffd", text))
            return "replaced by U+FFFD, as Hermes does before a request"

        meets("lone_surrogate", f"U+{ord(found.group()):04X}", replace)


def thought_marks(control_tokens: list) -> list[str]:
    """What no thought may hold: servers end it there, or take it for structure."""
    return [thoughts.START, thoughts.END, *(token for token in control_tokens if token.strip("<|>") != token)]


def _thoughts(messages: list, meets: Meets, control_tokens: list) -> None:
    """What every server would read as the end of the thought, or as structure, becomes words."""
    marks = thought_marks(control_tokens)
    for place, message in enumerate(messages):
        thought = message.get("reasoning_content", "")
        if found := next((mark for mark in marks if mark in thought), None):

            def rewrite() -> str:
                message["reasoning_content"] = thoughts.as_words(thought, marks)
                return "written without its brackets"

            meets("mark_in_thought", f"message {place}: {found}", rewrite)


def _vanished(row: dict, meets: Meets, vanished: list) -> None:
    """Calls to tools that Hermes no longer has go, with their results, and so do turns with nothing left in them."""
    gone = {
        call["id"]: call["function"]["name"]
        for message in row["messages"]
        for call in message.get("tool_calls", [])
        if call["function"]["name"] in vanished
    }
    offered = [tool["function"]["name"] for tool in row["tools"] if tool["function"]["name"] in vanished]
    if not gone and not offered:
        return

    def remove() -> str:
        kept = []
        for message in row["messages"]:
            if message.get("tool_call_id") in gone:
                continue
            if "tool_calls" in message:
                calls = [call for call in message["tool_calls"] if call["id"] not in gone]
                if not calls and not message["content"]:
                    continue
                message = {
                    **{key: value for key, value in message.items() if key != "tool_calls"},
                    **({"tool_calls": calls} if calls else {}),
                }
            kept.append(message)
        row["messages"] = kept
        row["tools"] = [tool for tool in row["tools"] if tool["function"]["name"] not in vanished]
        return f"{len(gone)} calls with their results and {len(offered)} tools removed"

    meets("vanished_tool", ", ".join(sorted({*gone.values(), *offered})), remove)


def _order(row: dict, meets: Meets) -> None:
    """[system], user, then turns; at least one assistant turn, the last message one of them."""
    roles = [message["role"] for message in row["messages"]]
    body = roles[1:] if roles[:1] == ["system"] else roles
    if not body:
        raise Dropped("bad_order", "no turn at all")
    if body[0] != "user":
        raise Dropped("bad_order", f"begins with a turn of the {body[0]}, not of the user")
    if "system" in body:
        raise Dropped("bad_order", "a system message in the middle")
    if "assistant" not in body:
        raise Dropped("bad_order", "no assistant turn, so nothing to learn")
    for place, message in enumerate(row["messages"]):
        if message["role"] == "assistant" and not message["content"] and not message.get("tool_calls"):
            meets("empty_turn", f"message {place}")
    if roles[-1] != "assistant":

        def cut() -> str:
            end = len(roles) - roles[::-1].index("assistant")
            row["messages"] = row["messages"][:end]
            return f"the last {len(roles) - end} messages cut off"

        meets("ends_without_answer", f"the last turn is the {roles[-1]}'s", cut)


def _pairs(row: dict, meets: Meets) -> None:
    """Every result answers a call of the assistant turn before it, and all are answered before the next turn."""
    open_calls, problem = {}, None
    for place, message in enumerate(row["messages"]):
        if message["role"] == "tool":
            if message["tool_call_id"] not in open_calls:
                problem = f"message {place} answers no call before it"
                break
            del open_calls[message["tool_call_id"]]
        elif open_calls:
            problem = f"{next(iter(open_calls.values()))} has no result before message {place}"
            break
        else:
            open_calls = {call["id"]: call["function"]["name"] for call in message.get("tool_calls", [])}
    if problem:

        def cut() -> str | None:
            ends = [end for end in range(place, 1, -1) if row["messages"][end - 1]["role"] == "assistant"]
            if not ends:
                return None
            row["messages"] = row["messages"][: ends[0]]
            return f"cut after message {ends[0] - 1}"

        meets("unpaired_result", problem, cut)


def _calls(row: dict, meets: Meets) -> None:
    """Known tools, arguments that the tool's schema accepts and that llama.cpp can read."""
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in row["tools"]}
    for message in row["messages"]:
        for call in message.get("tool_calls", []):
            function = call["function"]
            name, arguments = function["name"], function["arguments"]
            if name not in schemas:
                meets("unknown_tool", name)
                continue
            # llama.cpp wants an argument wherever the tool has any (chat-peg-parser.cpp, python_style_tool_calls).
            properties = schemas[name].get("properties", {})
            if not arguments and properties:
                meets("no_arguments", f"{name}()", functools.partial(_write_default, function, properties))
            if error := _violation(schemas[name], function["arguments"]):
                meets(
                    "schema_violation",
                    f"{name}: {error}",
                    functools.partial(_coerce, function, schemas[name]),
                )


def _write_default(function: dict, properties: dict) -> str | None:
    """A call without arguments says the default of one of them."""
    for name, schema in properties.items():
        if isinstance(schema, dict) and schema.get("default") is not None:
            function["arguments"] = {name: schema["default"]}
            return f"its default {name}={json.dumps(schema['default'])} written out"
    return None


def _coerce(function: dict, schema: dict) -> str | None:
    """Numbers and booleans that stand in quotes become what the schema wants, as Hermes does before it runs a tool.

    An argument that is null where the tool takes none goes: Arrow fills what a call leaves out with null.
    """
    changed, gone = {}, []
    for name, value in function["arguments"].items():
        wanted = _property(schema, name).get("type")
        if isinstance(value, str) and wanted in ("integer", "number", "boolean"):
            try:
                read = json.loads(value.strip().lower() if wanted == "boolean" else value)
            except (ValueError, RecursionError):
                continue
            changed[name] = read
        elif value is None and name not in _names(schema.get("required")):
            gone.append(name)
    fixed = {name: value for name, value in {**function["arguments"], **changed}.items() if name not in gone}
    if fixed == function["arguments"] and not gone or _violation(schema, fixed):
        return None
    function["arguments"] = fixed
    said = [f"{name} read as {json.dumps(value)}" for name, value in changed.items()]
    return ", ".join(said + [f"{name}=null left out" for name in gone])


def _property(schema: dict, name: str) -> dict:
    """The subschema of an argument; {} where it has none that is an object (true takes anything)."""
    found = schema.get("properties", {}).get(name)
    return found if isinstance(found, dict) else {}


def _names(value) -> list:
    return value if isinstance(value, list) else []


def _violation(schema: dict, arguments: dict) -> str | None:
    if why := json_schemas.schema_problem(schema):
        return f"its schema is no schema: {why}"[:200]
    if found := json_schemas.problems(schema, arguments):
        return found[0][:200]
    unknown = sorted(set(arguments) - set(schema.get("properties", arguments)))
    return f"there is no argument {unknown[0]}" if unknown else None


def strings(value):
    """Every string in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def _control_tokens(row: dict, control_tokens: list) -> None:
    """Text that the tokenizer would take for structure: it would end a turn or begin a call inside a string."""
    if (known := _checked_tools.get(id(row["tools"]))) is None or known[0] is not row["tools"]:
        if len(_checked_tools) > 256:
            _checked_tools.clear()
        known = _checked_tools[id(row["tools"])] = row["tools"], _control_token_in(row["tools"], control_tokens)
    if found := known[1] or _control_token_in(row["messages"], control_tokens):
        raise Dropped("control_token", found)


_checked_tools = {}  # by identity: read_tools gives the same list for the same text, and rows share few


def _control_token_in(value, control_tokens: list) -> str | None:
    for text in strings(value):
        for token in control_tokens:
            if token in text:
                return f"{token} in {text[max(0, text.index(token) - 40) :][:120]!r}"
    return None
