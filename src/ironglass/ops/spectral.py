"""Spectral clustering: the graph of nearest neighbours, its Laplacian's smallest eigenvalues, and groups."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ironglass.core.draws import Draws

RESTARTS, ROUNDS = 10, 100


class Groups(NamedTuple):
    """The group of each point ``(n,)``, the smallest eigenvalues in order, and the eigengap that chose how many."""

    labels: Tensor
    eigenvalues: Tensor
    gap: float


def neighbours(points: Tensor, k: int) -> Tensor:
    """Returns the graph ``(n, n)`` that joins two points if one is among the other's k nearest; equal ones by index.

    Args:
        points: ``(n, d)``.
        k: neighbours a point, itself not counted; at most n - 1.
    """
    distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    near = distance.argsort(dim=1, stable=True)[:, : min(k, len(points) - 1)]
    graph = torch.zeros_like(distance).scatter_(1, near, 1.0)
    return torch.maximum(graph, graph.T)


def laplacian(graph: Tensor) -> Tensor:
    r"""Returns :math:`I - D^{-1/2} A D^{-1/2}` of a symmetric graph ``(n, n)``; every point needs a neighbour."""
    scale = graph.sum(1).rsqrt()
    return torch.eye(len(graph), dtype=graph.dtype, device=graph.device) - scale[:, None] * graph * scale


def groups(points: Tensor, k: int, most: int, seed: int = 0) -> Groups:
    r"""Groups points by the eigenvectors of their graph, as many groups as the widest eigengap says.

    .. math:: K = \arg\max_{1 \le k \le \text{most}} \lambda_{k+1} - \lambda_k

    Of the rows of the first K eigenvectors, brought to length 1, k-means makes the groups.

    Args:
        points: ``(n, d)``, n at least 2.
        k: neighbours a point in the graph.
        most: groups, at most.
        seed: of the first means.

    Returns:
        Groups numbered from the largest on.
    """
    values, vectors = torch.linalg.eigh(laplacian(neighbours(points.double(), k)))
    shown = values[: min(most, len(points) - 1) + 1]
    gaps = shown.diff()
    count = int(gaps.argmax()) + 1
    rows = vectors[:, :count]
    rows = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return Groups(_by_size(k_means(rows, count, seed)), shown, float(gaps[count - 1]))


def k_means(points: Tensor, count: int, seed: int = 0) -> Tensor:
    """Returns the group of each point ``(n,)`` by Lloyd's rounds from k-means++ means, the best of ten beginnings.

    Args:
        points: ``(n, d)``.
        count: groups, at most n.
        seed: of the beginnings.
    """
    draws = Draws(torch.arange(RESTARTS), seed).uniform((count,), dtype=torch.float64)
    best, least = torch.zeros(len(points), dtype=torch.long), torch.inf
    for beginning in draws.tolist():
        means = _first_means(points, beginning)
        for _ in range(ROUNDS):
            distance = torch.cdist(points, means, compute_mode="donot_use_mm_for_euclid_dist").square()
            labels = distance.argmin(1)
            moved = torch.stack(
                [points[labels == i].mean(0) if bool((labels == i).any()) else means[i] for i in range(count)]
            )
            if torch.equal(moved, means):
                break
            means = moved
        cost = float(distance.gather(1, labels[:, None]).sum())
        if cost < least - 1e-12:
            best, least = labels, cost
    return best


def _first_means(points: Tensor, uniform: list[float]) -> Tensor:
    """Draws each next mean in proportion to the squared distance from those there are."""
    weight, means = torch.ones(len(points), dtype=points.dtype), []
    for u in uniform:
        total = weight.cumsum(0)
        chosen = points[int((total <= u * total[-1]).sum().clamp(max=len(points) - 1))]
        means.append(chosen)
        nearest = (points - chosen).square().sum(1)
        weight = nearest if len(means) == 1 else torch.minimum(weight, nearest)
    return torch.stack(means)


def _by_size(labels: Tensor) -> Tensor:
    """Numbers groups anew, the largest 0."""
    order = labels.bincount().argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    return rank[labels]
