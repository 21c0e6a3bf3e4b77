"""Let a checkpoint answer fresh requests of the kinds that it failed, and keep the answers that are right.

In:  a checkpoint folder, and its eval reports (eval_run.py, passed or failed).
Out: samples.jsonl of repair rows for repair_build_set.py --sampled, thoughts and all, and a report that counts what was
     asked, kept and refused, and why.

Each failed case gets requests of its kind in turn, none of them an eval prompt. A request is asked up to --tries times,
each time with another seed; the first answer that is right is kept (kxl/repair/sampling.py), and no other. A case of
which nothing is kept has only hand-made rows. Interrupted, it goes on where it stopped.

  .venv/bin/python scripts/repair_sample.py --model runs/tiny/repair/iter01/fused --config configs/tiny.json \\
      --eval runs/tiny/repair/iter01/evals/fixed_hermes_43.json --iteration 02 \\
      --out runs/tiny/repair/iter02/samples.jsonl --report runs/tiny/repair/iter02/samples.json
"""

import contextlib
import random
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

from tqdm import tqdm

from kxl.base import cli, jsonl, report
from kxl.base.cli import UserError
from kxl.base.config import load
from kxl.base.files import shown
from kxl.chat import loss_mask
from kxl.eval import client as eval_client
from kxl.eval import contamination
from kxl.eval import server as eval_server
from kxl.eval.journal import Journal
from kxl.repair import diagnosis, sampling
from kxl.repair import rows as repair_rows

PROMPTS_PER_ROW = 3  # requests that a wanted row may take before its case is given up


def main() -> None:
    args = arguments()
    failures, _, suite_paths = diagnosis.of_reports(args.eval)
    if not failures:
        raise UserError(f"nothing failed in {', '.join(map(shown, args.eval))}; there is nothing to sample for")
    configured = load(args.config)["eval"] if args.config else {}
    drawing = eval_client.Sampling(**configured.get("sampling", {}))
    drawing = replace(drawing, temperature=args.temperature)
    thinking = configured.get("thinking_tokens", 0) if args.thinking_tokens is None else args.thinking_tokens
    settings = {
        "iteration": args.iteration,
        "rows": args.rows,
        "tries": args.tries,
        "thoughts": args.thoughts,
        "sampling": asdict(drawing),
        "thinking_tokens": thinking,
        "seed": args.seed,
    }
    inputs = [report.describe_input(path) for path in (args.model, *args.eval)]
    chat = loss_mask.load(args.model)
    log = args.out.with_suffix(".server.log")
    with serve(args, log) as (server, backend):
        client = eval_client.Client(
            server, backend, args.model_name, args.timeout, sampling=drawing, thinking_tokens=thinking
        )
        if backend == "mlx":
            client.tokenizer = eval_client.load_tokenizer(args.model)
        if args.url:
            client.take_name()
        journal = Journal(args.out.with_suffix(".answers.jsonl"), {"inputs": inputs, "url": args.url, **settings})
        if found := journal.open():
            cli.say(f"{found} answers of an interrupted run are in {shown(journal.path)} and are not asked for again")
        try:
            rows, counts = sample(client, chat, failures, contamination.everything(suite_paths), journal, args)
        finally:
            journal.close()
    log.unlink(missing_ok=True)
    jsonl.write(args.out, rows, sort_keys=True)
    report.write(args.report, inputs, settings, counts)
    journal.delete()
    refused = ", ".join(f"{count} {why}" for why, count in Counter(counts["refused"]).most_common(3))
    print(
        f"{shown(args.out)}: {len(rows)} rows of the model's own, of {counts['asked']} answers to {counts['prompts']} "
        f"requests{'; refused: ' + refused if refused else ''}"
    )


def sample(client, chat: loss_mask.Chat, failures: list, prompts, journal: Journal, args) -> tuple:
    """(rows, counts): for each failed case its share of --rows, as far as the model gets them right."""
    contexts = repair_rows.draw_contexts(random.Random(f"repair {args.iteration} {args.seed} contexts"))
    share = -(-args.rows // len(failures))
    rows, refused, kept, asked, drawn = [], Counter(), Counter(), 0, 0
    with tqdm(total=args.rows, desc=f"sampling {args.iteration}", unit="row") as bar:
        for place, failure in enumerate(failures):
            name, wanted = f"{failure['suite']}/{failure['id']}", min(share, args.rows - len(rows))
            for number in range(PROMPTS_PER_ROW * wanted):
                if kept[name] == wanted:
                    break
                rng = random.Random(f"repair {args.iteration} {args.seed} sample {place} {number}")
                prompt = sampling.draw(rng, failure, contexts, prompts, args.thoughts == "rule")
                if prompt is None:
                    continue
                drawn += 1
                for trial in range(args.tries):
                    key = (f"{place}_{number}", trial)
                    if key not in journal.answers:
                        journal.add(*key, *client.ask(prompt.suite, prompt.case, trial))
                    parsed, raw = journal.answers[key]
                    asked += 1
                    why = sampling.refused(prompt, parsed, raw, chat)
                    if why is None:
                        rows.append(sampling.row(prompt, parsed, raw))
                        kept[name] += 1
                        bar.update()
                        break
                    refused[kind_of(why)] += 1
    counts = {
        "prompts": drawn,
        "asked": asked,
        "kept": len(rows),
        "with_thought": sum("reasoning_content" in row["messages"][-1] for row in rows),
        "kept_by_case": dict(kept),
        "refused": dict(refused),
    }
    return rows, counts


def kind_of(why: str) -> str:
    """A refusal's reason without the words of the answer: what stands before its first colon or value."""
    return diagnosis.THOUGHTS.get(why) or why.split(":")[0].split(" is ")[0].split(" lacks ")[0]


@contextlib.contextmanager
def serve(args, log: Path):
    """(server, backend) that answers as the checkpoint: mlx_lm.server, or one that runs already."""
    if args.url:
        yield eval_server.external(args.url), "openai"
        return
    with eval_server.mlx_server(args.model, log, args.float32) as server:
        yield server, "mlx"


def arguments():
    parser = cli.parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="checkpoint to sample from")
    parser.add_argument(
        "--eval",
        type=Path,
        action="append",
        required=True,
        help="its report of eval_run.py; may be given several times",
    )
    parser.add_argument("--iteration", required=True, help="name of the iteration, such as 02; draws other requests")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines to write")
    parser.add_argument("--report", type=Path, required=True, help="report to write (JSON)")
    parser.add_argument("--config", type=Path, help="config whose eval.sampling and eval.thinking_tokens hold")
    parser.add_argument("--rows", type=int, default=160, help="rows wanted, over all failed cases alike")
    parser.add_argument("--tries", type=int, default=4, help="answers to one request, at most")
    parser.add_argument("--temperature", type=float, default=0.7, help="sampling temperature, above 0")
    parser.add_argument(
        "--thoughts",
        choices=repair_rows.THOUGHTS,
        default="none",
        help="thoughts of the hand-made turns before an answer: none, or written by rule",
    )
    parser.add_argument("--url", help="a running server of this checkpoint, asked in place of one of ours")
    parser.add_argument("--seed", type=int, default=1, help="of the requests; another seed draws others")
    eval_server.add_asking_flags(parser)
    args = parser.parse_args()
    if args.rows < 1 or args.tries < 1 or not args.temperature > 0:
        parser.error("--rows and --tries are at least 1, --temperature is above 0")
    return args


if __name__ == "__main__":
    cli.run(main)
