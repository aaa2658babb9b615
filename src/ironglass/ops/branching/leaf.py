"""Parts in which every ReLU has one sign: the network is affine there, and a linear program finds its least value."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from ironglass.ops.linear.slopes import replayed

from .lined import ByStep, Lined

PENALTIES = (1e2, 1e5)
"""What a unit of a violated sign costs, in units of the objective's reach: tried in turn."""


def at_leaf(net: Lined, rows: Tensor, signs: Mapping[int, Tensor], seconds: float) -> tuple[Tensor, Tensor]:
    r"""Returns sound bounds ``(1, R)`` of rows on a part without an open ReLU, and the points they are attained at.

    .. math:: \min_{x \in \mathrm{box},\, t \ge 0} c(x) + M t \quad\text{such that}\quad s_j z_j(x) + t \ge 0

    with :math:`c` and :math:`z_j` affine. The multipliers of its constraints are those of the bound, which is computed
    again from them: where the solver errs the bound is lower, never wrong. A part that holds no point gets a bound as
    high as the penalty M lifts it.

    Args:
        net: the network between its lines.
        rows: ``(1, R, outputs)``.
        signs: by step ``(1, *shape)``.
        seconds: for the solver.
    """
    relaxed = net.split(signs)
    none: ByStep = {step: rows.new_zeros(1, rows.shape[1], *sign.shape[1:]) for step, sign in signs.items()}
    pulled = net.pull(relaxed, rows, signs, {}, none)
    bound, points = pulled.bound.clone(), net.corner(pulled).clone()
    if not signs:
        return bound, points
    centre = (net.start.lower + net.start.upper) / 2
    radius = ((net.start.upper - net.start.lower) / 2).flatten().double().numpy()
    size = centre[0].numel()
    moved = centre[:, None] + torch.eye(size, dtype=centre.dtype).reshape(1, size, *centre.shape[1:])
    seen = replayed(net.start, relaxed, pulled.rows, {}, point=torch.cat([centre[:, None], moved], 1))
    tied = [_chosen(seen[step][0], sign[0]) for step, sign in signs.items()]
    held = torch.cat([rows.new_zeros(1 + size, 0), *tied], 1).double().numpy()
    slopes, offsets = (held[1:] - held[0]).T, held[0]
    for row in range(rows.shape[1]):
        cost = pulled.rows[0][0, row].flatten().double().numpy()
        reach = 2 * float(np.abs(cost) @ radius) + abs(float(pulled.bound[0, row])) + 1e-12
        unit = float((np.abs(slopes) @ radius).max(initial=1e-12))
        for penalty in PENALTIES:
            solved = linprog(
                np.append(cost, penalty * reach / unit),
                A_ub=np.hstack([-slopes, -np.ones((len(slopes), 1))]),
                b_ub=offsets,
                bounds=[*zip(-radius, radius, strict=True), (0, None)],
                method="highs",
                options={"time_limit": seconds} if np.isfinite(seconds) else {},
            )
            if solved.status != 0:
                continue
            betas = _spread(-np.asarray(solved.ineqlin.marginals), signs, none, row)
            again = net.pull(relaxed, rows, signs, {}, betas).bound[0, row]
            bound[0, row] = torch.maximum(bound[0, row], again)
            points[0, row] = centre[0] + torch.from_numpy(solved.x[:-1]).to(centre).reshape(centre.shape[1:])
            if float(solved.x[-1]) <= 1e-9 * unit:
                break
    return bound, points


def _chosen(values: Tensor, sign: Tensor) -> Tensor:
    """The signed values at the places that are split ``(points, places)``."""
    places = sign.flatten().nonzero()[:, 0]
    return values.flatten(1)[:, places] * sign.flatten()[places]


def _spread(multipliers: np.ndarray, signs: Mapping[int, Tensor], none: ByStep, row: int) -> ByStep:
    """Multipliers of the constraints back in their places, for one row."""
    found, start = {}, 0
    for step, sign in signs.items():
        places = sign.flatten().nonzero()[:, 0]
        part = torch.from_numpy(multipliers[start : start + len(places)].copy()).clamp(min=0)
        start += len(places)
        flat = none[step].flatten(2).clone()
        flat[0, row, places] = part.to(flat)
        found[step] = flat.reshape(none[step].shape)
    return found
