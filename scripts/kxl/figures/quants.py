"""Figures: what the quants weigh and what they lost."""

from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from kxl.figures.style import (
    BODY,
    SMALL,
    WIDTH,
    Theme,
    artifact_label,
    beside,
    label_points,
    new_figure,
    sheet,
    size_unit,
)

# llama-perplexity prints six decimals; anything smaller is drawn here.
SMALLEST_KLD = 1e-6
GIB = 2**30


def size_and_quality(quants: dict, theme: Theme):
    """`quants` is reports/RUN/quants.json: file size against KL divergence, mean and 99.9 % tail."""
    points = {name: artifact for name, artifact in quants["results"].items() if artifact["policy"] != "parent"}
    scored = quants["settings"]["scored_tokens"]
    unit, unit_name = size_unit([artifact["bytes"] for artifact in points.values()])
    height, head, foot, left = 4.5, 1.58, 0.55, 0.78
    figure = new_figure(
        height,
        "What each quant weighs, and how far it strays from its BF16 parent",
        f"KL divergence of next-token probabilities over {scored:,} held-out tokens of tool traces: "
        "lower is better, left is smaller.",
        theme,
    )
    series_key(figure, theme, down=0.96)
    width, gap = 3.34, 0.72
    for index, (key, title) in enumerate((("mean", "Mean"), ("p999", "Worst token in 1,000 (99.9 %)"))):
        axes = figure.add_axes(
            ((left + index * (width + gap)) / WIDTH, foot / height, width / WIDTH, (height - head - foot) / height)
        )
        scatter(axes, points, key, unit, theme)
        axes.set_title(title, loc="left", size=BODY, weight="bold", pad=10)
        axes.set_xlabel(f"file size, {unit_name}")
        if index == 0:
            axes.set_ylabel("KL divergence, nats (log scale)")
        label_points(
            axes,
            [
                (
                    artifact["bytes"] / unit,
                    drawn(artifact["kld"][key]),
                    artifact_label(name),
                    colour_of(artifact, theme),
                )
                for name, artifact in sorted(points.items(), key=lambda item: item[1]["bytes"])
            ],
        )
    return figure


def scatter(axes, points: dict, key: str, unit: int, theme: Theme) -> None:
    """One panel of size, in units of `unit` bytes, against one divergence figure."""
    axes.set_yscale("log")
    values = [drawn(artifact["kld"][key]) for artifact in points.values()]
    sizes = [artifact["bytes"] / unit for artifact in points.values()]
    axes.set_ylim(min(values) / 2.2, max(values) * 2.2)
    span = max(sizes) - min(sizes) or 1
    axes.set_xlim(min(sizes) - 0.16 * span, max(sizes) + 0.2 * span)
    axes.grid(axis="y")
    axes.tick_params(length=0)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(values) < 1000 * min(values) else (1,), numticks=12))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value >= 1e-4 else f"{value:.0e}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.minorticks_off()
    for stock in (True, False):
        family = [artifact for artifact in points.values() if (artifact["policy"] == "stock") is stock]
        family.sort(key=lambda artifact: artifact["bytes"])
        if family:
            axes.plot(
                [artifact["bytes"] / unit for artifact in family],
                [drawn(artifact["kld"][key]) for artifact in family],
                color=colour_of(family[0], theme),
                linewidth=1,
                alpha=0.45,
            )
    for artifact in points.values():
        x, y, colour = artifact["bytes"] / unit, drawn(artifact["kld"][key]), colour_of(artifact, theme)
        if key == "mean" and artifact["kld"]["mean_error"] < y:
            axes.errorbar(x, y, yerr=artifact["kld"]["mean_error"], color=colour, linewidth=1, capsize=2.5)
        axes.plot(x, y, color=colour, **marker_of(artifact, theme))


def drawn(value: float) -> float:
    """A divergence as the logarithmic axis can show it."""
    return max(value, SMALLEST_KLD)


def colour_of(artifact: dict, theme: Theme) -> str:
    """Another colour for llama.cpp's own mixtures than for our policies."""
    return theme.other if artifact["policy"] == "stock" else theme.ours


