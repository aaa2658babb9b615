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
from ironglass.ops.shells import Shells

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
    radii: int = 3,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    r"""Estimate the distance to the nearest other class from how steep the margin gets within ``threat.eps``.

    For the margin :math:`g_j = z_y - z_j`, let :math:`L_j(R) = \max_{x' \in B_p(x, R)} \|\nabla g_j(x')\|_q` with the
    dual norm q, taken over the values that may move. On the way to any point of the ball the margin falls by no more
    than that at each distance, so the radius

    .. math:: \min_j \max \Bigl\{ r \le \varepsilon : \int_0^r L_j(t)\,\mathrm{d}t \le g_j(x) \Bigr\}

    is safe. With one of the ``radii``, L is taken to be :math:`L_j(\varepsilon)` everywhere and this is the paper's
    :math:`\min_j \min(g_j / L_j(\varepsilon), \varepsilon)`. In a large ball the gradient gets steeper than it is
    anywhere near x; so each further radius cuts the shell that may gain most in two, each sample on its own, and in a
    shell L is that of its outer end.

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
        radii: how many R to look at, the first being ``threat.eps``; the paper takes that one alone.
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
    probe = _Probe(model, x, torch.cat([y[:, None], rivals], 1), threat)
    draws, rows = model.draws(seed), torch.arange(len(x), device=x.device)
    reach = torch.full((len(x),), threat.eps, dtype=torch.float64, device=x.device)
    found = limit_of_maxima(probe.maxima(draws, reach, rows, batches, samples))
    shells = Shells(margin.double(), reach[:, None], *(part[..., None] for part in found))
    centre = probe.norms(x, rows).double() if radii > 1 else None
    for _ in range(radii - 1):
        assert centre is not None
        rows, reach = shells.next(centre)
        if not len(rows):
            break
        shells.add(rows, reach, *limit_of_maxima(probe.maxima(draws, reach, rows, batches, samples)))
    radius, quality = shells.nearest()
    return radius.to(x.dtype), quality.to(x.dtype)


def _rivals(scores: Tensor, y: Tensor, targets: int, target: int | None) -> Tensor:
    """The classes to keep away from, ``(N, k)``."""
    if target is not None:
        return torch.full_like(y, target)[:, None]
    others = scores.scatter(1, y[:, None], -torch.inf)
    return others.topk(min(targets, scores.shape[1] - 1), dim=1).indices


class _Probe:
    """How steep the margins of some samples over other classes are.

    Args:
        model: that is probed.
        x: the samples ``(N, *shape)``.
        classes: the label and its rivals ``(N, k + 1)``.
        threat: its norm and mask count.
    """

    def __init__(self, model: Model, x: Tensor, classes: Tensor, threat: Threat) -> None:
        self.model, self.x, self.classes, self.threat = model, x, classes, threat
        self.order = float({"l1": 1, "l2": 2, "linf": torch.inf}[lp.dual(threat.norm)])
        self.free = None if threat.mask is None else (threat.mask != 0).expand(len(x), *x.shape[1:]).flatten(1)

    def norms(self, points: Tensor, rows: Tensor) -> Tensor:
        """Returns the norms of the margins' gradients at points ``(n, *shape)`` of samples: ``(n, k)``."""
        gradients = self.model.jacobian(points, rows, self.classes[rows])[1].flatten(2)
        slopes = gradients[:, :1] - gradients[:, 1:]
        slopes = slopes if self.free is None else slopes * self.free[rows, None]
        norms: Tensor = torch.linalg.vector_norm(slopes, self.order, 2)
        return norms

    def maxima(self, draws: Draws, reach: Tensor, wanted: Tensor, batches: int, samples: int) -> Tensor:
        """Returns the largest norm of each margin's gradient in each batch, float64 ``(n, k, batches)``.

        Args:
            draws: the samples' random streams.
            reach: the radius of the ball that points are drawn from, for each wanted sample ``(n,)``.
            wanted: which samples ``(n,)``.
            batches: how many.
            samples: points in each.
        """
        model, x = self.model, self.x
        values = x[0].numel() * self.classes.shape[1]
        points = max(1, min(samples, _HELD // values))
        group = max(1, _HELD // (values * points))
        unit, everywhere = replace(self.threat, eps=1.0), Bounds(-torch.inf, torch.inf)
        parts = []
        for rows, far in zip(torch.split(wanted, group), torch.split(reach, group), strict=True):
            limits, scale = unit.take(rows), far.to(x).reshape(-1, *(1,) * x.ndim)
            largest = x.new_zeros(len(rows), self.classes.shape[1] - 1, batches, dtype=torch.float64)
            for batch in range(batches):
                for first in range(0, samples, points):
                    count = min(points, samples - first)
                    moves = sample_ball(draws, torch.zeros_like(x[rows]), limits, everywhere, rows, count)
                    near = (x[rows, None] + scale * moves).clamp_(model.bounds.low, model.bounds.high)
                    near = torch.where(moves == 0, x[rows, None], near).flatten(0, 1)  # outside the mask nothing moves
                    norms = self.norms(near, rows.repeat_interleave(count)).double()
                    found = norms.reshape(len(rows), count, -1).amax(1)
                    largest[..., batch] = torch.maximum(largest[..., batch], found)
            parts.append(largest)
        return torch.cat(parts)
