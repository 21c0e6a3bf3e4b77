"""Tell which calls a model's chat template would break: write each, read it back with three parsers, compare.

In:  a model folder (its chat_template.jinja, or another with --template); rows of traces_prepare.py, whose calls are
     tried, beside a list of difficult strings that is always tried.
Out: one line per broken call (row, string, parser, what came back) and a report; exit code 2 when there is one.

  .venv/bin/python scripts/traces_check_template.py --model models/tiny --rows runs/tiny/data/train.jsonl --report reports/tiny/template.json

The parsers are kxl/chat/tool_syntax.py, mlx-lm's pythonic parser, and the one inside the pinned llama-server, which
chooses it by the template.
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from kxl.base import cli, jsonl, report
from kxl.base.cli import UserError
from kxl.base.files import shown
from kxl.chat import loss_mask
from kxl.traces import parsers, roundtrip

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


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder with tokenizer.json and chat_template.jinja")
    parser.add_argument("--template", type=Path, help="another chat template, to try it with this model's tokenizer")
    parser.add_argument(
        "--rows",
        type=Path,
        action="append",
        default=[],
        help="rows whose calls are tried, too; may be given several times",
    )
    parser.add_argument("--report", type=Path, required=True, help="report to write (JSON)")
    parser.add_argument("--show", type=int, default=20, help="broken calls to print; the report has all")
    args = parser.parse_args()

    chat = loss_mask.load(args.model)
    if args.template:
        chat = replace(chat, template=args.template.read_text(encoding="utf-8"))
    tried = difficult() + [one for path in args.rows for one in rows(path)]
    with tempfile.TemporaryDirectory() as folder, parsers.Readers(chat, Path(folder)) as readers:
        broken, turns = check(chat, readers, tried)
    inputs = [args.template or args.model / "chat_template.jinja", *args.rows]
    report.write(
        args.report,
        [path for path in inputs if path.is_file()],
        {"difficult": len(difficult()), "parsers": list(parsers.PARSERS)},
        {
            "turns": turns,
            "calls": sum(len(message["tool_calls"]) for row in tried for message in with_calls(row)),
            "rows": len(tried),
            "broken": broken,
            "broken_rows": len({one["row"] for one in broken}),
            "broken_by_parser": {
                parser: sum(one["parser"] == parser for one in broken) for parser in ("template", *parsers.PARSERS)
            },
        },
    )
    for one in broken[: args.show]:
        print(f"{one['row']}: {one['parser']}: {one['call']}\n    written as {one['written']!r}\n    {one['problem']}")
    which = shown(args.template or args.model)
    if broken:
        raise UserError(
            f"{which}: the template breaks {len({one['row'] for one in broken})} of {len(tried):,} rows ({len(broken)} findings, all in {shown(args.report)});"
            " write arguments with tojson, as configs/templates/lfm2.5-tools.jinja does"
        )
    print(f"{which}: all calls of {len(tried):,} rows come back as they were from {len(parsers.PARSERS)} parsers")


def difficult() -> list[dict]:
    """A row per difficult string and value, and one with parallel calls."""
    tried = {f"string: {name}": [{"s": text, "u": "second"}] for name, text in DIFFICULT.items()}
    tried |= {f"value: {name}": [{"n": 7, "v": value}] for name, value in VALUES.items()}
    tried["parallel calls"] = [{"s": "one"}, {"s": "it's two", "v": [1]}, {"u": "three\n"}]
    return [
        {
            "id": name,
            "tools": TOOLS,
            "messages": [
                {"role": "user", "content": "Go."},
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [
                        {
                            "id": f"call_{place}",
                            "type": "function",
                            "function": {"name": "try_it", "arguments": arguments},
                        }
                        for place, arguments in enumerate(calls, 1)
                    ],
                },
            ],
        }
        for name, calls in tried.items()
    ]


def rows(path: Path) -> list[dict]:
    """The rows of a file that have calls."""
    found = []
    for where, row in jsonl.objects(path, "`make data`"):
        if not isinstance(row.get("messages"), list):
            raise UserError(f"{where}: not a row of traces_prepare.py: it has no list of messages")
        found.append({"id": row.get("id") or where, "messages": row["messages"], "tools": row.get("tools") or []})
    return [row for row in found if with_calls(row)]


def with_calls(row: dict) -> list[dict]:
    return [message for message in row["messages"] if message.get("tool_calls")]


def check(chat: loss_mask.Chat, readers: parsers.Readers, tried: list[dict]) -> tuple[list[dict], int]:
    """(findings, turns tried). Turns that are written alike are read once."""
    broken, known, turns = [], {}, 0
    for row in tqdm(tried, desc="reading calls back", unit=" rows"):
        try:
            text, spans = chat.turns(row["messages"], row["tools"])
        except loss_mask.MaskError as error:
            broken.append(
                {
                    "row": row["id"],
                    "parser": "template",
                    "call": _calls(with_calls(row)[0]),
                    "written": "",
                    "problem": str(error),
                }
            )
            continue
        said = [text[start:end].removesuffix(chat.end) for start, end in spans]
        for message, written in zip((message for message in row["messages"] if message["role"] == "assistant"), said):
            if not message.get("tool_calls"):
                continue
            turns += 1
            key = json.dumps(
                [_calls(message), written, sorted({call["function"]["name"] for call in message["tool_calls"]})]
            )
            if key not in known:
                known[key] = {
                    parser: problem
                    for parser, problem in readers.problems(message, written, row["tools"]).items()
                    if problem
                }
            broken += [
                {"row": row["id"], "parser": parser, "call": _calls(message), "written": written, "problem": problem}
                for parser, problem in known[key].items()
            ]
    return broken, turns


def _calls(message: dict) -> str:
    return roundtrip.canonical(roundtrip.calls_of(message))


if __name__ == "__main__":
    cli.run(main)
