"""Slow, exact references for small networks: the least margin by trying every pattern of active ReLUs."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor, nn


def mlp(sizes: tuple[int, ...], seed: int = 0, scale: float = 1.6, act: Any = nn.ReLU) -> nn.Sequential:
    """A small fully connected network in float64 that is not trained, and decides for each class now and then."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for first, second in itertools.pairwise(sizes):
            layers += [nn.Linear(first, second), act()]
        net = nn.Sequential(*layers[:-1]).double()
        for part in net:
            if isinstance(part, nn.Linear):
                part.weight.data.mul_(scale)
        net[-1].bias.data.sub_(net(torch.rand(500, sizes[0], dtype=torch.float64)).mean(0).detach())  # type: ignore[operator, union-attr]
    return net.eval().requires_grad_(False)


def least_margin(net: nn.Sequential, x: Tensor, y: int, j: int, eps: float, norm: str = "linf") -> float:
    """The exact minimum of ``z_y - z_j`` over the ball in the unit cube: a linear program for every pattern.

    Only for linear layers and ReLUs; ``x`` is one input ``(d,)``. In l1 the moves are split in two parts.
    """
    weights = [(part.weight.numpy(), part.bias.numpy()) for part in net if isinstance(part, nn.Linear)]
    d = len(x)
    x0 = x.numpy()
    hidden = [len(bias) for _, bias in weights[:-1]]
    best = np.inf
    for pattern in itertools.product((0.0, 1.0), repeat=sum(hidden)):
        map_, offset, rows, right, at = np.eye(d), np.zeros(d), [], [], 0
        for weight, bias in weights[:-1]:
            z, c = weight @ map_, weight @ offset + bias
            on = np.array(pattern[at : at + len(bias)])
            at += len(bias)
            sign = np.where(on > 0, -1.0, 1.0)  # active: z >= 0, else z <= 0
            rows.append(sign[:, None] * z)
            right.append(-sign * c)
            map_, offset = on[:, None] * z, on * c
        weight, bias = weights[-1]
        cost = (weight[y] - weight[j]) @ map_
        const = float((weight[y] - weight[j]) @ offset + bias[y] - bias[j])
        a, b = np.concatenate(rows), np.concatenate(right)
        if norm == "linf":
            limits = list(zip(np.maximum(x0 - eps, 0), np.minimum(x0 + eps, 1), strict=True))
        else:  # x = x0 + p - q
            b = b - a @ x0
            const += float(cost @ x0)
            a, cost = np.concatenate([a, -a], 1), np.concatenate([cost, -cost])
            a, b = np.concatenate([a, np.ones((1, 2 * d))]), np.append(b, eps)
            limits = [(0, 1 - v) for v in x0] + [(0, v) for v in x0]
        found = linprog(cost, a, b, bounds=limits)
        if found.status == 0:
            best = min(best, found.fun + const)
    return float(best)
