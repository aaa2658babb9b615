"""Fewer, larger steps for a network in eval mode: batch norms and activations become part of the convolutions."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

LAYERS, VALUE = "layers", "value"
"""What a node's ``meta`` says: the layers that give its value, and that value's name, by which `fuse` keeps it."""

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)
_RELU = (nn.ReLU, F.relu, torch.relu, "relu")
_RELU6 = (nn.ReLU6, F.relu6)


class Untraceable(Exception):
    """The network cannot be rewritten as it should; it can still be copied as it is."""


def trace(net: nn.Module) -> fx.GraphModule:
    """Returns a network as a graph of the layers and functions it calls; the graph shares its layers.

    A node's ``meta`` names the layers whose output it is, and theirs alone: not what a layer hands on as it got it, nor
    what it uses itself.

    Raises:
        Untraceable: if the network has hooks, which would be traced as well. Tracing raises whatever else the
            network's own code raises on stand-ins for tensors.
    """
    if any(getattr(module, hooks) for module in net.modules() for hooks in HOOKS):
        raise Untraceable("the network has hooks")
    tracer = _Tracer()
    return fx.GraphModule(net, tracer.trace(net), type(net).__name__)


class _Tracer(fx.Tracer):
    """Notes which layers give a node's value."""

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Follows a module, as it is called."""
        known = set(self.graph.nodes)
        out = super().call_module(m, forward, args, kwargs)
        if isinstance(out, fx.Proxy) and out.node not in known and not out.node.users:
            out.node.meta[LAYERS] = (*out.node.meta.get(LAYERS, ()), self.path_of_module(m))
        return out


def fold(graph: fx.GraphModule) -> fx.GraphModule:
    r"""Makes each batch norm a part of the layer before it, where nothing else sees that layer's output.

    .. math:: w' = s\,w, \qquad b' = s\,(b - \mu) + \beta, \qquad s = \gamma / \sqrt{\sigma^2 + \epsilon}

    The new weights are computed in double precision. Every call gets a layer of its own, so a layer or a batch norm
    that is called twice is folded rightly.

    Args:
        graph: a network in eval mode; it is rewritten.
    """
    for node in list(graph.graph.nodes):
        if (node.op, node.target) == ("call_method", "view"):
            node.target = "reshape"  # as channels may come last
        norm, before = _called(graph, node), _input(node)
        layer = _called(graph, before)
        if type(norm) not in _NORMS or norm.running_mean is None or norm.training:
            continue
        if getattr(layer, "out_features", norm.num_features) != norm.num_features:
            continue  # rows (n, positions, features): the norm is over positions
        if before is not None and type(layer) in _LINEAR and len(before.users) == 1:
            _call(graph, before, _normalized(layer, norm))
            _drop(graph, node, before)
    for node in graph.graph.nodes:
        node.meta[VALUE] = node.name
    return _finished(graph)


def fuse(graph: fx.GraphModule) -> fx.GraphModule:
    """Makes a convolution and its activation one step, in float32 on a CPU, for scores alone; zero padding too.

    Args:
        graph: the result of `fold`; it is not rewritten, and the result shares what stays the same.

    Raises:
        Untraceable: if this PyTorch lacks the primitive.
    """
    if not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        raise Untraceable("this PyTorch has no fused convolution")
    graph = fx.GraphModule(graph, copy.deepcopy(graph.graph))
    for node in list(graph.graph.nodes):
        layer, before = _called(graph, node), _input(node)
        if type(layer) is not nn.Conv2d or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            continue
        pad, margins = _called(graph, before), (0, 0, 0, 0)
        depthwise = layer.groups == layer.in_channels and layer.dilation == (1, 1)  # has arithmetic to spare
        if depthwise and before is not None and type(pad) is nn.ZeroPad2d and min(pad.padding) >= 0:
            node.replace_input_with(before, before.args[0])
            if not before.users:
                graph.graph.erase_node(before)
            margins = pad.padding
        after = next(iter(node.users)) if len(node.users) == 1 else None
        name, limits = _activation(graph, after)
        if after is not None and name != "none":
            _drop(graph, after, node)
        _call(graph, node, Convolution(layer, margins, name, limits))
    return _finished(graph)


class Convolution(nn.Module):
    """Zero padding, a 2-d convolution and an activation as one oneDNN primitive, without a gradient.

    The weights are laid out for it in advance. Padding that is wider on one side becomes padding of equal width and
    taps of zero weight.

    Args:
        layer: the convolution, in float32 on a CPU.
        margins: zeros before it: left, right, top, bottom.
        activation: oneDNN's name; ``none``, ``relu`` or ``hardtanh``.
        limits: of ``hardtanh``.
    """

    def __init__(
        self, layer: nn.Conv2d, margins: tuple[int, int, int, int], activation: str, limits: list[float]
    ) -> None:
        super().__init__()
        left, right, top, bottom = margins
        rows, columns = max(top, bottom), max(left, right)
        taps = (columns - left, columns - right, rows - top, rows - bottom)
        padding = [int(layer.padding[0]) + rows, int(layer.padding[1]) + columns]
        shape = (padding, list(layer.stride), list(layer.dilation), layer.groups)
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(F.pad(layer.weight.detach(), taps), *shape, None)
        self.bias = layer.bias
        self._options = (*shape, activation, limits, "")

    def forward(self, x: Tensor) -> Tensor:
        """Returns the activated output ``(n, channels, height, width)``."""
        return cast(Tensor, torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *self._options))


def _activation(graph: fx.GraphModule, node: fx.Node | None) -> tuple[str, list[float]]:
    """Returns oneDNN's name of the activation that a node computes, and its limits."""
    module = _called(graph, node)
    function = type(module) if module is not None else node.target if node is not None else None
    if function in _RELU:
        return "relu", []
    if function in _RELU6:
        return "hardtanh", [0.0, 6.0]
    return "none", []


