"""``certify vnnlib``: decides one property of one network, both from files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ironglass.cli.flags import FILE, Flag, Verb
from ironglass.cli.kinds import DURATION
from ironglass.cli.screen import Screen, safe
from ironglass.cli.subject import writable
from ironglass.core.errors import BudgetExceeded, InputError, MethodFailed

if TYPE_CHECKING:
    from ironglass.core.properties import Verdict

EXIT = {"verified": 0, "falsified": 1, "unknown": MethodFailed.exit_code, "timeout": BudgetExceeded.exit_code}
SHOWN = 12
STEP = 64
"""The search is told of this often; a line is printed where parts have doubled."""


def _decide(model: Path, prop: Path, time: float, seed: int, save: Path | None) -> int:
    """Decides, prints the verdict, and returns the exit code that says it."""
    screen = click.get_current_context().ensure_object(Screen)
    if save is not None:
        writable(save, (".safetensors",))
    from ironglass.certify.vnnlib import vnnlib

    with screen.progress() as tell:
        verdict = vnnlib(model, prop, time=time, seed=seed, tick=_seldom(tell))
    figures = {
        "network": model.name,
        "property": verdict.name,
        "verdict": verdict.outcome,
        "bound": verdict.bound,
        "parts": verdict.domains,
        "reason": verdict.reason,
        "seconds": verdict.cost.seconds,
        "counterexample": verdict.x.flatten().tolist() if len(verdict.x) else None,
        "outputs": verdict.outputs.flatten().tolist() if len(verdict.x) else None,
        "seed": seed,
    }
    lines = [screen.style(f"{safe(model.name)}: {safe(verdict.sentence)}", bold=True), *_lines(verdict)]
    if save is not None and len(verdict.x):
        try:
            verdict.save(save)
        except OSError as error:
            raise InputError(f"cannot write {save}: {error}", "give a file that can be written") from error
        figures["saved"] = str(save)
        lines.append(f"  saved            {safe(str(save))}")
    screen.show(figures, lines)
    return EXIT[verdict.outcome]


def _lines(verdict: Verdict) -> Iterator[str]:
    if len(verdict.x):
        yield f"  inputs           {_few(verdict.x.flatten().tolist(), 'X')}"
        yield f"  outputs          {_few(verdict.outputs.flatten().tolist(), 'Y')}"
    else:
        yield f"  proven bound     {verdict.bound:.6g} (above 0 is proven)"
    yield f"  parts            {verdict.domains:,}"
    yield f"  seconds          {verdict.cost.seconds:.2f}"


def _few(values: list[float], letter: str) -> str:
    shown = ", ".join(f"{letter}_{i} = {value:.9g}" for i, value in enumerate(values[:SHOWN]))
    return shown + (f", … ({len(values)} in all; --save or --json keeps them)" if len(values) > SHOWN else "")


def _seldom(tell: Callable[[str, int, int], None]) -> Callable[[str, int, int], None]:
    """Tells when the number of parts has grown by a quarter since, so that a log stays short."""
    last = 0

    def tick(what: str, done: int, known: int) -> None:
        nonlocal last
        if done >= last + max(STEP, last // 4):
            last = done
            tell(what, done, known)

    return tick


def vnnlib_verb() -> click.Command:
    """Returns the command."""
    return Verb(
        "vnnlib",
        params=[
            click.Argument(["model"], type=FILE),
            click.Argument(["property"], type=FILE),
            Flag("--time", group="Run", type=DURATION, metavar="TIME", default=60.0, help="Stop after 90s, 10m or 1h."),
            Flag("--seed", group="Run", metavar="N", type=click.IntRange(0), default=0, help="Of the attack's points."),
            Flag("--save", group="Output", type=FILE, metavar="FILE.safetensors", help="Save the counterexample."),
        ],
        help="Decide a property of a network: MODEL is an ONNX file, PROPERTY a VNN-LIB file (.vnnlib or .vnnlib.gz). "
        "Exits with 0 where it is verified, 1 falsified, 3 unknown, 4 out of time.",
        short_help="Decide a property from a file.",
        callback=_run,
    )


def _run(**flags: Any) -> int:
    return _decide(flags["model"], flags["property"], flags["time"], flags["seed"], flags["save"])
