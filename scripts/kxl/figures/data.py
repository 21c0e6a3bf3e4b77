"""Figure: which rows a dataset is made of: how long the traces are, where the cap cuts, and what each filter took."""

from kxl.figures.style import BODY, SMALL, WIDTH, Theme, new_figure, published

LEFT, RIGHT, TOP, BOTTOM = 0.62, 0.3, 1.38, 0.5  # inches around the histogram
CHART, BAR, GAP = 1.9, 0.28, 0.5  # height of the histogram, of one bar below, space between the two
REASON_COLUMN = 3.3  # inches for the names of the reasons


def filtering(report: dict, theme: Theme, reference: dict | None = None):
    """A histogram of row lengths before and after, and a bar for each reason, from reports/RUN/dataset.json."""
    results, caps = report["results"], sorted(report["settings"]["caps"])
    drops = [(count, reason) for reason, count in results["dropped"].items()]
    drops.sort(key=lambda drop: (-drop[0], drop[1]))
    out = sum(results["rows_out"].values())
    height = TOP + CHART + BOTTOM + GAP + BAR * (len(drops) + 1) + 0.25
    figure = new_figure(
        height,
        f"{out:,} of {results['rows_in']:,} rows are kept",
        subtitle(results) + published(reference and reference_line(reference["dataset"])),
        theme,
    )
    histogram(
        figure,
        height,
        results["token_lengths"],
        {cap: results["dropped"].get(f"over_{cap}_tokens", 0) for cap in caps},
        theme,
    )
    reasons(figure, height, results, drops, out, theme)
    return figure


def reference_line(dataset: dict) -> str:
    """The published numbers of the reference's own rows (configs/reference_results.json, "dataset")."""
    splits = ", ".join(f"{count:,} {split}" for split, count in dataset["splits"].items())
    return (
        f"{splits} rows of its own traces; caps at {' and '.join(f'{cap:,}' for cap in dataset['token_caps'])} tokens"
    )


def subtitle(results: dict) -> str:
    """Sources, rows of each split and tokens, in two lines."""
    rows, sizes = results["rows_out"], results["sizes"]
    return (
        f"{sources(results['sources'])}. {rows['train']:,} train, {rows['valid']:,} valid, {rows['test']:,} test;\n"
        f"{sizes['tokens']:,} tokens by the model's own tokenizer and template, "
        f"{sizes['trained_tokens']:,} are trained."
    )


def sources(counts: dict, shown: int = 2) -> str:
    """`Of traces.jsonl 34 of 40, of router_rows.jsonl 600 of 600`; the largest files by name, the others together."""
    ordered = sorted(counts, key=lambda name: -counts[name]["rows"])
    parts = [(name, counts[name]) for name in sorted(ordered[:shown], key=list(counts).index)]
    if more := ordered[shown:]:
        rest = {key: sum(counts[name][key] for name in more) for key in ("rows", "kept")}
        parts.append((f"{len(more)} other files", rest))
    text = ", ".join(f"of {short(name)} {source['kept']:,} of {source['rows']:,}" for name, source in parts)
    return text[0].upper() + text[1:]


def short(name: str, longest: int = 24) -> str:
    """A file's name without its folders, cut in the middle where it is long."""
    name = name.rsplit("/", 1)[-1]
    return name if len(name) <= longest else f"{name[: longest // 2]}…{name[-longest // 2 :]}"


def histogram(figure, height: float, lengths: dict, caps: dict, theme: Theme) -> None:
    """Rows by length: all that could be measured behind, the kept ones in front.

    At each cap stands a line with the rows that it took.
    """
    axes = figure.add_axes((LEFT / WIDTH, 1 - (TOP + CHART) / height, (WIDTH - LEFT - RIGHT) / WIDTH, CHART / height))
    bars = max(len(lengths["before"]), len(lengths["after"]), 1)
    for key, colour, label in (("before", theme.muted, "all rows"), ("after", theme.ours, "kept rows")):
        axes.bar(
            [(place + 0.5) * lengths["bin"] / 1000 for place in range(len(lengths[key]))],
            lengths[key],
            width=0.9 * lengths["bin"] / 1000,
            color=colour,
            label=label,
        )
    longest = bars * lengths["bin"] / 1000
    axes.set_xlim(0, max(longest, max(caps) / 1000 * 1.04))
    top = max([*lengths["before"], *lengths["after"], 1])
    axes.set_ylim(0, top * 1.45)
    for cap, over in caps.items():
        axes.axvline(cap / 1000, color=theme.other, linewidth=1.3, linestyle=(0, (4, 3)))
        axes.text(
            cap / 1000,
            top * 1.45,
            f"cap {cap:,} \n{over:,} over it ",
            linespacing=1.4,
            ha="right",
            va="top",
            size=SMALL,
            color=theme.other,
        )
    axes.set_xlabel("thousand tokens in a row")
    axes.set_ylabel("rows")
    axes.grid(axis="y")
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(0, 1.13),
        ncols=2,
        frameon=False,
        fontsize=SMALL,
        labelcolor=theme.muted,
        handlelength=1.2,
    )


def reasons(figure, height: float, results: dict, drops: list, out: int, theme: Theme) -> None:
    """One bar per reason, most first, above them the rows that were kept; each with its count."""
    axes = figure.add_axes((0, 0, 1, (BAR * (len(drops) + 1) + 0.25) / height))
    axes.set(xlim=(0, WIDTH), ylim=(BAR * (len(drops) + 1) + 0.25, 0))
    axes.axis("off")
    figure.text(
        0.18 / WIDTH,
        1 - (TOP + CHART + BOTTOM + GAP - 0.36) / height,
        "What became of each row",
        size=BODY,
        weight="bold",
        va="top",
    )
    scale = (WIDTH - REASON_COLUMN - 1.1) / max([out, *(count for count, _ in drops)])
    entries = [
        ("kept", out, theme.ours),
        *((results["drops"][reason]["in_words"], count, theme.other) for count, reason in drops),
    ]
    for place, (name, count, colour) in enumerate(entries):
        y = BAR * (place + 0.5)
        axes.text(REASON_COLUMN - 0.12, y, name, ha="right", va="center_baseline", size=SMALL)
        axes.barh(y, max(count * scale, 0.02), height=BAR * 0.62, left=REASON_COLUMN, color=colour)
        axes.text(
            REASON_COLUMN + count * scale + 0.1, y, f"{count:,}", va="center_baseline", size=SMALL, color=theme.muted
        )
