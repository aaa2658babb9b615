"""Small networks for tests, at the top of a module so that worker processes can build them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SmallCNN(nn.Module):
    """A convolution, BatchNorm with statistics of its own, an in-place ReLU, dropout and a linear head."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, classes)
        with torch.no_grad():
            self.bn.running_mean.uniform_(-0.1, 0.1)  # type: ignore[union-attr]
            self.bn.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
            self.head.weight.mul_(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn(self.conv(x)))
        return self.head(self.drop(F.adaptive_avg_pool2d(x, 1).flatten(1)))


def small_cnn(seed: int = 0, dtype: torch.dtype = torch.float32) -> SmallCNN:
    """Returns the network drawn from a seed, without touching the global generator, in train mode."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return SmallCNN().to(dtype)


def images(count: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Returns pictures ``(count, 1, 8, 8)`` in [0, 1], some values saturated."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(count, 1, 8, 8, generator=generator, dtype=dtype) * 1.4 - 0.2).clamp(0, 1)


def scores_without_autograd(x: Tensor) -> Tensor:
    """A black box: linear scores, and an error for whoever asks autograd."""
    if torch.is_grad_enabled() or x.requires_grad:
        raise RuntimeError("autograd asked of a black box")
    weight = torch.linspace(0, 900, 64 * 5, dtype=x.dtype).sin().reshape(5, 64)
    return x.flatten(1) @ weight.T * 3


def labels_without_autograd(x: Tensor) -> Tensor:
    """A black box that tells labels alone."""
    return scores_without_autograd(x).argmax(1)
