"""The operators that bounds can pass: each rule writes one call of a torch operator as a chain of graph steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from .graph import Absolute, Affine, Bend, Form, Monotone, Op, Pool, Ramp, Shape, Smooth, Stencil, Sum, Valley


class Refused(Exception):
    """This use of an operator cannot be bounded; says why."""


@dataclass(slots=True)
class Call:
    """One call of an operator, for the rule that writes it down.

    Args:
        name: the operator's, as in `RULES`.
        func: the operator.
        out: what it returned.
        live: the arguments that hang on the network's input, as written down so far.
        like: any tensor of the dtype and device that the graph is written in.
    """

    name: str
    func: Callable[..., Any]
    out: Tensor
    live: list[Tensor]
    like: Tensor

    def is_live(self, value: Any) -> bool:
        """Returns whether this argument hangs on the network's input."""
        return any(value is item for item in self.live)

    def constant(self, value: Any) -> Tensor:
        """Returns a constant that does not depend on the batch's size, in the graph's dtype."""
        tensor = (value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)).to(self.like)
        if tensor.ndim > self.out.ndim:
            raise Refused(f"a constant of shape {tuple(tensor.shape)} moves the batch dimension")
        if tensor.ndim == self.out.ndim and len(tensor) > 1:
            if not bool((tensor == tensor[:1]).all()):
                raise Refused("a constant differs from sample to sample")
            tensor = tensor[:1]
        return tensor


# The rules: each writes one call of an operator, given as in torch, as a chain of steps.


def _times(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x * weight if bias is None else torch.addcmul(bias, x, weight)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x, weight, None if bias is None else bias.expand(len(weight)))


