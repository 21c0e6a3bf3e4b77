"""Turn an LFM2-MoE checkpoint into a BF16 GGUF with the pinned tree's own converter.

In:  a checkpoint folder (transformers or mlx-lm names, sharded or not, MLX-quantized or not) with its
     tokenizer; Out: one GGUF file, whole or not at all.

  .venv/bin/python scripts/quant_convert.py --model models/tiny --out runs/tiny/hermes-kxl-tiny-bf16.gguf

Metadata, vocabulary, tensor names and types come from upstream's conversion/lfm2.py; this script only
hands it the weights, read a few rows at a time by checkpoint.py, so a checkpoint of any size converts
in about half a GiB of memory and needs no second copy on disk. What llama.cpp would compute differently
from the checkpoint is refused, by key or tensor name.
"""

import logging
import math
import re
import sys
from pathlib import Path

import yaml

from kxl.base import cli, config
from kxl.base.cli import UserError, say
from kxl.base.files import atomic_path, make_place, read_json, require_space, scratch_dir, shown, write_json
from kxl.chat import rendering, tokenizer_checks
from kxl.model import checkpoint
from kxl.model.checkpoint import Checkpoint, Tensor
from kxl.setup import llama_cpp

OUTTYPES = {"bf16": "MOSTLY_BF16", "f32": "ALL_F32"}


def refuse_unsupported(source: Checkpoint) -> None:
    """Refuse what llama.cpp's LFM2 graphs cannot express. Raises UserError naming the key and its file."""
    config, path = source.config, shown(source.folder / "config.json")
    if not config["tie_word_embeddings"]:
        raise UserError(
            f"{path}: embeddings are not tied, and the converter has no place for lm_head.weight; "
            f"only checkpoints with tied embeddings can be exported"
        )
    if config.get("conv_bias"):
        raise UserError(f"{path}: conv_bias is true, but llama.cpp's LFM2 short convolution has no bias")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise UserError(f"{path}: rope type {kind!r}; mlx-lm computes LFM2 with the default type only")
    if config["model_type"] != "lfm2_moe":
        return
    if not config.get("use_expert_bias", True):
        raise UserError(f"{path}: use_expert_bias is false, but llama.cpp refuses an LFM2-MoE without expert_bias")
    if config.get("routed_scaling_factor", 1.0) != 1.0:
        raise UserError(
            f"{path}: routed_scaling_factor is {config['routed_scaling_factor']}; the GGUF format has no "
            f"place for it and llama.cpp would compute with 1.0"
        )
    if not config.get("norm_topk_prob", True):
        raise UserError(f"{path}: norm_topk_prob is false, but llama.cpp always normalizes the router's weights")


def stage(source: Checkpoint, folder: Path, card: dict) -> None:
    """Lay out what upstream reads beside the weights: config.json, tokenizer, template, model card."""
    drop = ("quantization", "quantization_config", "_name_or_path")  # the weights arrive dequantized
    config = {key: value for key, value in source.config.items() if key not in drop}
    write_json(folder / "config.json", config)
    checkpoint.copy_tokenizer(source.folder, folder)
    card = {**front_matter(source.folder / "README.md"), **card}
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n", encoding="utf-8")


