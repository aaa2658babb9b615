"""Linear programs of moving mass: what Wasserstein distances and attacks are measured against."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.optimize import linprog
from scipy.sparse import csr_array, vstack
from torch import Tensor


def pictures(shape: tuple[int, ...], seed: int, count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, *shape, generator=generator, dtype=torch.float64)


def true_distance(y: Tensor, x: Tensor) -> float:
    """The dense transport problem between all pixels of a channel, with Euclidean costs."""
    total = 0.0
    for after, before in zip(y, x, strict=True):
        height, width = before.shape
        places = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), -1).reshape(-1, 2)
        cost = np.linalg.norm(places[:, None] - places[None], axis=-1)
        n = len(places)
        rows, columns = np.kron(np.eye(n), np.ones(n)), np.kron(np.ones(n), np.eye(n))
        ends = np.concatenate([before.flatten().numpy(), after.flatten().numpy()])
        solved = linprog(cost.ravel(), A_eq=np.vstack([rows, columns])[:-1], b_eq=ends[:-1], method="highs")
        assert solved.status == 0
        total += solved.fun
    return total / float(x.sum())


def best_gain(worth: Tensor, x: Tensor, eps: float, *, capacity: bool = True, free: Tensor | None = None) -> float:
    """The most that a plan within 5 × 5 windows can gain, for one channel ``(height, width)`` with values in [0, 1].

    Mass stays where it is, or moves between pixels that are ``free``; with ``capacity`` no pixel holds more than 1.
    """
    height, width = x.shape
    open_ = torch.ones_like(x, dtype=torch.bool) if free is None else free
    pairs = [
        (i * width + j, a * width + b, math.hypot(a - i, b - j))
        for i in range(height)
        for j in range(width)
        for a in range(max(0, i - 2), min(height, i + 3))
        for b in range(max(0, j - 2), min(width, j + 3))
        if (a, b) == (i, j) or bool(open_[i, j] & open_[a, b])
    ]
    start, end, cost = (np.array([pair[k] for pair in pairs]) for k in range(3))
    value = worth.flatten().double().numpy()
    hop, one, shape = np.arange(len(pairs)), np.ones(len(pairs)), (height * width, len(pairs))
    limits, most = [csr_array(cost[None])], [np.array([eps * float(x.double().sum())])]
    if capacity:
        limits, most = [*limits, csr_array((one, (end, hop)), shape=shape)], [*most, np.ones(height * width)]
    solved = linprog(
        value[start] - value[end],
        A_ub=vstack(limits),
        b_ub=np.concatenate(most),
        A_eq=csr_array((one, (start, hop)), shape=shape),
        b_eq=x.flatten().double().numpy(),
        method="highs",
    )
    assert solved.status == 0
    return -float(solved.fun)
