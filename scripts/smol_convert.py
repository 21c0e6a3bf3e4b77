"""Turn a dense checkpoint (SmolLM2, SmolLM3) into a BF16 GGUF with the pinned tree's converter.

In:  a checkpoint folder in transformers' names, as scripts/repair_fuse.py writes it. Out: one GGUF file.

  .venv/bin/python scripts/smol_convert.py --config configs/smollm2-135m.json --model runs/smollm2-135m/fused \\
      --out runs/smollm2-135m/bf16.gguf --log logs/smollm2-135m/convert.log

Upstream's convert_hf_to_gguf.py does all of it; a tokenizer that it does not recognise by its hash ends here with
its message. LFM2 checkpoints go through scripts/quant_convert.py, which reads them in parts and in either layout.
"""

import subprocess
import sys
from pathlib import Path

import gguf

from kxl.base import cli, processes
from kxl.base import config as configs
from kxl.base.cli import UserError
from kxl.base.files import atomic_path, scratch_dir, shown, write_json, write_text
from kxl.setup import llama_cpp
from kxl.smol import tokens


def convert(model: Path, out: Path, config: dict, log: Path) -> None:
    """Run the converter; UserError with the end of its output when it fails."""
    metadata = {
        "general.name": f"{config['base_model'].split('/')[-1]} tools",
        "general.license": config["license"]["id"],
    }
    with scratch_dir() as scratch:
        write_json(Path(scratch) / "metadata.json", metadata)
        command = [sys.executable, str(llama_cpp.source_tree() / "convert_hf_to_gguf.py"), str(model)]
        command += ["--outfile", str(out), "--outtype", "bf16", "--metadata", str(Path(scratch) / "metadata.json")]
        ended = processes.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    write_text(log, ended.stdout.replace(str(out), "OUT").replace(str(Path(model).resolve()), shown(model)))
    if ended.returncode != 0:
        raise UserError(
            f"the converter failed on {shown(model)}; its whole output is in {shown(log)}, "
            f"it ends:\n{llama_cpp.tail(ended.stdout)}"
        )


def check(path: Path, config: dict, out: Path) -> None:
    """The GGUF knows each tool token by its id, as a control token, and carries our template."""
    reader = gguf.GGUFReader(path)
    words, types = (reader.fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "token_type"))
    for role, entry in tokens.roles(config, config["name"]).items():
        if words[entry["id"]] != entry["token"] or types[entry["id"]] not in (
            gguf.TokenType.CONTROL,
            gguf.TokenType.USER_DEFINED,
        ):
            raise UserError(
                f"{shown(out)}: id {entry['id']} is {words[entry['id']]!r} of type {types[entry['id']]}, "
                f"not the {role} token {entry['token']!r}"
            )
    if "tool_call.name" not in reader.fields["tokenizer.chat_template"].contents():
        raise UserError(f"{shown(out)}: has another chat template than {config['template']}")


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--config", type=Path, required=True, help="model config (see configs/)")
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="checkpoint folder")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="GGUF file to write")
    parser.add_argument("--log", type=Path, required=True, metavar="FILE", help="where the converter's output goes")
    args = parser.parse_args()

    config = configs.load(args.config, configs.SMOL)
    with atomic_path(args.out) as partial:
        convert(args.model, partial, config, args.log)
        check(partial, config, args.out)
    print(f"{shown(args.out)}: BF16 GGUF of {shown(args.model)}, {args.out.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    cli.run(main)
