"""Score a model on a suite of tool-calling cases and write the report.

In: a suite (evals/suites/*.json) and one of: a GGUF file (served by the pinned llama-server), a checkpoint
folder (served by mlx_lm.server), or the URL of a server that runs already.
Out: a report with the verdict on every case, parsed by the server and raw (the model's own tokens).
With --config, the thresholds of the config gate the run: below them the report is written as
NAME.failed.json instead, and the exit code is 2.
An interrupted run goes on where it was when it is started again: answers are kept in NAME.answers.jsonl until then.

  python scripts/eval_run.py --suite evals/suites/fixed_hermes_43.json --config configs/tiny.json \\
      --gguf runs/tiny/hermes-kxl-tiny-q4kxl.gguf --artifact q4kxl \\
      --out evals/tiny/fixed_hermes_43.llama_cpp.q4kxl.json
"""

import argparse
import contextlib
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

from kxl.base import cli, report, statistics
from kxl.base.files import read_json, shown
from kxl.eval import client as eval_client
from kxl.eval import server as eval_server
from kxl.eval import suites
from kxl.eval.journal import Journal


def main() -> None:
    args = arguments()
    config = read_json(args.config)["eval"] if args.config else {}
    suite = suites.load(args.suite)
    context = args.context or config.get("context", 65536)
    log = args.server_log or args.out.with_suffix(".server.log")
    started = time.monotonic()
    inputs = [report.describe_input(path) for path in filter(None, [args.suite, args.gguf, args.model])]
    settings = {
        "suite": suite.name,
        "backend": args.backend,
        "artifact": args.artifact,
        "temperature": args.temperature,
        "max_tokens": suite.max_tokens,
        "context": context if args.gguf else None,
        "float32": args.float32 if args.model else None,
        "model_name": args.model_name,
    }
    if args.temperature:
        settings |= {"trials": args.trials, "seed": args.seed}
    with serve(args, context, log) as server:
        client = eval_client.Client(
            server, args.backend, args.model_name, args.timeout, temperature=args.temperature, seed=args.seed
        )
        if args.backend == "mlx":
            client.tokenizer = eval_client.load_tokenizer(args.model or args.tokenizer)
        served = eval_server.served_model(server) if args.url else None
        identity = {
            "inputs": inputs,
            "url": args.url,
            "served": served,
            **{key: value for key, value in settings.items() if key != "trials"},
        }
        answers = ask_all(client, suite, Journal(args.out.with_suffix(".answers.jsonl"), identity), args)
        if args.url and eval_server.served_model(server) != served:
            raise cli.UserError(
                f"{args.url} served {served} at first and {eval_server.served_model(server)} at last; answers of two models are not mixed"
            )
    if not args.server_log:
        log.unlink(missing_ok=True)
    details = [
        entry(suite, case, [answers[case["id"], trial] for trial in range(args.trials)], args.backend)
        for case in suite.cases
    ]
    results = count(details, args.trials)
    results["infrastructure"] = {"errors": len(client.stumbles), "details": client.stumbles}
    results["seconds"] = round(time.monotonic() - started)
    thresholds = config.get("suites", {}).get(suite.name)
    if args.config and not thresholds:
        cli.say(f"{shown(args.config)} has no threshold for {suite.name}: this run is scored but not gated")
    failures = gate(results, thresholds)
    report.write_gated(args.out, not failures, inputs, settings, results)
    print(summary(results))
    if failures:
        raise cli.UserError(
            f"{suite.name} on {args.artifact}: {'; '.join(failures)}. Every case is in {shown(report.failed_path(args.out))}"
        )
    print(f"wrote {shown(args.out)}")


