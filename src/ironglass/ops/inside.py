r"""A stretch of a network as a model of its own: from a layer's output on, or up to one unit.

With ``at="layer3"`` what is explained is shared out among the values of that layer instead of the input's: the network
is taken from there on, and the samples are what the layer gives for them. With ``unit="layer3[17]"`` what is explained
is that unit instead of a class: the network is taken up to there, and its only score is the unit's value. Both together
ask which values of an earlier layer make the unit fire. A method sees a model, samples and a target as always.
"""

from __future__ import annotations

import re
from typing import NamedTuple, cast

import torch
from torch import Tensor

from ironglass.core.access import Loss, Model, Pass, Rows
from ironglass.core.errors import InputError, suggest

from . import baselines

_UNIT = re.compile(r"(?P<layer>[^\[\]]+)\[(?P<index>[-\d:, ]+)\]")
_FIX = "write layer[channel], layer[channel, row, column], or layer[:, feature] where features come last"


class Unit(NamedTuple):
    """A value of a layer, or the mean of some: ``layer3[17]`` is channel 17, ``layer3[17, 4, 4]`` it at one place."""

    layer: str
    place: tuple[int | slice, ...]

    def of(self, output: Tensor) -> Tensor:
        """Returns the unit's value as the one score there is ``(n, 1)``; what the index leaves open is averaged.

        Raises:
            InputError: if the layer has no such unit.
        """
        try:
            return output[(slice(None), *self.place)].reshape(len(output), -1).mean(1, keepdim=True)
        except IndexError:
            shape = tuple(output.shape[1:])
            raise InputError(
                f"layer '{self.layer}' of shape {shape} has no unit {_written(self.place)}", _FIX
            ) from None


def unit_of(text: str) -> Unit:
    """Reads ``layer[17]``, ``layer[17, 4, 4]`` or ``layer[:, 17]``.

    Raises:
        InputError: if it is none of these.
    """
    match = _UNIT.fullmatch(text)
    parts = [part.strip() for part in match["index"].split(",")] if match else []
    if match is None or not all(part == ":" or re.fullmatch(r"-?\d+", part) for part in parts):
        raise InputError(f"unit='{text}' names no unit", _FIX)
    return Unit(match["layer"], tuple(slice(None) if part == ":" else int(part) for part in parts))


def _written(place: tuple[int | slice, ...]) -> str:
    return f"[{', '.join(':' if isinstance(part, slice) else str(part) for part in place)}]"


def enter(model: Model, x: Tensor, target: Tensor, at: str | None, unit: str | None) -> tuple[Model, Tensor, Tensor]:
    """Returns the model, samples and target of a stretch; those given where there is neither a layer nor a unit.

    Args:
        model: that is explained; a stretch of it takes ``internals``.
        x: samples ``(N, *shape)``.
        target: the classes explained; a unit takes their place.
        at: the layer whose output becomes the samples, or None.
        unit: what `unit_of` reads, or None.

    Raises:
        InputError: if there is no such layer or unit.
    """
    if at is None and unit is None:
        return model, x, target
    model, end = model.opened(), unit_of(unit) if unit is not None else None
    layers = list(model.layers())
    named = [layer for layer in (at, end.layer if end else None) if layer is not None]
    for layer in named:
        if layer not in layers:
            raise InputError(
                f"the network has no layer '{layer}' that runs once and gives a tensor", suggest(layer, layers)
            )
    if layers.index(named[0]) > layers.index(named[-1]):
        raise InputError(f"layer '{at}' ends after the unit {unit}", "name a layer that ends before the unit's")
    inner = x if at is None else model.activations(x, [at])[at]
    stretch = cast(Model, Stretch(model, x, at, end))
    return stretch, inner, target if end is None else torch.zeros_like(target.reshape(len(x), -1)[:, 0])


class Stretch:
    """A part of a network in the place of the whole: what the gradient family asks of a `Model`.

    Args:
        model: the whole.
        x: the samples ``(N, *shape)``; what the part does not replace is computed from them.
        at: where the part begins; None for the input.
        unit: where it ends; None for the scores.
    """

    def __init__(self, model: Model, x: Tensor, at: str | None, unit: Unit | None) -> None:
        self.bounds, self.classes = model.bounds, model.classes if unit is None else 1
        self._model, self._x, self._at, self._unit = model, x, at, unit

    def scores(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """Returns the logits, or the unit's value ``(n, 1)``."""
        end = None if self._unit is None else self._unit.layer
        if self._at is not None:
            out = self._model.resume(self._at, self._inputs(rows), x, rows, end)
        elif end is not None:
            out = self._model.activations(x, [end], rows)[end]
        else:
            out = self._model.scores(x, rows)
        return out if self._unit is None else self._unit.of(out)

    def value_and_grad(self, x: Tensor, loss: Loss, rows: Tensor | None = None) -> Pass:
        """Returns the loss of each row and its gradient to what the part begins with."""
        unit = self._unit
        end = None if unit is None else unit.layer

        def of(out: Tensor, part: Rows) -> Tensor:
            return loss(out if unit is None else unit.of(out), part)

        if self._at is None:
            return self._model.value_and_grad(x, of, rows, layer=end)
        found = self._model.at(self._at, self._inputs(rows), of, rows, x, end)
        return Pass(found.value, found.grad.to(x.dtype), found.scores)

    def take(self, rows: Tensor) -> Stretch:
        """Returns the part seen by some of the samples."""
        return Stretch(self._model.take(rows), self._x[rows], self._at, self._unit)

    def begin(self, x: Tensor) -> Tensor:
        """Returns what the part begins with for other inputs, a row for each of its samples."""
        return x if self._at is None else self._model.activations(x, [self._at])[self._at]

    def baseline(self, x: Tensor, which: str | float) -> Tensor:
        """Returns the baseline: a number is one of the values explained, a name stands for an input put through."""
        if not isinstance(which, str):
            return torch.full_like(x, which)
        return self.begin(baselines.baseline(self._x, self.bounds, which))

    def _inputs(self, rows: Tensor | None) -> Tensor:
        return self._x if rows is None else self._x[rows]


def baseline(model: Model | Stretch, x: Tensor, which: str | float) -> Tensor:
    """Returns the baseline of each sample of a model or of a stretch of one, as `baselines.baseline` does.

    At a layer a number is the value of every activation, and a name stands for what the layer gives for that input.
    """
    if isinstance(model, Stretch):
        return model.baseline(x, which)
    return baselines.baseline(x, model.bounds, which)
