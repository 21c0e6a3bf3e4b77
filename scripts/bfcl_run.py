"""Score a model on the Berkeley Function Calling leaderboard, v4: every category that runs offline.

In:   the cases (bfcl_convert.py) and one of: a GGUF file (served by the pinned llama-server), a checkpoint folder
      (served by mlx_lm.server), the URL of any OpenAI-compatible server, or a scripted agent that needs no model
Out:  a report: by category with 95 % Wilson intervals, the leaderboard's averages over what was run, every case

  .venv/bin/python scripts/bfcl_run.py --cases runs/bfcl/cases.jsonl --gguf runs/tiny/hermes-kxl-tiny-q4kxl.gguf \\
      --config configs/tiny.json --artifact q4kxl --subset 100 --out runs/tiny/bfcl.llama_cpp.q4kxl.json
  .venv/bin/python scripts/bfcl_run.py --cases runs/bfcl/cases.jsonl --url http://127.0.0.1:8080/v1 --artifact mine \\
      --categories multi_turn memory --out bfcl.json

Calls of conversations are carried out by the wheel's own APIs, in a box (kxl/bfcl/place.py). An interrupted run goes on
where it was when it is started again: records are kept in NAME.answers.jsonl until the report is written. Answers are
greedy unless the config or --temperature says otherwise. Categories that a model was trained on do not count: name them
with --trained-on, and they are refused; a question of another category that repeats one of theirs is left out.
"""

import contextlib
import dataclasses
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

from kxl.base import cli, report
from kxl.base.config import load
from kxl.base.files import shown
from kxl.bfcl import answers, cases, conversation, place, scores
from kxl.bfcl.asking import Asker, Reply
from kxl.bfcl.records import Records
from kxl.eval import client as eval_client
from kxl.eval import remote
from kxl.eval import server as eval_server
from kxl.setup import bfcl_env


def arguments():
    parser = cli.parser(__doc__)
    parser.add_argument("--cases", type=Path, required=True, help="cases file")
    parser.add_argument("--out", type=Path, required=True, help="report file to write")
    parser.add_argument("--artifact", required=True, help="name of what is scored, such as bf16 or q4kxl")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--gguf", type=Path, help="GGUF file, served by llama-server")
    source.add_argument("--model", type=Path, help="checkpoint folder, served by mlx_lm.server")
    source.add_argument("--url", help=f"a running server, such as http://127.0.0.1:8080/v1; its key is in {remote.KEY}")
    source.add_argument(
        "--agent",
        choices=answers.AGENTS,
        help="no model: one that answers right, or one that only says that it cannot help",
    )
    parser.add_argument("--categories", nargs="+", default=["all"], help="categories or groups; all = every one")
    parser.add_argument("--trained-on", nargs="*", default=[], help="categories that the model was trained on")
    parser.add_argument("--subset", type=int, help="at most so many cases of each category (default: all)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the subset, and of sampling")
    parser.add_argument("--config", type=Path, help="config file: eval.context, eval.sampling, eval.thinking_tokens")
    parser.add_argument("--context", type=int, help="tokens of context, for --gguf (default: the config's, else 32768)")
    parser.add_argument("--max-tokens", type=int, default=1024, help="tokens of one answer, its thought apart")
    parser.add_argument(
        "--temperature", type=float, help="sampling temperature, 0 = greedy (default: the config's, else 0)"
    )
    parser.add_argument("--parallel", type=int, default=1, help="cases at a time; each may have a box of its own")
    eval_server.add_asking_flags(parser, seconds=600)
    eval_server.add_server_flags(parser)
    parser.add_argument("--no-details", action="store_true", help="leave the single cases out of the report")
    parser.add_argument("--no-isolation", action="store_true", help="without a box: run the APIs with your own rights")
    args = parser.parse_args()
    if args.parallel < 1 or args.max_tokens < 1 or (args.subset is not None and args.subset < 1):
        parser.error("--parallel, --max-tokens and --subset are at least 1")
    for path in filter(None, [args.gguf, args.model]):
        if not path.exists():
            raise cli.UserError(f"{shown(path)}: no such file or folder")
    configured = load(args.config).get("eval", {}) if args.config else {}
    args.context = args.context or configured.get("context", 32768)
    if args.thinking_tokens is None:
        args.thinking_tokens = configured.get("thinking_tokens", 0)
    args.sampling = eval_client.Sampling(**{"seed": args.seed, **configured.get("sampling", {})})
    if args.temperature is not None:
        args.sampling = dataclasses.replace(args.sampling, temperature=args.temperature)
    return args


