"""Explanations by masks beside lime, shap, Captum and anchor: time, passes, and the error of what they estimate.

Run ``python benchmarks/masks.py`` with lime 0.2.0.1, shap 0.51.0, captum 0.9.0 and anchor-exp 0.0.2.0. All work in one
process and take turns, under one allocator setting. Peers get the network as their users have it: a module with
normalization inside, run on batches; and the same parts as ours, with the same in their place.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ironglass.core.values import Bounds
from ironglass.explain.anchors import anchors
from ironglass.explain.kernel_shap import kernel_shap
from ironglass.explain.lime import lime
from ironglass.explain.occlusion import occlusion
from ironglass.models.adapter import Adapter, wrap
from ironglass.models.demo import demo_data, demo_model
from ironglass.ops import views
from ironglass.ops.smooth_max import FLAT, REACH, SHARPNESS, SmoothMax
from ironglass.ops.views import Image, Table

PARTS = 49


@dataclass
class Row:
    """One way to do a job, and what was measured of it."""

    name: str
    run: Callable[[], object]
    like: str = ""
    cpu: list[float] = field(default_factory=list)


def turns(title: str, rows: list[Row], repeats: int) -> None:
    """Runs all rows in turn, once to warm up, and prints medians of CPU seconds and the ratio to the row it is like."""
    for turn in range(repeats + 1):
        for row in rows:
            start = time.process_time()
            row.run()
            if turn:
                row.cpu.append(time.process_time() - start)
    medians = {row.name: statistics.median(row.cpu) for row in rows}
    print(f"\n{title}\n{'':44} {'CPU s':>9} {'ratio':>7}")
    for row in rows:
        ratio = f"{medians[row.name] / medians[row.like]:7.2f}" if row.like else ""
        print(f"{row.name:44} {medians[row.name]:9.3f} {ratio}")


class Cheap(nn.Module):
    """A network that costs next to nothing: what is left of the time is what is done around it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 10, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, ::64, ::64].mean((2, 3)) @ self.weight


