"""Figure: what each suite scored before a repair loop and after each of its iterations."""

from matplotlib.patches import Rectangle

from kxl.figures.style import BODY, SMALL, WIDTH, Theme, new_figure, published, sheet
from kxl.repair import acceptance

LABELS = 1.6  # inches for the suites' names
ROW = 0.46  # inches per suite
BAR = 0.09  # inches, height of a bar
# What the shapes for comparison are trained on, as kxl/repair/shapes.py says: name, what is not as in the line.
SHAPES = {"text": ("plain text", "no tool list"), "server_text": ("server text", "loss on all")}


def progression(report: dict, theme: Theme, reference: dict | None = None):
    """One column per checkpoint, one bar per suite; `report` is reports/RUN/repair.json."""
    results = report["results"]
    # The sort is stable: the loop's own iterations first, then the shapes for comparison.
    columns = sorted(results["iterations"], key=lambda iteration: "." in iteration["name"])
    suites, by_name = list(columns[0]["suites"]), {iteration["name"]: iteration for iteration in columns}
    height = 2.15 + ROW * (len(suites) + 1)
    figure = new_figure(
        height,
        headline(results),
        "Cases passed on MLX, per suite and checkpoint; bars from none to all. Blue = as many as the suite asks for, "
        "no leak, no false call.\n"
        "Each iteration is trained on rows for what its parent failed. "
        + fallen(results["iterations"])
        + published(reference and reference_line(reference["repair"])),
        theme,
    )
    axes = sheet(figure)
    left, top = 0.18 + LABELS, 1.42
    step = (WIDTH - left - 0.1) / len(columns)
    for index, iteration in enumerate(columns):
        x, width = left + index * step, min(step - 0.16, 1.1)
        name, note, colour = heading(iteration, results["best"], theme)
        axes.text(x, top, name, size=BODY, weight="bold", va="center")
        axes.text(x, top + 0.2, note, size=SMALL, va="center", color=colour)
        for row, suite in enumerate(suites, 1):
            entry, y = iteration["suites"][suite], top + 0.15 + row * ROW
            axes.add_patch(Rectangle((x, y + 0.05), width, BAR, color=theme.faint, linewidth=0))
            axes.add_patch(
                Rectangle(
                    (x, y + 0.05),
                    width * entry["passed"] / entry["cases"],
                    BAR,
                    color=theme.ours if entry["meets"] else theme.failed,
                    linewidth=0,
                )
            )
            axes.text(
                x,
                y - 0.06,
                f"{entry['passed']}/{entry['cases']}" + fall(by_name, iteration, suite),
                size=SMALL,
                va="center",
                weight="normal" if entry["meets"] else "bold",
            )
        faults = sum(entry["leaks"] + entry["false_positives"] for entry in iteration["suites"].values())
        axes.text(
            x,
            top + 0.15 + (len(suites) + 1) * ROW,
            str(faults),
            size=SMALL,
            va="center",
            color=theme.failed if faults else theme.text,
        )
    for row, suite in enumerate(suites, 1):
        axes.text(0.18, top + 0.15 + row * ROW, suite.replace("_", " "), size=SMALL, va="center")
    axes.text(
        0.18, top + 0.15 + (len(suites) + 1) * ROW, "leaks, false calls", size=SMALL, va="center", color=theme.muted
    )
    return figure


def reference_line(repair: dict) -> str:
    """How many iterations the reference took, on which suites."""
    return f"{repair['iterations']} iterations, on suites of {', '.join(map(str, repair['suites']))} cases"


def fall(by_name: dict, iteration: dict, suite: str) -> str:
    """`  (1 fewer)` where a checkpoint passes fewer cases of a suite than the one that it was made of."""
    parent = by_name.get(iteration["parent"])
    lost = parent["suites"][suite]["passed"] - iteration["suites"][suite]["passed"] if parent else 0
    return f"  ({lost} fewer)" if lost > 0 else ""


def fallen(iterations: list) -> str:
    """What was taken over although a suite fell, in a sentence; empty when nothing was."""
    by_name = {iteration["name"]: iteration for iteration in iterations}
    for iteration in iterations:
        parent = by_name.get(iteration["parent"])
        for suite, after in iteration["suites"].items() if parent and iteration["accepted"] else ():
            if after["passed"] < (before := parent["suites"][suite]["passed"]):
                return (
                    f"{iteration['name']} was taken over though {suite.replace('_', ' ')} fell from {before} to "
                    f"{after['passed']}:\nonly a suite that was met is guarded."
                )
    return ""


def heading(iteration: dict, best: str, theme: Theme) -> tuple[str, str, str]:
    """(name, what became of it, colour of that)."""
    name, _, shape = iteration["name"].partition(".")
    if shape:
        label, note = SHAPES.get(shape, (shape, "compared"))
        return label, note, theme.muted
    if iteration["refused"]:
        return name, "refused", theme.failed
    return (
        name,
        "best" if iteration["name"] == best else "taken over" if iteration["parent"] else "before",
        theme.ours if iteration["name"] == best else theme.muted,
    )


def headline(results: dict) -> str:
    """What the figure says, in one sentence."""
    by_name = {iteration["name"]: iteration for iteration in results["iterations"]}
    before, best = acceptance.total(by_name["start"]), acceptance.total(by_name[results["best"]])
    if results["best"] == "start":
        return f"No iteration was better than the start: {before[0]} of {before[1]} cases pass"
    minutes = results["seconds"] / 60
    return f"Repair takes the model from {before[0]} to {best[0]} of {best[1]} cases in {minutes:.0f} minutes"
