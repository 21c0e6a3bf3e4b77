"""Tokens and loss mask of a conversation: loss on every assistant turn, calls and answers alike, on nothing else.

    chat = loss_mask.load(Path("models/tiny"))
    for tokens, mask in loss_mask.sequences(chat, row): ...

row     {"messages": [...], "tools": [...] or absent}, one line of runs/RUN/data/{train,valid,test}.jsonl:
        OpenAI messages, but `arguments` of a call is an object, as chat templates want it; a thought is
        `reasoning_content`; "reasoning_loss": false takes the loss off the thoughts; more keys are ignored
tokens  int32 [N], the whole conversation as the model's own template and tokenizer write it
mask    bool [N], True where the token is the model's to emit: each assistant turn from its first token to the
        end-of-turn token, included. Trained with inputs tokens[:-1] and targets tokens[1:], the weights are mask[1:].

Where a turn begins and ends comes from the template's {% generation %} blocks, or, where it has none, from
rendering each prefix of the conversation. Characters become tokens by the tokenizer's offsets; a token never
reaches over the edge of a turn, because the model is prompted up to that edge. Every result is proven by
decoding: the masked-in tokens of each turn must give back that turn's text, with its end. What cannot be
proven is a MaskError that says why.

Templates of thinking models leave out the thoughts of earlier turns, those before the last user message in
LFM2.5-8B-A1B's. What the server feeds at a turn is then no beginning of the whole conversation, and a row is
several sequences: each assistant turn is trained in the one whose beginning is exactly what the server feeds there.
"""

import bisect
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kxl.base import forms
from kxl.base.cli import UserError
from kxl.base.files import read_json, read_text, shown
from kxl.chat import rendering, thoughts

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


class MaskError(UserError):
    """A conversation whose trained tokens cannot be proven."""


@dataclass(frozen=True)
class View:
    """One text that is trained on. `spans`: the characters of each assistant turn with loss, by its message's place."""

    text: str
    spans: dict[int, tuple[int, int]]


