"""What an audit says: findings, and the sections, figures and facts around them. Numbers and text only, no torch.

Everything here is JSON and back without loss, so a report can be drawn again from its file. JSON has no infinity and
no NaN, so every number here is finite, and what was not measured is ``None`` or is left out.
"""

from __future__ import annotations

import html
import importlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from .errors import InputError

Severity = Literal["ok", "info", "low", "medium", "high", "critical"]
SEVERITIES: tuple[Severity, ...] = ("ok", "info", "low", "medium", "high", "critical")
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One measured fact about the model, what it means and what to do.

    ``value`` lies in the interval ``[low, high]`` (95 %); ``verdict`` is one sentence that states the fact.
    ``section`` is the id of the section that shows it; ``rule`` names the check, stable over runs.
    ``unit`` is ``share`` for values in [0, 1] that are shown as percentages. ``better`` says which way the value
    improves, so that two reports can be compared; without it a comparison has the severity only.
    """

    rule: str
    severity: Severity
    verdict: str
    fix: str
    section: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    threshold: str = ""
    method: str = ""
    samples: int = 0
    better: Literal["", "higher", "lower"] = ""

    def __post_init__(self) -> None:
        _finite(f"finding {self.rule}", (number for number in (self.value, self.low, self.high) if number is not None))
        if self.value is not None and self.low is not None and self.high is not None:
            slack = 1e-9 * max(1.0, abs(self.value))
            if not self.low - slack <= self.value <= self.high + slack:
                raise ValueError(f"finding {self.rule}: {self.value} lies outside [{self.low}, {self.high}]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line of a curve: points, an optional 95 % band, and a role that fixes its dash and marker."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    role: Literal["attack", "control", "proof", "estimate", "clean"] = "attack"

    def __post_init__(self) -> None:
        _finite(f"series {self.label}", (*self.x, *self.y, *self.low, *self.high))
        if len(self.x) != len(self.y) or any(len(edge) not in (0, len(self.x)) for edge in (self.low, self.high)):
            lengths = [len(points) for points in (self.x, self.y, self.low, self.high)]
            raise ValueError(f"series {self.label}: x, y, low and high have lengths {lengths}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Lines over one axis. ``y`` is a share in [0, 1] unless ``y_unit`` says otherwise."""

    id: str
    caption: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    log_x: bool = False
    y_unit: str = "share"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """One row of stacked shares a label: for proven / open / broken, or class balance."""

    id: str
    caption: str
    labels: tuple[str, ...]
    parts: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        _finite(f"bars {self.id}", (value for row in self.values for value in row))
        if len(self.values) != len(self.labels) or any(len(row) != len(self.parts) for row in self.values):
            raise ValueError(f"bars {self.id}: every label needs one value for each of {len(self.parts)} parts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell of a matrix: a value in [0, 1], None where nothing was measured, and a short line beneath it."""

    value: float | None
    line: str = ""

    def __post_init__(self) -> None:
        _finite("a cell", (number for number in (self.value,) if number is not None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """A heat map of shares: rows under column heads, each cell its value and a line; a rule may set off last rows."""

    id: str
    caption: str
    row_label: str
    column_label: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]
    apart: int = 0

    def __post_init__(self) -> None:
        if len(self.cells) != len(self.rows) or any(len(row) != len(self.columns) for row in self.cells):
            raise ValueError(f"matrix {self.id}: every one of {len(self.rows)} rows needs {len(self.columns)} cells")


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One named point of a scatter, with the 95 % interval of its height; ``chosen`` sets it off from the others."""

    label: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    chosen: bool = False

    def __post_init__(self) -> None:
        numbers = (self.x, self.y, self.low, self.high)
        _finite(f"point {self.label}", (number for number in numbers if number is not None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scatter:
    """Named points over one axis, and a line through them where one was fitted; ``y`` has the unit ``y_unit``."""

    id: str
    caption: str
    x_label: str
    y_label: str
    points: tuple[Point, ...]
    line: Series | None = None
    log_x: bool = False
    x_unit: str = "share"
    y_unit: str = ""


Chart = Curve | Bars | Matrix | Scatter
"""What is drawn of numbers; pictures are a gallery's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One embedded picture: a ``data:`` address, its text equivalent and a line beneath."""

    data: str
    alt: str
    line: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """Rows of pictures under column heads. Maps share one scale: ``scale`` states it, ``colormap`` draws its legend."""

    id: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Picture, ...], ...]
    row_heads: tuple[str, ...] = ()
    scale: str = ""
    colormap: Literal["", "coolwarm", "cividis", "inferno"] = ""

    def __post_init__(self) -> None:
        if len(self.row_heads) not in (0, len(self.rows)):
            raise ValueError(f"gallery {self.id}: {len(self.row_heads)} row heads for {len(self.rows)} rows")
        if self.columns and any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"gallery {self.id}: every row needs {len(self.columns)} pictures")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of text cells; the first column heads its row."""

    id: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"table {self.id}: every row needs {len(self.columns)} cells")


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One section of the report: a question, the sentence that answers it, and what shows it."""

    id: str
    title: str
    sentence: str
    curves: tuple[Curve, ...] = ()
    bars: tuple[Bars, ...] = ()
    matrices: tuple[Matrix, ...] = ()
    scatters: tuple[Scatter, ...] = ()
    galleries: tuple[Gallery, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """Something that was not done, or failed, and why."""

    what: str
    why: str
    failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A whole audit: findings worst first, sections in reading order, limits, and how to reproduce it.

    ``status`` is ``complete``, ``partial`` (a budget or an interrupt stopped it) or ``failed`` (a method failed).
    """

    title: str
    model: str
    data: str
    created: str
    status: Literal["complete", "partial", "failed"] = "complete"
    facts: tuple[tuple[str, str], ...] = ()
    findings: tuple[Finding, ...] = ()
    sections: tuple[Section, ...] = ()
    limits: tuple[Limit, ...] = ()
    reproduce: tuple[tuple[str, str], ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    format: int = FORMAT

    def __post_init__(self) -> None:
        _finite("metrics", self.metrics.values())

    @property
    def worst(self) -> Severity:
        """The highest severity among the findings; ``ok`` where there is none."""
        return max((finding.severity for finding in self.findings), key=SEVERITIES.index, default="ok")

    def save(self, path: str | Path) -> None:
        """Writes the report: ``.html``, ``.json``, ``.md``, ``.sarif`` or ``.xml`` (JUnit), by the ending."""
        importlib.import_module("ironglass.report").save(
            self, Path(path)
        )  # drawing stands above, and is found when called

    def _repr_html_(self) -> str:
        """Shows the whole page in a notebook, in a frame of its own."""
        page = html.escape(importlib.import_module("ironglass.report").render(self, "html"), quote=True)
        return (
            f'<iframe title="Ironglass report" srcdoc="{page}" style="width: 100%; height: 40em; border: 0"></iframe>'
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns plain dicts, lists, strings and numbers."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain

    def to_json(self) -> str:
        """Returns the report as indented JSON; what UTF-8 cannot hold, as in some file names, is escaped."""
        return msgspec.json.format(msgspec.json.encode(_utf8(self.to_dict())), indent=1).decode()


def _finite(where: str, numbers: Iterable[float]) -> None:
    """Raises ValueError on the first number that JSON cannot hold."""
    for number in numbers:
        if not math.isfinite(number):
            raise ValueError(f"{where}: {number} is not finite; leave it out, or give None where that is allowed")


def _utf8(value: Any) -> Any:
    """Returns plain data whose strings hold no lone surrogates."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_utf8(key): _utf8(item) for key, item in value.items()}
    return [_utf8(item) for item in value] if isinstance(value, (list, tuple)) else value


def read(path: Path) -> Report:
    """Reads a report's JSON.

    Raises:
        InputError: if the file is missing, is not such a report, or is of another format.
    """
    try:
        report = msgspec.json.decode(path.read_bytes(), type=Report)
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror}", "give the .json file that `ironglass audit` wrote"
        ) from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is not an Ironglass report: {error}", "give the .json file that `ironglass audit` wrote"
        ) from error
    if report.format != FORMAT:
        raise InputError(f"{path} has report format {report.format}, this version reads {FORMAT}", "audit again")
    return report
