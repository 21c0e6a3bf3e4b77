"""Check that a checkpoint, served by mlx_lm.server as it is installed, answers with structured tool calls.

In:  a checkpoint folder. Out: a last line that says what came back, or an error that says what is missing.

  .venv/bin/python scripts/repair_check_parser.py --model models/tiny

First the files are read (tokenizer_config.json, template, call markers), then the server is started and asked to open
a page in the browser, with Hermes's browser tool on offer. The answer must be one structured call with finish_reason
"tool_calls". Markers that come back as text mean that the server has no parser for this checkpoint. mlx-lm's own
files are compared with the hashes of its wheel, so that a patched parser does not stand in for the metadata.
"""

import base64
import hashlib
import importlib.metadata
from pathlib import Path

from kxl.base import cli
from kxl.base.cli import UserError
from kxl.base.files import shown
from kxl.chat import hermes_tools, parser_metadata, tool_syntax
from kxl.eval import client as eval_client
from kxl.eval import server as eval_server
from kxl.eval import verdicts
from kxl.eval.suites import Suite

PROMPT = "Please open https://example.com in the browser."
SYSTEM = "You are Hermes Agent, a helpful assistant that can use tools."
# The parts of mlx-lm that turn text into calls; a patch to any of them would hide missing metadata.
PARSING = ("mlx_lm/server.py", "mlx_lm/tokenizer_utils.py", "mlx_lm/tool_parsers/")


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="checkpoint folder")
    parser.add_argument(
        "--log",
        type=Path,
        help="the server's log (default: check_parser.log in the current folder, kept only after an error)",
    )
    parser.add_argument(
        "--thinking-tokens", type=int, default=0, metavar="N", help="tokens that a model which thinks may think first"
    )
    args = parser.parse_args()
    if not (args.model / "config.json").is_file():
        raise UserError(f"{shown(args.model)}: no config.json there; MODEL must name a checkpoint folder")
    if patched := patched_files():
        raise UserError(
            f"the installed mlx-lm is patched ({', '.join(patched)}); install it again with `make distclean venv`"
        )
    missing = parser_metadata.problems(args.model)
    log = args.log or Path("check_parser.log")
    case = {
        "id": "check_parser",
        "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": PROMPT}],
    }
    suite = Suite("check_parser", hermes_tools.load(["browser_navigate"]), 128, [case])
    with eval_server.mlx_server(args.model, log) as server:
        tokenizer = eval_client.load_tokenizer(args.model)
        client = eval_client.Client(server, "mlx", tokenizer=tokenizer, thinking_tokens=args.thinking_tokens)
        parsed, raw = client.ask(suite, case)
    listed = "".join(f"\n  - {lack}" for lack in missing)
    if problem := verdict(parsed, raw):
        raise UserError(f"{shown(args.model)}: {problem}{listed}")
    if missing:
        raise UserError(
            f"{shown(args.model)}: answers with structured calls here, because mlx-lm "
            f"{importlib.metadata.version('mlx-lm')} guesses the parser; elsewhere it may not:{listed}"
        )
    if not args.log:
        log.unlink(missing_ok=True)
    call = tool_syntax.render_calls(parsed.calls)
    print(f"{shown(args.model)}: {call} came back structured, finish_reason {parsed.finish_reason}")


def verdict(parsed, raw) -> str | None:
    """What is wrong with the answer; None when it is one structured call of the browser."""
    if problem := verdicts.thought_problem(parsed):
        return f"no call came back, the answer is a thought: {problem}"
    if tool_syntax.CALL_START in parsed.content or tool_syntax.find_leaks(parsed.content):
        return (
            f"the server answered with the call as text ({parsed.content[:120]!r}): it does not know how this "
            f'checkpoint writes calls. tokenizer_config.json must say "{parser_metadata.KEY}": '
            f'"{parser_metadata.PYTHONIC}", and the template must take tools'
        )
    if parsed.errors:
        return (
            f"the server could not read the model's call {raw.raw_text[:160]!r}: {parsed.errors[0]}. The parser is "
            "there, the model's syntax is not right"
        )
    if not parsed.calls:
        return (
            f"no call came back, but text: {parsed.content[:160]!r}. Parser or not, this model did not try to call "
            "a tool; see `make eval`"
        )
    if parsed.finish_reason != "tool_calls":
        return f"finish_reason is {parsed.finish_reason!r} although there are calls, expected 'tool_calls'"
    if parsed.calls[0]["name"] != "browser_navigate":
        return f"called {parsed.calls[0]['name']}, the only tool on offer was browser_navigate"
    return None


def patched_files() -> list[str]:
    """mlx-lm's files for reading calls that differ from its wheel's RECORD."""
    return [
        str(file)
        for file in importlib.metadata.files("mlx-lm") or []
        if str(file).startswith(PARSING)
        and file.hash
        and base64.urlsafe_b64encode(hashlib.new(file.hash.mode, file.read_binary()).digest()).rstrip(b"=").decode()
        != file.hash.value
    ]


if __name__ == "__main__":
    cli.run(main)
