"""Figure: the line from checkpoint to verified quants, each stage with the number that its gate measured."""

from matplotlib.patches import FancyBboxPatch

from kxl.base.files import size
from kxl.figures.style import BODY, SMALL, Theme, artifact_label, new_figure, sheet, size_unit

BOX, TALL, GAP = 1.83, 0.98, 0.28  # inches: width and height of a box, space between two columns
LEFT, TOP, BETWEEN = 0.18, 1.0, 0.62  # left margin, first row, space between the rows


def overview(reports: dict, evals: list, theme: Theme):
    """`reports` has "calibration", "imatrix", "parity" and "quants"; `evals` are the suite's, one per artifact."""
    height = TOP + 2 * TALL + BETWEEN + 0.22
    figure = new_figure(
        height,
        "From a fused checkpoint to verified KXL quants",
        "Each box is what one stage leaves behind, with the number its gate measured in this run.",
        theme,
    )
    axes = sheet(figure, zorder=-1)
    for (column, row), (title, lines) in stages(reports, evals).items():
        box(axes, column, row, title, lines, theme)
    for start, end in (
        ((0, 0), (1, 0)),
        ((1, 0), (2, 0)),
        ((2, 0), (3, 0)),  # checkpoint, BF16, quants, served
        ((0, 1), (1, 1)),
        ((1, 1), (2, 0)),
        ((2, 0), (2, 1)),  # rows, imatrix, quants, divergence
        ((3, 0), (3, 1)),
        ((2, 1), (3, 1)),  # everything into the summary
    ):
        arrow(axes, start, end, theme)
    return figure


def stages(reports: dict, evals: list) -> dict:
    """{(column, row): (title, two lines)}"""
    calibration, imatrix, parity, quants = (
        reports[name]["results"] for name in ("calibration", "imatrix", "parity", "quants")
    )
    parent = quants["bf16"]
    ours = {name: entry for name, entry in quants.items() if entry["policy"] not in ("stock", "parent")}
    smallest = min(ours, key=lambda name: ours[name]["bytes"])
    scored = reports["quants"]["settings"]["scored_tokens"]
    sizes = [entry["bytes"] for entry in ours.values()]
    unit, unit_name = size_unit(sizes)
    agreement = parity.get("exact") or parity["as_served"]
    passed = [entry["results"]["passed"] for entry in evals]
    cases = evals[0]["results"]["cases"]
    rows = calibration["calibration"]["conversations"] + calibration["heldout"]["conversations"]
    return {
        (0, 0): (
            "Fused checkpoint",
            (f"{parent['parameters'] / 1e6:,.1f} M parameters", "LFM2-MoE, saved by\nmlx-lm or transformers"),
        ),
        (1, 0): (
            "BF16 GGUF",
            (
                size(parent["bytes"], 1),
                f"{agreement['greedy_equal']} of {parity['positions']} greedy\ntokens as in MLX",
            ),
        ),
        (2, 0): (
            f"{len(ours)} KXL quants",
            (
                f"{min(sizes) / unit:.1f} to {max(sizes) / unit:.1f} {unit_name}",
                "each tensor's type\nchecked by its policy",
            ),
        ),
        (3, 0): ("llama-server", (f"{evals[0]['settings']['context']:,} tokens of context", verdict(passed, cases))),
        (0, 1): ("Chat rows", (f"{rows:,} conversations,", "none of them in an eval")),
        (1, 1): (
            "imatrix",
            (f"{imatrix['tokens']:,} tokens", f"least used expert\nsaw {imatrix['fewest_tokens']['tokens']:,}"),
        ),
        (2, 1): (
            "KL divergence",
            (
                f"{artifact_label(smallest)}: {ours[smallest]['kld']['mean']:.4f} mean",
                f"over {scored:,}\nheld-out tokens",
            ),
        ),
        (3, 1): ("Release summary", ("one JSON file: each gate,", "its limit and its number")),
    }


def verdict(passed: list, cases: int) -> str:
    """How the artifacts did on the suite, in two lines."""
    if min(passed) == cases:
        return f"{cases} of {cases} tool cases pass\non {len(passed)} artifacts"
    return f"{min(passed)} to {max(passed)} of {cases} tool cases\npass on {len(passed)} artifacts"


def corner(column: int, row: int) -> tuple:
    """Upper left corner of a box, inches."""
    return LEFT + column * (BOX + GAP), TOP + row * (TALL + BETWEEN)


def box(axes, column: int, row: int, title: str, lines: tuple, theme: Theme) -> None:
    """A box of the line: a title and lines below it."""
    x, y = corner(column, row)
    axes.add_patch(
        FancyBboxPatch(
            (x, y),
            BOX,
            TALL,
            boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=theme.panel,
            edgecolor=theme.faint,
            linewidth=1,
        )
    )
    axes.text(x + 0.11, y + 0.1, title, size=BODY, weight="bold", va="top")
    axes.text(x + 0.11, y + 0.36, "\n".join(lines), size=SMALL, color=theme.muted, va="top", linespacing=1.35)


def arrow(axes, start: tuple, end: tuple, theme: Theme) -> None:
    """An arrow between neighbours: sideways, downwards, or from the lower row up to the next column."""
    (x0, y0), (x1, y1) = corner(*start), corner(*end)
    if start[1] == end[1]:
        tail, head = (x0 + BOX, y0 + TALL / 2), (x1, y1 + TALL / 2)
    elif end[1] > start[1]:
        tail, head = (x0 + BOX / 2, y0 + TALL), (x1 + BOX / 2, y1)
    else:
        tail, head = (x0 + BOX - 0.2, y0), (x1 + 0.2, y1 + TALL)
    axes.annotate(
        "",
        xy=head,
        xytext=tail,
        arrowprops={
            "arrowstyle": "-|>,head_width=0.22,head_length=0.42",
            "color": theme.muted,
            "linewidth": 1.3,
            "shrinkA": 2,
            "shrinkB": 2,
        },
    )
