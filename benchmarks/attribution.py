"""Explanations beside Captum's, zennit's, pytorch-grad-cam's, lime's, shap's, anchor's, alibi's and Quantus's.

Run ``python benchmarks/attribution.py`` with the peers that are to be compared; what is missing is named and left out.
Peer and ours take turns in one process, on one thread and under one allocator setting, on EfficientNet-Lite0 and
photographs where no other model is named. Peers get the network as their users have it: a module with normalization
inside. Jobs of the mask family are in ``masks.py``.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ironglass as ig
import masks
from ironglass.core.values import Bounds
from ironglass.models.demo import demo_data, demo_model
from ironglass.ops.baselines import incompleteness
from ironglass.ops.rules import Relevance, composite
from rows import Row, show
from subjects import DATA, model_a, peers


def difference(one: Any, other: Any) -> str:
    """Returns how far two maps are apart, as a share of the greatest value."""
    one, other = (torch.as_tensor(each) for each in (one, other))
    return f"differ by {float((one - other).abs().max() / one.abs().max()):.0e}"


def gradients(options: argparse.Namespace) -> Iterator[Row]:
    captum = peers("captum.attr").get("captum")
    if captum is None:
        return
    model, x = demo_model(), demo_data().x[: options.photos]
    net, target = model.backend.module(x), model.labels(x)
    start, end = (model.scores(each).gather(1, target[:, None])[:, 0] for each in (torch.zeros_like(x), x))

    def missed(values: Tensor) -> str:
        return f"{float(incompleteness(values.flatten(1).sum(1), start, end).max()):.1%}"

    def captum_ig(steps: int) -> Tensor:
        found = captum.IntegratedGradients(net)
        return found.attribute(x, torch.zeros_like(x), target, n_steps=steps, internal_batch_size=32).detach()

    def both(theirs: Tensor, ours: Tensor) -> str:
        return f"miss at most {missed(theirs)} / {missed(ours)}"

    def plain(theirs: Tensor, ours: Tensor) -> str:
        gradient = ig.explain.saliency(model, x, target, absolute=False).values
        ours_too, theirs_too = (difference(gradient, each).removeprefix("differ by ") for each in (ours, theirs))
        return f"from the plain gradient theirs differs by {theirs_too}, ours by {ours_too}"

    yield Row(
        "saliency", "Captum", lambda: captum.Saliency(net).attribute(x.clone().requires_grad_(), target),
        lambda: ig.explain.saliency(model, x, target).values, 1.0, difference,
        "each is one forward and one backward pass",
    )  # fmt: skip
    yield Row(
        "guided backpropagation", "Captum", lambda: captum.GuidedBackprop(_modules(net)).attribute(
            x.clone().requires_grad_(), target
        ).detach(),
        lambda: ig.explain.guided_backprop(model, x, target).values, 1.0, plain,
        "Captum hooks modules of the class ReLU alone, and gives the plain gradient of a network of ReLU6",
    )  # fmt: skip
    yield Row(
        "integrated gradients, 50 steps", "Captum", lambda: captum_ig(50),
        lambda: ig.explain.integrated_gradients(model, x, target, steps=50).values, 1.0, both,
        "each is 50 forward and backward passes",
    )  # fmt: skip
    yield Row(
        "integrated gradients, to 1 %", "Captum, 128 steps", lambda: captum_ig(128),
        lambda: ig.explain.integrated_gradients(model, x, target, tol=0.01).values, 1.0, both,
    )  # fmt: skip


def _modules(net: nn.Module) -> nn.Module:
    """Returns a network for Captum, which wants rectifiers that are modules of their own and not in place."""
    for module in net.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    return net


def _shimmed() -> None:
    """Makes torchvision's package from the registry importable without its compiled operators."""
    sys.path.insert(0, str(DATA / "loaders"))
    importlib.import_module("torchvision_cpu_shim")


