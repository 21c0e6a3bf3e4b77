"""Answers of an evaluation, kept on disk one by one until its report is written, so that no crash costs any of them.

  OUT.answers.jsonl    first line: what is being evaluated (suite, model, sampling); then one line per answer

A run that finds the file of the same evaluation asks only for what is missing. The file of another one is
refused: answers of two models, suites or settings are never mixed. `delete` is for when the report is there.
"""

import dataclasses
import json
import threading
from pathlib import Path

from kxl.base import jsonl
from kxl.base.cli import UserError
from kxl.base.files import shown, write_text
from kxl.eval.remote import without_key
from kxl.eval.verdicts import Answer

FORMAT = 2  # of a line: what an Answer has


class Journal:
    """Answers by (case id, trial). `identity` is JSON: two runs share it when their answers belong together.

    What is kept of a case is (parsed, raw); a journal of something else has its own `line` and `read`.
    """

    def __init__(self, path: Path, identity: dict):
        self.path, self.identity = Path(path), {"format": FORMAT, **identity}
        self.answers: dict[tuple, tuple] = {}
        self._lock = threading.Lock()
        self._file = None

    def open(self) -> int:
        """Read what is there and open it for more; how many answers were found. UserError where they belong to
        something else."""
        lines = list(jsonl.survivors(self.path))
        if lines or (self.path.exists() and self.path.stat().st_size):
            self._refuse_other(lines[0] if lines else None)
        for line in lines[1:]:
            # Anything else is the line that was being written when the process was killed.
            if (read := self.read(line)) is not None:
                self.answers[line["case"], line["trial"]] = read
        # Written whole again, since such a line may be the last.
        kept = [self.identity, *(self.line(*key, *answer) for key, answer in self.answers.items())]
        write_text(self.path, "".join(jsonl.line_of(line, constants=True) for line in kept))
        self._file = open(self.path, "a", encoding="utf-8")
        return len(self.answers)

    def _refuse_other(self, found) -> None:
        if not isinstance(found, dict):
            raise UserError(f"{shown(self.path)}: holds no answers of an evaluation; delete it, or give another --out")
        # As JSON gives it back: a tuple is a list there.
        wanted = json.loads(json.dumps(self.identity))
        if differs := sorted(key for key in {*wanted, *found} if wanted.get(key) != found.get(key)):
            raise UserError(
                f"{shown(self.path)} has answers to another evaluation ({', '.join(differs)} differ); "
                f"they are not mixed: delete it to begin anew, or give another --out"
            )

    @staticmethod
    def line(case: str, trial: int, parsed: Answer, raw: Answer | None) -> dict:
        """What is written of one answer."""
        return {
            "case": case,
            "trial": trial,
            "parsed": dataclasses.asdict(parsed),
            "raw": dataclasses.asdict(raw) if raw else None,
        }

    @staticmethod
    def read(line) -> tuple | None:
        """(parsed, raw) of a line; None where it is not one of ours."""
        try:
            if not isinstance(line["case"], str) or not isinstance(line["trial"], int) or not line["parsed"]:
                return None
            return tuple(_answer(fields) if fields else None for fields in (line["parsed"], line["raw"]))
        except (KeyError, TypeError, ValueError):
            return None

    def add(self, case: str, trial: int, *answer) -> None:
        """Keep one answer; called from any thread."""
        with self._lock:
            self.answers[case, trial] = answer
            try:
                self._file.write(jsonl.line_of(without_key(self.line(case, trial, *answer)), constants=True))
                self._file.flush()
            except OSError as error:
                raise UserError(
                    f"{shown(self.path)}: {error.strerror}; the answers before are kept there: mend that and run again"
                ) from None

    def close(self) -> None:
        """Close the file. It stays, unless nothing was answered."""
        self._file.close()
        if not self.answers:
            self.delete()

    def delete(self) -> None:
        """The report is written, or nobody can tell whose answers these are."""
        self.path.unlink(missing_ok=True)


def _answer(fields: dict) -> Answer:
    """An Answer of JSON; ValueError where a member has another type than an Answer's."""
    answer, model = Answer(**fields), Answer("", [], "")
    for member in dataclasses.fields(Answer):
        value, usual = getattr(answer, member.name), getattr(model, member.name)
        kinds = str | None if usual is None else (int | float) if isinstance(usual, float) else type(usual)
        if not isinstance(value, kinds):
            raise ValueError(f"{member.name} is {value!r}")
    if not all(
        isinstance(call, dict) and isinstance(call["name"], str) and isinstance(call["arguments"], dict)
        for call in answer.calls
    ):
        raise ValueError("a call is none")
    return answer
