"""``bench``: several models side by side, and experiments without one: a command an entry, built from its card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from ironglass.cli.flags import FILE, RUNNING, SUBJECT, Flag, Verb
from ironglass.cli.methods import Methods, option_flags, options_given, threat_flags
from ironglass.cli.screen import Screen, safe
from ironglass.cli.show import readable
from ironglass.cli.subject import configured, load, others, writable
from ironglass.core.catalogue import Card
from ironglass.core.config import Config
from ironglass.core.errors import InputError

if TYPE_CHECKING:
    from ironglass.core.diagnosis import Study
    from ironglass.core.findings import Table
    from ironglass.core.values import Norm, Threat

PAGES = (".html", ".json", ".md")
LEFT_OUT = ("--workers", "--time", "--max-queries")
"""Flags of other verbs that a study, which sees all samples at once, has no use for."""
WRITING = (
    Flag("--output", "-o", group="Output", type=FILE, metavar="FILE", help=f"A report: ends in {', '.join(PAGES)}."),
    Flag(
        "--save",
        group="Output",
        type=FILE,
        metavar="FILE.safetensors",
        help="Save the result; `ironglass.load` reads it.",
    ),
)


class Bench(Methods):
    """The verb whose subcommands take models, any number of them, or none."""

    def __init__(self) -> None:
        kinds = ("study", "experiment")
        super().__init__("bench", threat_flags, _unused, "Set models, attacks and defences side by side.", kinds)

    def _command(self, card: Card) -> Verb:
        running = [flag for flag in RUNNING if not set(flag.opts) & set(LEFT_OUT)]
        if card.decorator == "experiment":
            flags = [flag for flag in running if {"--seed", "--config", "--dry-run"} & set(flag.opts)]
            arguments: list[click.Parameter] = []
        else:
            subject = [flag for flag in SUBJECT[1:] if not set(flag.opts) & set(LEFT_OUT)]
            flags = cast("list[Flag]", [*subject, *(threat_flags(card) if card.norms else ()), *running])
            arguments = [click.Argument(["models"], nargs=-1)]
        taken = {str(flag.name) for flag in flags}
        return Verb(
            card.name,
            params=[*arguments, *option_flags(card, taken), *flags, *WRITING],
            help=f"{card.title}. {readable(card.summary)}",
            short_help=card.title,
            epilog=f"`ironglass show {card.name}` says what it does and costs.",
            callback=partial(_run, card),
        )


def _unused(*_: object) -> int:
    raise AssertionError("a bench entry runs by itself")


def _run(card: Card, **flags: Any) -> int:
    context = click.get_current_context()
    screen = context.ensure_object(Screen)
    for name, endings in (("output", PAGES), ("save", (".safetensors",))):
        if flags[name] is not None:
            writable(flags[name], endings)
    config = configured(flags)
    options = _with_attacks(card, options_given(card, config, flags, context), config)
    if card.decorator == "experiment":
        return _finish(screen, card, _experiment(card, options), "", "", flags) if not flags["dry_run"] else 0
    specs = flags.pop("models")
    flags["model"] = specs[0] if specs else None
    guards, flags["defence"] = flags["defence"], ()
    case = load(flags, config)
    models = others(flags, specs[1:], guards, case)
    if flags["dry_run"]:
        passes = card.passes(case.model.classes, options)
        total = passes * len(case.data) * len(models)
        said = (
            f"{card.name} on {len(models)} models: about {passes:,.6g} passes a sample and model, {total:,.6g} in all"
        )
        screen.show({"method": card.name, "models": list(models), "passes": total}, [safe(said)])
        return 0
    from ironglass.core.method import get
    from ironglass.run import run_study

    result = run_study(get(card.name), models, case.data.x, case.data.y, _threat(card, flags, config), **options)
    return _finish(screen, card, result, ", ".join(models), case.data.name, flags, case.data.ids)


def _experiment(card: Card, options: Mapping[str, Any]) -> Study:
    from ironglass.core.method import get
    from ironglass.run import run_experiment

    return run_experiment(get(card.name), **options)


def _with_attacks(card: Card, options: dict[str, Any], config: Config) -> dict[str, Any]:
    """Returns the options with the attacks that they name as the configuration file sets them."""
    named = [option.name for option in card.options if "Method[" in option.type]
    if not named:
        return options
    from ironglass.core.method import get

    def method(name: str) -> Any:
        return get(name, "attack").with_(**config.options[name]) if name in config.options else name

    for name in named:
        value = options[name]
        options[name] = method(value) if isinstance(value, str) else tuple(map(method, value))
    return options


def _threat(card: Card, flags: Mapping[str, Any], config: Config) -> Threat | None:
    if not card.norms:
        return None
    from ironglass.core.values import Threat

    if config.eps is None:
        raise InputError(f"{card.name} needs a radius", "give --eps in input units, e.g. --eps 8/255")
    norm = flags["norm"] or (config.norm if config.norm in card.norms else card.norms[0])
    return Threat(cast("Norm", norm), config.eps)


def _finish(
    screen: Screen, card: Card, result: Study, models: str, data: str, flags: Mapping[str, Any], ids: Any = ()
) -> int:
    """Writes what was asked for, and prints the tables and what they mean."""
    if flags["save"] is not None:
        result.save(flags["save"])
    path: Path | None = flags["output"]
    if path is not None:
        from ironglass.cli.page import report_of
        from ironglass.report import save

        save(report_of(card, result, models, data, screen.command, ids), path)
    written = [str(each) for each in (flags["output"], flags["save"]) if each is not None]
    screen.show(_figures(result, models, data, written), _lines(screen, card, result, models, data, written))
    return 0


def _figures(result: Study, models: str, data: str, written: list[str]) -> dict[str, Any]:
    """Returns the study as data."""
    return {
        "method": result.method,
        "models": models.split(", ") if models else [],
        "data": data,
        "threat": None if result.threat is None else {"norm": result.threat.norm, "eps": result.threat.eps},
        "samples": len(result),
        "rows": list(result.row_names),
        "columns": list(result.column_names),
        **{name: getattr(result, name).tolist() for name in ("values", "low", "high", "counts")},
        "tables": [asdict(table) for table in result.tables()],
        "notes": list(result.notes),
        "cost": asdict(result.cost),
        "saved": written,
    }


def _lines(screen: Screen, card: Card, result: Study, models: str, data: str, written: list[str]) -> Iterator[str]:
    """Yields the study for a person."""
    head = f"{card.name} of {models}: {len(result)} samples of {data}" if models else card.title
    yield screen.style(safe(head), bold=True)
    for table in result.tables():
        yield ""
        yield safe(table.caption)
        yield from _grid(table)
    yield ""
    for note in result.notes:
        yield safe(note)
    for path in written:
        yield safe(path)


def _grid(table: Table) -> Iterator[str]:
    """Yields a table in columns."""
    rows = [tuple(map(safe, row)) for row in (table.columns, *table.rows)]
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  " + "  ".join(f"{cell:{width}}" for cell, width in zip(row, wide, strict=True)).rstrip()


VERBS = {"bench": Bench()}
