"""The models that benchmarks are run on, with samples they label right, and the counter that peers' passes go by."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

DATA = Path(os.environ.get("IRONGLASS_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


class Subject(NamedTuple):
    """A network, samples that it labels right, and the radius in linf that makes attacks differ."""

    letter: str
    net: nn.Module
    x: Tensor
    y: Tensor
    eps: float


class Block(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.one, self.two = (
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
        )
        self.bn1, self.bn2 = nn.BatchNorm2d(after), nn.BatchNorm2d(after)
        self.skip = nn.Identity()
        if stride > 1 or before != after:
            self.skip = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.two(F.relu(self.bn1(self.one(x))))) + self.skip(x))


def resnet18(width: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    before = width
    for stage in range(4):
        for block in range(2):
            layers.append(Block(before, width << stage, 2 if stage and not block else 1))
            before = width << stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


def train(net: nn.Module, x: Tensor, y: Tensor, epochs: int, rate: float = 2e-3) -> nn.Module:
    optimizer = torch.optim.Adam(net.parameters(), rate)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(128):
            optimizer.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    return net.eval()


def model_a() -> Subject:
    """A small MNIST CNN trained on 12,000 digits; 100 test digits."""
    data = np.load(DATA / "mnist.npz")
    x, y = torch.tensor(data["x_train"][:12000]).float()[:, None] / 255, torch.tensor(data["y_train"][:12000]).long()
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(1568, 10)
    )
    train(net, x, y, 3)
    test, label = torch.tensor(data["x_test"][:200]).float()[:, None] / 255, torch.tensor(data["y_test"][:200]).long()
    right = (net(test).argmax(1) == label).nonzero()[:100, 0]
    return Subject("A", net, test[right], label[right], 0.1)


def model_b() -> Subject:
    """A ResNet-18 shape of base width 16, trained on scikit-learn's digits at 32 × 32; 20 of them."""
    digits = load_digits()
    x = F.interpolate(torch.tensor(digits.images / 16).float()[:, None], size=32, mode="bilinear").repeat(1, 3, 1, 1)
    y = torch.tensor(digits.target).long()
    torch.manual_seed(0)
    net = train(resnet18(16), x[:1400], y[:1400], 3)
    right = (net(x[1400:]).argmax(1) == y[1400:]).nonzero()[:20, 0] + 1400
    return Subject("B", net, x[right], y[right], 8 / 255)


def model_r(most: int = 40) -> Subject:
    """The adversarially trained CIFAR-10 ResNet-2B of the shared models; at most so many of the exact test pictures."""
    sys.path.insert(0, str(DATA / "loaders"))
    net = importlib.import_module("cifar_resnet_vit").load(DATA / "models" / "cifar_resnet2b_adv.npz")
    data = np.load(DATA / "cifar10_lossless.npz")
    x, y = torch.tensor(data["x"]).float().permute(0, 3, 1, 2) / 255, torch.tensor(data["y"]).long()
    with torch.no_grad():
        right = (net(x).argmax(1) == y).nonzero()[:most, 0]
    return Subject("R", net, x[right].contiguous(), y[right], 4 / 255)


def subjects(letters: str) -> Iterator[Subject]:
    """Yields the subjects that can be had, and says of the others why not."""
    for letter, make in (("A", model_a), ("B", model_b), ("R", model_r)):
        if letter in letters:
            try:
                yield make()
            except OSError as error:
                print(f"model {letter} is left out: {error}", file=sys.stderr)


class Counted(nn.Module):
    """Counts the samples that pass a network forward and backward, for peers."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.forwards = self.backwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        out = self.net(x)
        if out.requires_grad:
            out.register_hook(self._back)
        return out

    def _back(self, grad: Tensor) -> None:
        self.backwards += len(grad)


def peers(*names: str) -> dict[str, Any]:
    """Returns the peers that can be imported, by the first part of their name, and says of the others why not."""
    found = {}
    for name in names:
        try:
            found[name.partition(".")[0]] = importlib.import_module(name)
        except Exception as error:
            print(f"{name} is left out: {type(error).__name__}: {str(error)[:90]}", file=sys.stderr)
    return found
