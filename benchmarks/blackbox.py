"""Black-box attacks beside their peers: success against queries, and CPU time a query.

    python benchmarks/blackbox.py [--subjects ARNE] [--images 20] [--queries 1000] [--only square,sign_opt] [--no-peers]
    python benchmarks/blackbox.py --reprogramming

Subjects are A (a small MNIST CNN), R and N (CIFAR-10 ResNets, robust and natural) and E (EfficientNet-Lite0 on
photographs). One thread. Scores: success at a radius in linf at so many queries, the median of the queries at the first
success, and in brackets with failures at the budget. Labels: the mean l2 of what was found with the budget. The last
column is CPU time a query over that of plain forward passes of the same network in batches of the images.

Peers are ART, foolbox and AutoAttack's Square where they can be imported (its checkout on PYTHONPATH). Their queries
are counted inside the network, their success is judged like ours.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import ironglass as ig
from ironglass.core.catalogue import catalogue
from ironglass.core.method import get
from ironglass.core.results import AttackResult
from ironglass.core.statistics import wilson
from ironglass.models import allocator
from ironglass.models.adapter import Adapter
from subjects import DATA, Counted, Subject, model_a, model_r, peers

BUDGETS = (100, 300, 1000, 3000, 10000)


def model_n() -> Subject:
    """The natural CIFAR-10 ResNet-8 of MLPerf Tiny, which takes 0 to 255; 100 of the exact test pictures."""
    sys.path.insert(0, str(DATA / "loaders"))
    inner = importlib.import_module("tflite_to_torch").load(DATA / "models" / "cifar_resnet8_mlperf.npz")
    net = nn.Sequential(Scale(), inner).eval()
    data = np.load(DATA / "cifar10_lossless.npz")
    x, y = torch.tensor(data["x"]).float().permute(0, 3, 1, 2) / 255, torch.tensor(data["y"]).long()
    with torch.no_grad():
        right = (net(x).argmax(1) == y).nonzero()[:100, 0]
    return Subject("N", net, x[right].contiguous(), y[right], 4 / 255)


class Scale(nn.Module):
    """From [0, 1] to [0, 255]."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 255


def model_e() -> Subject:
    """EfficientNet-Lite0 on 100 photographs of the NIPS-2017 competition that it labels right."""
    sys.path.insert(0, str(DATA / "loaders"))
    photographs = importlib.import_module("imagenet")
    pictures, labels, _, _ = photographs.load("dev", 150)
    model = importlib.import_module("ironglass.models.demo").demo_model()
    x, y = photographs.batch(pictures, 224), torch.from_numpy(labels)
    right = torch.cat([model.labels(part) for part in x.split(25)]) == y
    right = right.nonzero()[:100, 0]
    return Subject("E", model.backend.module(x[:1]), x[right], y[right], 4 / 255)


SUBJECTS = {"A": model_a, "R": lambda: model_r(100), "N": model_n, "E": model_e}


def bare(net: nn.Module, x: Tensor) -> float:
    """CPU seconds an image of a plain forward pass."""
    with torch.no_grad():
        net(x)
        start, passes = time.process_time(), 0
        while time.process_time() - start < 1.0:
            net(x)
            passes += len(x)
    return (time.process_time() - start) / passes


def shares(success: Tensor, first: Tensor, budget: int) -> str:
    """Success at each budget up to the largest."""
    marks = [mark for mark in BUDGETS if mark < budget] + [budget]
    return " / ".join(f"{float((success & (first <= mark)).double().mean()):.2f}" for mark in marks)


def row(name: str, who: str, result: AttackResult, cpu: float, unit: float, budget: int) -> None:
    used = float(result.queries.double().mean())
    ratio = cpu / float(result.queries.sum()) / unit
    if result.threat.eps < float("inf"):
        middle = f"{result.median_queries():.0f} ({result.median_queries(budget):.0f})"
        told = f"{shares(result.success, result.first_success, budget)} | {middle}"
    else:
        told = f"{result.success_rate:.2f} | l2 {float(result.distance[result.success].mean()):.2f}"
    print(f"| {name} | {who} | {told} | {used:.0f} | {cpu:.1f} | {ratio:.2f} |", flush=True)


