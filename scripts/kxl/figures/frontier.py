"""Figure: what searched policies and their rivals lose at the same bytes."""

from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from kxl.figures.style import BODY, SMALL, WIDTH, Theme, new_figure, sheet, size_unit

LABELS = {
    "ours": "searched",
    "hand": "KXL, written by hand",
    "stock": "stock types",
    "edges": "more bits at the edges",
    "target_bpw": "least weighted error",
}
# Each contender has a mark of its own, so that no colour is needed to tell them.
MARKS = {"ours": "o", "hand": "D", "stock": "s", "edges": "^", "target_bpw": "v"}


def series(search: dict) -> dict[str, list[tuple[int, dict]]]:
    """{contender: [(bytes, divergences), smallest first]} out of reports/RUN/policy_search.json."""
    found: dict[str, list[tuple[int, dict]]] = {}
    for entry in search["results"]["budgets"].values():
        found.setdefault("ours", []).append((entry["bytes"], entry["kld"]))
        for name, rival in entry["rivals"].items():
            found.setdefault(name, []).append((rival["bytes"], rival["kld"]))
    return {name: sorted(found[name], key=lambda point: point[0]) for name in LABELS if name in found}


def frontier(search: dict, theme: Theme):
    """File size against KL divergence, mean and 99.9 % tail, of each contender at each budget."""
    contenders = series(search)
    unit, unit_name = size_unit([size for points in contenders.values() for size, _ in points])
    scored, height, head, foot, left = search["settings"]["scored_tokens"], 4.6, 1.66, 0.55, 0.78
    figure = new_figure(
        height,
        "What the same bytes cost, by who chose the types",
        f"KL divergence from the BF16 parent over {scored:,} held-out tokens that no search has seen: lower is better.",
        theme,
    )
    key = sheet(figure, zorder=-1)
    x = 0.24
    for name in contenders:
        key.plot(x, 0.98, **look(name, theme))
        key.text(x + 0.12, 0.98, LABELS[name], size=SMALL, color=colour(name, theme), va="center_baseline")
        x += 0.45 + 0.078 * len(LABELS[name])
    width, gap = 3.34, 0.72
    for index, (kind, title) in enumerate((("mean", "Mean"), ("p999", "Worst token in 1,000 (99.9 %)"))):
        axes = figure.add_axes(
            ((left + index * (width + gap)) / WIDTH, foot / height, width / WIDTH, (height - head - foot) / height)
        )
        axes.set_yscale("log")
        axes.grid(axis="y")
        axes.tick_params(length=0)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.minorticks_off()
        axes.set_title(title, loc="left", size=BODY, weight="bold", pad=10)
        axes.set_xlabel(f"file size, {unit_name}")
        if index == 0:
            axes.set_ylabel("KL divergence, nats (log scale)")
        for name, points in reversed(contenders.items()):  # ours lies on top
            xs, ys = [size / unit for size, _ in points], [kld[kind] for _, kld in points]
            axes.plot(xs, ys, linewidth=1, color=colour(name, theme), alpha=0.5)
            axes.plot(xs, ys, linestyle="none", **look(name, theme))
    return figure


def colour(name: str, theme: Theme) -> str:
    return theme.ours if name in ("ours", "hand") else theme.other if name == "stock" else theme.muted


def look(name: str, theme: Theme) -> dict:
    """Filled for what was searched, hollow for the rest."""
    filled = name == "ours"
    return {
        "marker": MARKS[name],
        "markersize": 7 if filled else 5.5,
        "color": colour(name, theme),
        "markerfacecolor": colour(name, theme) if filled else theme.background,
        "markeredgewidth": 1.4,
    }
