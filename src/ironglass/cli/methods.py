"""``attack``, ``explain``, ``certify`` and ``metric``: a command a method, built from its card."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import click
from click.core import ParameterSource

from ironglass.cli import training, work
from ironglass.cli.flags import FILE, RUNNING, SAYING, SUBJECT, Flag, Verb
from ironglass.cli.kinds import NUMBER, ROWS, kind_of
from ironglass.cli.properties import vnnlib_verb
from ironglass.cli.screen import Screen
from ironglass.cli.show import readable
from ironglass.cli.subject import configured, load
from ironglass.core.catalogue import Card, Option, catalogue, find
from ironglass.core.config import Config
from ironglass.core.errors import InputError


class Methods(click.Group):
    """A verb whose subcommands are the methods of a family, read from the catalogue.

    Args:
        family: whose methods.
        flags: what a method of this family takes besides its own options.
        run: its work.
        help: of the verb.
        kinds: of method that a command line can run; all of the family's if empty.
        others: subcommands beside the methods, made when asked for.
    """

    def __init__(
        self,
        family: str,
        flags: Callable[[Card], Sequence[Flag]],
        run: work.Work,
        help: str,
        kinds: tuple[str, ...] = (),
        others: Mapping[str, Callable[[], click.Command]] | None = None,
    ) -> None:
        super().__init__(family, help=help, epilog=f"`ironglass list {family}` says more of them.")
        self._family, self._flags, self._run, self._kinds = family, flags, run, kinds
        self._others = dict(others or {})

    def runs(self, card: Card) -> bool:
        """Returns whether the method is one of this verb's."""
        return card.family == self._family and (not self._kinds or card.decorator in self._kinds)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the methods' names."""
        return [*(card.name for card in catalogue().values() if self.runs(card)), *self._others]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Returns a method's command."""
        if cmd_name in self._others:
            return self._others[cmd_name]()
        card = catalogue().get(cmd_name)
        return self._command(card) if card is not None and self.runs(card) else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Returns the method that the arguments name, or says which is near."""
        if args[0] in self._others:
            return super().resolve_command(ctx, args)
        card = None if ctx.resilient_parsing else catalogue().get(args[0])
        if card is not None and card.family != self._family:
            verb = card.family if card.family in VERBS and VERBS[card.family].runs(card) else "show"
            raise InputError(
                f"{card.name} belongs to {card.family}, not to {self._family}", f"ironglass {verb} {card.name}"
            )
        if not ctx.resilient_parsing and not self.runs(find(args[0], self._family)):
            raise InputError(f"{args[0]} is run from Python", f"`ironglass show {args[0]}` has the line to copy")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the methods and their titles."""
        with formatter.section("Methods"):
            formatter.write_dl([(name, card.title) for name, card in catalogue().items() if self.runs(card)])
        if self._others:
            with formatter.section("Others"):
                formatter.write_dl([(name, make().short_help or "") for name, make in self._others.items()])

    def _command(self, card: Card) -> Verb:
        model, *flags = [*SUBJECT, *self._flags(card), *RUNNING]
        own = option_flags(card, taken={str(flag.name) for flag in (*flags, *SAYING)})
        return Verb(
            card.name,
            params=[model, *own, *flags],
            help=f"{card.title}. {readable(card.summary)}",
            short_help=card.title,
            epilog=f"`ironglass show {card.name}` says what it does and costs.",
            callback=partial(_run, card, self._run),
        )


def option_flags(card: Card, taken: set[str]) -> list[Flag]:
    """Returns a flag for each option of the method that can be written as text.

    ``seed`` and ``max_queries`` are set by the shared flags; another option whose name is taken is written after the
    method's: ``--clever-samples``.
    """
    flags = []
    for option in card.options:
        kind = kind_of(option.type, card.module)
        if kind is None or option.name in ("seed", "max_queries"):
            continue
        name = (f"{card.name}_{option.name}" if option.name in taken else option.name).replace("_", "-")
        flags.append(
            Flag(
                f"--{name}/--no-{name}" if kind is click.BOOL else f"--{name}",
                f"option_{option.name}",
                group=f"Options of {card.name}",
                type=kind,
                default=option.default,
                help=readable(option.help),
            )
        )
    return flags


