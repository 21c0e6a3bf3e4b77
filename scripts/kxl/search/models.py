"""A checkpoint as a torch model in float32, its matrices by their GGUF names, and a text as token ids."""

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np

from kxl.base.cli import UserError
from kxl.base.files import read_json, read_text, scratch_dir, shown
from kxl.model import checkpoint

ARCHITECTURES = {
    "lfm2": gguf.MODEL_ARCH.LFM2,
    "lfm2_moe": gguf.MODEL_ARCH.LFM2MOE,
    "llama": gguf.MODEL_ARCH.LLAMA,
    "smollm3": gguf.MODEL_ARCH.SMOLLM3,
}


def namer(model: Path) -> Callable[[str], str]:
    """The function from a parameter's name in transformers to its name in the GGUF.

    UserError for a kind of model that is not known here.
    """
    config = read_json(model / "config.json")
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        raise UserError(
            f"{shown(model)}: model_type is {kind!r}; a sensitivity is measured for {', '.join(ARCHITECTURES)}. "
            f"`make estimate` needs the GGUF and the imatrix alone"
        )
    names = gguf.get_tensor_name_map(ARCHITECTURES[kind], config["num_hidden_layers"])

    def name(parameter: str) -> str:
        found = names.get_name(parameter, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise UserError(f"{shown(model)}: {parameter} has no name in a GGUF of {kind}")
        return found

    return name


def load(model: Path):
    """The checkpoint as transformers loads it, float32, for reading only."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(2)
    with scratch_dir() as folder:
        if read_json(model / "config.json")["model_type"].startswith("lfm2"):  # it may be in MLX's layout
            checkpoint.save_hf(Path(folder) / "model", checkpoint.read_any(model))
            model = Path(folder) / "model"
        return AutoModelForCausalLM.from_pretrained(
            model, dtype=torch.float32, local_files_only=True, attn_implementation="sdpa"
        ).eval()


def read_tokens(model: Path, text: Path, context: int, limit: int) -> np.ndarray:
    """Tokens of the text in whole chunks: int64 [chunks, context], at most `limit` tokens; markers are their tokens.

    The chunks are drawn from all of the text (always the same ones), so that they are no openings of sessions alone.
    UserError where the text fills no chunk.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    ids = tokenizer(read_text(text), add_special_tokens=False)["input_ids"]
    whole, wanted = len(ids) // context, limit // context
    if not min(whole, wanted):
        raise UserError(
            f"{shown(text)}: {len(ids)} tokens fill no chunk of {context}; lower --context or raise --tokens"
        )
    chosen = np.random.default_rng(0).permutation(whole)[:wanted]
    return np.array(ids[: whole * context], dtype=np.int64).reshape(whole, context)[chosen]
