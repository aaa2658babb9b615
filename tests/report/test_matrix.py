"""Heat maps and scatters: every number is there, nothing overlaps, and the page shows them."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from ironglass.core.findings import Cell, Matrix, Point, Report, Scatter, Section, Series, read
from ironglass.report import render, save
from ironglass.report.canvas import NARROW, WIDE
from ironglass.report.figures import describe, draw, figure
from ironglass.report.scatter import _box, _overlap


def matrix(columns: int = 3) -> Matrix:
    cells = tuple(
        tuple(Cell(value=None if i == j == 1 else (i + j) / 10, line=f"{i}–{j} grey") for j in range(columns))
        for i in range(4)
    )
    names = tuple(f"a defence called {j}" for j in range(columns))
    rows = ("pgd", "pgd (unaware)", "best attack on each sample", "no <attack>")
    return Matrix(
        id="m", caption="c", row_label="attack", column_label="defence", rows=rows, columns=names, cells=cells, apart=2
    )


def scatter(**more: object) -> Scatter:
    points = tuple(
        Point(
            label=f"model {i}", x=0.01 * 2**i, y=0.1 + 0.02 * i, low=0.09 + 0.02 * i, high=0.12 + 0.02 * i, chosen=i > 1
        )
        for i in range(5)
    )
    line = Series(label="slope +0.07", x=(0.01, 0.16), y=(0.1, 0.18), role="estimate")
    return replace(
        Scatter(id="s", caption="c", x_label="error", y_label="distance", points=points, line=line, log_x=True), **more
    )  # type: ignore[arg-type]


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("text")]


def test_every_cell_of_a_wide_matrix_says_its_number_and_its_line() -> None:
    said = texts(draw(matrix()))
    for row in matrix().cells:
        for cell in row:
            assert cell.value is None or (f"{cell.value:.0%}" in said and cell.line in said)
    assert "no <attack>" in said
    assert draw(matrix()) == draw(matrix())


@pytest.mark.parametrize("columns", [3, 8])
def test_a_narrow_matrix_has_whole_numbers_that_fit_their_cells(columns: int) -> None:
    said = texts(draw(matrix(columns), NARROW))
    numbers = [text for text in said if re.fullmatch(r"\d+%?", text)]
    assert len(numbers) == 4 * columns - 1
    drawn = figure(matrix(columns), NARROW)
    drawn.canvas.draw()
    axes = drawn.axes[0]
    width = axes.bbox.width / columns
    for text in axes.texts:
        if re.fullmatch(r"\d+%?", text.get_text()):
            assert text.get_window_extent().width <= width + 1


def test_a_matrix_that_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ValueError, match="needs 3 cells"):
        replace(matrix(), cells=matrix().cells[:3])
    with pytest.raises(ValueError, match="not finite"):
        Cell(value=float("nan"))


def test_colours_of_cells_do_not_turn_with_the_page() -> None:
    fills = re.findall(r"fill: ([^;\"]+)", draw(matrix()))
    assert sum(fill.startswith("#") for fill in fills) >= 11


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_a_scatter_names_every_point_and_names_do_not_overlap(width: int) -> None:
    drawn = figure(scatter(), width)
    drawn.canvas.draw()
    named = [text for text in drawn.axes[0].texts if text.get_text().startswith("model")]
    assert len(named) == 5
    boxes = [text.get_window_extent() for text in named]
    for i, one in enumerate(boxes):
        assert not any(one.overlaps(other) for other in boxes[i + 1 :])


def test_boxes_overlap_as_rectangles_do() -> None:
    assert _overlap((0, 0, 2, 2), (1, 1, 3, 3))
    assert not _overlap((0, 0, 2, 2), (2, 0, 3, 2))
    assert _box(10, 10, 20, 1, 0)[0] > 10 > _box(10, 10, 20, -1, 0)[2]


def test_a_point_without_error_is_left_out_of_a_logarithmic_figure_and_stays_in_the_table() -> None:
    points = (*scatter().points, Point(label="perfect", x=0.0, y=0.3))
    chart = scatter(points=points)
    assert "perfect" not in texts(draw(chart))
    page = render(report(chart), "html")
    assert '<th scope="row">perfect</th>' in page


def report(chart: Matrix | Scatter) -> Report:
    section = Section(
        id="s",
        title="t",
        sentence="Said.",
        matrices=(chart,) if isinstance(chart, Matrix) else (),
        scatters=(chart,) if isinstance(chart, Scatter) else (),
    )
    return Report(title="t", model="m", data="d", created="2026-01-01T00:00:00+00:00", sections=(section,))


@pytest.mark.parametrize("chart", [matrix(), scatter()], ids=["matrix", "scatter"])
def test_a_page_shows_it_says_it_and_lists_its_numbers(chart: Matrix | Scatter, tmp_path) -> None:  # type: ignore[no-untyped-def]
    page = render(report(chart), "html")
    assert page.count("<svg viewBox") == 2
    assert describe(chart).split(";")[0].replace("<", "&lt;") in page
    assert "Numbers of Figure 1" in page
    save(report(chart), tmp_path / "r.json")
    assert read(tmp_path / "r.json") == report(chart)
