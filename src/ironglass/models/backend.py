"""Where passes run: what a session asks of a model, and any function as one; networks are in `network`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ironglass.core.access import At, Loss, Pass, Through
from ironglass.core.errors import AccessError, InputError

R = TypeVar("R")


class Backend:
    """What a `Session` runs on; a backend overrides what it can do."""

    dtype = torch.float32
    function = False
    """Whether it is a function behind it, which may give labels alone."""
    stochastic = False
    """Whether each query draws: see `drawn`."""

    def drawn(self, sample_keys: Tensor) -> Backend:
        """Returns this backend with the draws of one query, from a stream a row, int64 ``(n,)``."""
        return self

    def raw(self, x: Tensor) -> Tensor:
        """Returns what it gives: scores ``(n, classes)``, or labels ``(n,)`` of a function."""
        return self.scores(x)

    def prepare(self, x: Tensor) -> None:
        """Is told of the samples before they are worked on."""

    def scores(self, x: Tensor) -> Tensor:
        """Returns the logits ``(n, classes)``."""
        raise AccessError("this model gives labels alone", "try: ironglass list --access labels")

    def labels(self, x: Tensor) -> Tensor:
        """Returns the predicted labels ``(n,)``."""
        return self.scores(x).argmax(1)

    def value_and_grad(self, x: Tensor, loss: Loss, layer: str | None = None) -> Pass:
        """Returns the loss of the scores or of a layer's output, its gradient to ``x``, and the scores."""
        raise self._closed()

    def jacobian(self, x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the scores and the gradients of the logits ``classes (n, k)``."""
        raise self._closed()

    def layers(self, x: Tensor) -> Mapping[str, tuple[int, ...]]:
        """Returns the layers that run, by name, with a sample's shape there."""
        raise self._closed()

    def activations(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Returns the outputs of those layers."""
        raise self._closed()

    def at(self, layer: str, x: Tensor, loss: Loss, instead: Tensor | None = None, of: str | None = None) -> At:
        """Returns a layer's activation and the gradient there."""
        raise self._closed()

    def resume(self, layer: str, x: Tensor, instead: Tensor, of: str | None = None) -> Tensor:
        """Returns the scores, or the output of the layer ``of``, with ``instead`` in the place of a layer's output."""
        raise self._closed()

    def propagate(self, x: Tensor, loss: Loss, through: Through) -> Pass:
        """Returns the loss, the changed gradient to ``x``, and the scores."""
        raise self._closed()

    def module(self, x: Tensor) -> nn.Module:
        """Returns the network in the user's units."""
        raise self._closed()

    def parameter_layers(self, x: Tensor) -> list[str]:
        """Returns the layers with parameters in the order they run."""
        raise self._closed()

    def reinitialized(self, layers: Sequence[str], seed: int, x: Tensor) -> Backend:
        """Returns a backend with these layers drawn anew, for samples like ``x``."""
        raise self._closed()

    def identity(self) -> str | None:
        """Returns a hash of what computes the scores, or None where that cannot be told."""
        return None

    def parameters(self) -> int | None:
        """Returns the number of parameters, or None for a function."""
        return None

    @staticmethod
    def _closed() -> AccessError:
        return AccessError("this model gives scores alone", "try: ironglass list --access scores")


class Function(Backend):
    """A function ``f(batch) -> scores (n, classes)`` or ``-> labels (n,)``; no graph is ever built around it."""

    function = True

    def __init__(self, function: Callable[[Any], Any], arrays: str) -> None:
        self._function, self._numpy = function, arrays == "numpy"

    def raw(self, x: Tensor) -> Tensor:
        """Returns what the function gives, as a tensor on the samples' device."""
        given = x.detach()
        with torch.no_grad():
            out = self._function(given.cpu().numpy() if self._numpy else given)
        return torch.as_tensor(np.asarray(out) if not isinstance(out, Tensor) else out, device=x.device)

    def scores(self, x: Tensor) -> Tensor:
        """Returns the function's scores."""
        out = self.raw(x)
        if out.ndim != 2 or len(out) != len(x):
            raise InputError(
                f"the function returned shape {tuple(out.shape)} for {len(x)} samples", "return (n, classes)"
            )
        return out if out.is_floating_point() else out.float()

    def labels(self, x: Tensor) -> Tensor:
        """Returns the function's labels, or the labels of its scores."""
        out = self.raw(x)
        return out.long() if out.ndim == 1 else out.argmax(1)
