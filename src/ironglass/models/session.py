"""A model at work on one batch of samples: metered, watched, and no more open than its method may see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ironglass.core.access import At, Loss, Pass, Rows, Run, Through
from ironglass.core.catalogue import LADDER
from ironglass.core.draws import Draws, keys
from ironglass.core.errors import AccessError
from ironglass.core.values import Avoid

from .meter import Meter

if TYPE_CHECKING:
    from .adapter import Adapter
    from .backend import Backend


class Session:
    """What a method sees while it works on N samples: the `Model` of `core.access`.

    Args:
        adapter: the user's model.
        x: the samples ``(N, *shape)``.
        meter: the ledger of the batch they are charged to.
        allowed: the access the method declares; more is an error even where the model could give it.
        ids: the ledger's row of each sample ``(N,)``; None where they are the same.
        backend: where the passes run; None for the adapter's own.
    """

    def __init__(
        self,
        adapter: Adapter,
        x: Tensor,
        meter: Meter,
        allowed: str = "training",
        ids: Tensor | None = None,
        backend: Backend | None = None,
    ) -> None:
        self.bounds, self.classes, self.names = adapter.bounds, adapter.classes, adapter.names
        self._adapter, self._x, self._meter, self._allowed = adapter, x, meter, allowed
        self._ids = torch.arange(len(x), device=x.device) if ids is None else ids
        self._backend = adapter.backend if backend is None else backend
        self._keys: Tensor | None = None
        self.undefended: Session | None = None

    def labels(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """Returns the predicted labels ``(n,)``."""
        ids = self._charge("labels", x, rows)
        with self._meter.clock():
            labels = self._engine(ids).labels(x)
        return self._watched_labels(x, labels, ids)

    def scores(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """Returns the logits ``(n, classes)``, without a graph."""
        ids = self._charge("scores", x, rows)
        with self._meter.clock():
            scores = self._engine(ids).scores(x)
        return self._watched(x, scores, ids)

    def right(self, x: Tensor, y: Tensor, rows: Tensor | None = None) -> Tensor:
        """Returns which inputs are labelled right ``(n,)``; by a random model in most of many fresh draws.

        It is the runner's verdict, for studies that attack and judge several models at once. It costs one query.
        """
        self._charge("scores", x, rows)
        with self._meter.clock():
            scores, lost = self._adapter.verdict(self._x if rows is None else self._x[rows], x, Avoid(y))
        return (lost <= 0.5) & scores.isfinite().all(1)

    def value_and_grad(self, x: Tensor, loss: Loss, rows: Tensor | None = None, layer: str | None = None) -> Pass:
        """Returns the loss of the scores or of a layer's output, its gradient in input units, and the scores."""
        ids = self._charge("gradient" if layer is None else "internals", x, rows, backward=1)
        with self._meter.clock():
            result = self._engine(ids).value_and_grad(x, _of_rows(loss, rows), layer)
        self._watched(x, result.scores, ids)
        return result

    def jacobian(self, x: Tensor, rows: Tensor | None = None, classes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns the scores and the gradients of the logits ``classes (n, k)``; of all of them if None."""
        wanted = torch.arange(self.classes, device=x.device).expand(len(x), -1) if classes is None else classes
        ids = self._charge("gradient", x, rows, backward=wanted.shape[1])
        with self._meter.clock():
            scores, jacobian = self._engine(ids).jacobian(x, wanted)
        return self._watched(x, scores, ids), jacobian

    def layers(self) -> Mapping[str, tuple[int, ...]]:
        """Returns the layers by name in the order they run, with the shape a sample has there."""
        self._require("internals")
        return self._backend.layers(self._x[:1])

    def activations(self, x: Tensor, layers: Sequence[str], rows: Tensor | None = None) -> dict[str, Tensor]:
        """Returns the outputs of those layers."""
        ids = self._charge("internals", x, rows)
        with self._meter.clock():
            return self._engine(ids).activations(x, layers)

    def at(
        self,
        layer: str,
        x: Tensor,
        loss: Loss,
        rows: Tensor | None = None,
        instead: Tensor | None = None,
        of: str | None = None,
    ) -> At:
        """Returns a layer's activation and the loss's gradient there; nothing below the layer is differentiated."""
        ids = self._charge("internals", x, rows, backward=1)
        with self._meter.clock():
            result = self._engine(ids).at(layer, x, _of_rows(loss, rows), instead, of)
        if instead is None:  # scores of another activation are not the sample's
            self._watched(x, result.scores, ids)
        return result

    def resume(
        self, layer: str, x: Tensor, instead: Tensor, rows: Tensor | None = None, of: str | None = None
    ) -> Tensor:
        """Returns the scores, or another layer's output, of the network with this activation put in a layer's place."""
        ids = self._charge("internals", x, rows)
        with self._meter.clock():
            return self._engine(ids).resume(layer, x, instead, of)

    def propagate(self, x: Tensor, loss: Loss, through: Through, rows: Tensor | None = None) -> Pass:
        """Returns the loss, what the changed backward pass brings to the input, and the scores.

        Every run of the network is charged: the first at once, others when they come.
        """
        ids = self._charge("internals", x, rows, backward=1)

        def metered(run: Run, leaf: Tensor, part: Rows) -> Tensor:
            runs = 0

            def charged(inputs: Tensor) -> Tensor:
                nonlocal runs
                runs += 1
                if runs > 1:
                    self._meter.charge(ids[part])
                return run(inputs)

            return through(charged, leaf, part if rows is None else rows[part])

        with self._meter.clock():
            result = self._engine(ids).propagate(x, _of_rows(loss, rows), metered)
        self._watched(x, result.scores, ids)
        return result

    def module(self) -> nn.Module:
        """Returns the network whole: a private, frozen copy in the user's units."""
        self._require("training")
        return self._backend.module(self._x[:1])

    def parameter_layers(self) -> Sequence[str]:
        """Returns the layers that hold parameters, in the order they run."""
        self._require("internals")
        return self._backend.parameter_layers(self._x[:1])

    def reinitialized(self, layers: Sequence[str], seed: int) -> Session:
        """Returns a copy with these layers drawn anew, on the same bill; an explanation may see all of it."""
        self._require("internals")
        backend = self._backend.reinitialized(layers, seed, self._x)
        return type(self)(self._adapter, self._x, self._meter, "training", self._ids, backend)

    def opened(self) -> Session:
        """Returns this session with all that the model gives: for an explanation that is made again to be tested."""
        return type(self)(self._adapter, self._x, self._meter, "training", self._ids, self._backend)

    def left(self, rows: Tensor | None = None) -> Tensor:
        """Returns how many queries each sample may still make ``(n,)``."""
        return self._meter.budget - self._meter.queries[self._ids if rows is None else self._ids[rows]]

    def draws(self, seed: int) -> Draws:
        """Returns the samples' own random streams, keyed by their content."""
        if self._keys is None:
            self._keys = keys(self._x)
        return Draws(self._keys, seed, self._x.device)

    def take(self, rows: Tensor) -> Session:
        """Returns this model seen by a part of the samples: row i there is row ``rows[i]`` here."""
        return type(self)(self._adapter, self._x[rows], self._meter, self._allowed, self._ids[rows], self._backend)

    def _require(self, access: str) -> None:
        if LADDER.index(access) > LADDER.index(self._allowed):
            raise AccessError(
                f"the method declares {self._allowed} and asks for {access}", f'declare access="{access}"'
            )
        if LADDER.index(access) > LADDER.index(self._adapter.access):
            gives = self._adapter.access
            raise AccessError(f"this needs {access}, the model gives {gives}", f"try: ironglass list --access {gives}")

    def _charge(self, access: str, x: Tensor, rows: Tensor | None, backward: int = 0) -> Tensor:
        self._require(access)
        if rows is None and len(x) != len(self._x):
            raise ValueError(f"{len(x)} rows for a session of {len(self._x)} samples: say which with rows=")
        ids = self._ids if rows is None else self._ids[rows]
        self._meter.charge(ids, backward)
        return ids

    def _engine(self, ids: Tensor) -> Backend:
        """Returns where a pass runs that these rows of the ledger have just been charged for."""
        return self._backend

    def _watched_labels(self, x: Tensor, labels: Tensor, ids: Tensor) -> Tensor:
        if self._meter.goal is not None:
            self._meter.watch(x, self._meter.goal.reached_by(labels, ids).nonzero()[:, 0], ids)
        return labels

    def _watched(self, x: Tensor, scores: Tensor, ids: Tensor) -> Tensor:
        if self._meter.goal is not None and self._backend is self._adapter.backend:
            self._meter.watch(x, self._meter.goal.hits(scores, ids), ids)
        return scores


def _of_rows(loss: Loss, rows: Tensor | None) -> Loss:
    """The backend counts rows of the batch it is given; the loss counts samples."""
    return loss if rows is None else lambda scores, part: loss(scores, rows[part])
