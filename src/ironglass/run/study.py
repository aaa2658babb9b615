"""Running a study: several models, all samples at once; and an experiment, which has no model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any, cast

from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.catalogue import LADDER, Card
from ironglass.core.diagnosis import Study
from ironglass.core.errors import AccessError, InputError, IronglassError, MethodFailed
from ironglass.core.method import Method
from ironglass.core.results import Cost
from ironglass.core.values import Avoid, Threat
from ironglass.models.adapter import Adapter, check, wrap
from ironglass.models.meter import Meter
from ironglass.models.session import Session

from .judge import batched


def run_study(
    method: Method[Any],
    models: object | Sequence[object] | Mapping[str, object],
    x: Tensor,
    y: Tensor,
    threat: Threat | None = None,
    /,  # a study may have an option called method
    **options: Any,
) -> Study:
    """Runs a study on one model, several, or several by name.

    Raises:
        InputError: before any work is done, if the request is wrong.
        MethodFailed: if the method raises.
    """
    card = method.card
    chosen = card.filled(method.fixed | options)
    given = _named(models)
    named = {name: wrap(model) for name, model in given.items()}  # type: ignore[arg-type]
    if bool(card.norms) != (threat is not None) or (threat is not None and threat.norm not in card.norms):
        takes = f"a threat in {', '.join(card.norms)}" if card.norms else "no threat"
        raise InputError(f"{card.name} takes {takes}; {threat or 'none'} was given", f"ironglass show {card.name}")
    start = perf_counter()
    open_ = {name: _opened(card, name, model, x, y, threat) for name, model in named.items()}
    bare = {name: wrap(plain) for name in named if (plain := getattr(given[name], "undefended", None)) is not None}
    known = {_same(named[name]): pair for name, pair in open_.items()} if bare else {}
    for name, model in bare.items():
        if _same(model) not in known:
            known[_same(model)] = _opened(card, f"{name}, undefended,", model, x, y, threat)
        open_[name][0].undefended = known[_same(model)][0]
    threat = None if threat is None else batched(threat, x)
    sessions = cast(Mapping[str, Model], {name: session for name, (session, _) in open_.items()})
    result = _tried(card.name, lambda: cast(Study, method.raw(sessions, x, y, threat, **chosen)))
    meters = {id(meter): meter for _, meter in (*open_.values(), *known.values())}
    cost = sum((meter.cost for meter in meters.values()), Cost())
    return replace(result, options=chosen | dict(result.options), cost=replace(cost, seconds=perf_counter() - start))


def _same(model: Adapter) -> object:
    """Returns what two models share that are the same network in the same units, however they were brought."""
    return model.identity() or id(model), model.bounds, model.access


def _opened(
    card: Card, name: str, model: Adapter, x: Tensor, y: Tensor, threat: Threat | None
) -> tuple[Session, Meter]:
    """Returns a model ready for the study, and its ledger; what is wrong with the request is said here."""
    check(model, x, y, threat)
    if LADDER.index(card.access) > LADDER.index(model.access):
        raise AccessError(f"{card.name} needs {card.access}, {name} gives {model.access}", "leave that model out")
    return model.session(x, card.access, None if threat is None else Avoid(y))


def run_experiment(method: Method[Any], /, *args: Any, **options: Any) -> Study:
    """Runs an experiment.

    Raises:
        InputError: if it has no such option.
        MethodFailed: if it raises.
    """
    if args:
        raise InputError(f"{method.card.name} takes no model and no samples", "give its options by name")
    chosen = method.card.filled(method.fixed | options)
    start = perf_counter()
    result = _tried(method.card.name, lambda: cast(Study, method.raw(**chosen)))
    return replace(result, options=chosen, cost=Cost(seconds=perf_counter() - start))


def _tried(name: str, run: Callable[[], Study]) -> Study:
    try:
        return run()
    except IronglassError:
        raise
    except Exception as error:
        raise MethodFailed(f"{name} failed: {type(error).__name__}: {error}") from error


def _named(models: object) -> dict[str, object]:
    """Returns the models by name."""
    if isinstance(models, Mapping):
        named = {str(name): model for name, model in models.items()}
    else:
        several = list(models) if isinstance(models, list | tuple) else [models]
        names = [model.name if isinstance(model, Adapter) else "" for model in several]
        named = {name or f"model {i}": model for i, (name, model) in enumerate(zip(names, several, strict=True))}
        if len(named) != len(several):
            raise InputError(f"two models have the same name: {names}", "give them by name, {'first': model, …}")
    if not named:
        raise InputError("there are no models to study", "give a model, a list of them, or {'name': model}")
    return named