def lime_of(
    net: nn.Module, picture: Tensor, regions: Tensor, samples: int, batch: int, seed: int = 0, hide: float | None = None
) -> np.ndarray:
    """Returns the weights that the lime package gives the regions ``(parts,)`` for the first class's logit."""
    from lime.lime_image import LimeImageExplainer

    def scores(batch: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return net(torch.from_numpy(batch).permute(0, 3, 1, 2).to(picture.dtype)).double().numpy()

    found = LimeImageExplainer(random_state=seed).explain_instance(
        picture.permute(1, 2, 0).double().numpy(),
        scores,
        labels=(0,),
        hide_color=hide,
        top_labels=None,
        num_features=1000,
        num_samples=samples,
        batch_size=batch,
        segmentation_fn=lambda _: regions.numpy(),
    )
    return np.array([weight for _, weight in sorted(found.local_exp[0])])


def captum_lime(net: nn.Module, x: Tensor, regions: Tensor, samples: int) -> Tensor:
    from captum.attr import Lime

    means = views.cut(x, Bounds(), Image(regions=regions)).removed
    return Lime(net).attribute(
        x, means, 0, feature_mask=regions[None, None], n_samples=samples, perturbations_per_eval=8
    )


def shap_of(values: Callable[[np.ndarray], np.ndarray], players: int, samples: int, seed: int = 0) -> np.ndarray:
    """Returns the values that shap's kernel explainer gives to the players of a game on masks."""
    import shap

    np.random.seed(seed)  # noqa: NPY002 - what the package draws from
    explainer = shap.KernelExplainer(values, np.zeros((1, players)))
    return explainer.shap_values(np.ones((1, players)), nsamples=samples, l1_reg=False, silent=True)[0]


def network(options: argparse.Namespace) -> None:
    from captum.attr import Occlusion

    data, model = demo_data(), demo_model()
    x = data.x[1:2]
    net = model.backend.module(x)
    regions = views.cut(x, Bounds()).labels[0]
    view = Image(regions=regions)
    parts = views.cut(x, Bounds(), view)

    def game(masks: np.ndarray) -> np.ndarray:
        keep = torch.from_numpy(masks > 0.5)
        with torch.no_grad():
            found = [net(parts.masked(some[None], torch.arange(1)))[:, 0] for some in keep.split(8)]
        return torch.cat(found).numpy()

    def captum_occlusion() -> Tensor:
        with torch.no_grad():
            return Occlusion(net).attribute(x, (3, 32, 32), (3, 16, 16), 0.5, 0)

    n, m = options.samples, options.samples // 2
    turns(
        f"EfficientNet-Lite0, one photograph 224 x 224: LIME and Kernel SHAP on {PARTS} superpixels",
        [
            Row(f"LIME, lime, {n} samples", lambda: lime_of(net, x[0], regions, n, 10)),
            Row(f"LIME, Captum, {n} samples", lambda: captum_lime(net, x, regions, n), f"LIME, lime, {n} samples"),
            Row(
                f"LIME, ours, {n} samples", lambda: lime(model, x, 0, view=view, samples=n), f"LIME, lime, {n} samples"
            ),
            Row(f"Kernel SHAP, shap, {m} samples", lambda: shap_of(game, PARTS, m)),
            Row(
                f"Kernel SHAP, ours, {m} samples",
                lambda: kernel_shap(model, x, 0, view=view, samples=m),
                f"Kernel SHAP, shap, {m} samples",
            ),
            Row("occlusion 32/16, Captum, one at a time", captum_occlusion),
            Row(
                "occlusion 32/16, ours",
                lambda: occlusion(model, x, 0, windows=13, size=32),
                "occlusion 32/16, Captum, one at a time",
            ),
        ],
        options.repeats,
    )
    cheap = Cheap().eval()
    quick = wrap(cheap)
    turns(
        f"What is done around the network: LIME with {n} samples of 224 x 224, on a network that costs nothing",
        [
            Row("lime", lambda: lime_of(cheap, x[0], regions, n, 10)),
            Row("Captum", lambda: captum_lime(cheap, x, regions, n), "lime"),
            Row("ours", lambda: lime(quick, x, 0, view=view, samples=n), "lime"),
        ],
        options.repeats,
    )


class Bent(nn.Module):
    """Scores of 7 x 7 pixels, a pixel a part: effects of one part, of pairs, and a bend."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = nn.Parameter(torch.randn(PARTS, 24, generator=generator, dtype=torch.float64) / 3)
        self.second = nn.Parameter(torch.randn(24, 2, generator=generator, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return (x.mean(1).flatten(1) @ self.first).tanh() @ self.second


def accuracy(options: argparse.Namespace) -> None:
    """Errors against the answer of very many samples, over networks and seeds."""
    regions, x = torch.arange(PARTS).reshape(7, 7), torch.ones(1, 3, 7, 7, dtype=torch.float64)
    fixed = {"view": Image(regions=regions), "baseline": "black"}
    errors: dict[str, list[float]] = {}

    def note(name: str, found: np.ndarray, truth: np.ndarray) -> None:
        errors.setdefault(name, []).append(float(np.linalg.norm(found - truth) / np.linalg.norm(truth)))

    def game_of(net: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
        def game(masks: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return net(torch.from_numpy(masks).reshape(-1, 1, 7, 7).expand(-1, 3, -1, -1))[:, 0].numpy()

        return game

    for seed in range(options.seeds):
        net = Bent(seed).eval()
        truth = lime(net, x, 0, samples=1 << 16, seed=999, **fixed).values.flatten().numpy()
        for count in (128, 256, 320, 1000):
            note(f"LIME, lime, {count}", lime_of(net, x[0], regions, count, 512, seed, 0), truth)
            note(
                f"LIME, ours, {count}",
                lime(net, x, 0, samples=count, seed=seed, **fixed).values.flatten().numpy(),
                truth,
            )
        truth = kernel_shap(net, x, 0, samples=1 << 16, seed=999, **fixed).values.flatten().numpy()
        for count in (256, 500, 1000):
            ours = kernel_shap(net, x, 0, samples=count, seed=seed, **fixed).values.flatten().numpy()
            note(f"Kernel SHAP, shap, {count}", shap_of(game_of(net), PARTS, count, seed), truth)
            note(f"Kernel SHAP, ours, {count}", ours, truth)
    print(f"\nErrors on {options.seeds} networks of {PARTS} parts, relative to the answer of {1 << 16} samples")
    for name, found in sorted(errors.items()):
        print(f"{name:44} {np.sqrt(np.mean(np.square(found))):9.3f}")


def forest(rows: int) -> tuple[Adapter, Tensor, Tensor]:
    """Returns a random forest on the Adult table, 2,000 rows it was trained on, and some it was not."""
    from sklearn.ensemble import RandomForestClassifier

    folder = Path(os.environ.get("IRONGLASS_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    with gzip.open(folder / "adult.csv.gz", "rt") as file:
        table = list(csv.DictReader(file))
    names = [name for name in table[0] if name not in ("income", "split")]
    columns = []
    for name in names:
        cells = [row[name] for row in table]
        numbers = all(cell.lstrip("-").isdigit() for cell in cells)
        columns.append(np.array(cells, float) if numbers else np.unique(cells, return_inverse=True)[1])
    x = np.stack(columns, 1).astype(float)
    y = np.array([row["income"].strip().startswith(">") for row in table]).astype(int)
    known = np.array([row["split"] == "train" for row in table])
    trees = RandomForestClassifier(100, min_samples_leaf=5, random_state=0).fit(x[known], y[known])

    def labels(batch: np.ndarray) -> np.ndarray:
        return trees.predict(batch)

    model = wrap(labels, bounds=(x.min(), x.max()), classes=2, arrays="numpy")
    return model, torch.from_numpy(x[known][:2000]), torch.from_numpy(x[~known][:rows])


def rules(options: argparse.Namespace) -> None:
    """Anchors on the Adult table and a random forest: draws, precision and coverage of a rule."""
    from anchor.anchor_base import AnchorBaseBeam

    model, background, x = forest(options.rows)
    view = Table(background, bins=4)
    parts, label = views.cut(x, model.bounds, view), model.labels(x)
    print(f"\nAnchors, {len(x)} rows of Adult, a forest of 100 trees; precision 0.95, delta 0.1, tolerance 0.05")
    head = ("", "draws a row", "precision", "coverage", "length", "CPU s a row")
    print("{:32} {:>12} {:>10} {:>9} {:>7} {:>12}".format(*head))

    def line(name: str, drawn: float, facts: list[tuple[float, ...]], seconds: float) -> None:
        precision, coverage, length = np.mean(facts, 0)
        print(f"{name:32} {drawn:12.0f} {precision:10.3f} {coverage:9.3f} {length:7.2f} {seconds / len(x):12.2f}")

    for beam in (1, 4):
        start = time.process_time()
        found = anchors(model, x, label, view=view, beam=beam)
        columns = (found.extras["precision"], found.extras["coverage"], found.values.sum(1))
        facts = list(zip(*(column.tolist() for column in columns), strict=True))
        line(f"ours, beam {beam}", found.cost.forward / len(x), facts, time.process_time() - start)

    def theirs(beam: int) -> tuple[int, list[tuple[float, ...]]]:
        random, facts, drawn = np.random.default_rng(0), [], 0

        def sample(
            present: list[int], count: int, compute_labels: bool = True
        ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            nonlocal drawn
            keep = torch.zeros(1, count, x.shape[1], dtype=torch.bool)
            keep[..., present] = True
            row = torch.tensor([len(facts)])
            raw = parts.masked(keep, row, torch.from_numpy(random.integers(0, 1 << 30, size=(1, count))))
            held = np.zeros(count)
            if compute_labels:
                drawn += count
                held = (model.labels(raw) == label[row]).numpy().astype(float)
            return raw.numpy(), parts.alike(len(facts), raw).numpy().astype(int), held

        for _ in range(len(x)):
            rule = AnchorBaseBeam.anchor_beam(
                sample, delta=0.1, epsilon=0.15, batch_size=100, desired_confidence=0.95, beam_size=beam
            )
            long = len(rule["feature"])
            facts.append((rule["precision"][-1], rule["coverage"][-1], long) if long else (rule["all_precision"], 1, 0))
        return drawn, facts

    for beam in (1, 4):
        start = time.process_time()
        drawn, facts = theirs(beam)
        line(f"anchor, beam {beam}", drawn / len(x), facts, time.process_time() - start)
    print("anchor takes beam_size=4 and leaves it at 1: its row of beam 1 is what a call of it costs")


def renderer(options: argparse.Namespace) -> None:
    """The smooth masks of extremal perturbations, and one that keeps every knot's share of the picture."""
    ours = SmoothMax(224, 224, 7)
    grid = torch.rand(4, *ours.grid, generator=torch.Generator().manual_seed(0))
    slope = torch.randn(4, 224, 224, generator=torch.Generator().manual_seed(1))
    margin, place = round(REACH), torch.arange(224) + 0.5

    def plain() -> Tensor:
        leaf = grid.clone().requires_grad_()
        padded = torch.nn.functional.pad(leaf, (margin,) * 4)
        shares = []
        for down in range(2 * margin + 1):
            for across in range(2 * margin + 1):
                near = padded[:, down : down + 32, across : across + 32]
                large = near.repeat_interleave(7, 1).repeat_interleave(7, 2)
                knots = [((torch.arange(224) // 7 + at - margin) + 0.5) * 7 for at in (down, across)]
                far = torch.hypot((place - knots[0])[:, None], place - knots[1]) / 7
                fall = ((far - FLAT) / (REACH - FLAT)).clamp(0, 1)
                shares.append(large * (fall * (torch.pi / 2)).cos().square())
        stacked = torch.stack(shares, 1)
        mask = ((stacked * SHARPNESS).softmax(1) * stacked).sum(1)
        return torch.autograd.grad((mask * slope).sum(), leaf)[0]

    turns(
        "Smooth masks of 4 areas, 224 x 224, and their gradient",
        [
            Row("every knot's share kept", plain),
            Row("ours", lambda: ours.pull(grid, ours.draw(grid), slope), "every knot's share kept"),
        ],
        options.repeats,
    )


def main() -> None:
    parts = {"network": network, "accuracy": accuracy, "rules": rules, "renderer": renderer}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--samples", type=int, default=1000, help="of LIME; Kernel SHAP takes half as many")
    parser.add_argument("--seeds", type=int, default=20, help="networks that errors are measured on")
    parser.add_argument("--rows", type=int, default=20, help="of the Adult table")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=sorted(parts), default=list(parts))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {options.threads} thread(s)")
    for name in options.only:
        parts[name](options)


if __name__ == "__main__":
    main()
