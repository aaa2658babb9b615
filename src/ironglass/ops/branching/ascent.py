r"""Slopes and multipliers that raise a bound: projected Adam on the gradient that the bound itself gives.

For fixed slopes :math:`\alpha` and multipliers :math:`\beta` the bound is the least value of a linear function over the
box. By the envelope theorem its slopes are those of that function at its minimizer: with a the row at a ReLU's output
and :math:`\hat z` what reaches the ReLU when the minimizer passes the lines,

.. math:: \frac{\partial b}{\partial \alpha_j} = [a_j]_+ \hat z_j, \qquad
          \frac{\partial b}{\partial \beta_j} = -s_j \hat z_j

One pull back and one push forward a step; nothing is differentiated. Every :math:`\alpha` in [0, 1] and every
:math:`\beta \ge 0` gives a sound bound, so the best of each row is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ironglass.ops.linear import Lines, Relaxed
from ironglass.ops.linear.slopes import replayed

from .lined import ByStep, Lined, Pulled

DECAY = 0.95


@dataclass(slots=True)
class Raised:
    """The best bounds ``(N, R)`` with the slopes and multipliers that gave them, and the last pull."""

    bound: Tensor
    alphas: ByStep
    betas: ByStep
    pulled: Pulled


def raised(
    net: Lined,
    relaxed: Relaxed,
    rows: Tensor,
    signs: Mapping[int, Tensor],
    alphas: Mapping[int, Tensor],
    betas: Mapping[int, Tensor],
    *,
    steps: int,
    rate: float = 0.1,
    enough: Tensor,
) -> Raised:
    """Raises the bounds of rows.

    Args:
        net: the network between its lines.
        relaxed: its lines on these parts, from `Lined.split`.
        rows: ``(N, R, outputs)``.
        signs: of the parts.
        alphas: where to start ``(N, R, *shape)`` a step.
        betas: where to start.
        steps: of Adam.
        rate: of the slopes; the multipliers move in units of their rows.
        enough: stop when each part has a row above this ``(N, R)``.
    """
    alphas, betas = dict(alphas), {step: beta for step, beta in betas.items() if bool(signs[step].any())}
    moved = alphas.keys() | betas.keys()
    first = {key: torch.zeros_like(value) for key, value in _all(alphas, betas).items()}
    second = {key: torch.zeros_like(value) for key, value in first.items()}
    best: Raised | None = None
    for turn in range(steps + 1):
        pulled = net.pull(relaxed, rows, signs, alphas, betas)
        best = _better(best, pulled, alphas, betas)
        if turn == steps or not moved or bool((best.bound > enough).any(1).all()):
            break
        z = replayed(net.start, relaxed, pulled.rows, alphas)
        slopes = _slopes(relaxed, pulled, z, signs, alphas, betas)
        scale = rate * DECAY**turn
        for key, slope in slopes.items():
            kind, index = key
            first[key].lerp_(slope, 0.1)
            second[key].lerp_(slope.square(), 0.01)
            move = first[key] / (1 - 0.9 ** (turn + 1)) / ((second[key] / (1 - 0.99 ** (turn + 1))).sqrt() + 1e-8)
            if kind == "alpha":
                alphas[index] = (alphas[index] + scale * move).clamp(0, 1)
            else:
                unit = pulled.rows[index].abs().flatten(2).mean(2).clamp(min=1e-6)
                unit = unit.reshape(*unit.shape, *(1,) * (move.ndim - 2))
                betas[index] = (betas[index] + 2 * scale * unit * move).clamp(min=0) * (signs[index] != 0)[:, None]
    assert best is not None
    return best


def _all(alphas: ByStep, betas: ByStep) -> dict[tuple[str, int], Tensor]:
    named = {("alpha", step): value for step, value in alphas.items()}
    return named | {("beta", step): value for step, value in betas.items()}


def _slopes(
    relaxed: Relaxed, pulled: Pulled, z: ByStep, signs: Mapping[int, Tensor], alphas: ByStep, betas: ByStep
) -> dict[tuple[str, int], Tensor]:
    found: dict[tuple[str, int], Tensor] = {}
    for step in alphas:
        lines = relaxed.lines[step]
        assert isinstance(lines, Lines)
        if step in pulled.rows and lines.free is not None:
            found["alpha", step] = pulled.rows[step].clamp(min=0) * z[step] * lines.free[:, None]
    for step in betas:
        found["beta", step] = -z[step] * signs[step][:, None]
    return found


def _better(best: Raised | None, pulled: Pulled, alphas: ByStep, betas: ByStep) -> Raised:
    if best is None:
        return Raised(pulled.bound, dict(alphas), dict(betas), pulled)
    won = pulled.bound > best.bound

    def kept(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(won.reshape(*won.shape, *(1,) * (new.ndim - 2)), new, old)

    return Raised(
        torch.where(won, pulled.bound, best.bound),
        {step: kept(value, best.alphas[step]) for step, value in alphas.items()},
        {step: kept(value, best.betas[step]) for step, value in betas.items()},
        Pulled(
            torch.where(won, pulled.bound, best.bound),
            {step: kept(value, best.pulled.rows[step]) for step, value in pulled.rows.items()},
        ),
    )
