"""The figures: drawn from reports alone, the same each time, and nothing in them hides anything else."""

import io
import sys

import matplotlib
import pytest
from matplotlib.patches import FancyBboxPatch
from PIL import Image

import build_visual_assets
from helpers import fabricated_reports as fabricated
from kxl.base.cli import UserError
from kxl.base.files import read_json
from kxl.figures import eval as figures_eval
from kxl.figures import frontier, pipeline, smol, style, training
from kxl.figures import quants as figures_quants

pytestmark = pytest.mark.minutes

REFERENCE = read_json(build_visual_assets.ROOT / "configs" / "reference_results.json")
ARTIFACTS = ("bf16", "q8kxl", "q6kxl", "q5kxl", "q4kxl")
PASSED = [fabricated.evaluation(name) for name in ARTIFACTS]
FAILED = [
    fabricated.evaluation(name, failing=range(index * 7), raw_failing=index, leaks=index)
    for index, name in enumerate(ARTIFACTS)
]
WITH_MLX = [fabricated.evaluation("bf16", backend="mlx"), *FAILED, fabricated.evaluation("q4kxl", backend="mlx")]
# All quants nearly alike: the hardest case for labels beside points.
CROWDED = {
    name: (8 + 0.01 * index, 1e-3 * (1 + 0.02 * index), 1e-2 * (1 + 0.02 * index))
    for index, name in enumerate((*fabricated.KXL, *fabricated.STOCK))
}
LARGE = {
    name: (mib * 1000, mean / 100, tail / 100)
    for name, (mib, mean, tail) in {**fabricated.KXL, **fabricated.STOCK}.items()
}
SPREAD = {**fabricated.KXL, "q8kxl": (11.2, 0.0, 1e-6), **fabricated.STOCK, "Q4_K_M": (3.0, 2.5, 11.0)}


def reports(quants=None):
    return {
        "calibration": fabricated.calibration(),
        "imatrix": fabricated.imatrix(),
        "parity": fabricated.parity(),
        "quants": quants or fabricated.quants(),
    }


DRAWN = {
    "pipeline": lambda theme: pipeline.overview(reports(), PASSED, theme),
    "pipeline, failures": lambda theme: pipeline.overview(reports(), FAILED, theme),
    "pipeline, 8B": lambda theme: pipeline.overview(
        reports(fabricated.quants({"bf16": (15_906.0, 0, 0), **LARGE})), PASSED, theme
    ),
    "fixed-hermes": lambda theme: figures_eval.fixed_hermes(PASSED, theme),
    "fixed-hermes, failures": lambda theme: figures_eval.fixed_hermes(FAILED, theme),
    "fixed-hermes, seven columns": lambda theme: figures_eval.fixed_hermes(WITH_MLX, theme),
    "fixed-hermes, one column": lambda theme: figures_eval.fixed_hermes(FAILED[-1:], theme),
    "quant-quality": lambda theme: figures_quants.size_and_quality(fabricated.quants(), theme),
    "quant-quality, crowded": lambda theme: figures_quants.size_and_quality(fabricated.quants(CROWDED), theme),
    "quant-quality, 8B": lambda theme: figures_quants.size_and_quality(fabricated.quants(LARGE), theme),
    "quant-quality, spread": lambda theme: figures_quants.size_and_quality(fabricated.quants(SPREAD), theme),
    "quant-quality, one quant": lambda theme: figures_quants.size_and_quality(
        fabricated.quants({"q4kxl": (7.6, 0.009, 0.2)}), theme
    ),
    "policy-search": lambda theme: frontier.frontier(fabricated.search(), theme),
    "quant-sizes-8b": lambda theme: figures_quants.predicted_sizes(fabricated.sizes(), theme),
    "quant-sizes-8b, over": lambda theme: figures_quants.predicted_sizes(
        fabricated.sizes({**fabricated.GIB, "q4kxl": (6.2, 5.7)}), theme
    ),
    "smol-emission": lambda theme: smol.emission(fabricated.emission(), theme),
    "smol-emission, failed": lambda theme: smol.emission(
        fabricated.emission(right=0, emitting=3, false=50, near=30), theme
    ),
    "training-memory": lambda theme: training.memory(fabricated.memory(), fabricated.proof(), theme),
    "group-sweep": lambda theme: training.sweep(fabricated.sweep(), theme),
    "fixed-hermes, reference": lambda theme: figures_eval.fixed_hermes(FAILED, theme, REFERENCE),
    "training-memory, reference": lambda theme: training.memory(
        fabricated.memory(), fabricated.proof(), theme, REFERENCE
    ),
    "group-sweep, other peaks": lambda theme: training.sweep(fabricated.sweep(peaks=(3.6, 4, 4.9, 7, 3.6)), theme),
    "group-sweep, slow": lambda theme: training.sweep(fabricated.sweep((1261.0, 840.2, 633.3, 528.0, 213.1)), theme),
}


