"""Ask a served model a judging set's tool prompts as an agent would, and count structured tool_calls.

In:  a judging set (scripts/smol_build_sets.py), the report of scripts/smol_evaluate.py on the same set, and one of: a
     GGUF file (served by the pinned llama-server), a checkpoint folder (served by mlx_lm.server, float32 on Linux).
Out: a report; results {prompts, structured, raw, right_tool, right_arguments, leaks, errors, details}.

  .venv/bin/python scripts/smol_check_serving.py --config configs/smollm2-135m.json --set datasets/smol/test.json \\
      --raw reports/smollm2-135m/emission.json --gguf runs/smollm2-135m/q4kxl.gguf \\
      --out reports/smollm2-135m/serving.q4kxl.json

structured: finish_reason tool_calls, with calls, and no call left in the text. raw: how many of the same prompts got a
whole call on raw tokens. Where the server structures fewer than those by more than the config's
emission.max_served_loss (share of the prompts), the report is named NAME.failed.json and the exit code is 2.
"""

from pathlib import Path

from tqdm import tqdm

from kxl.base import cli, report
from kxl.base import config as configs
from kxl.base.cli import UserError
from kxl.base.files import shown
from kxl.eval import client as eval_client
from kxl.eval import server as eval_server
from kxl.eval import suites, verdicts
from kxl.release import reports
from kxl.smol import scores, sets, tokens

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
        "right_tool": structured and names == [call["name"] for call in row["expected"]],
        "right_arguments": structured
        and len(names) == len(row["expected"])
        and all(map(sets.right_arguments, answer.calls, row["expected"])),
    }


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--config", type=Path, required=True, help="model config, whose emission.max_served_loss is the gate"
    )
    parser.add_argument("--set", type=Path, required=True, metavar="FILE", help="judging set")
    parser.add_argument(
        "--raw", type=Path, required=True, metavar="FILE", help="report of scripts/smol_evaluate.py on that set"
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--gguf", type=Path, metavar="FILE", help="GGUF file")
    source.add_argument("--model", type=Path, metavar="DIR", help="checkpoint folder")
    parser.add_argument("--limit", type=int, help="how many prompts, from all over the set (default: all)")
    parser.add_argument("--max-tokens", type=int, default=96, help="longest answer, in tokens")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="report to write")
    args = parser.parse_args()

    config = configs.load(args.config, configs.SMOL)
    allowed = config["emission"]["max_served_loss"]
    rows = scores.of_kind(sets.read(args.set), "tool")
    rows = [{**row, "messages": tokens.with_system(row["messages"], config)} for row in rows]
    if args.limit:
        rows = rows[:: max(1, len(rows) // args.limit)][: args.limit]
    passed = report.failed_path(args.raw) if not args.raw.exists() else args.raw
    measured = reports.load("emission", passed)["results"]["details"]["after"]
    raw = {entry["id"]: entry for entry in scores.of_kind(measured, "tool")}
    if missing := [row["id"] for row in rows if row["id"] not in raw]:
        raise UserError(f"{shown(passed)}: did not measure {missing[0]}; measure {shown(args.set)} again")
    log = args.out.with_suffix(".server.log")
    with serve(args, log) as server:
        client = eval_client.Client(server, "openai")
        details = [ask(client, row, args.max_tokens) for row in tqdm(rows, desc="prompts", unit="prompt")]
    log.unlink(missing_ok=True)
    results = {
        "prompts": len(details),
        "structured": sum(entry["structured"] for entry in details),
        "raw": sum(raw[row["id"]]["verdict"] == "call" for row in rows),
        "right_tool": sum(entry["right_tool"] for entry in details),
        "right_arguments": sum(entry["right_arguments"] for entry in details),
        "leaks": sum(bool(entry["leaks"]) for entry in details),
        "errors": sum(bool(entry["errors"]) for entry in details),
        "details": details,
    }
    met = results["structured"] >= results["raw"] - allowed * results["prompts"]
    report.write_gated(
        args.out,
        met,
        [args.set, passed, args.gguf or args.model / "model.safetensors"],
        {"backend": "llama_cpp" if args.gguf else "mlx", "context": CONTEXT, "max_tokens": args.max_tokens},
        results,
    )
    summary = (
        f"{results['structured']} of {results['prompts']} prompts got structured tool_calls, "
        f"{results['right_tool']} of the right tool"
    )
    if not met:
        raise UserError(
            f"{shown(args.gguf or args.model)}: {summary}; on raw tokens {results['raw']} got a whole "
            f"call, and at most {allowed:.0%} may be lost. Every answer is in "
            f"{shown(report.failed_path(args.out))}. Look at raw tokens with scripts/smol_inspect.py; a quant that "
            "lost what its BF16 file has needs a finer type in its policy"
        )
    print(f"{shown(args.out)}: {summary}")


if __name__ == "__main__":
    cli.run(main)
