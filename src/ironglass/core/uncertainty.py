"""What a model does not know, as a result: how unsure each prediction is, and why."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .results import Result


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Uncertainty(Result):
    """How unsure a model is: a figure a sample, or a map where it answers a place, ``total = aleatoric + epistemic``.

    Of classes, ``mean`` are the mean probabilities ``(N, K, …)``, ``total`` is their entropy in nats, ``aleatoric`` the
    mean entropy of the draws, ``epistemic`` the mutual information between answer and draw, all ``(N, …)``. Of values,
    ``mean`` is the mean prediction, and the three are variances. ``variance`` is that of the predictions over the draws
    ``(N, K, …)``. ``draws`` is how many predictions there were.
    """

    mean: Tensor
    total: Tensor
    aleatoric: Tensor
    epistemic: Tensor
    variance: Tensor
    draws: int
    seed: int | None = None

    def labels(self) -> Tensor:
        """Returns the predicted classes ``(N, …)``."""
        return self.mean.argmax(1)

    def of(self, measure: str) -> Tensor:
        """Returns one figure a sample ``(N,)``: ``total``, ``aleatoric`` or ``epistemic``, over places the mean."""
        value: Tensor = getattr(self, measure)
        return value.flatten(1).mean(1) if value.ndim > 1 else value
