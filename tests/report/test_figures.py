from __future__ import annotations

import itertools
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ironglass.core.findings import Bars, Curve, Report, Series
from ironglass.report.canvas import NARROW, WIDE
from ironglass.report.figures import DRAWN_ROWS, LOOKS, _apart, describe, draw, gradient, looks
from ironglass.report.palette import DARK, LIGHT, as_variables
from ironglass.report.text import number


def charts(report: Report) -> list[Curve | Bars]:
    return [chart for section in report.sections for chart in (*section.curves, *section.bars)]


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_every_figure_is_inert_small_and_the_same_twice(report: Report, width: int) -> None:
    for chart in charts(report):
        svg = draw(chart, width)
        assert svg == draw(chart, width)
        root = ElementTree.fromstring(svg)
        assert root.tag == "svg"
        assert root.attrib == {"viewBox": f"0 0 {width} {root.attrib['viewBox'].split()[3]}", "aria-hidden": "true"}
        assert {element.tag for element in root.iter()} <= {
            "svg",
            "g",
            "path",
            "text",
            "use",
            "defs",
            "clipPath",
            "rect",
            "pattern",
        }
        ids = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
        assert len(ids) == len(set(ids))
        followed = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
        assert followed == set(ids)
        assert "http" not in "".join(value for element in root.iter() for value in element.attrib.values())
        assert len(svg) < 48_000


def test_colours_are_variables_of_the_palette(report: Report) -> None:
    for chart in charts(report):
        for name, fallback in re.findall(r"var\(--([a-z0-9-]+),(#[0-9a-f]{6})\)", draw(chart)):
            assert LIGHT[name] == fallback
        bare = re.sub(r"(var|url)\([^)]*\)", "", " ".join(re.findall(r'(?:style|fill|stroke)="([^"]*)"', draw(chart))))
        assert not re.findall(r"#[0-9a-f]{3,6}", bare), bare


def test_text_is_text_in_the_page_font(report: Report) -> None:
    svg = draw(charts(report)[1])
    assert "Proven by CROWN" in svg
    assert "DejaVu" not in svg


def test_a_label_with_mathematics_or_markup_is_drawn_as_it_is() -> None:
    label = "$\\frac{1}{ <b>&amp; 猫 \u202e"
    svg = draw(Curve(id="c", caption="", x_label=label, y_label="y", series=(Series(label=label, x=(0, 1), y=(0, 1)),)))
    texts = {element.text for element in ElementTree.fromstring(svg).iter("text")}
    assert "$\\frac{1}{ <b>&amp; 猫 \\u202e" in texts


def test_ids_of_two_figures_do_not_clash(report: Report) -> None:
    chart = charts(report)[0]
    found = [set(re.findall(r' id="([^"]+)"', draw(chart, WIDE, prefix))) for prefix in ("a", "b")]
    assert found[0]
    assert not found[0] & found[1]


def test_lines_of_a_figure_differ_in_dash_and_marker_as_well_as_hue() -> None:
    for role, choices in LOOKS.items():
        assert len({look.dash for look in choices}) == len(choices), role
        if role != "clean":
            assert len({look.marker for look in choices}) == len(choices), role
    firsts = [choices[0] for choices in LOOKS.values()]
    for a, b in itertools.combinations(firsts, 2):
        assert a.colour != b.colour
        assert (a.dash, a.marker) != (b.dash, b.marker)
    series = [Series(label=str(k), x=(0,), y=(0,), role="attack") for k in range(9)]
    chosen = looks(series)
    assert len(set(chosen[:8])) == 8
    assert chosen[8] == chosen[0]


def test_the_description_says_the_numbers(report: Report) -> None:
    curve = next(chart for chart in charts(report) if chart.id == "accuracy")
    assert isinstance(curve, Curve)
    text = describe(curve)
    for line in curve.series:
        assert f"{line.label}: {number(line.y[0], 'share')} at 0" in text
        assert f"{number(line.y[-1], 'share')} at 0.1" in text
    dip = replace(curve, series=(Series(label="dip", x=(0, 1, 2, 3), y=(0.5, 0.1, 0.9, 0.6)),))
    assert describe(dip).endswith("dip: 50.0% at 0, 10.0% at 1, 90.0% at 2, 60.0% at 3.")
    bars = Bars(id="b", caption="", labels=("eps 1",), parts=("proven", "open"), values=((0.3, 0.7),))
    assert describe(bars) == "Bar chart. eps 1: proven 30.0%, open 70.0%."


