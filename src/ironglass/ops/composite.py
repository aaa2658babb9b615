r"""Operators that are written as several steps: products of two values of the network, softmax, attention, layer norm.

Softmax is written without a quotient of two sums, so that its bounds lie in [0, 1] whatever the logits are:

.. math:: \mathrm{softmax}(x)_i = \frac{1}{1 + \sum_{j \ne i} e^{x_j - x_i}}

Differences above 60 (600 in float64) are cut there, so that no power overflows; what that changes is less than the
smallest power, and is counted. The network computes softmax in another way. Its error against the exact value is
counted at the last of these steps; that the steps before it have some of their own only adds to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ironglass.core.errors import InputError

from . import operators
from .graph import Absolute, Affine, Bend, Cat, Monotone, Op, Product, Smooth, Sum
from .operators import Call, Refused, average, constant_matrix, move, scale


class Wired:
    """A step that names what it reads: the call's live arguments in order, then the steps written for the call.

    Args:
        op: of the step.
        inputs: indices in that list.
    """

    __slots__ = ("inputs", "op")

    def __init__(self, op: Op, inputs: tuple[int, ...]) -> None:
        self.op, self.inputs = op, inputs


class Sketch:
    """The steps of one call as they are written, each run on the probes at once.

    Args:
        call: the operator's.
    """

    def __init__(self, call: Call) -> None:
        self.call, self.values, self.steps = call, list(call.live), list[Op | Wired]()

    def place(self, value: Tensor) -> int:
        """Returns where a live argument stands."""
        return next(i for i, live in enumerate(self.call.live) if live is value)

    def add(self, op: Op, *inputs: int) -> int:
        """Writes a step, and returns where its values stand."""
        self.steps.append(Wired(op, inputs))
        self.values.append(op(*(self.values[i] for i in inputs)))
        return len(self.values) - 1

    def moved(self, index: int, map: Callable[[Tensor], Tensor]) -> int:
        """Moves values, and returns where they stand then."""
        return self.add(move(map, self.values[index]), index)

    def shown(self, index: int, value: Any) -> Tensor:
        """Returns a constant in the graph's dtype, for steps whose values have as many dimensions as that one."""
        call = Call(self.call.name, self.call.func, self.values[index], [], self.call.like)
        return call.constant(value)


def _expanded(sketch: Sketch, index: int, shape: Sequence[int]) -> int:
    """Repeats values until a sample has this shape."""
    shape = tuple(shape)
    if tuple(sketch.values[index].shape[1:]) == shape:
        return index
    return sketch.moved(index, lambda v: v.expand(len(v), *shape))