def marker_of(artifact: dict, theme: Theme) -> dict:
    """Round and filled for KXL, square and hollow for stock, so that no colour is needed to tell them."""
    if artifact["policy"] == "stock":
        return {"marker": "s", "markersize": 6, "markerfacecolor": theme.background, "markeredgewidth": 1.6}
    return {"marker": "o", "markersize": 7.5}


def series_key(figure, theme: Theme, down: float) -> None:
    """The two kinds of quants, each named beside its own mark, `down` inches below the top."""
    axes = sheet(figure, zorder=-1)
    x = 0.24
    for policy, label, advance in (("", "KXL: types chosen per tensor", 2.3), ("stock", "stock llama.cpp types", 0)):
        artifact = {"policy": policy}
        axes.plot(x, down, color=colour_of(artifact, theme), **marker_of(artifact, theme))
        axes.text(x + 0.12, down, label, size=SMALL, color=colour_of(artifact, theme), va="center_baseline")
        x += advance


def predicted_sizes(sizes: dict, theme: Theme):
    """`sizes` is reports/lfm2.5-8b-a1b/sizes.json; its first model: KXL against its budget and its stock neighbour."""
    model, predicted = next(iter(sizes["results"].items()))
    pairs = size_pairs(predicted["artifacts"])
    row, gap, head, foot = 0.235, 0.2, 1.0, 0.18
    height = head + len(pairs) * (2 * row + gap) - gap + foot
    over = [kxl for kxl, _ in pairs if kxl["budget_gib"] and kxl["bytes"] > kxl["budget_gib"] * GIB]
    title = (
        f"Every KXL quant of {model.upper()} stays within its budget"
        if not over
        else f"{artifact_label(over[0]['name'])} of {model.upper()} exceeds its budget"
    )
    figure = new_figure(
        height,
        title,
        "GiB, from llama-quantize's dry run on the real shapes. "
        "Filled: KXL; the tick is its\nbudget, the size that the reference published. Outlined: stock type.",
        theme,
    )
    left, right = 0.95, 1.35
    axes = figure.add_axes(
        (left / WIDTH, foot / height, (WIDTH - left - right) / WIDTH, (height - head - foot) / height)
    )
    axes.axis("off")
    axes.set_xlim(0, max(artifact["bytes"] / GIB for pair in pairs for artifact in pair if artifact))
    axes.set_ylim(height - head - foot, 0)
    y = 0.0
    for kxl, stock in pairs:
        bar(axes, y + row / 2, kxl, row, theme)
        if kxl["budget_gib"]:
            axes.plot(
                (kxl["budget_gib"],) * 2, (y - 0.02, y + row + 0.02), color=theme.text, linewidth=1.6, clip_on=False
            )
        if stock:
            bar(axes, y + 1.5 * row, stock, row, theme)
        y += 2 * row + gap
    return figure


def size_pairs(artifacts: dict) -> list:
    """(KXL, stock type of the same nominal bits or None), largest first.

    Each is {"name", "bytes", "budget_gib", "policy"}.
    """
    entries = [
        {
            "name": name,
            "bytes": artifact["bytes"],
            "budget_gib": artifact["budget_gib"],
            "policy": "stock" if artifact["policy"] is None else name,
        }
        for name, artifact in artifacts.items()
    ]
    stock = {artifact["name"][1]: artifact for artifact in entries if artifact["policy"] == "stock"}
    kxl = [artifact for artifact in entries if artifact["policy"] != "stock"]
    kxl.sort(key=lambda artifact: -artifact["bytes"])
    return [(artifact, stock.get(artifact["name"][1])) for artifact in kxl]


def bar(axes, y: float, artifact: dict, row: float, theme: Theme) -> None:
    """A bar with its name on the left and its value, with the budget where there is one, on the right."""
    stock, gib, colour = artifact["policy"] == "stock", artifact["bytes"] / GIB, colour_of(artifact, theme)
    axes.barh(y, gib, height=row * 0.76, color="none" if stock else theme.ours, edgecolor=colour, linewidth=1.2)
    beside(axes, artifact_label(artifact["name"]), (0, y), -7, colour, bold=not stock)
    label = f"{gib:.2f} of {artifact['budget_gib']:g}" if artifact["budget_gib"] else f"{gib:.2f}"
    beside(axes, label, (max(gib, artifact["budget_gib"] or 0), y), 8, colour)
