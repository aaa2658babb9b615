"""``report`` and ``diff``: audits that are on disk, drawn again and compared. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from ironglass.cli.flags import FILE, Flag, Verb
from ironglass.cli.kinds import Many
from ironglass.cli.screen import Screen, safe
from ironglass.cli.subject import folder
from ironglass.core.findings import read
from ironglass.report import FORMATS, compare, write

COLOURS = {"worse": "red", "better": "green", "changed": "yellow", "new": "cyan", "gone": "cyan", "note:": "yellow"}


def _report(file: Path, format: tuple[str, ...], output: Path | None) -> None:
    screen = click.get_current_context().ensure_object(Screen)
    report = read(file)
    paths = [str(path) for path in write(report, folder(output or file.parent), format)]
    screen.show({"files": paths}, map(safe, paths))


def _diff(old: Path, new: Path, fail_on: str) -> int:
    screen = click.get_current_context().ensure_object(Screen)
    difference = compare(read(old), read(new))
    data: dict[str, Any] = msgspec.to_builtins(difference)
    lines = difference.text().splitlines()
    screen.show(data, [screen.style(line, fg=COLOURS.get(line.partition(" ")[0])) for line in lines])
    return int(fail_on == "worse" and bool(difference.of("worse")))


VERBS = {
    "report": Verb(
        "report",
        callback=_report,
        help="Draw an audit again from its FILE, audit.json.",
        params=(
            click.Argument(["file"], type=FILE),
            Flag(
                "--format", group="Output", type=Many(click.Choice(list(FORMATS))), default="html", metavar="A,B",
                help=f"Some of {', '.join(FORMATS)}.",
            ),
            Flag("--output", "-o", group="Output", type=FILE, metavar="DIR", help="The folder; FILE's if not given."),
        ),
    ),
    "diff": Verb(
        "diff",
        callback=_diff,
        help="Compare two audits, OLD and NEW: what got better or worse by more than the intervals.",
        short_help="Compare two audits: what got better or worse.",
        params=(
            click.Argument(["old"], type=FILE),
            click.Argument(["new"], type=FILE),
            Flag(
                "--fail-on", group="Output", type=click.Choice(["worse", "never"]), default="never",
                help="Exit with 1 if something got worse.",
            ),
        ),
    ),
}  # fmt: skip
