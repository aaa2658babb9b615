"""Training against attacks and for proofs on MNIST: what it reaches, and what it costs beside a peer's trainer.

Run ``python benchmarks/training.py robust --eps 0.1``, ``provable --method interval_training --eps 0.1``, or ``cost``.
Each is one thread; ``--checkpoint FOLDER`` takes an interrupted run up again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ironglass as ig
from ironglass.core.statistics import wilson
from ironglass.core.training import Epoch
from ironglass.run.training import Course
from subjects import DATA, peers

Pair = tuple[Tensor, Tensor]


def mnist(train: int, test: int) -> tuple[Pair, Pair]:
    data = np.load(DATA / "mnist.npz")

    def part(name: str, count: int) -> Pair:
        x = torch.tensor(data[f"x_{name}"][:count]).float()[:, None] / 255
        return x, torch.tensor(data[f"y_{name}"][:count]).long()

    return part("train", train), part("test", test)


def small_net(width: int = 16) -> nn.Module:
    """Two convolutions of stride 2 and two linear layers, as in Wong and Kolter 2018."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, width, 4, 2, 1), nn.ReLU(), nn.Conv2d(width, 2 * width, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(98 * width, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip


def share(right: int, count: int) -> str:
    low, high = wilson(right, count)
    return f"{right / count:.2%} [{100 * low:.1f}, {100 * high:.1f}] of {count}"


def tell(done: int, total: int, epoch: Epoch) -> None:
    shares = ", ".join(f"{kind} {right / count:.2%}" for kind, (right, count) in epoch.counts.items())
    print(f"epoch {done}/{total}: loss {epoch.loss:.4f}, {shares}, {epoch.seconds:.0f} s {epoch.note}", flush=True)


def trained(options: argparse.Namespace, name: str, **more: Any) -> tuple[ig.Trained, Pair]:
    data, test = mnist(options.train, 5000)
    threat = ig.Linf(options.eps)
    place = None if options.checkpoint is None else options.checkpoint / f"{name}-{options.eps:g}.safetensors"
    cpu = time.process_time()
    chosen = {name: value for name in ("epochs", "lr") if (value := getattr(options, name))}
    method = getattr(ig.defend, name)
    result = method(small_net(options.width), data, threat, test, place, tell, **chosen, **more)
    print(f"{name} {more}: {time.process_time() - cpu:.0f} CPU s in this process, best epoch {result.best}")
    for row in result.table().rows:
        print("  {:32} before {:24} after {}".format(*row))
    if options.save:
        result.save(options.save)
    return result, test


def robust(options: argparse.Namespace) -> None:
    more: dict[str, Any] = {"attack": options.attack, "objective": options.objective, "alpha": options.alpha}
    if options.attack == "pgd":
        more["steps"] = options.steps
    result, (x, y) = trained(options, "adversarial_training", **more)
    x, y = x[: options.attacked], y[: options.attacked]
    threat = ig.Linf(options.eps)
    pgd = ig.attack.auto_pgd(result.model, x, y, threat, steps=40)  # what the best epoch was chosen by
    cpu = time.process_time()
    whole = ig.attack.auto_attack(result.model, x, y, threat)
    for name, found in (("Auto-PGD-40", pgd), ("AutoAttack", whole)):
        print(f"  {name:12} {share(int((~found.success).sum()), len(y))}")
    print(f"  AutoAttack took {time.process_time() - cpu:.0f} CPU s")


def provable(options: argparse.Namespace) -> None:
    more = {"train_eps": options.train_eps} if options.train_eps else {}
    trained(options, options.method, **more)


