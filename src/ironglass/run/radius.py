"""The largest radius that a certificate proves, found sample by sample."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ironglass.core.errors import InputError
from ironglass.core.method import Certify
from ironglass.core.results import CertifiedRadius, Cost
from ironglass.core.values import Threat

from .runner import Runner


def certified_radius(
    method: Certify[Any], model: object, x: Tensor, y: Tensor, threat: Threat, *, rounds: int = 10, **options: Any
) -> CertifiedRadius:
    r"""Bisect each sample's radius on the grid of :math:`\varepsilon / 2^{\mathrm{rounds}}`.

    Samples that ask for the same radius are bounded in one batch. What is returned was itself proven; no radius between
    two that were asked for is.

    Args:
        method: what proves.
        model: a network, a function, or what `wrap` made of it.
        x: ``(N, *shape)``.
        y: labels ``(N,)``.
        threat: its eps is the largest radius that is tried; norm and mask are kept.
        rounds: halvings; the radius is exact to ``eps / 2**rounds``.
        options: the method's own.

    Raises:
        InputError: if eps is not positive and finite, or rounds is no number of halvings.
    """
    if not 0 < threat.eps < math.inf or not 0 <= rounds <= 40:
        raise InputError(
            f"eps={threat.eps}, rounds={rounds}",
            "give a threat with the largest radius to try, such as Linf(0.3), and from 0 to 40 rounds",
        )
    runner, cost = Runner(model), Cost()
    parts = 2**rounds
    proven = torch.full((len(x),), -1, dtype=torch.long, device=x.device)
    failed = torch.full_like(proven, parts + 1)
    ask = torch.full_like(proven, parts)
    waiting = torch.arange(len(x), device=x.device)
    while len(waiting):
        for place in sorted(set(ask[waiting].tolist())):
            rows = waiting[ask[waiting] == place]
            ball = replace(threat.take(rows), eps=threat.eps * (place / parts))
            result = runner(method, x[rows], y[rows], ball, **options)
            cost = cost + result.cost
            verified = result.verified.to(x.device)  # type: ignore[attr-defined]
            proven[rows] = torch.where(verified, place, proven[rows])
            failed[rows] = torch.where(verified, failed[rows], place)
        waiting = (failed - proven > 1).nonzero()[:, 0]
        ask = torch.where(proven < 0, 0, (proven + failed) // 2)
    return CertifiedRadius(
        x=x.detach(),
        method=method.card.name,
        options=method.card.filled(method.fixed | options),
        cost=cost,
        radius=proven.clamp(min=0).to(x) * threat.eps / parts,
        verified=proven >= 0,
        y=y,
        threat=threat,
    )
