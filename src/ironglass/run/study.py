"""Running a study: several models, all samples at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any, cast

from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.catalogue import LADDER
from ironglass.core.diagnosis import Study
from ironglass.core.errors import AccessError, InputError, IronglassError, MethodFailed
from ironglass.core.method import Method
from ironglass.core.results import Cost
from ironglass.core.values import Threat
from ironglass.models.adapter import Adapter, check, wrap


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
    named = {name: wrap(model) for name, model in _named(models).items()}  # type: ignore[arg-type]
    if bool(card.norms) != (threat is not None) or (threat is not None and threat.norm not in card.norms):
        takes = f"a threat in {', '.join(card.norms)}" if card.norms else "no threat"
        raise InputError(f"{card.name} takes {takes}; {threat or 'none'} was given", f"ironglass show {card.name}")
    for name, model in named.items():
        check(model, x, y, threat)
        if LADDER.index(card.access) > LADDER.index(model.access):
            raise AccessError(f"{card.name} needs {card.access}, {name} gives {model.access}", "leave that model out")
    start = perf_counter()
    open_ = {name: model.session(x, card.access) for name, model in named.items()}
    try:
        sessions = cast(Mapping[str, Model], {name: session for name, (session, _) in open_.items()})
        result = cast(Study, method.raw(sessions, x, y, threat, **chosen))
    except IronglassError:
        raise
    except Exception as error:
        raise MethodFailed(f"{card.name} failed: {type(error).__name__}: {error}") from error
    cost = sum((meter.cost for _, meter in open_.values()), Cost())
    return replace(result, cost=replace(cost, seconds=perf_counter() - start))


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
