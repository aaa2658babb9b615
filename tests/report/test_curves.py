from __future__ import annotations

import pytest

from ironglass.core.findings import Curve, Series
from ironglass.report.curves import figure


def curve(*series: Series, unit: str = "share") -> Curve:
    return Curve(id="c", caption="A curve", x_label="parts", y_label="accuracy", series=series, log_x=True, y_unit=unit)


def test_every_line_is_drawn_where_its_points_are_with_its_interval() -> None:
    first = Series(label="glass", x=(2.0, 8.0), y=(0.8, 0.9), low=(0.7, 0.85), high=(0.9, 0.95), role="proof")
    second = Series(label="black", x=(1000.0,), y=(0.92,), role="attack")
    (axes,) = figure(curve(first, second)).axes
    assert [list(zip(*line.get_data(), strict=True)) for line in axes.lines] == [[(2, 0.8), (8, 0.9)], [(1000, 0.92)]]
    (whiskers,) = axes.collections
    assert [segment[:, 1].tolist() for segment in whiskers.get_segments()] == [[0.7, 0.9], [0.85, 0.95]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["glass", "black"]
    assert axes.get_xscale() == "log"
    assert axes.yaxis.get_major_formatter()(0.5) == "50%"


@pytest.mark.parametrize("unit", ["logits", "share"])
def test_one_line_needs_no_key(unit: str) -> None:
    (axes,) = figure(curve(Series(label="a", x=(1.0, 2.0), y=(0.0, 1.0)), unit=unit)).axes
    assert axes.get_legend() is None
    assert (axes.yaxis.get_major_formatter()(0.5) == "50%") == (unit == "share")
