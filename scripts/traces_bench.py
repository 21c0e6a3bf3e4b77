"""Measure traces_prepare.py: speed against tokenizing alone, and memory, on generated traces.

In:  a model folder; nothing else: the traces are made of the tool surface and words, none alike.
Out: a report: tokens per second of both, wall clock and processor time, and the peak memory of all processes.

  .venv/bin/python scripts/traces_bench.py --report reports/bench/prepare_traces.json

Tokenizing alone gets the same conversations, rendered already, in one batch call on as many threads as
traces_prepare.py has processes: the fastest way there is. Processor time is what a busy machine does not distort.
Refused with exit code 2, the report kept as NAME.failed.json, below half of that speed or from 1,000 MiB on.
"""

import itertools
import json
import os
import random
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

from kxl.base import cli, jsonl, report
from kxl.base.files import ROOT, scratch_dir, shown
from kxl.chat import hermes_tools, loss_mask
from kxl.tiny.words import pick_word

TOOLS = ("patch", "process", "read_file", "search_files", "terminal", "write_file")
LEAST_SPEED, MOST_MIB = 0.5, 1000  # of tokenizing alone; of all processes together
PER_BATCH = 64  # conversations that tokenizing alone gets at a time


def trace(rng: random.Random, number: int, tools: str, words: int) -> dict:
    """A Hermes ShareGPT trace of about `words` words beside its tools: requests, parallel calls, results, answers."""
    turns = [
        {
            "from": "system",
            "value": f"You are a function calling AI model. Here are the "
            f"tools:\n<tools>\n{tools}\n</tools>\n<tool_call>\n</tool_call>",
        },
        {"from": "human", "value": f"{_words(rng, 30)} ({number})"},
    ]
    while words > 0:
        calls = [
            {
                "name": "terminal",
                "arguments": {"command": f"grep -rn '{_words(rng, 3)}' {_words(rng, 2).replace(' ', '/')} | head"},
            }
            for _ in range(rng.choice((1, 1, 2)))
        ]
        turns.append(
            {
                "from": "gpt",
                "value": f"<think>\n{_words(rng, 20)}\n</think>\n{_words(rng, 12)}\n"
                + "\n".join(f"<tool_call>\n{json.dumps(call)}\n</tool_call>" for call in calls),
            }
        )
        results = [
            json.dumps(
                {
                    "tool_call_id": "c",
                    "name": "terminal",
                    "content": {"output": _words(rng, 250), "exit_code": 0, "error": None},
                }
            )
            for _ in calls
        ]
        turns.append(
            {"from": "tool", "value": "\n".join(f"<tool_response>\n{result}\n</tool_response>" for result in results)}
        )
        words -= 35 + 260 * len(calls)
    turns.append({"from": "gpt", "value": f"<think>\n</think>\n{_words(rng, 40)}"})
    return {"id": f"bench-{number}", "conversations": turns, "tools": tools, "task": f"bench {number}"}


def _words(rng: random.Random, count: int) -> str:
    return " ".join(pick_word(rng) for _ in range(count))


def write_traces(path: Path, chat: loss_mask.Chat, count: int, tokens: int) -> None:
    """`count` traces of about `tokens` tokens in this model's tokenizer."""
    tools = json.dumps([{**tool["function"], "required": None} for tool in hermes_tools.load(TOOLS)])
    listed = len(chat.tokenizer.encode(chat.render([{"role": "user", "content": "x"}], hermes_tools.load(TOOLS))).ids)
    sample = random.Random("sample")
    per_word = len(chat.tokenizer.encode(_words(sample, 2000)).ids) / 2000
    with open(path, "w", encoding="utf-8") as file:
        for number in range(count):
            file.write(
                json.dumps(
                    trace(random.Random(number), number, tools, round((tokens - listed) / per_word)), ensure_ascii=False
                )
                + "\n"
            )


def prepare(traces: Path, model: Path, config: Path, folder: Path, jobs: int) -> dict:
    """Run traces_prepare.py; seconds, processor seconds and peak memory of the whole process tree."""
    suites = [
        argument for path in sorted((ROOT / "evals" / "suites").glob("*.json")) for argument in ("--suite", str(path))
    ]
    command = [
        sys.executable,
        str(ROOT / "scripts" / "traces_prepare.py"),
        str(traces),
        "--config",
        str(config),
        "--model",
        str(model),
        "--out",
        str(folder / "data"),
        "--manifest",
        str(folder / "manifest.json"),
        "--report",
        str(folder / "dataset.json"),
        "--jobs",
        str(jobs),
        *suites,
    ]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = Peak(child.pid)
    line, _ = child.communicate()
    seconds, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if child.returncode != 0:
        raise cli.UserError("traces_prepare.py failed (its message is above)")
    return {
        "seconds": round(seconds, 1),
        "processor_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "peak_mib": round(peak.stop() / 2**20),
        "last_line": line.strip().splitlines()[-1],
    }


