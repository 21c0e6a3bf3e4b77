"""Score a model on a suite of tool-calling cases and write the report.

In: a suite (evals/suites/*.json) and one of: a GGUF file (served by the pinned llama-server), a checkpoint
folder (served by mlx_lm.server), or the URL of a server that runs already.
Out: a report with the verdict on every case, parsed by the server and raw (the model's own tokens).
With --config, the thresholds of the config gate the run: below them the report is written as
NAME.failed.json instead, and the exit code is 2.
An interrupted run goes on where it was when it is started again: answers are kept in NAME.answers.jsonl. Those of a
finished one stay in NAME.kept.answers.jsonl, so that another threshold or another rule in the suite judges them anew
and asks for nothing; a server behind a URL is always asked. A model that thinks gets the config's eval.thinking_tokens
beyond a suite's cap, and is sampled as its eval.sampling says. Its thought is kept, but is neither visible text nor
call.

  python scripts/eval_run.py --suite evals/suites/fixed_hermes_43.json --config configs/tiny.json \\
      --gguf runs/tiny/hermes-kxl-tiny-q4kxl.gguf --artifact q4kxl \\
      --out runs/tiny/results/evals/fixed_hermes_43.llama_cpp.q4kxl.json
"""

import contextlib
import dataclasses
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import jsonschema
from tqdm import tqdm

from kxl.base import cli, report
from kxl.base.code import Code
from kxl.base.files import read_json, shown
from kxl.eval import client as eval_client
from kxl.eval import journal as journals
from kxl.eval import remote, scores, suite_files, suites
from kxl.eval import server as eval_server
from kxl.setup import llama_cpp

_TOKENS = {"type": "integer", "minimum": 0, "maximum": suites.LONGEST}
_POSITIVE = {"type": "number", "exclusiveMinimum": 0}
CONFIG = {  # what this script reads of a config's "eval"
    "type": "object",
    "properties": {
        "context": {**_TOKENS, "minimum": 1},
        "thinking_tokens": _TOKENS,
        "sampling": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "temperature": {"type": "number", "minimum": 0},
                "top_k": {"type": "integer", "minimum": 0},
                "repetition_penalty": _POSITIVE,
                "seed": {"type": "integer", "minimum": 0},
            },
        },
        "suites": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "required": ["threshold"],
                "additionalProperties": {"type": "integer"},
            },
        },
    },
}


