"""A report as one self-contained HTML page: no script, nothing fetched, readable by ear, in the dark and on paper."""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup
from PIL import Image, UnidentifiedImageError

from ironglass._version import __version__
from ironglass.core.errors import InputError
from ironglass.core.findings import Bars, Chart, Curve, Finding, Gallery, Matrix, Picture, Report, Scatter, Section

from . import matrix, scatter
from .canvas import NARROW, WIDE
from .figures import DRAWN_ROWS, describe, draw, gradient
from .palette import DARK, LIGHT, variables
from .text import NONE, SHARE, counts, interval, number, visible, worst_first

HERE = Path(__file__).parent
WORDS = {"critical": "Critical", "high": "High", "medium": "Medium", "low": "Low", "info": "Info", "ok": "OK"}
NOTICES = {
    "complete": "",
    "partial": "This audit is partial: a budget or an interrupt stopped it. Limits says what is missing.",
    "failed": "A method failed during this audit. Limits says which, and why.",
}
_EMBEDDED = re.compile(r"data:image/(?:png|jpeg|webp|gif);base64,([A-Za-z0-9+/]+={0,2})")
_NUMBER = re.compile(
    r"[-+−±<>≤≥~]?\s?\d[\d.,]*(e[-+]?\d+)?(\s?to\s?-?\d[\d.,]*)?\s?(%|[a-zA-Zµ]{1,4})?(\s?\(.*\))?|[-–—∞]|"
)


@dataclass(frozen=True, slots=True)
class Row:
    """A finding in the page: its number, its anchor, and the anchor of the section that shows it."""

    finding: Finding
    number: int
    section: str

    @property
    def anchor(self) -> str:
        """The id of the finding's row."""
        return f"finding-{self.number}"

    @property
    def origin(self) -> str:
        """Where the number comes from: number, rule, method, samples."""
        samples = f"{self.finding.samples:,} samples" if self.finding.samples else ""
        return " · ".join(part for part in (f"{self.number}", self.finding.rule, self.finding.method, samples) if part)

    @property
    def range(self) -> tuple[float, float, float] | None:
        """Low, value and high as percentages, for a share that has an interval."""
        ends = (self.finding.low, self.finding.value, self.finding.high)
        if self.finding.unit != SHARE or any(end is None or not 0 <= end <= 1 for end in ends):
            return None
        low, value, high = (round(100 * (end or 0.0), 1) for end in ends)
        return low, value, high


def page(report: Report) -> str:
    """Returns the report as an HTML page; the same report gives the same bytes.

    Raises:
        InputError: if a picture is not an embedded PNG, JPEG, WebP or GIF.
    """
    anchors = _anchors([section.id for section in report.sections])
    by_id = {section.id: anchor for section, anchor in zip(report.sections, anchors, strict=True)}
    rows = [
        Row(finding, number, by_id.get(finding.section, ""))
        for number, finding in enumerate(worst_first(report), start=1)
    ]
    numbers = {"Figure": 0, "Table": 0}
    sections = [
        {
            "anchor": anchor,
            "title": section.title,
            "sentence": section.sentence,
            "findings": [row for row in rows if row.section == anchor],
            "blocks": _blocks(section, numbers),
        }
        for section, anchor in zip(report.sections, anchors, strict=True)
    ]
    metrics = [(name, number(value)) for name, value in sorted(report.metrics.items())]
    return _template().render(
        report=report,
        version=__version__,
        title=visible(report.title).strip() or f"Audit of {report.model}",
        css=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        light=Markup(variables(LIGHT)),
        dark=Markup(variables(DARK)),
        words=WORDS,
        counts=counts(report),
        notice=NOTICES[report.status],
        facts=[("Data", report.data), ("Date", report.created), *report.facts],
        findings=rows,
        sections=sections,
        limits=sorted(report.limits, key=lambda limit: not limit.failed),
        metrics=_table(("Metric", "Value"), metrics) if metrics else None,
    )


@cache
def _template() -> Template:
    """Returns the compiled template, which escapes all that it is given and shows what is hidden in it."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else visible(str(value)),
    )
    environment.filters.update(number=number, interval=interval)
    return environment.get_template("template.html.j2")


def _anchors(ids: Iterable[str]) -> list[str]:
    """Returns a readable fragment for each id, all different from each other and from the page's own."""
    taken = {"findings", "limits", "reproduce"}
    anchors = []
    for name in ids:
        stem = "about-" + (re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "section")
        anchor, again = stem, 1
        while anchor in taken:
            again += 1
            anchor = f"{stem}-{again}"
        taken |= {anchor, f"{anchor}-title"}
        anchors.append(anchor)
    return anchors


