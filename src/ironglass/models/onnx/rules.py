"""What each ONNX operator becomes: one rule an operator, which writes a node as a module."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import windows
from .node import BATCH, Node
from .parts import LIVE, Call, FromLeft, Join, Reshape, filled, linear

Rule = Callable[[Node], nn.Module]


def _same(node: Node) -> nn.Module:
    _ = node.x
    return nn.Identity()


def _function(make: Callable[[], nn.Module]) -> Rule:
    def rule(node: Node) -> nn.Module:
        _ = node.x
        return make()

    return rule


def _call(function: Callable[..., Any]) -> Rule:
    return _function(lambda: Call(function, LIVE))


def _binary(function: Callable[..., Any]) -> Rule:
    """Arithmetic of two values, either of which may be a constant; shapes are broadcast from the last axis."""

    def rule(node: Node) -> nn.Module:
        node.only("broadcast", 1)
        node.only("axis", -1)
        if node.live == [True, True]:
            a, b = (value for value in node.values if value is not None)
            if a.ndim != b.ndim:
                raise node.refuse(f"shapes {tuple(a.shape)} and {tuple(b.shape)} mix the samples of a batch")
            return Call(function, LIVE, LIVE)
        args = [LIVE if live else _beside(node, i) for i, live in enumerate(node.live)]
        return Call(function, *args)

    return rule


def _beside(node: Node, index: int) -> Tensor:
    """A constant beside a live value: the same for each sample."""
    constant, live = node.constant(index, "constant"), node.values[1 - index]
    assert live is not None
    if constant.ndim > live.ndim or (constant.ndim == live.ndim and constant.shape[0] != 1):
        raise node.refuse(f"a constant of shape {tuple(constant.shape)} differs from sample to sample")
    return constant


def _gemm(node: Node) -> nn.Module:
    weight = node.constant(1, "matrix")
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    if node.get("transA", 0) or node.x.ndim != 2:
        raise node.refuse("it mixes the samples of a batch")
    weight = weight if node.get("transB", 0) else weight.T
    bias = None
    if node.given(2):
        bias = node.constant(2, "bias")
        if bias.ndim > 2 or (bias.ndim == 2 and len(bias) != 1):
            raise node.refuse(f"a bias of shape {tuple(bias.shape)} differs from sample to sample")
        bias = (bias.reshape(-1) * beta).expand(len(weight))
    return linear(weight * alpha, bias)


def _matmul(node: Node) -> nn.Module:
    if node.live == [True, True]:
        return Call(torch.matmul, LIVE, LIVE)
    if node.live[0]:
        weight = node.constant(1, "matrix")
        if weight.ndim != 2 or node.x.ndim < 2:
            raise node.refuse(f"a matrix of shape {tuple(weight.shape)}")
        return linear(weight.T, None)
    weight, x = node.constant(0, "matrix"), node.values[1]
    if weight.ndim == 3 and len(weight) == 1:
        weight = weight[0]
    if weight.ndim != 2 or x is None or x.ndim < 3:
        raise node.refuse("it mixes the samples of a batch")
    return FromLeft(weight)


def _batch_norm(node: Node) -> nn.Module:
    if node.outputs > 1 or node.get("training_mode", 0) or not node.get("spatial", 1):
        raise node.refuse("only its inference form is known")
    node.get("momentum")
    x, weight, bias = node.x, node.constant(1, "scale"), node.constant(2, "shift")
    mean, variance = node.constant(3, "mean"), node.constant(4, "variance")
    kind: Any = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}.get(x.ndim)
    if kind is None:
        raise node.refuse(f"its input has {x.ndim} axes")
    layer = kind(len(weight), eps=node.get("epsilon", 1e-5), dtype=weight.dtype)
    return filled(layer, weight=weight, bias=bias, running_mean=mean, running_var=variance)


def _leaky(node: Node) -> nn.Module:
    _ = node.x
    return nn.LeakyReLU(node.get("alpha", 0.01))


def _prelu(node: Node) -> nn.Module:
    slope = node.constant(1, "slope")
    channels = slope.numel()
    if channels not in (1, node.x.shape[1]) or (channels > 1 and slope.shape[-node.x.ndim + 1] != channels):
        raise node.refuse(f"slopes of shape {tuple(slope.shape)}: one, or one a channel, is known")
    return filled(nn.PReLU(channels, dtype=slope.dtype), weight=slope.reshape(-1))


def _elu(node: Node) -> nn.Module:
    _ = node.x
    return nn.ELU(node.get("alpha", 1.0))


def _selu(node: Node) -> nn.Module:
    _ = node.x
    if (
        abs(node.get("alpha", 1.6732632) - 1.6732632) > 1e-6
        or abs(node.get("gamma", 1.0507009873) - 1.0507009873) > 1e-6
    ):
        raise node.refuse("its alpha and gamma are not the usual ones")
    return nn.SELU()


def _hard_sigmoid(node: Node) -> nn.Module:
    like = node.x
    alpha, beta = (like.new_tensor(node.get(name, value)) for name, value in (("alpha", 0.2), ("beta", 0.5)))
    return nn.Sequential(Call(torch.mul, LIVE, alpha), Call(torch.add, LIVE, beta), nn.Hardtanh(0.0, 1.0))


def _gelu(node: Node) -> nn.Module:
    _ = node.x
    node.only("approximate", "none", "tanh")
    return nn.GELU(node.get("approximate", "none"))


def _softmax(kind: type[nn.Softmax] | type[nn.LogSoftmax]) -> Rule:
    def rule(node: Node) -> nn.Module:
        axis = node.axis(node.get("axis", 1 if node.opset < 13 else -1))
        if node.opset < 13 and axis != node.x.ndim - 1:
            raise node.refuse("in this version it runs over several axes at once")
        return kind(dim=axis)

    return rule


def _clip(node: Node) -> nn.Module:
    limits = []
    for index, name in ((1, "min"), (2, "max")):
        given = float(node.constant(index, name)) if node.given(index) else node.get(name)
        limits.append(given)
    _ = node.x
    return Call(torch.clamp, LIVE, *limits)


def _power(node: Node) -> nn.Module:
    exponent = node.constant(1, "exponent")
    if exponent.numel() != 1:
        raise node.refuse("its exponent is not one number")
    _ = node.x
    return Call(torch.pow, LIVE, float(exponent))


def _flatten(node: Node) -> nn.Module:
    if node.x.ndim < 2 or node.get("axis", 1) % node.x.ndim != 1:
        raise node.refuse("it mixes the samples of a batch")
    return Reshape((node.x[0].numel(),))


def _reshape(node: Node) -> nn.Module:
    shape = node.numbers(1, "shape") or []
    x, size = node.x, node.x[0].numel()
    if node.get("allowzero", 0) and 0 in shape:
        raise node.refuse("allowzero with a size of 0")
    shape = [x.shape[i] if size == 0 and i > 0 else size for i, size in enumerate(shape)]
    first, *rest = shape or [1]
    if rest.count(-1) == 1:
        known = abs(int(torch.tensor(rest).prod()))
        rest = [size // max(known, 1) if side == -1 else side for side in rest]
    fits = bool(rest) and int(torch.tensor(rest).prod()) == size
    if not fits or first not in (-1, 0, 1, BATCH):
        raise node.refuse(f"to {shape} it mixes the samples of a batch")
    return Reshape(rest)


def _transpose(node: Node) -> nn.Module:
    axes = list(node.get("perm", range(node.x.ndim - 1, -1, -1)))
    if axes[0] != 0:
        raise node.refuse("it mixes the samples of a batch")
    return Call(torch.permute, LIVE, tuple(axes))


def _squeeze(node: Node) -> nn.Module:
    axes = node.numbers(1, "axes")
    axes = [i for i, size in enumerate(node.x.shape) if size == 1] if axes is None else axes
    gone = {node.axis(axis) for axis in axes}
    if any(node.x.shape[axis] != 1 for axis in gone):
        raise node.refuse(f"axes {sorted(gone)} of {tuple(node.x.shape[1:])} a sample")
    return Reshape([size for i, size in enumerate(node.x.shape) if i > 0 and i not in gone])


def _unsqueeze(node: Node) -> nn.Module:
    axes = node.numbers(1, "axes") or []
    ndim = node.x.ndim + len(axes)
    where = {axis % ndim for axis in axes}
    if 0 in where:
        raise node.refuse("it mixes the samples of a batch")
    sizes = iter(node.x.shape)
    return Reshape([1 if i in where else next(sizes) for i in range(ndim)][1:])


def _concat(node: Node) -> nn.Module:
    axis = node.get("axis")
    first = next(value for value, live in zip(node.values, node.live, strict=True) if live)
    if first is None or axis % first.ndim == 0:
        raise node.refuse("it joins samples")
    pieces = []
    for value, live in zip(node.values, node.live, strict=True):
        if not live and (value is None or value.ndim != first.ndim or len(value) != 1):
            raise node.refuse("a constant that is joined is not one sample")
        pieces.append(None if live else value)
    return Join(pieces, axis % first.ndim)


def _slice(node: Node) -> nn.Module:
    starts, ends = node.numbers(1, "starts") or [], node.numbers(2, "ends") or []
    axes = node.numbers(3, "axes") or list(range(len(starts)))
    steps = node.numbers(4, "steps") or [1] * len(starts)
    if min(steps) < 1:
        raise node.refuse(f"steps={steps} go backward")
    cut = [slice(None)] * node.x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = node.x.shape[axis]
        if axis % node.x.ndim == 0 and start == 0 and end >= 1 << 30 and step == 1:
            continue
        cut[node.axis(axis)] = slice(start, min(end, size), step)
    return Call(operator.getitem, LIVE, tuple(cut))


def _gather(node: Node) -> nn.Module:
    axis, index = node.axis(node.get("axis", 0)), node.constant(1, "indices")
    if index.ndim > 1:
        raise node.refuse(f"indices of shape {tuple(index.shape)}")
    picked: Any = int(index) if index.ndim == 0 else index.tolist()
    return Call(operator.getitem, LIVE, (*[slice(None)] * axis, picked))


def _split(node: Node) -> nn.Module:
    axis = node.axis(node.get("axis", 0))
    size, parts = node.x.shape[axis], node.numbers(1, "split")
    count = node.get("num_outputs", node.outputs)
    return Call(torch.split, LIVE, parts or -(-size // count), axis)


def _pad(node: Node) -> nn.Module:
    pads, mode = node.numbers(1, "pads") or [], node.get("mode", "constant")
    value = float(node.constant(2, "value")) if node.given(2) else float(node.get("value", 0.0))
    axes = node.numbers(3, "axes") if node.given(3) else list(range(node.x.ndim))
    half, sides = len(pads) // 2, [(0, 0)] * node.x.ndim
    for i, axis in enumerate(axes or []):
        sides[axis] = (pads[i], pads[half + i])
    modes = {"constant": "constant", "edge": "replicate", "reflect": "reflect"}
    if mode not in modes or any(sides[0]) or (mode != "constant" and any(sides[1])):
        raise node.refuse(f"mode={mode}, pads={pads}")
    flat = [side for pair in reversed(sides[1 if mode == "constant" else 2 :]) for side in pair]
    return (
        nn.Identity() if not any(flat) else Call(F.pad, LIVE, flat, modes[mode], value if mode == "constant" else None)
    )


def _reduce(function: Callable[..., Any]) -> Rule:
    def rule(node: Node) -> nn.Module:
        axes = node.numbers(1, "axes")
        if node.get("noop_with_empty_axes", 0) and not axes:
            return nn.Identity()
        if not axes:
            raise node.refuse("it mixes the samples of a batch")
        return Call(function, LIVE, [node.axis(axis) for axis in axes], bool(node.get("keepdims", 1)))

    return rule


def _global(function: Callable[..., Any]) -> Rule:
    return lambda node: Call(function, LIVE, list(range(2, node.x.ndim)), True)


def _dropout(node: Node) -> nn.Module:
    node.get("ratio"), node.get("seed")
    if node.outputs > 1 or (node.given(2) and bool(node.constant(2, "mode"))):
        raise node.refuse("it is in train mode")
    return _same(node)


def _cast(node: Node) -> nn.Module:
    kinds = {1: torch.float32, 11: torch.float64}
    if kinds.get(node.get("to")) != node.x.dtype:
        raise node.refuse("it changes the type of what hangs on the input")
    node.get("saturate")
    return nn.Identity()


RULES: dict[str, Rule] = {
    "Add": _binary(torch.add), "Sub": _binary(torch.sub), "Mul": _binary(torch.mul), "Div": _binary(torch.div),
    "Max": _binary(torch.maximum), "Min": _binary(torch.minimum), "Pow": _power,
    "Gemm": _gemm, "MatMul": _matmul, "Conv": windows.conv, "ConvTranspose": windows.conv_transpose,
    "BatchNormalization": _batch_norm, "MaxPool": windows.max_pool, "AveragePool": windows.average_pool,
    "GlobalAveragePool": _global(torch.mean), "GlobalMaxPool": _global(torch.amax),
    "ReduceMean": _reduce(torch.mean), "ReduceSum": _reduce(torch.sum),
    "Relu": _function(nn.ReLU), "Sigmoid": _function(nn.Sigmoid), "Tanh": _function(nn.Tanh),
    "Softplus": _function(nn.Softplus), "Softsign": _function(nn.Softsign), "HardSwish": _function(nn.Hardswish),
    "Mish": _function(nn.Mish), "Abs": _call(torch.abs), "Neg": _call(torch.neg), "Exp": _call(torch.exp),
    "Log": _call(torch.log), "Sqrt": _call(torch.sqrt), "Erf": _call(torch.erf), "Reciprocal": _call(torch.reciprocal),
    "Sin": _call(torch.sin), "Cos": _call(torch.cos), "Atan": _call(torch.atan),
    "LeakyRelu": _leaky, "PRelu": _prelu, "Elu": _elu, "Selu": _selu, "HardSigmoid": _hard_sigmoid, "Gelu": _gelu,
    "Softmax": _softmax(nn.Softmax), "LogSoftmax": _softmax(nn.LogSoftmax), "Clip": _clip,
    "Flatten": _flatten, "Reshape": _reshape, "Transpose": _transpose, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze,
    "Concat": _concat, "Slice": _slice, "Gather": _gather, "Split": _split, "Pad": _pad,
    "Identity": _same, "Dropout": _dropout, "Cast": _cast,
}  # fmt: skip
"""The operators that are followed."""
