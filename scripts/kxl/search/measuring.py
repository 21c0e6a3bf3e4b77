"""A policy quantized and judged: types in, one divergence per scored token out; what was done once is kept.

What is kept of an artifact are its scores (4 bytes a token); its GGUF and log-probabilities are gone when it is judged.
"""

import argparse
import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kxl.base.cli import UserError
from kxl.base.files import atomic_path, lock, read_json, require_space, scratch_dir, sha256, shown, write_json
from kxl.quant import chunks, policy, quantizing
from kxl.quant.policy import Tensor, Type
from kxl.search import judged, written
from kxl.setup import llama_cpp

BATCH = 2048  # tokens that llama-perplexity computes at once: twice as fast as its own 512


def add_arguments(parser: argparse.ArgumentParser, text: str) -> None:
    """What a script needs that measures whole policies; `text` says which text it reads."""
    parser.add_argument("--gguf", type=Path, required=True, metavar="FILE", help="BF16 GGUF")
    parser.add_argument("--imatrix", type=Path, metavar="FILE", help="its imatrix (default: none)")
    parser.add_argument("--table", type=Path, required=True, metavar="FILE", help="sensitivity report of that model")
    parser.add_argument("--text", type=Path, required=True, metavar="FILE", help=text)
    parser.add_argument("--context", type=int, default=8192, help="tokens per chunk; the second half of each is scored")
    parser.add_argument("--tokens", type=int, default=65536, help="tokens of the text that are used at most")
    parser.add_argument(
        "--plan", type=Path, default=policy.PLAN, metavar="FILE", help="hand-written policies, stock types"
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="this budget alone, repeatable (default: all)"
    )
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="folder that keeps what was measured")
    parser.add_argument("--logs", type=Path, required=True, metavar="DIR", help="folder for llama.cpp's output")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="report to write (JSON)")


@contextlib.contextmanager
def opened(args: argparse.Namespace) -> Iterator["Judge"]:
    """The Judge of those arguments, alone in its --work."""
    with lock(args.work / ".lock", f"waiting for another measurement in {shown(args.work)}"):
        yield Judge(args.gguf, args.imatrix, args.text, args.context, args.tokens, args.work, args.logs)


@dataclass
class Judge:
    """Measures policies of one BF16 GGUF on the first `tokens` of a text, in whole chunks of `context`.

    `work` keeps what is done, `logs` the programs' output.
    """

    base: Path
    imatrix: Path | None
    text: Path
    context: int
    tokens: int
    work: Path
    logs: Path

    def __post_init__(self):
        self.tensors: list[Tensor] = policy.read_tensors(self.base)
        self.key = {
            "base": sha256(self.base),
            "imatrix": sha256(self.imatrix) if self.imatrix else None,
            "text": sha256(self.text),
            "context": self.context,
            "tokens": self.tokens,
            "batch": BATCH,
            "llama.cpp": llama_cpp.cache_key(),
        }

    def files(self) -> list[Path]:
        """What it measures with, for a report's inputs."""
        return [self.base, *([self.imatrix] if self.imatrix else [])]

    def _logits(self, model: Path, out: Path, what: str) -> None:
        with atomic_path(out) as partial, chunks.progress(what) as progress:
            options = [*chunks.AS_RENDERED, "-c", self.context, "-b", BATCH, "-ub", BATCH]
            options += ["--chunks", max(1, self.tokens // self.context)]
            llama_cpp.run(
                "llama-perplexity",
                ["-m", model, "-f", self.text, *options, "--kl-divergence-base", partial],
                log=self.logs / f"search.{re.sub('[^a-z0-9_.-]+', '-', what.lower())}.log",
                progress=progress,
            )

    def parent(self) -> Path:
        """The parent's log-probabilities."""
        path, record = self.work / "parent.logits", self.work / "parent.json"
        if not (path.exists() and record.exists() and read_json(record)["key"] == self.key):
            record.unlink(missing_ok=True)
            self._logits(self.base, path, "bf16")
            write_json(record, {"key": self.key})
        return path

    def kinds(self) -> dict[str, np.ndarray]:
        """The kind of each scored token (kxl/search/judged.py)."""
        from kxl.model import gguf_file

        words = gguf_file.open_reader(self.base).get_field("tokenizer.ggml.tokens").contents()
        return judged.kinds_of(judged.read_header(self.parent())[2], words)

    def measured(self, name: str, types: dict[str, Type]) -> tuple[judged.Scores, int]:
        """(scores, bytes of the file) of a policy {tensor: Type}. UserError where llama-quantize makes other types."""
        wanted = {"key": self.key, "types": {tensor: kind.name for tensor, kind in sorted(types.items())}}
        digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:16]
        kept = self.work / f"{digest}.npz"
        if kept.exists():
            return _kept(kept)
        parent = self.parent()
        whole = {t.name: types.get(t.name, t.type) for t in self.tensors}
        require_space(self.work, policy.data_bytes(self.tensors, whole) + parent.stat().st_size)
        rules = "".join(f"^{re.escape(t).replace('_', '_')}$={kind.name.lower()}\n" for t, kind in types.items())
        with scratch_dir() as folder:
            made = Path(folder) / "policy.gguf"
            base_type = written.base_type(types, self.tensors)
            log = self.logs / "search.quantize.log"
            if self.imatrix:
                quantizing.check_imatrix(self.imatrix, self.tensors, whole)
            output = quantizing.quantize(self.base, made, base_type, self.imatrix, rules, log)
            if "required fallback quantization" in output:
                raise UserError(f"{name}: llama-quantize fell back to other types for some rows; see {log}")
            quantizing.verify(made, self.tensors, whole)
            self._logits(made, self.work / "quant.logits", name)
            size = made.stat().st_size
        return self._scored(kept, size)

    def measured_file(self, name: str, path: Path) -> tuple[judged.Scores, int]:
        """(scores, bytes) of a GGUF of the same model that somebody else made."""
        wanted = {"key": self.key, "file": sha256(path)}
        kept = self.work / f"{hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:16]}.npz"
        if kept.exists():
            return _kept(kept)
        self.parent()
        self._logits(path, self.work / "quant.logits", name)
        return self._scored(kept, path.stat().st_size)

    def _scored(self, kept: Path, size: int) -> tuple[judged.Scores, int]:
        """The scores of the log-probabilities that were just written; `kept` keeps them in their place."""
        scores = judged.compare(self.parent(), self.work / "quant.logits")
        (self.work / "quant.logits").unlink()
        with atomic_path(kept) as partial:
            with open(partial, "wb") as file:
                np.savez_compressed(
                    file, kld=scores.kld.astype(np.float32), same_top=scores.same_top, chunk=scores.chunk, bytes=size
                )
        return scores, size


def _kept(path: Path) -> tuple[judged.Scores, int]:
    """(scores, bytes) that an earlier measurement kept."""
    stored = np.load(path)
    return judged.Scores(stored["kld"].astype(float), stored["same_top"], stored["chunk"]), int(stored["bytes"])