def arguments():
    parser = cli.parser(__doc__)
    parser.add_argument("--suite", type=Path, required=True, help="suite file")
    parser.add_argument("--out", type=Path, required=True, help="report file to write")
    parser.add_argument("--artifact", required=True, help="name of what is scored, such as bf16 or q4kxl")
    parser.add_argument("--config", type=Path, help="config file with context and thresholds (see configs/)")
    parser.add_argument(
        "--backend",
        choices=eval_client.BACKENDS,
        default="llama_cpp",
        help="what kind of server it is; openai is any other, of which only parsed answers are scored",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--gguf", type=Path, help="GGUF file, for --backend llama_cpp")
    source.add_argument("--model", type=Path, help="checkpoint folder, for --backend mlx")
    source.add_argument("--url", help="a running server, such as http://127.0.0.1:8080")
    parser.add_argument("--model-name", help="model name sent with --url requests")
    parser.add_argument(
        "--tokenizer", type=Path, help="checkpoint folder whose tokenizer reads raw tokens, for --backend mlx --url"
    )
    parser.add_argument("--context", type=int, help="tokens of context (default: the config's, else 65536)")
    parser.add_argument(
        "--float32",
        action=argparse.BooleanOptionalAction,
        default=sys.platform == "linux",
        help="serve a temporary float32 copy of --model: on a CPU the other types are slow",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=0,
        help="threads of llama-server; fewer than the cores left free on a busy machine, 0 = its own choice",
    )
    parser.add_argument(
        "--trials", type=int, default=1, help="how often each case is asked; a case passes when every trial does"
    )
    parser.add_argument(
        "--temperature", type=float, default=0, help="sampling temperature; several trials need one above 0"
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="sampling seed of the first trial; each further one has the next number"
    )
    parser.add_argument(
        "--parallel",
        type=int,
        default=1,
        help="requests at a time; a llama-server of ours gets as many slots, each with the whole context",
    )
    parser.add_argument("--timeout", type=float, default=300, help="seconds one answer may take")
    parser.add_argument(
        "--server-log", type=Path, help="log of the server (default: beside the report, and kept only after an error)"
    )
    args = parser.parse_args()
    if args.gguf and args.backend != "llama_cpp" or args.model and args.backend != "mlx":
        parser.error("--gguf goes with --backend llama_cpp, --model with --backend mlx")
    if args.backend == "mlx" and args.url and not args.tokenizer:
        parser.error("--backend mlx --url needs --tokenizer to read raw tokens")
    if args.trials < 1 or args.parallel < 1:
        parser.error("--trials and --parallel are at least 1")
    if args.trials > 1 and not args.temperature:
        parser.error("at temperature 0 every trial gives the same answer: add --temperature, such as 0.7")
    for path in filter(None, [args.gguf, args.model, args.tokenizer]):
        if not path.exists():
            raise cli.UserError(f"{shown(path)}: no such file or folder")
    return args


def serve(args, context: int, log: Path):
    """The server to ask: a context manager that yields it."""
    if args.gguf:
        return eval_server.llama_server(
            args.gguf, log, context, extra=("--threads", str(args.threads)) if args.threads else (), slots=args.parallel
        )
    if args.model:
        return eval_server.mlx_server(args.model, log, args.float32)
    return contextlib.nullcontext(eval_server.external(args.url))


def ask_all(client: eval_client.Client, suite: suites.Suite, journal: Journal, args) -> dict:
    """{(case id, trial): (parsed, raw)} for every case and trial, asked for unless the journal has it."""
    todo = [(case, trial) for trial in range(args.trials) for case in suite.cases]
    if found := journal.open():
        cli.say(f"{found} answers of an interrupted run are in {shown(journal.path)} and are not asked for again")
    todo = [(case, trial) for case, trial in todo if (case["id"], trial) not in journal.answers]

    stop = threading.Event()  # set by the first error, so that nobody begins another case

    def one(job: tuple) -> None:
        case, trial = job
        if not stop.is_set():
            try:
                journal.add(case["id"], trial, *client.ask(suite, case, trial))
            except BaseException:
                stop.set()
                raise

    finished = False
    try:
        with ThreadPoolExecutor(args.parallel) as pool:
            jobs = [pool.submit(one, job) for job in todo]
            try:
                for job in tqdm(as_completed(jobs), desc=f"{suite.name} {args.artifact}", unit="case", total=len(jobs)):
                    job.result()
            finally:
                stop.set()
        finished = True
    finally:
        journal.close(finished)
    return journal.answers


def entry(suite: suites.Suite, case: dict, answers: list, backend: str) -> dict:
    """One case's entry in the report: the answer, or with several trials the worst of them and how many passed."""
    tried = [judged(suite, case, *answer, backend) for answer in answers]
    worst = min(
        tried,
        key=lambda one: (
            one["passed"],
            not one["leaks"],
            one["kind"] == "no_tool" and not one["calls"],
            one["raw"]["passed"] if one["raw"] else True,
        ),
    )
    if len(tried) == 1:
        return worst
    if worst["raw"]:
        worst["raw"]["passed"] = all(one["raw"]["passed"] for one in tried)
    return {
        **worst,
        "trials": {
            "passed": [one["passed"] for one in tried],
            "seconds": [one["seconds"] for one in tried],
            "why": sorted({why for one in tried for why in one["why"]}),
        },
    }


def judged(suite: suites.Suite, case: dict, parsed: suites.Answer, raw: suites.Answer | None, backend: str) -> dict:
    """What came back for one case, and the verdict on it. A filled prompt is recorded as its case has it, with its {filler}."""
    why = suites.judge(suite, case, parsed)
    # The chat request continues from the raw one, so its own cache count and time would flatter.
    cost = raw if raw and backend == "llama_cpp" else parsed
    made = {
        "id": case["id"],
        "kind": case["kind"],
        "category": case["category"],
        "messages": case["messages"],
        "content": parsed.content,
        "calls": parsed.calls,
        "finish_reason": parsed.finish_reason,
        "passed": not why,
        "why": why,
        "leaks": suites.leaks(suite.of(case), parsed),
        "raw": None,
        "prompt_tokens": cost.prompt_tokens,
        "cached_tokens": cost.cached_tokens,
        "output_tokens": cost.output_tokens,
        "seconds": round(cost.seconds, 3),
    }
    if raw:
        raw_why = suites.judge(suite, case, raw)
        made["raw"] = {"text": raw.raw_text, "calls": raw.calls, "passed": not raw_why, "why": raw_why}
    return made


def count(details: list, trials: int = 1) -> dict:
    """The numbers of a report from its details. With several trials a case passes when all of them do."""
    of_kind = {kind: [entry for entry in details if entry["kind"] == kind] for kind in suites.KINDS}
    categories = sorted({entry["category"] for entry in details})
    raw = [entry["raw"] for entry in details if entry["raw"]]
    results = {
        **tally(details),
        "tool_calls": tally(of_kind["tool_call"]),
        "no_tool": {
            "cases": len(of_kind["no_tool"]),
            "false_positives": sum(bool(entry["calls"]) for entry in of_kind["no_tool"]),
        },
        "finalization": tally(of_kind["finalization"]),
        "text_tool_leaks": sum(bool(entry["leaks"]) for entry in details),
        "by_category": {name: tally([entry for entry in details if entry["category"] == name]) for name in categories},
        "raw": tally(raw) if raw else None,
        "prompt_tokens": sum(entry["prompt_tokens"] for entry in details),
        "cached_tokens": sum(entry["cached_tokens"] for entry in details),
        "details": details,
    }
    results["intervals"] = {
        name: interval(results[name])
        for name in ("tool_calls", "finalization", "raw")
        if results[name] and results[name]["cases"]
    }
    results["intervals"] |= {
        "passed": interval(results),
        "by_category": {name: interval(tally) for name, tally in results["by_category"].items()},
    }
    times = [
        seconds for entry in details for seconds in (entry["trials"]["seconds"] if trials > 1 else [entry["seconds"]])
    ]
    results["latency"] = {"median": statistics.percentile(times, 0.5), "p95": statistics.percentile(times, 0.95)}
    spent = sum(entry["seconds"] for entry in details)
    results["output_tokens_per_second"] = (
        round(sum(entry["output_tokens"] for entry in details) / spent, 1) if spent else None
    )
    if trials > 1:
        passed = [sum(entry["trials"]["passed"]) for entry in details]
        results["trials"] = {
            "trials": trials,
            "attempts": trials * len(details),
            "passed": sum(passed),
            "pass_hat": {str(k): round(statistics.pass_hat(passed, trials, k), 4) for k in range(1, trials + 1)},
        }
    return results


def interval(tally: dict) -> list:
    """95 % Wilson interval of the share of such cases that would pass."""
    return [round(end, 4) for end in statistics.wilson(tally["passed"], tally["cases"])]


def tally(entries: list) -> dict:
    """{"cases", "passed"} of entries that have "passed"."""
    return {"cases": len(entries), "passed": sum(entry["passed"] for entry in entries)}


def gate(results: dict, thresholds: dict | None) -> list:
    """Which gates the results fail, with numbers; `thresholds` has threshold and raw_threshold (cases that must pass)."""
    if not thresholds:
        return []
    failures = []
    if results["passed"] < thresholds["threshold"]:
        failures.append(
            f"{results['passed']} of {results['cases']} cases passed, {thresholds['threshold']} are required"
        )
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
    low, high = results["intervals"]["passed"]
    lines.append(
        f"{'all':<16} {results['passed']:>3}/{results['cases']}  (95 %: {low:.1%} to {high:.1%}) in {results['seconds']} s,"
        f" {results['text_tool_leaks']} leaks, {results['no_tool']['false_positives']} false positives"
    )
    if results["raw"]:
        lines.append(f"{'raw':<16} {results['raw']['passed']:>3}/{results['raw']['cases']}")
    if "trials" in results:
        lines.append(
            "pass^k           " + ", ".join(f"{k}: {share:.1%}" for k, share in results["trials"]["pass_hat"].items())
        )
    lines.append(
        f"latency          median {results['latency']['median']} s, 95 % within {results['latency']['p95']} s; {results['infrastructure']['errors']} requests had to be repeated"
    )
    lines.append(f"{results['cached_tokens']} of {results['prompt_tokens']} prompt tokens came from the server's cache")
    for entry in results["details"]:
        if entry["why"]:
            lines.append(f"failed {entry['id']}: {entry['why'][0]}")
        elif entry["raw"] and entry["raw"]["why"]:
            lines.append(f"failed raw {entry['id']}: {entry['raw']['why'][0]}")
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
