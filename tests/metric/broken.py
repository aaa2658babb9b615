"""Defences that hide gradients or make attacks fail, around a small network of the digits."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

Map = Callable[[Tensor], Tensor]


def digits() -> tuple[Tensor, Tensor]:
    """Returns scikit-learn's digits as pictures ``(1797, 1, 16, 16)`` in [0, 1], and their labels."""
    data = load_digits()
    x = torch.tensor(data.images / 16).float()[:, None]
    x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False).clamp(0, 1)
    return x, torch.tensor(data.target).long()


class CNN(nn.Module):
    """Two convolutions and two linear layers."""

    def __init__(self, act: Map = F.relu) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 16, 4, 2, 1), nn.Conv2d(16, 32, 4, 2, 1)
        self.third, self.last = nn.Linear(512, 64), nn.Linear(64, 10)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.second(self.act(self.first(x))))

    def end(self, x: Tensor) -> Tensor:
        return self.last(self.act(self.third(self.act(x).flatten(1))))


def trained(net: CNN, x: Tensor, y: Tensor, *, steps: int, eps: float = 0.0) -> CNN:
    """Trains a network; with a radius, on random-start fast-gradient examples whose radius grows to it."""
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        for layer in (net.first, net.second, net.third, net.last):
            layer.reset_parameters()
        optimizer = torch.optim.Adam(net.parameters(), 2e-3)
        for step in range(steps):
            rows = torch.randint(len(x), (64,))
            inputs, labels = x[rows], y[rows]
            if eps:
                now = eps * min(1.0, step / (0.4 * steps))
                delta = ((torch.rand_like(inputs) * 2 - 1) * now).requires_grad_()
                loss = F.cross_entropy(net((inputs + delta).clamp(0, 1)), labels)
                (grad,) = torch.autograd.grad(loss, delta)
                inputs = (inputs + (delta.detach() + 1.25 * now * grad.sign()).clamp(-now, now)).clamp(0, 1)
            optimizer.zero_grad()
            F.cross_entropy(net(inputs), labels).backward()
            optimizer.step()
    return net.eval()


class Around(nn.Module):
    """A network with something before and after it."""

    def __init__(self, net: nn.Module, before: Map | None = None, after: Map | None = None) -> None:
        super().__init__()
        self.net, self.before, self.after = net, before, after

    def forward(self, x: Tensor) -> Tensor:
        scores = self.net(x if self.before is None else self.before(x))
        return scores if self.after is None else self.after(scores)


def winners(share: float) -> Map:
    """Returns k-winners-take-all: the largest values of a sample stay, the others become 0."""

    def act(x: Tensor) -> Tensor:
        flat = x.flatten(1)
        least = flat.topk(max(1, int(share * flat.shape[1])), dim=1).values[:, -1:]
        return (flat * (flat >= least)).view_as(x)

    return act


def resized(x: Tensor) -> Tensor:
    """Resizes to a size drawn from Python's generator, and pads at a place drawn from it."""
    side = x.shape[-1]
    size = random.randint(side - 4, side - 1)
    left, top = random.randint(0, side - size), random.randint(0, side - size)
    return F.pad(F.interpolate(x, size=(size, size)), (left, side - size - left, top, side - size - top))


class BatchStatistics(nn.Module):
    """Normalizes by the statistics of the batch, also when it predicts."""

    def __init__(self, net: CNN) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        normed = F.batch_norm(self.net.first(x), None, None, training=True)
        return self.net.end(self.net.second(F.relu(normed)))


class Dropout(nn.Module):
    """Drops hidden values also when it predicts."""

    def __init__(self, net: CNN) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net.end(F.dropout(self.net.second(F.relu(self.net.first(x))), 0.3, training=True))


class Dynamic(nn.Module):
    """Moves the input along a gradient of its own before it predicts."""

    def __init__(self, net: CNN) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            (grad,) = torch.autograd.grad(self.net(leaf).logsumexp(1).sum(), leaf)
        return self.net(x - 0.01 * grad.sign())


def defences(net: CNN, kwta: CNN) -> dict[str, nn.Module]:
    """Returns the broken defences by name."""
    broken = {
        "no gradient": Around(net, lambda x: x.detach()),
        "zero gradient": Around(net, lambda x: x.detach() + 0 * x),
        "3 bits": Around(net, lambda x: (x * 7).round() / 7),
        "logits x 1000": Around(net, None, lambda scores: scores * 1000),
        "softmax": Around(net, None, lambda scores: scores.softmax(1)),
        "resize and pad": Around(net, resized),
        "noise": Around(net, lambda x: x + 0.1 * torch.randn_like(x)),
        "k winners": kwta,
        "batch statistics": BatchStatistics(net),
        "dropout": Dropout(net),
        "dynamic": Dynamic(net),
    }
    return {name: net.eval() for name, net in broken.items()}
