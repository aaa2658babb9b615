"""What a method's verb does once its flags are read: run it, judge what came of it, save it, print it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

from ironglass.cli.screen import Screen, safe
from ironglass.cli.subject import Subject, writable
from ironglass.core.catalogue import Card
from ironglass.core.config import Config
from ironglass.core.errors import BudgetExceeded, InputError

if TYPE_CHECKING:
    from ironglass.core.diagnosis import Diagnosis
    from ironglass.core.results import AttackResult, Attribution, Certificate, Estimate, Result, Smoothed
    from ironglass.core.values import Norm, Threat

ENDINGS = {"save": (".safetensors",), "output": (".html", ".safetensors")}


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: a method, its options, and the flags."""

    card: Card
    screen: Screen
    config: Config
    options: Mapping[str, Any]
    flags: Mapping[str, Any]


Work = Callable[[Ask, Subject], int]


def check_files(flags: Mapping[str, Any]) -> None:
    """Checks that the files to write can be written, before any work is done."""
    for name, endings in ENDINGS.items():
        if flags.get(name) is not None:
            writable(flags[name], endings)


def start(run: Work, ask: Ask, case: Subject) -> int:
    """Runs a verb's work, or says what it would be."""
    if "index" in ask.flags:
        case = case.part(ask.flags["index"])
    classes = case.model.classes
    for flag in ("target", "against"):
        given = ask.flags.get(flag)
        if given is not None and given >= classes:
            raise InputError(f"--{flag} is {given}, the model has {classes} classes", f"give 0 to {classes - 1}")
    return _dry(ask, case) if ask.flags["dry_run"] else run(ask, case)


def attack(ask: Ask, case: Subject) -> int:
    """Attacks, and says how often and how closely it succeeded."""
    import torch

    from ironglass.cli import summary
    from ironglass.core.values import Avoid, Reach

    y, target = case.data.y, ask.flags.get("target")
    goal = Avoid(y) if target is None else Reach(torch.full_like(y, target))
    result = cast("AttackResult", _judged(ask, case, case.data.x, goal, threat_of(ask)))
    figures = summary.attack(result)
    return _finish(ask, case, result, figures, summary.attack_lines(figures), ask.flags["save"])


def certify(ask: Ask, case: Subject) -> int:
    """Certifies, and says what is proven; an estimate is called one, and so is a promise on a smoothed classifier."""
    from ironglass.cli import summary

    result = _judged(ask, case, case.data.x, case.data.y, threat_of(ask))
    if ask.card.decorator == "estimate":
        figures = summary.estimate(cast("Estimate", result))
        lines = summary.estimate_lines(figures)
    elif ask.card.decorator == "smoothed":
        figures = summary.smoothed(cast("Smoothed", result))
        lines = summary.smoothed_lines(figures)
    else:
        figures = summary.certificate(cast("Certificate", result))
        lines = summary.certificate_lines(figures)
    return _finish(ask, case, result, figures, lines, ask.flags["save"])


def diagnose(ask: Ask, case: Subject) -> int:
    """Examines the model, and says which checks raise an alarm."""
    from ironglass.cli import summary

    result = cast("Diagnosis", _judged(ask, case, case.data.x, case.data.y, threat_of(ask)))
    figures = summary.diagnosis(result)
    return _finish(ask, case, result, figures, summary.diagnosis_lines(figures), ask.flags["save"])


def explain(ask: Ask, case: Subject) -> int:
    """Explains some samples, and draws the maps if that was asked for."""
    import torch

    from ironglass.cli import summary

    target, against, x = ask.flags["target"], ask.flags["against"], case.data.x
    if against is not None:
        first = case.model.outputs(x).argmax(1) if target is None else torch.full((len(x),), target)
        target = torch.stack([first, torch.full_like(first, against)], 1)
    result = cast("Attribution", _judged(ask, case, x, target))
    figures = summary.attribution(result, case.model, case.data.ids)
    lines = summary.attribution_lines(figures)
    path: Path | None = ask.flags["output"]
    if path is not None and path.suffix == ".html":
        from ironglass.cli import maps

        write(path, maps.page(result, case, ask.screen.command))
        return _finish(ask, case, result, figures, lines, None, path)
    return _finish(ask, case, result, figures, lines, path)


