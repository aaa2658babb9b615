r"""Layer-wise relevance propagation through whatever functions a network calls.

Relevance travels as a modified gradient, :math:`R = z\,G`. Beyond the rules of linear layers (`linear`):

* activations pass it on whole: the gradient of :math:`y = a(z)` is taken as :math:`(a(z) - a(0)) / z`. What is left of
  an activation at 0, as the half of a sigmoid, counts as a bias;
* sums split it in proportion; means, average pooling and the like are linear maps; max pooling gives it to the winner;
* batch norm is the affine map that it is in eval mode, and part of the linear layer right before it; layer norm and its
  kin are affine too, their standard deviation taken as a constant;
* attention weights, and all that comes out of a softmax, are constants;
* of two factors, one that gates the other (comes out of a sigmoid, a ReLU6 or hard tanh from 0 up, or is broadcast over
  it) gets nothing, the signal takes all; factors of equal standing share half and half; a denominator is a constant;
* whatever shifts or scales the input value by value, as a normalization does, leaves its relevance where it is.

Any other function is refused by name.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ironglass.core.values import Bounds

from . import attention
from .composites import Composite
from .interceptor import Interceptor
from .linear import Epsilon, Layer, Rule, Twin, pulled, stabilized
from .vocabulary import (
    AFFINE,
    BATCH_NORM,
    ELEMENTWISE,
    GATES,
    HOMOGENEOUS,
    KINKED,
    LAYERS,
    LINEAR,
    NORMS,
    PAD,
    PLACING,
    PRODUCTS,
    QUOTIENTS,
    RATIOS,
    SCALES,
    SELECTING,
    Function,
    as_group_norm,
    bound,
    replaced,
    tensors,
)

_COMPOSED: dict[str, Callable[..., Any]] = {
    "multi_head_attention_forward": attention.multi_head,
    "glu": attention.gated,
}


@dataclass(frozen=True, slots=True, eq=False)
class Note:
    """What is known of a tensor that depends on the input.

    Args:
        gate: whether it gates what it is multiplied with.
        twin: if its values are still those of the input.
        layer: the linear layer whose output it is, with its rule.
        linear: that output with the layer's own gradient, before the stabilizer, where the rule is ε.
    """

    gate: bool = False
    twin: Twin | None = None
    layer: tuple[Layer, Rule] | None = None
    linear: Tensor | None = None


class Relevance(Interceptor):
    """One pass of relevance propagation.

    Args:
        composite: which rule is whose.
        bounds: the range of the input.
    """

    what = "relevance"

    def __init__(self, composite: Composite, bounds: Bounds) -> None:
        super().__init__()
        self._composite, self._bounds = composite, bounds

    def __call__(self, network: Callable[[Tensor], Tensor], leaf: Tensor) -> Tensor:
        """Returns the scores; the gradient of one of them to ``leaf`` is the relevance of the input for it."""
        x = leaf.detach()
        relay = pulled(torch.ones_like(x), lambda grad: grad, leaf)
        twin = Twin(relay, torch.full_like(x, self._bounds.low), torch.full_like(x, self._bounds.high))
        return self.run(network, self.mark(x, Note(twin=twin)))

    def call(self, name: str, func: Function, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Returns the function's result, with a backward pass that redistributes relevance."""
        given = list(tensors((args, kwargs)))
        lives = [tensor for tensor in given if self.live(tensor)]
        twins = {id(live): twin for live in lives if (twin := self.note(live, Note).twin) is not None}
        if len(twins) == len({id(live) for live in lives}):
            moved = _moved(name, func, args, kwargs, twins, alone=len(given) == len(lives))
            if moved is not None:
                out, parts = moved
                for part, twin in zip(tensors(out), parts, strict=True):
                    self.mark(part, Note(twin=twin))
                return out
        if len(lives) == 1 and name in LAYERS:
            x, weight, bias, *rest = bound(LAYERS[name], args, kwargs).values()
            if self.live(x):
                layer = Layer(func, x, weight, bias, tuple(rest), self.note(x, Note).twin)
                return self._layer(layer, lambda t: layer.run(t, weight, bias), "dense" if name == "linear" else "conv")
        if name in ("matmul", "mm") and len(args) == 2 and self._multiplies(*args):
            layer = Layer(F.linear, args[0], args[1].mT, None)
            return self._layer(layer, lambda t: func(t, args[1]), "dense")
        entered, named = replaced(list(args), self._entered), replaced(dict(kwargs), self._entered)
        if name in _COMPOSED:
            with self:
                return _COMPOSED[name](*entered, **named)
        return self._through(name, func, entered, named)

    def _multiplies(self, x: Any, weight: Any) -> bool:
        """Whether a product is a dense layer written by hand."""
        return self.live(x) and isinstance(weight, nn.Parameter) and weight.ndim == 2 and not self.live(weight)

    def _entered(self, tensor: Tensor) -> Tensor:
        """Gives the input's own values a gradient: from here on, relevance is a modified gradient."""
        twin = self.note(tensor, Note).twin
        if twin is None:
            return tensor
        value = tensor.detach()
        entered = pulled(value, lambda grad: grad * value, twin.relay)
        return cast(Tensor, self.mark(entered, Note()))

    def _layer(self, layer: Layer, value: Callable[[Tensor], Tensor], kind: Any) -> Tensor:
        rule = self._composite.pick(kind, first=layer.twin is not None)
        if isinstance(rule, Epsilon):
            z = value(self._entered(layer.x))
            return cast(Tensor, self.mark(stabilized(z, rule), Note(layer=(layer, rule), linear=z)))
        with torch.no_grad():
            z = value(layer.x)
        return self._ruled(layer, rule, z)

    def _ruled(self, layer: Layer, rule: Rule, z: Tensor) -> Tensor:
        """Returns a layer's output ``z``, and makes the rule its backward pass."""
        assert not isinstance(rule, Epsilon)
        bare = replace(layer, x=layer.x.detach())
        source = layer.twin.relay if rule.direct and layer.twin is not None else self._entered(layer.x)
        out = pulled(z, lambda grad: rule.pull(bare, z, grad), source)
        return cast(Tensor, self.mark(out, Note(layer=(layer, rule))))

    def _batch_norm(self, func: Function, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        given = bound(BATCH_NORM, args, kwargs)
        x, mean, variance, weight, bias, training, _, eps = given.values()
        if training or mean is None:
            self.refuse("batch_norm", "it takes the statistics of the batch, which mixes samples; track running ones")
        note = self.note(x, Note)
        of = {"linear": x.ndim == 2, "conv1d": True, "conv2d": True, "conv3d": True}
        layer, rule = note.layer or (None, None)
        if layer is None or rule is None or not of.get(getattr(layer.function, "__name__", ""), False):
            return cast(Tensor, self.mark(func(*args, **kwargs), Note()))
        if isinstance(rule, Epsilon):
            z = func(*replaced(list(args), lambda t: cast(Tensor, note.linear) if t is x else t), **kwargs)
            return cast(Tensor, self.mark(stabilized(z, rule), Note()))
        with torch.no_grad():
            z = func(*args, **kwargs)
            scale = (variance + eps).rsqrt() if weight is None else weight * (variance + eps).rsqrt()
            shift = (0 if layer.bias is None else layer.bias) - mean
            folded = replace(
                layer,
                weight=layer.weight * scale.reshape(-1, *(1,) * (layer.weight.ndim - 1)),
                bias=shift * scale if bias is None else shift * scale + bias,
            )
        out = self._ruled(folded, rule, z)
        return cast(Tensor, self.mark(out, Note()))

    def _through(self, name: str, func: Function, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """What is no linear layer, on tensors with a gradient."""
        lives = [tensor for tensor in tensors((args, kwargs)) if self.live(tensor)]
        first = lives[0]
        if name == "batch_norm":
            return self._batch_norm(func, args, kwargs)
        if name in PRODUCTS or name in QUOTIENTS:
            return self._product(name, func, args, kwargs, lives)
        if name in KINKED or name in LINEAR or name in SELECTING or name in HOMOGENEOUS:
            gate = all(self.note(live, Note).gate for live in lives)
            return self.mark(func(*args, **kwargs), Note(gate=gate))
        if name in ELEMENTWISE or name in RATIOS:
            return self._activation(name, func, args, kwargs, first)
        if name in ("layer_norm", "group_norm"):
            return self.mark(_normalized(name, func, args, kwargs, bound(NORMS[name], args, kwargs)), Note())
        if name == "instance_norm" and (as_group := as_group_norm(args, kwargs)) is not None:
            return self.mark(_normalized(name, func, args, kwargs, as_group), Note())
        if name == "var":
            out = func(*args, **kwargs)
            return self.mark(pulled(out.detach(), lambda grad: grad / 2, out), Note())
        if name == "scaled_dot_product_attention" and self.live(args[2]):
            return self.mark(func(args[0].detach(), args[1].detach(), *args[2:], **kwargs), Note())
        with torch.no_grad():
            out = func(*args, **kwargs)
        if name == "log_softmax":
            return self.mark(pulled(out, lambda grad: grad, first), Note())
        if name in SCALES:
            return out
        self.refuse(name)

    def _product(self, name: str, func: Function, args: list[Any], kwargs: dict[str, Any], lives: list[Tensor]) -> Any:
        """Products and quotients: the signal takes all, equals share, a denominator is a constant."""
        gates = [self.note(live, Note).gate for live in lives]
        if name in QUOTIENTS:
            if name != "div" or not self.live(args[0]):
                with torch.no_grad():
                    return func(*args, **kwargs)
            divided = [args[0], *replaced(args[1:], Tensor.detach)]
            return self.mark(func(*divided, **replaced(kwargs, Tensor.detach)), Note(gate=gates[0]))
        if len(lives) == 1:
            return self.mark(func(*args, **kwargs), Note(gate=gates[0]))
        if len(lives) > 2 or name not in ("mul", "multiply", "matmul", "mm", "bmm", "einsum"):
            self.refuse(name, f"{len(lives)} of its operands depend on the input")
        a, b = lives
        gate = None
        if gates[0] != gates[1]:
            gate = lives[gates.index(True)]
        elif name in ("mul", "multiply") and a.numel() != b.numel():
            gate = a if a.numel() < b.numel() else b
        if gate is not None:
            args = replaced(args, lambda t: t.detach() if t is gate else t)
            return self.mark(func(*args, **kwargs), Note())
        out = func(*args, **kwargs)
        return self.mark(pulled(out.detach(), lambda grad: grad / 2, out), Note(gate=all(gates)))

    def _activation(self, name: str, func: Function, args: list[Any], kwargs: dict[str, Any], z: Tensor) -> Tensor:
        """A function of each value: the gradient is the ratio of output, less that at 0, and input."""

        def at(value: Tensor) -> Tensor:
            found = func(*replaced(args, lambda t: value if t is z else t), **kwargs)
            return cast(Tensor, found)

        value, gate = z.detach(), False
        y, rest, slope = at(value), torch.zeros((), dtype=z.dtype, device=z.device), 0.0
        if name in ELEMENTWISE:
            probe = torch.zeros((1,) * z.ndim, dtype=z.dtype, device=z.device)
            with torch.enable_grad():
                zero = probe.clone().requires_grad_()
                rest = at(zero)
                slope = float(torch.autograd.grad(rest.sum(), zero, materialize_grads=True)[0])
            rest = rest.detach()
            if not bool(rest.isfinite().all()) or len([t for t in tensors((args, kwargs)) if self.live(t)]) > 1:
                self.refuse(name, "it has no finite value at 0 to measure its contribution from")
            slope = slope if abs(slope) < float("inf") else 0.0
            gate = name in GATES and bool((at(probe - 1e4) >= 0).all())
        near = torch.finfo(z.dtype).eps ** 0.5 if bool((rest != 0).any()) else 0.0

        def pull(grad: Tensor) -> Tensor:
            if near:
                return torch.where(value.abs() <= near, slope, (y - rest) / value).mul_(grad)
            return (y / value).nan_to_num_(slope).mul_(grad)  # 0 / 0

        return cast(Tensor, self.mark(pulled(y, pull, z), Note(gate=gate)))


def _normalized(
    name: str, func: Function, args: Sequence[Any], kwargs: Mapping[str, Any], given: Mapping[str, Any]
) -> Tensor:
    """Layer and group norm, their arguments given by name: centring is linear, the standard deviation a constant."""
    x, over, weight, _, eps = given.values()
    with torch.no_grad():
        value = func(*args, **kwargs)
    if name == "layer_norm":
        dims, parts = tuple(range(-len(over), 0)), x
    else:
        dims, parts = (-1,), x.reshape(len(x), over, -1)
        weight = None if weight is None else weight.reshape(-1, *(1,) * (x.ndim - 2))
    deviation = parts.detach().var(dims, correction=0, keepdim=True)
    route = (parts - parts.mean(dims, keepdim=True)) * (deviation + eps).rsqrt()
    route = route.reshape(x.shape) if weight is None else route.reshape(x.shape) * weight
    return pulled(value, lambda grad: grad, route)


def _moved(
    name: str, func: Function, args: Sequence[Any], kwargs: Mapping[str, Any], twins: Mapping[int, Twin], *, alone: bool
) -> tuple[Any, list[Twin]] | None:
    """Follows the input's own values where a function moves, shifts or scales them one by one; None where it does not.

    Args:
        name: of the function.
        func: the function.
        args: its arguments.
        kwargs: its arguments by name.
        twins: of those tensors among them that are the input's own values, by their id.
        alone: whether there are no other tensors.

    Returns:
        The function's result, and what is known of each tensor in it.
    """

    def of(what: Callable[[Twin], Tensor]) -> Any:
        def change(t: Tensor) -> Tensor:
            return what(twins[id(t)]) if id(t) in twins else t

        return func(*replaced(list(args), change), **replaced(dict(kwargs), change))

    ends = (operator.attrgetter("low"), operator.attrgetter("high"))
    empty = name == "pad" and not bound(PAD, args, kwargs)["value"]
    joined = name in ("cat", "concat", "concatenate", "stack") and alone
    if joined or (len(twins) == 1 and (name in PLACING or empty)):
        parts = [list(tensors(of(what))) for what in (operator.attrgetter("relay"), *ends)]
        return func(*args, **kwargs), [Twin(*its) for its in zip(*parts, strict=True)]
    if len(twins) > 1 or name not in AFFINE or (name == "div" and id(args[0]) not in twins):
        return None
    if name == "batch_norm" and bound(BATCH_NORM, args, kwargs)["training"]:
        return None
    out, (twin,) = func(*args, **kwargs), twins.values()
    return (out, [Twin(twin.relay, of(ends[0]), of(ends[1]))]) if out.shape == twin.relay.shape else None
