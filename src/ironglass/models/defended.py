"""A model behind a defence: inputs are transformed before the user's model sees them; gradients come back through."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from ironglass.core.access import At, Loss, Pass, Query, Through
from ironglass.core.catalogue import LADDER
from ironglass.core.draws import Draws, branch, keys
from ironglass.core.errors import AccessError, InputError, MethodFailed
from ironglass.core.method import Method
from ironglass.core.values import Bounds

from .adapter import Adapter, check, wrap
from .backend import Backend
from .drawn import together
from .network import Torch


@dataclass(frozen=True, eq=False)
class Transformation:
    """A defence's function with its options: what is done to inputs."""

    method: Method[Any]
    options: Mapping[str, Any]
    bounds: Bounds

    def __call__(self, x: Tensor, random: Draws | None) -> Tensor:
        """Returns the inputs as the model will see them."""
        return cast(Tensor, self.method.raw(x, Query(self.bounds, random), **self.options))


class Transformed(Backend):
    """A backend that sees transformed inputs.

    Gradients go back through the transformation where it says that it is differentiable; else it is taken for the
    identity on the way back (athalye2018). Without draws of a query a stochastic one takes those of the inputs'
    content: the same inputs, the same answer.

    Args:
        inner: what runs.
        transformation: of its inputs.
        draws: of this query, a stream a row; None outside of sessions.
    """

    def __init__(self, inner: Backend, transformation: Transformation, draws: Draws | None = None) -> None:
        self.inner, self.transformation, self._draws = inner, transformation, draws
        card, options = transformation.method.card, transformation.options
        self.dtype, self.function, self._differentiable = inner.dtype, inner.function, card.differentiable
        self._own, self.stochastic = card.stochastic, card.stochastic or inner.stochastic
        self.passes = int(options["passes"]) if self._own else 1
        self.seed = int(options["seed"]) if self._own else 0

    def drawn(self, sample_keys: Tensor) -> Transformed:
        """Returns this backend with the draws of one query, a stream a row."""
        twin = copy.copy(self)
        if self._own:
            twin._draws = Draws(sample_keys, self.seed, sample_keys.device)
        if self.inner.stochastic:
            twin.inner = self.inner.drawn(branch(sample_keys, torch.zeros_like(sample_keys)))
        return twin

    def prepare(self, x: Tensor) -> None:
        """Shows the model inside a few transformed samples."""
        self.inner.prepare(self._seen(x[:2]))

    def raw(self, x: Tensor) -> Tensor:
        """Returns what the model inside gives, labels or scores."""
        return self.inner.raw(self._seen(x))

    def scores(self, x: Tensor) -> Tensor:
        """Returns the logits; of several passes, the logarithm of their mean probability."""
        runs = self._again(x)
        return together(torch.stack([runs.inner.scores(runs._seen(x)) for _ in range(self.passes)]))

    def labels(self, x: Tensor) -> Tensor:
        """Returns the predicted labels; of several passes, the label of their mean, or of most where labels are all."""
        runs = self._again(x)
        if self.passes == 1:
            return runs.inner.labels(runs._seen(x))
        try:
            return self.scores(x).argmax(1)
        except InputError:  # it gives labels alone
            return torch.stack([runs.inner.labels(runs._seen(x)) for _ in range(self.passes)]).mode(0).values

    def value_and_grad(self, x: Tensor, loss: Loss, layer: str | None = None) -> Pass:
        """Returns the loss, its gradient to ``x`` through the transformation, and the scores, means over the passes."""
        runs = self._again(x)
        return mean(
            [runs._pass(x, lambda seen: runs.inner.value_and_grad(seen, loss, layer)) for _ in range(self.passes)]
        )

    def propagate(self, x: Tensor, loss: Loss, through: Through) -> Pass:
        """Returns the loss, what flows back to ``x`` as ``through`` runs the network, and the scores."""
        return self._pass(x, lambda seen: self.inner.propagate(seen, loss, through))

    def jacobian(self, x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the scores and the gradients of the wanted logits to ``x``, means over the passes."""
        runs, found = self._again(x), []
        for _ in range(self.passes):
            seen, back = runs._open(x)
            scores, grads = runs.inner.jacobian(seen, classes)
            found.append((scores, torch.stack([back(grads[:, k]) for k in range(grads.shape[1])], 1)))
        each, slopes = zip(*found, strict=True)
        return together(torch.stack(each)), torch.stack(slopes).mean(0)

    def layers(self, x: Tensor) -> Mapping[str, tuple[int, ...]]:
        """Returns the layers of the model inside."""
        return self.inner.layers(self._seen(x))

    def activations(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Returns the outputs of those layers, for transformed inputs."""
        return self.inner.activations(self._seen(x), layers)

    def at(self, layer: str, x: Tensor, loss: Loss, instead: Tensor | None = None, of: str | None = None) -> At:
        """Returns a layer's activation and the gradient there."""
        return self.inner.at(layer, self._seen(x), loss, instead, of)

    def resume(self, layer: str, x: Tensor, instead: Tensor, of: str | None = None) -> Tensor:
        """Returns the scores, or another layer's output, with ``instead`` in the place of a layer's output."""
        return self.inner.resume(layer, self._seen(x), instead, of)

    def parameter_layers(self, x: Tensor) -> list[str]:
        """Returns the layers with parameters of the model inside."""
        return self.inner.parameter_layers(self._seen(x))

    def reinitialized(self, layers: Sequence[str], seed: int, x: Tensor) -> Backend:
        """Returns the defence before a backend with these layers drawn anew."""
        return Transformed(self.inner.reinitialized(layers, seed, self._seen(x)), self.transformation, self._draws)

    def identity(self) -> str | None:
        """Returns a hash of the model inside and the defence."""
        inside = self.inner.identity()
        return inside and _hash(inside, self.transformation.method, self.transformation.options)

    def parameters(self) -> int | None:
        """Returns the number of parameters of the model inside."""
        return self.inner.parameters()

    def _again(self, x: Tensor) -> Transformed:
        """Returns this backend with streams that go on from pass to pass."""
        return self if self._draws is not None or not self._own else self.drawn(keys(x).to(x.device))

    def _streams(self, x: Tensor) -> Draws | None:
        return self._again(x)._draws

    def _seen(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.transformation(x.detach(), self._streams(x))

    def _pass(self, x: Tensor, run: Callable[[Tensor], Pass]) -> Pass:
        seen, back = self._open(x)
        value, grad, scores = run(seen)
        return Pass(value, back(grad), scores)

    def _open(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Returns the transformed inputs, and what takes a gradient at them back to the inputs."""
        if self._differentiable:
            leaf = x.detach().requires_grad_()
            with torch.enable_grad():
                seen = self.transformation(leaf, self._streams(x))
            return seen.detach(), lambda grad: torch.autograd.grad(
                seen, leaf, grad, retain_graph=True, materialize_grads=True
            )[0]
        seen = self._seen(x)
        if seen.shape != x.shape:
            raise MethodFailed(
                f"{self.transformation.method.card.name} makes {tuple(seen.shape)} of {tuple(x.shape)}",
                "a defence that declares differentiable=False keeps the shape: backwards it is taken for the identity",
            )
        return seen, lambda grad: grad


def mean(passes: Sequence[Pass]) -> Pass:
    """Returns the mean loss and gradient of several passes, and their scores together."""
    value, grad, scores = zip(*passes, strict=True)
    return Pass(torch.stack(value).mean(0), torch.stack(grad).mean(0), together(torch.stack(scores)))


def _hash(inside: str, method: Method[Any], options: Mapping[str, Any]) -> str:
    text = f"{inside} {method!r} {sorted(options.items())!r}"
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


class Defended(Adapter):
    """A model behind a defence; a method of family ``defend`` makes it.

    Attacks, explanations and audits take it like any model, and go through the defence. `undefended` is the model as it
    was. ``method`` and ``options`` say what defends it.
    """

    def __init__(self, bare: Adapter, backend: Backend, method: Method[Any], options: Mapping[str, Any]) -> None:
        name = f"{bare.name or 'model'} behind {method.card.name}"
        super().__init__(
            backend, bare.bounds, bare.names, None, bare.max_queries, bare.shape, bare.classes or None, name
        )
        closed = method.card.decorator == "defence" and bare.access == "training"
        self.access = "internals" if closed else bare.access
        self.method, self.options, self._bare = method, dict(options), bare
        own = method.card.stochastic
        self.samples = max(1, options["samples"] // options["passes"]) if own else bare.samples

    @property
    def undefended(self) -> Adapter:
        """The model without its defence."""
        return self._bare


def defend(method: Method[Any], model: object, options: Mapping[str, Any]) -> Defended:
    """Puts a defence before a model: what calling the defence does.

    Raises:
        InputError: if an option is unknown or out of range.
    """
    bare = wrap(model)  # type: ignore[arg-type]
    chosen = method.card.filled(method.fixed | dict(options))
    if method.card.stochastic and (chosen["passes"] < 1 or chosen["samples"] < 1):
        raise InputError(f"passes={chosen['passes']}, samples={chosen['samples']}", "give at least 1 of each")
    return Defended(bare, Transformed(bare.backend, Transformation(method, chosen, bare.bounds)), method, chosen)


def changed(method: Method[Any], model: object, args: Sequence[Any], options: Mapping[str, Any]) -> Defended:
    """Returns the model with its network changed as a network defence says.

    Raises:
        AccessError: if the model is no network that can be changed.
        InputError: if the request is wrong.
    """
    bare = wrap(model)  # type: ignore[arg-type]
    chosen = method.card.filled(method.fixed | dict(options))
    x, y, *rest = args
    check(bare, x, y, *rest)
    if LADDER.index(method.card.access) > LADDER.index(bare.access):
        raise AccessError(
            f"{method.card.name} needs {method.card.access}, this model gives {bare.access}", "give the network"
        )
    session, _ = bare.session(x, method.card.access)
    net = method.raw(session, x, y, *rest, **chosen)
    return Defended(bare, Torch(net, None, None), method, chosen)
