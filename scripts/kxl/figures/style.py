"""The look that all figures share: two themes, one type scale, one palette, one way to save.

A figure is 8.5 inches wide: 850 CSS pixels in a README, where 10 pt is 14 px. PNG files are saved
at twice that so that they stay sharp on dense screens. Colours are Okabe and Ito's colour-blind
safe set (https://jfly.uni-koeln.de/color/); a colour never carries a meaning alone, shape or a
label says the same.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib import patheffects
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from kxl.base.files import atomic_path

WIDTH = 8.5  # inches
PNG_DPI = 200  # 1700 px wide, shown at 850
TITLE, BODY, SMALL = 13, 10, 8.5  # pt; 18, 14 and 12 px in a README


@dataclass(frozen=True)
class Theme:
    """Colours by what they mean."""

    name: str
    background: str
    text: str
    muted: str  # secondary text and axes; at least 4.5:1 on the background
    faint: str  # grid lines, boxes, dots not taken
    panel: str  # box fill
    ours: str  # KXL quants, passed cases
    other: str  # stock quants
    failed: str


LIGHT = Theme("light", "#ffffff", "#1f2328", "#59636e", "#d1d9e0", "#f3f6f9", "#0072B2", "#A65300", "#D55E00")
DARK = Theme("dark", "#0d1117", "#e6edf3", "#9aa4af", "#30363d", "#161b22", "#56B4E9", "#E69F00", "#FF7A33")
THEMES = (LIGHT, DARK)


def style(theme: Theme) -> dict:
    """Matplotlib settings of a theme; use as `with matplotlib.rc_context(style(theme))`."""
    return {
        "font.family": "DejaVu Sans",  # ships inside matplotlib, so every machine draws the same
        "font.size": BODY,
        "text.color": theme.text,
        "figure.facecolor": theme.background,
        "axes.facecolor": theme.background,
        "axes.edgecolor": theme.faint,
        "axes.labelcolor": theme.muted,
        "axes.labelsize": SMALL,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "grid.color": theme.faint,
        "grid.linewidth": 0.6,
        "xtick.color": theme.faint,
        "ytick.color": theme.faint,
        "xtick.labelcolor": theme.muted,
        "ytick.labelcolor": theme.muted,
        "xtick.labelsize": SMALL,
        "ytick.labelsize": SMALL,
        "svg.fonttype": "path",  # a reader's fonts cannot make the words overlap
        "svg.hashsalt": "hermes-kxl",  # same data, same bytes
    }


def new_figure(height: float, title: str, subtitle: str, theme: Theme) -> Figure:
    """An empty figure, `height` inches tall, with its message as title and how to read it below."""
    figure = Figure(figsize=(WIDTH, height))
    FigureCanvasAgg(figure)
    margin = 0.18 / WIDTH
    figure.text(margin, 1 - 0.16 / height, title, size=TITLE, weight="bold", va="top")
    figure.text(margin, 1 - 0.50 / height, subtitle, size=SMALL, color=theme.muted, va="top", linespacing=1.5)
    return figure


def sheet(figure: Figure, zorder: float = 0):
    """Axes without lines over a whole figure, in inches from its top left corner."""
    axes = figure.add_axes((0, 0, 1, 1), zorder=zorder)
    axes.set(xlim=(0, WIDTH), ylim=(figure.get_figheight(), 0))
    axes.axis("off")
    return axes


def beside(axes, text: str, place: tuple, points: float, colour: str, bold: bool = False) -> None:
    """A small text beside a place of the data: to its right, to its left for `points` below zero."""
    axes.annotate(
        text,
        place,
        xytext=(points, 0),
        textcoords="offset points",
        ha="right" if points < 0 else "left",
        va="center_baseline",
        size=SMALL,
        color=colour,
        weight="bold" if bold else "normal",
        annotation_clip=False,
    )


def published(said: str | None) -> str:
    """A line of a subtitle with the reference's own numbers beside ours; nothing where it published none."""
    return f"\nThe reference published: {said}." if said else ""


def artifact_label(name: str) -> str:
    """An artifact as people write it: q4kxl is Q4KXL and bf16 is BF16; stock types keep their own spelling."""
    return name.upper() if name.islower() else name


def size_unit(counts) -> tuple:
    """(bytes per unit, "MiB" or "GiB"): the unit in which the largest of these byte counts reads well."""
    return (2**30, "GiB") if max(counts) >= 2**30 else (2**20, "MiB")