def _without_weight(function: Callable[[Tensor], Tensor], terms: int, form: Form = "other", *, like: Tensor) -> Affine:
    """A linear map whose factors are 0 or positive and not ours to change."""

    def map(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return function(x) if bias is None else function(x) + bias

    return Affine(map, like.new_ones(()), terms=terms, form=form, rising=True)


def scale(factor: Tensor, offset: Tensor | None = None, terms: int = 2, size: Tensor | None = None) -> Affine:
    """Returns the step ``factor * x + offset``, value by value."""
    size = offset.abs() if size is None and offset is not None else size
    return Affine(_times, factor, offset, terms, "diagonal", size, pull=lambda rows, shape: rows * factor)


def _same(call: Call, x: Tensor, *args: Any, **kwargs: Any) -> list[Op]:
    return []


def _cast(call: Call, x: Tensor, *args: Any, **kwargs: Any) -> list[Op]:
    return [scale(call.constant(1.0))]  # may round


def _dropout(call: Call, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> list[Op]:
    if training:
        raise Refused("it is in train mode")
    return []


def _activation(
    name: str, function: Callable[[Tensor], Tensor], error: float, shape: Shape, least: float = -math.inf
) -> Callable[..., list[Op]]:
    def rule(call: Call, x: Tensor, inplace: bool = False) -> list[Op]:
        return [Monotone(name, function, error, shape, least)]

    return rule


def _sigmoid_slope(v: Tensor) -> Tensor:
    return torch.sigmoid(v) * torch.sigmoid(-v)


def _tanh_slope(v: Tensor) -> Tensor:
    return (4 * torch.sigmoid(2 * v)) * torch.sigmoid(-2 * v)


def _elu(call: Call, x: Tensor, alpha: float = 1.0, inplace: bool = False) -> list[Op]:
    if not 0 <= alpha <= 1:
        raise Refused(f"its alpha is {alpha}")
    shape = Smooth(lambda v: torch.where(v > 0, 1.0, alpha * v.clamp(max=0).exp()), (), True)
    return [Monotone("elu", lambda v: F.elu(v, alpha), 16, shape)]


def _gelu(call: Call, x: Tensor, approximate: str = "none") -> list[Op]:
    bottom, turns, slope = _GELU[approximate]
    return [Valley("gelu", lambda v: F.gelu(v, approximate=approximate), bottom, 16, Smooth(slope, turns, False, 1.2))]


def _silu(call: Call, x: Tensor, inplace: bool = False) -> list[Op]:
    turn = 2.3993572805154195
    return [Valley("silu", F.silu, -1.278464542761074, 16, Smooth(_silu_slope, (-turn, turn), False, 1.2))]


def _silu_slope(v: Tensor) -> Tensor:
    gate = torch.sigmoid(v)
    return gate * (1 + v * (1 - gate))


def _gelu_slope(v: Tensor) -> Tensor:
    return 0.5 * torch.erfc(v * -math.sqrt(0.5)) + v * torch.exp(-0.5 * v * v) / math.sqrt(2 * math.pi)


def _tanh_gelu_slope(v: Tensor) -> Tensor:
    scale, cube = math.sqrt(2 / math.pi), 0.044715
    gate = torch.sigmoid(2 * scale * (v + cube * v**3))
    return gate + 2 * v * gate * (1 - gate) * scale * (1 + 3 * cube * v * v)


_GELU = {
    "none": (-0.7517915246935645, (-math.sqrt(2), math.sqrt(2)), _gelu_slope),
    "tanh": (-0.7524614220710163, (-1.4185040087908283, 1.4185040087908283), _tanh_gelu_slope),
}
"""Of each form of GELU: where it is least, where it turns, and its derivative."""


def _max_pool(call: Call, x: Tensor, *args: Any, **kwargs: Any) -> list[Op]:
    return [
        Monotone(
            call.name,
            lambda v: cast(Tensor, call.func(v, *args, **kwargs)),
            shape=_windows(call, x, lambda v: call.func(v, *args, **kwargs)),
        )
    ]


def _windows(call: Call, x: Tensor, pool: Callable[[Tensor], Tensor]) -> Pool:
    """Finds the window of each output: in each dimension, one coordinate at a time stands out, and who sees it does."""
    dims = min(int(call.name[-2]), x.ndim - 1)
    sides = x.shape[-dims:]
    places = torch.zeros(*(1,) * 2 * dims, dtype=torch.long, device=x.device)
    real = torch.ones_like(places, dtype=torch.bool)
    for dim, side in enumerate(sides):
        spikes = torch.eye(side, device=x.device).reshape(side, 1, *(side if d == dim else 1 for d in range(dims)))
        seen = pool(spikes.expand(side, 1, *sides)).movedim(dim + 2, 1).flatten(2)[..., 0].T > 0  # (outputs, places)
        count = seen.sum(1)
        order = seen.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, : max(1, int(count.max()))]
        inside = torch.arange(order.shape[1], device=x.device) < count[:, None]
        shape = [len(seen) if d == dim else order.shape[1] if d == dims + dim else 1 for d in range(2 * dims)]
        places = places * side + torch.where(inside, order, order[:, :1]).reshape(shape)
        real = real & inside.reshape(shape)
    size = math.prod(places.shape[dims:])
    places, real = (part.expand(places.shape).reshape(-1, size) for part in (places, real))
    found = x.flatten(-dims)[..., places].amax(-1)
    if not bool(real.any(1).all()) or not torch.equal(found.flatten(), pool(x).flatten()):
        raise Refused("its windows are not understood")
    return Pool(places, real, dims)


def _clamp(call: Call, x: Tensor, min: Any = None, max: Any = None) -> list[Op]:
    exact = all(
        isinstance(limit, int | float) and float(torch.tensor(float(limit))) == limit
        for limit in (min, max)
        if limit is not None
    )
    low, high = (None if limit is None else call.constant(limit) for limit in (min, max))
    shape: Shape = Bend(0.0, 1, 1)
    if low is not None and high is not None:
        if not bool((low < high).all()):
            raise Refused("its lower limit is not below its upper one")
        shape = Ramp(low, high)
    elif low is not None:
        shape = Bend(low, 0, 1)
    elif high is not None:
        shape = Bend(high, 1, 0)
    return [Monotone("clamp", lambda v: torch.clamp(v, low, high), 0 if exact else 1, shape)]


def _hardtanh(call: Call, x: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> list[Op]:
    return _clamp(call, x, min_val, max_val)


def _clamp_min(call: Call, x: Tensor, min: Any) -> list[Op]:
    return _clamp(call, x, min)


def _clamp_max(call: Call, x: Tensor, max: Any) -> list[Op]:
    return _clamp(call, x, None, max)


def _leaky_relu(call: Call, x: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> list[Op]:
    if negative_slope < 0:
        raise Refused(f"its negative slope is {negative_slope}")
    return [Monotone("leaky_relu", lambda v: F.leaky_relu(v, negative_slope), 2, Bend(0.0, negative_slope, 1.0))]


def _abs(call: Call, x: Tensor) -> list[Op]:
    return [Absolute()]


def _linear(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> list[Op]:
    if x.ndim < 2:
        raise Refused("its input has no batch dimension")
    weight = weight.to(call.like)
    bias = None if bias is None else bias.to(call.like)
    size = None if bias is None else bias.abs()
    return [Affine(_product, weight, bias, max(weight.shape), "matrix", size, weight.shape[0])]


def constant_matrix(call: Call, x: Tensor, other: Tensor) -> list[Op]:
    """Returns the steps of a product of values with a constant matrix on the right."""
    if not call.is_live(x) or other.ndim != 2 or x.ndim < 2:
        raise Refused("only x @ W with one constant matrix W is known")
    return _linear(call, x, other.mT)


def _conv(
    call: Call, x: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> list[Op]:  # fmt: skip
    if x.ndim != weight.ndim:
        raise Refused("its input has no batch dimension")
    dims = weight.ndim - 2
    before: list[Op] = []
    if isinstance(padding, str):
        if padding == "same":
            steps = (dilation,) * dims if isinstance(dilation, int) else tuple(dilation)
            total = [d * (k - 1) for d, k in zip(steps, weight.shape[2:], strict=True)]
            before = _pad(call, x, [n for t in reversed(total) for n in (t // 2, t - t // 2)])
        padding = 0
    function = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
    weight = weight.to(call.like)
    bias = None if bias is None else bias.to(call.like)
    terms = max(weight[0].numel(), weight.numel() // weight.shape[1] // groups)

    def map(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return function(
            x, weight, None if bias is None else bias.expand(len(weight)), stride, padding, dilation, groups
        )

    stencil = Stencil(_each(stride, dims), _each(padding, dims), _each(dilation, dims), groups)
    turned = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dims - 1]
    kernel = (weight.shape[-2], weight.shape[-1])

    def pull(rows: Tensor, shape: Sequence[int]) -> Tensor:
        walks = zip(shape[1:], rows.shape[2:], weight.shape[2:], *stencil[:3], strict=True)
        if dims == 2 and groups == 1 and weight.shape[1] <= _FEW:
            columns = weight.flatten(1).mT @ rows.flatten(2)
            return F.fold(columns, (shape[1], shape[2]), kernel, stencil.dilation, stencil.padding, stencil.stride)
        left = [side - ((out - 1) * s - 2 * p + d * (k - 1) + 1) for side, out, k, s, p, d in walks]
        return turned(rows, weight, None, stencil.stride, stencil.padding, left, groups, stencil.dilation)

    size = None if bias is None else bias.abs()
    back = weight.numel() // weight.shape[1] // groups
    return [*before, Affine(map, weight, bias, terms, "kernel", size, back, pull, stencil)]


_FEW = 4
"""Up to how many channels of a convolution's input its transpose is faster as columns put together."""


def _each(value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    return (value,) * dims if isinstance(value, int) else tuple(value) * (dims // len(value))


def _conv_transpose(
    call: Call, x: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, output_padding: Any = 0,
    groups: int = 1, dilation: Any = 1,
) -> list[Op]:  # fmt: skip
    if x.ndim != weight.ndim:
        raise Refused("its input has no batch dimension")
    dims = weight.ndim - 2
    there = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dims - 1]
    back = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
    weight = weight.to(call.like)
    bias = None if bias is None else bias.to(call.like)
    products, pulled = weight.numel() // weight.shape[1] // groups, weight[0].numel()

    def map(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        wide = None if bias is None else bias.expand(weight.shape[1] * groups)
        return there(x, weight, wide, stride, padding, output_padding, groups, dilation)

    def pull(rows: Tensor, shape: Sequence[int]) -> Tensor:
        return back(rows, weight, None, stride, padding, dilation, groups)

    size = None if bias is None else bias.abs()
    return [Affine(map, weight, bias, max(products, pulled), "other", size, pulled, pull)]


def _batch_norm(
    call: Call,
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> list[Op]:
    if training or running_mean is None or running_var is None:
        raise Refused("it takes its statistics from the batch")
    mean, gain = running_mean.double(), (running_var.double() + eps).rsqrt()
    gain = gain if weight is None else gain * weight.double()
    shift = torch.zeros_like(mean) if bias is None else bias.double()
    shape = (-1, *(1,) * (x.ndim - 2))
    parts = (gain, shift - mean * gain, shift.abs() + (mean * gain).abs())
    factor, offset, size = (part.to(call.like).reshape(shape) for part in parts)
    return [scale(factor, offset, 4, size)]


def _pad(call: Call, x: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> list[Op]:
    if mode != "constant" or not value:
        return [move(lambda v: F.pad(v, pad, mode), x)]
    frame = F.pad(torch.zeros_like(x[:1]), pad, value=value)[0]
    wider = move(lambda v: F.pad(v, pad), x)
    return [wider, scale(call.constant(1.0), frame)]


def move(map: Callable[[Tensor], Tensor], x: Tensor) -> Affine:
    """Returns a step that only moves values, repeats them or puts zeros between: checked with each value's own number.

    Raises:
        Refused: if it does something else.
    """
    size = x[0].numel()
    numbers = map(torch.arange(1, 2 * size + 1, dtype=torch.float64, device=x.device).reshape(2, *x.shape[1:]))
    if numbers.ndim < 1 or len(numbers) != 2:
        raise Refused("it mixes the samples of a batch")
    first, second = numbers[0], numbers[1]
    if not bool(((first <= size) & (second == torch.where(first != 0, first + size, 0))).all()):
        raise Refused("it mixes the samples of a batch")
    times = int(torch.bincount(first.long().flatten(), minlength=size + 1)[1:].max())
    return _without_weight(map, times if times > 1 else 0, "repeat" if times > 1 else "move", like=x)


def _reshape(call: Call, x: Tensor, *args: Any, **kwargs: Any) -> list[Op]:
    shape = call.out.shape[1:]
    if len(call.out) != len(x):
        raise Refused("it mixes the samples of a batch")
    moved = move(lambda v: v.reshape(len(v), *shape), x)
    return [replace(moved, pull=lambda rows, before: rows.reshape(len(rows), *before))]


def _moved(call: Call, x: Tensor, *args: Any, **kwargs: Any) -> list[Op]:
    return [move(lambda v: cast(Tensor, call.func(v, *args, **kwargs)), x)]


def average(function: Callable[[Tensor], Tensor], terms: int, *, like: Tensor) -> Affine:
    """Returns a step that sums values, or takes their mean."""
    return _without_weight(function, terms, like=like)


def _average(call: Call, x: Tensor, *args: Any, terms: int) -> list[Op]:
    return [average(lambda v: cast(Tensor, call.func(v, *args)), terms, like=x)]


def _avg_pool(
    call: Call, x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> list[Op]:  # fmt: skip
    if divisor_override is not None and divisor_override < 0:
        raise Refused("its divisor is negative")
    dims = int(call.name[-2])
    sides = (kernel_size,) * dims if isinstance(kernel_size, int) else tuple(kernel_size) * (dims // len(kernel_size))
    stride = kernel_size if stride is None else stride
    last = (divisor_override,) if dims > 1 else ()
    return _average(call, x, kernel_size, stride, padding, ceil_mode, count_include_pad, *last, terms=math.prod(sides))


def _adaptive_avg_pool(call: Call, x: Tensor, output_size: Any) -> list[Op]:
    dims = int(call.name[-2])
    windows = zip(x.shape[-dims:], call.out.shape[-dims:], strict=True)
    return _average(call, x, output_size, terms=math.prod(max(n // m, m // n) + 2 for n, m in windows))


def _mean(call: Call, x: Tensor, dim: Any = None, keepdim: bool = False, dtype: torch.dtype | None = None) -> list[Op]:
    dims = [d % x.ndim for d in ([dim] if isinstance(dim, int) else dim or [0])]
    if 0 in dims or dtype is not None:
        raise Refused("it mixes the samples of a batch, or changes the dtype")
    return _average(call, x, dims, keepdim, terms=math.prod(x.shape[d] for d in dims))


def _add(call: Call, x: Any, other: Any, alpha: float = 1, first: float = 1) -> list[Op]:
    if len(call.live) == 2:
        if x.ndim != other.ndim:
            raise Refused("it mixes the samples of a batch")
        return [Sum((float(first), float(alpha)))]
    x, other, sign, alpha = (x, other, first, alpha) if call.is_live(x) else (other, x, alpha, first)
    shift = call.constant(other) * alpha
    return [*_spread(call, x), scale(call.constant(float(sign)), shift)]


def _sub(call: Call, x: Any, other: Any, alpha: float = 1) -> list[Op]:
    return _add(call, x, other, -alpha)


def _rsub(call: Call, x: Any, other: Any, alpha: float = 1) -> list[Op]:
    return _add(call, x, other, 1, -alpha)


def _neg(call: Call, x: Tensor) -> list[Op]:
    return [scale(call.constant(-1.0))]


def multiplied(call: Call, x: Any, other: Any) -> list[Op]:
    """Returns the steps of a product of values with a constant."""
    x, other = (x, other) if call.is_live(x) else (other, x)
    return [*_spread(call, x), scale(call.constant(other))]


def _div(call: Call, x: Any, other: Any, rounding_mode: str | None = None) -> list[Op]:
    if len(call.live) > 1 or not call.is_live(x) or rounding_mode is not None:
        raise Refused("only division by a constant is known")
    factor = (1 / torch.as_tensor(other, dtype=torch.float64)).to(call.like.device)
    return multiplied(call, x, factor)


def _expand(call: Call, x: Tensor, *sizes: Any, **kwargs: Any) -> list[Op]:
    if x.ndim != call.out.ndim or len(x) != len(call.out):
        raise Refused("it moves the batch dimension")
    return _spread(call, x)


def _spread(call: Call, x: Tensor) -> list[Op]:
    """Broadcasts ``x`` where the constant beside it is larger."""
    if x.ndim != call.out.ndim:
        raise Refused("a constant moves the batch dimension")
    if x.shape == call.out.shape:
        return []
    shape = call.out.shape[1:]
    return [move(lambda v: v.expand(len(v), *shape), x)]


ALIASES = {
    "iadd": "add", "radd": "add", "isub": "sub", "subtract": "sub", "imul": "mul", "rmul": "mul", "multiply": "mul",
    "truediv": "div", "itruediv": "div", "divide": "div", "true_divide": "div", "concat": "cat", "concatenate": "cat",
    "clip": "clamp", "negative": "neg", "absolute": "abs", "swapaxes": "transpose", "moveaxis": "movedim",
}  # fmt: skip
_ONE: dict[str, Callable[..., list[Op]]] = {
    "linear": _linear, "batch_norm": _batch_norm, "pad": _pad, "mean": _mean, "sum": _mean, "neg": _neg, "abs": _abs,
    "exp": _activation("exp", torch.exp, 16, Smooth(torch.exp, (), True, None), 0.0),
    "relu": _activation("relu", torch.relu, 0, Bend(0.0, 0.0, 1.0)),
    "relu6": _activation("clamp", F.relu6, 0, Ramp(0.0, 6.0)),
    "sigmoid": _activation("sigmoid", torch.sigmoid, 16, Smooth(_sigmoid_slope, (0.0,), True)),
    "tanh": _activation("tanh", torch.tanh, 16, Smooth(_tanh_slope, (0.0,), True)),
    "leaky_relu": _leaky_relu, "elu": _elu, "gelu": _gelu, "silu": _silu, "hardtanh": _hardtanh,
    "clamp": _clamp, "clamp_min": _clamp_min, "clamp_max": _clamp_max,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _conv),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _conv_transpose),
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d"), _max_pool),
    **dict.fromkeys(("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"), _max_pool),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d"), _avg_pool),
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"), _adaptive_avg_pool),
    **dict.fromkeys(("view", "reshape", "flatten", "unflatten"), _reshape),
    **dict.fromkeys(("permute", "transpose", "movedim", "squeeze", "unsqueeze", "getitem", "flip"), _moved),
    **dict.fromkeys(("narrow", "select", "mT"), _moved), "expand": _expand,
    **dict.fromkeys(("pixel_shuffle", "pixel_unshuffle", "channel_shuffle"), _moved),
    **dict.fromkeys(("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"), _dropout),
    **dict.fromkeys(("contiguous", "clone", "detach", "data"), _same),
    **dict.fromkeys(("float", "double", "to"), _cast),
}  # fmt: skip
_MANY: dict[str, Callable[..., list[Op]]] = {
    "add": _add, "sub": _sub, "rsub": _rsub, "div": _div,
}  # fmt: skip
RULES = {name: (rule, False) for name, rule in _ONE.items()} | {name: (rule, True) for name, rule in _MANY.items()}
