"""Drive vLLM's own `hermes` parser on what a trained model emitted: whole answers, and token by token as they stream.

In:  the report of scripts/smol_evaluate.py, whose "after" has each emitted text; the one file of vLLM's wheel
     (third_party/vllm.lock, 336 MB, fetched by pip, never installed); the checkpoint's tokenizer, which cuts the text
     into the pieces of a stream.
Out: a report; results {answers, whole_calls, same, same_streamed, called_elsewhere, details}.

  .venv/bin/python scripts/smol_check_vllm.py --raw reports/smollm2-135m/emission.json --model runs/smollm2-135m/base \\
      --out reports/smollm2-135m/serving.vllm_parser.json

same: vLLM finds exactly the calls that raw tokens have. called_elsewhere: calls that vLLM finds in an answer in which
raw tokens have none. One difference is enough for NAME.failed.json and exit code 2.
"""

from pathlib import Path

from kxl.base import cli, report
from kxl.base.cli import UserError
from kxl.base.files import ROOT, read_json, scratch_dir, shown
from kxl.chat import loss_mask
from kxl.release import reports
from kxl.setup import archive
from kxl.smol import vllm_parser

LOCK = ROOT / "third_party" / "vllm.lock"


def parser_class() -> type:
    """vLLM's parser, out of the pinned wheel."""
    pin = read_json(LOCK)
    with scratch_dir() as scratch:
        path = Path(scratch) / "hermes_tool_parser.py"
        archive.extract(archive.fetch(LOCK, "336 MB, for one file"), pin["member"], pin["member_sha256"], path)
        return vllm_parser.load(path)


def pieces(tokenizer, text: str) -> list[str]:
    """A text as a stream has it: what each token adds, held back while it ends in half a character."""
    ids, said, made = tokenizer.encode(text, add_special_tokens=False).ids, "", []
    for end in range(1, len(ids) + 1):
        now = tokenizer.decode(ids[:end], skip_special_tokens=False)
        if not now.endswith("\ufffd"):
            made.append(now.removeprefix(said))
            said = now
    return made


def judge(parser: type, tokenizer, entry: dict) -> dict:
    """One answer: the calls on raw tokens and those of vLLM."""
    wanted = entry["calls"] if entry["verdict"] == "call" else []
    whole = vllm_parser.calls(parser, entry["text"])
    streamed = vllm_parser.streamed_calls(parser, pieces(tokenizer, entry["text"])) if wanted else []
    return {
        "id": entry["id"],
        "verdict": entry["verdict"],
        "same": whole == wanted,
        "same_streamed": streamed == wanted,
        **({"vllm": whole} if whole != wanted else {}),
    }


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--raw", type=Path, required=True, metavar="FILE", help="report of scripts/smol_evaluate.py")
    parser.add_argument(
        "--model", type=Path, required=True, metavar="DIR", help="checkpoint; only its tokenizer is read"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="report to write")
    args = parser.parse_args()

    entries = reports.load("emission", args.raw)["results"]["details"]["after"]
    tokenizer, hermes = loss_mask.load(args.model).tokenizer, parser_class()
    details = [judge(hermes, tokenizer, entry) for entry in entries]
    calling = [entry for entry in details if entry["verdict"] == "call"]
    results = {
        "answers": len(details),
        "whole_calls": len(calling),
        "same": sum(entry["same"] for entry in calling),
        "same_streamed": sum(entry["same_streamed"] for entry in calling),
        "called_elsewhere": sum(not entry["same"] for entry in details if entry["verdict"] != "call"),
        "details": details,
    }
    met = all(entry["same"] and entry["same_streamed"] for entry in calling) and not results["called_elsewhere"]
    report.write_gated(
        args.out, met, [LOCK, args.raw, args.model / "tokenizer.json"], {"parser": "vLLM's hermes"}, results
    )
    said = (
        f"vLLM's parser finds the same calls in {results['same']} of {len(calling)} answers with whole calls, "
        f"{results['same_streamed']} as they stream; calls in {results['called_elsewhere']} other answers"
    )
    if not met:
        raise UserError(f"{said}. Each difference is in {shown(report.failed_path(args.out))}")
    print(f"{shown(args.out)}: {said}")


if __name__ == "__main__":
    cli.run(main)
