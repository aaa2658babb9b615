"""What passive defences, their detectors and uncertainty are worth, and what they cost.

    python benchmarks/defences.py [--jobs mnist,photos,detect,random,cloak,unsure,cost] [--samples 1.0]

The naive number is of examples made on the bare model; the adaptive one of an attack through the defence. Needs the
shared data; photographs are EfficientNet-Lite0's, from the development set of an attack competition. One thread.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ironglass as ig
from ironglass.core.access import Query
from ironglass.core.draws import Draws, keys
from ironglass.core.statistics import wilson
from ironglass.core.values import Bounds
from ironglass.defend.input_randomization import patterns
from ironglass.ops import squeeze
from subjects import DATA, peers

sys.path.insert(0, str(DATA / "loaders"))


def digits() -> tuple[ig.Adapter, Tensor, Tensor]:
    net, _ = importlib.import_module("seqnet").load(DATA / "models" / "mnist_conv_small_nat.npz")
    x, y = importlib.import_module("ready").mnist("dev")
    return ig.wrap(net, name="mnist_conv_small_nat"), torch.tensor(x).float()[:, None] / 255, torch.tensor(y).long()


def photos() -> tuple[ig.Adapter, Tensor, Tensor]:
    from ironglass.models.demo import demo_model

    loader = importlib.import_module("imagenet")
    images, labels, _, _ = loader.load("dev")
    net = demo_model(mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    return net, loader.batch(images, 224), torch.tensor(labels).long()


def accuracy(model: ig.Adapter, x: Tensor, y: Tensor) -> str:
    right = int((model.labels(x) == y).sum())
    low, high = wilson(right, len(y))
    return f"{right / len(y):.1%} [{100 * low:.1f}, {100 * high:.1f}]"


def show(study: ig.Study) -> None:
    table = study.table()
    print(f"\n{table.caption}; {study.cost.forward:,} + {study.cost.backward:,} passes, {study.cost.seconds:.0f} s")
    for row in (table.columns, *table.rows):
        print("| " + " | ".join(row) + " |")


def mean_row(study: ig.Study, skip: tuple[str, ...] = ("no attack", "worst case")) -> None:
    kept = [i for i, name in enumerate(study.row_names) if not name.endswith(skip)]
    print("mean over the attacks:", ", ".join(f"{float(v):.1%}" for v in study.values[kept].mean(0)))


def part(x: Tensor, y: Tensor, count: int) -> tuple[Tensor, Tensor]:
    return x[:count], y[:count]


def job_mnist(scale: float) -> None:
    net, x, y = digits()
    models = {
        "1 bit": ig.defend.feature_squeezing(net, bits=1),
        "median 2": ig.defend.feature_squeezing(net, bits=None, median=2),
    }
    for name, model in {"undefended": net, **models}.items():
        print(f"{name}: legitimate accuracy {accuracy(model, x, y)} of {len(y)}")
    few = part(x, y, int(200 * scale))
    attacks = (
        ig.attack.fgsm,
        ig.attack.bim.with_(step_size=0.06, steps=10),
        ig.attack.pgd,
        ig.attack.pgd.with_(loss="margin", restarts=5),
        ig.attack.auto_pgd.with_(steps=50),
        ig.attack.square.with_(max_queries=500),
    )
    for name, model in models.items():
        study = ig.metric.defence_report({name: model}, *few, ig.Linf(0.3), attacks=attacks)
        show(study)
        mean_row(study)
    show(ig.metric.defence_report({"1 bit": models["1 bit"]}, *few, ig.Linf(0.5), attacks=(ig.attack.pgd,)))
    l2 = (ig.attack.carlini_wagner, ig.attack.deepfool)
    show(ig.metric.defence_report(models, *part(x, y, int(100 * scale)), ig.L2(float("inf")), attacks=l2))


def job_photos(scale: float) -> None:
    net, x, y = photos()
    models = {
        "4 bits": ig.defend.feature_squeezing(net, bits=4),
        "median 2": ig.defend.feature_squeezing(net, bits=None, median=2),
    }
    for name, model in {"undefended": net, **models}.items():
        print(f"{name}: legitimate accuracy {accuracy(model, x, y)} of {len(y)}")
    few = part(x, y, int(50 * scale))
    attacks = (ig.attack.fgsm, ig.attack.pgd.with_(steps=10))
    for name, model in models.items():
        for eps in (1 / 255, 2 / 255) if name == "4 bits" else (2 / 255,):
            study = ig.metric.defence_report({name: model}, *few, ig.Linf(eps), attacks=attacks)
            show(study)
            mean_row(study)
    slow = ig.defend.feature_squeezing(net, bits=None, non_local=(11, 3, 4))
    some = part(x, y, int(100 * scale))
    print(f"non-local 11 3 4: legitimate accuracy {accuracy(slow, *some)}, undefended {accuracy(net, *some)}")
    only = {"4 bits": models["4 bits"]}
    l2 = (ig.attack.deepfool, ig.attack.ddn.with_(steps=30))
    show(ig.metric.defence_report(only, *part(x, y, int(20 * scale)), ig.L2(float("inf")), attacks=l2))


def job_detect(scale: float) -> None:
    net, x, y = digits()
    detector = fitted(net, x, "mnist")
    few = part(x[2500:], y[2500:], int(200 * scale))
    attacks = (ig.attack.fgsm, ig.attack.pgd, ig.attack.bim.with_(step_size=0.06, steps=10))
    show(ig.metric.detection_report(detector, *few, ig.Linf(0.3), attacks=attacks))
    l2 = (ig.attack.carlini_wagner, ig.attack.deepfool)
    show(ig.metric.detection_report(detector, *part(*few, int(60 * scale)), ig.L2(float("inf")), attacks=l2))
    net, x, y = photos()
    detector = fitted(net, x, "imagenet")
    few = part(x[125:], y[125:], int(24 * scale))
    attacks = (ig.attack.fgsm, ig.attack.pgd.with_(steps=10))
    show(ig.metric.detection_report(detector, *few, ig.Linf(2 / 255), attacks=attacks))


def fitted(net: ig.Adapter, x: Tensor, squeezers: str) -> Any:
    """Fits on the first half, and says how many of the second half are flagged."""
    half = len(x) // 2
    detector = ig.defend.squeezing_detector(net, x[:half], squeezers=squeezers)
    held = detector.detect(x[half:])
    low, high = wilson(int(held.sum()), len(held))
    print(f"\n{detector!r}: held-out legitimate flagged {float(held.double().mean()):.2%}", end=" ")
    print(f"[{100 * low:.2f}, {100 * high:.2f}] of {len(held)}")
    return detector


def job_random(scale: float) -> None:
    print(
        f"\npatterns of a picture of 299 pixels: {patterns(299):,}; of the contest entry: {patterns(299, 310 / 299):,}"
    )
    net, x, y = photos()
    options = {"one draw": {"samples": 1}, "mean of 10 draws": {"samples": 10}}
    models = {name: ig.defend.input_randomization(net, **each) for name, each in options.items()}
    models["30 passes, flips"] = ig.defend.input_randomization(net, passes=30, flips=True, samples=30)
    for name in ("one draw", "30 passes, flips"):
        some = part(x, y, int(50 * scale) if name != "one draw" else len(x))
        print(f"{name}: legitimate accuracy {accuracy(models[name], *some)} of {len(some[1])}")
    print(f"undefended {accuracy(net, x, y)}")
    few = part(x, y, int(24 * scale))
    pgd = ig.attack.pgd.with_(steps=10)
    del models["30 passes, flips"]
    show(ig.metric.defence_report(models, *few, ig.Linf(2 / 255), attacks=(pgd,)))
    net, x, y = digits()
    models = {
        name: ig.defend.input_randomization(net, smallest=0.9, largest=1.0, **each) for name, each in options.items()
    }
    models["mean of 30 draws"] = ig.defend.input_randomization(net, smallest=0.9, largest=1.0)
    before, after = accuracy(net, x, y), accuracy(models["one draw"], x, y)
    print(f"digits, sizes 25 to 27: legitimate accuracy {after}, undefended {before}")
    few = part(x, y, int(100 * scale))
    show(ig.metric.defence_report(models, *few, ig.Linf(0.1), attacks=(ig.attack.pgd.with_(steps=20),)))


def job_cloak(scale: float) -> None:
    net, x, y = digits()
    fit = part(x, y, 1000)
    shares = (0.01, 0.03, 0.1, 0.3)
    models = {f"{share:.0%} masked": ig.defend.deepcloak(net, *fit, ig.Linf(0.1), share=share) for share in shares}
    few = x[1000 : 1000 + int(300 * scale)], y[1000 : 1000 + int(300 * scale)]
    show(ig.metric.defence_report(models, *few, ig.Linf(0.1), attacks=(ig.attack.fgsm, ig.attack.pgd)))


class Dropped(nn.Module):
    """A small network of the digits with dropout before its last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 16, 4, 2, 1), nn.Conv2d(16, 32, 4, 2, 1)
        self.third, self.last = nn.Linear(1568, 100), nn.Linear(100, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.second(F.relu(self.first(x)))).flatten(1)
        return self.last(F.dropout(F.relu(self.third(x)), 0.5, self.training))