def main() -> None:
    args = arguments()
    config = read_config(args.config) if args.config else {}
    suite = suites.load(args.suite)
    if args.half:
        suite_files.keep_half(suite, args.half)
    sampling = choose_sampling(args, config.get("sampling", {}))
    thinking = config.get("thinking_tokens", 0) if args.thinking_tokens is None else args.thinking_tokens
    context = args.context or config.get("context", 65536)
    log = args.server_log or args.out.with_suffix(".server.log")
    started = time.monotonic()
    inputs = [report.describe_input(path) for path in filter(None, [args.suite, args.gguf, args.model])]
    settings = {
        "suite": suite.name,
        "backend": args.backend,
        "artifact": args.artifact,
        "sampling": dataclasses.asdict(sampling) if sampling.temperature else "greedy",
        "temperature": sampling.temperature,
        "max_tokens": suite.max_tokens,
        "thinking_tokens": thinking,
        "context": context if args.gguf else None,
        "float32": args.float32 if args.model else None,
        "model_name": args.model_name,
    }
    identity = {"inputs": inputs[1:], **settings, "asked_by": asked_by(args)}
    kept = None if args.url else journals.opened(args.out, suite, identity)
    if kept and not kept.unanswered(suite, args.trials):
        kept.close()
        journal, stumbles = kept, (kept.before or {}).get("stumbles", [])
        cli.say(f"{suite.name} {args.artifact}: every answer is there, so they are judged anew and none is asked for")
    else:
        with serve(args, context, log) as server:
            client = eval_client.Client(
                server, args.backend, args.model_name, args.timeout, sampling=sampling, thinking_tokens=thinking
            )
            if args.backend == "mlx":
                client.tokenizer = eval_client.load_tokenizer(args.model or args.tokenizer)
            served = client.take_name() if args.url else None
            journal = kept or journals.opened(args.out, suite, {**identity, "url": server.url, "served": served})
            if args.backend == "llama_cpp" and journal.unanswered(suite, args.trials):
                hint_at_template(client, suite)
            ask_all(client, suite, journal, args)
            if args.url and (now := eval_server.served_model(server)) != served:
                journal.delete()
                raise cli.UserError(
                    f"{server.url} served {served} at first and {now} at last; "
                    "answers of two models are not mixed, so none is kept"
                )
        stumbles = client.stumbles
        if not args.server_log:
            log.unlink(missing_ok=True)
    tried = [[journal.answers[case["id"], trial] for trial in range(args.trials)] for case in suite.cases]
    details = [scores.entry(suite, case, given, args.backend) for case, given in zip(suite.cases, tried)]
    results = scores.count(details, args.trials)
    results["thoughts"] = scores.thoughts([parsed for given in tried for parsed, _ in given])
    results["infrastructure"] = {"errors": len(stumbles), "details": stumbles}
    results["seconds"] = (journal.before or {}).get("seconds") or round(time.monotonic() - started)
    thresholds = config.get("suites", {}).get(suite.name)
    if args.config and not thresholds:
        cli.say(f"{shown(args.config)} has no threshold for {suite.name}: this run is scored but not gated")
    failures = scores.gate(results, thresholds)
    if args.trials > 1:
        settings["trials"] = args.trials
    if args.half:
        settings["half"] = args.half
    report.write_gated(args.out, not failures, inputs, settings, remote.without_key(results))
    if args.url:
        journal.delete()
    else:
        journal.keep({"seconds": results["seconds"], "stumbles": stumbles})
    print(remote.hide_key(scores.summary(results)))
    if failures:
        raise cli.UserError(
            f"{suite.name} on {args.artifact}: {'; '.join(failures)}. "
            f"Every case is in {shown(report.failed_path(args.out))}"
        )
    print(f"wrote {shown(args.out)}")


def read_config(path: Path) -> dict:
    """The "eval" part of a config file; UserError names the setting that is wrong."""
    config = read_json(path)
    if not isinstance(config, dict) or not isinstance(config.get("eval"), dict):
        raise cli.UserError(f"{shown(path)}: has no `eval` object; see configs/tiny.json for one")
    problem = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(CONFIG).iter_errors(config["eval"]))
    if problem:
        place = ".".join(["eval", *map(str, problem.absolute_path)])
        raise cli.UserError(f"{shown(path)}: {place}: {problem.message}")
    return config["eval"]


def choose_sampling(args, configured: dict) -> eval_client.Sampling:
    """The config's sampling, or greedy without one; a flag takes the place of what the config says."""
    given = {name: getattr(args, name) for name in ("temperature", "top_k", "repetition_penalty", "seed")}
    sampling = eval_client.Sampling(
        **{**configured, **{name: value for name, value in given.items() if value is not None}}
    )
    if args.trials > 1 and not sampling.temperature:
        raise cli.UserError(
            "at temperature 0 every trial gives the same answer: add --temperature, such as 0.7, or eval.sampling "
            "to the config"
        )
    return sampling