def test_many_bars_are_cut_in_the_drawing_and_counted_in_the_description() -> None:
    many = Bars(id="m", caption="", labels=tuple(f"c{k}" for k in range(99)), parts=("p",), values=((0.01,),) * 99)
    svg = draw(many)
    assert f">c{DRAWN_ROWS - 1}<" in svg
    assert f">c{DRAWN_ROWS}<" not in svg
    assert describe(many).endswith("And 87 more in the table.")


@pytest.mark.parametrize(
    "curve",
    [
        Curve(id="none", caption="", x_label="x", y_label="y", series=()),
        Curve(id="one", caption="", x_label="x", y_label="y", series=(Series(label="a", x=(1,), y=(0.5,)),)),
        Curve(id="empty", caption="", x_label="x", y_label="y", series=(Series(label="a", x=(), y=()),)),
        Curve(
            id="flat",
            caption="",
            x_label="x",
            y_label="y",
            y_unit="dB",
            series=(Series(label="a", x=(1, 2), y=(3, 3)),),
        ),
        Curve(
            id="zero",
            caption="",
            x_label="x",
            y_label="y",
            log_x=True,
            series=(Series(label="a", x=(0, 10, 1000), y=(0, 0.5, 1)),),
        ),
        Curve(
            id="minus",
            caption="",
            x_label="x",
            y_label="y",
            y_unit="",
            series=(Series(label="a", x=(0, 1), y=(-2, 1)),),
        ),
    ],
    ids=lambda curve: curve.id,
)
def test_unusual_curves_are_drawn(curve: Curve) -> None:
    for width in (WIDE, NARROW):
        assert "NaN" not in draw(curve, width)
        assert "nan" not in draw(curve, width)


def test_points_lie_where_the_numbers_say() -> None:
    curve = Curve(
        id="c", caption="", x_label="x", y_label="y", series=(Series(label="a", x=(0, 1, 4), y=(0.25, 1, 0)),)
    )
    root = ElementTree.fromstring(draw(curve))
    marks = [
        (float(mark.attrib["x"]), float(mark.attrib["y"])) for mark in root.iter("use") if "url" not in str(mark.attrib)
    ]
    (x0, y0), (x1, y1), (x2, y2) = marks[-3:]
    assert (x1 - x0) / (x2 - x0) == pytest.approx(0.25, abs=1e-3)
    assert (y2 - y0) / (y2 - y1) == pytest.approx(0.25, abs=1e-3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 300), min_size=1, max_size=9))
def test_labels_do_not_overlap(ends: list[float]) -> None:
    ends = sorted(ends, reverse=True)
    placed = _apart(ends, [20.0] * len(ends), 312.0)
    assert all(above - below >= 20.0 - 1e-6 for above, below in itertools.pairwise(placed))
    assert placed[0] <= 302.0 + 1e-6
    if len(ends) == 1:
        assert placed == [min(ends[0], 302.0)] or placed == [4.0]


def test_the_gap_between_proof_and_attack_is_called_open(report: Report) -> None:
    curve = next(chart for chart in charts(report) if chart.id == "accuracy")
    assert isinstance(curve, Curve)
    assert ">open<" in draw(curve)
    assert ">open<" not in draw(replace(curve, series=tuple(line for line in curve.series if line.role != "proof")))


def test_gradient_is_that_of_the_colour_map() -> None:
    stops = gradient("coolwarm", 3).split(", ")
    assert stops == ["#3b4cc0", "#dddcdc", "#b40426"]


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    bright, dim = sorted((luminance(a), luminance(b)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_contrast_is_aa(palette: dict[str, str]) -> None:
    texts = [
        name
        for name in palette
        if not name.startswith(("part", "edge")) and name not in ("paper", "panel", "line", "rail")
    ]
    for name, ground in itertools.product(texts, ("paper", "panel")):
        assert contrast(palette[name], palette[ground]) >= 4.5, (name, ground)
    for part in range(1, 5):
        assert contrast(palette["ink"], palette[f"part-{part}"]) >= 4.5
    assert contrast(palette["muted"], palette["part-2"]) >= 4.5
    for edge in ("edge-1", "edge-3", "edge-4"):
        assert contrast(palette[edge], palette["panel"]) >= 3


def test_both_schemes_name_the_same_colours_and_figures_can_tell_them_apart() -> None:
    assert LIGHT.keys() == DARK.keys()
    assert len(set(LIGHT.values())) == len(LIGHT)
    assert as_variables("fill: #18212b") == "fill: var(--ink,#18212b)"