def job_unsure(scale: float) -> None:
    data = np.load(DATA / "mnist.npz")
    x, y = torch.tensor(data["x_train"][:12000]).float()[:, None] / 255, torch.tensor(data["y_train"][:12000]).long()
    held, labels = (each[:1000] for each in digits()[1:])
    nets = []
    for seed in range(5):
        torch.manual_seed(seed)
        net = Dropped()
        optimizer = torch.optim.Adam(net.parameters(), 2e-3)
        for _ in range(2):
            for rows in torch.randperm(len(x)).split(128):
                optimizer.zero_grad()
                F.cross_entropy(net(x[rows]), y[rows]).backward()
                optimizer.step()
        nets.append(net.eval())
    show(ig.metric.calibration({"one network": nets[0], "ensemble of 5": ig.ensemble(nets)}, held, labels))
    few = part(held, labels, int(200 * scale))
    for name, model, explain in (
        ("dropout", nets[0], ig.explain.mc_dropout),
        ("ensemble", nets, ig.explain.deep_ensemble),
    ):
        bare = ig.ensemble(nets) if name == "ensemble" else model
        clean = explain(model, held)
        for attack in (ig.attack.fgsm, ig.attack.pgd):
            bad = attack(bare, *few, ig.Linf(0.15))
            study = ig.metric.uncertainty_quality(clean, labels, explain(model, bad.adversarial[bad.success]))
            print(f"\n{name}, {attack!r}, {bad.success_rate:.0%} fooled")
            show(study)
    detector = ig.defend.uncertainty_detector(nets[0], x[:2500], measure="total")
    show(ig.metric.detection_report(detector, *few, ig.Linf(0.15), attacks=(ig.attack.pgd,)))


