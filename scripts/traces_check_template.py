"""Tell which turns a chat template would break: write each, read it back with three parsers, compare byte for byte.

In:  a model folder (its chat_template.jinja, or another with --template); rows of traces_prepare.py, whose calls and
     thoughts are tried, beside a list of difficult strings in arguments and thoughts that is always tried.
Out: one line per broken turn (row, parser, what came back) and a report; exit code 2 when the model's template or
     ours (configs/templates/lfm2.5-tools.jinja) breaks one. The published LFM templates of the pinned llama.cpp are
     tried, too, and what they break is named in the report; --alone leaves ours and them out.

  .venv/bin/python scripts/traces_check_template.py --model models/tiny --rows runs/tiny/data/train.jsonl \\
      --report runs/tiny/results/reports/template.json

The parsers are kxl/chat/tool_syntax.py with kxl/chat/thoughts.py, mlx-lm's, and the one inside the pinned
llama-server, which chooses it by the template. Every row with a thought is tried as it is (kept) and without its
thought (dropped). Marks in a thought that every server takes for its end, or mlx_lm.server for a call, are written as
words first, as traces_prepare.py does. The model's own template is tried with thoughts only where it writes any.
"""

import json
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from kxl.base import cli, report
from kxl.base.cli import UserError
from kxl.base.files import ROOT, read_text, scratch_dir, sha256, shown
from kxl.chat import loss_mask, thoughts
from kxl.chat import rows as chat_rows
from kxl.chat.rows import calls_of
from kxl.setup import llama_cpp
from kxl.traces import filters, parsers, roundtrip

OURS = ROOT / "configs" / "templates" / "lfm2.5-tools.jinja"

# Each is one string that some template or parser has been seen to break, and why it is here.
DIFFICULT = {
    "apostrophe": "it's",
    "double quotes": 'say "hi"',
    "both quotes": 'it\'s "it"',
    "regex": r"\d+\.\w*",
    "windows path": r"C:\new\table",
    "trailing backslash": "ends with \\",
    "newline": "two\nlines",
    "tab": "a\tb",
    "carriage return": "a\r\nb",
    "control character": "bell\x07 escape\x1b zero\x00",
    "injected argument": "a', n=5, u='b",
    "injected argument in double quotes": 'a", n=5, u="b',
    "closing brackets": ")]}\"'",
    "braces": "{}",
    "template syntax": "{{ messages }} {% raw %}",
    "html": "<a href='/x?a=1&b=2'>it's</a>",
    "json": '{"a": "b\\n"}',
    "escape that is text": "\\n \\u0041",
    "unicode": "grüße 日本語 🌍 \u2028 \u200b",
    "python words": "None True False null",
    "empty": "",
    "spaces": "  both sides  ",
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "try_it",
            "description": "Takes anything.",
            "parameters": {
                "type": "object",
                "properties": {"s": {"type": "string"}, "u": {"type": "string"}, "n": {"type": "integer"}, "v": {}},
            },
        },
    }
]
VALUES = {
    "list": [1, "it's", [None, True, 2.5]],
    "dict": {"a": {"b": ["\\", "\n"]}, "it's": False},
    "numbers": [0, -1, 1.5, 1e22, -3e-7, 2**53],
    "empty dict and list": {"a": {}, "b": []},
    "nothing": None,
    "true": True,
}


