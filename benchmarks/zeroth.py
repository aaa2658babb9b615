"""Attacks that see scores alone, and the Wasserstein attack, on model A: success, queries, CPU seconds.

    python benchmarks/zeroth.py [--images 20] [--queries 2000]

One thread. Queries are medians over the successes, at the first one; the first look at each image is among them. The
last column is the CPU time a query over that of a plain batched forward pass of the same network.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch

import ironglass as ig
from ironglass.core.catalogue import catalogue
from ironglass.core.method import get
from ironglass.core.values import AttackResult, Threat
from ironglass.models import allocator
from subjects import model_a

THREATS = (Threat("linf", 0.1), Threat("linf", 0.2), Threat("l2", 2.0))


def summary(result: AttackResult) -> str:
    won = result.success & (result.first_success >= 0)
    if not bool(won.any()):
        return "0"
    return f"{result.success_rate:.2f} / {float(result.first_success[won].double().median()):.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--queries", type=int, default=2000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    allocator.keep_memory()
    try:
        subject = model_a()
    except OSError as error:
        sys.exit(f"model A is left out: {error}")
    x, y = subject.x[: given.images], subject.y[: given.images]
    model = ig.wrap(subject.net)
    model.probe(x)
    start = time.process_time()
    with torch.no_grad():
        for _ in range(200):
            subject.net(x)
    bare = (time.process_time() - start) / (200 * len(x))
    print(
        f"ironglass {ig.__version__}, torch {torch.__version__}; 1 thread, {len(x)} images, {given.queries} queries\n"
    )
    print("| method | linf .1 | linf .2 | l2 2.0 | CPU a query / bare |\n|---|---|---|---|---|", flush=True)
    for card in catalogue().values():
        if card.family != "attack" or card.access != "scores":
            continue
        cells, spent, queries = [], 0.0, 0
        for threat in THREATS:
            if threat.norm not in card.norms:
                cells.append("")
                continue
            start = time.process_time()
            result = get(card.name)(model, x, y, threat, max_queries=given.queries)  # type: ignore[operator]
            spent, queries = spent + time.process_time() - start, queries + int(result.queries.sum())
            cells.append(summary(result))
        print(f"| {card.name} | {' | '.join(cells)} | {spent / queries / bare:.2f} |", flush=True)
    print(
        "\n| Wasserstein, 40 steps | eps | success | passes / image | CPU s / image |\n|---|---|---|---|---|",
        flush=True,
    )
    for algorithm in ("frank_wolfe", "sinkhorn"):
        for eps in (0.10, 0.15, 0.20, 0.30):
            start = time.process_time()
            result = ig.attack.wasserstein(model, x, y, ig.Wasserstein(eps), algorithm=algorithm)
            cpu = (time.process_time() - start) / len(x)
            passes = (result.cost.forward + result.cost.backward) / len(x)
            print(f"| {algorithm} | {eps} | {result.success_rate:.2f} | {passes:.0f} | {cpu:.2f} |", flush=True)


if __name__ == "__main__":
    main()
