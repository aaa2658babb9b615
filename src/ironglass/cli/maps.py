"""Maps as a page: inputs beside what speaks for and against the class."""

from __future__ import annotations

from datetime import UTC, datetime

import torch

from ironglass._version import __version__
from ironglass.audit.pictures import drawable, heat, photo
from ironglass.cli.show import readable
from ironglass.cli.subject import Subject
from ironglass.cli.summary import place, strongest
from ironglass.core.catalogue import find
from ironglass.core.findings import Finding, Gallery, Limit, Picture, Report, Section, Table
from ironglass.core.results import Attribution
from ironglass.report import render

LISTED = 8


def page(result: Attribution, case: Subject, command: str) -> str:
    """Returns the maps as one self-contained HTML page: pictures where the inputs are pictures, else a table.

    Args:
        result: what to show.
        case: the model and the samples that were explained.
        command: the line that was typed.
    """
    card = find(result.method)
    signed = bool((result.values < 0).any())
    names = [result.explained(row, case.model.name_of) for row in range(len(result))]
    pictured = drawable(result.x) and result.values.ndim >= (3 if result.at is None else 4)
    section = Section(
        id="maps",
        title="What does it look at?",
        sentence=readable(card.summary),
        galleries=(_gallery(result, case, names, signed),) if pictured else (),
        tables=() if pictured else (_table(result, case, names),),
    )
    return render(
        Report(
            title=f"{card.title}: {case.model.name}",
            model=case.model.name,
            data=case.data.name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            findings=(
                Finding(
                    rule="maps",
                    severity="info",
                    verdict=f"{len(result)} decisions are mapped by {card.title}",
                    fix="Let `ironglass audit` test whether such maps can be believed.",
                    section="maps",
                    method=card.name,
                    samples=len(result),
                ),
            ),
            limits=(Limit(what="Whether the maps can be believed", why="it was not tested; `ironglass audit` does"),),
            facts=(("Method", f"{card.title} ({card.paper})"), ("Samples", str(len(result)))),
            sections=(section,),
            reproduce=(
                ("Command", command),
                *((name, str(value)) for name, value in result.options.items()),
                ("Versions", f"Ironglass {__version__}, PyTorch {torch.__version__}"),
            ),
        ),
        "html",
    )


def _gallery(result: Attribution, case: Subject, names: list[str], signed: bool) -> Gallery:
    rows: list[tuple[Picture, ...]] = []
    for x, values, name, sample in zip(result.x, result.values, names, case.data.ids, strict=True):
        best = ", ".join(f"{place(at)} {value:+.3g}" for at, value in strongest(values))
        seen = photo(x, case.model.bounds, alt=f"The input {sample}")
        rows.append((seen, heat(values, alt=f"The map of {sample} for {name}; strongest at {best}", signed=signed)))
    return Gallery(
        id="maps",
        caption="Each input beside its map; channels are summed.",
        columns=("Input", "Map"),
        rows=tuple(rows),
        row_heads=tuple(f"{sample}: {name}" for sample, name in zip(case.data.ids, names, strict=True)),
        scale="each map's own: against, nothing, for" if signed else "each map's own: nothing to most",
        colormap="coolwarm" if signed else "inferno",
    )


def _table(result: Attribution, case: Subject, names: list[str]) -> Table:
    rows = [
        (sample, name, ", ".join(f"{place(at)} {value:+.3g}" for at, value in strongest(values, LISTED)))
        for sample, name, values in zip(case.data.ids, names, result.values, strict=True)
    ]
    return Table(
        id="maps", caption="The values that weigh most.", columns=("Sample", "Class", "Values"), rows=tuple(rows)
    )