def main() -> None:
    args = arguments()
    wanted, trained = categories(args)
    loaded = cases.load(args.cases, wanted)
    everything = cases.without_repeats(loaded, cases.load(args.cases, trained) if trained else [])
    whole = {name: sum(case["category"] == name and cases.scored(case) for case in everything) for name in wanted}
    found = cases.subset(everything, args.subset, args.seed)
    settings = {
        "suite": "bfcl",
        "artifact": args.artifact,
        "backend": args.agent or ("llama_cpp" if args.gguf else "mlx" if args.model else "openai"),
        "model_name": args.model_name,
        "categories": wanted,
        "left_out": {name: why for name, why in cases.LEFT_OUT.items()},
        "trained_on": trained,
        "repeats_left_out": len(loaded) - len(everything),
        "subset": args.subset,
        "seed": args.seed,
        "sampling": dataclasses.asdict(args.sampling) if args.sampling.temperature else "greedy",
        "temperature": args.sampling.temperature,
        "max_tokens": args.max_tokens,
        "thinking_tokens": args.thinking_tokens,
        "context": args.context if args.gguf else None,
        "most_steps": conversation.MOST_STEPS,
        "isolation": "none" if args.no_isolation else "namespaces",
    }
    inputs = [report.describe_input(path) for path in filter(None, [args.cases, bfcl_env.LOCK, args.gguf, args.model])]
    log = args.server_log or args.out.with_suffix(".server.log")
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        boxes = queue.Queue()
        for _ in range(min(args.parallel, sum(cases.executable(case["category"]) for case in found))):
            boxes.put(stack.enter_context(place.opened(not args.no_isolation)))
        asker, served = opened_server(args, log, stack)
        # A record is the same whichever cases are asked beside it: a run that was interrupted may end as a smaller one.
        choice = ("categories", "left_out", "trained_on", "repeats_left_out", "subset", "seed")
        same = {name: value for name, value in settings.items() if name not in choice}
        identity = {"inputs": inputs, "served": served, **same}
        records = Records(args.out.with_suffix(".answers.jsonl"), identity)
        ask_all(found, asker, boxes, records, args)
        details = judge_all([case for case in found if cases.scored(case)], records, boxes)
    if not args.server_log:
        log.unlink(missing_ok=True)
    results = scores.count(details, whole)
    quiet = [one for one in details if one["kind"] == "no_tool"]
    results |= {
        "raw": None,
        "no_tool": {"cases": len(quiet), "false_positives": sum(not one["passed"] for one in quiet)},
        "text_tool_leaks": sum(bool(entry["leaks"]) for entry in details),
        "answers": sum(entry["steps"] for entry in details),
        "stopped": sum(entry["stopped"] is not None for entry in details),
        "prompt_tokens": sum(entry["prompt_tokens"] for entry in details),
        "output_tokens": sum(entry["output_tokens"] for entry in details),
        "infrastructure": {"errors": len(asker.client.stumbles) if asker else 0},
        "seconds": round(time.monotonic() - started),
        "failed": [one["id"] for one in details if not one["passed"]] if args.no_details else None,
        "details": [] if args.no_details else details,
    }
    report.write(args.out, inputs, settings, remote.without_key(results))
    records.delete()
    print(remote.hide_key(scores.summary(results)))
    print(f"{results['passed']} of {results['cases']} cases passed; wrote {shown(args.out)}")


