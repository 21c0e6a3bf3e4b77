"""Turn agent traces into rows that are proven to train what they should, and account for every row left out.

In:  traces: files, folders, hub dataset ids (formats: kxl/traces/formats.py); the `data` section of a config; a model
     folder, whose tokenizer counts and whose template renders; eval suites, which no row may repeat.
     data.reasoning is "keep" or "drop": thoughts stay in the rows as `reasoning_content`, or go; where they stay,
     data.reasoning_loss says whether the model is trained to write them or only shown them.
Out: OUT/train.jsonl, valid.jsonl, test.jsonl: rows {"id", "messages", "tools"} for kxl/chat/loss_mask.py and mlx-lm
     MANIFEST   files with sha256, so that another machine can tell that it made the same
     REPORT     rows in and out, each reason with count, row ids and examples, repairs, lengths before and after

  .venv/bin/python scripts/traces_prepare.py traces/ --config configs/tiny.json --model models/tiny \\
      --out runs/tiny/data --manifest runs/tiny/results/datasets/manifest.json \\
      --report runs/tiny/results/reports/dataset.json

Rows are read, checked and written one by one; memory does not grow with their number beyond about 2 kB a row.
"""

import contextlib
import itertools
import multiprocessing
import re
import tempfile
from collections import Counter, deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
from tqdm import tqdm

from kxl.base import cli, processes, report
from kxl.base.cli import UserError
from kxl.base.config import load
from kxl.base.files import atomic_path, require_space, sha256, shown, write_json
from kxl.traces import duplicates, filters
from kxl.traces import record as traces_record
from kxl.traces import sources as traces_sources
from kxl.traces import split as traces_split

