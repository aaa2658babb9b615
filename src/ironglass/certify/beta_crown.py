"""Beta-CROWN: branch and bound over the signs of ReLU inputs, complete for ReLU networks."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from ironglass.core.access import Model
from ironglass.core.errors import InputError
from ironglass.core.method import certify
from ironglass.core.properties import margin_property
from ironglass.core.values import Threat
from ironglass.ops.bounds import Interval, region
from ironglass.ops.branching.complete import by_signs
from ironglass.ops.branching.problem import Budget, make_problem
from ironglass.ops.branching.signs import Effort
from ironglass.ops.branching.witness import Witness
from ironglass.ops.capture import capture
from ironglass.ops.graph import Graph
from ironglass.ops.linear import intervals, margins
from ironglass.ops.proofs import opened, weakest


@certify(
    title="Beta-CROWN branch and bound",
    paper="wang2021betacrown",
    access="training",
    norms=("linf", "l2", "l1"),
    cost="500",
    lecture="verification-based evaluation",
)
def beta_crown(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    parts: int = 2000,
    steps: int = 12,
    gap: float | None = None,
    time: float | None = None,
    double: bool = False,
) -> Tensor:
    r"""Split the ball on the signs of ReLU inputs, and bound each part with a multiplier for each sign.

    Where the input of ReLU j is known to have the sign :math:`s_j`, the ReLU is exact, and for every
    :math:`\beta \ge 0` and every slope :math:`\alpha \in [0, 1]` of the others

    .. math:: \min_{x : s_j z_j(x) \ge 0} f(x) \ge \min_x \Bigl(\underline f_\alpha(x) - \sum_j \beta_j s_j z_j(x)\Bigr)

    Both are raised together by projected Adam on the bound's own gradient. The part with the lowest bound is split
    next: of a few inputs whose lines lose most, at the one whose weaker half has the best bound (filtered smart
    branching). A part without an open ReLU is settled by a linear program, whose multipliers are put into the same
    bound. Where that does not end soon in linf, the first layers of a small deep network are split instead, and all
    intervals behind them are bounded again on each piece, with the half-spaces that the signs leave of the ball. What
    CROWN proves at once is not branched on, nor what a descent breaks.

    It is complete in linf: with enough parts, every margin's sign is decided, up to rounding. In l2 and l1 parts whose
    every sign is known may stay open.

    Args:
        parts: that a sample is split into at most.
        steps: of the ascent of each part's bound.
        gap: None to stop as soon as the sign of the margin is decided; a number to go on until the margin is known as
            exactly: in linf the result is then at most this below the least margin of the ball.
        time: seconds a sample; None for no limit. With a limit results depend on the machine.
        double: compute the bounds in float64 though the network is float32: tighter by the rounding, slower.

    Returns:
        Lower bounds of :math:`\min_{j \ne y} z_y - z_j` over the ball ``(N,)``; where a point of the ball was found to
        be misclassified, 0 or below. Minus infinity where nothing finite is proven.

    Raises:
        InputError: if the network has an operator that cannot be bounded, or an option is out of range.

    Example:
        >>> import torch, ironglass as ig
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2)).eval()
        >>> for layer in (net[0], net[2]):
        ...     _ = layer.weight.data.copy_(torch.eye(2)), layer.bias.data.zero_()
        >>> result = ig.certify.beta_crown(net, torch.tensor([[0.9, 0.2]]), torch.tensor([0]), ig.Linf(0.1))
        >>> round(float(result.margin), 3)
        0.5
    """
    if parts < 1 or steps < 0 or (gap is not None and not gap > 0) or (time is not None and not time > 0):
        raise InputError(
            f"parts={parts}, steps={steps}, gap={gap}, time={time}",
            "give parts of at least 1, steps of at least 0, and gap and time above 0",
        )
    net, graph, start = _at_home(model, x, threat, double)
    y = y.to(start.lower.device)
    values = intervals(graph, start)
    found = margins(graph, start, y, values)
    effort = Effort(steps=steps, gap=gap)
    right = model.scores(x).argmax(1).to(y) == y
    for row in right.nonzero()[:, 0].tolist() if gap is None else range(len(x)):
        others = torch.arange(found.shape[1], device=y.device) != y[row]
        hard = others & ~(found[row] > 0) if gap is None else others
        if bool(hard.any()):
            one = {index: _row(value, row, len(x)) for index, value in values.items()}
            limit = Budget(time, parts)
            better = _searched(net, graph, _row(start, row, len(x)), one, y[row], hard, limit, effort)
            found[row] = torch.where(hard, torch.maximum(found[row], better), found[row])
    return weakest(found, y, x)


def _at_home(model: Model, x: Tensor, threat: Threat, double: bool) -> tuple[nn.Module, Graph, Interval]:
    """The network, its graph and the region; the search runs on the CPU, a network elsewhere is copied there."""
    net = model.module()
    held = next((p for p in [*net.parameters(), *net.buffers()] if p.is_floating_point()), x)
    if held.device.type == "cpu":
        return net, *opened(model, x, threat, double)
    net, x = copy.deepcopy(net).cpu(), x.cpu()
    graph = capture(net, x.to(held.dtype), torch.float64)
    return net, graph, region(x, threat, model.bounds, held.dtype, torch.float64)


def _searched(
    net: nn.Module,
    graph: Graph,
    start: Interval,
    values: dict[int, Interval],
    label: Tensor,
    hard: Tensor,
    budget: Budget,
    effort: Effort,
) -> Tensor:
    """A bound that holds for all the hard margins of one sample."""
    low, high = (end.flatten().cpu() for end in (start.lower, start.upper))
    prop = margin_property(int(label), len(hard), low, high)
    cases = [case for case in prop.cases if bool((case.weights[0].to(hard.device) < 0)[hard].any())]
    shape = tuple(start.lower.shape[1:])
    problem = replace(make_problem(net, cases, shape, double=start.lower.dtype == torch.float64), start=start)
    witness = Witness(net) if start.ball is None else None
    return torch.tensor(by_signs(problem, graph, values, witness, budget, effort).bound, dtype=torch.float64)


def _row(value: Interval, row: int, count: int) -> Interval:
    """One sample's interval; what all share stays as it is."""

    def cut(tensor: Tensor) -> Tensor:
        return tensor[row : row + 1] if len(tensor) == count else tensor

    ball = value.ball
    if ball is not None:
        ball = replace(ball, centre=cut(ball.centre), scale=cut(ball.scale), noise=cut(ball.noise))
    return Interval(cut(value.lower), cut(value.upper), ball)