@pytest.mark.parametrize("theme", style.THEMES, ids=lambda theme: theme.name)
@pytest.mark.parametrize("name", DRAWN)
def test_no_text_overlaps_another_or_leaves_the_picture(name, theme):
    with matplotlib.rc_context(style.style(theme)):
        assert style.text_problems(DRAWN[name](theme)) == []


@pytest.mark.parametrize("name", [name for name in DRAWN if name.startswith("pipeline")])
def test_the_text_of_a_stage_stays_inside_its_box(name):
    with matplotlib.rc_context(style.style(style.LIGHT)):
        figure = DRAWN[name](style.LIGHT)
        texts = style.text_boxes(figure)
        boxes = [patch.get_window_extent() for patch in figure.findobj(FancyBboxPatch) if patch.get_width() > 1]
    assert len(boxes) == 8
    for text, extent in texts:
        for box in boxes:
            if box.x0 <= extent.x0 <= box.x1 and box.y0 <= extent.y1 <= box.y1:
                assert extent.x1 <= box.x1 - 3 and extent.y0 >= box.y0 + 3, f"{text!r} leaves its box"


def test_overlapping_texts_are_found():
    with matplotlib.rc_context(style.style(style.LIGHT)):
        figure = style.new_figure(2, "Title", "how to read it", style.LIGHT)
        figure.text(0.5, 0.3, "one label")
        figure.text(0.52, 0.31, "another label")
        figure.text(0.97, 0.1, "too far right")
        problems = style.text_problems(figure)
    assert problems == ["'one label' overlaps 'another label'", "'too far right' is cut off"]


def luminance(colour):
    """Relative luminance of WCAG 2.1."""
    channels = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in matplotlib.colors.to_rgb(colour)
    ]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), channels))


@pytest.mark.parametrize("theme", style.THEMES, ids=lambda theme: theme.name)
def test_every_text_colour_is_readable_on_its_background(theme):
    for background in (theme.background, theme.panel):
        for colour in (theme.text, theme.muted, theme.ours, theme.other, theme.failed):
            light, dark = sorted((luminance(colour), luminance(background)), reverse=True)
            # 4.5:1 for small text; the colour of failures is bold or a mark, for which 3:1 is enough.
            assert (light + 0.05) / (dark + 0.05) >= (3 if colour == theme.failed else 4.5), f"{colour} on {background}"


def dots(figure, marker_vertices):
    """How many marks of a kind are drawn."""
    return sum(
        len(one.get_offsets())
        for one in figure.axes[0].collections
        if len(one.get_paths()[0].vertices) == marker_vertices
    )


def test_there_is_one_mark_per_case_and_failures_are_crosses():
    with matplotlib.rc_context(style.style(style.LIGHT)):
        figure = figures_eval.fixed_hermes(
            [fabricated.evaluation("bf16"), fabricated.evaluation("q4kxl", failing=[3, 30])], style.LIGHT
        )
        cross = len(matplotlib.markers.MarkerStyle("x").get_path().vertices)
        circle = len(matplotlib.markers.MarkerStyle("o").get_path().vertices)
        assert (dots(figure, circle), dots(figure, cross)) == (2 * 43 - 2, 2)


@pytest.mark.parametrize(
    "reports, headline",
    [
        (PASSED, "All 43 fixed-Hermes cases pass on each artifact"),
        (
            [PASSED[0], fabricated.evaluation("q4kxl", failing=[1])],
            "1 of 2 artifacts pass all 43 fixed-Hermes cases; Q4KXL passes 42",
        ),
        ([fabricated.evaluation("q4kxl", failing=[1])], "Q4KXL passes 42 of 43 fixed-Hermes cases"),
        ([PASSED[0]], "All 43 fixed-Hermes cases pass on BF16"),
    ],
)
def test_the_headline_says_what_the_reports_say(reports, headline):
    with matplotlib.rc_context(style.style(style.LIGHT)):
        assert headline in [text for text, _ in style.text_boxes(figures_eval.fixed_hermes(reports, style.LIGHT))]


