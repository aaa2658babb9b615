"""Which ReLU to split next: a cheap score for all, then a bound of both halves for the best few."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ironglass.ops.linear import Relaxed

from .lined import ByStep, Lined, Pulled

if TYPE_CHECKING:
    from .signs import Parts

CANDIDATES = 4


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """The step and the place in it that each inner part is split at, and which parts are leaves.

    Args:
        step: ``(n,)`` of the inner parts.
        place: in the flat step ``(n,)``.
        inner: the rows of parts with something to split.
        leaves: the others'.
    """

    step: Tensor
    place: Tensor
    inner: Tensor
    leaves: Tensor


def chosen(net: Lined, relaxed: Relaxed, pulled: Pulled, parts: Parts, rows: Tensor, limits: Tensor) -> Choice:
    r"""Returns what to split.

    With a the row at a ReLU's output, the lines lose at most :math:`|a_j|` times the largest distance between the ReLU
    and the line that the row takes: :math:`-d_j l_j` for the upper one, and for the lower one of slope :math:`\alpha`
    the larger of :math:`-\alpha l_j` and :math:`(1 - \alpha) u_j`. The candidates are those that lose the most, and
    those with the largest upper loss; of these, the one whose weaker half has the best bound.

    Args:
        net: the network between its lines.
        relaxed: its lines on the parts.
        pulled: the rows on the parts.
        parts: to split.
        rows: of each part ``(n, R, outputs)``.
        limits: of each row ``(n, R)``.
    """
    best = (pulled.bound - limits).argmax(1)
    every = torch.arange(len(parts))
    steps, losses, uppers, places = [], [], [], []
    for step, upper, below in lost(net, relaxed, pulled, parts.alphas, every, best):
        losses.append(upper + below)
        uppers.append(upper)
        steps.append(torch.full((upper.shape[1],), step))
        places.append(torch.arange(upper.shape[1]))
    if not steps:
        none = torch.arange(0)
        return Choice(none, none, none, every)
    loss, upper = torch.cat(losses, 1), torch.cat(uppers, 1)
    step_of, place_of = torch.cat(steps), torch.cat(places)
    inner = (loss.amax(1) >= 0).nonzero()[:, 0]
    leaves = (loss.amax(1) < 0).nonzero()[:, 0]
    if not len(inner):
        return Choice(inner, inner, inner, leaves)
    count = min(CANDIDATES, loss.shape[1])
    tried = torch.cat([loss[inner].topk(count, 1).indices, upper[inner].topk(min(2, count), 1).indices], 1)
    pick = _probed(net, parts.take(inner), tried, loss[inner], (step_of, place_of), rows[inner], limits[inner])
    return Choice(step_of[pick], place_of[pick], inner, leaves)


def lost(
    net: Lined, relaxed: Relaxed, pulled: Pulled, alphas: ByStep, every: Tensor, best: Tensor
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yields each ReLU step with what its upper and its lower lines lose at most ``(n, places)``; -1 where exact.

    Args:
        net: the network between its lines.
        relaxed: its lines on the parts.
        pulled: the rows on the parts.
        alphas: lower slopes of the parts.
        every: which parts.
        best: which row of each.
    """
    for step in net.relus:
        x = relaxed.values[net.before(step)]
        alpha = alphas[step][every, best].flatten(1)
        a = pulled.rows[step][every, best].flatten(1) if step in pulled.rows else torch.zeros_like(alpha)
        open_ = ((x.lower < 0) & (x.upper > 0)).flatten(1).expand(len(alpha), -1)
        low, high = x.lower.flatten(1), x.upper.flatten(1)
        upper = a.clamp(max=0).abs() * (-low * high / (high - low).clamp(min=1e-30))
        below = a.clamp(min=0) * torch.maximum(-alpha * low, (1 - alpha) * high)
        yield step, torch.where(open_, upper, -1.0), torch.where(open_, below, -1.0)


def _probed(
    net: Lined, parts: Parts, tried: Tensor, loss: Tensor, where: tuple[Tensor, Tensor], rows: Tensor, limits: Tensor
) -> Tensor:
    """The candidate whose weaker half has the best bound with the slopes and multipliers as they are."""
    step_of, place_of = where
    score = torch.full(tried.shape, -torch.inf, dtype=torch.float64)
    for column in range(tried.shape[1]):
        index = tried[:, column]
        weaker = None
        for sign in (1, -1):
            signs = _with(parts.signs, step_of[index], place_of[index], sign)
            pulled = net.pull(net.split(signs), rows, signs, parts.alphas, parts.betas)
            over = (pulled.bound - limits).amax(1)
            weaker = over if weaker is None else torch.minimum(weaker, over)
        assert weaker is not None
        real = loss.gather(1, index[:, None])[:, 0] >= 0
        score[:, column] = torch.where(real, weaker.nan_to_num(-torch.inf), -torch.inf)
    best = score.argmax(1, keepdim=True)
    return tried.gather(1, best)[:, 0]


def _with(signs: ByStep, step: Tensor, place: Tensor, sign: int) -> ByStep:
    found = {}
    for index, own in signs.items():
        here = (step == index).nonzero()[:, 0]
        flat = own.flatten(1).clone()
        flat[here, place[here]] = sign
        found[index] = flat.reshape(own.shape)
    return found
