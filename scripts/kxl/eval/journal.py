"""Answers of an evaluation that is under way, kept on disk one by one, so that a crash costs none of them.

  OUT.answers.jsonl    first line: what is being evaluated (suite, model, sampling); then one line per answer

A run that finds the file of the same evaluation asks only for what is missing. The file of another one is
refused: answers of two models, suites or settings are never mixed. It goes away when the report is written.
"""

import dataclasses
import threading
from pathlib import Path

from kxl.base import jsonl
from kxl.base.cli import UserError
from kxl.base.files import shown, write_text
from kxl.eval.suites import Answer


class Journal:
    """Answers by (case id, trial). `identity` is JSON that two runs have in common when their answers belong together."""

    def __init__(self, path: Path, identity: dict):
        self.path, self.identity = Path(path), identity
        self.answers: dict[tuple, tuple] = {}
        self._lock = threading.Lock()
        self._file = None

    def open(self) -> int:
        """Read what is there and open it for more; how many answers were found. UserError where they belong to something else."""
        entries = list(jsonl.survivors(self.path))
        if entries:
            if differs := sorted(
                key for key in {*self.identity, *entries[0]} if self.identity.get(key) != entries[0].get(key)
            ):
                raise UserError(
                    f"{shown(self.path)} has answers to another evaluation ({', '.join(differs)} differ); they are not mixed: "
                    f"delete it to begin anew, or give another --out"
                )
            for entry in entries[1:]:
                self.answers[entry["case"], entry["trial"]] = tuple(
                    Answer(**answer) if answer else None for answer in (entry["parsed"], entry["raw"])
                )
        # Written whole again, since a killed process may have left half a line at the end.
        kept = [self.identity, *(_line(*key, *answer) for key, answer in self.answers.items())]
        write_text(self.path, "".join(jsonl.line_of(entry, constants=True) for entry in kept))
        self._file = open(self.path, "a", encoding="utf-8")
        return len(self.answers)

    def add(self, case: str, trial: int, parsed: Answer, raw: Answer | None) -> None:
        """Keep one answer; called from any thread."""
        with self._lock:
            self.answers[case, trial] = parsed, raw
            self._file.write(jsonl.line_of(_line(case, trial, parsed, raw), constants=True))
            self._file.flush()

    def close(self, finished: bool) -> None:
        """Close the file; a finished evaluation needs it no more, and one without an answer neither."""
        self._file.close()
        if finished or not self.answers:
            self.path.unlink()


def _line(case: str, trial: int, parsed: Answer, raw: Answer | None) -> dict:
    return {
        "case": case,
        "trial": trial,
        "parsed": dataclasses.asdict(parsed),
        "raw": dataclasses.asdict(raw) if raw else None,
    }
