"""What a public call costs over the same passes run bare: PGD-40 where nothing is fooled, on one thread.

python benchmarks/overhead.py
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ironglass as ig
from ironglass.models import allocator
from subjects import resnet18

ROUNDS = 5


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
    torch.manual_seed(0)
    overhead(resnet18(64).eval(), torch.rand(16, 3, 32, 32), torch.zeros(16, dtype=torch.long))


if __name__ == "__main__":
    main()
