"""Score a model on a suite of tool-calling cases and write the report.

In: a suite (evals/suites/*.json) and one of: a GGUF file (served by the pinned llama-server), a checkpoint
folder (served by mlx_lm.server), or the URL of a server that runs already.
Out: a report with the verdict on every case, parsed by the server and raw (the model's own tokens).
With --config, the thresholds of the config gate the run: below them the report is written as
NAME.failed.json instead, and the exit code is 2.

  python scripts/run_eval.py --suite evals/suites/fixed_hermes_43.json --config configs/tiny.json \\
      --gguf runs/tiny/hermes-kxl-tiny-q4kxl.gguf --artifact q4kxl \\
      --out evals/tiny/fixed_hermes_43.llama_cpp.q4kxl.json
"""

import argparse
import contextlib
import sys
import time
from pathlib import Path

from tqdm import tqdm

import cli
import eval_case
import model_client
import model_server
import report
from files import read_json, shown


def main() -> None:
    args = arguments()
    config = read_json(args.config)["eval"] if args.config else {}
    suite = eval_case.load(args.suite)
    context = args.context or config.get("context", 65536)
    log = args.server_log or args.out.with_suffix(".server.log")
    started = time.monotonic()
    with serve(args, context, log) as server:
        client = model_client.Client(server, args.backend, args.model_name, args.timeout)
        if args.backend == "mlx":
            client.tokenizer = model_client.load_tokenizer(args.model or args.tokenizer)
        details = [ask(client, suite, case) for case in tqdm(suite.cases, desc=f"{suite.name} {args.artifact}", unit="case")]
    if not args.server_log:
        log.unlink(missing_ok=True)
    results = count(details)
    results["seconds"] = round(time.monotonic() - started)
    settings = {"suite": suite.name, "backend": args.backend, "artifact": args.artifact, "temperature": 0,
                "max_tokens": suite.max_tokens, "context": context if args.gguf else None,
                "float32": args.float32 if args.model else None, "model_name": args.model_name}
    thresholds = config.get("suites", {}).get(suite.name)
    if args.config and not thresholds:
        cli.say(f"{shown(args.config)} has no threshold for {suite.name}: this run is scored but not gated")
    failures = gate(results, thresholds)
    failed = args.out.with_suffix(".failed.json")
    report.write(failed if failures else args.out, [args.suite, *filter(None, [args.gguf, args.model])], settings, results)
    # Exactly one of the two names exists, so that make never takes a failed run for a passed one.
    (args.out if failures else failed).unlink(missing_ok=True)
    print(summary(results))
    if failures:
        raise cli.UserError(f"{suite.name} on {args.artifact}: {'; '.join(failures)}. Every case is in {shown(failed)}")
    print(f"wrote {shown(args.out)}")


def arguments():
    parser = cli.parser(__doc__)
    parser.add_argument("--suite", type=Path, required=True, help="suite file")
    parser.add_argument("--out", type=Path, required=True, help="report file to write")
    parser.add_argument("--artifact", required=True, help="name of what is scored, such as bf16 or q4kxl")
    parser.add_argument("--config", type=Path, help="config file with context and thresholds (see configs/)")
    parser.add_argument("--backend", choices=model_client.BACKENDS, default="llama_cpp",
                        help="what kind of server it is; openai is any other, of which only parsed answers are scored")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--gguf", type=Path, help="GGUF file, for --backend llama_cpp")
    source.add_argument("--model", type=Path, help="checkpoint folder, for --backend mlx")
    source.add_argument("--url", help="a running server, such as http://127.0.0.1:8080")
    parser.add_argument("--model-name", help="model name sent with --url requests")
    parser.add_argument("--tokenizer", type=Path, help="checkpoint folder whose tokenizer reads raw tokens, for --backend mlx --url")
    parser.add_argument("--context", type=int, help="tokens of context (default: the config's, else 65536)")
    parser.add_argument("--float32", action=argparse.BooleanOptionalAction, default=sys.platform == "linux",
                        help="serve a temporary float32 copy of --model: on a CPU the other types are slow")
    parser.add_argument("--threads", type=int, default=0,
                        help="threads of llama-server; fewer than the cores left free on a busy machine, 0 = its own choice")
    parser.add_argument("--timeout", type=float, default=300, help="seconds one answer may take")
    parser.add_argument("--server-log", type=Path, help="log of the server (default: beside the report, and kept only after an error)")
    args = parser.parse_args()
    if args.gguf and args.backend != "llama_cpp" or args.model and args.backend != "mlx":
        parser.error("--gguf goes with --backend llama_cpp, --model with --backend mlx")
    if args.backend == "mlx" and args.url and not args.tokenizer:
        parser.error("--backend mlx --url needs --tokenizer to read raw tokens")
    for path in filter(None, [args.gguf, args.model, args.tokenizer]):
        if not path.exists():
            raise cli.UserError(f"{shown(path)}: no such file or folder")
    return args


