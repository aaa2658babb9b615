"""Explanations beside Captum's, on EfficientNet-Lite0 and photographs: time, passes, and what is left unexplained.

Run ``python benchmarks/explain.py`` with Captum 0.9.0 (the extra ``peers``). Both work in one process and take
turns, under one allocator setting. Captum gets the network as its users have it, normalization inside; its integrated
gradients take 32 points at a time, as ours do, because its default holds all steps of all photographs at once.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import captum
import torch
import torch.nn.functional as F
from captum.attr import IntegratedGradients, LayerGradCam, Saliency
from torch import Tensor

from ironglass.explain.grad_cam import grad_cam
from ironglass.explain.integrated_gradients import integrated_gradients
from ironglass.explain.saliency import saliency
from ironglass.models.demo import demo_data, demo_model
from ironglass.ops.baselines import incompleteness


@dataclass
class Row:
    """One way to explain: what it does, and what was measured of it."""

    name: str
    run: Callable[[], Tensor]
    slow: bool = False
    like: str = ""
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    values: Tensor = field(default_factory=lambda: torch.empty(0))
    passes: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--photos", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--slow-repeats", type=int, default=3, help="of integrated gradients")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    x = demo_data().x[: options.photos]
    model = demo_model()
    net = model.backend.module(x).requires_grad_(True)
    layer = net.net.head
    target = model.labels(x)
    run = 0

    def count(_module: object, inputs: tuple[Tensor, ...]) -> None:
        nonlocal run
        run += len(inputs[0])

    net.register_forward_pre_hook(count)

    def forward() -> Tensor:
        with torch.no_grad():
            return net(x)

    def captum_grad_cam() -> Tensor:
        coarse = LayerGradCam(net, layer).attribute(x, target, relu_attributions=True)
        return F.interpolate(coarse, x.shape[2:], mode="bilinear")[:, 0]

    def captum_ig(**more: int) -> Tensor:
        return IntegratedGradients(net).attribute(x, torch.zeros_like(x), target, internal_batch_size=32, **more)

    def ours(method: Callable[..., object], **more: object) -> Callable[[], Tensor]:
        def do() -> Tensor:
            nonlocal run
            result = method(model, x, target, **more)
            run += result.cost.forward
            return result.values

        return do

    rows = [
        Row("a forward pass", forward),
        Row("saliency, Captum", lambda: Saliency(net).attribute(x.clone().requires_grad_(), target)),
        Row("saliency, ours", ours(saliency), like="saliency, Captum"),
        Row("Grad-CAM, Captum, layer given", captum_grad_cam),
        Row("Grad-CAM, ours, layer found", ours(grad_cam), like="Grad-CAM, Captum, layer given"),
        Row("IG, Captum, 50 steps", lambda: captum_ig(n_steps=50), slow=True),
        Row("IG, Captum, 128 steps", lambda: captum_ig(n_steps=128), slow=True),
        Row("IG, ours, 50 steps", ours(integrated_gradients, steps=50), slow=True, like="IG, Captum, 50 steps"),
        Row("IG, ours, to 5 %", ours(integrated_gradients, tol=0.05), slow=True),
        Row("IG, ours, to 1 %", ours(integrated_gradients, tol=0.01), slow=True),
    ]
    for row in rows:  # once to warm up, and to count
        run = 0
        row.values = row.run().detach()
        row.passes = run
    for turn in range(options.repeats):
        for row in rows:
            if row.slow and turn >= options.slow_repeats:
                continue
            cpu, wall = time.process_time(), time.perf_counter()
            row.run()
            row.cpu.append(time.process_time() - cpu)
            row.wall.append(time.perf_counter() - wall)

    start = model.scores(torch.zeros_like(x)).gather(1, target[:, None])[:, 0]
    end = model.scores(x).gather(1, target[:, None])[:, 0]
    by_name = {row.name: row for row in rows}
    unit = statistics.median(rows[0].cpu)
    print(
        f"EfficientNet-Lite0, {len(x)} photographs 224 x 224, torch {torch.__version__}, Captum {captum.__version__}, "
        f"Python {platform.python_version()}, {options.threads} thread(s) of {os.cpu_count()} CPUs"
    )
    print(f"medians of {options.repeats} (IG {options.slow_repeats}); one forward pass: {unit * 1e3:.0f} ms of CPU")
    print("missed: the share of the logit's change from black that a map leaves unexplained, over the photographs\n")
    head = ("", "CPU ms", "wall ms", "forwards", "passes", "missed: median", "worst", "difference")
    print("{:36} {:>8} {:>8} {:>9} {:>7} {:>15} {:>7} {:>11}".format(*head))
    for row in rows:
        cpu, wall = statistics.median(row.cpu), statistics.median(row.wall)
        missed = incompleteness(row.values.flatten(1).sum(1), start, end) if row.slow else None
        columns = (f"{missed.median():.1%}", f"{missed.max():.1%}") if missed is not None else ("", "")
        twin = by_name[row.like].values if row.like else None
        difference = f"{float((row.values - twin).abs().max() / twin.abs().max()):.1e}" if twin is not None else ""
        figures = (row.name, cpu * 1e3, wall * 1e3, cpu / unit, row.passes / len(x), *columns, difference)
        print("{:36} {:8.0f} {:8.0f} {:9.2f} {:7.1f} {:>15} {:>7} {:>11}".format(*figures))


if __name__ == "__main__":
    main()