def _dry(ask: Ask, case: Subject) -> int:
    """Says what would be done and what it would cost, at most."""
    case.model.probe(case.data.x)
    card, samples = ask.card, len(case.data.x)
    passes = card.passes(case.model.classes, ask.options)
    plan = {
        "method": card.name,
        "options": dict(ask.options),
        "model": case.model.name,
        "data": case.data.name,
        "samples": samples,
        "passes_per_sample": passes,
        "passes": passes * samples,
    }
    lines = [
        f"{card.name} on {safe(case.model.name)}: {samples} samples of {safe(case.data.name)}",
        *(f"  {name} = {value!r}" for name, value in ask.options.items()),
        f"  about {passes:,.6g} passes a sample, {passes * samples:,.6g} in all",
    ]
    ask.screen.show(plan, lines)
    return 0


def _judged(ask: Ask, case: Subject, *args: Any) -> Result:
    """Runs the method within its time.

    Raises:
        BudgetExceeded: if the time is spent before the last sample is done.
    """
    from ironglass.core.method import get
    from ironglass.run import Runner
    from ironglass.run.pools import Processes, Serial

    config = ask.config
    end = None if config.time is None else monotonic() + config.time
    pool = Processes(config.workers) if config.workers > 1 else Serial()
    with closing(pool), ask.screen.progress() as tell:

        def tick(name: str, done: int, total: int) -> None:
            tell(name, done, total)
            if end is not None and done < total and monotonic() > end:
                raise BudgetExceeded(
                    f"the time is spent after {done} of {total} samples", "give more --time or fewer --samples"
                )

        budget = None if "max_queries" in ask.options else config.max_queries
        runner = Runner(case.model, pool=pool, tick=tick, max_queries=budget)
        return runner(get(ask.card.name), *args, **ask.options)


def threat_of(ask: Ask) -> Threat:
    """Returns the threat that the flags name; an attack without a radius searches for the smallest change."""
    from ironglass.core.values import Threat

    card, config = ask.card, ask.config
    norm = cast("Norm", ask.flags["norm"] or (config.norm if config.norm in card.norms else card.norms[0]))
    if config.eps is None and card.decorator != "attack":
        raise InputError(f"{card.name} needs a radius", "give --eps in input units, e.g. --eps 8/255")
    return Threat(norm, float("inf") if config.eps is None else config.eps)


def _finish(
    ask: Ask,
    case: Subject,
    result: Result,
    figures: dict[str, Any],
    lines: Iterable[str],
    save: Path | None,
    written: Path | None = None,
) -> int:
    """Saves the result if that was asked for, prints its figures, and returns the exit code."""
    if save is not None:
        try:
            result.save(save)
        except OSError as error:
            raise unwritten(save, error) from error
    threat, path = getattr(result, "threat", None), save or written
    head = f"{result.method} on {safe(case.model.name)}" + (f", {threat}" if threat is not None else "")
    shown = [ask.screen.style(f"{head}: {len(result)} samples of {safe(case.data.name)}", bold=True), *lines]
    facts = {"model": case.model.name, "data": case.data.name, "seed": ask.config.seed, **figures}
    if path is not None:
        facts["saved"] = str(path)
        shown.append(f"  saved            {safe(str(path))}")
    ask.screen.show(facts, shown)
    if result.partial:
        ask.screen.note("ironglass: the query budget stopped it for some samples; the figures hold within the budget")
    return BudgetExceeded.exit_code if result.partial else 0


def write(path: Path, text: str) -> None:
    """Writes a text file.

    Raises:
        InputError: if it cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise unwritten(path, error) from error


def unwritten(path: Path, error: OSError) -> InputError:
    """Returns what is said of a file that cannot be written."""
    return InputError(f"cannot write {path}: {error.strerror or error}", "give a file that can be written")
