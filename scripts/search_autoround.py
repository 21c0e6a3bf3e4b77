"""Let AutoRound make its GGUF of a checkpoint, as a rival for a search: its own file, of its own types.

In:  a checkpoint that transformers loads, and the text that the search may see.
Out: a GGUF of one of AutoRound's schemes (q4_k_m). It is asked without tuning steps (iters=0), which is what its
     authors advise for GGUF, with its own importance matrix from the text.

  .venv/bin/python scripts/search_autoround.py --model runs/smollm2-135m/base --scheme q4_k_m \\
      --text runs/smollm2-135m/calibration.txt --out runs/smollm2-135m/autoround.gguf

AutoRound lives in an environment of its own (kxl/setup/auto_round_env.py). It takes some minutes for 135 M parameters
on two cores, and half a gigabyte beside the model in float32.
"""

import os
from pathlib import Path

from kxl.base import cli
from kxl.base.cli import UserError
from kxl.base.files import atomic_path, scratch_dir, shown, write_json
from kxl.setup import auto_round_env

SCHEMES = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m", "q2_k_s")


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="checkpoint folder")
    parser.add_argument("--text", type=Path, required=True, metavar="FILE", help="text that the search may see")
    parser.add_argument("--scheme", choices=SCHEMES, default="q4_k_m", help="AutoRound's name of the GGUF's types")
    parser.add_argument("--tokens", type=int, default=512, help="tokens of a sample of the text")
    parser.add_argument("--samples", type=int, default=64, help="samples of the text at most")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="GGUF to write")
    args = parser.parse_args()
    if not (args.model / "config.json").is_file():
        raise UserError(f"{shown(args.model)}: holds no config.json; name a checkpoint folder")
    if args.tokens < 32 or args.samples < 1:
        raise UserError("--tokens is at least 32, --samples at least 1")
    os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is fetched: model and text are here
    auto_round_env.use()

    import torch
    from auto_round import AutoRound
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with scratch_dir(args.out.parent) as folder, atomic_path(args.out) as partial:
        samples = Path(folder) / "samples.json"
        write_json(samples, pieces(tokenizer, args.text, args.tokens, args.samples))
        maker = AutoRound(
            model,
            tokenizer,
            scheme=f"gguf:{args.scheme}",
            iters=0,
            dataset=str(samples),
            nsamples=args.samples,
            seqlen=args.tokens,
            device_map="cpu",
        )
        maker.quantize_and_save(str(Path(folder) / "made"), format=f"gguf:{args.scheme}")
        made = list((Path(folder) / "made").rglob("*.gguf"))
        if len(made) != 1:
            raise UserError(f"AutoRound wrote {len(made)} GGUF files and not one; its messages are above")
        made[0].replace(partial)
    print(
        f"{shown(args.out)}: {args.scheme} by AutoRound {auto_round_env.version()}, {args.out.stat().st_size:,} bytes"
    )


def pieces(tokenizer, text: Path, tokens: int, most: int) -> list[dict]:
    """The text in pieces of at least so many tokens, as AutoRound reads a data set of one's own."""
    ids = tokenizer(text.read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"]
    # A piece is encoded again there, and may come to fewer tokens: a few more are given.
    starts = range(0, len(ids) - tokens, tokens)
    return [{"text": tokenizer.decode(ids[start : start + tokens + 16])} for start in starts][:most]


if __name__ == "__main__":
    cli.run(main)
