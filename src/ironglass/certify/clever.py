"""CLEVER: the robust radius that extreme values of the gradient suggest."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.draws import Draws
from ironglass.core.errors import InputError
from ironglass.core.method import estimate
from ironglass.core.values import Bounds, Threat
from ironglass.ops import lp
from ironglass.ops.balls import sample_ball
from ironglass.ops.extremes import limit_of_maxima

_HELD = 1 << 24
"""How many values of gradients are held at a time."""


@estimate(
    title="CLEVER score",
    paper="weng2018clever",
    access="gradient",
    norms=("linf", "l2", "l1"),
    cost="radii * batches * samples * (min(classes, targets + 1) + 1)",
    lecture="attack-independent robustness estimate",
)
def clever(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    batches: int = 50,
    samples: int = 256,
    targets: int = 10,
    target: int | None = None,
    radii: int = 1,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    r"""Estimate the distance to the nearest other class from how steep the margin gets within ``threat.eps``.

    For the margin :math:`g_j = z_y - z_j` and the dual norm q, taken over the values that may move, the radius

    .. math:: \min_j \min\!\left(\frac{g_j(x)}{\max_{x' \in B_p(x, R)} \|\nabla g_j(x')\|_q},\; R\right)

    is safe, for every R: the paper takes ``threat.eps``. In a large ball the gradient gets steeper than it is anywhere
    near x, in a small one R itself is the limit; with ``radii`` above 1 the R at which both agree is looked for by
    bisection, each sample on its own, and the largest radius counts.

    The maximum is not known: it is the end point of a reverse Weibull distribution, fitted by maximum likelihood to the
    largest gradient norm of each of many batches of points, drawn uniformly from the ball and clipped to the bounds.
    Where the fit is rejected (p < 0.001 in the test of Kolmogorov and Smirnov) the largest norm that was seen stands
    for it; where the gradient does not vary at all it is the maximum.

    **An estimate, never a certificate.** Sampled gradients can miss the steep places, and then the score is too high
    without bound: a network that masks its gradients scores well and is not robust (Goodfellow 2018). The quality tells
    how well the distribution fits what was seen, nothing of what was not.

    Args:
        batches: how many maxima the distribution is fitted to; the paper takes 500.
        samples: points in each batch; the paper takes 1024.
        targets: how many other classes compete, those with the largest scores at x; the estimate is over them alone.
        radii: how many R to try, the first being ``threat.eps``.
        target: estimate the distance to this class only; samples of this class get the radius 0.
        seed: of the points.

    Returns:
        The radius ``(N,)`` in input units, at most ``threat.eps``, 0 where x is already misclassified, and the fit's
        p-value ``(N,)`` for the class that decides: 1 where the gradient does not vary, 0 where it is not finite.

    Raises:
        InputError: if eps is infinite, or a count is not positive.
    """
    if not 0 < threat.eps < float("inf"):
        raise InputError(f"clever samples a ball, but eps is {threat.eps}", "give a finite eps, such as L2(5)")
    if min(batches, samples, targets, radii) < 1 or (target is not None and not 0 <= target < model.classes):
        raise InputError(
            f"batches={batches}, samples={samples}, targets={targets}, radii={radii}, target={target}",
            f"give positive counts, and a target from 0 to {model.classes - 1}",
        )
    scores = model.scores(x)
    rivals = _rivals(scores, y, targets, target)
    margin = scores.gather(1, y[:, None]) - scores.gather(1, rivals)
    classes, draws = torch.cat([y[:, None], rivals], 1), model.draws(seed)
    reach = torch.full((len(x),), threat.eps, dtype=torch.float64, device=x.device)
    best, quality, far = torch.full_like(reach, -1.0), torch.zeros_like(reach), reach.clone()
    rows = torch.arange(len(x), device=x.device)
    for _ in range(radii):
        steepest = _maxima(model, draws, x, classes, threat, reach, rows, batches, samples)
        slope, fit = limit_of_maxima(steepest)
        lead = margin[rows]
        radius = torch.where(lead > 0, lead.double() / slope, 0.0).nan_to_num(nan=0.0)
        limited, nearest = radius.amin(1), radius.argmin(1, keepdim=True)
        better = limited.minimum(reach[rows]) > best[rows]
        best[rows] = torch.where(better, limited.minimum(reach[rows]), best[rows])
        quality[rows] = torch.where(better, fit.gather(1, nearest)[:, 0], quality[rows])
        far[rows] = torch.where(limited < reach[rows], reach[rows], far[rows])
        rows = rows[(best[rows] > 0) & (best[rows] < 0.95 * far[rows])]
        reach[rows] = (best[rows] * far[rows]).sqrt()
        if not len(rows):
            break
    return best.to(x.dtype), quality.to(x.dtype)


def _rivals(scores: Tensor, y: Tensor, targets: int, target: int | None) -> Tensor:
    """The classes to keep away from, ``(N, k)``."""
    if target is not None:
        return torch.full_like(y, target)[:, None]
    others = scores.scatter(1, y[:, None], -torch.inf)
    return others.topk(min(targets, scores.shape[1] - 1), dim=1).indices


def _maxima(
    model: Model,
    draws: Draws,
    x: Tensor,
    classes: Tensor,
    threat: Threat,
    reach: Tensor,
    wanted: Tensor,
    batches: int,
    samples: int,
) -> Tensor:
    """The largest gradient norm of each margin in each batch, float64 ``(n, k, batches)``, of the wanted rows.

    Points are drawn from balls of radius ``reach`` ``(N,)``.
    """
    order = float({"l1": 1, "l2": 2, "linf": torch.inf}[lp.dual(threat.norm)])
    free = None if threat.mask is None else (threat.mask != 0).expand(len(x), *x.shape[1:]).flatten(1)
    values = x[0].numel() * classes.shape[1]
    points = max(1, min(samples, _HELD // values))
    group = max(1, _HELD // (values * points))
    largest = torch.zeros(len(x), classes.shape[1] - 1, batches, dtype=torch.float64, device=x.device)
    unit, everywhere = replace(threat, eps=1.0), Bounds(-torch.inf, torch.inf)
    for rows in torch.split(wanted, group):
        limits, scale = unit.take(rows), reach[rows].to(x).reshape(-1, *(1,) * x.ndim)
        for batch in range(batches):
            for first in range(0, samples, points):
                count = min(points, samples - first)
                moves = sample_ball(draws, torch.zeros_like(x[rows]), limits, everywhere, rows, count)
                near = (x[rows, None] + scale * moves).clamp_(model.bounds.low, model.bounds.high)
                near = torch.where(moves == 0, x[rows, None], near).flatten(0, 1)  # outside the mask nothing moves
                spread = rows.repeat_interleave(count)
                gradients = model.jacobian(near, spread, classes[spread])[1].flatten(2)
                slopes = gradients[:, :1] - gradients[:, 1:]
                slopes = slopes if free is None else slopes * free[spread, None]
                norms = torch.linalg.vector_norm(slopes, order, 2)
                found = norms.double().reshape(len(rows), count, -1).amax(1)
                largest[rows, :, batch] = torch.maximum(largest[rows, :, batch], found)
    return largest[wanted]
