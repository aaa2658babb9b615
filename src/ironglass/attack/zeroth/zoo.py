"""ZOO: zeroth-order optimization, coordinate by coordinate."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ironglass.core.access import Model
from ironglass.core.draws import Draws
from ironglass.core.errors import InputError
from ironglass.core.method import attack
from ironglass.core.values import Goal, Threat
from ironglass.ops import lp
from ironglass.ops.estimators import BLOCK, Probe, bilinear
from ironglass.ops.zeroth import Adam, BlackBox, Reduced, climb, reduced

Solver = Literal["adam", "newton"]
CELLS = 8
"""Cells along an axis over which importance takes the largest change."""


@attack(
    title="ZOO",
    paper="chen2017zoo",
    access="scores",
    norms=("l2", "linf"),
    cost="max_queries",
    lecture="black-box evasion: scores, zeroth-order, coordinates",
)
def zoo(
    model: Model,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    *,
    max_queries: int = 5000,
    solver: Solver = "adam",
    samples: int = 16,
    radius: float = 0.01,
    step_size: float | None = None,
    weight: float = 1.0,
    period: int = 100,
    sizes: tuple[int, ...] = (),
    importance: bool = False,
    seed: int = 0,
) -> Tensor:
    r"""Adam or Newton's method, on a few random coordinates a step.

    .. math:: \hat g_i = \frac{F(\delta + h e_i) - F(\delta - h e_i)}{2h}, \qquad
        \hat h_i = \frac{F(\delta + h e_i) - 2F(\delta) + F(\delta - h e_i)}{h^2}

    Adam keeps its moments coordinate by coordinate; Newton's step is :math:`\eta\, \hat g_i / \hat h_i`, with curvature
    that is not usable set to 1. With a finite eps ``F`` is the margin, of points drawn into the ball. With an infinite
    one it is :math:`c \min(m, 0) - \|\delta\|_2^2`, and the weight ``c`` is sought meanwhile. A step costs
    ``2 * samples + 1`` queries, whatever is said of coordinates.

    Args:
        max_queries: queries a sample, beside the runner's first.
        solver: ``adam`` or ``newton``.
        samples: coordinates a step.
        radius: ``h``, in spans of the bounds.
        step_size: of Adam in input units, or the factor of Newton's step; if None, for Adam three times what eps allows
            a value, a tenth of the span with an infinite eps, and 1 for Newton.
        weight: the first ``c``.
        period: steps after which it is changed.
        sizes: larger sides of the small pictures the change is sought in, one after the other with an equal part of the
            queries, enlarged bilinearly; at full size if empty.
        importance: draw coordinates in proportion to the largest change near them, once there is any.
        seed: of the coordinates.

    Returns:
        The best samples asked ``(N, *shape)``, within ball and bounds; with an infinite eps the shortest that succeed.

    Raises:
        InputError: if an option is out of range.
    """
    if min((samples, period, *sizes)) < 1 or not weight > 0:
        given = f"samples={samples}, period={period}, sizes={sizes}, weight={weight}"
        raise InputError(given, "give at least 1 of each, and a weight above 0")
    box = BlackBox(model, x, goal, threat, max_queries=max_queries)
    draws, shape, span = model.draws(seed), tuple(x.shape[1:]), model.bounds.span
    if step_size is None:
        step_size = 1.0 if solver == "newton" else box.scale(3.0, 0.1)
    code: Tensor | None = None
    for stage, size in enumerate(sizes or (max(shape[-2:]),)):
        small, decode = bilinear(shape, size)
        box.limit(-(-max_queries * (stage + 1) // max(len(sizes), 1)))
        search = reduced(box, decode, weight, period)
        code = x.new_zeros(len(x), *small) if code is None else _resized(code, small)
        estimate = Coordinates(search, box, samples, radius * span, importance)
        rule = Steps(box, code, search, step_size, solver, small == shape)
        code = climb(box, draws, estimate, rule, start=code, ask=search.ask, mask=False)
    return box.best


class Slopes(NamedTuple):
    """What differences say of some coordinates: slope and curvature, 0 where not chosen ``(n, *shape)``."""

    chosen: Tensor
    grad: Tensor
    curvature: Tensor


class Coordinates:
    """Central differences at a few coordinates, drawn at random without replacement.

    Args:
        search: the function of the code, and its inputs.
        box: whose mask is kept to where codes are as large as samples.
        count: coordinates.
        step: of a difference.
        importance: draw in proportion to the largest change near a coordinate.
    """

    needs_base = True
    least = 2

    def __init__(self, search: Reduced, box: BlackBox, count: int, step: float, importance: bool) -> None:
        self._search, self._box, self._count, self._step = search, box, count, step
        self._importance = importance

    def __call__(self, at: Probe) -> Slopes:
        """Returns slopes and curvatures; a difference that the bounds cut is divided by the way really gone."""
        chunks = [self._slopes(part) for part in at.chunks(2 * min(self._count, BLOCK))]
        return Slopes(*(torch.cat(parts) for parts in zip(*chunks, strict=True)))

    def _slopes(self, at: Probe) -> Slopes:
        assert at.base is not None
        point, total = at.point.flatten(1), at.point[0].numel()
        index = self._drawn(at.draws, at.point, at.rows)
        count = (at.left // 2).clamp(0, index.shape[1])
        ends = point[:, None, None].repeat(1, index.shape[1], 2, 1)
        for side, sign in enumerate((1, -1)):
            move = torch.full_like(ends[:, :, side, :1], sign * self._step)
            ends[:, :, side].scatter_add_(2, index[:, :, None], move)
        codes = ends.reshape(len(point), -1, *at.point.shape[1:])
        here = self._search.inputs(at.point[:, None], at.rows)
        way = (self._search.inputs(codes, at.rows) - here).flatten(2).abs().sum(2).reshape(len(point), -1, 2)
        values = at.ask(codes, at.rows, count * 2).reshape(len(point), -1, 2)
        up, down = (values - at.base[:, None, None]).unbind(2)
        asked = (torch.arange(index.shape[1], device=index.device) < count[:, None]) & (way.sum(2) > 0)
        both = way / way.amax(2, keepdim=True).clamp(min=torch.finfo(way.dtype).tiny) > 0.5
        sides = both.sum(2).clamp(min=1)
        grad = torch.where(asked, (torch.where(both[..., 0], up, 0) - torch.where(both[..., 1], down, 0)), 0)
        grad = grad / (sides * self._step)
        curvature = torch.where(asked & (sides == 2), (up + down) / self._step**2, 0)
        spread = torch.zeros(len(point), total, dtype=point.dtype, device=point.device)
        named = (spread.scatter(1, index, value.to(spread.dtype)) for value in (asked, grad, curvature))
        return Slopes(*(value.reshape_as(at.point) for value in named))

    def _drawn(self, draws: Draws, code: Tensor, rows: Tensor) -> Tensor:
        """The coordinates ``(n, count)``: the largest of randomly shifted log-chances are drawn as the chances say."""
        shape = code.shape[1:]
        chance = torch.ones_like(code)
        if self._importance and len(shape) > 1 and bool((code != 0).any()):
            window = [-(-side // CELLS) for side in shape[-2:]]
            pooled = F.max_pool2d(code.abs().reshape(len(code), -1, *shape[-2:]), window, ceil_mode=True)
            near = F.interpolate(pooled, shape[-2:], mode="nearest").reshape(code.shape)
            chance = near + lp.column(1e-3 * near.flatten(1).amax(1), near) + 1e-12
        mask = self._box.mask(rows)
        if mask is not None and code.shape == self._box.x[rows].shape:
            chance = chance * mask
        noise = draws.uniform(shape, rows, torch.float64)
        keys = chance.double().log() - (-noise.clamp(min=1e-300).log()).log()
        return keys.flatten(1).topk(min(self._count, code[0].numel()), dim=1).indices


class Steps:
    """The step rule of both solvers.

    Args:
        box: that is asked.
        code: for its shape ``(N, *small)``.
        search: the inputs that codes stand for, and the weights.
        step_size: of Adam, or Newton's factor.
        solver: which.
        whole: whether a code is a change itself; then it is kept to ball, bounds and mask.
    """

    def __init__(
        self, box: BlackBox, code: Tensor, search: Reduced, step_size: float, solver: Solver, whole: bool
    ) -> None:
        self._box, self._search, self._whole = box, search, whole
        self._adam, self._factor, self._newton = Adam(box, code, search, step_size), step_size, solver == "newton"

    def __call__(self, at: Slopes, here: Tensor, rows: Tensor, step: int) -> Tensor:
        """Returns where to go."""
        if self._newton:
            bend = -at.curvature  # the search ascends: usable is what falls off on both sides
            usable = torch.where(bend <= 0, 1.0, bend.clamp(min=0.1))
            move = self._factor * at.grad / usable
        else:
            move = self._adam.move(at.grad, at.chosen, rows)
        if self._search.weights is not None:
            self._search.weights.update(rows, step)
        if not self._whole:
            return here + move
        x = self._box.x[rows]
        return self._box.project(x + here + move, rows) - x


def _resized(code: Tensor, small: tuple[int, ...]) -> Tensor:
    """The code enlarged bilinearly to another shape."""
    plane = small[-2:] if len(small) > 1 else (1, small[-1])
    old = code.shape[-2:] if code.ndim > 2 else (1, code.shape[-1])
    planes = F.interpolate(code.reshape(len(code), -1, *old), plane, mode="bilinear", align_corners=False)
    return planes.reshape(len(code), *small)
