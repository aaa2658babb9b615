"""The exact least value of a small ReLU network over a box, by enumeration of activation patterns."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

Array = np.ndarray[Any, Any]


def small_mlp(
    seed: int, sizes: tuple[int, ...] = (3, 5, 4, 3), dtype: torch.dtype = torch.float64, scale: float = 1.5
) -> nn.Sequential:
    """Returns linear layers with ReLUs between, drawn from a seed, frozen and in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layer = nn.Linear(before, after, dtype=torch.float64)
        with torch.no_grad():
            for value in (layer.weight, layer.bias):
                value.copy_((torch.rand(value.shape, generator=generator, dtype=torch.float64) * 2 - 1) * scale)
            layer.weight.div_(before**0.5)
            layer.bias.div_(4)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).to(dtype).eval().requires_grad_(False)


def least(net: nn.Sequential, low: Tensor, high: Tensor, row: Tensor) -> float:
    """Returns the least value of ``row · net(x)`` for x between low and high: a linear program a pattern."""
    layers = [layer for layer in net if isinstance(layer, nn.Linear)]
    pieces = [(layer.weight.double().numpy(), layer.bias.double().numpy()) for layer in layers]
    bounds = list(zip(low.double().tolist(), high.double().tolist(), strict=True))
    best = np.inf

    def walk(depth: int, weight: Array, offset: Array, sides: list[Array], limits: list[float]) -> None:
        nonlocal best
        w, b = pieces[depth]
        weight, offset = w @ weight, w @ offset + b
        if depth == len(pieces) - 1:
            cost = row.double().numpy()
            found = linprog(cost @ weight, A_ub=_matrix(sides, len(bounds)), b_ub=limits, bounds=bounds, method="highs")
            best = min(best, found.fun + cost @ offset) if found.status == 0 else best
            return
        for signs in itertools.product((1.0, -1.0), repeat=len(offset)):
            s = np.array(signs)
            more, ends = [*sides, *(-s[:, None] * weight)], [*limits, *(s * offset)]
            zero = np.zeros(len(bounds))
            if linprog(zero, A_ub=_matrix(more, len(bounds)), b_ub=ends, bounds=bounds, method="highs").status == 0:
                on = (s > 0).astype(float)
                walk(depth + 1, on[:, None] * weight, on * offset, more, ends)

    walk(0, np.eye(len(bounds)), np.zeros(len(bounds)), [], [])
    return float(best)


def _matrix(sides: list[Array], inputs: int) -> Array | None:
    return np.array(sides).reshape(-1, inputs) if sides else None


def least_margin(net: nn.Sequential, low: Tensor, high: Tensor, label: int) -> float:
    """Returns the least of the label's leads over the other classes."""
    classes = net[-1].out_features
    eye = torch.eye(int(classes), dtype=torch.float64)
    return min(least(net, low, high, eye[label] - eye[other]) for other in range(int(classes)) if other != label)