def cost(options: argparse.Namespace) -> None:
    """The same network, samples, attack and epochs: seconds of CPU of our training beside ART's."""
    data, (x, y) = mnist(options.train, 1000)
    eps, epochs, steps = options.eps, options.epochs or 1, options.steps

    def ours(attack: str) -> tuple[float, nn.Module]:
        cpu = time.process_time()
        found = ig.defend.adversarial_training(
            small_net(options.width), data, ig.Linf(eps), attack=attack, steps=steps, step_size=2.5 * eps / steps,
            epochs=epochs,
        )  # fmt: skip
        return time.process_time() - cpu, found.net

    def alone(attack: str) -> tuple[float, nn.Module]:
        """The loop without measuring its epochs, which ART does not do."""
        threat, model = ig.Linf(eps), ig.wrap(small_net(options.width).eval())
        model.probe(data[0])
        recipe = ig.defend.adversarial_training.raw(
            threat, attack=attack, steps=steps, step_size=2.5 * eps / steps, epochs=epochs
        )
        course = Course(recipe, model, data, threat)
        cpu = time.process_time()
        for _ in range(epochs):
            course.loop.epoch()
        seconds = (time.process_time() - cpu) * len(data[0]) / len(course.rows)  # a tenth is kept back
        return seconds, course.student.whole.net.eval()

    def art(fast: bool) -> tuple[float, nn.Module]:
        from art.attacks.evasion import ProjectedGradientDescent
        from art.defences.trainer import AdversarialTrainer, AdversarialTrainerFBFPyTorch
        from art.estimators.classification import PyTorchClassifier

        net = small_net(options.width)

        class Whole(nn.Module):  # of an nn.Sequential, ART would see a list of every layer's output
            def __init__(self) -> None:
                super().__init__()
                self.net = net

            def forward(self, x: Tensor) -> Tensor:
                return self.net(x)

        classifier = PyTorchClassifier(
            Whole(), nn.CrossEntropyLoss(), (1, 28, 28), 10, torch.optim.Adam(net.parameters(), 1e-3),
            clip_values=(0, 1), device_type="cpu",
        )  # fmt: skip
        samples, labels = data[0].numpy(), F.one_hot(data[1], 10).float().numpy()
        cpu = time.process_time()
        if fast:
            AdversarialTrainerFBFPyTorch(classifier, eps).fit(samples, labels, batch_size=128, nb_epochs=epochs)
        else:
            attack = ProjectedGradientDescent(
                classifier, eps=eps, eps_step=2.5 * eps / steps, max_iter=steps, num_random_init=1, batch_size=128,
                verbose=False,
            )  # fmt: skip
            AdversarialTrainer(classifier, attack, ratio=1.0).fit(samples, labels, batch_size=128, nb_epochs=epochs)
        return time.process_time() - cpu, net.eval()

    runs: dict[str, Any] = {
        "PGD, ours": lambda: ours("pgd"),
        "PGD, loop alone": lambda: alone("pgd"),
        "FGSM-RS, ours": lambda: ours("fgsm_rs"),
        "FGSM-RS, loop alone": lambda: alone("fgsm_rs"),
    }
    if peers("art"):
        runs |= {"PGD, ART": lambda: art(False), "FGSM-RS, ART": lambda: art(True)}
    print(f"{len(data[0])} digits, {epochs} epochs, batch 128, eps {eps:g}, {steps} steps; one thread, CPU seconds")
    for name, run in runs.items():
        seconds, net = run()
        found = ig.attack.pgd(net, x, y, ig.Linf(eps), steps=20)
        clean = int((found.before.argmax(1) == y).sum())
        print(f"{name:20} {seconds:7.1f} s   clean {clean / 10:.1f} %, PGD-20 {100 - 100 * found.success_rate:.1f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("robust", "provable", "cost"))
    parser.add_argument("--method", default="interval_training")
    parser.add_argument("--attack", default="n_fgsm")
    parser.add_argument("--objective", default="worst", choices=("worst", "mix", "sum"))
    parser.add_argument("--alpha", type=float, default=0.5, help="the weight of the clean loss in mix")
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--train-eps", type=float)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--train", type=int, default=60000)
    parser.add_argument("--attacked", type=int, default=1000)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--save", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    {"robust": robust, "provable": provable, "cost": cost}[options.what](options)


if __name__ == "__main__":
    main()