def save(draw, folder: Path, name: str, description: str) -> list:
    """Draw in both themes as NAME-THEME.svg and NAME-THEME.png; return what `text_problems` found, with the theme.

    `draw(theme)` returns a Figure. `description` becomes the files' own description, for screen readers.
    """
    problems = []
    for theme in THEMES:
        with matplotlib.rc_context(style(theme)):
            figure = draw(theme)
            problems += [f"{name}-{theme.name}: {problem}" for problem in text_problems(figure)]
            for kind, metadata in (
                ("svg", {"Title": name, "Description": description, "Date": None, "Creator": None}),
                ("png", {"Description": description, "Software": None}),
            ):
                with atomic_path(folder / f"{name}-{theme.name}.{kind}") as partial:
                    figure.savefig(partial, format=kind, dpi=PNG_DPI, metadata=metadata)
    return problems


def text_boxes(figure: Figure) -> list:
    """(text, Bbox in pixels) of every visible, non-empty text of a figure, tick labels included."""
    renderer = figure.canvas.get_renderer()
    figure.draw(renderer)
    out_of_view = set()  # ticks that matplotlib keeps but does not draw
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            out_of_view |= {tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high}
    boxes = []
    for text in figure.findobj(matplotlib.text.Text):
        if text.get_visible() and text.get_text().strip() and text not in out_of_view:
            box = text.get_window_extent(renderer)
            if box.width > 0 and box.height > 0:
                boxes.append((text.get_text(), box))
    return boxes


def text_problems(figure: Figure) -> list:
    """What a reader would stumble over: pairs of texts that overlap, texts cut off by the edge."""
    boxes = text_boxes(figure)
    problems = []
    for (text, a), (other, b) in itertools.combinations(boxes, 2):
        shared = Bbox.intersection(a, b)
        # A pixel of touching white space around the glyphs is not an overlap.
        if shared is not None and shared.width > 1 and shared.height > 1:
            problems.append(f"{text!r} overlaps {other!r}")
    frame = figure.bbox
    for text, box in boxes:
        if box.x0 < frame.x0 - 1 or box.x1 > frame.x1 + 1 or box.y0 < frame.y0 - 1 or box.y1 > frame.y1 + 1:
            problems.append(f"{text!r} is cut off")
    return problems


def label_points(axes, points: list) -> None:
    """Write each point's label beside it, where it hides neither a label nor a marker.

    `points` are (x, y, label, colour) in data units. Each label takes the first free place of:
    right, left, above, below and the four corners, near before far; a label with no free place
    takes the last one, and `text_problems` will then name it.
    """
    figure = axes.figure
    renderer = figure.canvas.get_renderer()
    figure.draw(renderer)
    marker = 5 * figure.dpi / 72  # pixels around a marker's centre that stay free
    halo = [patheffects.withStroke(linewidth=3, foreground=figure.get_facecolor())]
    taken = []
    for x, y, _, _ in points:
        cx, cy = axes.transData.transform((x, y))
        taken.append(Bbox.from_extents(cx - marker, cy - marker, cx + marker, cy + marker))
    frame = axes.get_window_extent(renderer)
    room = Bbox.from_extents(frame.x0, frame.y0, figure.bbox.x1, frame.y1 + 0.3 * figure.dpi)
    for x, y, label, colour in points:
        for reach in (7, 11, 16):
            for dx, dy, ha, va in (
                (reach, 0, "left", "center_baseline"),
                (-reach, 0, "right", "center_baseline"),
                (0, reach, "center", "bottom"),
                (0, -reach, "center", "top"),
                (reach, reach, "left", "bottom"),
                (reach, -reach, "left", "top"),
                (-reach, reach, "right", "bottom"),
                (-reach, -reach, "right", "top"),
            ):
                text = axes.annotate(
                    label,
                    (x, y),
                    xytext=(dx, dy),
                    textcoords="offset points",
                    ha=ha,
                    va=va,
                    size=SMALL,
                    color=colour,
                    annotation_clip=False,
                    path_effects=halo,
                )
                box = text.get_window_extent(renderer)
                inside = room.x0 <= box.x0 and box.x1 <= room.x1 and room.y0 <= box.y0 and box.y1 <= room.y1
                if inside and not any(box.overlaps(other) for other in taken):
                    break
                text.remove()
            else:
                continue
            break
        else:
            text = axes.annotate(label, (x, y), xytext=(7, 0), textcoords="offset points", size=SMALL, color=colour)
            box = text.get_window_extent(renderer)
        taken.append(box)