@dataclass(frozen=True)
class Chat:
    """A model's tokenizer and chat template.

    `special` are the names that templates know, such as eos_token; `options` more of them, such as
    {"preserve_thinking": True}, which a server takes as chat_template_kwargs.
    """

    folder: Path
    tokenizer: object = field(repr=False)  # tokenizers.Tokenizer
    template: str = field(repr=False)
    special: dict
    options: dict = field(default_factory=dict)

    @property
    def end(self) -> str:
        """The token that ends a turn, as text."""
        return self.special["eos_token"]

    @property
    def control_tokens(self) -> list[str]:
        """The texts that the tokenizer takes for one token wherever they stand."""
        return [token.content for token in self.tokenizer.get_added_tokens_decoder().values()]

    def render(self, messages: list, tools: list | None = None, add_generation_prompt: bool = False) -> str:
        """The conversation as the model reads it."""
        return self._render(messages, tools, add_generation_prompt, False)[0]

    def turns(self, messages: list, tools: list | None = None) -> tuple[str, list[tuple[int, int]]]:
        """(text, spans): the whole conversation and, per assistant message, where in it the model's own text is."""
        if GENERATION.search(self.template):
            text, spans = self._render(messages, tools, False, True)
        else:
            text = self.render(messages, tools)
            spans = self._spans_by_prefix(messages, tools, text)
        wanted = sum(message["role"] == "assistant" for message in messages)
        if len(spans) != wanted:
            raise MaskError(f"{shown(self.folder)}: the template marks {len(spans)} assistant turns of {wanted}")
        return text, [self._with_end(text, start, end) for start, end in spans]

    def views(self, messages: list, tools: list | None = None) -> list[View]:
        """The texts that train this conversation: one, or several where the template forgets earlier thoughts.

        Each assistant turn is in exactly one of them, and what stands before it there is what the server feeds.
        """
        places = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
        thinking = [place for place in places if messages[place].get("reasoning_content")]
        if thinking and not thoughts.writes_thoughts(self.template):
            raise MaskError(
                f"{shown(self.folder)}: its chat template writes no thoughts; take one that does"
                ' (configs/templates/lfm2.5-tools.jinja), or leave them out with "reasoning": "drop"'
            )
        for place in thinking:
            if thoughts.END in messages[place]["reasoning_content"]:
                raise MaskError(
                    f"message {place}: its thought holds {thoughts.END}, where every server ends it;"
                    " traces_prepare.py writes the mark as words"
                )
        if not thinking and not any(thoughts.END in str(messages[place].get("content")) for place in places):
            text, spans = self.turns(messages, tools)
            return [View(text, dict(zip(places, spans)))]
        served = {place: self._served(messages, place, tools) for place in places}
        views, left = [], places
        while left:
            # Up to the next user message: thoughts are gone only behind that.
            end = next((i for i in range(left[-1], len(messages)) if messages[i]["role"] == "user"), len(messages))
            text = self.render(messages[:end], tools)
            own = [place for place in left if text.startswith(served[place].text)]
            if left[-1] not in own:
                text, own = served[left[-1]].text, left[-1:]
            views.append(View(text, {place: served[place].spans[place] for place in own}))
            left = [place for place in left if place not in own]
        return views[::-1]

    def _served(self, messages: list, place: int, tools: list | None) -> View:
        """What a server feeds at assistant turn `place`, and what the turn should add to it."""
        before = self.render(messages[:place], tools)
        prompt = self.render(messages[:place], tools, add_generation_prompt=True)
        after = self.render(messages[: place + 1], tools)
        opening = prompt.removeprefix(before)
        start = len(prompt) if after.startswith(prompt) else after.rfind(opening) + len(opening)
        if not prompt.startswith(before) or not opening or start < len(opening):
            raise MaskError(
                f"{shown(self.folder)}: the template does not write the prompt of message {place} before it"
            )
        text = prompt + after[start:]
        begin, end = self._with_end(text, len(prompt), len(text))
        return View(text[:end], {place: (begin, end)})

    def _render(self, messages, tools, add_generation_prompt, spans) -> tuple:
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            with rendering.limited(self.template, shown(self.folder)):
                # Its `loopcontrols`, `tojson` and sandbox are what every other reader of the template has.
                texts, marked = render_jinja_template(
                    [thoughts.for_template(messages, self.template)],
                    tools=tools or None,
                    chat_template=self.template,
                    return_assistant_tokens_mask=spans,
                    add_generation_prompt=add_generation_prompt,
                    **{**self.special, **self.options},
                )
        except rendering.TemplateProblem as problem:
            raise MaskError(str(problem)) from None
        return texts[0], marked[0] if spans else []

    def _spans_by_prefix(self, messages: list, tools: list | None, text: str) -> list:
        spans = []
        for place, message in enumerate(messages):
            if message["role"] == "assistant":
                prompt = self.render(messages[:place], tools, add_generation_prompt=True)
                with_turn = self.render(messages[: place + 1], tools)
                if not (text.startswith(with_turn) and with_turn.startswith(prompt)):
                    raise MaskError(
                        f"{shown(self.folder)}: the template writes message {place} otherwise once later messages"
                        " follow; give it {% generation %} blocks around what the assistant says"
                    )
                spans.append((len(prompt), len(with_turn)))
        return spans

    def _with_end(self, text: str, start: int, end: int) -> tuple[int, int]:
        """The span up to its end-of-turn token: templates put that inside, outside, or a newline after it inside."""
        last = text.rfind(self.end, start, end)
        if last >= 0:
            rest = text[last + len(self.end) : end]
            end = last + len(self.end)
        else:
            rest = "" if text.startswith(self.end, end) else "no end"
            end += len(self.end)
        if rest.strip():
            raise MaskError(
                f"{shown(self.folder)}: an assistant turn does not end with {self.end}:"
                f" …{text[max(start, end - 60) : end]!r}"
            )
        return start, end


def load(folder: Path) -> Chat:
    """The tokenizer and template of a checkpoint folder, read as transformers' AutoTokenizer reads them.

    Not by it: with torch behind it a process takes 190 MB and 3 seconds more, and rows are checked in several.
    """
    from tokenizers import Tokenizer, processors

    folder = Path(folder)
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UserError(f"{shown(folder)}: no tokenizer.json here; name a checkpoint folder")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more special
        raise UserError(f"{shown(path)}: cannot be read as a tokenizer: {error}") from None
    # Only the template writes special tokens here; and offsets have to cover white space, which this step may trim.
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    settings = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            settings |= read_json(folder / name)
    named = {
        name: value["content"] if isinstance(value, dict) else value
        for name, value in settings.items()
        if name.endswith("_token")
    }
    special = {name: value for name, value in named.items() if isinstance(value, str)}
    if "eos_token" not in special:
        raise UserError(f"{shown(folder / 'tokenizer_config.json')}: no eos_token; it ends each assistant turn")
    return Chat(folder, tokenizer, _template(folder, settings), special)


def _template(folder: Path, settings: dict) -> str:
    """The chat template: a file of its own, or in tokenizer_config.json, where several may have names."""
    if (folder / "chat_template.jinja").is_file():
        return read_text(folder / "chat_template.jinja")
    template = settings.get("chat_template")
    form = {"chat_template?": (str, [{"name": str, "template": str}], None)}
    forms.check(settings, form, shown(folder / "tokenizer_config.json"), "take the model's own file")
    if isinstance(template, list):
        named = {one["name"]: one["template"] for one in template}
        template = named.get("tool_use", named.get("default"))
    if not template:
        raise UserError(f"{shown(folder)}: no chat template; put chat_template.jinja beside tokenizer.json")
    return template


