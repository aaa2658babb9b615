"""Running predictive uncertainty: models of one answer a sample or one a place, in shards that fit the memory."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from ironglass.core.catalogue import LADDER
from ironglass.core.errors import AccessError, InputError, IronglassError, MethodFailed
from ironglass.core.method import Method
from ironglass.core.results import Cost
from ironglass.core.uncertainty import Uncertainty
from ironglass.core.values import finite
from ironglass.models.adapter import check_samples, wrap
from ironglass.models.joint import ensemble
from ironglass.ops.uncertainty import Parts, Predicted, parts

ROOM = 1 << 26
"""Values of all draws that are held at once."""
SHARD = 256


def run_uncertainty(method: Method[Any], model: object, x: Tensor, /, **options: Any) -> Uncertainty:
    """Runs a method of predictive uncertainty on a model, or on several as one ensemble.

    Outputs may be maps ``(N, K, …)``, so the model is not asked for one row of logits a sample.

    Raises:
        InputError: before any work is done, if the request is wrong.
        MethodFailed: if the method raises.
    """
    card = method.card
    chosen = card.filled(method.fixed | options)
    several = list(model.values()) if isinstance(model, dict) else model
    one = ensemble(several) if isinstance(several, list | tuple) and len(several) > 1 else None
    bare = one or wrap(several[0] if isinstance(several, list | tuple) else several)  # type: ignore[arg-type]
    check_samples(bare, x)
    if one is None and LADDER.index(card.access) > LADDER.index(bare.access):
        raise AccessError(f"{card.name} needs {card.access}, this model gives {bare.access}", "give the network")
    start = perf_counter()
    found: list[Parts] = []
    count = size = 0
    try:
        at, rows = 0, 1
        while at < len(x):
            drawn: Predicted = method.raw(bare, x[at : at + rows], **chosen)
            found.append(parts(drawn))
            count, size = len(drawn.draws), drawn.draws[:, :1].numel()
            at, rows = at + rows, max(1, min(SHARD, ROOM // size))
    except IronglassError:
        raise
    except Exception as error:
        raise MethodFailed(f"{card.name} failed: {type(error).__name__}: {error}") from error
    whole = Parts(*(torch.cat(each) for each in zip(*found, strict=True)))
    if not all(finite(part) for part in whole):
        raise InputError("the model's predictions are not finite", "look at its outputs for these samples")
    return Uncertainty(
        x=x,
        method=card.name,
        options=chosen,
        cost=Cost(count * len(x), 0, perf_counter() - start),
        draws=count,
        seed=chosen.get("seed"),
        **whole._asdict(),
    )
