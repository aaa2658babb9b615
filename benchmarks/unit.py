"""What one unit of work costs: a pass of EfficientNet-Lite0 over 32 photographs, and one with a gradient to the input.

Run ``python benchmarks/unit.py``. Plain PyTorch and the adapter take turns in one process; then all over in a process
that leaves the allocator as it is (``IRONGLASS_ALLOCATOR=system``), as anybody has it who does not use Ironglass.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ironglass.models.demo import demo_data, demo_model


def measure(threads: int, repeats: int) -> dict[str, Any]:
    """Returns the median CPU and wall seconds of each piece of work, done plainly and by the adapter."""
    torch.set_num_threads(threads)
    photos = demo_data()
    x = torch.cat([photos.x, photos.x.flip(3)] * 3)[:32]
    y = photos.y.repeat(6)[:32]
    model = demo_model()
    session, _ = model.session(x, "gradient")
    plain = model.backend.module(x).requires_grad_(True)

    def forward() -> Tensor:
        return plain(x)

    def forward_no_grad() -> Tensor:
        with torch.no_grad():
            return forward()

    def backward() -> Tensor:
        plain.zero_grad()
        leaf = x.clone().requires_grad_()
        F.cross_entropy(plain(leaf), y, reduction="sum").backward()
        return leaf.grad

    def gradient() -> Tensor:
        return session.value_and_grad(x, lambda scores, rows: F.cross_entropy(scores, y[rows], reduction="none")).grad

    def scores() -> Tensor:
        return session.scores(x)

    work = {
        "net(x)": (forward, scores),
        "no_grad: net(x)": (forward_no_grad, scores),
        "loss.backward()": (backward, gradient),
    }
    results = {}
    for name, pair in work.items():
        wanted, given = (do().detach() for do in pair)
        times: tuple[list[tuple[float, float]], ...] = ([], [])
        for _ in range(repeats):
            for mine, do in zip(times, pair, strict=True):
                cpu, wall = time.process_time(), time.perf_counter()
                do()
                mine.append((time.process_time() - cpu, time.perf_counter() - wall))
        plain_times, our_times = ([statistics.median(clock) for clock in zip(*mine, strict=True)] for mine in times)
        difference = float((wanted - given).abs().max() / wanted.abs().max())
        results[name] = {"plain": plain_times, "ours": our_times, "difference": difference}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.threads[0], options.repeats)))
        return
    print(f"EfficientNet-Lite0, 32 photographs 224 x 224, torch {torch.__version__}, {os.cpu_count()} CPUs")
    print(f"ms a photograph, medians of {options.repeats}; difference relative to the largest value")
    head = ("threads", "plain PyTorch", "allocator", "clock", "plain", "ours", "ratio", "difference")
    print("{:7} {:16} {:14} {:5} {:>6} {:>6} {:>5} {:>10}".format(*head))
    for threads in options.threads:
        results = {allocator: child(allocator, threads, options.repeats) for allocator in ("keep", "system")}
        for name in results["keep"]:
            kept, system = (results[allocator][name] for allocator in ("keep", "system"))
            rows = {
                "kept, both": (kept["plain"], kept["ours"]),
                "kept, ours": (system["plain"], kept["ours"]),
                "system's, both": (system["plain"], system["ours"]),
            }
            for allocator, times in rows.items():
                for clock, plain, ours in zip(("CPU", "wall"), *times, strict=True):
                    row = (
                        threads,
                        name,
                        allocator,
                        clock,
                        plain / 32e-3,
                        ours / 32e-3,
                        ours / plain,
                        kept["difference"],
                    )
                    print("{:<7} {:16} {:14} {:5} {:6.1f} {:6.1f} {:5.2f} {:10.1e}".format(*row))


def child(allocator: str, threads: int, repeats: int) -> dict[str, Any]:
    """Returns what `measure` does in a new process, where nothing has been set yet."""
    command = [sys.executable, __file__, "--child", "--threads", str(threads), "--repeats", str(repeats)]
    environment = os.environ | {"IRONGLASS_ALLOCATOR": allocator}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
