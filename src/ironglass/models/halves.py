"""A traced network cut in two at a layer: what comes up to its output, and what comes behind."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from .folding import LAYERS, VALUE, Untraceable


class Halves(NamedTuple):
    """Two networks that are one when the second gets what the first gives.

    Args:
        before: takes inputs ``(n, *shape)``; gives what the layer gives, and whatever else is needed behind it.
        after: takes that, and gives the scores.
    """

    before: nn.Module
    after: nn.Module

    def start(self, x: Tensor) -> tuple[Tensor, list[Any]]:
        """Returns what the layer gives for ``x (n, *shape)``, and what else `after` takes; without a graph."""
        with torch.no_grad():
            first, *rest = self.before(x)
        return first, rest


def halves(net: fx.GraphModule, scorer: nn.Module, layer: str) -> Halves:
    """Cuts a network behind a layer; the halves share its weights.

    Args:
        net: a result of `folding.fold`; it runs behind the layer.
        scorer: runs up to the layer, if it has the values of the network that are needed there.
        layer: a name in the network that was traced.

    Raises:
        Untraceable: if the layer does not give one value of the network, or the scores do not depend on it.
    """
    found = [node for node in net.graph.nodes if layer in node.meta.get(LAYERS, ())]
    if len(found) != 1:
        raise Untraceable(f"layer '{layer}' gives {len(found)} values")
    behind = _behind(found[0])
    if not any(node.op == "output" for node in behind):
        raise Untraceable(f"the scores do not depend on layer '{layer}'")
    beside = {each: None for node in behind for each in node.all_input_nodes if each not in behind}
    crossing = [*found, *(node for node in beside if node not in found)]
    source, ends = net, crossing
    if isinstance(scorer, fx.GraphModule):
        same = {node.meta.get(VALUE): node for node in scorer.graph.nodes}
        if all(node.meta[VALUE] in same for node in crossing):
            source, ends = scorer, [same[node.meta[VALUE]] for node in crossing]

    later = _behind(ends[0])
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in source.graph.nodes:
        if node not in later and node.op != "output":
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output([copies[node] for node in ends])
    before = fx.GraphModule(source, graph)

    graph = fx.Graph()
    copies = {node: graph.placeholder(node.name) for node in crossing}
    for node in net.graph.nodes:
        if node in behind:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    return Halves(before, fx.GraphModule(net, graph))


def _behind(start: fx.Node) -> set[fx.Node]:
    """Returns the nodes that depend on a node, without it."""
    found, left = set[fx.Node](), [start]
    while left:
        fresh = left.pop().users.keys() - found
        found |= fresh
        left.extend(fresh)
    return found
