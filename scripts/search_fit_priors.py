"""Fit how much a relative error of each kind of tensor counts, from models whose sensitivity was measured.

In:  for each model NAME=REPORT:FOLDER, its sensitivity report and the folder where `search_estimate.py` keeps errors.
Out: configs/quant_priors.json, which estimates of other models are made with.

  .venv/bin/python scripts/search_fit_priors.py --measured tiny=reports/tiny/sensitivity.json:runs/tiny/estimate \\
      --out configs/quant_priors.json
"""

from pathlib import Path

from kxl.base import cli, report
from kxl.base.cli import UserError
from kxl.base.files import read_json, shown, write_json
from kxl.search import estimate

FORM = "NAME=REPORT:FOLDER"


def places(text: str) -> tuple[Path, Path]:
    """(report, folder) from "REPORT:FOLDER"."""
    sensitivity, colon, folder = text.partition(":")
    if not (sensitivity and colon and folder):
        raise UserError(f"--measured: {text} is no REPORT:FOLDER; write it as {FORM}")
    return Path(sensitivity), Path(folder)


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--measured",
        type=cli.pair("--measured", FORM, places),
        action="append",
        required=True,
        metavar=FORM,
        help="a measured model",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="priors to write (JSON)")
    args = parser.parse_args()
    measured = {}
    for name, (sensitivity, folder) in args.measured:
        results = report.results(sensitivity)
        relative = {tensor: read_json(folder / f"{tensor}.json")["errors"][0] for tensor in results["tensors"]}
        measured[name] = results, relative
    priors = estimate.fit(measured)
    write_json(args.out, {"measured_on": sorted(measured), **priors})
    print(f"{shown(args.out)}: factors of {len(priors['factors'])} kinds from {', '.join(sorted(measured))}")


if __name__ == "__main__":
    cli.run(main)
