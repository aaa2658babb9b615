"""Integrated gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.errors import InputError, suggest
from ironglass.core.method import explain
from ironglass.core.results import Map
from ironglass.ops import baselines, inside, lp
from ironglass.ops.targets import logit

RULES = ("gauss", "midpoint", "trapezoid", "right")
PANELS, NODES = 16, 3
"""Panels that the path is cut into at first, and Gauss nodes in each; an odd number, so that one is the centre."""
ROWS = 32
"""Points on the paths that are worked on at a time, where the samples are fewer."""
STORED = 1 << 24
"""Values that the panels of the samples in work may hold together."""


@explain(
    title="Integrated gradients",
    paper="sundararajan2017",
    access="gradient",
    cost="2 * max(steps, min(max_steps, 72))",
    kind="specific",
    lecture="gradient explanations: integrated gradients",
)
def integrated_gradients(
    model: Model,
    x: Tensor,
    target: Tensor,
    *,
    baseline: str | float = "black",
    tol: float = 0.01,
    max_steps: int = 256,
    steps: int | None = None,
    rule: Literal["gauss", "midpoint", "trapezoid", "right"] = "gauss",
    at: str | None = None,
    unit: str | None = None,
) -> Map:
    r"""Share out the change of the target's logit from a baseline among the input values.

    .. math:: R_i = (x_i - x'_i) \int_0^1 \frac{\partial f_t}{\partial x_i}\big(x' + \tau (x - x')\big)\, d\tau,\qquad
              \sum_i R_i = f_t(x) - f_t(x')

    The integral is worked out to a tolerance. What the gradients of a part of the path add up to must be the change of
    the logit over that part, so the error of each part is known. The path is cut into panels, and the worst is halved
    until the sample's map is complete to ``tol``; then the sample leaves. The error that remains comes with the map.

    Args:
        baseline: ``black``, ``mid`` or ``white`` for the low end, middle or high end of the bounds; ``mean`` for the
            image's mean colour; ``blur`` for the blurred image; or a number in input units. At a layer a number is an
            activation, a name what the layer gives for such an input.
        tol: the share of the change that the map may miss.
        max_steps: gradients a sample, at most; one that is not complete by then reports its larger error.
        steps: take a fixed rule of so many gradients instead, whatever its error.
        rule: the fixed rule: ``gauss``, ``midpoint``, ``trapezoid``, or the paper's ``right`` end of every step.
        at: a layer; its values are explained in place of the input's.
        unit: explain a unit in place of a class: ``layer[channel]``, ``layer[channel, row, column]``.

    Returns:
        Values ``(N, *shape)`` in logits, of the layer's shape where there is one; and the completeness error of each
        sample as a share of the change.

    Raises:
        InputError: if an option is out of range, or there is no such baseline, rule, layer or unit.
    """
    if rule not in RULES:
        raise InputError(f"no rule is called '{rule}'", suggest(rule, RULES))
    if steps is None and rule != "gauss":
        raise InputError(f"the rule '{rule}' is for a fixed number of steps", f"steps=50, rule='{rule}'")
    if max_steps < NODES or (steps is not None and steps < (2 if rule == "trapezoid" else 1)):
        raise InputError(f"steps={steps}, max_steps={max_steps}: too few", "e.g. steps=50, or max_steps=256")
    model, x, target = inside.enter(model, x, target, at, unit)
    start = inside.baseline(model, x, baseline)
    path = Lines(model, start, x - start, target)
    if steps is not None:
        return _fixed(path, *_rule(rule, steps, x))
    panels = PANELS + max_steps // (2 * NODES)
    block = max(STORED // (panels * x[0].numel()), 1)
    rows = torch.arange(len(x), device=x.device)
    maps = [_adaptive(path.take(rows[i : i + block]), tol, max_steps) for i in range(0, len(x), block)]
    values, errors = zip(*maps, strict=True)
    return Map(torch.cat(values), torch.cat(errors))


class Lines(NamedTuple):
    """The straight lines from the baselines ``start (N, *shape)`` by ``change`` to the samples."""

    model: Model
    start: Tensor
    change: Tensor
    target: Tensor

    def take(self, rows: Tensor) -> Lines:
        """Returns the lines of those samples."""
        return Lines(self.model.take(rows), self.start[rows], self.change[rows], self.target[rows])

    def points(self, rows: Tensor, at: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yields the points ``at (n, k)`` of the lines ``rows (n,)`` by columns: which, the points, and their lines."""
        width = max(ROWS // len(rows), 1)
        for first in range(0, at.shape[1], width):
            part = at[:, first : first + width]
            lines = rows.repeat_interleave(part.shape[1])
            share = lp.column(part, self.start)
            yield slice(first, first + width), self.start[lines] + share * self.change[lines], lines

    def logits(self, rows: Tensor, at: Tensor) -> Tensor:
        """Returns the target's logit at those points ``(n, k)``."""
        of = logit(self.target)
        found = [of(self.model.scores(x, lines), lines) for _, x, lines in self.points(rows, at)]
        return torch.cat([part.reshape(len(rows), -1) for part in found], 1)

    def integral(self, rows: Tensor, at: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the gradients at those points, weighted, summed and times the change; and the logits there."""
        total, logits, of = torch.zeros_like(self.change[rows]), torch.empty_like(at), logit(self.target)
        for columns, x, lines in self.points(rows, at):
            value, grad, _ = self.model.value_and_grad(x, of, lines)
            weight = weights[:, columns]
            grad = grad.reshape(*weight.shape, *grad.shape[1:])
            total += torch.einsum("nk,nk...->n...", weight, grad)
            logits[:, columns] = value.reshape(weight.shape)
        return total * self.change[rows], logits


class Panel(NamedTuple):
    """One part of each line: where it lies, the logits at its ends and centre, its share of the map, and their sum."""

    low: Tensor
    high: Tensor
    first: Tensor
    middle: Tensor
    last: Tensor
    share: Tensor
    total: Tensor

    @property
    def missed(self) -> Tensor:
        """What the share adds up to, less the change of the logit ``(n,)``."""
        return self.total - (self.last - self.first)

    def where(self, mask: Tensor, other: Panel) -> Panel:
        """Returns this panel on the lines of the mask, the other one on the rest."""
        pairs = zip(self, other, strict=True)
        return Panel(*(torch.where(lp.column(mask, a), a, b) for a, b in pairs))


def _panel(path: Lines, rows: Tensor, low: Tensor, high: Tensor, first: Tensor, last: Tensor) -> Panel:
    nodes, weights = _rule("gauss", NODES, path.start)
    size = (high - low)[:, None]
    share, logits = path.integral(rows, low[:, None] + size * nodes, size * weights)
    return Panel(low, high, first, logits[:, NODES // 2], last, share, share.flatten(1).sum(1))


def _adaptive(path: Lines, tol: float, max_steps: int) -> tuple[Tensor, Tensor]:
    """Returns the maps to the tolerance, and their errors; every round halves each sample's worst panel."""
    values = torch.empty_like(path.change)
    errors, rows = values.new_empty(len(values)), torch.arange(len(values), device=values.device)
    count = min(PANELS, max_steps // NODES)
    edges = torch.linspace(0, 1, count + 1, dtype=values.dtype, device=values.device).expand(len(values), -1)
    at, f = edges.unbind(1), path.logits(rows, edges).unbind(1)
    panels = [_panel(path, rows, at[i], at[i + 1], f[i], f[i + 1]) for i in range(count)]
    start, end, spent = f[0], f[-1], count * NODES
    while True:
        total = torch.stack([panel.total for panel in panels]).sum(0)
        error = baselines.incompleteness(total, start, end)
        spent += 2 * NODES
        done = (error <= tol) | (spent > max_steps)
        values[rows[done]] = torch.stack([panel.share[done] for panel in panels]).sum(0)
        errors[rows[done]] = error[done]
        if bool(done.all()):
            return values, errors
        rows, start, end = rows[~done], start[~done], end[~done]
        panels = [Panel(*(part[~done] for part in panel)) for panel in panels]
        worst = torch.stack([panel.missed.abs() for panel in panels]).argmax(0)
        split = panels[0]
        for i, panel in enumerate(panels[1:], 1):
            split = panel.where(worst == i, split)
        centre = (split.low + split.high) / 2
        left = _panel(path, rows, split.low, centre, split.first, split.middle)
        right = _panel(path, rows, centre, split.high, split.middle, split.last)
        panels = [*(left.where(worst == i, panel) for i, panel in enumerate(panels)), right]


def _fixed(path: Lines, nodes: Tensor, weights: Tensor) -> Map:
    """Returns the maps by one rule over the whole path, and their errors."""
    rows = torch.arange(len(path.start), device=path.start.device)
    ends = path.logits(rows, nodes.new_tensor([0.0, 1.0]).expand(len(rows), 2))
    values, _ = path.integral(rows, nodes.expand(len(rows), -1), weights.expand(len(rows), -1))
    return Map(values, baselines.incompleteness(values.flatten(1).sum(1), ends[:, 0], ends[:, 1]))


def _rule(rule: str, steps: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the nodes and weights of a rule over [0, 1], in the precision of the samples."""
    uniform = np.full(steps, 1 / steps)
    if rule == "gauss":
        nodes, weights = (side / 2 for side in np.polynomial.legendre.leggauss(steps))
        nodes = nodes + 0.5
    elif rule == "midpoint":
        nodes, weights = (np.arange(steps) + 0.5) / steps, uniform
    elif rule == "right":
        nodes, weights = np.arange(1, steps + 1) / steps, uniform
    else:
        nodes, weights = np.linspace(0, 1, steps), np.full(steps, 1 / (steps - 1))
        weights[[0, -1]] /= 2
    return like.new_tensor(nodes), like.new_tensor(weights)
