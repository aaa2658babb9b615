"""The steps of a graph as sparse matrices over one sample's flattened values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from ironglass.ops.graph import Affine, Graph, Monotone, Pool, Step

Matrix = Any
"""A scipy CSR array of float64."""
Vector = Any
"""A numpy array of float64, one value a row."""
_HELD = 1 << 22
"""How many values of a batch of unit vectors are held at a time."""


def vector(values: Tensor) -> Vector:
    """Returns one sample's values as a flat float64 array."""
    flat: Vector = values.detach().to("cpu", torch.float64).reshape(-1).numpy()
    return flat


def affine(op: Affine, before: Step) -> tuple[Matrix, Vector]:
    """Returns ``W`` (outputs, inputs) and ``b`` of an affine step, from what it does to unit vectors.

    Args:
        op: in float64.
        before: the step it reads.
    """
    shape, size = before.shape, math.prod(before.shape)
    like = op.weight.detach()
    zero = torch.zeros(1, *shape, dtype=like.dtype, device=like.device)
    with torch.no_grad():
        offset = vector(op(zero))
        if op.form == "move":
            numbers = torch.arange(1, size + 1, dtype=like.dtype, device=like.device).reshape(1, *shape)
            source = vector(op.map(numbers, op.weight, None)).astype(np.int64)
            rows = np.flatnonzero(source)
            weights = np.ones(len(rows))
            return _csr(weights, rows, source[rows] - 1, (len(source), size)), offset
        if op.form == "diagonal":
            return sparse.csr_array(sparse.diags_array(vector(op.map(torch.ones_like(zero), op.weight, None)))), offset
        if op.form == "matrix":
            weight = sparse.csr_array(like.cpu().numpy())
            return sparse.csr_array(sparse.kron(sparse.eye_array(size // shape[-1]), weight)), offset
        parts = []
        for first in range(0, size, step := max(1, _HELD // max(size, len(offset)))):
            count = min(step, size - first)
            units = torch.zeros(count, size, dtype=like.dtype, device=like.device)
            units[torch.arange(count), first + torch.arange(count)] = 1
            columns = op.map(units.reshape(count, *shape), op.weight, None).reshape(count, -1)
            parts.append(sparse.csr_array(columns.cpu().numpy()))
    return sparse.csr_array(sparse.vstack(parts).T), offset


def _csr(values: Vector, rows: Vector, columns: Vector, shape: tuple[int, int]) -> Matrix:
    return sparse.csr_array((values, (rows, columns)), shape=shape)


def windows(pool: Pool, before: Step) -> Matrix:
    """Returns which inputs (columns) each output (row) of a maximum over windows is taken of, as ones."""
    rows, size = pool.real.nonzero(as_tuple=True)[0].cpu().numpy(), math.prod(before.shape[-pool.dims :])
    columns = pool.places[pool.real].cpu().numpy()
    one = _csr(np.ones(len(rows)), rows, columns, (len(pool.places), size))
    return sparse.csr_array(sparse.kron(sparse.eye_array(math.prod(before.shape[: -pool.dims])), one))


def compile(graph: Graph) -> dict[int, Any]:
    """Returns the matrices of a graph's affine steps, ``(W, b)``, and the windows of its maxima, by index of the step.

    They are the same for every sample.
    """
    found: dict[int, Any] = {}
    for index, step in enumerate(graph.steps):
        if isinstance(step.op, Affine):
            found[index] = affine(step.op, graph.steps[step.inputs[0]])
        elif isinstance(step.op, Monotone) and isinstance(step.op.shape, Pool):
            found[index] = windows(step.op.shape, graph.steps[step.inputs[0]])
    return found
