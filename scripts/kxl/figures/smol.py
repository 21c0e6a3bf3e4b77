"""Figure: what a small model emits before and after it was taught its tool-call tokens, one mark per prompt."""

import math

from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from kxl.figures.style import BODY, SMALL, WIDTH, Theme, new_figure

LEAST = 1e-9  # probabilities below this are drawn here
ROW = 0.62  # inches


def emission(report: dict, theme: Theme):
    """`report` is reports/NAME/emission.json: the start token's probability at each prompt, and what came of it."""
    results = report["results"]
    rows = [row for row in lines(results) if row[2]]
    head, foot, left, right = 1.18, 0.72, 2.1, 1.95
    height = head + foot + ROW * len(rows)
    before, after = results["before"], results["after"]
    figure = new_figure(
        height,
        f"{after['right_tool']} of {after['prompts']} unseen tool prompts get a whole call of the right tool; "
        f"{before['emitting']} did before",
        "One mark per prompt, by how probable the model finds the start token: filled = as it should be, cross = not.\n"
        "Greedy, on raw tokens, no parser. No tool or request of these prompts was trained on.",
        theme,
    )
    axes = figure.add_axes((left / WIDTH, foot / height, (WIDTH - left - right) / WIDTH, ROW * len(rows) / height))
    axes.set_xscale("log")
    axes.set(xlim=(LEAST / 1.6, 1.6), ylim=(len(rows) - 0.5, -0.5))
    axes.set_xlabel("probability of the start token as first token (log scale)")
    axes.xaxis.set_major_locator(LogLocator(base=1000, numticks=5))
    axes.xaxis.set_major_formatter(
        FuncFormatter(
            lambda value, _: f"≤{LEAST:.0e}" if value <= LEAST else f"{value:g}" if value >= 1e-3 else f"{value:.0e}"
        )
    )
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()
    axes.tick_params(length=0)
    axes.set_yticks([])
    axes.grid(axis="x")
    for y, (name, note, entries, good, said) in enumerate(rows):
        place = head + ROW * (y + 0.5)
        figure.text(0.18 / WIDTH, 1 - (place - 0.09) / height, name, size=BODY, va="center")
        figure.text(0.18 / WIDTH, 1 - (place + 0.11) / height, note, size=SMALL, va="center", color=theme.muted)
        figure.text(1 - (right - 0.15) / WIDTH, 1 - place / height, said, size=SMALL, va="center")
        for fine, marker, colour in ((True, "o", theme.ours), (False, "x", theme.failed)):
            marks = [
                (max(entry["start_probability"], LEAST), y + spread(index))
                for index, entry in enumerate(entries)
                if good(entry) is fine
            ]
            if marks:
                axes.scatter(*zip(*marks), s=16, marker=marker, color=colour, alpha=0.85, linewidths=0 if fine else 1.2)
    return figure


def spread(index: int) -> float:
    """A place within the row, -0.3 to 0.3, the same each time: marks of one probability must not cover each other."""
    return 0.6 * math.modf(index * 0.6180339887)[0] - 0.3


def lines(results: dict) -> list:
    """(name, note, entries, whether an entry is as it should be, the number in words) of each row."""

    def of(when, kind):
        return [entry for entry in results["details"][when] if entry["kind"] == kind]

    def right(entry):
        return entry["verdict"] == "call" and [call["name"] for call in entry["calls"]] == entry["expected"]

    def quiet(entry):
        return not entry["started"]

    before, after, ordinary, near = (results[key] for key in ("before", "after", "ordinary", "near_miss"))
    return [
        (
            "Tool prompts, before",
            "base model",
            of("before", "tool"),
            right,
            f"{before['emitting']} of {before['prompts']} emit it",
        ),
        (
            "Tool prompts, after",
            "tools never seen",
            of("after", "tool"),
            right,
            f"{after['right_tool']} of {after['prompts']} right calls",
        ),
        (
            "Ordinary prompts, after",
            "half beside tools",
            of("after", "ordinary"),
            quiet,
            f"{ordinary['false_calls']} of {ordinary['prompts']} false calls",
        ),
        (
            "Near misses, after",
            "no tool fits",
            of("after", "near_miss"),
            quiet,
            f"{near['false_calls']} of {near['prompts']} false calls",
        ),
    ]