def ours(model: Adapter, at: Subject, budget: int, only: set[str]) -> Iterator[tuple[str, AttackResult, float]]:
    """Yields our methods' results, and their CPU seconds."""
    for card in catalogue().values():
        takes = any(option.name == "max_queries" for option in card.options)
        if card.decorator != "attack" or card.access not in ("labels", "scores") or not takes:
            continue
        if only and card.name not in only:
            continue
        threat = ig.L2(float("inf")) if card.access == "labels" else ig.Linf(at.eps)
        start = time.process_time()
        result = get(card.name)(model, at.x, at.y, threat, max_queries=budget)  # type: ignore[operator]
        yield card.name, result, time.process_time() - start


def theirs(at: Subject, budget: int, found: dict[str, Any]) -> dict[str, tuple[str, Callable[[nn.Module], Tensor]]]:
    """Returns the peers' attacks by name, with our method of the same name."""
    runs: dict[str, tuple[str, Callable[[nn.Module], Tensor]]] = {}
    if "art" in found:

        def artful(make: Callable[[Any, Any], Any], chances: bool = False) -> Callable[[nn.Module], Tensor]:
            def run(net: nn.Module) -> Tensor:
                net = nn.Sequential(net, nn.Softmax(1)).eval() if chances else net
                art = importlib.import_module("art.estimators.classification")
                wrapped = art.PyTorchClassifier(
                    net, nn.CrossEntropyLoss(), tuple(at.x.shape[1:]), nb_classes=1000, clip_values=(0.0, 1.0)
                )
                wrapped._nb_classes = int(net(at.x[:1]).shape[1])
                attack = make(importlib.import_module("art.attacks.evasion"), wrapped)
                labels = torch.nn.functional.one_hot(at.y, wrapped._nb_classes).numpy()
                return torch.from_numpy(attack.generate(at.x.numpy(), labels)).float()

            return run

        runs["ART Square"] = (
            "square",
            artful(lambda a, c: a.SquareAttack(c, norm=np.inf, eps=at.eps, max_iter=budget, p_init=0.8, verbose=False)),
        )
        runs["ART SimBA"] = (
            "simba",
            artful(
                lambda a, c: a.SimBA(c, attack="px", epsilon=0.2, max_iter=budget // 2, verbose=False), chances=True
            ),
        )
        runs["ART ZOO"] = "zoo", artful(
            lambda a, c: a.ZooAttack(
                c, max_iter=max(budget // 256, 1), binary_search_steps=1, nb_parallel=128, use_resize=False,
                use_importance=False, batch_size=1, verbose=False,
            )
        )  # fmt: skip
        runs["ART Sign-OPT"] = (
            "sign_opt",
            artful(lambda a, c: a.SignOPTAttack(c, targeted=False, query_limit=budget, batch_size=1, verbose=False)),
        )
        runs["ART HopSkipJump"] = "hop_skip_jump", artful(
            lambda a, c: a.HopSkipJump(c, norm=2, max_iter=max(budget // 240, 1), max_eval=300, init_eval=50,
                                       verbose=False)
        )  # fmt: skip
    if "foolbox" in found:
        fb = found["foolbox"]

        def foolish(attack: Any) -> Callable[[nn.Module], Tensor]:
            return lambda net: attack(fb.PyTorchModel(net, bounds=(0, 1), device="cpu"), at.x, at.y, epsilons=None)[1]

        runs["foolbox boundary"] = "boundary", foolish(fb.attacks.BoundaryAttack(steps=budget, tensorboard=False))
        runs["foolbox HopSkipJump"] = (
            "hop_skip_jump",
            foolish(fb.attacks.HopSkipJumpAttack(steps=max(budget // 200, 1), max_gradient_eval_steps=300)),
        )
    if "autoattack" in found:

        def square(net: nn.Module) -> Tensor:
            attack = found["autoattack"].SquareAttack(
                net, p_init=0.8, n_queries=budget, eps=at.eps, norm="Linf", n_restarts=1, seed=0, device="cpu"
            )
            return attack.perturb(at.x, at.y)

        runs["AutoAttack Square"] = "square", square
    return runs


def beside(at: Subject, budget: int, found: dict[str, Any], unit: float, only: set[str]) -> None:
    """Prints the peers' rows."""
    for who, (name, run) in theirs(at, budget, found).items():
        if only and name not in only:
            continue
        net = Single(at.net).eval()
        start = time.process_time()
        try:
            adversarial = run(net)
        except Exception as error:
            print(f"| {name} | {who} | {type(error).__name__}: {str(error)[:60]} | | | | |", flush=True)
            continue
        cpu = time.process_time() - start
        with torch.no_grad():
            won = at.net(adversarial).argmax(1) != at.y
        size = (adversarial - at.x).flatten(1)
        if name in ("square",):
            won &= size.abs().amax(1) <= at.eps * (1 + 1e-4)
            told = f"{float(won.double().mean()):.2f} | "
        else:
            told = f"{float(won.double().mean()):.2f} | l2 {float(size.norm(dim=1)[won].mean()):.2f}"
        used = net.forwards / len(at.x)
        print(f"| {name} | {who} | {told} | {used:.0f} | {cpu:.1f} | {cpu / net.forwards / unit:.2f} |", flush=True)


class Single(Counted):
    """Counts a peer's queries; some hand over float64."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float())


def reprogramme(budget: int) -> None:
    """Sources taught new tasks from their scores alone: EfficientNet-Lite0 digits and chest X-rays, ResNet-8 digits."""
    model = importlib.import_module("ironglass.models.demo").demo_model()
    digits, xray = np.load(DATA / "mnist.npz"), np.load(DATA / "pneumoniamnist.npz")
    sets = {
        "MNIST": [digits[f"{kind}_{part}"] for part in ("train", "test") for kind in ("x", "y")],
        "PneumoniaMNIST": [xray[f"{kind}_{part}"] for part in ("train", "dev") for kind in ("x", "y")],
    }
    whole: dict[str, Any] = {"shape": (3, 224, 224), "size": 112, "labels": 6, "samples": 5, "batch": 20, "lr": 0.1}
    small: dict[str, Any] = {"shape": (3, 32, 32), "size": 20, "samples": 10, "batch": 10, "radius": 0.01, "tile": 1}
    cases: list[tuple[str, Any, str, int, int, dict[str, Any]]] = [
        ("EfficientNet-Lite0", model, "MNIST", 100, 150, whole),
        ("EfficientNet-Lite0", model, "PneumoniaMNIST", 100, 150, whole),
        ("ResNet-8", model_n().net, "MNIST", 500, 1000, small),
    ]
    heads = ("source", "task", "train", "epochs", "queries", "accuracy of the mapping alone", "accuracy", "CPU s")
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for who, source, name, count, tested, options in cases:
        x, y, unseen, truth = sets[name]
        take = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:count]
        data = torch.from_numpy(x).float()[take, None] / 255, torch.from_numpy(y).long().flatten()[take]
        test = torch.from_numpy(unseen[:tested]).float()[:, None] / 255
        answer = torch.from_numpy(truth[:tested]).long().flatten()
        epochs = max(budget // (count * (options["samples"] + 1)), 1)
        plain = ig.attack.reprogramming(source, data, epochs=0, **options)
        start = time.process_time()
        program = ig.attack.reprogramming(source, data, epochs=epochs, mapping=plain.mapping, **options)
        cpu = time.process_time() - start
        before, after = (_with_interval(each.predict(test) == answer) for each in (plain, program))
        asked = program.queries["learning"]
        print(f"| {who} | {name} | {count} | {epochs} | {asked} | {before} | {after} | {cpu:.0f} |", flush=True)


def _with_interval(right: Tensor) -> str:
    low, high = wilson(int(right.sum()), len(right))
    return f"{float(right.double().mean()):.3f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", default="ARNE")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--only", default="")
    parser.add_argument("--eps", type=float, default=None)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--reprogramming", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    allocator.keep_memory()
    if given.reprogramming:
        reprogramme(given.queries)
        return
    only = set(filter(None, given.only.split(",")))
    found = {} if given.no_peers else peers("art", "foolbox", "autoattack.square")
    if "autoattack" in found:
        found["autoattack"] = importlib.import_module("autoattack.square")
    for letter in given.subjects:
        try:
            at = SUBJECTS[letter]()
        except OSError as error:
            print(f"model {letter} is left out: {error}", file=sys.stderr)
            continue
        at = at._replace(x=at.x[: given.images], y=at.y[: given.images], eps=given.eps or at.eps)
        model = ig.wrap(at.net)
        model.probe(at.x)
        unit = bare(at.net, at.x)
        print(
            f"\n{letter}: {len(at.x)} images, linf {at.eps:.4g}, {given.queries} queries, {unit * 1e6:.0f} µs a pass\n"
        )
        print("| method | by | success | median, or l2 | queries | CPU s | CPU a query / bare |\n|" + "---|" * 7)
        for name, result, cpu in ours(model, at, given.queries, only):
            row(name, "Ironglass", result, cpu, unit, given.queries)
        beside(at, given.queries, found, unit, only)


if __name__ == "__main__":
    main()
