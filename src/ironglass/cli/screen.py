"""What is said and where: results to stdout; progress, warnings and errors to stderr."""

from __future__ import annotations

import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO

import click

from ironglass.core.errors import IronglassError, IronglassWarning

INTERRUPTED = 130
Tick = Callable[[str, int, int], None]


class Screen:
    """One run's voice; the flags of `flags.SAYING` set it. ``command`` is the line that was typed."""

    def __init__(self) -> None:
        self.json = self.quiet = self.debug = False
        self.plain = bool(os.environ.get("NO_COLOR"))
        self.command = "ironglass"
        self._out = sys.stdout
        self._said: set[str] = set()

    def show(self, data: Any, lines: Iterable[str]) -> None:
        """Prints a result: its data as one JSON value if that was asked for, else its lines."""
        if self.json:
            click.echo(json.dumps(_finite(data), indent=1, allow_nan=False), self._out)
            return
        for line in lines:
            click.echo(line, self._out, color=self._color)

    @contextmanager
    def alone_on_stdout(self) -> Iterator[None]:
        """Sends to stderr what others print, such as a user's own file: stdout is for results."""
        with redirect_stdout(sys.stderr):
            yield

    def note(self, line: str) -> None:
        """Prints a line about how it goes, unless quiet was asked for."""
        if not self.quiet:
            click.echo(safe(line), err=True, color=self._color)

    def error(self, error: IronglassError) -> None:
        """Prints what is wrong, and the fix."""
        click.echo(self.style("ironglass: ", fg="red") + safe(error.message), err=True, color=self._color)
        if error.fix:
            click.echo(f"  Fix: {safe(error.fix)}", err=True, color=self._color)

    def style(self, text: str, **look: Any) -> str:
        """Returns the text in colour; where the stream is no terminal, the colour is dropped on the way out."""
        return text if self.plain else click.style(text, **look)

    @property
    def _color(self) -> bool | None:
        return False if self.plain else None

    @contextmanager
    def hears_warnings(self) -> Iterator[None]:
        """Our warnings become one clean line each, said once; others stay as Python prints them."""
        with warnings.catch_warnings():
            warnings.simplefilter("always", IronglassWarning)
            show = warnings.showwarning

            def say(
                message: Warning | str,
                category: type[Warning],
                filename: str,
                lineno: int,
                file: TextIO | None = None,
                line: str | None = None,
            ) -> None:
                if not issubclass(category, IronglassWarning):
                    show(message, category, filename, lineno, file, line)
                elif str(message) not in self._said:
                    self._said.add(str(message))
                    label = self.style("ironglass: warning: ", fg="yellow")
                    click.echo(label + safe(str(message)), err=True, color=self._color)

            warnings.showwarning = say
            yield

    @contextmanager
    def progress(self) -> Iterator[Tick]:
        """Yields what is told ``(method, samples done, samples in all)``: a bar on a terminal, else plain lines."""
        if self.quiet:
            yield lambda name, done, total: None
        elif not sys.stderr.isatty():
            yield lambda name, done, total: self.note(f"[{done}/{total}] {name}")
        else:
            from rich.console import Console
            from rich.markup import escape
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
            with Progress(*columns, console=Console(stderr=True, no_color=self.plain), transient=True) as bars:
                task = bars.add_task("", total=None)
                yield lambda name, done, total: bars.update(
                    task, description=escape(safe(name)), completed=done, total=total
                )


def safe(text: str) -> str:
    """Returns the text on one line, with every character written out that could steer a terminal."""
    from ironglass.report.text import one_line

    return one_line(text)


def _finite(value: Any) -> Any:
    """Returns data with None for every number that JSON cannot hold."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
