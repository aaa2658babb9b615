"""``ironglass defend METHOD``: trains a stronger copy, saves it, and writes what it was before and is after."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from ironglass._version import __version__
from ironglass.cli import work
from ironglass.cli.screen import INTERRUPTED, safe
from ironglass.cli.show import readable
from ironglass.cli.subject import Subject
from ironglass.core.errors import BudgetExceeded
from ironglass.core.findings import Finding, Limit, Report, Section
from ironglass.core.statistics import wilson
from ironglass.report.text import number

if TYPE_CHECKING:
    from ironglass.core.training import Count, Epoch, Kind, Trained

SHOWN = {"clean": "clean accuracy", "attacked": "under Auto-PGD", "certified": "proven"}


def defend(ask: work.Ask, case: Subject) -> int:
    """Trains a copy of the model's network, and says what it can do now; interrupted, it keeps the best so far."""
    from ironglass.run import run_training

    card, flags = ask.card, ask.flags
    threat = work.threat_of(ask) if card.norms or ask.config.eps is not None else None
    check = None if flags["check"] is None else _checked(flags["check"], case)
    named: Path | None = flags["checkpoint"]
    save: Path | None = flags["save"]
    place = named or (None if save is None else save.with_suffix(".checkpoint.safetensors"))
    end = None if ask.config.time is None else monotonic() + ask.config.time
    late: list[int] = []
    with ask.screen.progress() as tell:

        def tick(done: int, total: int, epoch: Epoch) -> None:
            shares = ", ".join(f"{SHOWN[kind]} {right / count:.1%}" for kind, (right, count) in epoch.counts.items())
            tell(f"{card.name}: {shares}", done, total)
            if end is not None and done < total and monotonic() > end:
                late.append(done)
                raise BudgetExceeded("the time is spent", "give more --time")

        data = (case.data.x, case.data.y)
        result = run_training(_method(ask), case.model, data, threat, check, place, tick, **ask.options)
    if save is not None:
        try:
            result.save(save)
        except OSError as error:
            raise work.unwritten(save, error) from error
    if flags["output"] is not None:
        work.write(flags["output"], page(result, case, ask))
    if named is None and place is not None and not result.partial:
        place.unlink(missing_ok=True)
    figures = result.record() | {"model": case.model.name, "data": case.data.name}
    figures |= {} if save is None else {"saved": str(save)}
    ask.screen.show(figures, _lines(result, ask, case, save))
    if result.partial:
        again = f"the same command takes it up again from {place}" if place else "give --save or --checkpoint to go on"
        what = "the time is spent" if late else "interrupted"
        ask.screen.note(f"ironglass: {what} after {len(result.history) - 1} epochs; {again}")
    return 0 if not result.partial else BudgetExceeded.exit_code if late else INTERRUPTED


def _method(ask: work.Ask) -> Any:
    from ironglass.core.method import get

    return get(ask.card.name)


def _checked(name: str, case: Subject) -> tuple[Any, Any]:
    """Returns the samples for the figures before and after."""
    from ironglass.models.data import load_data

    data = load_data(name, shape=case.data.x.shape[1:], labels=case.model.names)
    where = case.data.x.device
    return data.x.to(where), data.y.to(where)


def _lines(result: Trained, ask: work.Ask, case: Subject, save: Path | None) -> Iterator[str]:
    against = "" if result.threat is None else f", {result.threat}"
    head = f"{result.method} on {safe(case.model.name)}{against}: {len(case.data)} samples of {safe(case.data.name)}"
    yield ask.screen.style(head, bold=True)
    yield f"  figures          of {result.held}"
    for kind, after in result.after.items():
        yield f"  {SHOWN[kind]:16} {_share(result.before[kind])} before, {_share(after)} after"
    yield f"  best epoch       {result.best} of {len(result.history) - 1}"
    yield from (f"  noticed          {note}" for note in result.notes)
    cost = result.cost
    yield f"  cost             {cost.forward:,} passes forward, {cost.backward:,} backward, {number(cost.seconds)} s"
    if save is not None:
        yield f"  saved            {safe(str(save))}"


def _share(count: Count) -> str:
    low, high = wilson(*count)
    return f"{count[0] / count[1]:.1%} [{100 * low:.1f}, {100 * high:.1f}]"


def page(result: Trained, case: Subject, ask: work.Ask) -> str:
    """Returns the training as one self-contained HTML page: figures before and after, and their course."""
    import torch

    from ironglass.report import render

    card = ask.card
    order: tuple[Kind, ...] = ("certified", "attacked", "clean")
    kind = next(kind for kind in order if kind in result.after)
    right, count = result.after[kind]
    low, high = wilson(right, count)
    before, after = result.accuracy(kind)
    better = after > before
    shown = SHOWN[kind]
    verdict = f"{shown[0].upper()}{shown[1:]}: {before:.1%} before the training, {after:.1%} after it"
    limits = [Limit(what=note, why="the accuracy under attack is watched in each epoch") for note in result.notes]
    if "certified" not in result.after:
        why = "Auto-PGD with 40 steps measured it; `ironglass attack auto_attack` tries harder"
        limits.append(Limit(what="Whether a stronger attack breaks more", why=why))
    facts = [("Method", f"{card.title} ({card.paper})"), ("Figures", f"of {result.held}")]
    facts.append(("Cost", f"{result.cost.forward:,} passes forward, {result.cost.backward:,} backward"))
    report = Report(
        title=f"{card.title}: {case.model.name}",
        model=case.model.name,
        data=case.data.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        status="partial" if result.partial else "complete",
        findings=(
            Finding(
                rule="training",
                severity="ok" if better else "low",
                verdict=verdict,
                fix="Audit the new weights: `ironglass audit … --weights`."
                if better
                else "Train longer, or with a smaller radius or step size; the first weights were as good.",
                section="training",
                value=after,
                low=low,
                high=high,
                unit="share",
                method=card.name,
                samples=count,
                better="higher",
            ),
        ),
        limits=tuple(limits),
        facts=tuple(facts),
        sections=(
            Section(
                id="training",
                title="Is it stronger now?",
                sentence=readable(card.summary),
                tables=(result.table(),),
                curves=(result.curve(),),
            ),
        ),
        reproduce=(
            ("Command", ask.screen.command),
            *((name, str(value)) for name, value in result.options.items()),
            ("Versions", f"Ironglass {__version__}, PyTorch {torch.__version__}"),
            *case.source,
        ),
    )
    return render(report, "html")
