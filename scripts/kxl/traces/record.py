"""One trace from its bytes to a row that is proven to train what it should, or the reason why not.

    worker = Worker(model, settings, suites)
    outcome = worker.outcome(record)          # a sources.Record in, an Outcome out

Everything that needs only the row itself happens here, so it can happen in several processes; what needs the
other rows (duplicates, the split) is left to traces_prepare.py, which gets no more than it needs for that.
"""

import functools
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from kxl.chat import loss_mask
from kxl.eval.requests import same_words
from kxl.traces import duplicates, filters, formats, roundtrip
from kxl.traces.formats import Dropped
from kxl.traces.sources import Record


def whole(text: str) -> str:
    """Text without half characters."""
    return filters.SURROGATE.sub("\ufffd", text)


@dataclass
class Outcome:
    """What became of one record. `reason` is None for a row, whose JSON line is `line`."""

    where: str
    name: str
    reason: str | None = None
    detail: str = ""
    repaired: dict = field(default_factory=dict)
    kept: dict = field(default_factory=dict)
    request: str = ""  # the beginning of the first one, to tell the language by
    measured: int | None = None  # tokens before anything was dropped or cut; None where the row could not be rendered
    tokens: int = 0  # of the longest sequence: what the caps are about
    sequence_tokens: int = 0  # of all sequences: what one pass of training reads
    sequences: int = 0  # more than one where the template leaves out thoughts of earlier turns
    trained_tokens: int = 0
    thoughts: int = 0  # turns that had one, kept or not
    messages: int = 0
    calls: int = 0
    line: bytes = b""
    content: str = ""  # sha256 of messages and tools
    fingerprint: bytes = b""  # duplicates.fingerprint
    tasks: list = field(default_factory=list)  # what makes other rows variants of the same task


class Worker:
    """What a process keeps from row to row."""

    def __init__(self, model: Path, settings: dict, suites: list[Path]):
        self.settings = settings
        self.chat = loss_mask.load(model)
        self.hermes = formats.MARKS["call"][0] in self.chat.template  # its calls are <tool_call> JSON
        self.control_tokens = self.chat.control_tokens
        self.suites = duplicates.Suites(suites, settings["eval_ngram_words"])

    def outcome(self, record: Record) -> Outcome:
        """Never raises for a bad record: whatever is wrong with it has a name."""
        out = Outcome(record.where, record.where)
        meets = filters.Meets(self.settings["policies"])
        row = None
        try:
            if record.problem:
                raise Dropped(*record.problem)
            data = formats.parse_json(record.data) if isinstance(record.data, bytes) else record.data
            row = formats.to_row(data, meets)
            out.name = whole(row["id"] or record.where)
            out.thoughts = sum("reasoning_content" in message for message in row["messages"])
            if self.settings["reasoning"] == "drop":
                for message in row["messages"]:
                    message.pop("reasoning_content", None)
            self._describe(row, out)
            filters.check_row(row, meets, self.settings["vanished_tools"], self.control_tokens)
            self._prove(row, meets, out)
            self._finish(row, meets, out)
        except Dropped as dropped:
            out.reason, out.detail = dropped.reason, dropped.detail
            if row is not None and out.measured is None:
                out.measured = self._length(row)
        except Exception as problem:  # one row must not end a run of thousands; the report names it, loudly
            out.reason, out.detail = "check_failed", f"{type(problem).__name__}: {problem}"[:300]
        # These go into UTF-8 files whatever was in the row.
        out.name, out.detail = whole(out.name), whole(out.detail)
        out.repaired, out.kept = (
            {reason: whole(what) for reason, what in noted.items()} for noted in (meets.repaired, meets.kept)
        )
        return out

    def _describe(self, row: dict, out: Outcome) -> None:
        requests = [message["content"] for message in row["messages"] if message["role"] == "user"]
        out.request = requests[0][:500] if requests else ""
        out.tasks = [
            f"{kind}:{same_words(text)}"
            for kind, text in (("task", row["task"]), ("asked", requests[0] if requests else None))
            if text
        ]

    def _length(self, row: dict) -> int | None:
        """Tokens of the longest sequence; None for a row that cannot be rendered."""
        try:
            texts = [view.text for view in self.chat.views(row["messages"], row["tools"])] or [""]
            return max(len(self.chat.tokenizer.encode(text, add_special_tokens=False).ids) for text in texts)
        except (loss_mask.MaskError, UnicodeEncodeError, TypeError):
            return None

    def _prove(self, row: dict, meets: filters.Meets, out: Outcome) -> None:
        """Tokens within the cap; each assistant turn's trained tokens say what the structured message says."""
        sequences = self._trained(row)
        out.measured = max(len(tokens) for tokens, _ in sequences)
        caps = sorted(self.settings["caps"], reverse=True)
        if over := next((cap for cap in caps if out.measured > cap), None):
            meets(
                f"over_{over}_tokens",
                f"{out.measured:,} tokens",
                functools.partial(self._cut, row, caps[-1]),
                policy="too_long",
            )
            sequences = self._trained(row)
        out.tokens = max(len(tokens) for tokens, _ in sequences)
        out.sequence_tokens = sum(len(tokens) for tokens, _ in sequences)
        out.sequences = len(sequences)
        out.trained_tokens = int(sum(mask.sum() for _, mask in sequences))

    def _trained(self, row: dict) -> list:
        """(tokens, mask) of each sequence of the row, proven."""
        made, turn = [], 0
        try:
            for view in self.chat.views(row["messages"], row["tools"]):
                spans = list(view.spans.values())
                tokens, mask, pieces = loss_mask.encode(self.chat, view.text, spans, self.settings["reasoning_loss"])
                for place, piece in zip(view.spans, pieces):
                    said = piece.removesuffix(self.chat.end)
                    if problem := roundtrip.same_turn(row["messages"][place], said, self.hermes):
                        raise Dropped("broken_round_trip", f"assistant turn {turn}: {problem}")
                    turn += 1
                made.append((tokens, mask))
        except loss_mask.MaskError as error:
            raise Dropped("mask_unproven", str(error)) from None
        return made

    def _cut(self, row: dict, cap: int) -> str | None:
        """Cut the row after the last assistant turn within `cap` tokens; None where not even the first is."""
        whole = row["messages"]
        for end in range(len(whole) - 1, 0, -1):
            if (
                whole[end - 1]["role"] == "assistant"
                and (self._length({**row, "messages": whole[:end]}) or cap + 1) <= cap
            ):
                row["messages"] = whole[:end]
                return f"cut after message {end - 1} of {len(whole)}"
        return None

    def _finish(self, row: dict, meets: filters.Meets, out: Outcome) -> None:
        found = duplicates.words(row)
        hashes = duplicates.hashed(found)
        if shared := self.suites.overlap(row, found, hashes):
            meets("eval_overlap", shared)
        out.fingerprint = duplicates.fingerprint(hashes).tobytes()
        out.messages = len(row["messages"])
        out.calls = sum(len(message.get("tool_calls", [])) for message in row["messages"])
        made = {"messages": row["messages"], "tools": row["tools"]}
        if not self.settings["reasoning_loss"] and any("reasoning_content" in message for message in row["messages"]):
            made["reasoning_loss"] = False  # rows say it themselves, so that no trainer forgets it
        content = json.dumps(made, ensure_ascii=False)
        out.content = hashlib.sha256(content.encode()).hexdigest()
        out.line = f'{{"id": {json.dumps(out.name, ensure_ascii=False)}, {content[1:]}\n'.encode()
