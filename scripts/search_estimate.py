"""Estimate what each type does to each tensor from weights and imatrix alone, without running the model.

In:  a BF16 GGUF and its imatrix; or --shapes, a config.json alone (then ordinary weights are supposed).
     configs/quant_priors.json: how much a relative error of each kind of tensor counts, from measured models.
Out: a report of the same form as a sensitivity's; a search reads either.

For 8B parameters it takes minutes: at most --sample weights of a tensor are quantized. Tensors that are done are kept
in --work, so an interrupted run goes on.

  .venv/bin/python scripts/search_estimate.py --gguf runs/tiny/bf16.gguf --imatrix runs/tiny/imatrix.gguf \\
      --work runs/tiny/estimate --out reports/tiny/estimate.json
  .venv/bin/python scripts/search_estimate.py --shapes gguf/lfm2-8b-a1b.shapes.json --out runs/8b.estimate.json
"""

from pathlib import Path

from tqdm import tqdm

from kxl.base import cli, report
from kxl.base.cli import UserError
from kxl.base.files import lock, read_json, sha256, shown, write_json
from kxl.model import gguf_file
from kxl.quant import imatrix as imatrices
from kxl.quant import policy
from kxl.quant.sparse import read_shapes, tensors_of
from kxl.search import estimate, table


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--gguf", type=Path, metavar="FILE", help="BF16 GGUF")
    parser.add_argument("--imatrix", type=Path, metavar="FILE", help="its imatrix (GGUF)")
    parser.add_argument("--shapes", type=Path, metavar="FILE", help="config.json or shapes file, in place of a GGUF")
    parser.add_argument(
        "--sample", type=int, default=1 << 20, help="weights of a tensor that are quantized at most, whole rows"
    )
    parser.add_argument("--priors", type=Path, default=estimate.PRIORS, metavar="FILE", help="factors by kind")
    parser.add_argument("--work", type=Path, metavar="DIR", help="folder that keeps finished tensors")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="report to write (JSON)")
    args = parser.parse_args()
    if bool(args.gguf) == bool(args.shapes) or (args.gguf and not (args.imatrix and args.work)):
        raise UserError("name either --gguf with --imatrix and --work, or --shapes")

    priors = estimate.read_priors(args.priors)
    if args.shapes:
        config = read_shapes(args.shapes)
        tensors = tensors_of(config)
        relative = {t.name: (priors["errors"], None) for t in tensors}
    else:
        tensors = policy.read_tensors(args.gguf)
        with lock(args.work / ".lock", f"waiting for another estimate in {shown(args.work)}"):
            relative = errors_of(args, tensors)
    blocks = 1 + max(int(t.name.split(".")[1]) for t in tensors if t.name.startswith("blk."))
    made = {}
    for tensor in filter(policy.quantizable, tensors):
        errors, absolute = relative[tensor.name]
        cells = estimate.cells_of(tensor, errors, priors, blocks)
        for kind, cell in cells.items():
            if kind != "BF16":
                cell["error"] = table.rounded(errors[kind])
                cell["weighted_error"] = None if absolute is None else table.rounded(absolute[kind])
        made[tensor.name] = {"shape": list(tensor.shape), "types": cells}
    inputs = [args.shapes] if args.shapes else [args.gguf, args.imatrix]
    report.write(args.out, [*inputs, args.priors], {"sample": args.sample}, {"tensors": made})
    print(f"{shown(args.out)}: {len(made)} tensors estimated, none of them run")


def errors_of(args, tensors: list) -> dict:
    """{tensor: (relative errors, weighted errors)} by type name, from --work or now."""
    entries, _ = imatrices.read(args.imatrix)
    key = {"gguf": sha256(args.gguf), "imatrix": sha256(args.imatrix), "sample": args.sample}
    data = {entry.name: entry.data for entry in gguf_file.open_reader(args.gguf).tensors}
    found = {}
    for tensor in tqdm([t for t in tensors if policy.quantizable(t)], desc="quantizing", unit="tensor"):
        record = args.work / f"{tensor.name}.json"
        if record.exists() and (kept := read_json(record))["key"] == key:
            found[tensor.name] = kept["errors"]
            continue
        made = estimate.relative_errors(tensor, data[tensor.name], entries.get(tensor.name), args.sample)
        found[tensor.name] = [{kind.name: value for kind, value in part.items()} for part in made]
        write_json(record, {"key": key, "errors": found[tensor.name]})
    return found


if __name__ == "__main__":
    cli.run(main)
