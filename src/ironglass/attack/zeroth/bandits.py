"""Bandits with time and data priors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.errors import InputError
from ironglass.core.method import attack
from ironglass.core.values import Goal, Threat
from ironglass.ops import lp
from ironglass.ops.estimators import Probe, directions, enlarged, tile_of
from ironglass.ops.zeroth import BlackBox, climb, steepest


@attack(
    title="Bandits with priors",
    paper="ilyas2019bandits",
    access="scores",
    norms=("linf", "l2"),
    finite=True,
    cost="max_queries",
    lecture="black-box evasion: scores, priors",
    tags=("control",),
)
def bandits(
    model: Model,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    *,
    max_queries: int = 5000,
    radius: float = 0.1,
    step_size: float | None = None,
    rate: float = 0.1,
    exploration: float = 1.0,
    tile: int | None = None,
    seed: int = 0,
) -> Tensor:
    r"""Keep a guess of the gradient from step to step, and mend it by two queries.

    .. math:: \hat g = \frac{m(x + \mu q_+) - m(x + \mu q_-)}{2\rho\mu}\,u, \quad
        q_\pm = \frac{v \pm \rho u}{\|v \pm \rho u\|}, \quad v \leftarrow A(v, \hat g), \quad
        x \leftarrow \Pi(x + \eta\,\mathrm{steepest}(v))

    The guess ``v`` is a picture of squares. In linf it lies in [-1, 1] and is changed by the exponentiated gradient; in
    l2 by a plain step. A step costs two queries.

    Args:
        max_queries: queries a sample, beside the runner's first.
        radius: ``μ``, in spans of the bounds.
        step_size: of a step in the threat's norm, input units; if None, eps / 20.
        rate: how fast the guess is changed, where the estimates have a root mean square of 1.
        exploration: ``ρ``, of the search beside the guess.
        tile: side of the squares of values that move alike; 1 for single values, a fourteenth of a picture if None.
        seed: of the directions.

    Returns:
        The best samples asked ``(N, *shape)``, within ball and bounds.

    Raises:
        InputError: if the threat's eps is infinite, or an option is out of range.
    """
    if not (rate > 0 and exploration > 0):
        raise InputError(f"rate={rate}, exploration={exploration}", "give both above 0, e.g. 0.1 and 1.0")
    box = BlackBox(model, x, goal, threat, max_queries=max_queries)
    guess = Guess(x, tile_of(x.shape[1:], tile), radius * model.bounds.span, exploration, rate, threat.norm == "linf")
    climb(box, model.draws(seed), guess, steepest(box, threat.eps / 20 if step_size is None else step_size))
    return box.best


class Guess:
    """A gradient that is guessed, and mended by two queries a call.

    Args:
        x: the samples, for their shape ``(N, *shape)``.
        tile: side of the squares of values that are alike.
        radius: of a difference, input units.
        exploration: of the search beside the guess.
        rate: of its change.
        exponentiated: keep it in [-1, 1] by the exponentiated gradient, in place of plain steps.
    """

    needs_base = False
    least = 2

    def __init__(
        self, x: Tensor, tile: int, radius: float, exploration: float, rate: float, exponentiated: bool
    ) -> None:
        shape = x.shape[1:]
        small = tuple(-(-side // tile) for side in shape[-2:])
        self._now = x.new_zeros((len(x), *shape[: len(shape) - len(small)], *small))
        self._size = x.new_zeros(len(x))
        self._count = x.new_zeros(len(x))
        self._tile, self._radius, self._exploration, self._rate = tile, radius, exploration, rate
        self._exponentiated = exponentiated

    def __call__(self, at: Probe) -> Tensor:
        """Returns the guesses, mended ``(n, *shape)``."""
        guess = self._now[at.rows]
        u = directions(at.draws, "sphere", (1, *guess.shape[1:]), at.rows, guess.dtype)[:, 0]
        ends = torch.stack([guess + self._exploration * u, guess - self._exploration * u], 1)
        ways = self._enlarged(ends.flatten(0, 1), at).reshape(len(guess), 2, *at.point.shape[1:])
        if at.mask is not None:
            ways = ways * at.mask[:, None]
        length = torch.linalg.vector_norm(ways.flatten(2), dim=2).clamp(min=torch.finfo(u.dtype).tiny)
        length = length.reshape(*length.shape, *(1,) * (ways.ndim - 2))
        values = at.ask(at.point[:, None] + self._radius * ways / length, at.rows, torch.full_like(at.rows, 2))
        change = (values[:, 0] - values[:, 1]) / (2 * self._radius * self._exploration)
        self._count[at.rows] += 1
        self._size[at.rows] += change.square()
        usual = (self._size[at.rows] / self._count[at.rows]).sqrt().clamp(min=torch.finfo(u.dtype).tiny)
        grad = u * lp.column(change / usual * u[0].numel() ** 0.5, u)
        self._now[at.rows] = guess = self._mended(guess, grad)
        return self._enlarged(guess, at)

    def _enlarged(self, small: Tensor, at: Probe) -> Tensor:
        return enlarged(small, (len(small), *at.point.shape[1:]), self._tile)

    def _mended(self, guess: Tensor, grad: Tensor) -> Tensor:
        if not self._exponentiated:
            return guess + grad * (self._rate / math.sqrt(guess[0].numel()))
        logit = torch.log1p(guess) - torch.log1p(-guess) + 2 * self._rate * grad
        return torch.tanh(logit / 2).clamp(-1 + 1e-6, 1 - 1e-6)
