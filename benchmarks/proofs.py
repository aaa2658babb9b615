"""Exact methods, Lipschitz bounds, CLEVER and smoothing on trained networks: what they prove, and what that costs.

Run ``python benchmarks/proofs.py [exact] [lipschitz] [clever] [smoothing] [sandwich]``; all parts without a word. It
needs the shared networks (``IRONGLASS_DATA``). CLEVER of the Adversarial Robustness Toolbox stands beside ours where it
is installed. Times are CPU seconds of one thread.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import ironglass as ig
from subjects import DATA

sys.path.insert(0, str(DATA / "loaders"))
nets: Any = importlib.import_module("cert_nets")


def timed(work: Callable[..., Any], *args: Any, **options: Any) -> tuple[Any, float]:
    start = time.process_time()
    found = work(*args, **options)
    return found, time.process_time() - start


def right(name: str, count: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A network and the first images that it labels right."""
    net = nets.net(name).eval()
    x, y = nets.images("mnist_test_0_499")
    kept = (net(x).argmax(1) == y).nonzero()[:count, 0]
    return net, x[kept], y[kept]


def exact() -> None:
    print("network, eps: CROWN, LP, MILP proven of right ones; seconds a sample; open at 60 s")
    for name, eps, count in (("mnist_tiny_mlp", 0.1, 20), ("mnistfc_256x2", 0.02, 8)):
        net, x, y = right(name, count)
        cells = []
        for method in ("crown", "convex_polytope", "milp"):
            found, seconds = timed(getattr(ig.certify, method), net, x, y, ig.Linf(eps))
            cells.append(f"{int(found.verified.sum())} ({seconds / len(x):.2f} s)")
        open_ = len(x) - int(found.verified.sum()) - int(found.falsified.sum())
        broken = int(ig.attack.pgd(net, x, y, ig.Linf(eps), steps=100, restarts=2).success.sum())
        print(f"| {name}, {eps} | {len(x)} | {' | '.join(cells)} | {open_} | {broken} broken by PGD |", flush=True)


def lipschitz() -> None:
    print("network, norm, eps: certified and milliseconds an image")
    for name, norm, eps in (
        ("mnistfc_256x2", "linf", 0.005), ("mnistfc_256x2", "l2", 0.1), ("kw_mnist", "linf", 0.02)
    ):  # fmt: skip
        net, x, y = right(name, 30)
        cells = []
        for method in ("interval", "fast_lip", "fast_lin", "crown"):
            threat = ig.Linf(eps) if norm == "linf" else ig.L2(eps)
            found, seconds = timed(getattr(ig.certify, method), net, x, y, threat)
            cells.append(f"{method} {int(found.verified.sum())} ({1e3 * seconds / len(x):.0f} ms)")
        print(f"| {name}, {norm} {eps} | {len(x)} | {' | '.join(cells)} |", flush=True)


def clever() -> None:
    seqnet = importlib.import_module("seqnet")
    data = np.load(DATA / "mnist.npz")
    images = torch.from_numpy(data["x_test"][:20]).float().reshape(-1, 1, 28, 28) / 255
    labels = torch.from_numpy(data["y_test"][:20]).long()
    for name in ("mnist_kw_0.1", "mnist_conv_small_nat", "lirpa_mnist_fc3"):
        net = seqnet.load(DATA / "models" / f"{name}.npz")[0].eval()
        kept = (net(images).argmax(1) == labels).nonzero()[:6, 0]
        beside_attacks(name, net, images[kept], labels[kept])


def beside_attacks(name: str, net: nn.Module, x: Tensor, y: Tensor) -> None:
    for norm, make, reach in (("l2", ig.L2, 5.0), ("linf", ig.Linf, 0.3)):
        least = torch.full((len(x),), torch.inf)
        for attack in ("fmn", "deepfool", "ddn") if norm == "l2" else ("fmn", "deepfool"):
            found = getattr(ig.attack, attack)(net, x, y, make(float("inf")))
            least = torch.where(found.success, least.minimum(found.distance), least)
        for radii in (1, 3, 6):
            options = {"batches": 30, "samples": 128, "targets": 3, "radii": radii}
            found, seconds = timed(ig.certify.clever, net, x, y, make(reach), **options)
            share = float(found.radius.mean() / least.mean())
            print(
                f"| {name}, {norm}, radii={radii} | {share:.2f} of the attack | {seconds / len(x):.1f} s |", flush=True
            )
        try:
            from art.estimators.classification import PyTorchClassifier
            from art.metrics import clever_u
        except ImportError:
            continue
        wrapped = PyTorchClassifier(net, nn.CrossEntropyLoss(), (1, 28, 28), 10, clip_values=(0, 1))
        order = 2 if norm == "l2" else float("inf")
        seconds, found = 0.0, []
        for image in x[:2].numpy():
            one, spent = timed(clever_u, wrapped, image, 30, 128, reach, order, verbose=False)
            found, seconds = [*found, float(one)], seconds + spent
        share = sum(found) / float(least[:2].sum())
        print(
            f"| {name}, {norm}, ART clever_u, 9 targets | {share:.2f} of the attack | {seconds / 2:.1f} s |",
            flush=True,
        )


def smoothing() -> None:
    net, x, y = right("kw_mnist", 20)
    _, bare = timed(lambda: [net(x.repeat(10, 1, 1, 1)) for _ in range(5)])
    for sigma in (0.25, 0.5):
        found, seconds = timed(ig.certify.smoothing, net, x, y, ig.L2(0.3), sigma=sigma, samples=2000)
        times = seconds / found.cost.forward / (bare / 1000)
        said = f"radius {float(found.radius.median()):.3f}, right within 0.3: {int(found.holds.sum())} of {len(x)}"
        print(f"| kw_mnist, sigma {sigma} | {said} | {times:.2f} passes a draw |", flush=True)


def sandwich() -> None:
    net, x, y = right("mnist_tiny_mlp", 10)
    methods = ("crown", "milp")
    whole, seconds = timed(ig.certify.sandwich, net, x, y, ig.Linf(0.2), certificates=methods, steps=5)
    gap = (whole.upper.clamp(max=0.2) - whole.lower).mean()
    print(f"mnist_tiny_mlp, linf up to 0.2, {seconds / len(x):.1f} s a sample; mean gap {float(gap):.4f}")
    for row in whole.each().rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    torch.set_num_threads(1)
    parts = {part.__name__: part for part in (exact, lipschitz, clever, smoothing, sandwich)}
    for chosen in sys.argv[1:] or parts:
        parts[chosen]()
