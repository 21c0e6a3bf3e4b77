"""How a released model is served: the command lines of the servers, and Hermes's settings, from its folder alone.

What it was judged with stands in release_summary.json (`serving`: context, sampling, tokens of thought), what it
expects of a server in the GGUF itself (chat template, context). Nothing of this repository's build is needed.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from kxl.base.cli import UserError
from kxl.base.files import shown
from kxl.chat import thoughts
from kxl.model import gguf_file

CONTEXT = 65536  # Hermes Agent refuses a model with fewer than 64,000 tokens
ANSWER_TOKENS = 2048  # beside the thought
PENALTY_WINDOW = 64  # tokens that the repetition penalty looks back on, as the evaluation's client asks for


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
                f"  default: {self.name}",
                "  provider: custom",
                f"  base_url: http://127.0.0.1:{port}/v1",
                "  api_key: none",
                f"  context_length: {self.context}",
                f"  max_tokens: {self.answer_tokens}",
            ]
        )


def of(folder: Path, summary: dict, quant: str) -> Serving:
    """How one quant of a release folder is served. UserError where the release has none of that name, or no file."""
    artifacts = summary["artifacts"]
    if quant not in artifacts:
        raise UserError(f"{shown(folder)}: has no {quant}; it has {', '.join(sorted(artifacts))}: QUANT=name")
    path = Path(folder) / artifacts[quant]["file"]
    if not path.is_file():
        raise UserError(f"{shown(path)}: is not here; fetch it from where the release was published")
    fields = gguf_file.open_reader(path).fields

    def said(key: str):
        return fields[key].contents() if key in fields else None

    template, given = said("tokenizer.chat_template"), summary.get("serving") or {}
    longest = said(f"{said('general.architecture')}.context_length") or CONTEXT
    return Serving(
        path,
        summary.get("name") or path.stem,
        min(given.get("context", CONTEXT), longest),
        given.get("sampling") or {},
        given.get("thinking_tokens", 0),
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
  {" ".join(serving.llama_server(port))}

mlx_lm.server, for the checkpoint that the files were made from:
  {" ".join(serving.mlx_server(port))}{also}

Hermes Agent, in $HERMES_HOME/config.yaml:
{indented(serving.hermes(port))}"""


def indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
