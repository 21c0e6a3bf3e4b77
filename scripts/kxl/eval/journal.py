"""Answers of an evaluation, kept on disk one by one, so that no crash and no new rule of judging costs any of them.

  OUT.answers.jsonl         first line: what is evaluated (model, sampling, how it is asked); then a line per answer
  OUT.kept.answers.jsonl    the same of the evaluation whose report is there, with its seconds in the first line

A run that finds the file of the same evaluation asks only for what is missing; an answer counts for a case whose
request is still the same, whatever the suite now says is right. An interrupted file of another evaluation is refused:
answers of two models or settings are never mixed. Kept answers of another one are of a model that is gone: not used.
"""

import dataclasses
import hashlib
import json
import threading
from collections.abc import Callable
from pathlib import Path

from kxl.base import jsonl
from kxl.base.cli import UserError, say
from kxl.base.files import shown, write_text
from kxl.eval.remote import without_key
from kxl.eval.suites import Suite
from kxl.eval.verdicts import Answer

FORMAT = 3  # of a line: what an Answer has


class Journal:
    """Answers by (case id, trial). `identity` is JSON: two runs share it when their answers belong together.

    `asked` says for each case id what it is asked, as a hash; without it a case's answer counts whatever was asked.
    `before` is what `keep` was told of the evaluation whose kept answers are used; None where none are.
    `read` and `write` say what an answer is: write(case, trial, *answer) is its line, read(line) the answer, a tuple,
    or None where the line is none. By default it is an Answer, parsed, and another, raw.
    """

    def __init__(
        self,
        path: Path,
        identity: dict,
        asked: dict[str, str] | None = None,
        read: Callable | None = None,
        write: Callable | None = None,
    ):
        self.path, self.identity = Path(path), {"format": FORMAT, **identity}
        self.kept_path = self.path.with_name(self.path.name.removesuffix(".answers.jsonl") + ".kept.answers.jsonl")
        self.asked, self.before = asked or {}, None
        self._read, self._write = read or _answers, write or _written
        self.answers: dict[tuple, tuple] = {}
        self._lock = threading.Lock()
        self._file = None

    def open(self) -> int:
        """Read what is there and open it for more; how many answers were found. UserError where they belong to
        something else."""
        lines = list(jsonl.survivors(self.path))
        if lines or (self.path.exists() and self.path.stat().st_size):
            self._refuse_other(lines[0] if lines else None, holds=len(lines) > 1)
        self._take(lines[1:])
        if not lines:
            self._take_kept()
        # Written whole again, since such a line may be the last.
        kept = [self.identity, *(self._line(*key, *answer) for key, answer in self.answers.items())]
        write_text(self.path, "".join(jsonl.line_of(line, constants=True) for line in kept))
        self._file = open(self.path, "a", encoding="utf-8")
        return len(self.answers)

    def _take(self, lines: list) -> None:
        for line in lines:
            # Anything else is the line that was being written when the process was killed, or of another request.
            if (read := self._read(line)) is not None and line.get("asked") == self.asked.get(line["case"]):
                self.answers[line["case"], line["trial"]] = read

    def _take_kept(self) -> None:
        lines = list(jsonl.survivors(self.kept_path))
        if lines and isinstance(lines[0], dict):
            before = lines[0].pop("before", None)
            if lines[0] == json.loads(json.dumps(self.identity)):
                self._take(lines[1:])
                self.before = before if self.answers else None

    def _refuse_other(self, found, holds: bool) -> None:
        if not isinstance(found, dict):
            raise UserError(f"{shown(self.path)}: holds no answers of an evaluation; delete it, or give another --out")
        # As JSON gives it back: a tuple is a list there.
        wanted = json.loads(json.dumps(self.identity))
        differs = sorted(key for key in {*wanted, *found} if wanted.get(key) != found.get(key))
        if differs and (holds or "format" not in found):
            raise UserError(
                f"{shown(self.path)} has answers to another evaluation ({', '.join(differs)} differ); "
                f"they are not mixed: delete it to begin anew, or give another --out"
            )

    def add(self, case: str, trial: int, *answer) -> None:
        """Keep one answer; called from any thread."""
        with self._lock:
            self.answers[case, trial] = answer
            try:
                self._file.write(jsonl.line_of(without_key(self._line(case, trial, *answer)), constants=True))
                self._file.flush()
            except OSError as error:
                raise UserError(
                    f"{shown(self.path)}: {error.strerror}; the answers before are kept there: mend that and run again"
                ) from None

    def unanswered(self, suite: Suite, trials: int) -> list[tuple]:
        """The (case, trial) that it has no answer to."""
        every = [(case, trial) for trial in range(trials) for case in suite.cases]
        return [(case, trial) for case, trial in every if (case["id"], trial) not in self.answers]

    def close(self) -> None:
        """Close the file. It stays, unless nothing was answered."""
        self._file.close()
        if not self.answers:
            self.delete()

    def delete(self) -> None:
        """Nobody can tell whose answers these are, or they shall not be judged again."""
        self.path.unlink(missing_ok=True)

    def keep(self, before: dict) -> None:
        """The report is written: keep the answers for another judging. `before` is JSON that goes with them."""
        kept = [{**self.identity, "before": before}, *(self._line(*key, *a) for key, a in self.answers.items())]
        write_text(self.kept_path, "".join(jsonl.line_of(without_key(line), constants=True) for line in kept))
        self.path.unlink(missing_ok=True)

    def _line(self, case: str, trial: int, *answer) -> dict:
        return {"asked": self.asked.get(case), **self._write(case, trial, *answer)}


def _written(case: str, trial: int, parsed: Answer, raw: Answer | None) -> dict:
    return {
        "case": case,
        "trial": trial,
        "parsed": dataclasses.asdict(parsed),
        "raw": dataclasses.asdict(raw) if raw else None,
    }


def opened(out: Path, suite: Suite, identity: dict) -> Journal:
    """The journal beside the report `out`, with what it holds of answers to this suite's requests; how many is said."""
    asked = {
        case["id"]: hashlib.sha256(
            json.dumps(
                [suite.of(case).tools, case["messages"], suite.max_tokens, case.get("fill")], sort_keys=True
            ).encode()
        ).hexdigest()
        for case in suite.cases
    }
    journal = Journal(out.with_suffix(".answers.jsonl"), identity, asked=asked)
    if found := journal.open():
        of = "an earlier judging" if journal.before else "an interrupted run"
        say(f"{found} answers of {of} are in {shown(journal.path)} and are not asked for again")
    return journal


def _answers(line) -> tuple | None:
    """(parsed, raw) of a line; None where it is not one of ours."""
    try:
        if not isinstance(line["case"], str) or not isinstance(line["trial"], int) or not line["parsed"]:
            return None
        return tuple(_answer(fields) if fields else None for fields in (line["parsed"], line["raw"]))
    except (KeyError, TypeError, ValueError):
        return None


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