def clock(run: Callable[[], Any], rounds: int = 3) -> float:
    run()
    times = []
    for _ in range(rounds):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return sorted(times)[rounds // 2]


def job_cost(scale: float) -> None:
    net, x, _ = photos()
    few = x[: int(16 * scale)]
    plain = clock(lambda: net.scores(few))
    print(f"\nscores of {len(few)} photographs: {plain:.3f} CPU s")
    for name, options in (
        ("4 bits", {"bits": 4}),
        ("median 2", {"bits": None, "median": 2}),
        ("median 3", {"bits": None, "median": 3}),
        ("non-local 11 3 4", {"bits": None, "non_local": (11, 3, 4)}),
    ):
        model = ig.defend.feature_squeezing(net, **options)
        print(f"  {name}: {clock(lambda model=model: model.scores(few)) / plain:.2f} x")
    draws = Draws(keys(few), 0)
    resized = clock(lambda: ig.defend.input_randomization.raw(few, Query(Bounds(), draws)))
    print(f"  resize and pad, a draw a sample: {resized / plain:.3f} x")
    unsure = clock(lambda: ig.explain.mc_dropout(net, few, samples=50, rate=0.2), 1) if _drops(net, few) else None
    if unsure is not None:
        print(f"  50 draws of dropout: {unsure / plain:.2f} x, one by one at least 50 x")
    _peers(few)


def _drops(net: ig.Adapter, x: Tensor) -> bool:
    try:
        ig.explain.mc_dropout(net, x[:1], samples=2)
    except ig.core.errors.InputError:
        return False
    return True


def _peers(x: Tensor) -> None:
    found = peers("scipy.ndimage", "skimage.restoration", "cv2", "art.defences.preprocessor")
    arrays = x.numpy()
    rows: list[tuple[str, float]] = []
    for size in (2, 3):
        rows.append((f"median {size}, ours", clock(lambda size=size: squeeze.median(x, size))))
        if "scipy" in found:
            from scipy.ndimage import median_filter

            window = (1, 1, size, size)
            rows.append((f"median {size}, SciPy", clock(lambda window=window: median_filter(arrays, size=window))))
            ours, theirs = squeeze.median(x, size), torch.tensor(median_filter(arrays, size=window))
            print(f"  median {size}: differs from SciPy in {int((ours != theirs).sum())} values")
    rows.append(("non-local 11 3 4, ours", clock(lambda: squeeze.denoise(x, 11, 3, 4, Bounds()))))
    if "cv2" in found:
        cv2 = found["cv2"]
        eight = [np.ascontiguousarray((a.transpose(1, 2, 0)[..., ::-1] * 255).round().astype(np.uint8)) for a in arrays]
        rows.append(
            ("non-local, OpenCV", clock(lambda: [cv2.fastNlMeansDenoisingColored(a, None, 4, 4, 3, 11) for a in eight]))
        )
        one = cv2.fastNlMeansDenoisingColored(eight[0], None, 4, 4, 3, 11)[..., ::-1].astype(np.float32)
        there = torch.tensor(eight[0][..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255
        ours = squeeze.denoise(there, 11, 3, 4, Bounds())[0].permute(1, 2, 0).numpy() * 255
        print(f"  non-local: mean difference from OpenCV {np.abs(ours - one).mean():.2f} levels of 255")
    if "skimage" in found:
        from skimage.restoration import denoise_nl_means

        options = {"patch_size": 3, "patch_distance": 5, "h": 4 / 255, "fast_mode": True, "channel_axis": 0}
        theirs_too = clock(lambda: [denoise_nl_means(a, **options) for a in arrays], 1)
        rows.append(("non-local in RGB, scikit-image", theirs_too))
    if "art" in found:
        squeezer = found["art"]
        rows.append(("4 bits, ART", clock(lambda: squeezer.FeatureSqueezing(clip_values=(0, 1), bit_depth=4)(arrays))))
        smoother = squeezer.SpatialSmoothing(window_size=2, channels_first=True, clip_values=(0, 1))
        rows.append(("median 2, ART", clock(lambda: smoother(arrays))))
    rows.append(("4 bits, ours", clock(lambda: squeeze.reduce_bits(x, 4, Bounds()))))
    for name, seconds in rows:
        print(f"  {name}: {1000 * seconds / len(x):.2f} CPU ms a photograph")


JOBS = {
    "mnist": job_mnist,
    "photos": job_photos,
    "detect": job_detect,
    "random": job_random,
    "cloak": job_cloak,
    "unsure": job_unsure,
    "cost": job_cost,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--jobs", default=",".join(JOBS))
    parser.add_argument("--samples", type=float, default=1.0, help="of the sample sizes")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.jobs.split(","):
        start = time.process_time()
        print(f"\n## {name}")
        JOBS[name](given.samples)
        print(f"({time.process_time() - start:.0f} CPU s)")


if __name__ == "__main__":
    main()