def test_a_quant_above_its_budget_is_not_called_within_it():
    with matplotlib.rc_context(style.style(style.LIGHT)):
        texts = [text for text, _ in style.text_boxes(DRAWN["quant-sizes-8b, over"](style.LIGHT))]
    assert "Q4KXL of LFM2-8B-A1B exceeds its budget" in texts and "6.20 of 5.7" in texts


def test_the_emission_figure_has_a_row_for_each_number_of_tools_and_each_kind_without_a_call():
    with matplotlib.rc_context(style.style(style.LIGHT)):
        figure = smol.emission(fabricated.emission(right=47, false=1, near=9), style.LIGHT)
    texts = [text for text, _ in style.text_boxes(figure)]
    assert [text for text in texts if text.endswith(" tools")] == [f"{count} tools" for count in range(3, 8)]
    # Places 47 to 49 are wrong: those offer 5, 6 and 7 tools.
    assert [text for text in texts if text.endswith("right tool")] == ["10 of 10 right tool"] * 2 + [
        "9 of 10 right tool"
    ] * 3
    assert {"9 of 30 false calls", "1 of 50 false calls"} <= set(texts)
    calling, quiet = smol.rows(fabricated.emission(right=47, false=1, near=9)["results"]["details"])
    assert [row[1:4] for row in calling] == [(0.0, 1.0, 0.8)] * 2 + [(0.0, 0.9, 0.8)] * 3
    assert [row[2] for row in quiet] == [9 / 30, 1 / 50]


@pytest.mark.parametrize(
    "name, said",
    [
        (
            "fixed-hermes, reference",
            "The reference published: Q8KXL 43/43, Q6KXL 43/43, Q5KXL 43/43, Q4KXL 43/43, at 65,536 tokens of context.",
        ),
        (
            "training-memory, reference",
            "The reference published: 37.7 GiB (40.43 GB) at 10,240 tokens, in 7 groups of 4 layers with stride 3.",
        ),
    ],
)
def test_the_references_own_numbers_stand_beside_ours(name, said):
    with matplotlib.rc_context(style.style(style.LIGHT)):
        texts = [text for text, _ in style.text_boxes(DRAWN[name](style.LIGHT))]
    assert any(text.endswith("\n" + said) for text in texts), texts


@pytest.mark.parametrize(
    "figure, said, not_said",
    [
        # All peaks the same: there is no trade-off, and the int8 core is what fits, streamed or grouped.
        ("group-sweep", "Group size buys no memory here; it costs time", "as long as streaming"),
        ("group-sweep, other peaks", "Groups of 4 take 2.5 times as long as streaming", "buys no memory"),
        ("training-memory", "Streamed and grouped steps peak alike", "thanks to streaming"),
    ],
)
def test_a_training_figure_gives_memory_and_time_their_own_causes(figure, said, not_said):
    with matplotlib.rc_context(style.style(style.LIGHT)):
        texts = [text for text, _ in style.text_boxes(DRAWN[figure](style.LIGHT))]
        other = training.memory(fabricated.memory(), fabricated.proof(grouped=12.0), style.LIGHT)
        assert not any("peak alike" in text for text, _ in style.text_boxes(other))
    assert any(said in text for text in texts)
    assert not texts[0].startswith(not_said) and not any(text.startswith(not_said) for text in texts)