def _broadcast(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    return tuple(torch.broadcast_shapes(tuple(one), tuple(other)))  # type: ignore[no-untyped-call]


def _times(sketch: Sketch, one: int, other: int) -> int:
    """Multiplies values, those of fewer repeated."""
    x, y = sketch.values[one], sketch.values[other]
    if x.ndim != y.ndim:
        raise Refused("its factors have different numbers of dimensions")
    shape = _broadcast(x.shape[1:], y.shape[1:])
    return sketch.add(Product(), *(_expanded(sketch, index, shape) for index in (one, other)))


def _mul(call: Call, x: Any, other: Any) -> list[Op | Wired]:
    if len(call.live) < 2:
        return list(operators.multiplied(call, x, other))
    sketch = Sketch(call)
    _times(sketch, 0, 1)
    return sketch.steps


def _square(call: Call, x: Tensor) -> list[Op | Wired]:
    return [Absolute(), Monotone("square", torch.square, 2, Smooth(lambda v: 2 * v, (), True, None), 0.0)]


def _pow(call: Call, x: Tensor, exponent: Any) -> list[Op | Wired]:
    if isinstance(exponent, Tensor) or exponent != 2:
        raise Refused("only the square is known")
    return _square(call, x)


def _matmul(call: Call, x: Tensor, other: Tensor) -> list[Op | Wired]:
    if len(call.live) < 2:
        return list(constant_matrix(call, x, other))
    sketch = Sketch(call)
    _multiplied(sketch, 0, 1)
    return sketch.steps


def _multiplied(sketch: Sketch, one: int, other: int) -> int:
    """The products of rows and columns, and their sums."""
    x, y = sketch.values[one], sketch.values[other]
    if x.ndim != y.ndim or x.ndim < 3:
        raise Refused("both factors have to be matrices of each sample")
    lead = _broadcast(x.shape[1:-2], y.shape[1:-2])
    rows, inner, columns = x.shape[-2], x.shape[-1], y.shape[-1]
    shape = (*lead, rows, columns, inner)
    left = sketch.moved(one, lambda v: v.unsqueeze(-2).expand(len(v), *shape))
    right = sketch.moved(other, lambda v: v.mT.unsqueeze(-3).expand(len(v), *shape))
    return sketch.add(average(lambda v: v.sum(-1), inner, like=x), sketch.add(Product(), left, right))


def _softmax(
    call: Call, x: Tensor, dim: int | None = None, dtype: Any = None, *, _stacklevel: int = 3
) -> list[Op | Wired]:
    if dim is None or dtype is not None:
        raise Refused("its dimension has to be given, and its dtype the input's")
    sketch = Sketch(call)
    _soft(sketch, 0, dim % x.ndim)
    return sketch.steps


def _soft(sketch: Sketch, index: int, dim: int) -> int:
    x = sketch.values[index]
    size, dtype = x.shape[dim], sketch.call.out.dtype
    far = 60.0 if dtype == torch.float32 else 600.0
    if dim == 0:
        raise Refused("it mixes the samples of a batch")
    if size < 2:
        raise Refused("it is over one value, and so always 1")
    others = torch.tensor([[j for j in range(size) if j != i] for i in range(size)], device=x.device)

    def apart(v: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        v = v.movedim(dim, -1)
        found = v[..., others] * weight[0] + v[..., None] * weight[1]
        return found if bias is None else found + bias

    def pull(rows: Tensor, shape: Sequence[int]) -> Tensor:
        found = -rows.sum(-1)
        there = found.new_zeros(*found.shape[:-1], size * (size - 1))
        spread = there.new_zeros(*found.shape).index_add(-1, others.flatten(), rows.flatten(-2))
        return (found + spread).movedim(-1, dim)

    differences = Affine(apart, x.new_tensor([1.0, -1.0]), None, 2, back=2 * size, pull=pull)
    index = sketch.add(differences, index)
    index = sketch.add(Monotone("clamp", lambda v: v.clamp(max=far), 0, Bend(far, 1, 0)), index)
    powers = sketch.add(Monotone("exp", torch.exp, 16, Smooth(torch.exp, (), True, None), 0.0), index)
    total = sketch.add(average(lambda v: v.sum(-1), size - 1, like=x), powers)
    shape = Smooth(lambda v: (1 + v).pow(-2), (), False, None)
    error = 2 * size + 64 + _lost(dtype)
    share = sketch.add(Monotone("softmax", lambda v: -1 / (1 + v), error, shape, -1.0), total)
    lost = sketch.shown(share, math.exp(-far) / torch.finfo(dtype).eps)
    share = sketch.add(scale(sketch.shown(share, -1.0), size=lost), share)
    return sketch.moved(share, lambda v: v.movedim(-1, dim)) if dim != x.ndim - 1 else share


def _lost(dtype: torch.dtype) -> int:
    """The largest distance between logits at which the smaller power is not lost: its rounding moves it as much."""
    return math.ceil(-math.log(torch.finfo(dtype).tiny)) + 20


def _layer_norm(
    call: Call, x: Tensor, normalized_shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> list[Op | Wired]:
    dims = tuple(range(-len(normalized_shape), 0))
    if x.ndim <= len(dims):
        raise Refused("its input has no batch dimension")
    if eps <= 0:
        raise Refused("its eps is not above 0")
    count, shape = math.prod(normalized_shape), tuple(x.shape[1:])
    sketch = Sketch(call)

    def centred(v: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        found = v * weight[0] + v.mean(dims, keepdim=True) * weight[1]
        return found if bias is None else found + bias

    # what the network loses where a mean is taken off at the end, as in x s - m s, is counted here
    centre = Affine(centred, x.new_tensor([1.0, -1.0]), None, count + 8, back=count + 8)
    first = sketch.add(centre, 0)
    index = first
    for op in _square(call, sketch.values[first]):
        assert not isinstance(op, Wired)
        index = sketch.add(op, index)
    spread = sketch.add(average(lambda v: v.mean(dims, keepdim=True), count, like=x), index)
    falls = Smooth(lambda v: (v + eps).pow(-1.5) / 2, (), False, None)
    inverse = sketch.add(Monotone("layer_norm", lambda v: -(v + eps).rsqrt(), 16, falls), spread)
    inverse = sketch.add(scale(sketch.shown(inverse, -1.0)), inverse)
    out = sketch.add(Product(), first, _expanded(sketch, inverse, shape))
    if weight is not None or bias is not None:
        factor = sketch.shown(out, torch.ones(normalized_shape) if weight is None else weight)
        sketch.add(scale(factor, None if bias is None else sketch.shown(out, bias)), out)
    return sketch.steps


def _attention(
    call: Call, query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> list[Op | Wired]:  # fmt: skip
    if len(call.live) != 3 or attn_mask is not None or is_causal or enable_gqa or dropout_p:
        raise Refused("only attention of three values of the network, without mask and dropout, is known")
    sketch = Sketch(call)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    q, k, v = (sketch.place(each) for each in (query, key, value))
    scores = _multiplied(sketch, q, sketch.moved(k, lambda t: t.mT))
    scores = sketch.add(operators.scale(sketch.shown(scores, factor)), scores)
    _multiplied(sketch, _soft(sketch, scores, sketch.values[scores].ndim - 1), v)
    return sketch.steps


def _cat(call: Call, tensors: Sequence[Tensor], dim: int = 0) -> list[Op | Wired]:
    """Joins values; constants among them are what is added to values between zeros."""
    dim = dim % call.out.ndim
    if dim == 0:
        raise Refused("it joins samples")
    if len(call.live) == len(tensors):
        return [Cat(dim)]
    sketch = Sketch(call)
    frame, placed, start = torch.zeros_like(call.out[:1], dtype=call.like.dtype), [], 0
    for part in tensors:
        end = start + part.shape[dim]
        if call.is_live(part):
            pad = [0, 0] * (call.out.ndim - 1 - dim) + [start, call.out.shape[dim] - end]
            placed.append(sketch.moved(sketch.place(part), lambda v, pad=pad: F.pad(v, pad)))  # type: ignore[misc]
        else:
            frame.narrow(dim, start, end - start).copy_(call.constant(part))
        start = end
    whole = sketch.add(Sum((1.0,) * len(placed)), *placed) if len(placed) > 1 else placed[0]
    sketch.add(scale(call.constant(1.0), frame), whole)
    return sketch.steps


@contextmanager
def written_out(module: nn.Module) -> Iterator[None]:
    """In this context, multi-head attention modules run by operators that are known, the batch first."""
    parts = [part for part in module.modules() if type(part) is nn.MultiheadAttention and _is_plain(part)]
    try:
        for part in parts:
            part.forward = partial(_heads, part)  # type: ignore[method-assign]
        yield
    finally:
        for part in parts:
            vars(part).pop("forward", None)


def _is_plain(part: nn.MultiheadAttention) -> bool:
    joined = part.in_proj_weight is not None and part.bias_k is None and part.bias_v is None
    return joined and part.batch_first and not (part.add_zero_attn or part.training or "forward" in vars(part))


def _heads(
    part: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Any = None,
    need_weights: bool = True, attn_mask: Any = None, average_attn_weights: bool = True, is_causal: bool = False,
) -> tuple[Tensor, None]:  # fmt: skip
    """Returns what the module does, without the weights."""
    if key_padding_mask is not None or attn_mask is not None or is_causal:
        raise InputError("bounds cannot pass attention with a mask", "leave attn_mask and key_padding_mask out")
    weights = part.in_proj_weight.chunk(3)
    offsets = (None,) * 3 if part.in_proj_bias is None else part.in_proj_bias.chunk(3)

    def split(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x = F.linear(x, weight, bias)
        return x.reshape(x.shape[0], x.shape[1], part.num_heads, -1).transpose(1, 2)

    q, k, v = (split(x, w, b) for x, w, b in zip((query, key, value), weights, offsets, strict=True))
    found = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    return part.out_proj(found.reshape(found.shape[0], found.shape[1], -1)), None


PARTED = frozenset(("chunk", "split", "tensor_split", "unbind"))
"""What returns several parts of one tensor."""
RULES: dict[str, tuple[Callable[..., Sequence[Op | Wired]], bool]] = {
    **operators.RULES,
    **{name: (rule, False) for name, rule in (
        ("softmax", _softmax), ("layer_norm", _layer_norm), ("square", _square), ("pow", _pow),
    )},
    **{name: (rule, True) for name, rule in (
        ("mul", _mul), ("matmul", _matmul), ("bmm", _matmul), ("cat", _cat),
        ("scaled_dot_product_attention", _attention),
    )},
}  # fmt: skip
"""Of each operator its rule, and whether more than its first argument may depend on the network's input."""
