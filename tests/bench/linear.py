"""Linear models whose robust accuracy is known in closed form."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def linear(weight: Tensor) -> nn.Linear:
    """Class 1 where ``weight . (x - 1/2) > 0``."""
    net = nn.Linear(len(weight), 2).double().eval()
    with torch.no_grad():
        net.weight.copy_(torch.stack([-weight, weight]) / 2)
        net.bias.copy_(torch.tensor([1.0, -1.0], dtype=torch.float64) * weight.sum() / 4)
    return net


def halves(count: int = 40) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two orthogonal directions that look at different values, and samples that both put in class 1."""
    first, second = torch.zeros(8, dtype=torch.float64), torch.zeros(8, dtype=torch.float64)
    first[:4], second[4:] = 1, 1
    x = 0.55 + 0.1 * torch.rand(count, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return first, second, x, torch.ones(count, dtype=torch.long)


def distance(weight: Tensor, x: Tensor, norm: str) -> Tensor:
    """How far each sample lies from the boundary in that norm, far from the box's walls ``(N,)``."""
    dual = {"linf": weight.abs().sum(), "l2": weight.norm(), "l1": weight.abs().max()}[norm]
    return ((x - 0.5) @ weight).abs() / dual
