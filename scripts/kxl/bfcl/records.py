"""What is kept of each case while a run goes on, so that no crash costs an answer: a record a case, on disk at once.

A record is JSON: turns (of steps, as verdicts.py takes them), stopped (None, or why the conversation ended early),
messages (the conversation, long results cut), memory (what a memory conversation left), finish, prompt_tokens,
output_tokens, thoughts, errors, seconds.
"""

from kxl.eval.journal import Journal


class Records(Journal):
    """Records by (case id, 0)."""

    @staticmethod
    def line(case: str, trial: int, record: dict) -> dict:
        return {"case": case, "trial": trial, "record": record}

    @staticmethod
    def read(line) -> tuple | None:
        record = line.get("record")
        if not isinstance(line.get("case"), str) or not isinstance(record, dict) or "turns" not in record:
            return None
        return (record,)

    def of(self, case: str) -> dict | None:
        """The record of a case, or None."""
        kept = self.answers.get((case, 0))
        return kept[0] if kept else None