def activations(options: argparse.Namespace) -> Iterator[Row]:
    with suppress(ImportError):
        _shimmed()
    found = peers("captum.attr", "pytorch_grad_cam")
    model, x = demo_model(), demo_data().x[: options.photos]
    net, target = model.backend.module(x), model.labels(x)
    layer = net.net.head

    def forward(some: Tensor = x) -> Tensor:
        with torch.no_grad():
            return net(some)

    def ours(some: Tensor = x) -> Tensor:
        return ig.explain.grad_cam(model, some, target.repeat(len(some) // len(x))).values

    many = x.repeat(-(-16 // len(x)), 1, 1, 1)
    yield Row(
        "Grad-CAM, layer found, one batch", "a plain forward pass", forward, ours, 1.05,
    )  # fmt: skip
    yield Row(
        "Grad-CAM, layer found, one batch", "scores of our fast copy", lambda: model.backend.scores(x), ours, 1.05,
        why="a call looks whether the network has changed: what that costs does not grow with the batch",
    )  # fmt: skip
    yield Row(
        f"Grad-CAM, layer found, {len(many)} photographs", "a plain forward pass", lambda: forward(many),
        lambda: ours(many), 1.05,
    )  # fmt: skip
    if captum := found.get("captum"):

        def theirs() -> Tensor:
            coarse = captum.LayerGradCam(net, layer).attribute(x, target, relu_attributions=True)
            return F.interpolate(coarse, x.shape[2:], mode="bilinear")[:, 0].detach()

        yield Row("Grad-CAM", "Captum, layer given", theirs, ours, 1.0, difference)
    if package := found.get("pytorch_grad_cam"):
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        loose = model.backend.module(x).requires_grad_(True)  # which the package takes gradients to
        cam, targets = package.GradCAM(loose, [loose.net.head]), [ClassifierOutputTarget(int(at)) for at in target]

        def scaled(theirs: np.ndarray, ours: Tensor) -> str:
            top = ours.flatten(1).amax(1)[:, None, None]
            return difference(torch.as_tensor(theirs), ours / top) + " (theirs scaled to 1)"

        yield Row("Grad-CAM", "pytorch-grad-cam, layer given", lambda: cam(x, targets), ours, 1.0, scaled)


def relevance(options: argparse.Namespace) -> Iterator[Row]:
    try:
        _shimmed()
        from torchvision import models
    except ImportError as error:
        print(f"relevance is left out: {error}", file=sys.stderr)
        return
    found = peers("zennit")
    x = demo_data().x[: options.photos]
    for name in ("vgg16", "resnet50"):
        torch.manual_seed(0)
        net = getattr(models, name)(weights=None).eval().requires_grad_(False)
        yield from _propagated(name, net, x, found, models)
    model = demo_model()
    net, target = model.backend.module(x), model.labels(x)
    for name in COMPOSITES:
        yield Row(
            f"LRP, {name}, EfficientNet-Lite0", "an input gradient", lambda: pulled(net, x),
            lambda name=name: pulled(net, x, composite(name)), 2.0,
            why="its layers are cheap beside the arithmetic on their values, and few of them behind a ReLU",
        )  # fmt: skip
        yield Row(
            f"LRP, {name}, EfficientNet-Lite0, as it is called", "an input gradient", lambda: pulled(net, x),
            lambda name=name: ig.explain.lrp(model, x, target, composite=name).values, 2.0,
            why=LIMIT.get(name, ""),
        )  # fmt: skip


COMPOSITES = ("epsilon", "epsilon_plus_flat", "epsilon_gamma_box", "epsilon_alpha2_beta1_flat")
LIMIT = {"epsilon_alpha2_beta1_flat": "four convolutions for a gradient's two, and five in depthwise layers"}


def pulled(net: nn.Module, x: Tensor, rules: Any = None) -> Tensor:
    """Returns the gradient of the greatest logit, or by rules its relevance."""
    leaf = x.clone().requires_grad_()
    scores = net(leaf) if rules is None else Relevance(rules, Bounds())(net, leaf)
    return torch.autograd.grad(scores.amax(1).sum(), leaf)[0]


def _propagated(name: str, net: nn.Module, x: Tensor, found: dict[str, Any], models: Any) -> Iterator[Row]:
    for rules in COMPOSITES:
        yield Row(
            f"LRP, {rules}, {name}", "an input gradient", lambda: pulled(net, x),
            lambda rules=rules: pulled(net, x, composite(rules)), 2.0, why=LIMIT.get(rules, ""),
        )  # fmt: skip
    if "zennit" not in found:
        return
    from zennit import composites
    from zennit.torchvision import ResNetCanonizer, VGGCanonizer

    canonizers = [VGGCanonizer() if name.startswith("vgg") else ResNetCanonizer()]
    small = F.interpolate(x[:1], size=64)

    def boxed(x: Tensor) -> Any:
        return composites.EpsilonGammaBox(
            torch.zeros_like(x), torch.ones_like(x), stabilizer=1e-12, canonizers=canonizers
        )

    for rules, theirs in (
        ("epsilon_gamma_box", boxed),
        ("epsilon_plus_flat", lambda x: composites.EpsilonPlusFlat(stabilizer=1e-12, canonizers=canonizers)),
        (
            "epsilon_alpha2_beta1_flat",
            lambda x: composites.EpsilonAlpha2Beta1Flat(stabilizer=1e-12, canonizers=canonizers),
        ),
    ):

        def zennit_of(net: nn.Module, x: Tensor, make: Callable[[Tensor], Any] = theirs) -> Tensor:
            leaf = x.clone().requires_grad_()
            with make(x).context(net) as changed:  # which takes the relevance of an output for 1, not for the logit
                best = changed(leaf).amax(1)
                return torch.autograd.grad((best * best.detach()).sum(), leaf)[0]

        def agree(_: Tensor, __: Tensor, make: Any = zennit_of, rules: str = rules) -> str:
            # zennit merges batch norms and leaves them their eps, which moves its outputs by 1e-4: here it is next to 0
            twin = copy.deepcopy(net)
            for module in twin.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eps = 1e-12
            said = []
            for dtype in (torch.float32, torch.float64):
                twin, some = twin.to(dtype), small.to(dtype)
                said.append(difference(make(twin, some), pulled(twin, some, composite(rules))))
            return f"{said[0]} in float32, {said[1].removeprefix('differ by ')} in float64"

        yield Row(
            f"LRP, {rules}, {name}", "zennit", lambda make=zennit_of: make(net, x),
            lambda rules=rules: pulled(net, x, composite(rules)), 0.7, agree,
        )  # fmt: skip


def tests(options: argparse.Namespace) -> Iterator[Row]:
    with suppress(ImportError):
        _shimmed()
    quantus = peers("quantus").get("quantus")
    if quantus is None:
        return
    subject = model_a()
    net, x, y = subject.net, subject.x[:8], subject.y[:8]
    model = ig.wrap(net)
    explained = ig.explain.saliency(model, x, y)

    def theirs() -> list[float]:
        def again(model: nn.Module, inputs: np.ndarray, targets: np.ndarray, **_: object) -> np.ndarray:
            leaf = torch.as_tensor(inputs).requires_grad_()
            scores = model(leaf).gather(1, torch.as_tensor(targets)[:, None])
            return torch.autograd.grad(scores.sum(), leaf)[0].abs().numpy()

        metric = quantus.MPRT(
            similarity_func=quantus.similarity_func.correlation_spearman, layer_order="top_down", seed=0,
            disable_warnings=True, display_progressbar=False, skip_layers=True,
        )  # fmt: skip
        return metric(model=net, x_batch=x.numpy(), y_batch=y.numpy(), explain_func=again, device="cpu")

    def ours() -> Any:
        return ig.metric.parameter_randomization(model, explained, steps=3, redraws=1)

    def said(theirs: Any, ours: Any) -> str:
        last = np.mean([row[-1] for row in theirs.values()]) if isinstance(theirs, dict) else np.nan
        return f"similarity at the end {last:.2f} / {float(ours.values[:, -1].mean()):.2f}"

    yield Row(
        "parameter randomization, 3 stages, model A", "Quantus MPRT", theirs, ours, 1.0, said,
        "each draw is also explained by the plain gradient, which says how alike two maps are by chance",
    )  # fmt: skip


def main() -> None:
    jobs: dict[str, Callable[[argparse.Namespace], Iterator[Row]]] = {
        "gradients": gradients, "activations": activations, "relevance": relevance, "masks": masks.network,
        "around": masks.around, "accuracy": masks.accuracy, "tables": masks.tables, "renderer": masks.renderer,
        "tests": tests,
    }  # fmt: skip
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=2)
    parser.add_argument("--samples", type=int, default=1000, help="of LIME; Kernel SHAP takes half as many")
    parser.add_argument("--seeds", type=int, default=20, help="networks that errors are measured on")
    parser.add_argument("--rows", type=int, default=20, help="of the Adult table")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--only", nargs="*", choices=sorted(jobs), default=list(jobs))
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(f"torch {torch.__version__}, Python {platform.python_version()}, 1 thread, {Path(__file__).name}\n")
    start = time.process_time()
    show((row for name in options.only for row in jobs[name](options)), options.repeats, not options.no_memory)
    print(f"\n{time.process_time() - start:.0f} CPU s in all")


if __name__ == "__main__":
    main()