def sequences(chat: Chat, row: dict) -> list[tuple[np.ndarray, np.ndarray]]:
    """int32 [N] tokens and bool [N] mask of each sequence of one row, proven by decoding."""
    made = []
    for view in chat.views(row["messages"], row.get("tools")):
        tokens, mask, _ = encode(chat, view.text, list(view.spans.values()), row.get("reasoning_loss", True))
        made.append((tokens, mask))
    return made


def tokens_and_mask(chat: Chat, row: dict) -> tuple[np.ndarray, np.ndarray]:
    """The one sequence of a row; MaskError for a row whose thoughts need several."""
    made = sequences(chat, row)
    if len(made) > 1:
        raise MaskError(
            f"{shown(chat.folder)}: the template leaves out thoughts of earlier turns, so this row is {len(made)}"
            " sequences; train it with a script that takes several"
        )
    return made[0]


def encode(chat: Chat, text: str, spans: list, reasoning_loss: bool = True) -> tuple[np.ndarray, np.ndarray, list]:
    """(tokens [N], mask [N], pieces): `pieces` are the tokens of each span, decoded.

    Without `reasoning_loss` a turn's tokens have loss from the end of its thought on.
    """
    edges = [edge for span in spans for edge in span]
    if edges != sorted(edges):
        raise MaskError(f"{shown(chat.folder)}: the template marks assistant turns that overlap")
    tokens, places, cuts = _tokenize(chat, text, edges)
    if (
        cuts
    ):  # a token over an edge would hold both prompt and answer: cut the text there, as a prompt that ends there is cut
        parts = [
            (a, b, _tokenize(chat, text[a:b], [edge - a for edge in edges if a <= edge < b]))
            for a, b in zip([0, *cuts], [*cuts, len(text)])
        ]
        if any(part[2] for _, _, part in parts):
            raise MaskError(
                f"{shown(chat.folder)}: the tokenizer joins what stands on both sides of an assistant turn's edge"
            )
        counts = np.cumsum([0, *(len(part[0]) for _, _, part in parts)])
        tokens = np.concatenate([part[0] for _, _, part in parts])
        places = [int(place + count) for count, (_, _, part) in zip(counts, parts) for place in part[1]] + [
            len(tokens)
        ] * edges.count(len(text))
    mask = np.zeros(len(tokens), dtype=bool)
    pieces = []
    for turn, (start, end) in enumerate(spans):
        first, last = places[2 * turn], places[2 * turn + 1]
        mask[first:last] = True
        if not reasoning_loss:
            mask[first : _behind_thought(chat, text[start:end], tokens[first:last]) + first] = False
        pieces.append(chat.tokenizer.decode(tokens[first:last].tolist(), skip_special_tokens=False))
        if pieces[-1] != text[start:end]:
            raise MaskError(
                f"{shown(chat.folder)}: the tokens of assistant turn {turn} decode to {_excerpt(pieces[-1])},"
                f" its text is {_excerpt(text[start:end])}"
            )
    return tokens, mask, pieces


def _behind_thought(chat: Chat, turn: str, tokens: np.ndarray) -> int:
    """How many of a turn's tokens are its thought. One that reaches over the thought's end is not."""
    said = thoughts.split(turn)
    if said.thought is None:
        return 0
    thought = turn.removesuffix(said.visible)  # with its marks

    def too_many(count: int) -> bool:
        start = chat.tokenizer.decode(tokens[:count].tolist(), skip_special_tokens=False)
        whole = start.rstrip("\ufffd")  # without half a character at its end
        return not thought.startswith(whole) or whole == thought != start

    return bisect.bisect_left(range(1, len(tokens) + 1), True, key=too_many)


def _tokenize(chat: Chat, text: str, edges: list) -> tuple[np.ndarray, list, list]:
    """(ids, per edge the token that begins there, edges that a token reaches over)."""
    try:
        encoded = chat.tokenizer.encode(text, add_special_tokens=False)
    except (UnicodeEncodeError, TypeError):
        raise MaskError("the text holds half a character (a lone surrogate), which has no tokens") from None
    tokens = np.array(encoded.ids, dtype=np.int32)
    places, cuts = [], []
    for edge in edges:
        place = encoded.char_to_token(edge) if edge < len(text) else len(tokens)
        if place is None:
            raise MaskError(f"{shown(chat.folder)}: the tokenizer has no token for character {edge}, {text[edge]!r}")
        if edge < len(text) and encoded.token_to_chars(place)[0] < edge:
            cuts.append(edge)
        places.append(place)
    return tokens, places, cuts


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:40]}…{text[-40:]}")
