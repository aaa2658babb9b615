"""Certificates beside auto_LiRPA's, on networks of the verification competition: images certified, margins, CPU time.

Run ``python benchmarks/certify.py`` with auto_LiRPA 0.7.1 (from its repository) on the path, and the networks under
``$IRONGLASS_DATA/cert``. Both work in one process and take turns; the least time of each counts. Their bounds are not
proven in floating point and ours are, so margins are also given as ours would be in exact arithmetic.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import resource
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import ironglass as ig
from ironglass.core.values import Bounds, Threat
from ironglass.ops.bounds import region
from ironglass.ops.capture import capture
from ironglass.ops.graph import Graph
from ironglass.ops.linear import intervals, margins
from subjects import DATA

NORMS: dict[str, Any] = {"inf": "linf", "2.0": "l2", "1.0": "l1"}
METHODS = {"IBP": "interval", "CROWN-IBP": "crown_ibp", "CROWN": "crown", "CROWN-Optimized": "alpha_crown"}


class Normalized(nn.Module):
    def __init__(self, net: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x - self.mean) / self.std)


def task_of(nets: Any, task: dict[str, Any], images: int) -> tuple[nn.Module, Tensor, Tensor, Threat]:
    """The network, images that it labels right, and the threat of one row of the table."""
    net = nets.net(task["model"])
    if nets.MAN["models"][task["model"]].get("mean"):
        net = Normalized(net, *nets.norm(task["model"])).eval()
    x, y = (part[: task["n"]] for part in nets.images(task["images"]))
    right = (net(x).argmax(1) == y).nonzero()[:images, 0]
    return net, x[right], y[right], Threat(NORMS[task["norm"]], task["eps"])


def transformer(name: str, images: int) -> tuple[nn.Module, Tensor, Tensor, Threat]:
    """A small transformer for CIFAR-10, images that it labels right, and the radius after the name, in 255ths."""
    model, _, radius = name.partition("@")
    net = importlib.import_module("cifar_resnet_vit").load(DATA / "models" / f"{model}.npz").requires_grad_(False)
    data = np.load(DATA / "cifar10_lossless.npz")
    x, y = torch.tensor(data["x"]).float().permute(0, 3, 1, 2).contiguous() / 255, torch.tensor(data["y"]).long()
    right = (net(x).argmax(1) == y).nonzero()[:images, 0]
    return net, x[right], y[right], Threat("linf", float(radius) / 255)


def theirs(net: nn.Module, x: Tensor, y: Tensor, threat: Threat, method: str) -> Callable[[], Tensor]:
    """What computes auto_LiRPA's least margins."""
    lirpa = importlib.import_module("auto_LiRPA")
    model = lirpa.BoundedModule(net, x[:1], bound_opts={"optimize_bound_args": {"iteration": 20}}, device="cpu")
    eye = torch.eye(10)
    others = torch.stack([torch.tensor([j for j in range(10) if j != label]) for label in y.tolist()])
    rows = eye[y][:, None] - eye[others]
    if threat.norm == "linf":
        ends = {"x_L": (x - threat.eps).clamp(0, 1), "x_U": (x + threat.eps).clamp(0, 1)}
        ball = lirpa.PerturbationLpNorm(norm=float("inf"), **ends)
    else:
        ball = lirpa.PerturbationLpNorm(norm={"l2": 2, "l1": 1}[threat.norm], eps=threat.eps)

    def run() -> Tensor:
        given = lirpa.BoundedTensor(x, ball)
        return model.compute_bounds(x=(given,), C=rows, method=method, bound_upper=False)[0].detach().amin(1)

    return run


def one_by_one(net: nn.Module, x: Tensor, y: Tensor, threat: Threat, method: str) -> Callable[[], Tensor]:
    """The same for a network that it can bound for one image at a time only."""
    runs = [theirs(net, x[i : i + 1], y[i : i + 1], threat, method) for i in range(len(x))]
    return lambda: torch.cat([run() for run in runs])


def exact(net: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    """CROWN's least margins of the network in exact arithmetic, but for float64's own rounding."""
    graph = capture(net, x, torch.float64)
    graph = Graph(tuple(replace(step, dtype=torch.float64) for step in graph.steps))
    start = region(x, threat, Bounds(), torch.float32, torch.float64)
    return margins(graph, start, y, intervals(graph, start)).scatter(1, y[:, None], torch.inf).amin(1)


def timed(run: Callable[[], Tensor]) -> tuple[float, Tensor]:
    before = time.process_time()
    found = run()
    return time.process_time() - before, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", choices=METHODS, default="CROWN")
    parser.add_argument(
        "--tasks",
        nargs="*",
        default=None,
        help="rows of the table, all if none is named; or e.g. cifar_vit_pgd_2_3_16@0.5",
    )
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--options", default="{}", help="of our method, as JSON")
    parser.add_argument("--exact", action="store_true", help="also CROWN's margins in exact arithmetic")
    parser.add_argument("--alone", action="store_true", help="ours only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    sys.path.insert(0, str(DATA / "loaders"))
    nets = importlib.import_module("cert_nets")
    bar = json.loads((DATA.parent / "reference" / "certify_bar.json").read_text())["tasks"]
    ours = getattr(ig.certify, METHODS[options.method]).with_(**json.loads(options.options))
    print(f"{options.method}, torch {torch.__version__}, {platform.machine()}, one thread")
    print("ours / theirs; CPU time an image\n")
    print("| network, threat | images | certified | mean margin | ms | ratio |")
    print("|---|---|---|---|---|---|")
    for name in options.tasks or bar:
        found = transformer(name, options.images) if "@" in name else task_of(nets, bar[name], options.images)
        net, x, y, threat = found
        model = ig.wrap(net)  # once a network, as theirs is built once
        runs: list[Callable[[], Tensor]] = [lambda: ours(model, x, y, threat).margin.double()]  # noqa: B023
        if not options.alone:
            runs.append((one_by_one if "@" in name else theirs)(net, x, y, threat, options.method))
        best: list[tuple[float, Tensor]] = [timed(run) for run in runs]
        for _ in range(options.repeats - 1):
            best = [min(old, timed(run), key=lambda pair: pair[0]) for old, run in zip(best, runs, strict=True)]
        counts = " / ".join(str(int((least > 0).sum())) for _, least in best)
        means = " / ".join(f"{float(least.mean()):.4f}" for _, least in best)
        if options.exact:
            means += f" (exact {float(exact(net, x, y, threat).mean()):.4f})"
        spent = " / ".join(f"{1000 * seconds / len(x):.2f}" for seconds, _ in best)
        ratio = f"{best[0][0] / best[-1][0]:.2f}" if len(best) > 1 else ""
        print(f"| {name} | {len(x)} | {counts} | {means} | {spent} | {ratio} |", flush=True)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
