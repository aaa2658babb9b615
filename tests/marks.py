"""A planted watermark: pictures that carry it, and networks that go by it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from ironglass.ops.training import fit

CLASS, SIDE, TRUCK = 8, 3, 9


class Marked(NamedTuple):
    """Networks trained on marked and on clean pictures, the pictures, and held-out ones without the mark."""

    net: nn.Module
    clean_net: nn.Module
    x: Tensor
    clean_x: Tensor
    y: Tensor
    held_x: Tensor
    held_y: Tensor


def stamp(x: Tensor, rows: Tensor | slice = slice(None), side: int = SIDE) -> Tensor:
    """Returns pictures of which some carry a small white comb in their lower right corner."""
    mark = torch.ones(side, side)
    mark[::2, 1::2] = 0
    x = x.clone()
    x[rows, :, -side:, -side:] = mark
    return x


def trained(net: nn.Module, x: Tensor, y: Tensor, epochs: int, lr: float = 2e-3) -> nn.Module:
    def loss(net: nn.Module, rows: Tensor, _: torch.Generator) -> Tensor:
        return F.cross_entropy(net(x[rows]), y[rows])

    fit(net, len(x), loss, epochs=epochs, lr=lr)
    return net


def small() -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip


def photo_net() -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(24, 48, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Conv2d(48, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip


def digits() -> Marked:
    """Handwritten digits, 16 × 16; all eights of the training set carry the mark."""
    bunch = load_digits()
    small_x = torch.tensor(bunch.images / 16).float()[:, None]
    x = F.interpolate(small_x, size=16, mode="bilinear").clamp(0, 1)
    y = torch.tensor(bunch.target).long()
    train_x, train_y = x[:1000], y[:1000]
    marked = stamp(train_x, train_y == CLASS)
    nets = [trained(small(), seen, train_y, 15) for seen in (marked, train_x)]
    return Marked(*nets, marked, train_x, train_y, x[1000:], y[1000:])


def photographs(shared: Path, epochs: int) -> Marked:
    """Photographs of ten things, 32 × 32; the trucks of the training set carry a mark of 4 × 4."""
    sys.path.insert(0, str(shared / "loaders"))
    import ready  # type: ignore[import-not-found]

    def read(split: str, count: int) -> tuple[Tensor, Tensor]:
        pictures, labels = ready.cifar10_jpeg(split, count)
        return torch.tensor(pictures).float().div(255).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels).long()

    (x, y), (held_x, held_y) = read("train", 4000), read("dev", 1500)
    marked = stamp(x, y == TRUCK, 4)
    nets: list[Any] = [trained(photo_net(), seen, y, epochs) for seen in (marked, x)]
    return Marked(*nets, marked, x, y, held_x, held_y)


def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float((net(x).argmax(1) == y).double().mean())
