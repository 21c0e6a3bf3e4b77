"""Draw the README's figures from reports alone, each as SVG and PNG, light and dark.

In:  JSON reports (evals/RUN/, reports/RUN/, reports/lfm2.5-8b-a1b/); nothing is measured here.
Out: NAME-light.svg, NAME-dark.svg and the same as .png (1700 pixels, to be shown 850 wide) in --out.

  pipeline        the stages and the number each gate measured
  fixed-hermes    which cases each artifact passed
  quant-quality   file size against KL divergence
  policy-search   searched policies and their rivals at the same bytes
  quant-sizes-8b  predicted sizes of LFM2-8B-A1B against their budgets
  training-memory peak memory of training an 8B MoE by length of the example
  group-sweep     time and memory of a training step by group size
  dataset         which rows were kept, and what each filter took
  smol-emission   a small model's calls before and after training, by number of tools, and its restraint
  repair          what the suites scored over the iterations of a repair loop

Only figures whose reports are given are drawn, unless --only names one; a figure that stands in --out and could not
be drawn again is an error. The reference's own published numbers (configs/reference_results.json) stand beside ours.
The same reports give the same bytes. Texts that overlap or leave the picture are an error that names them.

  python scripts/build_visual_assets.py --out visuals --only fixed-hermes \\
      --eval evals/tiny/fixed_hermes_43.llama_cpp.bf16.json --eval evals/tiny/fixed_hermes_43.llama_cpp.q4kxl.json
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from kxl.base import cli
from kxl.base.cli import UserError
from kxl.base.files import ROOT, read_json, shown
from kxl.eval import scores
from kxl.figures import data, frontier, pipeline, quants, repair, smol, style, training
from kxl.figures import eval as figures_eval
from kxl.release import reports


class Figure(NamedTuple):
    """The reports that a figure needs, how it is drawn, and what it shows in words."""

    needs: tuple[str, ...]
    draw: Callable[[dict, style.Theme], object]
    description: str


FIGURES = {
    "pipeline": Figure(
        ("calibration", "imatrix", "parity", "quants", "eval"),
        lambda reports, theme: pipeline.overview(reports, reports["eval"], theme),
        "The stages from a fused checkpoint to verified KXL quants, each with the number its gate measured.",
    ),
    "fixed-hermes": Figure(
        ("eval",),
        lambda reports, theme: figures_eval.fixed_hermes(reports["eval"], theme, reports["reference"]),
        "One dot per case of the fixed-Hermes suite, by category and artifact: which passed and which failed.",
    ),
    "quant-quality": Figure(
        ("quants",),
        lambda reports, theme: quants.size_and_quality(reports["quants"], theme),
        "File size against KL divergence from the BF16 parent for KXL and stock quants: mean and 99.9 % tail.",
    ),
    "policy-search": Figure(
        ("search",),
        lambda reports, theme: frontier.frontier(reports["search"], theme),
        "File size against KL divergence of searched policies, of hand-written ones and of other ways to spend bytes.",
    ),
    "dataset": Figure(
        ("dataset",),
        lambda reports, theme: data.filtering(reports["dataset"], theme, reports["reference"]),
        "How many rows there are at each length in tokens, where the caps cut, and how many each filter took.",
    ),
    "quant-sizes-8b": Figure(
        ("sizes",),
        lambda reports, theme: quants.predicted_sizes(reports["sizes"], theme),
        "Predicted file sizes of LFM2-8B-A1B's KXL quants in GiB against their budgets and the stock types.",
    ),
    "smol-emission": Figure(
        ("emission",),
        lambda reports, theme: smol.emission(reports["emission"], theme),
        "Share of the judged prompts with a right call before and after training, by how many tools are offered, "
        "and share with a call where no tool fits.",
    ),
    "training-memory": Figure(
        ("memory", "proof"),
        lambda reports, theme: training.memory(reports["memory"], reports["proof"], theme, reports["reference"]),
        "Predicted peak memory of a training step at LFM2-8B-A1B's shapes by tokens of the example, "
        "with measured peaks.",
    ),
    "group-sweep": Figure(
        ("sweep",),
        lambda reports, theme: training.sweep(reports["sweep"], theme),
        "Seconds and peak memory of a training step by group size, beside the streamed step.",
    ),
    "repair": Figure(
        ("repair",),
        lambda reports, theme: repair.progression(reports["repair"], theme, reports["reference"]),
        "Cases passed per suite before a repair loop and after each of its iterations, "
        "with the row shapes it was compared with.",
    ),
}
MADE_BY = {
    "calibration": "make imatrix",
    "imatrix": "make imatrix",
    "parity": "make parity",
    "quants": "make quants",
    "sizes": "make sizes",
    "search": "make search",
    "eval": "make eval",
    "dataset": "make data",
    "emission": "make smollora",
    "repair": "make repair-loop",
    "memory": "make sweep",
    "sweep": "make sweep",
    "proof": "make prove-8b",
}


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    parser.add_argument(
        "--eval", type=Path, action="append", help="eval report of one artifact; one per column, in this order"
    )
    parser.add_argument("--calibration", type=Path, help="report of quant_build_calibration.py")
    parser.add_argument("--imatrix", type=Path, help="report of quant_compute_imatrix.py")
    parser.add_argument("--parity", type=Path, help="report of quant_check_parity.py")
    parser.add_argument("--quants", type=Path, help="report of quant_measure.py")
    parser.add_argument("--sizes", type=Path, help="report of quant_predict_sizes.py for LFM2-8B-A1B")
    parser.add_argument("--search", type=Path, help="report of search_judge.py")
    parser.add_argument("--dataset", type=Path, help="report of traces_prepare.py")
    parser.add_argument("--emission", type=Path, help="report of smol_evaluate.py")
    parser.add_argument("--repair", type=Path, help="report of repair_loop.py")
    parser.add_argument("--memory", type=Path, help="memory model's report of moe_sweep_groups.py")
    parser.add_argument("--sweep", type=Path, help="report of moe_sweep_groups.py")
    parser.add_argument("--proof", type=Path, help="report of moe_prove_8b.py")
    parser.add_argument(
        "--reference",
        type=Path,
        default=ROOT / "configs" / "reference_results.json",
        help="what the reference published",
    )
    parser.add_argument(
        "--only", choices=FIGURES, action="append", help="draw just this figure; may be given several times"
    )
    args = parser.parse_args()

    given = {name: getattr(args, name) for name in MADE_BY if getattr(args, name)}
    chosen = args.only or [name for name, figure in FIGURES.items() if given.keys() >= set(figure.needs)]
    if not chosen:
        raise UserError("no report was given, so there is nothing to draw; see --help")
    for name in FIGURES if not args.only else ():
        if name not in chosen and (old := args.out / f"{name}-light.svg").exists():
            need = next(need for need in FIGURES[name].needs if need not in given)
            raise UserError(
                f"{shown(old)} was drawn from a report that is not there any more (--{need}): "
                f"`{MADE_BY[need]}` writes it; or delete the figure"
            )
    for name in chosen:
        if missing := [need for need in FIGURES[name].needs if need not in given]:
            raise UserError(f"figure {name} needs {', '.join('--' + need for need in missing)}")
    drawn = {"reference": read_json(args.reference)} | {
        name: [load(path, name) for path in paths] if name == "eval" else load(paths, name)
        for name, paths in given.items()
    }

    problems = []
    for name in chosen:
        figure = FIGURES[name]
        problems += style.save(lambda theme: figure.draw(drawn, theme), args.out, name, figure.description)
        print(f"{shown(args.out)}/{name}-{{light,dark}}.{{svg,png}}")
    if problems:
        raise UserError("the figures were drawn, but a reader would stumble: " + "; ".join(problems))
    print(f"{shown(args.out)}: {len(chosen)} figures")


def load(path: Path, name: str) -> dict:
    """A whole report; a missing one is named with the target that makes it."""
    if not path.exists():
        raise UserError(f"{shown(path)}: no such report; `{MADE_BY[name]}` writes it")
    return scores.load(path) if name == "eval" else reports.load(name, path)


if __name__ == "__main__":
    cli.run(main)
