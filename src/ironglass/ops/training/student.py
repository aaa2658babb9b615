"""The network while it learns."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import Tensor, nn

from ironglass.core.access import Model
from ironglass.core.results import Cost
from ironglass.models.adapter import Adapter
from ironglass.models.network import Torch, Whole, frozen


class Apprentice:
    """A copy of a model's network, to be trained: the `Student` of `core.training`, and its bill.

    Args:
        adapter: the model that was given, probed; its network is copied and not touched.
        generator: that all draws come from.
    """

    def __init__(self, adapter: Adapter, generator: torch.Generator) -> None:
        backend = cast(Torch, adapter.backend).apprentice()
        self.adapter = copy.copy(adapter)
        self.adapter.backend, self.adapter.key, self.adapter.max_queries = backend, None, None
        self.whole: Whole = backend.whole
        self.net: nn.Module = self.whole
        self.bounds, self.generator = adapter.bounds, generator
        self.memory: dict[str, Tensor] = {}
        self.cache: dict[str, Any] = {}
        self.forward = self.backward = 0

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the scores ``(n, classes)`` in train mode, with a graph; the backward pass to come is counted."""
        self.pay(len(x), len(x))
        return cast(Tensor, self.net(x))

    def still(self) -> AbstractContextManager[None]:
        """In this context the network is in eval mode and its parameters have no gradients."""
        return frozen(self.net)

    def model(self, x: Tensor) -> Model:
        """Returns the network as attacks see it, on the same bill."""
        session, meter = self.adapter.session(x)
        charge = meter.charge

        def charged(ids: Tensor, backward: int = 0) -> None:
            charge(ids, backward)
            self.pay(len(ids), backward * len(ids))

        meter.charge = charged  # type: ignore[method-assign]
        return session

    def pay(self, forward: int, backward: int = 0) -> None:
        """Counts passes that were made past the student."""
        self.forward += forward
        self.backward += backward

    @property
    def cost(self) -> Cost:
        """What was paid so far, without seconds."""
        return Cost(self.forward, self.backward)
