r"""DeepLIFT's rescale rule through whatever functions a network calls.

Differences from a reference are shared out: :math:`\Delta y = \sum_i m_i \Delta x_i` with multipliers :math:`m`, which
follow the chain rule. So they travel as a modified gradient. Linear functions keep their own. A function of each value
has :math:`m = \Delta y / \Delta x`. A product has :math:`\Delta(ab) = \bar b\,\Delta a + \bar a\,\Delta b`, with means
of input and reference. A maximum is shared by the winner at the input and the winner at the reference, so that it adds
up. All else is made of these: softmax, attention, layer norm. So the multipliers add up for every network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from . import attention
from .interceptor import Interceptor
from .linear import pulled
from .vocabulary import (
    BATCH_NORM,
    ELEMENTWISE,
    KINKED,
    LINEAR,
    NORMS,
    PRODUCTS,
    Function,
    as_group_norm,
    bound,
    replaced,
    tensors,
)

_ELEMENTWISE = ELEMENTWISE | {"log", "log2", "log10", "rsqrt", "reciprocal", "rdiv", "rtruediv", "rpow"}
_LAYERS = frozenset(f"conv{part}{d}d" for part in ("", "_transpose") for d in (1, 2, 3)) | {"linear", "batch_norm"}


class Rescale(Interceptor):
    """One pass: the network runs on the reference, then on the input."""

    what = "DeepLIFT"

    def __init__(self) -> None:
        super().__init__()
        self._tape: list[Tensor] = []
        self._replay: Iterator[Tensor] | None = None
        self._composed: dict[str, Callable[..., Any]] = {
            "multi_head_attention_forward": attention.multi_head,
            "scaled_dot_product_attention": attention.scaled_dot_product,
            "glu": attention.gated,
            "softmax": lambda x, dim, *_, **__: torch.exp(x - torch.logsumexp(x, dim, keepdim=True)),
            "log_softmax": lambda x, dim, *_, **__: x - torch.logsumexp(x, dim, keepdim=True),
            "layer_norm": _layer_norm,
            "group_norm": _group_norm,
            "rms_norm": _rms_norm,
            "local_response_norm": _local_response_norm,
        }

    def __call__(self, network: Callable[[Tensor], Tensor], leaf: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the scores of the input and of the reference; the gradient to ``leaf`` is the multipliers."""
        start = self.run(network, self.mark(reference.detach(), None))  # nothing in it has a gradient
        self._replay = iter(self._tape)
        return self.run(network, self.mark(leaf, None)), start.detach()

    def call(self, name: str, func: Function, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Returns the function's result, with the multipliers for its gradient."""
        lives = [tensor for tensor in tensors((args, kwargs)) if self.live(tensor)]
        if name == "batch_norm" and bound(BATCH_NORM, args, kwargs)["training"]:
            self.refuse(name, "it takes the statistics of the batch, which mixes samples; track running ones")
        if name in LINEAR or (name in _LAYERS and len(lives) == 1 and self.live(args[0])):
            return self.mark(func(*args, **kwargs), None)
        if (name in PRODUCTS or name == "div") and len(lives) == 1 and (name != "div" or lives[0] is args[0]):
            return self.mark(func(*args, **kwargs), None)
        if name == "instance_norm" and (as_group := as_group_norm(args, kwargs)) is not None:
            with self:
                route = _group_norm(**as_group)
            return self._valued(func, args, kwargs, route)
        if name in self._composed:
            with self:
                route = self._composed[name](*args, **kwargs)
            return route if isinstance(route, tuple) else self._valued(func, args, kwargs, route)
        if name == "div" and len(lives) == 2:
            with self:
                route = args[0] * torch.reciprocal(args[1])
            return self._valued(func, args, kwargs, route)
        if name in PRODUCTS and len(lives) == 2 and name not in ("grid_sample", "addmm", "baddbmm", "addmv", "addbmm"):
            return self._product(func, args, kwargs, lives)
        if (name in _ELEMENTWISE or name == "div") and len(lives) == 1:
            return self._elementwise(func, args, kwargs, lives[0], 0.0 if name in KINKED else 0.75)
        if name == "logsumexp":
            return self._log_sum(*args, **kwargs)
        if name in ("maximum", "fmax", "max") and len(lives) == 2:
            shape = torch.broadcast_shapes(*(live.shape for live in lives))  # type: ignore[no-untyped-call]
            return self._greatest(torch.stack([live.expand(shape) for live in lives], -1))
        if name in ("max", "amax") and len(lives) == 1:
            return self._maximum(name, func, args, kwargs)
        if "max_pool" in name:
            return self._max_pool(name, func, args, kwargs)
        self.refuse(name)

    def _reference(self, x: Tensor) -> Tensor:
        """Returns what a value was when the network ran on the reference; notes it if that is now."""
        if self._replay is None:
            self._tape.append(x.detach())
            return x.detach()
        found = next(self._replay, None)
        if found is None or found.shape != x.shape:
            self.refuse("of a branch", "the network takes another way for the reference than for the input")
        return found

    def _valued(self, func: Function, args: Sequence[Any], kwargs: Mapping[str, Any], route: Tensor) -> Tensor:
        """Returns the function's own result on the gradient of one that agrees with it up to rounding."""
        with torch.no_grad():
            value = func(*args, **kwargs)
        return cast(Tensor, self.mark(pulled(value, lambda grad: grad, route), None))

    def _elementwise(
        self, func: Function, args: Sequence[Any], kwargs: Mapping[str, Any], z: Tensor, precision: float
    ) -> Tensor:
        def at(value: Tensor) -> Tensor:
            found = func(*replaced(list(args), lambda t: value if t is z else t), **kwargs)
            return cast(Tensor, found)

        old = self._reference(z)
        value, was = at(z.detach()), at(old)
        now = z.detach()

        def pull(grad: Tensor) -> Tensor:
            change = _difference(now, old)
            with torch.enable_grad():
                middle = ((now + old) / 2).requires_grad_()
                (slope,) = torch.autograd.grad(at(middle).sum(), middle, materialize_grads=True)
            least = torch.finfo(z.dtype).eps ** precision if precision else 0.0
            return grad * torch.where(change.abs() <= least, slope, (value - was) / change)

        return cast(Tensor, self.mark(pulled(value, pull, z), None))

    def _log_sum(self, x: Tensor, dim: int, keepdim: bool = False) -> Tensor:
        r"""The chain of exponentials, their sum and its logarithm, in units of the largest, so that none overflows."""
        old, now = self._reference(x), x.detach()
        top = torch.maximum(now, old).amax(dim, keepdim=True)
        change, grown = _difference(now, old), (now - top).exp() - (old - top).exp()
        least = torch.finfo(x.dtype).eps ** 0.75
        slope = torch.where(change.abs() <= least, ((now + old) / 2 - top).exp(), grown / change)
        total, value = grown.sum(dim, keepdim=True), now.logsumexp(dim, keepdim=True)
        middle = ((now - top).exp() + (old - top).exp()).sum(dim, keepdim=True) / 2
        rise = (value - old.logsumexp(dim, keepdim=True)) / total
        route = (x * slope * torch.where(total.abs() <= least * middle, 1 / middle, rise)).sum(dim, keepdim=True)
        out = pulled(value, lambda grad: grad, route)
        return cast(Tensor, self.mark(out if keepdim else out.squeeze(dim), None))

    def _product(
        self, func: Function, args: Sequence[Any], kwargs: Mapping[str, Any], lives: Sequence[Tensor]
    ) -> Tensor:
        places = [i for i, arg in enumerate(args) if self.live(arg)]
        if len(places) != 2:  # operands in a list
            args = [*args[:1], *args[1]]
            places = [i for i, arg in enumerate(args) if self.live(arg)]
        means = [(args[i].detach() + self._reference(args[i])) / 2 for i in places]

        def with_mean(which: int) -> Tensor:
            parts = list(args)
            parts[places[which]] = means[which]
            return cast(Tensor, func(*parts, **kwargs))

        return self._valued(func, args, kwargs, with_mean(0) + with_mean(1))

    def _greatest(self, x: Tensor) -> Tensor:
        """Returns the greatest along the last dimension."""
        old = self._reference(x)
        value, first = x.detach().max(-1, keepdim=True)
        return self._shared(x, old, value, first, old.max(-1, keepdim=True).indices).squeeze(-1)

    def _shared(self, x: Tensor, old: Tensor, value: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Shares a maximum between the winner at the input and the winner at the reference, so that it adds up."""
        now = x.detach()
        ahead = now.gather(-1, first) - now.gather(-1, second)
        behind = old.gather(-1, second) - old.gather(-1, first)
        share = torch.where(ahead + behind > 0, ahead / (ahead + behind), 0.5)
        route = share * x.gather(-1, first) + (1 - share) * x.gather(-1, second)
        return cast(Tensor, self.mark(pulled(value, lambda grad: grad, route), None))

    def _maximum(self, name: str, func: Function, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        given = bound({"input": None, "dim": None, "keepdim": False}, args, kwargs)
        x, dim = given["input"], given["dim"]
        if dim is None or (not isinstance(dim, int) and not len(dim)):
            self.refuse(name, "over all dimensions it mixes the samples of a batch")
        dims = sorted(d % x.ndim for d in ([dim] if isinstance(dim, int) else dim))
        rest = [d for d in range(x.ndim) if d not in dims]
        out = self.mark(self._greatest(x.permute(*rest, *dims).flatten(len(rest))), None)
        if given["keepdim"]:
            for d in dims:
                out = self.mark(out.unsqueeze(d), None)
        if name == "amax":
            return out
        with torch.no_grad():
            found = func(*args, **kwargs)
        return type(found)((out, found.indices))

    def _max_pool(self, name: str, func: Function, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        names = {"input": None, "kernel_size": None, "stride": None, "padding": 0, "dilation": 1}
        if "adaptive" in name:
            names = {"input": None, "output_size": None}
        given = bound(names | {"ceil_mode": False, "return_indices": False}, args, kwargs)
        if given["return_indices"]:
            self.refuse(name, "it returns indices")
        x, flags = given["input"], given | {"return_indices": True}
        if "adaptive" in name:
            del flags["ceil_mode"]
        pool = getattr(F, name.removesuffix("_with_indices"))
        old, axes = self._reference(x), int(name.removesuffix("_with_indices")[-2])
        with torch.no_grad():
            value, first = pool(**(flags | {"input": x.detach()}))
            second = pool(**(flags | {"input": old}))[1]
        flat = [t.flatten(-axes) for t in (x, old, value, first, second)]
        return self.mark(self._shared(*flat).reshape(value.shape), None)


def _difference(now: Tensor, old: Tensor) -> Tensor:
    """Returns ``now - old``; of what is masked by the same infinity, 0."""
    return torch.where(now == old, 0, now - old)


def _layer_norm(*args: Any, **kwargs: Any) -> Tensor:
    x, shape, weight, bias, eps = bound(NORMS["layer_norm"], args, kwargs).values()
    out = _standardized(x, tuple(range(-len(shape), 0)), eps)
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


def _group_norm(*args: Any, **kwargs: Any) -> Tensor:
    x, groups, weight, bias, eps = bound(NORMS["group_norm"], args, kwargs).values()
    out = _standardized(x.reshape(len(x), groups, -1), (-1,), eps).reshape(x.shape)
    shape = (-1, *(1,) * (x.ndim - 2))
    out = out if weight is None else out * weight.reshape(shape)
    return out if bias is None else out + bias.reshape(shape)


def _standardized(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    centred = x - x.mean(dims, keepdim=True)
    return centred * torch.rsqrt(torch.square(centred).mean(dims, keepdim=True) + eps)


def _rms_norm(x: Tensor, shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    dims = tuple(range(-len(shape), 0))
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    out = x * torch.rsqrt(torch.square(x).mean(dims, keepdim=True) + eps)
    return out if weight is None else out * weight


def _local_response_norm(x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    squares = torch.square(x).reshape(len(x), 1, x.shape[1], -1)
    near = F.avg_pool2d(F.pad(squares, (0, 0, size // 2, (size - 1) // 2)), (size, 1), stride=1)
    return x * torch.pow(near.reshape(x.shape) * alpha + k, -beta)
