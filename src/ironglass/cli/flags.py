"""The flags that verbs share, in groups, and a command that shows them so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ironglass.cli.guards import GUARD
from ironglass.cli.kinds import DURATION, NUMBER, Many
from ironglass.cli.screen import Screen
from ironglass.core.catalogue import LADDER

FILE: click.Path = click.Path(path_type=Path)
GROUPS = ("Audit", "Threat", "Filters", "Model and data", "Run", "Output")
"""The groups of a help page in their order; what else there is comes first."""


class Flag(click.Option):
    """An option that belongs to a group of the help page."""

    def __init__(self, *names: str, group: str, **more: Any) -> None:
        super().__init__(names, **({"show_default": True} | more))
        self.group = group


class Verb(click.Command):
    """A command whose help page has its options in groups."""

    def __init__(self, name: str | None, *, params: Sequence[click.Parameter] = (), **more: Any) -> None:
        super().__init__(name, params=[*params, *SAYING], **more)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the verb, whose results alone go to stdout."""
        with ctx.ensure_object(Screen).alone_on_stdout():
            return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the options, a section a group."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                groups.setdefault(getattr(param, "group", "Output"), []).append(record)
        for group in sorted(groups, key=lambda name: GROUPS.index(name) if name in GROUPS else -1):
            with formatter.section(group):
                formatter.write_dl(groups[group])


def _say(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        setattr(ctx.ensure_object(Screen), str(param.name), True)


def _saying(names: tuple[str, ...], text: str) -> Flag:
    return Flag(
        *names, group="Output", is_flag=True, is_eager=True, expose_value=False, callback=_say, help=text,
        show_default=False,
    )  # fmt: skip


SAYING = (
    _saying(("--json",), "Print one JSON value on stdout instead of text."),
    _saying(("--quiet", "-q"), "No progress; errors, warnings and results only."),
    _saying(("--no-color", "plain"), "No colours; so does the variable NO_COLOR."),
    _saying(("--debug",), "Show the traceback of an error."),
)

RUNNING = (
    Flag(
        "--samples",
        group="Run",
        metavar="N",
        type=click.IntRange(1),
        help="Use this many of the samples.",
        show_default=False,
    ),
    Flag("--seed", group="Run", metavar="N", type=click.IntRange(0), help="Of every random draw; 0 if not given."),
    Flag("--device", group="Run", default="auto", metavar="DEVICE", help="auto, cpu, cuda or cuda:0."),
    Flag(
        "--workers",
        group="Run",
        metavar="N",
        type=click.IntRange(1),
        help="Processes; the answer does not depend on it.",
    ),
    Flag("--time", group="Run", type=DURATION, metavar="TIME", help="Stop after 90s, 10m or 1h."),
    Flag("--config", group="Run", type=FILE, metavar="TOML", help="Options from the [audit] table of this file."),
    Flag("--dry-run", group="Run", is_flag=True, help="Print the plan and its expected cost, and stop."),
)

SUBJECT = (
    click.Argument(["model"], required=False),
    Flag("--data", group="Model and data", metavar="DATA", help="The samples and their labels, e.g. test.npz."),
    Flag("--weights", group="Model and data", type=FILE, metavar="FILE", help="Weights for the network MODEL makes."),
    Flag(
        "--bounds", group="Model and data", type=Many(NUMBER, 2), metavar="LOW,HIGH",
        help="The range of every input value, in your units; 0,1 if not given.",
    ),
    Flag(
        "--mean", group="Model and data", type=Many(NUMBER), metavar="M,…",
        help="Subtracted inside the model: one number, or one a channel.",
    ),
    Flag(
        "--std", group="Model and data", type=Many(NUMBER), metavar="S,…",
        help="Divided by inside the model: one number, or one a channel.",
    ),
    Flag(
        "--defence", group="Model and data", type=GUARD, multiple=True, metavar="NAME[:OPTION=VALUE]…",
        help="Put a defence before the model, e.g. feature_squeezing:bits=3; inputs go through the first one first. "
        "In bench, each is one more model: the first behind it.",
    ),
    Flag("--labels", group="Model and data", type=FILE, metavar="FILE", help="Class names, one a line."),
    Flag("--classes", group="Model and data", metavar="N", type=click.IntRange(2), help="For models that give labels."),
    Flag(
        "--access", group="Model and data", type=click.Choice(LADDER),
        help="The most that methods may see of the model; all that it gives if not given.",
    ),
    Flag(
        "--max-queries", group="Model and data", metavar="N", type=click.IntRange(1),
        help="The most samples that may pass through the model for each sample examined.",
    ),
    Flag(
        "--trust-pickle", group="Model and data", is_flag=True,
        help="Unpickle weights; a pickle can run any code, so do it only to a file you made.",
    ),
)  # fmt: skip
