"""Nodes that slide a window: convolutions and pools, with every way ONNX has of padding them."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .node import Node
from .parts import LIVE, Call, Crop, empty, filled

Sides = list[tuple[int, int]]
CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
MAX: dict[int, Any] = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVERAGE: dict[int, Any] = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}


def conv(node: Node) -> nn.Module:
    """Returns a convolution; padding that differs from side to side is a step before it."""
    x, weight, bias = node.x, node.constant(1, "weight"), _bias(node)
    dims = _dims(node, weight)
    strides, dilations = _each(node, "strides", dims), _each(node, "dilations", dims)
    sides = _sides(node, tuple(weight.shape[2:]), strides, dilations, tuple(x.shape[2:]))
    groups = node.get("group", 1)
    even = all(before == after for before, after in sides)
    layer = empty(
        CONV[dims], weight.shape[1] * groups, weight.shape[0], tuple(weight.shape[2:]), stride=tuple(strides),
        padding=tuple(side[0] if even else 0 for side in sides), dilation=tuple(dilations), groups=groups,
        bias=bias is not None, dtype=weight.dtype,
    )  # fmt: skip
    filled(layer, weight=weight, bias=bias)
    return layer if even else nn.Sequential(_padded(sides, "constant"), layer)


def conv_transpose(node: Node) -> nn.Module:
    """Returns a transposed convolution; padding that differs from side to side is cut off after it."""
    weight, bias = node.constant(1, "weight"), _bias(node)
    _ = node.x
    dims = _dims(node, weight)
    node.only("auto_pad", "NOTSET", "VALID")
    node.only("output_shape", [])
    strides, dilations = _each(node, "strides", dims), _each(node, "dilations", dims)
    extra = node.get("output_padding", [0] * dims)
    sides = _pairs(node.get("pads", [0] * 2 * dims))
    groups = node.get("group", 1)
    even = all(before == after for before, after in sides)
    layer = empty(
        TRANSPOSED[dims], weight.shape[0], weight.shape[1] * groups, tuple(weight.shape[2:]), stride=tuple(strides),
        padding=tuple(side[0] if even else 0 for side in sides), output_padding=tuple(extra), groups=groups,
        dilation=tuple(dilations), bias=bias is not None, dtype=weight.dtype,
    )  # fmt: skip
    filled(layer, weight=weight, bias=bias)
    return layer if even else nn.Sequential(layer, Crop(sides))


def max_pool(node: Node) -> nn.Module:
    """Returns a maximum over windows.

    Where torch cannot pad as ONNX does, edge values are repeated instead: each window that reaches over an edge holds
    the value there, so its maximum is the same.
    """
    dims, kernel, strides, sides, ceil = _window(node)
    dilations = _each(node, "dilations", dims)
    node.get("storage_order")  # the order of the second output
    if node.outputs > 1:
        raise node.refuse("its indices are used")
    total = _ends(node, kernel, strides, dilations, sides, ceil)
    plain = {"kernel_size": kernel, "stride": tuple(strides), "dilation": tuple(dilations)}
    if total == sides and all(before == after <= k // 2 for (before, after), k in zip(sides, kernel, strict=True)):
        return cast(nn.Module, MAX[dims](**plain, padding=tuple(side[0] for side in sides)))
    if any(d != 1 for d in dilations) or any(max(side) >= k for side, k in zip(total, kernel, strict=True)):
        raise node.refuse("uneven padding with dilations, or as wide as the window")
    return nn.Sequential(_padded(total, "replicate"), MAX[dims](**plain))


def average_pool(node: Node) -> nn.Module:
    """Returns a mean over windows: of all their values, or of those that are not padding."""
    dims, kernel, strides, sides, ceil = _window(node)
    if any(d != 1 for d in _each(node, "dilations", dims)):
        raise node.refuse("dilations are not known")
    counts_pads = bool(node.get("count_include_pad", 0))
    total = _ends(node, kernel, strides, [1] * dims, sides, ceil)
    ones = torch.ones(1, 1, *node.x.shape[2:], dtype=torch.float64)
    inner = ones if not counts_pads else F.pad(ones, _flat(sides), value=1.0)
    rest = total if not counts_pads else [(0, max(t[1] - s[1], 0)) for t, s in zip(total, sides, strict=True)]
    pool = AVERAGE[dims](kernel, tuple(strides))
    share = pool(F.pad(inner, _flat(rest)))
    layer = nn.Sequential(_padded(total, "constant"), pool) if any(map(any, total)) else pool
    even = all(before == after <= k // 2 for (before, after), k in zip(sides, kernel, strict=True))
    if even and total == sides:
        layer = AVERAGE[dims](kernel, tuple(strides), padding=tuple(side[0] for side in sides))
    if bool((share == 1).all()):
        return cast(nn.Module, layer)
    if bool((share == 0).any()):
        raise node.refuse("a window holds padding alone")
    return nn.Sequential(layer, Call(torch.mul, LIVE, (1 / share).to(node.x.dtype)))


def _bias(node: Node) -> Tensor | None:
    return node.constant(2, "bias") if node.given(2) else None


def _dims(node: Node, weight: Tensor) -> int:
    dims = weight.ndim - 2
    if dims not in CONV or node.x.ndim != weight.ndim:
        raise node.refuse(f"its input has {node.x.ndim} axes, its weight {weight.ndim}")
    if list(node.get("kernel_shape", weight.shape[2:])) != list(weight.shape[2:]):
        raise node.refuse("kernel_shape is not the weight's")
    return dims


def _window(node: Node) -> tuple[int, tuple[int, ...], list[int], Sides, bool]:
    kernel = tuple(node.get("kernel_shape"))
    dims = len(kernel)
    if dims not in MAX or node.x.ndim != dims + 2:
        raise node.refuse(f"its input has {node.x.ndim} axes, its window {dims}")
    strides = _each(node, "strides", dims)
    dilations = node.attributes.get("dilations", [1] * dims)
    sides = _sides(node, kernel, strides, dilations, tuple(node.x.shape[2:]))
    return dims, kernel, strides, sides, bool(node.get("ceil_mode", 0))


def _each(node: Node, name: str, dims: int) -> list[int]:
    values = list(node.get(name, [1] * dims))
    if len(values) != dims:
        raise node.refuse(f"{name}={values} for {dims} axes")
    return values


def _sides(
    node: Node, kernel: tuple[int, ...], strides: list[int], dilations: list[int], sizes: tuple[int, ...]
) -> Sides:
    """How much is padded before and after, an axis."""
    pads, auto = node.get("pads"), node.get("auto_pad", "NOTSET")
    if auto == "NOTSET":
        sides = _pairs(pads or [0] * 2 * len(kernel))
        if len(sides) != len(kernel) or min(map(min, sides)) < 0:
            raise node.refuse(f"pads={pads} for {len(kernel)} axes")
        return sides
    if any(pads or ()):
        raise node.refuse(f"both pads={pads} and auto_pad={auto}")
    if auto == "VALID":
        return [(0, 0)] * len(kernel)
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        raise node.refuse(f"auto_pad={auto} is not known")
    found = []
    for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((math.ceil(size / s) - 1) * s + d * (k - 1) + 1 - size, 0)
        small, large = total // 2, total - total // 2
        found.append((small, large) if auto == "SAME_UPPER" else (large, small))
    return found


def _ends(
    node: Node, kernel: tuple[int, ...], strides: list[int], dilations: list[int], sides: Sides, ceil: bool
) -> Sides:
    """The padding that gives as many windows as ONNX counts, the last of which starts before the padding's end."""
    found = []
    for size, k, s, d, (before, after) in zip(node.x.shape[2:], kernel, strides, dilations, sides, strict=True):
        reach, room = d * (k - 1) + 1, size + before + after
        if room < reach:
            raise node.refuse("its window is larger than its input")
        count = (math.ceil if ceil else math.floor)((room - reach) / s) + 1
        if ceil and (count - 1) * s >= size + before:
            count -= 1
        last = max((count - 1) * s + reach - size - before, 0)
        found.append((before, max(last, after) if not ceil else last))
    return found


def _pairs(pads: list[int]) -> Sides:
    half = len(pads) // 2
    return list(zip(pads[:half], pads[half:], strict=True))


def _flat(sides: Sides) -> list[int]:
    """As `torch.nn.functional.pad` takes them: the last axis first."""
    return [side for pair in reversed(sides) for side in pair]


def _padded(sides: Sides, mode: str) -> nn.Module:
    return Call(F.pad, LIVE, _flat(sides), mode)