# Thoughts that some parser could take for something else; tried before a call, before an answer, and before both.
THOUGHTS = {
    "plain": "The file must be listed first.",
    "apostrophes and quotes": "it's \"quoted\" and 'quoted' and it\\'s",
    "several lines": "First this.\n\n- one\n- two\n\tindented",
    "call in native words": 'I could say [try_it(s="x")] or try_it(s="x").',
    "call in native marks": '<|tool_call_start|>[try_it(s="no")]<|tool_call_end|> is one way.',
    "call in Hermes's marks": '<tool_call>\n{"name": "try_it", "arguments": {"s": "no"}}\n</tool_call> is another.',
    "beginning of a call": "<|tool_call_start|> begins one, and so does <tool_call>.",
    "end of a call": "]<|tool_call_end|> and </tool_call> end one.",
    "json": '{"name": "try_it", "arguments": {"s": "\\n"}}',
    "end mark": "The tag </think> closes it.",
    "end mark in code": "Write `</think>` or\n```\n</think>\n```",
    "end mark as the last word": "It ends with </think>",
    "beginning mark": "The tag <think> opens it.",
    "both marks": "Put <think>a plan</think> first.",
    "end of a turn": "<|im_end|> ends a turn, <|im_start|>user begins one.",
    "brackets": ")]}\"' [[(({{",
    "template syntax": "{{ messages }} {% raw %} {# x #}",
    "html": "<a href='/x?a=1&b=2'>it's</a> <br/>",
    "unicode": "grüße 日本語 🌍 \u2028 \u200b",
    "control characters": "bell\x07 escape\x1b",
    "backslashes": "C:\\new\\table \\d+ \\",
    "long": "so it goes on and on, " * 200 + "and ends",
}


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder with tokenizer.json and chat_template.jinja")
    parser.add_argument("--template", type=Path, help="another chat template, to try it with this model's tokenizer")
    parser.add_argument(
        "--rows",
        type=Path,
        action="append",
        default=[],
        help="rows whose calls and thoughts are tried, too; may be given several times",
    )
    parser.add_argument("--report", type=Path, required=True, help="report to write (JSON)")
    parser.add_argument("--show", type=int, default=20, help="broken turns to print; the report has all")
    parser.add_argument("--alone", action="store_true", help="try neither our template nor the published ones")
    args = parser.parse_args()

    chat = loss_mask.load(args.model)
    if args.template:
        chat = replace(chat, template=read_text(args.template))
    own = [row for path in args.rows for row in rows(path)]
    thinking = [row for row in own if any(message.get("reasoning_content") for message in row["messages"])]
    calling = difficult() + [row for row in own if row not in thinking]
    which = shown(args.template or args.model)
    found = {which: tried(chat, calling, thinking, thoughtful(chat), keep=thoughts.writes_thoughts(chat.template))}
    others = [] if args.alone else [OURS, *published()]
    for path in others:
        other = replace(chat, template=path.read_text(encoding="utf-8"))
        found[shown(path) if path == OURS else path.name] = tried(other, difficult(), [], thoughtful(chat))

    inputs = [args.template or args.model / "chat_template.jinja", *args.rows, *([] if args.alone else [OURS])]
    report.write(
        args.report,
        [path for path in inputs if path.is_file()],
        {
            "difficult": len(difficult()),
            "thoughts": len(THOUGHTS),
            "rewritten_thoughts": [name for name, text in THOUGHTS.items() if prepared(text, chat) != text],
            "parsers": list(parsers.PARSERS),
            "published": [{"name": path.name, "sha256": sha256(path)} for path in others if path != OURS],
        },
        # What the published ones break is told by row and parser; all of it would be some hundred kilobytes.
        {**found[which], "templates": {name: one if name == which else brief(one) for name, one in found.items()}},
    )
    judged = {name: one["broken"] for name, one in found.items() if name in (which, shown(OURS))}
    for one in [one for broken in judged.values() for one in broken][: args.show]:
        print(f"{one['row']}: {one['parser']}: {one['turn']}\n    written as {one['written']!r}\n    {one['problem']}")
    for name, one in found.items():
        if name not in judged:
            cli.say(f"{name}, as published, breaks {one['broken_rows']} of {one['rows']} difficult rows")
    for name, broken in judged.items():
        if broken:
            raise UserError(
                f"{name}: the template breaks {found[name]['broken_rows']} of {found[name]['rows']:,} rows"
                f" ({len(broken)} findings, all in {shown(args.report)}); write arguments with tojson and thoughts"
                f" between their marks, as {shown(OURS)} does"
            )
    turns = sum(found[name]["turns"] for name in judged)
    print(f"{' and '.join(judged)}: all of {turns:,} turns come back as they were from {len(parsers.PARSERS)} parsers")


def published() -> list[Path]:
    """The LFM templates of the pinned llama.cpp tree, as their makers wrote them."""
    return sorted((llama_cpp.source_tree() / "models" / "templates").glob("LFM*.jinja"))


def tried(chat: loss_mask.Chat, calling: list, thinking: list, thoughtful: list, keep: bool = True) -> dict:
    """What one template breaks of rows with calls, and of rows with thoughts, kept and dropped.

    `thinking` are a user's own rows, tried as they are in any case; `thoughtful` ours, kept with `keep` alone.
    """
    every = thinking + thoughtful
    kept = thinking + (thoughtful if keep else [])
    kinds = {"calls": calling, "kept": kept, "dropped": [without_thoughts(row) for row in every]}
    made = {"broken": [], "turns": 0, "thoughts": {"written": thoughts.writes_thoughts(chat.template)}}
    known = {}
    with scratch_dir() as folder, parsers.Readers(chat, Path(folder)) as readers:
        for kind, some in kinds.items():
            broken, turns = check(chat, readers, some, known)
            made["broken"] += [{**one, "kind": kind} for one in broken]
            made["turns"] += turns
            made["thoughts"][kind] = {
                "rows": len(some),
                "turns": turns,
                "broken_rows": len({one["row"] for one in broken}),
            }
    every = [row for some in kinds.values() for row in some]
    made["rows"] = len(every)
    made["calls"] = sum(len(message.get("tool_calls", [])) for row in every for message in row["messages"])
    made["broken_rows"] = len({(one["kind"], one["row"]) for one in made["broken"]})
    made["broken_by_parser"] = {
        parser: sum(one["parser"] == parser for one in made["broken"]) for parser in ("template", *parsers.PARSERS)
    }
    return made