REASONING = ("keep", "drop")  # what becomes of the thoughts in traces
BIN, BINS = 512, 64  # the histogram: tokens per bar; longer rows count in the last
FEW, FILES = 5, 20  # ignored files that are named; files that have a line each
EXAMPLES = 5  # per reason, with what was found
BATCH = 16  # rows that a worker gets at a time


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("traces", nargs="+", help="files, folders or hub dataset ids")
    parser.add_argument("--config", type=Path, required=True, help="config with a data section")
    parser.add_argument("--model", type=Path, required=True, help="folder with tokenizer.json and chat_template.jinja")
    parser.add_argument("--out", type=Path, required=True, help="folder for the rows")
    parser.add_argument("--manifest", type=Path, required=True, help="manifest to write (JSON)")
    parser.add_argument("--report", type=Path, required=True, help="report to write (JSON)")
    parser.add_argument(
        "--suite",
        type=Path,
        action="append",
        default=[],
        help="eval suite whose requests are kept out; may be given several times",
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes that check rows")
    args = parser.parse_args()

    settings = data_settings(args.config)
    ignored = []
    sources = traces_sources.resolve(args.traces, ignored)
    require_space(args.out, 3 * sum(path.stat().st_size for _, path in sources))
    account = Account(settings)
    with tempfile.TemporaryFile(dir=args.out) as spool:  # without a name: gone with this process, however that ends
        limit = int(settings["largest_row_mib"] * 2**20)
        for outcome in outcomes(traces_sources.records(sources, limit), args.model, settings, args.suite, args.jobs):
            account.add(outcome, spool)
        if not account.rows:
            raise UserError(f"of {account.rows_in:,} rows none is left: {account.summary()}; first: {account.first()}")
        account.split()
        described = [describe_source(name, path) for name, path in sources]
        model = [
            args.model / name for name in ("tokenizer.json", "chat_template.jinja") if (args.model / name).is_file()
        ]
        # All files take their names at the end, train.jsonl as the last: make goes by that one.
        with contextlib.ExitStack() as renamed_at_the_end:
            files = write_rows(account, spool, args.out, renamed_at_the_end)
            write_json(
                args.manifest,
                {
                    "files": files,
                    "inputs": described,
                    "settings": settings,
                    "suites": [{"name": path.name, "sha256": sha256(path)} for path in args.suite],
                    "model": [{"name": path.name, "sha256": sha256(path)} for path in model],
                },
            )
            report.write(
                args.report,
                [*described, *model, *args.suite],
                {**settings, "ignored_files": ignored},
                account.results(),
            )
    print(*account.by_file(), sep="\n")
    if ignored:
        more = " …" if len(ignored) > FEW else ""
        print(f"ignored {len(ignored)} files of other kinds: {', '.join(ignored[:FEW])}{more}")
    if account.thoughts and settings["reasoning"] == "drop":
        print(f"removed {account.thoughts:,} turns' thoughts, in {account.thoughtful:,} rows (data.reasoning is drop)")
    print(account.summary_line())


def describe_source(name: str, path: Path) -> dict:
    """What was read: a file of the repository by its path, so that its place can be looked at; others by their name."""
    entry = report.describe_input(path)
    return {**entry, "path": name} if Path(entry["path"]).is_absolute() else entry


def data_settings(config: Path) -> dict:
    """The config's data section, checked."""
    settings = load(config).get("data")
    if not isinstance(settings, dict):
        raise UserError(f"{shown(config)}: has no data section")
    wanted = {
        "caps": list,
        "policies": dict,
        "vanished_tools": list,
        "eval_ngram_words": int,
        "near_duplicate": float,
        "reasoning": str,
        "reasoning_loss": bool,
        "split": dict,
        "largest_row_mib": int,
    }
    for name, kind in wanted.items():
        if not isinstance(settings.get(name), kind):
            raise UserError(f"{shown(config)}: data.{name} must be a {kind.__name__}")
    if not settings["caps"] or not all(isinstance(cap, int) and cap > 0 for cap in settings["caps"]):
        raise UserError(f"{shown(config)}: data.caps must be token counts, such as [16384, 10240]")
    if set(settings["split"]) != {"train", "valid", "test"}:
        raise UserError(f"{shown(config)}: data.split must say train, valid and test")
    if settings["reasoning"] not in REASONING:
        raise UserError(f"{shown(config)}: data.reasoning must be one of {', '.join(REASONING)}")
    filters.check_policies(settings["policies"], f"{shown(config)}: data.policies")
    return {name: settings[name] for name in wanted}


_worker = None  # one per process


def _start_worker(model: Path, settings: dict, suites: list[Path]) -> None:
    processes.end_with_parent()  # it would wait for more rows for ever
    _make_worker(model, settings, suites)


def _make_worker(model: Path, settings: dict, suites: list[Path]) -> None:
    global _worker
    try:
        _worker = traces_record.Worker(model, settings, suites)
    except UserError as error:  # told by the first batch: an initializer's own error never reaches the person
        _worker = error


def _work(batch: list) -> list:
    if isinstance(_worker, UserError):
        raise _worker
    return [_worker.outcome(record) for record in batch]


def outcomes(records, model: Path, settings: dict, suites: list[Path], jobs: int):
    """The outcome of each record, in the order of the records."""
    batches = iter(lambda: list(itertools.islice(records, BATCH)), [])
    with tqdm(desc="checking", unit=" rows") as progress:
        for made in map_batches(batches, model, settings, suites, jobs):
            progress.update(len(made))
            yield from made


def map_batches(batches, model: Path, settings: dict, suites: list[Path], jobs: int):
    """_work over batches in order. With processes, only a few batches are read ahead: memory stays flat."""
    if jobs <= 1:
        _make_worker(model, settings, suites)
        yield from map(_work, batches)
        return
    # Spawned, not forked: the tokenizer's threads do not survive a fork.
    with ProcessPoolExecutor(
        jobs, multiprocessing.get_context("spawn"), _start_worker, (model, settings, suites)
    ) as pool:
        waiting = deque(pool.submit(_work, batch) for batch in itertools.islice(batches, 2 * jobs))
        while waiting:
            try:
                yield waiting.popleft().result()
            except BrokenProcessPool:
                raise UserError(
                    "a process that checks rows was ended from outside, perhaps for memory; try again with --jobs 1"
                ) from None
            waiting.extend(pool.submit(_work, batch) for batch in itertools.islice(batches, 1))


class Account:
    """Every row that came in: what became of it, and what the report says about that."""

    def __init__(self, settings: dict):
        self.settings, self.rows_in = settings, 0
        self.seen = duplicates.Rows(settings["near_duplicate"])
        self.dropped, self.repaired, self.kept = {}, {}, {}
        self.sources = Counter()  # rows by the name of their file
        self.rows = []  # per kept row: outcome without its line, place in the spool
        self.languages = Counter()
        self.thoughtful, self.thoughts = 0, 0  # rows in with thoughts, and their turns
        self.before, self.after = Counter(), Counter()
        self.measured = 0
        self.splits = []

    def add(self, outcome: traces_record.Outcome, spool) -> None:
        """Count one outcome; the line of a row goes into the spool."""
        self.rows_in += 1
        self.thoughtful += outcome.thoughts > 0
        self.thoughts += outcome.thoughts
        self.sources[source_of(outcome)] += 1
        if outcome.measured is not None:
            self.before[min(outcome.measured // BIN, BINS - 1)] += 1
            self.measured += 1
        if outcome.reason is None:
            twin = self.seen.duplicate_of(outcome.content, np.frombuffer(outcome.fingerprint, np.uint32), outcome.name)
            if twin and self.settings["policies"][twin[0]] == filters.DROP:
                outcome.reason, outcome.detail = twin
            elif twin:
                outcome.kept[twin[0]] = twin[1]
        entry = {"id": outcome.name, "where": outcome.where, "detail": outcome.detail}
        if outcome.reason:
            self.dropped.setdefault(outcome.reason, []).append(entry)
            return
        for reason, what in outcome.repaired.items():
            self.repaired.setdefault(reason, []).append({**entry, "detail": what})
        for reason, what in outcome.kept.items():
            self.kept.setdefault(reason, []).append({**entry, "detail": what})
        self.languages[language(outcome.request)] += 1
        self.after[min(outcome.tokens // BIN, BINS - 1)] += 1
        place = spool.tell()
        spool.write(outcome.line)
        outcome.line = b""
        self.rows.append((outcome, place))

    def split(self) -> None:
        """Decide train, valid and test, and put the rows in the order of their hashes."""
        self.rows.sort(key=lambda row: (row[0].content, row[0].where))
        self.splits = traces_split.assign(
            [outcome.content for outcome, _ in self.rows],
            [outcome.tasks for outcome, _ in self.rows],
            self.settings["split"],
        )

    def results(self) -> dict:
        """The report's results. Nothing may be missing from the account."""
        rows_out = {split: self.splits.count(split) for split in ("train", "valid", "test")}
        dropped = {reason: len(entries) for reason, entries in self.dropped.items()}
        if self.rows_in != sum(rows_out.values()) + sum(dropped.values()):
            raise RuntimeError(f"{self.rows_in} rows came in, {rows_out} went out, {dropped} were dropped")
        lengths = sorted(outcome.tokens for outcome, _ in self.rows)
        kept = Counter(source_of(outcome) for outcome, _ in self.rows)
        return {
            "rows_in": self.rows_in,
            "rows_out": rows_out,
            "sources": {name: {"rows": count, "kept": kept[name]} for name, count in self.sources.items()},
            "dropped": dropped,
            "repaired": {reason: len(entries) for reason, entries in self.repaired.items()},
            "kept": {reason: len(entries) for reason, entries in self.kept.items()},
            "drops": {
                reason: {
                    "in_words": filters.in_words(reason),
                    "ids": [entry["id"] for entry in entries],
                    "examples": entries[:EXAMPLES],
                }
                for reason, entries in self.dropped.items()
            },
            "repairs": self.repaired,
            "keeps": self.kept,
            "thoughts": {"rows_in": self.thoughtful, "turns_in": self.thoughts, "are": self.settings["reasoning"]},
            "languages": dict(self.languages),
            "token_lengths": {
                "bin": BIN,
                "last_bin_is_open": True,
                "before": bars(self.before),
                "after": bars(self.after),
                "rows_before": self.measured,
                "not_measured": self.rows_in - self.measured,
            },
            "sizes": {
                "tokens": sum(lengths),
                "sequences": sum(outcome.sequences for outcome, _ in self.rows),
                "sequence_tokens": sum(outcome.sequence_tokens for outcome, _ in self.rows),
                "trained_tokens": sum(outcome.trained_tokens for outcome, _ in self.rows),
                "shortest": lengths[0],
                "median": lengths[len(lengths) // 2],
                "longest": lengths[-1],
                "messages": sum(outcome.messages for outcome, _ in self.rows),
                "calls": sum(outcome.calls for outcome, _ in self.rows),
            },
        }

    def summary(self) -> str:
        """ "3,042 dropped: 2,100 over 10,240 tokens, …", most first."""
        counts = sorted(
            ((len(entries), reason) for reason, entries in self.dropped.items()), key=lambda one: (-one[0], one[1])
        )
        if not counts:
            return "none dropped"
        return f"{sum(count for count, _ in counts):,} dropped: " + ", ".join(
            f"{count:,} {filters.in_words(reason)}" for count, reason in counts
        )

    def by_file(self) -> list[str]:
        """One line a file: its rows, how many are kept, and why most of the others are not. Empty files' rows first."""
        kept = Counter(source_of(outcome) for outcome, _ in self.rows)
        lines = []
        for name, count in sorted(self.sources.items(), key=lambda one: (kept[one[0]] > 0, one[0])):
            line = f"{name}: {count:,} rows, {kept[name]:,} kept"
            why = Counter(
                {
                    reason: sum(file_of(entry["where"]) == name for entry in entries)
                    for reason, entries in self.dropped.items()
                }
            )
            if kept[name] < count and why:
                reason, most = why.most_common(1)[0]
                line += f" (most of the others: {most:,} {filters.in_words(reason)})"
            lines.append(line)
        return (
            lines if len(lines) <= FILES else [*lines[:FILES], f"… {len(lines) - FILES} more files are in the report"]
        )

    def summary_line(self) -> str:
        counts = ", ".join(f"{self.splits.count(split):,} {split}" for split in ("train", "valid", "test"))
        return f"{counts}; {self.summary()}"

    def first(self) -> str:
        """Where the first row of the most frequent reason is, and what is wrong there."""
        entry = max(self.dropped.values(), key=len)[0]
        return f"{entry['where']}: {entry['detail']}"


def source_of(outcome: traces_record.Outcome) -> str:
    """The file that a row came from."""
    return file_of(outcome.where)


def file_of(where: str) -> str:
    """The file of a place, without its line or, of a parquet file, its row."""
    return re.sub(r"(:| row )\d+$", "", where)


def language(text: str) -> str:
    """The language of a request as ISO 639 code, as far as py3langid can tell; only reported."""
    from py3langid import langid  # its model takes 100 MB: here once, not in every process

    return str(langid.classify(text)[0]) if text.strip() else "unknown"


def bars(counts: Counter) -> list[int]:
    """A histogram as a list, without the empty bars behind the last one."""
    return [counts[place] for place in range(max(counts, default=-1) + 1)]


def write_rows(account: Account, spool, out: Path, stack: contextlib.ExitStack) -> dict:
    """Copy the rows from the spool into the files of their splits, named when `stack` ends.

    Returns {file: {rows, tokens, bytes, sha256}}.
    """
    files = {}
    for split in ("train", "valid", "test"):
        partial = stack.enter_context(atomic_path(out / f"{split}.jsonl", keep_time=True))
        own = [row for row, where in zip(account.rows, account.splits) if where == split]
        with open(partial, "wb") as file:
            for _, place in own:
                spool.seek(place)
                file.write(spool.readline())
        files[f"{split}.jsonl"] = {
            "rows": len(own),
            "tokens": sum(outcome.tokens for outcome, _ in own),
            "bytes": partial.stat().st_size,
            "sha256": sha256(partial),
        }
    return files


if __name__ == "__main__":
    cli.run(main)
