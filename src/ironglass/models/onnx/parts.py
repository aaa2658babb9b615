"""The modules that ONNX nodes become where torch.nn has none: picklable, and batch first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn


class _Live:
    """Stands where an argument is one of the module's inputs."""

    def __reduce__(self) -> str:
        return "LIVE"


LIVE = _Live()


class Call(nn.Module):
    """One function of the inputs, which take the places marked `LIVE`; constants among its arguments are buffers.

    Args:
        function: at the top of a module, so that it can be pickled.
        args: its arguments.
        kwargs: its keyword arguments, none of them tensors.
    """

    def __init__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.function, self.kwargs = function, kwargs
        self.args = tuple(f"constant{i}" if isinstance(arg, Tensor) else arg for i, arg in enumerate(args))
        self.constants = {i: f"constant{i}" for i, arg in enumerate(args) if isinstance(arg, Tensor)}
        for i, name in self.constants.items():
            self.register_buffer(name, args[i])

    def extra_repr(self) -> str:
        """Names the function."""
        return getattr(self.function, "__name__", str(self.function))

    def forward(self, *xs: Tensor) -> Any:
        """Returns the function's value."""
        inputs = iter(xs)
        args = [
            getattr(self, self.constants[i]) if i in self.constants else next(inputs) if arg is LIVE else arg
            for i, arg in enumerate(self.args)
        ]
        return self.function(*args, **self.kwargs)


class Reshape(nn.Module):
    """Gives each sample another shape."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def extra_repr(self) -> str:
        """Names the shape."""
        return str(self.shape)

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``(n, *shape)``."""
        return x.reshape(len(x), *self.shape)


class Join(nn.Module):
    """Joins inputs, and constants between them, along an axis."""

    def __init__(self, pieces: Sequence[Tensor | None], axis: int) -> None:
        super().__init__()
        self.axis, self.count = axis, len(pieces)
        for i, piece in enumerate(pieces):
            self.register_buffer(f"piece{i}", piece)

    def forward(self, *xs: Tensor) -> Tensor:
        """Returns them joined."""
        inputs = iter(xs)
        pieces = [getattr(self, f"piece{i}") for i in range(self.count)]
        whole = [next(inputs) if piece is None else piece.expand(len(xs[0]), *piece.shape[1:]) for piece in pieces]
        return torch.cat(whole, self.axis)


class FromLeft(nn.Module):
    """A constant matrix times each sample: ``W x``, as ``(x' W')'``."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.linear = linear(weight, None)

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``W x`` over the last two axes."""
        return cast(Tensor, self.linear(x.transpose(-1, -2))).transpose(-1, -2)


class Crop(nn.Module):
    """Cuts rows off the ends of the last axes, ``(before, after)`` an axis, the last axis last."""

    def __init__(self, sides: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.sides = tuple(sides)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the inner part."""
        cut = tuple(slice(before, None if after == 0 else -after) for before, after in self.sides)
        return x[(..., *cut)]


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Returns the layer ``W x + b`` with these values as its parameters."""
    layer = empty(nn.Linear, weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype)
    filled(layer, weight=weight, bias=bias)
    return cast(nn.Linear, layer)


def empty(kind: Callable[..., nn.Module], *args: Any, **kwargs: Any) -> nn.Module:
    """Returns a layer whose values are still to be filled in; the global random numbers stay as they are."""
    with torch.random.fork_rng([]):
        return kind(*args, **kwargs)


def filled(layer: nn.Module, **values: Tensor | None) -> nn.Module:
    """Returns the layer with copies of these values in its parameters and buffers."""
    with torch.no_grad():
        for name, value in values.items():
            if value is not None:
                getattr(layer, name).copy_(value)
    return layer
