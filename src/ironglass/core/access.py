"""What a method may ask of a model: the ladder of access, as a protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from .draws import Draws
from .errors import MethodFailed
from .values import Bounds

Rows = Tensor | slice
Loss = Callable[[Tensor, Rows], Tensor]
"""``loss(scores, rows) -> (n,)``: one value a row; ``rows`` says which of the N samples these scores belong to."""

Run = Callable[[Tensor], Tensor]
"""The network: inputs ``(n, *shape)`` in the user's units to scores ``(n, classes)``. Each run is charged."""
Through = Callable[[Run, Tensor, Rows], Tensor]
"""``through(run, x, rows) -> scores``: runs the network its own way, so that the gradient to ``x`` is what it wants."""


@dataclass(frozen=True, slots=True)
class Query:
    """What a defence knows of the inputs that it transforms: their bounds, and the draws of this query.

    Args:
        bounds: of the inputs, the user's.
        random: a stream a sample; None for a defence that does not declare ``stochastic=True``.
    """

    bounds: Bounds
    random: Draws | None = None

    @property
    def draws(self) -> Draws:
        """The samples' streams: another draw every query, the same whatever stands beside a sample in the batch."""
        if self.random is None:
            raise MethodFailed("the defence draws, and does not declare it", "declare stochastic=True")
        return self.random


class Pass(NamedTuple):
    """One forward and one backward pass: the loss, its gradient in input units, and the scores, a row each."""

    value: Tensor
    grad: Tensor
    scores: Tensor


class At(NamedTuple):
    """A layer's activation, the gradient of the loss at it, the scores, and the loss, a row each."""

    activation: Tensor
    grad: Tensor
    scores: Tensor
    value: Tensor


class Model(Protocol):
    """A model while a method works on a batch of N samples: metered, in the user's units, in eval mode.

    ``rows`` says which of the N samples a batch belongs to, so that each pass is charged to its sample; it may repeat
    a sample. It may be left out where the batch is the whole of it.
    """

    bounds: Bounds
    classes: int

    @property
    def undefended(self) -> Model | None:
        """The same model without its defence, where it has one and a study wants to know what the defence adds."""

    @property
    def names(self) -> Sequence[str]:
        """The classes' names; empty where they have none."""

    def labels(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """Returns the predicted labels ``(n,)``."""

    def scores(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """Returns the logits ``(n, classes)``, without a graph."""

    def right(self, x: Tensor, y: Tensor, rows: Tensor | None = None) -> Tensor:
        """Returns which inputs are labelled right ``(n,)``; by a random model in most of many fresh draws."""

    def value_and_grad(self, x: Tensor, loss: Loss, rows: Tensor | None = None, layer: str | None = None) -> Pass:
        """Returns the loss of each row and its gradient to ``x``: the only way to a gradient.

        Where a layer is named, the loss gets that layer's output in place of the scores; this takes ``internals``.
        """

    def jacobian(self, x: Tensor, rows: Tensor | None = None, classes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns the scores ``(n, classes)`` and gradients ``(n, k, *shape)`` of the logits ``classes (n, k)``."""

    def layers(self) -> Mapping[str, tuple[int, ...]]:
        """Returns the layers by name in the order they run, with the shape a sample has there."""

    def activations(self, x: Tensor, layers: Sequence[str], rows: Tensor | None = None) -> dict[str, Tensor]:
        """Returns the outputs of those layers."""

    def at(
        self,
        layer: str,
        x: Tensor,
        loss: Loss,
        rows: Tensor | None = None,
        instead: Tensor | None = None,
        of: str | None = None,
    ) -> At:
        """Returns a layer's activation and the loss's gradient there; the graph is cut below the layer.

        ``instead`` is put in the place of what the layer gives. Where a layer ``of`` is named, the loss gets that
        layer's output in place of the scores.
        """

    def resume(
        self, layer: str, x: Tensor, instead: Tensor, rows: Tensor | None = None, of: str | None = None
    ) -> Tensor:
        """Returns the scores, or the output of the layer ``of``, with ``instead`` in the place of a layer's output."""

    def propagate(self, x: Tensor, loss: Loss, through: Through, rows: Tensor | None = None) -> Pass:
        """Returns what `value_and_grad` does, of a backward pass that ``through`` has changed.

        ``through`` gets the network, frozen and in eval mode, and a leaf; it may watch and replace what the network
        computes, but neither change nor keep it.
        """

    def module(self) -> nn.Module:
        """Returns the network whole, in the user's units: normalization inside, eval mode, frozen, logits out."""

    def reinitialized(self, layers: Sequence[str], seed: int) -> Model:
        """Returns the model with these layers' parameters drawn anew; the user's network is not touched."""

    def parameter_layers(self) -> Sequence[str]:
        """Returns the layers that hold parameters, in the order they run."""

    def opened(self) -> Model:
        """Returns this model with all it gives, for an explanation that is made again to be tested."""

    def left(self, rows: Tensor | None = None) -> Tensor:
        """Returns how many queries each sample may still make ``(n,)``."""

    def draws(self, seed: int) -> Draws:
        """Returns the samples' own random streams."""

    def take(self, rows: Tensor) -> Model:
        """Returns this model seen by a part of the samples: row i there is row ``rows[i]`` here."""


class Detector(Protocol):
    """What tells adversarial inputs from legitimate ones: a score, the higher the more suspicious, and a threshold."""

    threshold: float

    def score(self, x: Tensor) -> Tensor:
        """Returns how suspicious inputs are ``(n,)``."""

    def detect(self, x: Tensor) -> Tensor:
        """Returns which inputs are flagged ``(n,)``."""
