r"""A network as a list of the few operations that bounds can pass."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Form = Literal["move", "repeat", "diagonal", "matrix", "kernel", "other"]


class Stencil(NamedTuple):
    """How a convolution walks: of each spatial dimension the stride, padding and dilation; and its groups."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


@dataclass(frozen=True, slots=True, eq=False)
class Bend:
    """The shape of two straight pieces: the point where they meet, and their slopes."""

    at: float | Tensor
    left: float
    right: float


@dataclass(frozen=True, slots=True, eq=False)
class Ramp:
    """The shape of a clamp: flat, slope 1 between the limits, flat."""

    low: float | Tensor
    high: float | Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Smooth:
    """A smooth shape: its derivative, where it turns from convex to concave or back, and whether it starts convex.

    ``steepest`` is at least the largest absolute value of the derivative; None where there is none, and the derivative
    is steepest at an end of every interval, as that of a convex or a concave function is.
    """

    slope: Callable[[Tensor], Tensor]
    turns: tuple[float, ...]
    convex: bool
    steepest: float | None = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """The windows of a maximum: the places in the flattened last dimensions ``(outputs, size)``, repeated if too few.

    ``real`` is False where a place is such a repetition, ``dims`` says how many dimensions windows lie in.
    """

    places: Tensor
    real: Tensor
    dims: int


Shape = Bend | Ramp | Smooth | Pool


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    r""":math:`y = W x + b` for one sample.

    Args:
        map: ``(x, weight, bias) -> W x + b``; the bias may be None or a scalar.
        weight: what ``W`` is made of, linearly; its absolute value gives :math:`|W|`. Where W has no weights but is 0
            or positive, 1.
        bias: as ``map`` takes it.
        terms: how many products are summed into one value, there or on the way back; 0 where values only move.
        form: ``move`` (each value to at most one place), ``repeat`` (to any number of places), ``diagonal``, ``matrix``
            (over the last dimension), ``kernel`` (of a convolution, zero padded) or ``other``.
        size: at least :math:`|b|`, and the sum of what cancels in it.
        back: how many products are summed into one value on the way back; 0 for ``terms``.
        pull: ``(rows, shape) -> rows W`` where that is known; else it is derived.
        stencil: of a convolution.
        rising: whether no factor is negative and there is no bias: sums of what is not negative are not, and are as
            precise as their terms.
    """

    map: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    weight: Tensor
    bias: Tensor | None = None
    terms: int = 0
    form: Form = "other"
    size: Tensor | None = None
    back: int = 0
    pull: Callable[[Tensor, Sequence[int]], Tensor] | None = None
    stencil: Stencil | None = None
    rising: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """Returns ``W x + b``."""
        return self.map(x, self.weight, self.bias)

    def absolute(self, x: Tensor, offset: Tensor | None = None) -> Tensor:
        """Returns ``|W| x + offset``; the offset has the shape of the bias, or is a scalar."""
        return self.map(x, self.weight.abs(), offset)

    def adjoint(self, rows: Tensor, shape: Sequence[int]) -> Tensor:
        """Returns ``rows W`` for rows ``(n, *output)``: ``(n, *shape)``, the shape of one input."""
        if self.pull is not None:
            return self.pull(rows, shape)
        if self.form == "matrix":
            return rows @ self.weight
        with torch.enable_grad():
            x = rows.new_zeros(len(rows), *shape, requires_grad=True)
            keep = rows.requires_grad or self.weight.requires_grad
            return torch.autograd.grad(self.map(x, self.weight, None), x, rows, create_graph=keep)[0]


@dataclass(frozen=True, slots=True, eq=False)
class Monotone:
    """A function that never falls in any value of its input: an activation, or a maximum over windows.

    Args:
        name: as torch calls it.
        function: of a batch.
        error: how far computing it may be off, in units of the relative precision; 0 where it is exact.
        shape: what linear bounds go by; None where they are not known.
        least: what no value, computed in whatever precision, is below.
    """

    name: str
    function: Callable[[Tensor], Tensor]
    error: float = 0
    shape: Shape | None = None
    least: float = -math.inf

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the function's values."""
        return self.function(x)


@dataclass(frozen=True, slots=True, eq=False)
class Valley:
    """A function of each value that falls up to ``bottom`` and rises from there; nowhere larger than ``|x|``.

    ``error`` says how far computing it may be off, in units of the relative precision times ``|x|``.
    """

    name: str
    function: Callable[[Tensor], Tensor]
    bottom: float
    error: float
    shape: Shape

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the function's values."""
        return self.function(x)


@dataclass(frozen=True, slots=True)
class Absolute:
    """The absolute value of each value."""

    def __call__(self, x: Tensor) -> Tensor:
        """Returns ``|x|``."""
        return x.abs()


@dataclass(frozen=True, slots=True)
class Sum:
    """Inputs added, each times its factor; smaller ones are broadcast."""

    factors: tuple[float, ...]

    def __call__(self, *xs: Tensor) -> Tensor:
        """Returns the weighted sum."""
        return sum((x * factor for x, factor in zip(xs, self.factors, strict=True)), xs[0].new_zeros(()))


@dataclass(frozen=True, slots=True)
class Cat:
    """Inputs joined along a dimension."""

    dim: int

    def __call__(self, *xs: Tensor) -> Tensor:
        """Returns them joined."""
        return torch.cat(xs, self.dim)


@dataclass(frozen=True, slots=True)
class Product:
    """Two inputs of one shape, multiplied value by value."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns the products."""
        return x * y


@dataclass(frozen=True, slots=True)
class Input:
    """Where the network's input enters."""

    def __call__(self, *xs: Tensor) -> Tensor:
        """Returns the input."""
        return xs[0]


Op = Affine | Monotone | Valley | Absolute | Sum | Cat | Product | Input


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One operation: its name for people, the steps it reads, a sample's shape after it, the network's dtype there."""

    name: str
    op: Op
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Graph:
    """Steps in the order they run; the first is the input, the last gives the scores."""

    steps: tuple[Step, ...]

    @functools.cached_property
    def readers(self) -> tuple[int, ...]:
        """How often each step is read; the last once more."""
        count = [0] * len(self.steps)
        for step in self.steps:
            for i in step.inputs:
                count[i] += 1
        count[-1] += 1
        return tuple(count)

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the scores, step by step."""
        values: list[Tensor] = []
        for step in self.steps:
            values.append(step.op(*([values[i] for i in step.inputs] or [x])))
        return values[-1]
