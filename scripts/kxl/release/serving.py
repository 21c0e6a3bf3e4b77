"""How a released model is served: the command lines of the servers, and Hermes's settings, from its folder alone.

What it was judged with stands in release_summary.json (`serving`: context, sampling, tokens of thought), what it
expects of a server in the GGUF itself (chat template, context). Nothing of this repository's build is needed.
"""

import hashlib
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from kxl.base.cli import UserError
from kxl.base.files import shown
from kxl.chat import thoughts
from kxl.model import gguf_file
from kxl.release.folder import SUMMARY

CONTEXT = 65536  # Hermes Agent refuses a model with fewer than 64,000 tokens
ANSWER_TOKENS = 2048  # beside the thought
PENALTY_WINDOW = 64  # tokens that the repetition penalty looks back on, as the evaluation's client asks for
# A text that YAML takes as it stands; its words for true, false and nothing are none.
PLAIN = re.compile(r"(?!(?:true|false|yes|no|on|off|null|y|n)$)[A-Za-z][A-Za-z0-9._/-]*", re.IGNORECASE)
MOST = 1 << 24  # tokens of context or thought; no model has as many
SAMPLING = ("temperature", "top_k", "repetition_penalty", "seed")


@dataclass(frozen=True)
class Serving:
    """One file of a release and how it is served.

    sampling: temperature, top_k, repetition_penalty, seed, as far as the model's makers advise them; {} is greedy.
    """

    file: Path
    name: str
    context: int
    sampling: dict
    thinking_tokens: int
    thinks: bool
    template: str | None

    def llama_server(self, port: int) -> list[str]:
        """llama-server's words, for the pinned version or a newer one."""
        words = ["llama-server", "-m", str(self.file), "-c", str(self.context), "--jinja", "--host", "127.0.0.1"]
        words += ["--port", str(port), "--alias", self.name]
        if self.thinks:
            words.append("--no-reasoning-preserve")  # earlier thoughts are not shown again, as in training
        if not self.sampling:
            return [*words, "--temp", "0"]
        # What is not advised is switched off; llama-server has defaults of its own.
        words += ["--temp", f"{self.sampling.get('temperature', 0):g}", "--top-k", str(self.sampling.get("top_k", 0))]
        words += ["--top-p", "1.0", "--min-p", "0.0"]
        if penalty := self.sampling.get("repetition_penalty"):
            words += ["--repeat-penalty", f"{penalty:g}", "--repeat-last-n", str(PENALTY_WINDOW)]
        return words

    def mlx_server(self, port: int, checkpoint: str = "CHECKPOINT") -> list[str]:
        """mlx_lm.server's words. It serves the checkpoint that the files were made from, not a GGUF."""
        words = ["mlx_lm.server", "--model", checkpoint, "--host", "127.0.0.1", "--port", str(port)]
        words += ["--temp", f"{self.sampling.get('temperature', 0):g}", "--top-k", str(self.sampling.get("top_k", 0))]
        return [*words, "--max-tokens", str(self.answer_tokens)]

    @property
    def answer_tokens(self) -> int:
        """The most tokens of one answer, its thought included."""
        return ANSWER_TOKENS + self.thinking_tokens

    def hermes(self, port: int) -> str:
        """The `model` section of Hermes Agent's config.yaml. It sends no sampling: the server's own counts."""
        return "\n".join(
            [
                "model:",
                f"  default: {self.name if PLAIN.fullmatch(self.name) else json.dumps(self.name)}",
                "  provider: custom",
                f"  base_url: http://127.0.0.1:{port}/v1",
                "  api_key: none",
                f"  context_length: {self.context}",
                f"  max_tokens: {self.answer_tokens}",
            ]
        )


def of(folder: Path, summary: dict, quant: str) -> Serving:
    """How one quant of a release folder is served. UserError where the release has none of that name, or no file.

    `summary` has the form that kxl.release.summary gives it.
    """
    artifacts, summary_at = summary["artifacts"], f"{shown(folder)}/{SUMMARY}"
    if quant not in artifacts:
        raise UserError(f"{shown(folder)}: has no {quant}; it has {', '.join(sorted(artifacts))}: QUANT=name")
    file, name, given = artifacts[quant]["file"], summary.get("name"), summary.get("serving") or {}
    if not file or not file.isprintable() or Path(file).name != file:
        raise UserError(f"{summary_at}: {file!r} is no plain file name in this folder; fetch it again")
    path = Path(folder) / file
    if path.is_symlink() or not path.is_file():
        raise UserError(f"{shown(folder)}/{file}: is not here; fetch it from where the release was published")
    if name is not None and not (name.isprintable() and name.strip()):
        raise UserError(f"{summary_at}: the name {name!r} is no text of one line; fetch it again")
    sampling = {key: value for key, value in (given.get("sampling") or {}).items() if key in SAMPLING}
    context, thinking = given.get("context", CONTEXT), given.get("thinking_tokens", 0)
    bounded = {"thinking_tokens": thinking, **{key: value for key, value in sampling.items() if key != "seed"}}
    for key, value, least in (("context", context, 1), *((key, value, 0) for key, value in bounded.items())):
        if not least <= value <= MOST:
            raise UserError(f"{summary_at}: serving has the {key} {value}; fetch it again")
    fields = gguf_file.open_reader(path).fields

    def said(key: str, kind: type):
        found = fields[key].contents() if key in fields else None
        if found is not None and not isinstance(found, kind):
            raise UserError(f"{shown(path)}: its {key} is no {'text' if kind is str else 'number'}; fetch it again")
        return found

    template = said("tokenizer.chat_template", str)
    longest = said(f"{said('general.architecture', str)}.context_length", int) or CONTEXT
    if longest < 1 or isinstance(longest, bool):
        raise UserError(f"{shown(path)}: its context_length is {longest}; fetch it again")
    return Serving(
        path,
        name or path.stem,
        min(context, longest),
        sampling,
        thinking,
        bool(template and thoughts.writes_thoughts(template)),
        template,
    )


def page(serving: Serving, port: int) -> str:
    """All settings as text."""
    sampling = (
        ", ".join(f"{key} {value:g}" for key, value in sorted(serving.sampling.items()) if key != "seed") or "greedy"
    )
    digest = hashlib.sha256((serving.template or "").encode()).hexdigest()[:12]
    template = (
        f"in the file (sha256 {digest}), {'writes thoughts' if serving.thinks else 'writes no thoughts'}"
        if serving.template
        else "none in the file: tools will not work"
    )
    penalty = serving.sampling.get("repetition_penalty")
    also = (
        f"\n  (it has no flag for the repetition penalty: send repetition_penalty {penalty:g} with each request)"
        if penalty
        else ""
    )
    return f"""{serving.file.name}: context {serving.context}, sampling {sampling}
chat template: {template}

llama-server, from any llama.cpp that knows lfm2moe:
  {shlex.join(serving.llama_server(port))}

mlx_lm.server, for the checkpoint that the files were made from:
  {shlex.join(serving.mlx_server(port))}{also}

Hermes Agent, in $HERMES_HOME/config.yaml:
{indented(serving.hermes(port))}"""


def indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
