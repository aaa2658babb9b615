"""Networks without the ReLU outputs that are 0 on the whole box: nothing that is searched hangs on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from ironglass.ops.bounds import Interval
from ironglass.ops.graph import Affine, Graph, Step

from .lined import is_relu


def narrowed(graph: Graph, values: Mapping[int, Interval]) -> tuple[Graph, dict[int, Interval]]:
    r"""Returns the graph, and intervals, without the ReLUs between matrices whose inputs are never positive.

    Their outputs are exactly 0, in floating point too, so the columns that read them and the rows that feed them go.
    What the network's own sums may lose is counted for as many terms as it has.

    Args:
        graph: of the network.
        values: intervals by step, of one region.
    """
    steps, found = list(graph.steps), dict(values)
    readers = [[i for i, step in enumerate(steps) if index in step.inputs] for index in range(len(steps))]
    for index, step in enumerate(graph.steps):
        if not is_relu(step.op) or len(step.shape) != 1:
            continue
        before = step.inputs[0]
        if len(readers[before]) != 1 or not all(_is_matrix(steps[i]) for i in [before, *readers[index]]):
            continue
        alive = (~(values[before].upper[0] <= 0)).nonzero()[:, 0]
        if not 0 < len(alive) < step.shape[0] or not readers[index]:
            continue
        steps[before] = _rows(steps[before], alive)
        steps[index] = replace(step, shape=(len(alive),))
        for reader in readers[index]:
            steps[reader] = _columns(steps[reader], alive)
        for at in (before, index):
            found[at] = Interval(found[at].lower[:, alive], found[at].upper[:, alive])
    return Graph(tuple(steps)), found


def _is_matrix(step: Step) -> bool:
    return isinstance(step.op, Affine) and step.op.form == "matrix" and len(step.shape) == 1


def _rows(step: Step, alive: Tensor) -> Step:
    """A matrix without the rows of the values that nobody reads."""
    op = step.op
    assert isinstance(op, Affine)

    def cut(part: Tensor | None) -> Tensor | None:
        return part[..., alive] if part is not None and part.ndim and part.shape[-1] == step.shape[0] else part

    op = replace(op, weight=op.weight[alive].contiguous(), bias=cut(op.bias), size=cut(op.size))
    return replace(step, op=op, shape=(len(alive),))


def _columns(step: Step, alive: Tensor) -> Step:
    op = step.op
    assert isinstance(op, Affine)
    return replace(step, op=replace(op, weight=op.weight[:, alive].contiguous()))
