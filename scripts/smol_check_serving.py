"""Ask a served model the held-out tool prompts as an agent would, and count structured tool_calls.

In:  heldout.jsonl of scripts/prepare_data.py and one of: a GGUF file (served by the pinned llama-server), a
     checkpoint folder (served by mlx_lm.server, float32 on Linux).
Out: a report; results {prompts, structured, right_tool, leaks, errors, details}.

  .venv/bin/python scripts/smol_check_serving.py --config configs/smollm2-135m.json --data runs/smollm2-135m/data \\
      --gguf runs/smollm2-135m/q4kxl.gguf --out reports/smollm2-135m/serving.q4kxl.json

structured: finish_reason tool_calls, with calls, and no call left in the text. right_tool: of exactly the expected
tool. Where fewer prompts get that than the config's emission.min_right_tool, the report is named NAME.failed.json and
the exit code is 2.
"""

from pathlib import Path

from tqdm import tqdm

from kxl.base import cli, report
from kxl.base.cli import UserError
from kxl.base.files import read_json, shown
from kxl.eval import client as eval_client
from kxl.eval import server as eval_server
from kxl.eval import suites, verdicts
from kxl.smol import rows as smol_rows

CONTEXT = 4096


def serve(args, log: Path):
    """A context manager with the running server for the GGUF file or the checkpoint folder of `args`."""
    if args.gguf:
        return eval_server.llama_server(args.gguf, log, CONTEXT)
    return eval_server.mlx_server(args.model, log)


def ask(client: eval_client.Client, row: dict, max_tokens: int) -> dict:
    """One prompt's entry."""
    suite = suites.Suite("heldout", row["tools"], max_tokens, [])
    answer, _ = client.ask(suite, {"id": row["id"], "messages": row["messages"]})
    names = [call["name"] for call in answer.calls]
    leaks = verdicts.leaks(suite, answer)
    structured = answer.finish_reason == "tool_calls" and bool(names) and not leaks and not answer.errors
    return {
        "id": row["id"],
        "expected": row["expected"],
        "calls": answer.calls,
        "content": answer.content,
        "finish_reason": answer.finish_reason,
        "errors": answer.errors,
        "leaks": leaks,
        "structured": structured,
        "right_tool": structured and names == row["expected"],
    }


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--config",
        type=Path,
        required=True,
        help="model config, whose emission.min_right_tool (share of the prompts) is the gate",
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of scripts/prepare_data.py")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--gguf", type=Path, metavar="FILE", help="GGUF file")
    source.add_argument("--model", type=Path, metavar="DIR", help="checkpoint folder")
    parser.add_argument("--limit", type=int, default=50, help="how many prompts")
    parser.add_argument("--max-tokens", type=int, default=96, help="longest answer, in tokens")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="report to write")
    args = parser.parse_args()

    wanted = read_json(args.config)["emission"]["min_right_tool"]
    rows = [row for row in smol_rows.read(args.data / "heldout.jsonl") if row["kind"] == "tool"][: args.limit]
    log = args.out.with_suffix(".server.log")
    with serve(args, log) as server:
        client = eval_client.Client(server, "openai")
        details = [ask(client, row, args.max_tokens) for row in tqdm(rows, desc="prompts", unit="prompt")]
    log.unlink(missing_ok=True)
    results = {
        "prompts": len(details),
        "structured": sum(entry["structured"] for entry in details),
        "right_tool": sum(entry["right_tool"] for entry in details),
        "leaks": sum(bool(entry["leaks"]) for entry in details),
        "errors": sum(bool(entry["errors"]) for entry in details),
        "details": details,
    }
    met = results["right_tool"] >= wanted * results["prompts"]
    report.write_gated(
        args.out,
        met,
        [args.data / "heldout.jsonl", args.gguf or args.model / "model.safetensors"],
        {"backend": "llama_cpp" if args.gguf else "mlx", "context": CONTEXT, "max_tokens": args.max_tokens},
        results,
    )
    summary = (
        f"{results['structured']} of {results['prompts']} prompts got structured tool_calls, "
        f"{results['right_tool']} of the right tool"
    )
    if not met:
        raise UserError(
            f"{shown(args.gguf or args.model)}: {summary}, {wanted:.0%} are required; every answer is in "
            f"{shown(report.failed_path(args.out))}. Look at raw tokens with scripts/smol_inspect.py; a quant that "
            "lost what its BF16 file has needs a finer type in its policy"
        )
    print(f"{shown(args.out)}: {summary}")


if __name__ == "__main__":
    cli.run(main)