def front_matter(path: Path) -> dict:
    """The YAML front matter of a model card; empty when there is none."""
    if not path.is_file():
        return {}
    found = re.match(r"---\n(.*?\n)---\n", path.read_text(encoding="utf-8"), re.DOTALL)
    try:
        fields = yaml.safe_load(found[1]) if found else {}
    except yaml.YAMLError as error:
        raise UserError(f"{shown(path)}: its front matter is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(fields, dict):
        raise UserError(f"{shown(path)}: its front matter is no list of `key: value`")
    return fields


def converter_class(architecture: str, tree: Path):
    """Upstream's converter for `architecture`, taking its weights from a Checkpoint."""
    sys.path[:0] = [str(tree), str(tree / "gguf-py")]
    import gguf
    import torch
    from conversion import LazyTorchTensor, get_model_class

    upstream = get_model_class(architecture)

    def lazy(tensor: Tensor):
        meta = LazyTorchTensor.meta_with_dtype_and_shape(torch.float32, tensor.shape)
        return LazyTorchTensor(meta=meta, args=(tensor,), func=lambda t: torch.from_numpy(t.read()))

    def in_parts(tensors: list[Tensor], shape: tuple):
        return gguf.LazyChunkedTensor([part for tensor in tensors for part in tensor.parts], shape, "float32")

    class Converter(upstream):
        model_arch = upstream.model_arch

        def __init__(self, source: Checkpoint, pre_tokenizer: str, *args, **kwargs):
            self.source, self.pre_tokenizer = source, pre_tokenizer
            super().__init__(*args, **kwargs)

        def index_tensors(self, remote_hf_model_id=None):
            pairs = [(name, lambda tensor=tensor: lazy(tensor)) for name, tensor in self.source.tensors.items()]
            return dict(self.filter_tensors(pair) for pair in pairs)

        def get_vocab_base_pre(self, tokenizer) -> str:
            try:
                return super().get_vocab_base_pre(tokenizer)
            except NotImplementedError:  # a tokenizer upstream has never seen
                tokenizer_checks.refuse_other_pattern(self.source.folder, self.pre_tokenizer)
                logging.info("pre-tokenizer %s: tokenizer.json splits text by its pattern", self.pre_tokenizer)
                return self.pre_tokenizer

        def modify_tensors(self, data_torch, name, bid):
            # Upstream stacks the experts of a layer in memory; written part by part they need none.
            if match := re.fullmatch(r"model\.(layers\.\d+\.feed_forward\.experts)\.(\d+)\.(w[123]\.weight)", name):
                count = self.hparams["num_experts"]
                if int(match[2]) == count - 1:
                    experts = [self.source.tensors[f"model.{match[1]}.{i}.{match[3]}"] for i in range(count)]
                    yield self.map_tensor_name(f"{match[1]}.{match[3]}"), in_parts(experts, (count, *experts[0].shape))
            elif name == "model.embed_tokens.weight":
                tensor = self.source.tensors[name]
                yield self.map_tensor_name(name), in_parts([tensor], tensor.shape)
            else:
                yield from super().modify_tensors(data_torch, name, bid)

    return Converter, gguf


def write_gguf(source: Checkpoint, out: Path, outtype: str, pre_tokenizer: str, name: str, card: dict) -> None:
    """Convert `source` to `out`. Raises UserError for anything the checkpoint's owner can mend."""
    Converter, gguf = converter_class(source.config["architectures"][0], llama_cpp.source_tree())
    parameters = sum(math.prod(tensor.shape) for tensor in source.tensors.values())
    require_space(out.parent, parameters * (4 if outtype == "f32" else 2))
    with scratch_dir() as scratch, atomic_path(out) as partial:
        folder = scratch / "model"  # a plain name: gguf takes words out of the folder's for the file's own metadata
        folder.mkdir()
        stage(source, folder, card)
        converter = Converter(
            source, pre_tokenizer, folder, gguf.LlamaFileType[OUTTYPES[outtype]], partial, model_name=name
        )
        converter.write()
        verify(gguf, partial, source, out)


def verify(gguf, path: Path, source: Checkpoint, out: Path) -> None:
    """Read the header back: what decides the computation must be what config.json says."""
    config = source.config
    reader = gguf.GGUFReader(path)
    arch = reader.fields["general.architecture"].contents()
    heads = config["num_key_value_heads"]
    rope = (config.get("rope_parameters") or {}).get("rope_theta", config.get("rope_theta", 1_000_000.0))
    wanted = {
        "block_count": config["num_hidden_layers"],
        "embedding_length": config["hidden_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": [heads if kind == "full_attention" else 0 for kind in config["layer_types"]],
        "attention.layer_norm_rms_epsilon": config["norm_eps"],
        "rope.freq_base": rope,
        "shortconv.l_cache": config["conv_L_cache"],
        "vocab_size": config["vocab_size"],
    }
    if config["model_type"] == "lfm2_moe":
        wanted |= {
            "expert_count": config["num_experts"],
            "expert_used_count": config["num_experts_per_tok"],
            "expert_feed_forward_length": config["moe_intermediate_size"],
            "leading_dense_block_count": config["num_dense_layers"],
        }
    for key, value in wanted.items():
        field = reader.fields.get(f"{arch}.{key}")
        found = field.contents() if field else None
        same = (
            found == value
            if not isinstance(value, float)
            else found is not None and math.isclose(found, value, rel_tol=1e-6)
        )
        if not same:
            raise UserError(f"{shown(out)}: {arch}.{key} came out as {found}, config.json asks for {value}")
    template = reader.fields.get("tokenizer.chat_template")
    if template is None and tokenizer_checks.chat_template(source.folder):
        raise UserError(
            f"{shown(source.folder)}: has a chat template, which the converter did not take; "
            f"put it into chat_template.jinja there and convert again"
        )


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="checkpoint folder")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="GGUF file to write")
    parser.add_argument(
        "--outtype", choices=sorted(OUTTYPES), default="bf16", help="type of the matrices; the rest is f32"
    )
    parser.add_argument(
        "--pre-tokenizer",
        choices=sorted(tokenizer_checks.SPLIT_PATTERNS),
        default="lfm2",
        help="tokenizer.ggml.pre for a tokenizer that upstream does not know",
    )
    parser.add_argument("--name", help="general.name (default: the folder's name)")
    parser.add_argument("--license", help="general.license, such as apache-2.0 (default: from the folder's README.md)")
    parser.add_argument("--license-name", help="general.license.name")
    parser.add_argument("--license-link", help="general.license.link")
    parser.add_argument("--base-model", help="general.base_model, such as ORG/NAME")
    parser.add_argument("--run", help="general.version: the run that the file belongs to")
    parser.add_argument("--log", type=Path, metavar="FILE", help="where the converter's own log goes")
    args = config.parse(
        parser,
        {
            "pre_tokenizer": "gguf.pre_tokenizer",
            "name": "name",
            "license": "license.id",
            "license_name": "license.name",
            "license_link": "license.link",
            "base_model": "base_model",
        },
    )

    source = checkpoint.read(args.model)
    refuse_unsupported(source)
    tokenizer_checks.refuse_lost_files(source.folder)
    tokenizer_checks.refuse_large_ids(source.folder, source.config["vocab_size"])
    tokenizer_checks.refuse_words_in_pieces(source.folder)
    card = {
        key: getattr(args, key)
        for key in ("license", "license_name", "license_link", "base_model")
        if getattr(args, key)
    }
    if args.run:
        card["version"] = args.run
    if args.log:
        make_place(args.log)
        logging.basicConfig(filename=args.log, filemode="w", level=logging.INFO, format="%(message)s")
        # Upstream's warning is about a hash it does not know; what is done about it is logged instead.
        logging.getLogger("hf-to-gguf").addFilter(lambda record: not str(record.msg).startswith(("**", "\n")))
        logging.getLogger("gguf.gguf_writer").addFilter(
            lambda record: not str(record.msg).startswith(("Writing the", str(args.out.parent.resolve())))
        )
    template = tokenizer_checks.chat_template(args.model)
    rendering.try_out(template or "", shown(args.model))  # llama-server would hang over one that loops
    for note in tokenizer_checks.notes(source.folder, template or ""):
        say(note)
    if template is None:
        say(f"{shown(args.model)}: has no chat template; llama-server will fall back to ChatML without tools")
    named = read_json(args.model / "config.json").get("architectures")
    if named not in (None, source.config["architectures"]):
        say(
            f"{shown(args.model / 'config.json')}: architectures is {named}; all names and shapes are those of "
            f"{source.config['architectures'][0]}, so that is what is converted"
        )
    write_gguf(source, args.out, args.outtype, args.pre_tokenizer, args.name or args.model.resolve().name, card)
    size = args.out.stat().st_size / 2**20
    print(f"{shown(args.out)}: {args.outtype.upper()} GGUF of {shown(args.model)}, {size:.1f} MiB")


if __name__ == "__main__":
    cli.run(main)
