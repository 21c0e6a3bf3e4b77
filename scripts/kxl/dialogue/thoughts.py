"""What the model thinks before a call or an answer: short, and true where it stands."""

import re

from kxl.dialogue import wordings
from kxl.dialogue.fill import Words
from kxl.dialogue.wordings import SLOT

THOUGHT_PIECES = 34  # about 40 tokens
LOOKED = 0.6  # share of calls and refusals, where tools are listed, whose thought goes through the list


def short(text: str, names=()) -> bool:
    """Whether a thought has at most about 40 tokens; `names`: tools on offer, about a token each."""
    for name in sorted(names, key=len, reverse=True):
        text = text.replace(name, "x")
    return len(re.findall(r"[A-Za-z]{1,5}|[^A-Za-z\s]", text)) <= THOUGHT_PIECES


class Thoughts(Words):
    """Draws thoughts of the files `thoughts` and `around` that fit what is known."""

    def thought(self, kind: str, values: dict, *fits: str) -> str:
        """A thought of a kind that is true here: it fits anywhere or in one of `fits`, and its slots are known."""
        usable = {
            name for name, value in values.items() if isinstance(value, str) and "\n" not in value and len(value) <= 60
        }
        known = [
            f
            for f in wordings.forms("thoughts", False, kind)
            if f.fits in ("any", *fits) and usable.issuperset(SLOT.findall(f.texts[0]))
        ]
        apt = [f for f in known if f.fits != "any"]
        for _ in range(12 if known else 0):
            chosen = self.rng.choice(apt if apt and self.rng.random() < 0.4 else known).texts[0]
            if short(text := self.fill(chosen, values)):
                return self.renamed(text)
        return self.form("around", "plain_thought").texts[0]

    def renamed(self, thought: str) -> str:
        """A thought that calls tools by the names on offer."""
        for name, shown in self.context.names.items():
            if name != shown and "_" in name:
                thought = re.sub(rf"\b{name}\b", shown, thought)
        return thought

    def look(self, thought: str, tool: str) -> str:
        """In a share of the rows a thought that first names the tool it takes and says whether that is on the list;
        then `thought`, where there is room. `thought` alone in the others, and where no tools are listed.

        All begin alike, so that the list alone decides how they go on. A thought that told the decision by its first
        word was learned without a look at the list: that model refused a page with a browser on offer.
        """
        looks, names = self.rng.random() < LOOKED, self.context.offered()
        if not looks or not names:
            return thought
        kind = "looked_found" if tool in names else "looked_none"
        looked = self.fill(self.form("around", kind).texts[0], {"tool": tool})
        return both if short(both := f"{looked} {thought}", {*names, tool}) else looked

    def final_thought(self, kind: str, name: str) -> str:
        fits = {"output_line": ["terminal"], "output_lines": ["terminal"], "output_none": ["terminal, no output"],
        "found_lines": ["search with matches"], "found_files": ["search with matches"],
        "found_line": ["search with one match"],
                "found_file": ["search with one match"], "read_line": ["read_file"],
                "read_lines": ["read_file", "lines asked"],
                "written": ["write_file", "success to confirm (write, patch, kill)"],
                "patched": ["patch", "success to confirm (write, patch, kill)"], "page": ["page"],
                "process_killed": ["process ended or killed", "success to confirm (write, patch, kill)"],
                "process_list": ["process"], "process_state": ["process"], "process_log": ["process"]}.get(kind,
                [])  # fmt: skip
        return self.thought("final", {}, *fits)

    def thought_of_list(self) -> str:
        return self.rng.choice(
            [f for f in wordings.forms("thoughts", False, "process") if f.fits == "list (no slot)"]
        ).texts[0]