def _run(card: Card, run: work.Work, **flags: Any) -> int:
    """Runs one method on one model: what is the same for every verb."""
    context = click.get_current_context()
    work.check_files(flags)
    config = configured(flags)
    options = options_given(card, config, flags, context)
    return work.start(run, work.Ask(card, context.ensure_object(Screen), config, options, flags), load(flags, config))


def options_given(card: Card, config: Config, flags: dict[str, Any], context: click.Context) -> dict[str, Any]:
    """Returns the method's options: its defaults, those of the file, and those of the command line."""

    def given(option: Option) -> bool:
        return context.get_parameter_source(f"option_{option.name}") is ParameterSource.COMMANDLINE

    options = dict(config.options.get(card.name, {}))
    options |= {option.name: flags[f"option_{option.name}"] for option in card.options if given(option)}
    options = card.filled(options)
    if "seed" in options:
        options["seed"] = config.seed
    if "max_queries" in options and config.max_queries is not None:
        options["max_queries"] = config.max_queries
    return options


def threat_flags(card: Card) -> list[Flag]:
    """Returns the flags of a threat in the method's norms."""
    eps = "Radius in input units; fractions such as 8/255 are fine."
    return [
        Flag("--norm", group="Threat", type=click.Choice(card.norms), help=f"{card.norms[0]} if not given."),
        Flag("--eps", group="Threat", type=NUMBER, metavar="NUMBER", help=eps),
    ]


def _attack_flags(card: Card) -> list[Flag]:
    save = "Save the result; `ironglass.load` reads it."
    target = Flag(
        "--target",
        group="Threat",
        metavar="N",
        type=click.IntRange(0),
        help="The class to reach, instead of any other.",
    )
    return [
        *threat_flags(card),
        *([target] if card.targeted else []),
        Flag("--save", group="Output", type=FILE, metavar="FILE.safetensors", help=save),
    ]


def _explain_flags(card: Card) -> list[Flag]:
    return [
        Flag("--index", group="Run", type=ROWS, metavar="ROWS", default="0:8", help="The samples: 5, 0:8 or 0:3,7."),
        Flag(
            "--target",
            group="Run",
            metavar="N",
            type=click.IntRange(0),
            help="The class to explain, instead of the decision.",
        ),
        Flag(
            "--against",
            group="Run",
            metavar="N",
            type=click.IntRange(0),
            help="Explain why the class and not this one.",
        ),
        Flag("--output", "-o", group="Output", type=FILE, metavar="FILE", help="maps.html, or maps.safetensors."),
    ]


def _judging_flags(card: Card) -> list[Flag]:
    save = "Save the result; `ironglass.load` reads it."
    return [*threat_flags(card), Flag("--save", group="Output", type=FILE, metavar="FILE.safetensors", help=save)]


def _training_flags(card: Card) -> list[Flag]:
    return [
        *(threat_flags(card) if card.norms else []),
        Flag("--check", group="Model and data", metavar="DATA", help="Samples for the figures before and after."),
        Flag("--save", group="Output", type=FILE, metavar="FILE.safetensors", help="Save the new weights."),
        Flag("--output", "-o", group="Output", type=FILE, metavar="FILE.html", help="Write a page, before and after."),
        Flag(
            "--checkpoint",
            group="Output",
            type=FILE,
            metavar="FILE",
            help="Kept after each epoch; beside --save if not given, and deleted at the end.",
        ),
    ]


VERBS = {
    "attack": Methods("attack", _attack_flags, work.attack, "Search for small changes that break MODEL."),
    "explain": Methods(
        "explain", _explain_flags, work.explain, "Map what in an input speaks for MODEL's decision.", ("explain",)
    ),
    "certify": Methods(
        "certify",
        _judging_flags,
        work.certify,
        "Prove that no small change breaks MODEL, or estimate.",
        others={"vnnlib": vnnlib_verb},
    ),
    "defend": Methods(
        "defend", _training_flags, training.defend, "Train a stronger copy of MODEL, and save its weights.", ("train",)
    ),
    "metric": Methods(
        "metric", _judging_flags, work.diagnose, "Ask whether what is measured of MODEL can be believed.", ("diagnose",)
    ),
}
