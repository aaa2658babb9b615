"""Exact answers on linear models, and the models: what every evasion attack is measured against.

An attack that wants class k in place of y on logits ``W x + b`` needs ``a . s >= gap``: ``a = |w_k - w_y|``, ``s`` the
moves in the useful direction, ``0 <= s <= room``, and ``gap`` the margin that y has. All is float64 and written without
the library's own geometry: bisection and sorting, a row at a time.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

SIZE = 784
REGIMES = ("interior", "saturated")


def room_of(weight: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """How far each value may move in the sign of ``weight`` within [0, 1] and the mask."""
    room = torch.where(weight > 0, 1 - x, x)
    return room if mask is None else room * mask


def gain(a: Tensor, room: Tensor, norm: str, eps: float) -> float:
    """The most that ``a . s`` can be with ``|s| <= eps`` in the norm, for one sample ``(d,)``."""
    room = torch.where(a > 0, room, 0)
    if norm == "linf":
        return float(a @ room.clamp(max=eps))
    if norm == "l1":
        return _greedy(a, room, eps)[0]
    if float(room.norm()) <= eps:
        return float(a @ room)
    rate = _bisect(lambda t: float(torch.minimum(t * a, room).norm()) - eps)
    return float(a @ torch.minimum(rate * a, room))


def least(a: Tensor, room: Tensor, norm: str, gap: float) -> float:
    """The least norm of an ``s`` with ``a . s >= gap``, for one sample; infinite if there is none."""
    if gap <= 0:
        return 0.0
    if float(a @ room) < gap:
        return float("inf")
    if norm == "linf":
        return _bisect(lambda t: float(a @ room.clamp(max=t)) - gap)
    if norm == "l1":
        return _greedy(a, room, None, gap)[1]
    rate = _bisect(lambda t: float(a @ torch.minimum(t * a, room)) - gap)
    return float(torch.minimum(rate * a, room).norm())


def _greedy(a: Tensor, room: Tensor, budget: float | None, gap: float = float("inf")) -> tuple[float, float]:
    """Fills the room of the largest weights first, until the budget is spent or the gap is closed."""
    won = spent = 0.0
    for i in a.argsort(descending=True).tolist():
        step = float(room[i]) if budget is None else min(float(room[i]), budget - spent)
        step = min(step, (gap - won) / max(float(a[i]), 1e-300))
        won, spent = won + step * float(a[i]), spent + step
        if won >= gap or (budget is not None and spent >= budget):
            break
    return won, spent


def _bisect(rising: object) -> float:
    low, high = 0.0, 1.0
    while rising(high) < 0:  # type: ignore[operator]
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)  # type: ignore[operator]
    return high


class Case(NamedTuple):
    """A linear network, samples, their labels, and the class that alone is near."""

    net: nn.Module
    x: Tensor
    y: Tensor
    near: int
    weight: Tensor
    """Of ``near`` less that of y ``(d,)``."""

    def gaps(self) -> Tensor:
        """The margin that y has over the near class ``(N,)``."""
        with torch.no_grad():
            scores = self.net(self.x)
        return scores[:, int(self.y[0])] - scores[:, self.near]

    def won(self, adversarial: Tensor) -> Tensor:
        """How much of the margin a change has taken ``(N,)``."""
        return (adversarial.double() - self.x.double()).flatten(1) @ self.weight

    def gain(self, norm: str, eps: float, mask: Tensor | None = None) -> Tensor:
        """The most that can be taken in the ball and the box ``(N,)``."""
        return torch.tensor([gain(a, room, norm, eps) for a, room in self._rows(mask)], dtype=torch.float64)

    def least(self, norm: str, mask: Tensor | None = None) -> Tensor:
        """The norm of the smallest change that reaches the near class ``(N,)``."""
        rows = zip(self._rows(mask), self.gaps().tolist(), strict=True)
        return torch.tensor([least(a, room, norm, gap) for (a, room), gap in rows], dtype=torch.float64)

    def _rows(self, mask: Tensor | None) -> list[tuple[Tensor, Tensor]]:
        flat = None if mask is None else mask.flatten().double()
        return [(self.weight.abs(), room_of(self.weight, row, flat)) for row in self.x.double().flatten(1)]


def case(
    regime: str, classes: int, *, lead: float, count: int = 8, dtype: torch.dtype = torch.float64, seed: int = 0
) -> Case:
    """Returns a linear model on 28 × 28 values: class 0 leads the last class by ``lead``, and all others by far more.

    Args:
        regime: ``interior`` for values in [.4, .6], ``saturated`` for 0 and 1.
        classes: how many.
        lead: of class 0 over the last, at the first sample; others differ by their own content.
        count: of samples.
        dtype: of model and samples.
        seed: of weights and samples.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 1, 28, 28, generator=generator, dtype=torch.float64)
    x = x.round() if regime == "saturated" else 0.4 + 0.2 * x
    weight = torch.randn(classes, SIZE, generator=generator, dtype=torch.float64) / SIZE**0.5
    scores = x.flatten(1) @ weight.T
    bias = -scores.mean(0) - 60
    bias[0], bias[-1] = -scores[0, 0], -scores[0, -1] - lead
    linear = nn.Linear(SIZE, classes, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)
    net = nn.Sequential(nn.Flatten(), linear).to(dtype).eval()
    y = torch.zeros(count, dtype=torch.long)
    return Case(net, x.to(dtype), y, classes - 1, (linear.weight[-1] - linear.weight[0]).detach().double())