@pytest.mark.parametrize(
    "name, other",
    [
        (
            "pipeline",
            lambda theme: pipeline.overview({**reports(), "imatrix": fabricated.imatrix(1235)}, PASSED, theme),
        ),
        (
            "pipeline",
            lambda theme: pipeline.overview({**reports(), "parity": fabricated.parity(equal=199)}, PASSED, theme),
        ),
        (
            "fixed-hermes",
            lambda theme: figures_eval.fixed_hermes([*PASSED[:4], fabricated.evaluation("q4kxl", failing=[7])], theme),
        ),
        (
            "quant-quality",
            lambda theme: figures_quants.size_and_quality(
                fabricated.quants(
                    {"bf16": (19.8, 0, 0), **fabricated.KXL, **fabricated.STOCK, "q4kxl": (7.6, 9.1e-3, 0.23)}
                ),
                theme,
            ),
        ),
        ("policy-search", lambda theme: frontier.frontier(fabricated.search(best=0.0041), theme)),
        (
            "quant-sizes-8b",
            lambda theme: figures_quants.predicted_sizes(
                fabricated.sizes({**fabricated.GIB, "q4kxl": (5.68, 5.7)}), theme
            ),
        ),
        ("smol-emission", lambda theme: smol.emission(fabricated.emission(near=10), theme)),
        ("training-memory", lambda theme: training.memory(fabricated.memory(), fabricated.proof(streamed=9.2), theme)),
        ("group-sweep", lambda theme: training.sweep(fabricated.sweep((61.0, 40.2, 33.4, 28.0, 13.1)), theme)),
    ],
)
def test_one_changed_number_changes_the_figure(name, other):
    pictures = []
    for draw in (DRAWN[name], other):
        with matplotlib.rc_context(style.style(style.LIGHT)):
            picture = io.BytesIO()
            draw(style.LIGHT).savefig(picture, format="svg", metadata={"Date": None})
            pictures.append(picture.getvalue())
    assert pictures[0] != pictures[1]


@pytest.fixture
def build(tmp_path, monkeypatch):
    def run(
        *flags,
        names=(
            "calibration",
            "imatrix",
            "parity",
            "quants",
            "sizes",
            "emission",
            "memory",
            "proof",
            "sweep",
            "search",
            "eval",
        ),
    ):
        made = fabricated.write(
            tmp_path,
            **{
                **reports(),
                "sizes": fabricated.sizes(),
                "emission": fabricated.emission(),
                "memory": fabricated.memory(),
                "proof": fabricated.proof(),
                "sweep": fabricated.sweep(),
                "search": fabricated.search(),
                "eval": PASSED,
            },
        )
        words = [
            (f"--{name}", str(path)) for name in names for path in (made[name] if name == "eval" else [made[name]])
        ]
        monkeypatch.setattr(
            sys, "argv", ["build_visual_assets.py", "--out", str(tmp_path / "visuals"), *sum(words, ()), *flags]
        )
        build_visual_assets.main()
        return {path.name: path for path in (tmp_path / "visuals").iterdir()}

    return run


def test_each_figure_comes_as_svg_and_png_in_both_themes_at_twice_readme_width(build):
    made = build()
    drawn = build_visual_assets.FIGURES.keys() - {
        "dataset",
        "repair",
    }  # test_figures_data.py and test_repair_loop.py draw these
    assert set(made) == {
        f"{name}-{theme}.{kind}" for name in drawn for theme in ("light", "dark") for kind in ("svg", "png")
    }
    for name, path in made.items():
        if name.endswith(".png"):
            image = Image.open(path)
            assert image.width == 1700
            assert (sum(image.convert("RGB").getpixel((2, 2))) > 600) == ("light" in name)


def test_the_same_reports_give_the_same_bytes(build):
    first = {name: path.read_bytes() for name, path in build(names=["quants", "eval"]).items()}
    again = {name: path.read_bytes() for name, path in build(names=["quants", "eval"]).items()}
    assert first == again and b"/work" not in b"".join(first.values())


def test_without_a_report_its_figures_are_left_out(build):
    assert {name.rsplit("-", 1)[0] for name in build(names=["sizes"])} == {"quant-sizes-8b"}


def test_a_figure_whose_report_was_deleted_is_an_error_and_not_a_picture_of_old_numbers(build):
    build(names=["sizes", "sweep"])
    with pytest.raises(
        UserError,
        match=r"group-sweep-light\.svg was drawn from a report that is not there any more \(--sweep\): "
        "`make sweep` writes it",
    ):
        build(names=["sizes"])


def test_asking_for_a_figure_without_its_report_names_the_flag(build):
    with pytest.raises(UserError, match="figure quant-quality needs --quants"):
        build("--only", "quant-quality", names=["sizes"])


def test_a_missing_report_is_named_with_the_target_that_makes_it(build, tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.json: no such report; `make quants` writes it"):
        build("--quants", str(tmp_path / "nowhere.json"), names=["sizes"])


def test_another_main_suite_is_not_set_beside_the_references_scores():
    own = [{**report, "settings": {**report["settings"], "suite": "booking"}} for report in FAILED]
    texts = [
        [text for text, _ in style.text_boxes(figures_eval.fixed_hermes(reports, style.LIGHT, REFERENCE))]
        for reports in (FAILED, own)
    ]
    assert ["reference" in " ".join(found).lower() for found in texts] == [True, False]