def _blocks(section: Section, numbers: dict[str, int]) -> list[dict[str, Any]]:
    """Returns what shows a section, each under its number: charts, galleries, tables."""

    def name(what: str) -> str:
        numbers[what] += 1
        return f"{what} {numbers[what]}"

    drawn: tuple[Chart, ...] = (*section.matrices, *section.curves, *section.scatters, *section.bars)
    charts = [_chart(chart, name("Figure")) for chart in drawn]
    galleries = [_gallery(gallery, name("Figure")) for gallery in section.galleries]
    tables = [
        {
            "kind": "table",
            "name": name("Table"),
            "caption": table.caption,
            "table": _table(table.columns, table.rows),
        }
        for table in section.tables
    ]
    return [*charts, *galleries, *tables]


def _chart(chart: Chart, name: str) -> dict[str, Any]:
    prefix = name.lower().replace(" ", "-")
    many = isinstance(chart, Bars) and len(chart.labels) > DRAWN_ROWS
    return {
        "kind": "chart",
        "name": name,
        "caption": chart.caption,
        "note": f"The first {DRAWN_ROWS} are drawn, all are in the table." if many else "",
        "alt": describe(chart),
        "wide": Markup(draw(chart, WIDE, prefix)),
        "narrow": Markup(draw(chart, NARROW, prefix)),
        "table": _numbers(chart),
    }


def _numbers(chart: Chart) -> dict[str, Any]:
    """Returns the table of what a chart draws."""
    if isinstance(chart, Matrix):
        return _table(*matrix.table(chart))
    if isinstance(chart, Scatter):
        return _table(*scatter.table(chart))
    return _points(chart) if isinstance(chart, Curve) else _shares(chart)


def _points(curve: Curve) -> dict[str, Any]:
    """Returns the table of a curve: one row for each x, one column for each line, with its interval."""
    lines = []
    for line in curve.series:
        bands = [f" ({interval(low, high, curve.y_unit)})" for low, high in zip(line.low, line.high, strict=False)] or [
            ""
        ] * len(line.x)
        lines.append({x: number(y, curve.y_unit) + band for x, y, band in zip(line.x, line.y, bands, strict=True)})
    xs = sorted({x for line in curve.series for x in line.x})
    heads = [line.label + (" (95% interval)" if line.low and line.high else "") for line in curve.series]
    return _table((curve.x_label, *heads), [(number(x), *(line.get(x, NONE) for line in lines)) for x in xs])


def _shares(bars: Bars) -> dict[str, Any]:
    rows = zip(bars.labels, bars.values, strict=True)
    return _table(("", *bars.parts), [(label, *(number(value, SHARE) for value in values)) for label, values in rows])


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Returns a table's cells, and which columns hold nothing but numbers and so are set flush right."""
    numeric = [
        bool(rows) and all(_NUMBER.fullmatch(row[index].strip()) for row in rows if index < len(row))
        for index in range(len(columns))
    ]
    return {"columns": columns, "rows": rows, "numeric": [False, *numeric[1:]] if numeric else []}


def _gallery(gallery: Gallery, name: str) -> dict[str, Any]:
    return {
        "kind": "gallery",
        "name": name,
        "caption": gallery.caption,
        "columns": gallery.columns,
        "row_heads": gallery.row_heads,
        "rows": [[_picture(picture) for picture in row] for row in gallery.rows],
        "scale": gallery.scale,
        "gradient": Markup(gradient(gallery.colormap)) if gallery.colormap else "",
    }


def _picture(picture: Picture) -> dict[str, Any]:
    """Returns a picture with its size, and whether it is shown as a photo, as pixels, or is long.

    Raises:
        InputError: if it is not an embedded picture, so that a page can never fetch one.
    """
    match = _EMBEDDED.fullmatch(picture.data)
    if match is None:
        raise InputError(
            f"a picture's data begins with {picture.data[:40]!r}, expected data:image/png;base64,…",
            "embed the picture as a PNG, JPEG, WebP or GIF data address",
        )
    try:
        with Image.open(io.BytesIO(base64.b64decode(match[1]))) as image:
            width, height = image.size
    except (UnidentifiedImageError, binascii.Error, OSError) as error:
        raise InputError(f"a picture cannot be read: {error}", "embed it again") from error
    kind = "long" if width > 2 * height else "pixels" if max(width, height) < 96 else "photo"
    return {**asdict(picture), "width": width, "height": height, "kind": kind}
