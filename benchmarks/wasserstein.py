"""The Wasserstein attack on model A: success, passes and CPU seconds an image.

python benchmarks/wasserstein.py [--images 20]
"""

from __future__ import annotations

import argparse
import sys
import time

import torch

import ironglass as ig
from ironglass.models import allocator
from subjects import model_a


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    allocator.keep_memory()
    try:
        subject = model_a()
    except OSError as error:
        sys.exit(f"model A is left out: {error}")
    x, y = subject.x[: given.images], subject.y[: given.images]
    model = ig.wrap(subject.net)
    print("| 40 steps | eps | success | passes / image | CPU s / image |\n|---|---|---|---|---|", flush=True)
    for algorithm in ("frank_wolfe", "sinkhorn"):
        for eps in (0.10, 0.15, 0.20, 0.30):
            start = time.process_time()
            result = ig.attack.wasserstein(model, x, y, ig.Wasserstein(eps), algorithm=algorithm)
            cpu = (time.process_time() - start) / len(x)
            passes = (result.cost.forward + result.cost.backward) / len(x)
            print(f"| {algorithm} | {eps} | {result.success_rate:.2f} | {passes:.0f} | {cpu:.2f} |", flush=True)


if __name__ == "__main__":
    main()
