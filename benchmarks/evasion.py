"""White-box attacks beside foolbox, torchattacks, ART, CleverHans, adversarial-library and AutoAttack, in one process.

    python benchmarks/evasion.py [--models ABR] [--jobs pgd40,deepfool] [--rounds 3]

One thread, CPU seconds, medians. Success and norms are judged here, on the images that come back: within [0, 1] and
the ball, and fooling the network as the user gave it. Passes are counted inside the network for peers, by our ledger
for ours (a test proves the ledger against an independent counter). Peers are used where they are installed; the
allocator setting that Ironglass makes is in force for all. CleverHans needs tensorflow for nothing used here.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import ironglass as ig
from ironglass.core.values import Norm, Threat
from ironglass.models import allocator
from ironglass.ops import lp
from subjects import Counted, Subject, peers, subjects

INF = float("inf")
Run = Callable[[nn.Module, Tensor, Tensor, float], Tensor]


class Job(NamedTuple):
    """One comparison: our call, the peers' calls, the norm that is compared, and whether the radius is fixed."""

    norm: Norm
    fixed: bool
    ours: dict[str, tuple[str, dict[str, Any]]]
    theirs: dict[str, Run]
    images: int = 1000


def jobs(found: dict[str, Any]) -> dict[str, Job]:
    fb, ta, art, ch, al, aa = (
        found.get(name) for name in ("foolbox", "torchattacks", "art", "cleverhans", "adv_lib", "autoattack")
    )

    def foolbox(make: Callable[[], Any], fixed: bool = False) -> Run:
        def run(net: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
            done = make()(fb.PyTorchModel(net, bounds=(0, 1)), x, y, epsilons=eps if fixed else None)
            return done[1]

        return run

    def torchattacks(make: Callable[[nn.Module, float], Any]) -> Run:
        return lambda net, x, y, eps: make(net, eps)(x, y)

    def artful(make: Callable[[Any, float], Any], targets: bool = False) -> Run:
        def run(net: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
            from art.estimators.classification import PyTorchClassifier

            wrapped = PyTorchClassifier(
                net, torch.nn.CrossEntropyLoss(), tuple(x.shape[1:]), 10, clip_values=(0, 1), device_type="cpu"
            )
            return torch.tensor(make(wrapped, eps).generate(x.numpy(), None if targets else y.numpy()))

        return run

    def part(name: str) -> Any:
        import importlib

        return importlib.import_module(f"art.attacks.evasion.{name}")

    def hans(name: str, **options: Any) -> Run:
        import importlib

        attack = getattr(importlib.import_module(f"cleverhans.torch.attacks.{name}"), name)
        return lambda net, x, y, eps: attack(net, x, **{k: eps if v is INF else v for k, v in options.items()}, y=y)

    def only(have: Any, runs: dict[str, Callable[[], Run]]) -> dict[str, Run]:
        return {name: run() for name, run in runs.items()} if have else {}

    return {
        "fgsm": Job("linf", True, {"": ("fgsm", {})},
            only(fb, {"foolbox": lambda: foolbox(fb.attacks.LinfFastGradientAttack, True)})
            | only(ta, {"torchattacks": lambda: torchattacks(lambda net, eps: ta.FGSM(net, eps=eps))})
            | only(ch, {"cleverhans": lambda: hans(
                "fast_gradient_method", eps=INF, norm=float("inf"), clip_min=0, clip_max=1)})),
        "pgd40": Job("linf", True, {"": ("pgd", {"steps": 40})},
            only(fb, {"foolbox": lambda: foolbox(lambda: fb.attacks.LinfPGD(steps=40, rel_stepsize=2.5 / 40), True)})
            | only(ta, {"torchattacks": lambda: torchattacks(
                lambda net, eps: ta.PGD(net, eps=eps, alpha=2.5 * eps / 40, steps=40))})
            | only(art, {"art": lambda: artful(lambda net, eps: part(
                "projected_gradient_descent.projected_gradient_descent").ProjectedGradientDescent(
                    net, eps=eps, eps_step=2.5 * eps / 40, max_iter=40, num_random_init=1, batch_size=100,
                    verbose=False))})
            | only(al, {"adv-lib": lambda: lambda net, x, y, eps: al.attacks.pgd_linf(
                net, x, y, ε=eps, steps=40, relative_step_size=2.5 / 40)})),
        "apgd_ce100": Job("linf", True, {"": ("auto_pgd", {"steps": 100})},
            only(ta, {"torchattacks": lambda: torchattacks(
                lambda net, eps: ta.APGD(net, norm="Linf", eps=eps, steps=100, loss="ce"))})
            | only(al, {"adv-lib": lambda: lambda net, x, y, eps: al.attacks.apgd(
                net, x, y, eps=eps, norm=float("inf"), n_iter=100, loss_function="ce")})
            | only(aa, {"autoattack": lambda: _autoattack(aa, ["apgd-ce"])})),
        "apgd_l1": Job("l1", True, {"": ("auto_pgd", {"steps": 100})},
            only(aa, {"autoattack": lambda: _autoattack(aa, ["apgd-ce"], "L1")})),
        "deepfool": Job("l2", False, {"": ("deepfool", {})},
            only(fb, {"foolbox": lambda: foolbox(fb.attacks.L2DeepFoolAttack)})
            | only(ta, {"torchattacks": lambda: torchattacks(lambda net, eps: ta.DeepFool(net, steps=50))})
            | only(art, {"art": lambda: artful(
                lambda net, eps: part("deepfool").DeepFool(net, batch_size=100, verbose=False))})
            | only(al, {"adv-lib": lambda: lambda net, x, y, eps: al.attacks.df(net, x, y)})),
        "cw": Job("l2", False, {"": ("carlini_wagner", {})},
            only(fb, {"foolbox": lambda: foolbox(lambda: fb.attacks.L2CarliniWagnerAttack(
                binary_search_steps=5, steps=100, stepsize=0.1, initial_const=1))})
            | only(ta, {"torchattacks": lambda: torchattacks(lambda net, eps: ta.CW(net, c=1, steps=500, lr=0.1))})
            | only(ch, {"cleverhans": lambda: hans("carlini_wagner_l2", n_classes=10, lr=0.1, binary_search_steps=5,
                max_iterations=100, initial_const=1)})
            | only(al, {"adv-lib": lambda: lambda net, x, y, eps: al.attacks.carlini_wagner_l2(
                net, x, y, learning_rate=0.1, initial_const=1.0, binary_search_steps=5, max_iterations=100)})),
        "minimum_l2": Job("l2", False, {"ddn": ("ddn", {}), "fmn": ("fmn", {}), "fab": ("fab", {})},
            only(al, {"adv-lib ddn": lambda: lambda net, x, y, eps: al.attacks.ddn(net, x, y, steps=100, levels=None),
                "adv-lib alma": lambda: lambda net, x, y, eps: al.attacks.alma(net, x, y, num_steps=100, distance="l2"),
                "adv-lib fmn": lambda: lambda net, x, y, eps: al.attacks.fmn(
                    net, x, y, norm=2, steps=100, α_init=0.1)})
            | only(fb, {"foolbox ddn": lambda: foolbox(lambda: fb.attacks.DDNAttack(steps=100)),
                "foolbox fmn": lambda: foolbox(lambda: fb.attacks.L2FMNAttack(steps=100))})),
        "minimum_linf": Job("linf", False, {"fmn": ("fmn", {}), "deepfool": ("deepfool", {}), "fab": ("fab", {})},
            only(al, {"adv-lib fmn": lambda: lambda net, x, y, eps: al.attacks.fmn(
                    net, x, y, norm=float("inf"), steps=100),
                "adv-lib fab": lambda: lambda net, x, y, eps: al.attacks.fab(
                    net, x, y, norm=float("inf"), n_iter=100)})
            | only(fb, {"foolbox fmn": lambda: foolbox(lambda: fb.attacks.LInfFMNAttack(steps=100))})),
        "minimum_l1": Job("l1", False, {"ead": ("elastic_net", {}), "fmn": ("fmn", {}), "fab": ("fab", {})},
            only(fb, {"foolbox ead": lambda: foolbox(lambda: fb.attacks.EADAttack(binary_search_steps=5, steps=100)),
                "foolbox fmn": lambda: foolbox(lambda: fb.attacks.L1FMNAttack(steps=100))})
            | only(ta, {"torchattacks ead": lambda: torchattacks(
                lambda net, eps: ta.EADL1(net, max_iterations=100, binary_search_steps=5))})
            | only(al, {"adv-lib fmn": lambda: lambda net, x, y, eps: al.attacks.fmn(net, x, y, norm=1, steps=100)})),
        "square1000": Job("linf", True, {"": ("square", {"max_queries": 1000})},
            only(ta, {"torchattacks": lambda: torchattacks(
                lambda net, eps: ta.Square(net, norm="Linf", eps=eps, n_queries=1000, seed=0))})),
        "jsma": Job("l0", False, {"": ("jsma", {})},
            only(ta, {"torchattacks": lambda: torchattacks(lambda net, eps: ta.JSMA(net, theta=1.0, gamma=0.145))})
            | only(art, {"art": lambda: artful(
                lambda net, eps: part("saliency_map").SaliencyMapMethod(
                    net, theta=1.0, gamma=0.145, batch_size=20, verbose=False), targets=True)}), 20),
    }  # fmt: skip


def _autoattack(module: Any, parts: list[str], norm: str = "Linf") -> Run:
    def run(net: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        attack = module.AutoAttack(
            net, norm=norm, eps=eps, version="custom", attacks_to_run=parts, device="cpu", verbose=False
        )
        attack.apgd.n_restarts = 1
        return attack.run_standard_evaluation(x, y, bs=len(x))

    return run


def radius(subject: Subject, norm: Norm) -> float:
    size = subject.x[0].numel()
    return {"linf": subject.eps, "l2": subject.eps * size**0.5 / 2, "l1": subject.eps * size / 10, "l0": 10.0}[norm]


def judged(subject: Subject, bad: Tensor, norm: Norm, eps: float) -> tuple[float, float]:
    """Success, and the median norm over the successes; values outside the box or the ball count as failures."""
    x = subject.x[: len(bad)]
    distance = lp.norm((bad - x).double(), norm)
    inside = (bad >= 0).flatten(1).all(1) & (bad <= 1).flatten(1).all(1) & (distance <= eps * (1 + 1e-5))
    with torch.no_grad():
        won = (subject.net(bad).argmax(1) != subject.y[: len(bad)]) & inside
    return float(won.double().mean()), float(distance[won].median()) if bool(won.any()) else float("nan")


def compare(name: str, job: Job, subject: Subject, rounds: int) -> None:
    x, y = subject.x[: job.images], subject.y[: job.images]
    eps = radius(subject, job.norm) if job.fixed else INF
    model = ig.wrap(subject.net)
    model.probe(x)
    counted = Counted(subject.net).eval()
    runs: dict[str, Callable[[], Any]] = {}
    for label, (method, options) in job.ours.items():
        attack = getattr(ig.attack, method)
        runs[f"ironglass {label}".strip()] = lambda attack=attack, options=options: attack(
            model, x, y, Threat(job.norm, eps), **options
        )
    for label, run in job.theirs.items():
        runs[label] = lambda run=run: run(counted, x, y, eps)
    times: dict[str, list[float]] = {}
    lines: dict[str, str] = {}
    for turn in range(rounds):
        for label, call in list(runs.items()):
            if turn and statistics.median(times[label]) > 20:
                continue  # one run of the slow ones is enough
            counted.forwards = counted.backwards = 0
            torch.manual_seed(0)
            start = time.process_time()
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    found = call()
            except Exception as error:
                print(f"| {name} | {subject.letter} | {label} | {type(error).__name__}: {str(error)[:60]} | | | | |")
                del runs[label]
                continue
            times.setdefault(label, []).append(time.process_time() - start)
            mine = isinstance(found, ig.AttackResult)
            won, norm = judged(subject, found.adversarial if mine else found.detach().float(), job.norm, eps)
            counts = (found.cost.forward, found.cost.backward) if mine else (counted.forwards, counted.backwards)
            lines[label] = f"{won:.2f} | {norm:.4g} | {counts[0] / len(x):.1f} | {counts[1] / len(x):.1f}"
    for label, line in lines.items():
        print(f"| {name} | {subject.letter} | {label} | {line} | {statistics.median(times[label]):.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="ABR")
    parser.add_argument("--jobs", default="")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    allocator.keep_memory()
    found = peers(
        "foolbox", "torchattacks", "art.attacks.evasion", "cleverhans.torch.attacks", "adv_lib.attacks", "autoattack"
    )
    import importlib

    found = {name: importlib.import_module(name) if name in ("art", "cleverhans", "adv_lib") else module
             for name, module in found.items()}  # fmt: skip
    versions = ", ".join(
        f"{name} {getattr(module, '__version__', 'from its repository')}" for name, module in found.items()
    )
    print(
        f"ironglass {ig.__version__}, torch {torch.__version__}, {versions or 'no peers'}; 1 thread, CPU s, medians\n"
    )
    head = "| job | model | library | success | median norm | forward / image | backward / image | CPU s |"
    print(head + "\n|---|---|---|---|---|---|---|---|", flush=True)
    wanted = given.jobs.split(",") if given.jobs else None
    for subject in subjects(given.models):
        for name, job in jobs(found).items():
            if wanted is None or name in wanted:
                compare(name, job, subject, given.rounds)


if __name__ == "__main__":
    main()
