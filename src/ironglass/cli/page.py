"""A study as a report: its figures, its tables, and what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import torch

from ironglass._version import __version__
from ironglass.audit.pictures import drawable, heat, photo
from ironglass.cli.show import readable
from ironglass.core.catalogue import Card
from ironglass.core.diagnosis import Study
from ironglass.core.findings import Bars, Curve, Finding, Gallery, Limit, Matrix, Report, Scatter, Section
from ironglass.core.values import Bounds

SHOWN = 6
UPPER = Limit(
    what="Other attacks",
    why="an accuracy under attack, or a distance found by one, is an upper bound: a stronger attack can only lower it",
)


def report_of(card: Card, result: Study, models: str, data: str, command: str, ids: Sequence[str] = ()) -> Report:
    """Returns a study as a report.

    Args:
        card: of the study.
        result: what came of it.
        models: their names; empty for an experiment.
        data: its name.
        command: the line that was typed.
        ids: names of the samples.
    """
    charts = result.charts()
    section = Section(
        id=card.name,
        title=card.title,
        sentence=readable(card.summary),
        matrices=tuple(chart for chart in charts if isinstance(chart, Matrix)),
        curves=tuple(chart for chart in charts if isinstance(chart, Curve)),
        scatters=tuple(chart for chart in charts if isinstance(chart, Scatter)),
        bars=tuple(chart for chart in charts if isinstance(chart, Bars)),
        galleries=_gallery(result, ids),
        tables=result.tables(),
    )
    findings = tuple(
        Finding(rule=f"{card.name}-{i}", severity="info", verdict=note, fix="", section=card.name, method=card.name)
        for i, note in enumerate(result.notes, 1)
    )
    return Report(
        title=card.title,
        model=models or "no model",
        data=data or "no data",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        facts=(
            ("Paper", card.paper),
            *((("Threat", str(result.threat)),) if result.threat is not None else ()),
            *((("Samples", str(len(result))),) if models else ()),
            ("Passes", f"{result.cost.forward:,} forward, {result.cost.backward:,} backward"),
        ),
        findings=findings,
        sections=(section,),
        limits=(UPPER,) if result.threat is not None else (),
        reproduce=(
            ("Command", command),
            *((name, str(value)) for name, value in result.options.items()),
            ("Versions", f"Ironglass {__version__}, PyTorch {torch.__version__}"),
        ),
    )


def _gallery(result: Study, ids: Sequence[str]) -> tuple[Gallery, ...]:
    """Returns the study's maps beside their samples, where it has some and they are pictures."""
    maps = result.maps()
    if not maps or not drawable(result.x):
        return ()
    bounds = Bounds(min(0.0, float(result.x.min())), max(1.0, float(result.x.max())))
    count = min(SHOWN, len(result))
    names = [ids[row] if row < len(ids) else f"sample {row}" for row in range(count)]
    rows = tuple(
        (
            photo(result.x[row], bounds, alt=f"The input {names[row]}"),
            *(heat(each.values[row], alt=f"{each.method}, {names[row]}", signed=False) for each in maps),
        )
        for row in range(count)
    )
    return (
        Gallery(
            id=f"{result.method}-maps",
            caption="Each input beside the map of each model",
            columns=("Input", *(each.method for each in maps)),
            rows=rows,
            row_heads=tuple(names),
            scale="each map's own: nothing to most",
            colormap="inferno",
        ),
    )