def categories(args) -> tuple[list[str], list[str]]:
    """(categories to run, categories that the model was trained on); UserError where they overlap by request."""
    trained = cases.named(args.trained_on)
    if args.categories == ["all"]:
        return [name for name in cases.ALL if name not in trained], trained
    wanted = cases.named(args.categories)
    if both := [name for name in wanted if name in trained and name in args.categories]:
        raise cli.UserError(f"the model was trained on {', '.join(both)}: leave it out of --categories")
    return [name for name in wanted if name not in trained], trained


def opened_server(args, log: Path, stack: contextlib.ExitStack) -> tuple[Asker | None, list | None]:
    """(how to ask the server, what an external one says it serves); (None, None) for a scripted agent."""
    if args.agent:
        return None, None
    if args.gguf:
        extra = ("--threads", str(args.threads)) if args.threads else ()
        server = stack.enter_context(
            eval_server.llama_server(args.gguf, log, args.context, extra=extra, slots=args.parallel)
        )
    elif args.model:
        server = stack.enter_context(eval_server.mlx_server(args.model, log, args.float32))
    else:
        server = eval_server.external(args.url)
    backend = "llama_cpp" if args.gguf else "mlx" if args.model else "openai"
    client = eval_client.Client(server, backend, args.model_name, args.timeout, sampling=args.sampling)
    served = client.take_name() if args.url else None
    return Asker(client, args.max_tokens + args.thinking_tokens), served


def ask_all(found: list[dict], asker: Asker | None, boxes: queue.Queue, records: Records, args) -> None:
    """Hold every conversation whose record is not kept yet.

    They go in the order of the draw, so that a run that is cut short has a smaller subset whole. Memory conversations
    of one scenario go in the file's order.
    """
    if kept := records.open():
        cli.say(f"{kept} records of an interrupted run are in {shown(records.path)} and are not asked for again")
    chains: dict[str, list] = {}
    for case in found:
        chain = f"{case['category']} {case['scenario']}" if "scenario" in case else case["id"]
        chains.setdefault(chain, []).append(case)
    ranks = cases.ranks(found, args.seed)
    ordered = sorted(chains.values(), key=lambda chain: min(ranks.get(case["id"], len(found)) for case in chain))
    stop, bar = threading.Event(), tqdm(total=len(found), initial=kept, desc=f"bfcl {args.artifact}", unit="case")

    def one(chain: list[dict]) -> None:
        memory = None
        for case in chain:
            record = records.of(case["id"])
            if record is None and not stop.is_set():
                try:
                    record = hold(case, asker, boxes, memory, args)
                    records.add(case["id"], 0, record)
                    bar.update()
                except BaseException:
                    stop.set()
                    raise
            memory = (record or {}).get("memory", memory)

    try:
        with ThreadPoolExecutor(args.parallel) as pool, bar:
            try:
                for job in as_completed([pool.submit(one, chain) for chain in ordered]):
                    job.result()
            finally:
                stop.set()
    finally:
        records.close()


def hold(case: dict, asker: Asker | None, boxes: queue.Queue, memory: dict | None, args) -> dict:
    """The record of one case."""
    if asker:

        def ask(messages: list, tools: list) -> Reply:
            return asker.ask(case["id"], messages, tools)
    else:
        ask = answers.scripted(case, args.agent)
    if not cases.executable(case["category"]):
        return conversation.single(case, ask)
    with borrowed(boxes) as apis:
        return conversation.hold(case, ask, apis, memory)


@contextlib.contextmanager
def borrowed(boxes: queue.Queue):
    apis = boxes.get()
    try:
        yield apis
    finally:
        boxes.put(apis)


def judge_all(found: list[dict], records: Records, boxes: queue.Queue) -> list[dict]:
    """The report's entry of every scored case."""
    details = []
    for case in tqdm(found, desc="verdicts", unit="case"):
        record = records.of(case["id"])
        with borrowed(boxes) if cases.executable(case["category"]) else contextlib.nullcontext() as apis:
            why_not = conversation.why_not(case, record, apis)
        details.append(scores.entry(case, record, why_not))
    return details


if __name__ == "__main__":
    cli.run(main)
