"""One property from beginning to end: an attack on every box, then a proof of every box."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ironglass.core.errors import InputError
from ironglass.core.properties import Outcome, Property
from ironglass.ops.linear import intervals

from .attack import falsified
from .boxes import by_boxes
from .complete import by_signs
from .lined import is_relu
from .problem import Budget, Problem, Settled, make_problem
from .signs import Effort
from .witness import Witness

FEW = 16
"""Up to so many inputs boxes are halved; beyond, signs are split."""


def decided(
    net: nn.Module, prop: Property, shape: tuple[int, ...], witness: Witness, budget: Budget, seed: int = 0
) -> tuple[Outcome, Settled]:
    """Returns what came of a property, and what settled it.

    Args:
        net: takes ``(n, *shape)`` and gives ``(n, outputs)``; frozen, in eval mode.
        prop: the property.
        shape: of one input.
        witness: the judge of counterexamples.
        budget: to keep to.
        seed: of the attack's random points.
    """
    problems = [make_problem(net, [prop.cases[i] for i in group], shape) for _, group in prop.boxes()]
    for problem in problems:
        found = falsified(problem, witness, budget, seed=seed)
        if found is not None:
            return "falsified", found
    bound, reasons, late = math.inf, [], False
    for problem in problems:
        settled = _proven(problem, witness, budget)
        if settled.point is not None:
            return "falsified", settled
        bound = min(bound, settled.bound)
        reasons.append(settled.reason)
        if not settled.bound > 0:
            late = late or budget.late
            break
    whole = Settled(bound, None, -1, "; ".join(reasons) or "no input meets its conditions")
    return ("verified" if bound > 0 else "timeout" if late else "unknown"), whole


def _proven(problem: Problem, witness: Witness, budget: Budget) -> Settled:
    try:
        graph = problem.graph()
        if math.prod(problem.shape) <= FEW or not any(is_relu(step.op) for step in graph.steps):
            return by_boxes(problem, graph, witness, budget)
        with torch.no_grad():
            values = intervals(graph, problem.start)
    except InputError as error:
        return Settled(-math.inf, None, -1, f"no attack breaks it, and {error.message}")
    return by_signs(problem, graph, values, witness, budget, Effort(attack=False))


def outputs_of(net: nn.Module, point: Tensor | None, outputs: int) -> Tensor:
    """Returns what the network makes of a counterexample ``(1, outputs)``; nothing of nothing."""
    if point is None:
        return torch.zeros(0, outputs)
    with torch.no_grad():
        out: Tensor = net(point)
    return out