def serve(args, context: int, log: Path):
    """The server to ask: a context manager that yields it."""
    if args.gguf:
        return model_server.llama_server(args.gguf, log, context, extra=("--threads", str(args.threads)) if args.threads else ())
    if args.model:
        return model_server.mlx_server(args.model, log, args.float32)
    return contextlib.nullcontext(model_server.external(args.url))


def ask(client: model_client.Client, suite: eval_case.Suite, case: dict) -> dict:
    """Ask one case and judge both answers: its entry in the report."""
    parsed, raw = client.ask(suite, case)
    why = eval_case.judge(suite, case, parsed)
    entry = {
        "id": case["id"], "kind": case["kind"], "category": case["category"], "messages": case["messages"],
        "content": parsed.content, "calls": parsed.calls, "finish_reason": parsed.finish_reason,
        "passed": not why, "why": why, "leaks": eval_case.leaks(suite, parsed),
        "prompt_tokens": parsed.prompt_tokens, "cached_tokens": parsed.cached_tokens, "raw": None,
    }
    if raw:
        raw_why = eval_case.judge(suite, case, raw)
        entry["raw"] = {"text": raw.raw_text, "calls": raw.calls, "passed": not raw_why, "why": raw_why}
        if client.backend == "llama_cpp":
            # The chat request continues from the raw one, so its own cache count would flatter.
            entry |= {"prompt_tokens": raw.prompt_tokens, "cached_tokens": raw.cached_tokens}
    return entry


def count(details: list) -> dict:
    """The numbers of a report from its details."""
    of_kind = {kind: [entry for entry in details if entry["kind"] == kind] for kind in eval_case.KINDS}
    categories = sorted({entry["category"] for entry in details})
    raw = [entry["raw"] for entry in details if entry["raw"]]
    return {
        **tally(details),
        "tool_calls": tally(of_kind["tool_call"]),
        "no_tool": {"cases": len(of_kind["no_tool"]),
                    "false_positives": sum(bool(entry["calls"]) for entry in of_kind["no_tool"])},
        "finalization": tally(of_kind["finalization"]),
        "text_tool_leaks": sum(bool(entry["leaks"]) for entry in details),
        "by_category": {name: tally([entry for entry in details if entry["category"] == name]) for name in categories},
        "raw": tally(raw) if raw else None,
        "prompt_tokens": sum(entry["prompt_tokens"] for entry in details),
        "cached_tokens": sum(entry["cached_tokens"] for entry in details),
        "details": details,
    }


def tally(entries: list) -> dict:
    """{"cases", "passed"} of entries that have "passed"."""
    return {"cases": len(entries), "passed": sum(entry["passed"] for entry in entries)}


def gate(results: dict, thresholds: dict | None) -> list:
    """Which gates the results fail, with numbers; `thresholds` has threshold and raw_threshold (cases that must pass)."""
    if not thresholds:
        return []
    failures = []
    if results["passed"] < thresholds["threshold"]:
        failures.append(f"{results['passed']} of {results['cases']} cases passed, {thresholds['threshold']} are required")
    if (wanted := thresholds.get("raw_threshold")) and results["raw"] and results["raw"]["passed"] < wanted:
        failures.append(f"{results['raw']['passed']} of {results['raw']['cases']} passed raw, {wanted} are required")
    if leaks := results["text_tool_leaks"]:
        failures.append(f"{leaks} answers had a tool call in their text, none may")
    if false := results["no_tool"]["false_positives"]:
        failures.append(f"{false} calls where none was wanted, none may be")
    return failures


def summary(results: dict) -> str:
    """The compact log: one line per category, then each failed case with its first reason."""
    lines = [f"{name:<16} {tally['passed']:>3}/{tally['cases']}" for name, tally in results["by_category"].items()]
    lines.append(f"{'all':<16} {results['passed']:>3}/{results['cases']}  in {results['seconds']} s,"
                 f" {results['text_tool_leaks']} leaks, {results['no_tool']['false_positives']} false positives")
    if results["raw"]:
        lines.append(f"{'raw':<16} {results['raw']['passed']:>3}/{results['raw']['cases']}")
    lines.append(f"{results['cached_tokens']} of {results['prompt_tokens']} prompt tokens came from the server's cache")
    for entry in results["details"]:
        if entry["why"]:
            lines.append(f"failed {entry['id']}: {entry['why'][0]}")
        elif entry["raw"] and entry["raw"]["why"]:
            lines.append(f"failed raw {entry['id']}: {entry['raw']['why'][0]}")
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