class Peak:
    """The largest sum of resident memory that a process and its children had, looked at ten times a second."""

    def __init__(self, pid: int):
        self.process, self.bytes, self.running = psutil.Process(pid), 0, True
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self) -> None:
        while self.running:
            total = 0
            try:
                for process in [self.process, *self.process.children(recursive=True)]:
                    total += process.memory_info().rss
            except psutil.Error:
                total = 0  # one ended while we looked: the next look counts
            self.bytes = max(self.bytes, total)
            time.sleep(0.1)

    def stop(self) -> int:
        self.running = False
        self.thread.join()
        return self.bytes


def tokenize(chat: loss_mask.Chat, rows: list[Path]) -> dict:
    """Encode the rows' rendered text and do nothing else; the rendering is not counted."""
    seconds = processor = tokens = 0
    for path in rows:
        rows = (row for _, row in jsonl.read(path))
        while batch := list(itertools.islice(rows, PER_BATCH)):
            texts = [chat.render(row["messages"], row["tools"]) for row in batch]
            started, used = time.monotonic(), time.process_time()
            encoded = chat.tokenizer.encode_batch(texts, add_special_tokens=False)
            seconds, processor = seconds + time.monotonic() - started, processor + time.process_time() - used
            tokens += sum(len(one.ids) for one in encoded)
    return {"seconds": round(seconds, 1), "processor_seconds": round(processor, 1), "tokens": tokens}


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--report", type=Path, required=True, help="report to write (JSON)")
    parser.add_argument(
        "--model",
        type=Path,
        default=ROOT / "models" / "tiny",
        help="folder with tokenizer.json and chat_template.jinja",
    )
    parser.add_argument(
        "--config", type=Path, default=ROOT / "configs" / "tiny.json", help="config with a data section"
    )
    parser.add_argument("--traces", type=int, default=8000, help="how many")
    parser.add_argument("--tokens", type=int, default=8000, help="in each, about")
    parser.add_argument(
        "--jobs", type=int, default=2, help="processes of traces_prepare.py, threads of tokenizing alone"
    )
    args = parser.parse_args()
    # Read by the tokenizer's threads when the first batch starts them.
    os.environ["RAYON_NUM_THREADS"] = str(args.jobs)
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    chat = loss_mask.load(args.model)
    with scratch_dir() as name:
        folder = Path(name)
        cli.say(f"writing {args.traces:,} traces")
        write_traces(folder / "traces.jsonl", chat, args.traces, args.tokens)
        size = (folder / "traces.jsonl").stat().st_size
        prepared = prepare(folder / "traces.jsonl", args.model, args.config, folder, args.jobs)
        cli.say("tokenizing alone")
        alone = tokenize(chat, sorted((folder / "data").glob("*.jsonl")))
    tokens = alone["tokens"]
    results = {
        "traces": args.traces,
        "bytes": size,
        "tokens": tokens,
        "mean_tokens": round(tokens / args.traces),
        "prepare": prepared,
        "tokenize": alone,
        "prepare_tokens_per_second": round(tokens / prepared["seconds"]),
        "tokenize_tokens_per_second": round(tokens / alone["seconds"]),
        "speed_of_tokenizing_alone": round(alone["seconds"] / prepared["seconds"], 3),
        "speed_by_processor_time": round(alone["processor_seconds"] / prepared["processor_seconds"], 3),
    }
    passed = results["speed_of_tokenizing_alone"] >= LEAST_SPEED and prepared["peak_mib"] < MOST_MIB
    report.write_gated(
        args.report,
        passed,
        [args.config, args.model / "tokenizer.json"],
        {"jobs": args.jobs, "tokens": args.tokens, "per_batch": PER_BATCH},
        results,
    )
    told = (
        f"{args.traces:,} traces, {tokens:,} tokens: {prepared['seconds']:,} s, "
        f"{results['speed_of_tokenizing_alone']:.0%} of the speed of tokenizing alone"
        f" ({results['speed_by_processor_time']:.0%} by processor time); {prepared['peak_mib']:,} MiB at most; "
        f"{prepared['last_line']}"
    )
    if not passed:
        raise cli.UserError(
            f"{shown(report.failed_path(args.report))}: {told}: {LEAST_SPEED:.0%} and less than {MOST_MIB:,} MiB "
            f"are the limits; run it on an idle machine"
        )
    print(told)


if __name__ == "__main__":
    cli.run(main)