def arguments():
    parser = cli.parser(__doc__)
    parser.add_argument("--suite", type=Path, required=True, help="suite file")
    parser.add_argument(
        "--half",
        choices=suite_files.HALVES,
        help="ask these cases alone of a suite that evals/halves divides (default: all cases)",
    )
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
    source.add_argument(
        "--url",
        help=f"a running server, such as http://127.0.0.1:8080/v1; a key for it stands in the variable {remote.KEY}",
    )
    parser.add_argument(
        "--tokenizer", type=Path, help="checkpoint folder whose tokenizer reads raw tokens, for --backend mlx --url"
    )
    parser.add_argument("--context", type=int, help="tokens of context (default: the config's, else 65536)")
    eval_server.add_asking_flags(parser)
    eval_server.add_server_flags(parser)
    parser.add_argument(
        "--trials", type=int, default=1, help="how often each case is asked; a case passes when every trial does"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        help="sampling temperature, 0 = greedy (default: the config's eval.sampling, else 0); several trials need one",
    )
    parser.add_argument("--top-k", type=int, help="tokens that may be drawn, 0 = all (default: the config's, else 0)")
    parser.add_argument(
        "--repetition-penalty",
        type=float,
        help="what the logits of the last 64 tokens are divided by, 1 = nothing (default: the config's, else 1)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        help="sampling seed of the first trial; each further one has the next number (default: the config's, else 1)",
    )
    parser.add_argument(
        "--parallel",
        type=int,
        default=1,
        help="requests at a time; a llama-server of ours gets as many slots, each with the whole context",
    )
    args = parser.parse_args()
    if args.gguf and args.backend != "llama_cpp" or args.model and args.backend != "mlx":
        parser.error("--gguf goes with --backend llama_cpp, --model with --backend mlx")
    if args.backend == "mlx" and args.url and not args.tokenizer:
        parser.error("--backend mlx --url needs --tokenizer to read raw tokens")
    if args.trials < 1 or args.parallel < 1:
        parser.error("--trials and --parallel are at least 1")
    if any(
        number is not None and not number >= 0
        for number in (args.temperature, args.top_k, args.seed, args.thinking_tokens)
    ):
        parser.error("--temperature, --top-k, --seed and --thinking-tokens are at least 0")
    if args.repetition_penalty is not None and not args.repetition_penalty > 0:
        parser.error("--repetition-penalty is above 0")
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


def asked_by(args) -> dict:
    """What decides how a server of ours is asked and answers, beside model and settings: code, programs, processor."""
    made = report.environment()
    programs = llama_cpp.cache_key() if args.gguf else {name: made["packages"][name] for name in ("mlx", "mlx-lm")}
    return {"code": Code().hash("kxl/eval/client.py"), "programs": None if args.url else programs, "cpu": made["cpu"]}


def hint_at_template(client: eval_client.Client, suite: suites.Suite) -> None:
    """Say it where the model's chat template leaves the tools out of the prompt: it could call none then."""
    case = next((case for case in suite.cases if suite.of(case).tools and "fill" not in case), None)
    if case and not any(name in client.prompt(suite.of(case), case) for name in suite.of(case).names()):
        cli.say(
            f"the chat template of this model puts no tool into the prompt (case {case['id']}): it cannot know what it "
            "may call. Take a template with tools, such as configs/templates/lfm2.5-tools.jinja, as the checkpoint's "
            "chat_template.jinja, and convert it again"
        )


def ask_all(client: eval_client.Client, suite: suites.Suite, journal: journals.Journal, args) -> None:
    """Ask for every case and trial that the journal lacks, into the journal; it is closed then."""
    todo = journal.unanswered(suite, args.trials)
    journal.before = None
    stop = threading.Event()  # set by the first error, so that nobody begins another case

    def one(job: tuple) -> None:
        case, trial = job
        if not stop.is_set():
            try:
                journal.add(case["id"], trial, *client.ask(suite, case, trial))
            except BaseException:
                stop.set()
                raise

    try:
        with ThreadPoolExecutor(args.parallel) as pool:
            jobs = [pool.submit(one, job) for job in todo]
            try:
                for job in tqdm(as_completed(jobs), desc=f"{suite.name} {args.artifact}", unit="case", total=len(jobs)):
                    job.result()
            finally:
                stop.set()
    finally:
        journal.close()


if __name__ == "__main__":
    cli.run(main)
