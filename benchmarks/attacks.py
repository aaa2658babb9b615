"""Attacks beside foolbox and torchattacks, in one process on one thread: success, passes an image, CPU seconds.

    python benchmarks/attacks.py

Peers are used where they are installed (extra ``peers``; torchattacks also needs torchvision). The allocator setting
that Ironglass makes is in force for all. Model A is a small MNIST CNN (trained here from the shared data sets, if they
are there), model B has the shape of a ResNet-18 at base width 16 and is trained on scikit-learn's digits.
"""

from __future__ import annotations

import importlib
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import ironglass as ig
from ironglass.models import allocator

ROUNDS = 5


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


def model_a() -> tuple[nn.Module, Tensor, Tensor] | None:
    root = Path(os.environ.get("IRONGLASS_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not (root / "mnist.npz").exists():
        print(f"model A is left out: no mnist.npz in {root}", file=sys.stderr)
        return None
    data = np.load(root / "mnist.npz")
    x, y = torch.tensor(data["x_train"][:12000]).float()[:, None] / 255, torch.tensor(data["y_train"][:12000]).long()
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(1568, 10)
    )
    train(net, x, y, 3)
    test, label = torch.tensor(data["x_test"][:200]).float()[:, None] / 255, torch.tensor(data["y_test"][:200]).long()
    right = (net(test).argmax(1) == label).nonzero()[:100, 0]
    return net, test[right], label[right]


def model_b() -> tuple[nn.Module, Tensor, Tensor]:
    digits = load_digits()
    x = F.interpolate(torch.tensor(digits.images / 16).float()[:, None], size=32, mode="bilinear").repeat(1, 3, 1, 1)
    y = torch.tensor(digits.target).long()
    torch.manual_seed(0)
    net = train(resnet18(16), x[:1400], y[:1400], 3)
    right = (net(x[1400:]).argmax(1) == y[1400:]).nonzero()[:20, 0] + 1400
    return net, x[right], y[right]


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


def peers() -> dict[str, Any]:
    found = {}
    for name in ("foolbox", "torchattacks"):
        try:
            found[name] = importlib.import_module(name)
        except Exception as error:
            print(f"{name} is left out: {type(error).__name__}: {str(error)[:90]}", file=sys.stderr)
    return found


def jobs(
    job: str, net: nn.Module, x: Tensor, y: Tensor, eps: float, others: dict[str, Any]
) -> dict[str, Callable[[], Any]]:
    model = ig.wrap(net)
    model.probe(x)
    ours: dict[str, Callable[[], Any]] = {
        "fgsm": lambda: ig.attack.fgsm(model, x, y, ig.Linf(eps)),
        "pgd40": lambda: ig.attack.pgd(model, x, y, ig.Linf(eps), steps=40),
        "square1000": lambda: ig.attack.square(model, x, y, ig.Linf(eps), max_queries=1000),
    }
    runs = {"ironglass": ours[job]}
    if "foolbox" in others and job != "square1000":
        fb = others["foolbox"]
        attack = (
            fb.attacks.LinfFastGradientAttack()
            if job == "fgsm"
            else fb.attacks.LinfPGD(steps=40, rel_stepsize=2.5 / 40)
        )
        runs["foolbox"] = lambda: attack(fb.PyTorchModel(counted, bounds=(0, 1)), x, y, epsilons=eps)[1]
    if "torchattacks" in others:
        ta = others["torchattacks"]
        made = {
            "fgsm": lambda: ta.FGSM(counted, eps=eps),
            "pgd40": lambda: ta.PGD(counted, eps=eps, alpha=2.5 * eps / 40, steps=40),
            "square1000": lambda: ta.Square(counted, norm="Linf", eps=eps, n_queries=1000, seed=0),
        }[job]
        runs["torchattacks"] = lambda: made()(x, y)
    counted = Counted(net).eval()
    runs["_counted"] = lambda: counted
    return runs


def compare(letter: str, net: nn.Module, x: Tensor, y: Tensor, eps: float, others: dict[str, Any]) -> None:
    for job in ("fgsm", "pgd40", "square1000"):
        runs = jobs(job, net, x, y, eps, others)
        counted = runs.pop("_counted")()
        times: dict[str, list[float]] = {name: [] for name in runs}
        rows: dict[str, tuple[float, float, float]] = {}
        for _ in range(ROUNDS if job != "square1000" else 3):
            for name, run in runs.items():
                counted.forwards = counted.backwards = 0
                start = time.process_time()
                found = run()
                times[name].append(time.process_time() - start)
                bad = found.adversarial if isinstance(found, ig.AttackResult) else found.detach()
                inside = (
                    float((bad - x).abs().max()) <= eps * (1 + 1e-5) and float(bad.min()) >= 0 and float(bad.max()) <= 1
                )
                with torch.no_grad():
                    won = float((net(bad).argmax(1) != y).double().mean()) if inside else float("nan")
                ours = isinstance(found, ig.AttackResult)
                forward, backward = (
                    (found.cost.forward, found.cost.backward) if ours else (counted.forwards, counted.backwards)
                )
                rows[name] = won, forward / len(x), backward / len(x)
        for name, (won, forward, backward) in rows.items():
            cpu = statistics.median(times[name])
            print(f"| {job} | {letter} | {name} | {won:.2f} | {forward:.1f} | {backward:.1f} | {cpu:.3f} |")


def overhead(net: nn.Module, x: Tensor, y: Tensor) -> None:
    """PGD-40 through the public call, where nothing is fooled, over the same passes run bare on the same copy."""
    model = ig.wrap(net)
    model.probe(x)
    backend: Any = model.backend
    copy, size = backend._copy.net, backend._rows
    goal = net(x).argmax(1)
    ratios, plain_ratios = [], []

    def bare(body: nn.Module, step: int) -> float:
        start = time.process_time()
        for _ in range(40):
            for part, label in zip(x.split(step), goal.split(step), strict=True):
                leaf = part.clone().requires_grad_()
                torch.autograd.grad(F.cross_entropy(body(leaf), label, reduction="sum"), leaf)
        with torch.no_grad():
            for part in x.split(step):
                body(part)
        return time.process_time() - start

    for _ in range(ROUNDS):
        start = time.process_time()
        result = ig.attack.pgd(model, x, goal, ig.Linf(1e-6), steps=40)
        ours = time.process_time() - start
        ratios.append(ours / bare(copy, size))
        plain_ratios.append(ours / bare(net, len(x)))
    passes = f"{result.cost.forward / len(x):.0f} forward, {result.cost.backward / len(x):.0f} backward"
    size_m = sum(p.numel() for p in net.parameters()) / 1e6
    print(f"\nPGD-40 overhead, {size_m:.1f} M parameters, {len(x)} images ({passes}):")
    print(f"  public call / bare passes of the same copy:   {statistics.median(ratios):.3f}")
    print(f"  public call / bare passes of the user's net:  {statistics.median(plain_ratios):.3f}")


def main() -> None:
    torch.set_num_threads(1)
    allocator.keep_memory()
    others = peers()
    versions = ", ".join(f"{name} {module.__version__}" for name, module in others.items())
    print(f"ironglass {ig.__version__}, torch {torch.__version__}, {versions or 'no peers'}; 1 thread, medians\n")
    head = "| job | model | library | success | forward / image | backward / image | CPU s |"
    print(head + "\n|---|---|---|---|---|---|---|", flush=True)
    first = model_a()
    if first:
        compare("A", *first, 0.1, others)
    net, x, y = model_b()
    compare("B", net, x, y, 8 / 255, others)
    torch.manual_seed(0)
    overhead(resnet18(64).eval(), torch.rand(16, 3, 32, 32), torch.zeros(16, dtype=torch.long))


if __name__ == "__main__":
    main()
