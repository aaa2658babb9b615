"""Reports: one :class:`~ironglass.core.findings.Report` as a page, JSON, Markdown, SARIF, JUnit or a model card."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from ironglass.core.errors import InputError, suggest
from ironglass.core.findings import Report

from .diff import Change, Difference, compare

__all__ = ["FORMATS", "Change", "Difference", "compare", "render", "save", "write"]


def _html(report: Report) -> str:
    from .html import page  # matplotlib and jinja2 load only where a page is drawn

    return page(report)


def _markdown(report: Report) -> str:
    from .markdown import summary

    return summary(report)


def _sarif(report: Report) -> str:
    from .sarif import sarif

    return sarif(report)


def _junit(report: Report) -> str:
    from .junit import junit

    return junit(report)


def _card(report: Report) -> str:
    from .card import card

    return card(report)


FORMATS: dict[str, tuple[str, Callable[[Report], str]]] = {
    "html": ("audit.html", _html),
    "json": ("audit.json", Report.to_json),
    "md": ("audit.md", _markdown),
    "sarif": ("audit.sarif", _sarif),
    "junit": ("audit.junit.xml", _junit),
    "card": ("model-card.md", _card),
}
"""Each format's file name and writer."""


def render(report: Report, format: str) -> str:
    """Returns the report in one of :data:`FORMATS`; the same report gives the same text.

    Raises:
        InputError: if there is no such format.
    """
    if format not in FORMATS:
        raise InputError(f"there is no report format {format!r}", suggest(format, FORMATS))
    return FORMATS[format][1](report)


def save(report: Report, path: Path) -> None:
    """Writes the report to one file, in the format of its ending.

    Raises:
        InputError: if no format has that ending.
    """
    endings = {".html": "html", ".json": "json", ".md": "md", ".sarif": "sarif", ".xml": "junit"}
    if path.suffix not in endings:
        raise InputError(f"no report format ends in '{path.suffix}'", "end the name in " + ", ".join(endings))
    path.write_text(render(report, endings[path.suffix]), encoding="utf-8", newline="\n")


def write(report: Report, folder: Path, formats: Iterable[str] = ("html", "json")) -> list[Path]:
    """Writes the report into a folder, which is made where it is missing, and returns the files.

    Raises:
        InputError: if there is no such format, before anything is written, or if the folder cannot be written to.
    """
    texts = {format: render(report, format) for format in formats}
    paths = [Path(folder) / FORMATS[format][0] for format in texts]
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for path, text in zip(paths, texts.values(), strict=True):
            path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise InputError(f"cannot write the report to {folder}: {error.strerror}", "give another folder") from error
    return paths