def brief(found: dict) -> dict:
    """The counts of one template, with each broken row's name and what the parsers say."""
    named = {}
    for one in found["broken"]:
        named.setdefault(f"{one['row']} ({one['kind']})", {})[one["parser"]] = one["problem"][:120]
    return {**found, "broken": named}


def difficult() -> list[dict]:
    """A row per difficult string and value, and one with parallel calls."""
    made = {f"string: {name}": [{"s": text, "u": "second"}] for name, text in DIFFICULT.items()}
    made |= {f"value: {name}": [{"n": 7, "v": value}] for name, value in VALUES.items()}
    made["parallel calls"] = [{"s": "one"}, {"s": "it's two", "v": [1]}, {"u": "three\n"}]
    return [
        {"id": name, "tools": TOOLS, "messages": [{"role": "user", "content": "Go."}, said("", *calls)]}
        for name, calls in made.items()
    ]


def thoughtful(chat: loss_mask.Chat) -> list[dict]:
    """A row per thought and what follows it, and one of three requests that all have thoughts."""
    user, result = {"role": "user", "content": "Go."}, {"role": "tool", "tool_call_id": "call_1", "content": "done"}
    made = []
    for name, text in THOUGHTS.items():
        thought = prepared(text, chat)
        for after, message in (
            ("a call", said("", {"s": "x", "n": 1}, thought=thought)),
            ("an answer", said("It is done, isn't it?", thought=thought)),
            ("both", said("First this:", {"s": "x"}, {"u": "</y>"}, thought=thought)),
        ):
            made.append({"id": f"thought: {name}, before {after}", "tools": TOOLS, "messages": [user, message]})
    turns = [said("", {"s": "x"}, thought="a call"), result, said("It is done.", thought="an answer")]
    made.append({"id": "thoughts: three requests", "tools": TOOLS, "messages": [user, *turns] * 3})
    return made


def prepared(thought: str, chat: loss_mask.Chat) -> str:
    """A thought as traces_prepare.py hands it on."""
    return thoughts.as_words(thought, filters.thought_marks(chat.control_tokens))


def said(text: str, *calls: dict, thought: str = "") -> dict:
    """An assistant's message with these calls of try_it."""
    made = [
        {"id": f"call_{place}", "type": "function", "function": {"name": "try_it", "arguments": arguments}}
        for place, arguments in enumerate(calls, 1)
    ]
    return {
        "role": "assistant",
        "content": text,
        **({"tool_calls": made} if made else {}),
        **({"reasoning_content": thought} if thought else {}),
    }


def without_thoughts(row: dict) -> dict:
    messages = [{key: message[key] for key in message if key != "reasoning_content"} for message in row["messages"]]
    return {**row, "messages": messages}


def rows(path: Path) -> list[dict]:
    """The rows of a file that have calls or thoughts."""
    found = []
    for where, row in chat_rows.read(path):
        tools = chat_rows.tools_of(row) or []
        found.append({"id": str(row.get("id") or where), "messages": row["messages"], "tools": tools})
    return [row for row in found if any(map(worth_reading, row["messages"]))]


def worth_reading(message: dict) -> bool:
    return bool(message.get("tool_calls") or message.get("reasoning_content"))


def check(
    chat: loss_mask.Chat, readers: parsers.Readers, tried: list[dict], known: dict | None = None
) -> tuple[list[dict], int]:
    """(findings, turns tried). Turns that are written alike are read once; `known` remembers them."""
    broken, turns, known = [], 0, {} if known is None else known
    for row in tqdm(tried, desc="reading turns back", unit=" rows"):
        messages = row["messages"]
        try:
            views = chat.views(messages, row["tools"])
        except loss_mask.MaskError as error:
            finding = {"parser": "template", "turn": "", "written": "", "problem": str(error)}
            broken.append({"row": row["id"], **finding})
            continue
        for text, place, (start, end) in ((view.text, *span) for view in views for span in view.spans.items()):
            message, written = messages[place], text[start:end].removesuffix(chat.end)
            turns += 1
            called = sorted({call["name"] for call in calls_of(message)})
            key = json.dumps([_turn(message), written, called])
            if key not in known:
                found = readers.problems(message, written, row["tools"])
                known[key] = {parser: problem for parser, problem in found.items() if problem}
            broken += [
                {"row": row["id"], "parser": parser, "turn": _turn(message), "written": written, "problem": problem}
                for parser, problem in known[key].items()
            ]
    return broken, turns


def _turn(message: dict) -> str:
    calls = roundtrip.canonical(calls_of(message))
    return json.dumps([message.get("reasoning_content", ""), message["content"], calls], ensure_ascii=False)


if __name__ == "__main__":
    cli.run(main)
