"""Functions of one value as a line and the points where it bends, and which steps of a graph can be written so."""

from __future__ import annotations

from typing import Any, cast

import torch

from ironglass.core.errors import InputError
from ironglass.ops.graph import Absolute, Affine, Bend, Cat, Graph, Input, Monotone, Pool, Ramp, Step, Sum

from .matrices import Vector, vector


def check_pieces(graph: Graph) -> None:
    """Checks that every step of a graph can be written.

    Raises:
        InputError: if one cannot, with its name.
    """
    for step in graph.steps:
        if not isinstance(step.op, Affine | Sum | Cat | Input) and not pools(step.op):
            bends(step)


def pools(op: Any) -> bool:
    """Returns whether an operation is a maximum over windows."""
    return isinstance(op, Monotone) and isinstance(op.shape, Pool)


def bends(step: Step) -> tuple[float, Vector | float, list[tuple[Vector, float]]]:
    """Returns a function of one value as its line far below, ``slope * z + shift``, and where it bends by how much.

    Raises:
        InputError: if it does not consist of a few straight pieces.
    """
    op = step.op
    shape = Bend(0.0, -1.0, 1.0) if isinstance(op, Absolute) else op.shape if isinstance(op, Monotone) else None
    if isinstance(shape, Bend):
        at = _spread(shape.at, step)
        value = at if isinstance(op, Absolute) else vector(cast(Monotone, op)(torch.from_numpy(at)))
        return shape.left, value - shape.left * at, [(at, shape.right - shape.left)]
    if isinstance(shape, Ramp):
        low, high = _spread(shape.low, step), _spread(shape.high, step)
        return 0.0, low, [(low, 1.0), (high, -1.0)]
    name = getattr(op, "name", type(op).__name__.lower())
    raise InputError(
        f"no finite number of linear pieces writes {name} (the operator {step.name})",
        "use a bound for general activations, such as interval or crown; or a network of relu, leaky_relu, clamp, abs "
        "and max pooling",
    )


def _spread(value: float | torch.Tensor, step: Step) -> Vector:
    """A limit as one value for each of the step's."""
    return vector(torch.as_tensor(value, dtype=torch.float64).expand(1, *step.shape))
