"""Figure: which cases of the fixed-Hermes suite each artifact passed, one dot per case."""

from kxl.figures.style import BODY, SMALL, WIDTH, Theme, artifact_label, new_figure, published, sheet

LABEL_WIDTH = 1.35  # inches for the row labels
ROW = 0.30  # inches per category
PITCH = 0.118  # inches between dots, where there is room


def fixed_hermes(reports: list, theme: Theme, reference: dict | None = None):
    """`reports` are whole eval reports of one suite, in the order of the columns; `reference` has fixed_hermes.

    A config may have another main suite; the reference was never asked that one, and is not named then.
    """
    if reports[0]["settings"]["suite"] != "fixed_hermes_43":
        reference = None
    columns = [(column_label(report), report["results"]) for report in reports]
    rows = categories(columns[0][1]["details"])
    height = 1.5 + ROW * (len(rows) + 4)
    figure = new_figure(
        height,
        headline(columns),
        "One dot per case, "
        f"{reports[0]['settings']['context']:,} tokens of context: filled = passed, cross = failed.\n"
        "Raw: the model's own tokens, without the server's grammar and parser."
        + published(reference and reference_line(reference["fixed_hermes"])),
        theme,
    )
    axes = sheet(figure)

    left = 0.18 + LABEL_WIDTH
    step = (WIDTH - left - 0.1) / len(columns)
    pitch = min(PITCH, (step - 0.12) / max(count for _, count in rows))
    top = 1.16
    for index, (label, results) in enumerate(columns):
        x = left + index * step
        axes.text(x, top, label, size=BODY, weight="bold", va="center")
        for row, (name, _) in enumerate(rows, 1):
            cases = [entry for entry in results["details"] if entry["category"] == name]
            draw_cases(axes, x + pitch / 2, top + row * ROW, pitch, cases, theme)
        for row, (_, value, good) in enumerate(totals(results), len(rows) + 1):
            axes.text(
                x,
                top + row * ROW + 0.1,
                value,
                size=SMALL,
                va="center",
                color=theme.text if good else theme.failed,
                weight="normal" if good else "bold",
            )
    for row, (name, count) in enumerate(rows, 1):
        axes.text(0.18, top + row * ROW, name.replace("_", " "), size=SMALL, va="center")
        axes.text(left - 0.14, top + row * ROW, str(count), size=SMALL, va="center", ha="right", color=theme.muted)
    line = top + (len(rows) + 0.66) * ROW
    axes.plot((0.18, WIDTH - 0.18), (line, line), color=theme.faint, linewidth=0.8)
    for row, (name, _, _) in enumerate(totals(columns[0][1]), len(rows) + 1):
        axes.text(0.18, top + row * ROW + 0.1, name, size=SMALL, va="center", color=theme.muted)
    return figure


def reference_line(fixed: dict) -> str:
    """The reference's published scores of its quants on the fixed suite."""
    scores = [f"{artifact_label(name)} {passed}/{fixed['cases']}" for name, passed in fixed["passed"].items()]
    return f"{', '.join(scores)}, at {fixed['context']:,} tokens of context"


def column_label(report: dict) -> str:
    """The quant's name, and the server's where it is not llama.cpp's."""
    settings = report["settings"]
    label = artifact_label(settings["artifact"])
    return label if settings["backend"] == "llama_cpp" else f"{label} {settings['backend'].upper()}"


def categories(details: list) -> list:
    """(category, cases) in the order in which the suite has them."""
    counts = {}
    for entry in details:
        counts[entry["category"]] = counts.get(entry["category"], 0) + 1
    return list(counts.items())


def headline(columns: list) -> str:
    """What the figure says, in one sentence."""
    failing = [(label, results) for label, results in columns if results["passed"] < results["cases"]]
    cases = columns[0][1]["cases"]
    if not failing:
        return f"All {cases} fixed-Hermes cases pass on {'each artifact' if len(columns) > 1 else columns[0][0]}"
    label, worst = min(failing, key=lambda column: column[1]["passed"])
    if len(columns) == 1:
        return f"{label} passes {worst['passed']} of {cases} fixed-Hermes cases"
    return (
        f"{len(columns) - len(failing)} of {len(columns)} artifacts pass all {cases} fixed-Hermes cases; "
        f"{label} passes {worst['passed']}"
    )


def totals(results: dict) -> list:
    """(name, value, whether it is as it should be) of the lines below the dots."""
    raw = results["raw"]
    false_calls, leaks = results["no_tool"]["false_positives"], results["text_tool_leaks"]
    return [
        ("passed", f"{results['passed']}/{results['cases']}", results["passed"] == results["cases"]),
        ("passed raw", f"{raw['passed']}/{raw['cases']}" if raw else "not scored", True),
        ("false calls", str(false_calls), not false_calls),
        ("leaks into text", str(leaks), not leaks),
    ]


def draw_cases(axes, x: float, y: float, pitch: float, cases: list, theme: Theme) -> None:
    """A row of dots; sizes are in points, so they do not stretch with the axes."""
    size = (72 * pitch * 0.72) ** 2
    for passed, marker, colour in ((True, "o", theme.ours), (False, "x", theme.failed)):
        places = [x + index * pitch for index, entry in enumerate(cases) if entry["passed"] is passed]
        axes.scatter(
            places,
            [y] * len(places),
            s=size if passed else size * 0.8,
            marker=marker,
            color=colour,
            linewidths=0 if passed else 1.6,
        )
