"""Models made of several looks at a sample: an ensemble, a model with a detector, a model at another temperature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ironglass.core.access import Loss, Pass
from ironglass.core.draws import branch
from ironglass.core.errors import InputError

from .adapter import Adapter, wrap
from .backend import Backend
from .drawn import together

Combine = Callable[[Tensor], Tensor]
"""``combine(views (V, n, K)) -> (n, K')``: what several looks say together, differentiable."""


class Views(Protocol):
    """Several looks at samples: scores a view, and the way back."""

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the scores of each view ``(V, n, K)``, without a graph."""

    def back(self, x: Tensor, weight: Tensor) -> Tensor:
        """Returns the gradient to ``x`` of the scores' sum, weighted ``(V, n, K)``."""

    def prepare(self, x: Tensor) -> None:
        """Is told of the samples before they are worked on."""

    @property
    def stochastic(self) -> bool:
        """Whether a defence among them draws."""

    def drawn(self, sample_keys: Tensor) -> Views:
        """Returns these views with the draws of one query."""

    def identity(self) -> str | None:
        """Returns a hash of what computes the views, or None where that cannot be told."""


class Several:
    """The views of several backends."""

    def __init__(self, backends: Sequence[Backend]) -> None:
        self.backends = list(backends)

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the scores of each backend."""
        return torch.stack([backend.scores(x) for backend in self.backends])

    def back(self, x: Tensor, weight: Tensor) -> Tensor:
        """Returns the gradient; a view without weight is not run."""
        grad = torch.zeros_like(x)
        for backend, part in zip(self.backends, weight, strict=True):
            rows = (part != 0).any(1).nonzero()[:, 0]
            if len(rows):
                grad[rows] += backend.value_and_grad(x[rows], _weighted(part[rows])).grad
        return grad

    def prepare(self, x: Tensor) -> None:
        """Shows the samples to each backend."""
        for backend in self.backends:
            backend.prepare(x)

    @property
    def stochastic(self) -> bool:
        """Whether a defence among them draws."""
        return any(backend.stochastic for backend in self.backends)

    def drawn(self, sample_keys: Tensor) -> Several:
        """Returns these views with the draws of one query, each backend its own."""
        numbers = (torch.full_like(sample_keys, place) for place in range(len(self.backends)))
        return Several([b.drawn(branch(sample_keys, number)) for b, number in zip(self.backends, numbers, strict=True)])

    def identity(self) -> str | None:
        """Returns the identities of all."""
        found = [backend.identity() for backend in self.backends]
        return None if None in found else " ".join(map(str, found))


def _weighted(weight: Tensor) -> Loss:
    return lambda scores, rows: (scores * weight[rows]).sum(1)


class Joint(Backend):
    """A backend that says what several views say together.

    Gradients take two rounds: the scores of all views, and then a pass back through those that the loss depends on.

    Args:
        views: of a sample.
        combine: makes one row of scores of them; picklable, and with a ``repr`` that says what it does.
    """

    def __init__(self, views: Views, combine: Combine) -> None:
        self.views, self.combine, self.stochastic = views, combine, views.stochastic

    def drawn(self, sample_keys: Tensor) -> Joint:
        """Returns this backend with the draws of one query."""
        return Joint(self.views.drawn(sample_keys), self.combine)

    def prepare(self, x: Tensor) -> None:
        """Shows the views their samples."""
        self.views.prepare(x)

    def scores(self, x: Tensor) -> Tensor:
        """Returns the scores."""
        with torch.no_grad():
            return self.combine(self.views(x.detach()))

    def value_and_grad(self, x: Tensor, loss: Loss, layer: str | None = None) -> Pass:
        """Returns the loss of the scores, its gradient to ``x`` through all views, and the scores."""
        if layer is not None:
            raise self._closed()
        with torch.enable_grad():
            seen = self.views(x.detach()).requires_grad_()
            scores = self.combine(seen)
            value = loss(scores, slice(0, len(x)))
            (weight,) = torch.autograd.grad(value.sum(), seen)
        return Pass(value.detach(), self.views.back(x.detach(), weight), scores.detach())

    def jacobian(self, x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the scores and the gradients of the wanted ones, a round back each."""
        with torch.enable_grad():
            seen = self.views(x.detach()).requires_grad_()
            scores = self.combine(seen)
            wanted = scores.gather(1, classes)
            weights = [torch.autograd.grad(each.sum(), seen, retain_graph=True)[0] for each in wanted.T]
        return scores.detach(), torch.stack([self.views.back(x.detach(), weight) for weight in weights], 1)

    def identity(self) -> str | None:
        """Returns a hash of the views and of what is made of them."""
        inside = self.views.identity()
        return None if inside is None else f"{inside} {self.combine!r}"


@dataclass(frozen=True)
class Together:
    """The logarithm of the mean probability over the views."""

    def __call__(self, views: Tensor) -> Tensor:
        """Returns the scores ``(n, K)``."""
        return together(views)


@dataclass(frozen=True)
class Tempered:
    """The mean logits over the views, divided by a temperature."""

    temperature: float

    def __call__(self, views: Tensor) -> Tensor:
        """Returns the scores ``(n, K)``."""
        return views.mean(0) / self.temperature


def joined(like: Adapter, views: Views, combine: Combine, classes: int | None, name: str) -> Adapter:
    """Returns a model of a backend `Joint`, with the bounds and names of another; it gives gradients at most."""
    backend = Joint(views, combine)
    names = like.names if classes is None else ()
    access = "gradient" if like.access not in ("labels", "scores") else like.access
    made = Adapter(backend, like.bounds, names, None, like.max_queries, like.shape, classes, name)
    made.access, made.samples = access, like.samples
    return made


def ensemble(models: Sequence[object]) -> Adapter:
    """Returns the model that gives the mean probability of several; every method takes it.

    Raises:
        InputError: if they are fewer than two, or their bounds differ.
    """
    members = [wrap(model) for model in models]  # type: ignore[arg-type]
    if len(members) < 2 or any(member.bounds != members[0].bounds for member in members):
        raise InputError(f"an ensemble of {len(members)} models", "give two or more, of the same bounds")
    made = joined(members[0], Several([member.backend for member in members]), Together(), None, "ensemble")
    made.samples = max(member.samples for member in members)
    return made
