"""Figures: what a training step holds in memory, and what grouping costs in time."""

from kxl.figures.style import SMALL, WIDTH, Theme, beside, new_figure, published

# Parts of the memory model, from the bottom of the stack; the work on top is what grows.
PARTS = (
    ("process", "process"),
    ("core", "int8 core"),
    ("moments", "moments"),
    ("layer inputs", "layer inputs"),
    ("work", "work"),
)
SHADES = {"process": 0.25, "core": 1.0, "moments": 0.35, "layer inputs": 0.7, "work": 0.45}
SMALL_MACHINE = 16  # GiB


def memory(model: dict, proof: dict, theme: Theme, reference: dict | None = None):
    """Predicted parts by length, and the measured peaks on them.

    `model` is memory_model.json, `proof` reports/prove-8b/memory.json.
    """
    lengths = model["results"]["by_length"]
    measured = [  # the bars are of a core in memory, so a step from mapped files is none of their crosses
        (name, entry)
        for name, entry in proof["results"].items()
        if isinstance(entry, dict) and "peak_rss_gib" in entry and entry.get("storage") != "mapped"
    ]
    last = lengths[-1]
    fits = "fits" if last["peak_gib"] < SMALL_MACHINE else "does not fit"
    height, head, foot, left, right = 4.6, 1.25, 0.62, 0.62, 1.35
    figure = new_figure(
        height,
        f"Training every expert of an 8B MoE at {last['tokens']:,} tokens {fits} in {SMALL_MACHINE} GiB",
        "Predicted peak memory of a step by length of the example, stacked by part; crosses are measured on real steps."
        + credit(proof["results"])
        + published(reference and reference_line(reference["training"])),
        theme,
    )
    axes = figure.add_axes(
        (left / WIDTH, foot / height, (WIDTH - left - right) / WIDTH, (height - head - foot) / height)
    )
    axes.grid(axis="y")
    axes.tick_params(length=0)
    bottom = [0.0] * len(lengths)
    for part, label in PARTS:
        sizes = [entry["parts_gib"][part] for entry in lengths]
        axes.bar(
            range(len(lengths)), sizes, bottom=bottom, width=0.62, color=theme.ours, alpha=SHADES[part], linewidth=0
        )
        middle = bottom[-1] + sizes[-1] / 2
        bottom = [base + size for base, size in zip(bottom, sizes)]
        if sizes[-1] > 0.04 * last["peak_gib"]:  # a thinner part has no room for its name beside it
            beside(axes, f"{label} {sizes[-1]:.1f}", (len(lengths) - 1 + 0.36, middle), 4, theme.text)
    for place, entry in enumerate(lengths):
        axes.annotate(
            f"{entry['peak_gib']:.1f}",
            (place, entry["peak_gib"]),
            xytext=(0, 9),
            textcoords="offset points",
            ha="center",
            size=SMALL,
            color=theme.text,
            weight="bold",
        )
    places = {entry["tokens"]: place for place, entry in enumerate(lengths)}
    for name, entry in measured:
        if entry["tokens"] in places:
            shift = 0.14 if name == "grouped" else -0.14
            axes.plot(
                places[entry["tokens"]] + shift,
                entry["peak_rss_gib"],
                marker="x" if name != "grouped" else "+",
                color=theme.text,
                markersize=8,
                markeredgewidth=1.6,
            )
    axes.axhline(SMALL_MACHINE, color=theme.other, linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate(
        f"a machine of {SMALL_MACHINE} GiB",
        (-0.45, SMALL_MACHINE),
        xytext=(0, 4),
        textcoords="offset points",
        size=SMALL,
        color=theme.other,
    )
    axes.set_xticks(range(len(lengths)), [f"{entry['tokens']:,}" for entry in lengths])
    axes.set_xlim(-0.5, len(lengths) - 0.5)
    axes.set_ylim(0, max(SMALL_MACHINE, last["peak_gib"]) * 1.15)
    axes.set_xlabel("tokens of the example (x streamed, + grouped: measured)")
    axes.set_ylabel("GiB resident")
    return figure


def credit(results: dict) -> str:
    """What makes a step fit, where a streamed and a grouped one of the same length were measured."""
    streamed, grouped = results.get("streamed"), results.get("grouped")
    if not (streamed and grouped and alike([streamed, grouped])):
        return ""
    why = "what fits is the int8 core, of which one expert is worked on at a time."
    return f"\nStreamed and grouped steps peak alike: {why}"


def alike(steps: list) -> bool:
    """Whether the peaks of some steps are the same but for 3 %."""
    peaks = [step["peak_rss_gib"] for step in steps]
    return max(peaks) / min(peaks) - 1 < 0.03


def reference_line(grouped: dict) -> str:
    """Memory and shape of the reference's grouped step."""
    return (
        f"{grouped['peak_gb'] * 1e9 / 2**30:.1f} GiB ({grouped['peak_gb']} GB) at {grouped['tokens']:,} tokens, "
        f"in {grouped['groups']} groups of {grouped['group_layers']} layers with stride {grouped['stride']}"
    )


def sweep(report: dict, theme: Theme):
    """`report` is group_sweep.json: seconds and peak memory of a step by group size, streamed last."""
    steps, settings = report["results"]["steps"], report["settings"]
    streamed = next(step for step in steps if step["group_layers"] is None)
    other = next((step for step in steps if step["group_layers"] == 4), steps[0])  # 4 is the reference's size
    height, head, foot, left, gap, right = 0.42 * len(steps) + 1.95, 1.3, 0.45, 1.35, 0.85, 0.7
    what = (
        f"One training step of the first {settings['layers']} layers of LFM2-8B-A1B, {settings['tokens']:,} tokens, "
        "each in a process of its own.\n"
    )
    ratio = other["seconds"] / streamed["seconds"]
    times = f"Groups of {other['group_layers']} take {ratio:.1f} times as long as streaming"
    ticks = "Ticks: what the memory model predicts."
    if alike(steps):
        title = "Group size buys no memory here; it costs time"
        why = "All peak alike: experts are int8, and one expert's gradient is alive at a time, grouped or not."
        figure = new_figure(height, title, f"{what}{times}. {ticks}\n{why}", theme)
    else:
        figure = new_figure(height, times, what + ticks, theme)
    width = (WIDTH - left - gap - right) / 2
    for index, (key, title) in enumerate((("seconds", "Seconds"), ("peak_rss_gib", "Peak memory, GiB"))):
        axes = figure.add_axes(
            ((left + index * (width + gap)) / WIDTH, foot / height, width / WIDTH, (height - head - foot) / height)
        )
        axes.axis("off")
        axes.set_yticks([])
        axes.set_xticks([])
        axes.set_xlim(0, max(entry[key] for entry in steps))
        axes.set_ylim(len(steps) - 0.4, -0.6)
        axes.set_title(title, loc="left", size=SMALL, color=theme.muted, pad=6)
        for place, entry in enumerate(steps):
            ours = entry is streamed
            axes.barh(
                place,
                entry[key],
                height=0.62,
                color=theme.ours if ours else "none",
                edgecolor=theme.ours if ours else theme.other,
                linewidth=1.2,
            )
            end = max(entry[key], entry["predicted_gib"] if key != "seconds" else 0)
            beside(axes, f"{entry[key]:.3g}", (end, place), 7, theme.text, bold=ours)
            if key != "seconds":
                axes.plot(
                    (entry["predicted_gib"],) * 2,
                    (place - 0.4, place + 0.4),
                    color=theme.text,
                    linewidth=1.6,
                    clip_on=False,
                )
            if index == 0:
                label = "streamed" if ours else f"groups of {entry['group_layers']}"
                beside(axes, label, (0, place), -7, theme.ours if ours else theme.text, bold=ours)
    return figure
