r"""Limited-memory BFGS within bounds, for a batch of problems that do not know of each other.

Each row has its own history, line search and end. A row's next step is

.. math:: x_{t+1} = \Pi\bigl(x_t - \tau H_t \nabla f(x_t)\bigr)

with :math:`H_t` the inverse Hessian that the last steps tell of, among the values that are *free*: not held at a bound
by the gradient. The step :math:`\tau` is halved, or less by a parabola, until f falls enough along the projected path.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

ENOUGH, CURVED = 1e-4, 1e-10
"""The part of the expected fall that a step has to bring; the least curvature that is remembered, beside |y|^2."""
TRIES = 20
"""Step lengths that are tried on a direction; a row that none helps is finished."""


class Lbfgs:
    """Minimizes a function of each row; the caller evaluates.

    ``point (N, *shape)`` is the best of each row so far and ``active (N,)`` says which rows are not finished. As long
    as some are, evaluate ``trial(rows)`` for any of them and ``tell`` the values and gradients.

    Args:
        start: within the bounds ``(N, *shape)``.
        lower: bounds, of a shape that broadcasts to it.
        upper: bounds.
        history: steps that are remembered; memory is twice as many copies of ``start``.
        tolerance: a row is finished when no free value's gradient is above this part of the first one's.
    """

    def __init__(
        self, start: Tensor, lower: Tensor, upper: Tensor, *, history: int = 5, tolerance: float = 1e-5
    ) -> None:
        self.point = start.clone()
        self.active = torch.ones(len(start), dtype=torch.bool, device=start.device)
        self._lower, self._upper = (bound.expand_as(start).flatten(1) for bound in (lower, upper))
        flat = start.flatten(1)
        self._value, self._grad = flat.new_full((len(flat),), torch.inf), torch.zeros_like(flat)
        self._direction, self._tau = torch.zeros_like(flat), flat.new_zeros(len(flat))
        self._tries = torch.zeros(len(flat), dtype=torch.long, device=flat.device)
        self._moves, self._turns = flat.new_zeros(2, history, *flat.shape)
        self._known = self._tries.clone()
        self._tolerance, self._bar = tolerance, flat.new_zeros(len(flat))

    def trial(self, rows: Tensor) -> Tensor:
        """Returns where these rows are to be evaluated ``(n, *shape)``."""
        return self._trial(rows).reshape(-1, *self.point.shape[1:])

    def tell(self, rows: Tensor, value: Tensor, grad: Tensor) -> None:
        """Takes the values ``(n,)`` and gradients ``(n, *shape)`` at the rows' trials."""
        there, slope = self._trial(rows), grad.flatten(1)
        here = self.point[rows].flatten(1)
        fresh = self._value[rows] == torch.inf
        move = there - here
        expected = (self._grad[rows] * move).sum(1)
        still = ~fresh & (move == 0).all(1)  # shorter steps are lost in rounding
        self._tries[rows[still]] = TRIES
        taken = (fresh | (value <= self._value[rows] + ENOUGH * expected.clamp(max=0))) & value.isfinite() & ~still
        self._shorten(rows[~taken], value[~taken], expected[~taken])
        rows, there, slope, value, move, fresh = (t[taken] for t in (rows, there, slope, value, move, fresh))
        self._remember(rows, move, slope - self._grad[rows])
        self.point[rows] = there.reshape(-1, *self.point.shape[1:])
        self._value[rows], self._grad[rows] = value, slope
        free = self._free(rows, there, slope)
        size = (slope * free).abs().amax(1)
        self._bar[rows] = torch.where(fresh, self._tolerance * size, self._bar[rows])
        self.active[rows] = size > self._bar[rows]
        self._aim(rows[size > self._bar[rows]])

    def _trial(self, rows: Tensor) -> Tensor:
        moved = self.point[rows].flatten(1) + self._tau[rows, None] * self._direction[rows]
        return moved.maximum(self._lower[rows]).minimum(self._upper[rows])

    def _free(self, rows: Tensor, here: Tensor, slope: Tensor) -> Tensor:
        return ~(((here <= self._lower[rows]) & (slope >= 0)) | ((here >= self._upper[rows]) & (slope <= 0)))

    def _shorten(self, rows: Tensor, value: Tensor, expected: Tensor) -> None:
        """Goes to the least point of the parabola through what is known; gives up a direction, then a row."""
        rise = value - self._value[rows] - expected
        share = (-expected / (2 * rise)).nan_to_num(0.1).clamp(0.1, 0.5)
        self._tau[rows] *= share
        self._tries[rows] += 1
        stuck = rows[self._tries[rows] >= TRIES]
        self.active[stuck[self._known[stuck] == 0]] = False
        self._known[stuck] = 0
        self._aim(stuck)

    def _remember(self, rows: Tensor, move: Tensor, turn: Tensor) -> None:
        """Keeps a step and the turn of the gradient along it, where the function curves upwards."""
        on = ((move * turn).sum(1) > CURVED * turn.square().sum(1)) & (self._value[rows] < torch.inf)
        rows = rows[on]
        for memory, new in ((self._moves, move), (self._turns, turn)):
            memory[:, rows] = torch.cat([memory[1:, rows], new[on][None]])
        self._known[rows] = (self._known[rows] + 1).clamp(max=len(self._moves))

    def _aim(self, rows: Tensor) -> None:
        """Sets the next direction: the two loops over what is remembered, among the free values."""
        if not len(rows):
            return
        slope = self._grad[rows]
        free = self._free(rows, self.point[rows].flatten(1), slope).to(slope.dtype)
        known, slots = self._known[rows], len(self._moves)
        depth = int(known.max())
        q, scale = slope * free, slope.new_zeros(len(rows))
        parts = []
        for slot in range(slots - 1, slots - 1 - depth, -1):
            move, turn = self._moves[slot, rows] * free, self._turns[slot, rows] * free
            bend, curve = (move * turn).sum(1), turn.square().sum(1)
            good = (bend > CURVED * curve) & (known > slots - 1 - slot)
            share = torch.where(good, (move * q).sum(1) / torch.where(good, bend, 1), 0)
            q = q - share[:, None] * turn
            scale = torch.where((scale == 0) & good, bend / torch.where(good, curve, 1), scale)
            parts.append((move, turn, bend, good, share))
        steepest = scale == 0
        size = torch.linalg.vector_norm(slope * free, dim=1).clamp(min=torch.finfo(slope.dtype).tiny)
        span = (self._upper[rows] - self._lower[rows]).square().sum(1).sqrt()
        q = q * torch.where(steepest, 0.01 * torch.where(span.isfinite(), span, 1) / size, scale)[:, None]
        for move, turn, bend, good, share in reversed(parts):
            back = torch.where(good, (turn * q).sum(1) / torch.where(good, bend, 1), 0)
            q = q + (share - back)[:, None] * move
        downhill = (q * slope).sum(1) > 0
        q = torch.where(downhill[:, None], q, slope * free * (0.01 / size)[:, None])
        self._direction[rows], self._tau[rows], self._tries[rows] = -q * free, 1.0, 0


def minimize(
    function: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    start: Tensor,
    lower: Tensor,
    upper: Tensor,
    *,
    steps: int,
    history: int = 5,
    tolerance: float = 1e-5,
) -> Tensor:
    """Returns the best point of each row after at most ``steps`` evaluations ``(N, *shape)``.

    Args:
        function: ``function(points, rows) -> (values, gradients)``, of some of the rows.
        start: within the bounds ``(N, *shape)``.
        lower: bounds, of a shape that broadcasts to it.
        upper: bounds.
        steps: evaluations a row.
        history: steps that are remembered.
        tolerance: a row is finished when no free value's gradient is above this part of the first one's.
    """
    solver = Lbfgs(start, lower, upper, history=history, tolerance=tolerance)
    for _ in range(steps):
        rows = solver.active.nonzero()[:, 0]
        if not len(rows):
            break
        solver.tell(rows, *function(solver.trial(rows), rows))
    return solver.point
