"""What is kept of each case while a run goes on, so that no crash costs an answer: a record a case, on disk at once.

A record is JSON: turns (of steps, as verdicts.py takes them), stopped (None, or why the conversation ended early),
messages (the conversation, long results cut), memory (what a memory conversation left), finish, prompt_tokens,
output_tokens, thoughts, errors, seconds.
"""

from pathlib import Path

from kxl.eval.journal import Journal


class Records(Journal):
    """Records by (case id, 0)."""

    def __init__(self, path: Path, identity: dict):
        super().__init__(path, identity, read=_read, write=_write)

    def of(self, case: str) -> dict | None:
        """The record of a case, or None."""
        kept = self.answers.get((case, 0))
        return kept[0] if kept else None


def _write(case: str, trial: int, record: dict) -> dict:
    return {"case": case, "trial": trial, "record": record}


def _read(line) -> tuple | None:
    """(record,) of a line; None where it is not one of ours."""
    record = line.get("record") if isinstance(line, dict) else None
    if not isinstance(record, dict) or not isinstance(line.get("case"), str) or "turns" not in record:
        return None
    return (record,)
