"""Explanations by masks beside lime, shap, Captum, anchor and alibi: rows of the table of ``attribution.py``.

Peers get the network as their users have it, a module with normalization inside, and the same parts as ours, with the
same in their place.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ironglass.core.results import Attribution
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
from rows import Row
from subjects import DATA, peers

PARTS = 49


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

    known = inspect.signature(LimeImageExplainer.explain_instance).parameters
    quiet = {"progress_bar": False} if "progress_bar" in known else {}

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
        **quiet,
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


def network(options: argparse.Namespace) -> Iterator[Row]:
    found = peers("lime", "shap", "captum.attr")
    x, model = demo_data().x[1:2], demo_model()
    net = model.backend.module(x)
    regions = views.cut(x, Bounds()).labels[0]
    view, n, m = Image(regions=regions), options.samples, options.samples // 2
    parts = views.cut(x, Bounds(), view)

    def game(masks: np.ndarray) -> np.ndarray:
        keep = torch.from_numpy(masks > 0.5)
        with torch.no_grad():
            scores = [net(parts.masked(some[None], torch.arange(1)))[:, 0] for some in keep.split(8)]
        return torch.cat(scores).numpy()

    def captum_occlusion() -> Tensor:
        with torch.no_grad():
            return found["captum"].Occlusion(net).attribute(x, (3, 32, 32), (3, 16, 16), 0.5, 0)[:, 0]

    def ours_lime() -> np.ndarray:
        return by_part(lime(model, x, 0, view=view, samples=n))

    if "lime" in found:
        yield Row(f"LIME, {n} samples", "lime", lambda: lime_of(net, x[0], regions, n, 10), ours_lime, 0.6, ranks)
    if "captum" in found:
        theirs: Callable[[], Any] = lambda: captum_lime(net, x, regions, n)  # noqa: E731
        yield Row(f"LIME, {n} samples", "Captum", theirs, ours_lime, 0.6)
        yield Row(
            "occlusion, 32 pixels every 16", "Captum, one at a time", captum_occlusion,
            lambda: occlusion(model, x, 0, windows=13, size=32).values, 0.6, ranks,
        )  # fmt: skip
    if "shap" in found:
        yield Row(
            f"Kernel SHAP, {m} samples", "shap", lambda: shap_of(game, PARTS, m),
            lambda: by_part(kernel_shap(model, x, 0, view=view, samples=m), size=True), 0.6, ranks,
        )  # fmt: skip


def around(options: argparse.Namespace) -> Iterator[Row]:
    """What is done around the network: on one that costs nothing."""
    found = peers("lime", "captum.attr")
    x, cheap = demo_data().x[1:2], Cheap().eval()
    regions, quick = views.cut(x, Bounds()).labels[0], wrap(cheap)
    view, n = Image(regions=regions), options.samples

    def ours() -> np.ndarray:
        return by_part(lime(quick, x, 0, view=view, samples=n))

    if "lime" in found:
        theirs: Callable[[], Any] = lambda: lime_of(cheap, x[0], regions, n, 10)  # noqa: E731
        yield Row(f"LIME without the network, {n} samples", "lime", theirs, ours, 0.4, ranks)
    if "captum" in found:
        theirs = lambda: captum_lime(cheap, x, regions, n)  # noqa: E731
        yield Row(f"LIME without the network, {n} samples", "Captum", theirs, ours, 0.4)


def by_part(explained: Attribution, size: bool = False) -> np.ndarray:
    """Returns the weight of each part; ``size`` where each cell has a share of it."""
    labels, values = explained.extras["parts"].flatten(), explained.values.flatten().double()
    total = torch.zeros(PARTS, dtype=torch.double).index_add(0, labels, values)
    return (total if size else total / labels.bincount(minlength=PARTS)).numpy()


def ranks(theirs: Any, ours: Any) -> str:
    """Returns how alike two answers are in rank."""
    from scipy.stats import spearmanr

    one, other = (np.asarray(each, float).ravel() for each in (theirs, ours))
    return f"rank correlation {spearmanr(one, other).statistic:.2f}"


class Bent(nn.Module):
    """Scores of 7 x 7 pixels, a pixel a part: effects of one part, of pairs, and a bend."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = nn.Parameter(torch.randn(PARTS, 24, generator=generator, dtype=torch.float64) / 3)
        self.second = nn.Parameter(torch.randn(24, 2, generator=generator, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return (x.mean(1).flatten(1) @ self.first).tanh() @ self.second


def accuracy(options: argparse.Namespace) -> Iterator[Row]:
    """Errors against the answer of very many samples, over networks and seeds."""
    regions, x = torch.arange(PARTS).reshape(7, 7), torch.ones(1, 3, 7, 7, dtype=torch.float64)
    fixed: dict[str, Any] = {"view": Image(regions=regions), "baseline": "black"}
    nets = [Bent(seed).eval() for seed in range(options.seeds)]
    many = {"samples": 1 << 16, "seed": 999}

    def game_of(net: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
        def game(masks: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return net(torch.from_numpy(masks).reshape(-1, 1, 7, 7).expand(-1, 3, -1, -1))[:, 0].numpy()

        return game

    def all_of(method: Callable[[int, nn.Module], np.ndarray]) -> Callable[[], np.ndarray]:
        return lambda: np.stack([method(seed, net) for seed, net in enumerate(nets)])

    def ours(method: Any, samples: int) -> Callable[[], np.ndarray]:
        return all_of(lambda seed, net: method(net, x, 0, samples=samples, seed=seed, **fixed).values.flatten().numpy())

    def errors(truth: np.ndarray) -> Callable[[Any, Any], str]:
        def of(found: np.ndarray) -> float:
            return np.sqrt(np.mean((np.linalg.norm(found - truth, axis=1) / np.linalg.norm(truth, axis=1)) ** 2))

        return lambda theirs, ours: f"errors {of(theirs):.3f} / {of(ours):.3f}"

    def truth(method: Any) -> np.ndarray:
        return np.stack([method(net, x, 0, **many, **fixed).values.flatten().numpy() for net in nets])

    found = peers("lime", "shap")
    if "lime" in found:
        said = errors(truth(lime))
        for theirs, mine in ((320, 256), (1000, 1000)):
            yield Row(
                f"LIME's error, {options.seeds} networks", f"lime at {theirs}, ours at {mine}",
                all_of(lambda seed, net, n=theirs: lime_of(net, x[0], regions, n, 512, seed, 0)),
                ours(lime, mine), 1.0, said,
            )  # fmt: skip
    if "shap" in found:
        yield Row(
            f"Kernel SHAP's error, {options.seeds} networks", "shap, both at 500",
            all_of(lambda seed, net: shap_of(game_of(net), PARTS, 500, seed)), ours(kernel_shap, 500), 1.0,
            errors(truth(kernel_shap)),
            "a call of a network that costs nothing: what it checks and reports is in it",
        )  # fmt: skip


def forest(rows: int) -> tuple[Any, Adapter, Tensor, Tensor]:
    """Returns a random forest on the Adult table, bare and wrapped, 2,000 rows it knows, and some it does not."""
    from sklearn.ensemble import RandomForestClassifier

    with gzip.open(DATA / "adult.csv.gz", "rt") as file:
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

    model = wrap(trees.predict_proba, bounds=(x.min(), x.max()), classes=2, arrays="numpy")
    return trees, model, torch.from_numpy(x[known][:2000]), torch.from_numpy(x[~known][:rows])


def tables(options: argparse.Namespace) -> Iterator[Row]:
    """LIME and Anchors on the Adult table and a random forest of 100 trees, all rows one after another."""
    found = peers("lime.lime_tabular", "anchor.anchor_base", "alibi.explainers")
    trees, model, background, x = forest(options.rows)
    names = [f"column {i}" for i in range(x.shape[1])]
    if "lime" in found:
        from lime.lime_tabular import LimeTabularExplainer

        explainer = LimeTabularExplainer(background.numpy(), feature_names=names, random_state=0)

        def theirs() -> np.ndarray:
            rows = [
                explainer.explain_instance(row, trees.predict_proba, num_features=99).local_exp[1] for row in x.numpy()
            ]
            return np.array([[weight for _, weight in sorted(row)] for row in rows])

        def ours() -> np.ndarray:
            view = Table(background, bins=4)
            return lime(model, x, 1, view=view, samples=5000, output="probability").values.numpy()

        yield Row(f"LIME, 5,000 samples, {len(x)} rows of Adult", "lime", theirs, ours, 1.0, ranks)
    labels = wrap(trees.predict, bounds=(float(x.min()), float(x.max())), classes=2, arrays="numpy", access="labels")
    view = Table(background, bins=4)

    def rules(beam: int) -> Callable[[], Any]:
        return lambda: _ours(labels, x, view, beam)

    def said(theirs: list[Any], ours: list[Any]) -> str:
        cells = [[f"{each:.3g}" for each in np.mean(side, 0)] for side in (theirs, ours)]
        heads = ("draws a row", "precision", "coverage", "length")
        return "; ".join(f"{head} {a} / {b}" for head, a, b in zip(heads, *cells, strict=True))

    if "alibi" in found:
        asked = 0

        def counted(batch: np.ndarray) -> np.ndarray:
            nonlocal asked
            asked += len(batch)
            return trees.predict(batch)

        anchor = found["alibi"].AnchorTabular(counted, names, seed=0)
        anchor.fit(background.numpy(), disc_perc=(25, 50, 75))

        def of_alibi() -> list[tuple[float, ...]]:
            nonlocal asked
            facts = []
            for row in x.numpy():
                asked = 0
                rule = anchor.explain(row, threshold=0.95)
                facts.append((asked, rule.precision, rule.coverage, len(rule.anchor)))
            return facts

        yield Row(f"Anchors, {len(x)} rows of Adult", "alibi", of_alibi, rules(1), 1.0, said)
    for beam in (1, 4):
        if "anchor" in found:
            yield Row(
                f"Anchors, beam {beam}, {len(x)} rows of Adult", "anchor",
                lambda beam=beam: _anchor(labels, x, view, beam), rules(beam), 1.0, said,
            )  # fmt: skip


def _ours(model: Adapter, x: Tensor, view: Table, beam: int) -> list[tuple[float, ...]]:
    found = anchors(model, x, view=view, beam=beam)
    spent = torch.full((len(x),), found.cost.forward / len(x))
    columns = (spent, found.extras["precision"], found.extras["coverage"], found.values.sum(1))
    return list(zip(*(column.tolist() for column in columns), strict=True))


def _anchor(model: Adapter, x: Tensor, view: Table, beam: int) -> list[tuple[float, ...]]:
    """What anchor finds with our draws. It takes ``beam_size`` and leaves it at 1 in its own tabular explainer."""
    from anchor.anchor_base import AnchorBaseBeam

    parts, label = views.cut(x, model.bounds, view), model.labels(x)
    random, facts = np.random.default_rng(0), []
    for at in range(len(x)):
        drawn, row = 0, torch.tensor([at])

        def sample(present: list[int], count: int, compute_labels: bool = True, row: Tensor = row) -> tuple[Any, ...]:
            nonlocal drawn
            keep = torch.zeros(1, count, x.shape[1], dtype=torch.bool)
            keep[..., present] = True
            raw = parts.masked(keep, row, torch.from_numpy(random.integers(0, 1 << 30, size=(1, count))))
            held = np.zeros(count)
            if compute_labels:
                drawn += count
                held = (model.labels(raw) == label[row]).numpy().astype(float)
            return raw.numpy(), parts.alike(int(row), raw).numpy().astype(int), held

        rule = AnchorBaseBeam.anchor_beam(
            sample, delta=0.1, epsilon=0.15, batch_size=100, desired_confidence=0.95, beam_size=beam
        )
        long = len(rule["feature"])
        precise, covers = (rule["precision"][-1], rule["coverage"][-1]) if long else (rule["all_precision"], 1)
        facts.append((drawn, precise, covers, long))
    return facts


def renderer(options: argparse.Namespace) -> Iterator[Row]:
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

    yield Row(
        "smooth masks of 4 areas and their gradient", "every knot's share kept", plain,
        lambda: ours.pull(grid, ours.draw(grid), slope), 0.25,
        lambda theirs, ours: f"differ by {float((theirs - ours).abs().max() / theirs.abs().max()):.0e}",
    )  # fmt: skip
