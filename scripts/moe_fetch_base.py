"""Make sure the base checkpoint is here: a folder is checked, a model of the hub is downloaded at a pinned revision.

In:  --model, a checkpoint folder, or OWNER/NAME of the hub with --revision, the commit to take.
Out: for a hub model the folder --out, which resumes when interrupted; nothing for a folder. A report with
     the size and sha256 of every file, which pins what a run was trained from.

Before anything is downloaded its size is compared with the free disk. Afterwards the headers of all shards
are checked against config.json, and the architecture must be an LFM2-MoE.

  .venv/bin/python scripts/moe_fetch_base.py --model LiquidAI/LFM2.5-8B-A1B --revision COMMIT \\
      --out runs/mine/base --report runs/mine/results/reports/base.json
"""

import math
import re
from pathlib import Path

from kxl.base import cli, report
from kxl.base.cli import UserError
from kxl.base.files import read_json, require_space, shown
from kxl.model import checkpoint
from kxl.moe import core

WANTED = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model")


def download(model: str, revision: str | None, out: Path) -> None:
    """Bring `model` at commit `revision` into `out`. UserError when unpinned, unknown, unreachable or too large."""
    if not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        raise UserError(
            f"{model}: --revision is {revision!r}; a branch or tag can move, so name the commit (40 hex digits, on the "
            "model's page under Files)"
        )
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    try:
        files = huggingface_hub.HfApi().model_info(model, revision=revision, files_metadata=True).siblings
        wanted = [file for file in files if any(Path(file.rfilename).match(pattern) for pattern in WANTED)]
        if not any(file.rfilename.endswith(".safetensors") for file in wanted):
            raise UserError(f"{model} at {revision[:8]}: has no safetensors files; this reads safetensors only")
        here = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) if out.exists() else 0
        size = sum(file.size or 0 for file in wanted)
        cli.say(f"{model} at {revision[:8]}: {len(wanted)} files, {size / 2**30:.2f} GiB")
        require_space(out, max(size - here, 0))
        huggingface_hub.snapshot_download(model, revision=revision, local_dir=out, allow_patterns=list(WANTED))
    except (HfHubHTTPError, OSError) as error:
        raise UserError(
            f"{model} at {revision[:8]}: cannot be downloaded ({type(error).__name__}: {str(error).splitlines()[0]}); "
            f"what arrived is kept in {shown(out)}: run again"
        ) from None


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--model", required=True, help="checkpoint folder, or OWNER/NAME of the hub")
    parser.add_argument("--revision", help="commit of the hub model, 40 hex digits")
    parser.add_argument("--out", type=Path, required=True, help="folder for a downloaded checkpoint")
    parser.add_argument("--group-size", type=int, default=64, help="group size that the experts must fit")
    parser.add_argument("--report", type=Path, required=True, help="report (JSON)")
    args = parser.parse_args()

    folder = Path(args.model)
    if not folder.is_dir():
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", args.model):
            raise UserError(f"{args.model}: no such folder, and not OWNER/NAME of a hub model")
        folder = args.out
        download(args.model, args.revision, folder)
    core.check_config(read_json(folder / "config.json"), args.group_size, shown(folder / "config.json"))
    source = checkpoint.read(folder)
    files = sorted(path for path in folder.iterdir() if path.is_file())
    parameters = sum(math.prod(tensor.shape) for tensor in source.tensors.values())
    report.write(
        args.report,
        files,
        {"model": args.model, "revision": args.revision},
        {"parameters": parameters, "tensors": len(source.tensors), "bytes": sum(path.stat().st_size for path in files)},
    )
    print(
        f"{shown(folder)}: {parameters / 1e6:,.1f} M parameters in {len(source.tensors)} tensors; headers fit "
        "config.json"
    )


if __name__ == "__main__":
    cli.run(main)