def _normalized(layer: Any, norm: Any) -> nn.Module:
    """Returns a copy of a linear layer whose outputs are normalized."""
    zero, one = torch.zeros_like(norm.running_mean), torch.ones_like(norm.running_mean)
    scale = _double(norm.weight, one) * (_double(norm.running_var) + norm.eps).rsqrt()
    bias = scale * (_double(layer.bias, zero) - _double(norm.running_mean)) + _double(norm.bias, zero)
    if isinstance(layer, _TRANSPOSED):  # (in, out / groups, *kernel): an input's group is that of its outputs
        scale = scale.view(layer.groups, -1).repeat_interleave(layer.in_channels // layer.groups, 0)
    else:
        scale = scale.unsqueeze(1)
    twin = copy.deepcopy(layer)
    weight = _double(layer.weight) * scale.view(*scale.shape, *[1] * (layer.weight.ndim - 2))
    twin.weight, twin.bias = nn.Parameter(weight.to(layer.weight)), nn.Parameter(bias.to(layer.weight))
    return cast(nn.Module, twin)


def _double(tensor: Tensor | None, default: Tensor | None = None) -> Tensor:
    return cast(Tensor, default if tensor is None else tensor).detach().cpu().double()


def _called(graph: fx.GraphModule, node: fx.Node | None) -> Any:
    """Returns the module that a node calls, or None."""
    return graph.get_submodule(str(node.target)) if node is not None and node.op == "call_module" else None


def _input(node: fx.Node) -> fx.Node | None:
    """Returns the node whose output is a node's first argument."""
    return node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None


def _call(graph: fx.GraphModule, node: fx.Node, module: nn.Module) -> None:
    """Makes a node call a module of its own; others may call what it called."""
    node.target = f"{node.target}_{node.name}"
    graph.add_submodule(node.target, module)


def _drop(graph: fx.GraphModule, node: fx.Node, instead: fx.Node) -> None:
    """Takes a node away whose value another node now has."""
    instead.meta |= {LAYERS: node.meta.get(LAYERS, ()), VALUE: node.meta.get(VALUE)}
    node.replace_all_uses_with(instead)
    graph.graph.erase_node(node)


def _finished(graph: fx.GraphModule) -> fx.GraphModule:
    graph.delete_all_unused_submodules()
    graph.graph.lint()
    graph.recompile()
    return graph.eval().requires_grad_(False)
