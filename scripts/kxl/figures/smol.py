"""Figure: what a small model calls before and after it was taught its tool-call tokens, by how many tools it may choose
from, and how often it calls where it must not."""

from matplotlib.ticker import PercentFormatter

from kxl.figures.style import BODY, SMALL, WIDTH, Theme, new_figure

ROW = 0.34  # inches
NAMES = {
    "near_miss": "Near misses",
    "irrelevance": "BFCL irrelevance",
    "live_irrelevance": "BFCL live irrelevance",
    "ordinary": "Ordinary questions",
    "masked": "Random names",
}


def emission(report: dict, theme: Theme):
    """`report` is reports/NAME/emission.json: each prompt of a judging set, before and after the training."""
    details = report["results"]["details"]
    groups = rows(details)
    head, foot, left, right, gap = 1.28, 0.62, 2.15, 1.75, 0.42
    height = head + foot + gap + ROW * sum(map(len, groups))
    tool = [entry for entry in details["after"] if entry["kind"] == "tool"]
    took = sum(map(calls_right_tool, tool))
    began = sum(entry["started"] for entry in details["before"] if entry["kind"] == "tool")
    figure = new_figure(
        height,
        f"{took} of {len(tool)} unseen tool prompts get a whole call of the right tool; {began} did before",
        "Share of the prompts. Above: right calls, by how many tools are offered (far right is good). Below: calls\n"
        "where no tool fits (far left is good). Ring = base model, dot = trained, diamond = arguments right, too.",
        theme,
    )
    top = head
    for place, group in enumerate(groups):
        tall = ROW * len(group)
        axes = figure.add_axes((left / WIDTH, 1 - (top + tall) / height, (WIDTH - left - right) / WIDTH, tall / height))
        axes.set(xlim=(-0.025, 1.025), ylim=(len(group) - 0.5, -0.5))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.tick_params(length=0, labelbottom=place == len(groups) - 1)
        axes.set_yticks([])
        axes.grid(axis="x")
        for y, (name, before, after, arguments, said) in enumerate(group):
            middle = 1 - (top + ROW * (y + 0.5)) / height
            figure.text(0.18 / WIDTH, middle, name, size=BODY, va="center")
            figure.text(1 - (right - 0.15) / WIDTH, middle, said, size=SMALL, va="center")
            colour = theme.failed if place else theme.ours
            if before is not None:
                axes.plot([before, after], [y, y], color=theme.faint, linewidth=2, zorder=1)
                axes.scatter([before], [y], s=42, facecolors="none", edgecolors=theme.muted, linewidths=1.4, zorder=2)
            axes.scatter([after], [y], s=34, color=colour, zorder=3)
            if arguments is not None:
                axes.scatter([arguments], [y], s=30, marker="D", color=theme.other, zorder=4)
        top += tall + gap
    return figure


def rows(details: dict) -> list[list]:
    """Two groups of (name, share before or None, share after, share with the right arguments or None, in words)."""
    before, after = ({entry["id"]: entry for entry in details[when]} for when in ("before", "after"))
    calling = []
    tool = [entry for entry in after.values() if entry["kind"] == "tool"]
    for count in sorted({len(entry["tools"]) for entry in tool}):
        entries = [entry for entry in tool if len(entry["tools"]) == count]
        base = share([before[entry["id"]] for entry in entries], calls_right_tool)
        calling.append(_right(f"{count} tool{'s' if count > 1 else ''}", base, entries))
    if masked := [entry for entry in after.values() if entry["kind"] == "masked"]:
        calling.append(_right(NAMES["masked"], None, masked))
    quiet = []
    for kind in [kind for kind in NAMES if kind != "masked"]:
        if entries := [entry for entry in after.values() if entry["kind"] == kind]:
            base = share([before[entry["id"]] for entry in entries], _started)
            called = sum(map(_started, entries))
            quiet.append((NAMES[kind], base, called / len(entries), None, f"{called} of {len(entries)} false calls"))
    return [calling, quiet]


def _right(name: str, base: float | None, entries: list[dict]) -> tuple:
    judged = all("right_arguments" in entry for entry in entries)
    arguments = share(entries, lambda entry: entry["right_arguments"]) if judged else None
    took = sum(map(calls_right_tool, entries))
    said = f"{took} of {len(entries)} right tool"
    return name, base, took / len(entries), arguments, said


def share(entries: list[dict], good) -> float:
    """Of the entries, those that are good."""
    return sum(map(good, entries)) / len(entries)


def calls_right_tool(entry: dict) -> bool:
    """A whole call, of exactly the expected tools; `expected` has their names, alone or beside their arguments."""
    expected = [call if isinstance(call, str) else call["name"] for call in entry["expected"]]
    return entry["verdict"] == "call" and [call["name"] for call in entry["calls"]] == expected


def _started(entry: dict) -> bool:
    return entry["started"]
